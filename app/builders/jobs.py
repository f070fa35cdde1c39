"""The Job that an intent becomes: arguments in the order of TiDB Operator 1.6, so that scripts which read them keep working."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from app.builders.labels import annotations, labels
from app.builders.pods import pod_template
from app.builders.volumes import Tls, tls_of
from app.domain.config import Config
from app.domain.job.observed import JobIntent, Purpose
from app.domain.observed import Observed
from app.domain.recorded import as_recorded
from crds.contract.paths import PathError, Provider, location_of, provider_of

_PROVIDERS_WITH_PATH: Final = {Provider.S3: "s3", Provider.GCS: "gcs", Provider.AZBLOB: "azure"}
_COMPACT_RETRIES: Final = 6
_GC_RETRIES: Final = 3
_GC_SECONDS: Final = 900
"""The deletion of a CR waits for the GC life time that long at most, whatever keeps the Pod from starting."""
_REPLICATION_PHASES: Final = {"snapshot-restore": "1", "log-restore": "2"}
_FOR_EVER: Final = 2**31 - 1
_NEVER_REPEATED: Final = frozenset({Purpose.RESTORE, Purpose.IMPORT})
"""Their Jobs stay until their end is in the status, however long the webhook is down; then it deletes them."""


def build(observed: Observed, intent: JobIntent, config: Config) -> dict[str, Any]:
    """The Kubernetes Job."""
    observed = as_recorded(observed, intent.recorded)
    spec = observed.spec
    args = _ARGS[intent.purpose](observed, intent, tls_of(spec, intent))
    meta: dict[str, Any] = {
        "name": intent.name,
        "namespace": observed.namespace,
        "labels": labels(observed, intent),
        "annotations": annotations(observed, intent),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {key: value for key, value in meta.items() if value},
        "spec": {
            **_repetition(spec, intent),
            **({} if intent.purpose in _NEVER_REPEATED else {"ttlSecondsAfterFinished": config.job_ttl}),
            "template": pod_template(observed, intent, args, config),
        },
    }


def _repetition(spec: Mapping[str, Any], intent: JobIntent) -> dict[str, Any]:
    """How often Kubernetes itself repeats a Pod: never, except where the CR has a field for it."""
    if intent.purpose is Purpose.WATCH:
        return {"backoffLimit": _FOR_EVER}
    if intent.purpose is Purpose.GC_LIFE_TIME:
        return {"backoffLimit": _GC_RETRIES, "activeDeadlineSeconds": _GC_SECONDS}
    if intent.purpose is Purpose.RESTORE:
        return {"backoffLimit": int(spec.get("backoffLimit") or 0)}
    if intent.purpose is not Purpose.COMPACT:
        return {"backoffLimit": 0}
    retries, shards = spec.get("maxRetryTimes"), spec.get("shardCount")
    retries = _COMPACT_RETRIES if retries is None else int(retries)
    if spec.get("mode") != "sharded":
        return {"backoffLimit": retries}
    return {
        "completionMode": "Indexed",
        "completions": shards,
        "parallelism": shards,
        "backoffLimitPerIndex": retries,
        "maxFailedIndexes": shards,
    }


def _who(observed: Observed, flag: str) -> list[str]:
    return [f"--namespace={observed.namespace}", f"--{flag}={observed.name}"]


def _given(**flags: str) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value]


def _version(intent: JobIntent) -> list[str]:
    return [f"--tikvVersion={intent.cluster.version}"] if intent.cluster and intent.cluster.version else []


def _tls_flags(tls: Tls, intent: JobIntent) -> list[str]:
    flags = ["--cluster-tls=true"] if tls.cluster else []
    if tls.client:
        flags.append("--client-tls=true")
    if tls.skip_ca:
        flags.append("--skipClientCA=true")
    # A cluster of TiDB Operator v2 says where its PD is; v1's is known from its name.
    return [*flags, *(_given(pd_addr=intent.cluster.pd_addr) if intent.cluster else [])]


def _export(observed: Observed, intent: JobIntent, tls: Tls) -> list[str]:
    provider = provider_of(observed.spec)
    bucket = "" if provider is Provider.LOCAL else location_of(observed.spec).bucket
    args = ["export", *_who(observed, "backupName"), *_given(bucket=bucket, storageType=str(provider))]
    return [*args, "--client-tls=true"] if tls.client else args


def _backup(observed: Observed, intent: JobIntent, tls: Tls) -> list[str]:
    args = ["backup", *_who(observed, "backupName"), *_version(intent), "--mode=snapshot"]
    return [*args, *_tls_flags(tls, intent)]


def _log(observed: Observed, intent: JobIntent, tls: Tls) -> list[str]:
    start = str(observed.spec.get("commitTs") or "") if intent.command == "log-start" else ""
    args = ["backup", *_who(observed, "backupName"), *_version(intent), "--mode=log", f"--subcommand={intent.command}"]
    return [*args, *_given(commit_ts=start, truncate_until=intent.truncate_until), *_tls_flags(tls, intent)]


def _watch(observed: Observed, intent: JobIntent, tls: Tls) -> list[str]:
    return [intent.command, *_who(observed, "backupName"), *_version(intent), *_tls_flags(tls, intent)]


def _clean(observed: Observed, _intent: JobIntent, _tls: Tls) -> list[str]:
    return ["clean", *_who(observed, "backupName")]


def _gc_life_time(observed: Observed, _intent: JobIntent, tls: Tls) -> list[str]:
    args = ["gc-life-time", *_who(observed, "resourceName"), f"--kind={observed.parent.get('kind')}"]
    flags = (("--client-tls=true", bool(tls.client)), ("--skipClientCA=true", tls.skip_ca))
    return [*args, *(flag for flag, given in flags if given)]


def _import(observed: Observed, _intent: JobIntent, tls: Tls) -> list[str]:
    args = ["import", *_who(observed, "restoreName"), f"--backupPath={import_source(observed.spec)}"]
    return [*args, "--client-tls=true"] if tls.client else args


def import_source(spec: Mapping[str, Any]) -> str:
    """Where an import reads: the storage's ``path`` (an archive of TiDB Operator), else the folder of bucket and prefix.

    >>> import_source({"s3": {"bucket": "b", "prefix": "p"}}), import_source({"s3": {"path": "b/x.tgz"}})
    ('s3://b/p', 's3://b/x.tgz')
    """
    provider = provider_of(spec)
    scheme = _PROVIDERS_WITH_PATH.get(provider) if provider else None
    path = str(spec[provider].get("path") or "") if provider and scheme else ""
    if path:
        return path if path.startswith(f"{scheme}://") else f"{scheme}://{path.lstrip('/')}"
    try:
        return location_of(spec).url
    except PathError:
        return ""


def _restore(observed: Observed, intent: JobIntent, tls: Tls) -> list[str]:
    args = ["restore", *_who(observed, "restoreName")]
    if intent.purpose is Purpose.PRUNE:
        args.append("--abort=true")
    args += _version(intent)
    if observed.spec.get("restoreMode") == "pitr":
        args += ["--mode=pitr", *_given(pitrRestoredTs=str(observed.spec.get("pitrRestoredTs") or ""))]
    else:
        args.append("--mode=snapshot")
    return [*args, *_tls_flags(tls, intent), *_given(replicationPhase=_REPLICATION_PHASES.get(intent.command, ""))]


def _compact(observed: Observed, _intent: JobIntent, _tls: Tls) -> list[str]:
    return ["compact", *_who(observed, "resourceName")]


_ARGS: Final[Mapping[Purpose, Callable[[Observed, JobIntent, Tls], list[str]]]] = {
    Purpose.EXPORT: _export,
    Purpose.BACKUP: _backup,
    Purpose.LOG: _log,
    Purpose.WATCH: _watch,
    Purpose.CLEAN: _clean,
    Purpose.IMPORT: _import,
    Purpose.RESTORE: _restore,
    Purpose.PRUNE: _restore,
    Purpose.COMPACT: _compact,
    Purpose.GC_LIFE_TIME: _gc_life_time,
}
