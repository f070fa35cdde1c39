"""Which Backup, Restore and CompactBackup can work, and whether they can start now.

:func:`admit` is asked before any Job is made, a retry's included, and never once a run has ended: an edited spec is judged
anew. First comes what the schema knows (types, names, enums, rules between fields), then the ladder of TiDB Operator 1.6 in its
words and order. What that does not check (Azure, local volumes and the storage of exports) is checked here, and what it needs
and we do not (``storageSize``) is not.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from app.domain import cluster as clusters
from app.domain.cluster import Cluster
from app.domain.config import Config
from app.domain.observed import Observed, metadata
from app.domain.status import Phase, StatusBuilder
from app.domain.times import edited_at
from crds.contract import names
from crds.contract.paths import PathError, Provider, location_of, provider_of, reserved_part, without_user
from crds.contract.versions import at_least, split_image
from crds.v1alpha1 import spec_problems

_TYPES: Final = ("", "full", "db", "table")
_NEEDS_DATABASE: Final = "v4.0.8-0"
"""Older br cannot change the GC life time by itself."""
_HAS_LOG_BACKUP: Final = "v6.1.0-0"
_LOG_FIELDS: Final = ("logSubcommand", "logStop", "logTruncateUntil")
_LABEL: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Whether a Job may be made now: neither *invalid* (the rule) nor *waiting* (reason and message) is set."""

    cluster: Cluster | None = None
    invalid: str = ""
    waiting: tuple[str, str] | None = None


def admit(kind: str, observed: Observed, config: Config) -> Admission:
    """Judge the spec of the observed CR of *kind*, then its cluster."""
    spec, where = observed.spec, f"{observed.namespace}/{observed.name}"
    if problem := spec_problem(kind, observed):
        return Admission(invalid=problem)
    if not spec.get("br"):
        return Admission()
    cluster = clusters.find(observed, config)
    if cluster is None:
        name = "/".join(clusters.named(spec, observed.namespace) or ())
        hint = f"of one outside of Kubernetes give the address of PD by annotation {names.PD_ADDR_ANNOTATION}"
        return Admission(waiting=("ClusterNotFound", f"TidbCluster {name} (spec.br.cluster) not found; {hint}"))
    if not cluster.ready:
        return Admission(waiting=("ClusterNotReady", f"TidbCluster {cluster.namespace}/{cluster.name} is not Ready"))
    if problem := next(_against_cluster(kind, spec, where, cluster), ""):
        return Admission(invalid=problem)
    return Admission(cluster=cluster)


def spec_problem(kind: str, observed: Observed) -> str:
    """The first rule that the spec breaks by itself, whatever its cluster; empty for none."""
    return next(_problems(kind, observed.spec, f"{observed.namespace}/{observed.name}"), "")


def hold(builder: StatusBuilder, observed: Observed, admission: Admission, *, move: bool = True) -> bool:
    """Write into *builder* what keeps a Job from being made; False when nothing does. With *move* False the phase stays: a
    running log backup does not stop running because its next command has to wait."""
    note = builder.enter if move else builder.mark
    at, generation = edited_at(observed.parent), metadata(observed.parent).get("generation")
    if admission.invalid:
        note(Phase.INVALID, at=at, reason="InvalidSpec", message=admission.invalid, generation=generation)
    elif admission.waiting:
        reason, message = admission.waiting
        note(Phase.WAITING, at=at, reason=reason, message=message, generation=generation)
    else:
        builder.leave_passing_phase()
        return False
    return True


def _problems(kind: str, spec: Mapping[str, Any], where: str) -> Iterator[str]:
    """Every rule that *spec* breaks without looking at its cluster, in the order of the operator."""
    for problem in spec_problems(kind, spec):
        yield f"{problem.field}: {problem.rule}"
    mode = spec.get("restoreMode" if kind == "Restore" else "backupMode") or "snapshot"
    if mode == "volume-snapshot":
        yield f"volume-snapshot in {where} is not served: it is deprecated upstream and gone in its v2; use snapshot"
    if kind == "Backup":
        yield from _of_a_log(spec, where)
    yield from _database_or_br(kind, spec, where)
    if full := spec.get("pitrFullBackupStorageProvider"):
        yield from _storage(full, f"{where}, pitrFullBackupStorageProvider")
        yield from _two_volumes(spec.get("local") or {}, full.get("local") or {}, where)
    yield from _storage(spec, where, archive=kind == "Restore" and not spec.get("br"))
    yield from _retry_policy(spec, where)
    yield from _clean_policy(kind, spec, where)
    yield from _reserved_prefix(kind, spec, where)
    yield from _service_account(spec)


def _of_a_log(spec: Mapping[str, Any], where: str) -> Iterator[str]:
    """Upstream passes over fields that do not go with the mode; what was meant by them would not happen."""
    if spec.get("backupMode") != "log":
        for field in _LOG_FIELDS:
            if spec.get(field):
                yield f"spec.{field} of {where} is of a log backup: set backupMode: log, or remove it"
    elif (what := str(spec.get("backupType") or "")) in {"db", "table"}:
        yield f"backupType {what} of {where}: a log backup is of the whole cluster; remove it, and choose by tableFilter"


def _access(spec: Mapping[str, Any], field: str, where: str) -> Iterator[str]:
    access = spec.get(field) or {}
    if not access.get("host"):
        yield f"missing cluster config in spec of {where}: set spec.{field}.host"
    if not access.get("secretName"):
        yield f"missing tidbSecretName config in spec of {where}: set spec.{field}.secretName"


def _database_or_br(kind: str, spec: Mapping[str, Any], where: str) -> Iterator[str]:
    br, field = spec.get("br"), "to" if kind == "Restore" else "from"
    if br is None:
        if kind == "CompactBackup" or spec.get("backupMode") == "log" or spec.get("restoreMode") == "pitr":
            yield f"missing spec.br in {where}: this mode works through br"
        else:
            yield from _access(spec, field, where)
        return
    if not br.get("cluster"):
        outside = f"of one outside of Kubernetes any name, with annotation {names.PD_ADDR_ANNOTATION}"
        yield f"cluster should be configured for BR in spec of {where}: set spec.br.cluster ({outside})"
    if kind == "CompactBackup":
        return
    if (what := str(spec.get("backupType") or "")) not in _TYPES:
        yield f"invalid backup type {what} for BR in spec of {where}; use full, db or table"


def _storage(spec: Mapping[str, Any], where: str, *, archive: bool = False) -> Iterator[str]:
    """*archive*: an import may name its source in ``path`` instead of bucket and prefix."""
    provider = provider_of(spec)
    if provider is None:
        yield f"no storage in spec of {where}: set one of s3, gcs, azblob, local"
        return
    storage: Mapping[str, Any] = spec[provider]
    if provider in _PROVIDERS:
        yield from _PROVIDERS[provider](storage, where)
    if archive and storage.get("path"):
        return
    try:
        location_of(spec)
    except PathError as error:
        yield f"spec.{error}"


def _s3(storage: Mapping[str, Any], where: str) -> Iterator[str]:
    if not storage.get("bucket") and not storage.get("path"):
        yield f"bucket should be configured for BR in spec of {where}: set spec.s3.bucket"
    endpoint = without_user(str(storage.get("endpoint") or ""))
    if not endpoint:
        return
    ceph = storage.get("provider") == "ceph"
    try:
        url = urlsplit(f"http://{endpoint}" if ceph and "://" not in endpoint else endpoint)
    except ValueError:
        yield f"invalid endpoint {endpoint} in spec.s3 of {where}"
        return
    if not url.scheme or ("://" not in endpoint and not ceph):
        yield f"scheme not found in endpoint {endpoint} in spec.s3 of {where}; write it like https://host:port"
    elif not url.hostname:
        yield f"host not found in endpoint {endpoint} in spec.s3 of {where}"
    elif ceph and url.scheme != "http":
        yield f"InvalidS3Endpoint: the endpoint of provider ceph must start with http:// in spec.s3 of {where}"


def _gcs(storage: Mapping[str, Any], where: str) -> Iterator[str]:
    if not storage.get("projectId"):
        yield f"projectId should be configured for BR in spec of {where}: set spec.gcs.projectId"
    if not storage.get("bucket") and not storage.get("path"):
        yield f"bucket should be configured for BR in spec of {where}: set spec.gcs.bucket"


def _azblob(storage: Mapping[str, Any], where: str) -> Iterator[str]:
    if not storage.get("container") and not storage.get("path"):
        yield f"container should be configured for BR in spec of {where}: set spec.azblob.container"
    if not storage.get("storageAccount") and (storage.get("sasToken") or not storage.get("secretName")):
        yield f"storage account should be configured in spec of {where}: set spec.azblob.storageAccount, or secretName"


_PROVIDERS: Final[Mapping[Provider, Callable[[Mapping[str, Any], str], Iterator[str]]]] = {
    Provider.S3: _s3,
    Provider.GCS: _gcs,
    Provider.AZBLOB: _azblob,
}


def _two_volumes(log: Mapping[str, Any], full: Mapping[str, Any], where: str) -> Iterator[str]:
    """The volumes of the log and of its snapshot are mounted into one Pod."""
    if not log or not full or (log["volume"], log["volumeMount"]) == (full["volume"], full["volumeMount"]):
        return
    if log["volume"]["name"] == full["volume"]["name"] and log["volume"] != full["volume"]:
        yield f"local and pitrFullBackupStorageProvider.local of {where} are two volumes of one name: rename one"
    if log["volumeMount"]["mountPath"].rstrip("/") == full["volumeMount"]["mountPath"].rstrip("/"):
        yield f"local and pitrFullBackupStorageProvider.local of {where} differ but have one mountPath: set another one"


def _retry_policy(spec: Mapping[str, Any], where: str) -> Iterator[str]:
    for field in ("minRetryDuration", "retryTimeout"):
        if str((spec.get("backoffRetryPolicy") or {}).get(field) or "").startswith("-"):
            yield f"spec.backoffRetryPolicy.{field} must not be negative in {where}"


def _clean_policy(kind: str, spec: Mapping[str, Any], where: str) -> Iterator[str]:
    """A clean of a whole bucket is refused later; better said before the data is there."""
    if kind != "Backup" or not spec.get("br") or (spec.get("cleanPolicy") or "Retain") == "Retain":
        return
    try:
        whole = not location_of(spec).prefix
    except PathError:
        return
    if whole:
        provider = provider_of(spec)
        yield (
            f"cleanPolicy {spec['cleanPolicy']} of {where} would empty the whole bucket when the Backup is deleted: "
            f"set spec.{provider}.prefix, or cleanPolicy Retain"
        )


def _reserved_prefix(kind: str, spec: Mapping[str, Any], where: str) -> Iterator[str]:
    """Data under a name of our own records would overwrite them, or be deleted with them."""
    if kind != "Backup":
        return
    try:
        prefix = location_of(spec).prefix
    except PathError:
        return
    # An export has a folder of its own inside the prefix, so only br's data lies in what is named here.
    if part := reserved_part(prefix, archive=bool(spec.get("br"))):
        yield (
            f"spec.{provider_of(spec)}.prefix of {where} has the part {part!r}, which is reserved for the records beside "
            "backups: choose another prefix"
        )


def _service_account(spec: Mapping[str, Any]) -> Iterator[str]:
    account = str(spec.get("serviceAccount") or "")
    if account and not _is_dns_name(account):
        yield f"spec.serviceAccount {account!r} is no name of a ServiceAccount: lower-case letters, digits, '-' and '.'"


def _is_dns_name(text: str) -> bool:
    return len(text) <= 253 and all(
        part and set(part) <= _LABEL and not part.startswith("-") and not part.endswith("-") for part in text.split(".")
    )


def _against_cluster(kind: str, spec: Mapping[str, Any], where: str, cluster: Cluster) -> Iterator[str]:
    """The rules that depend on the cluster's version. A version that is none (nightly) counts as new."""
    if kind != "CompactBackup" and not at_least(cluster.version, _NEEDS_DATABASE):
        yield from _access(spec, "to" if kind == "Restore" else "from", where)
    if spec.get("backupMode") == "log" and not at_least(cluster.version, _HAS_LOG_BACKUP):
        yield f"log backup in {where} needs TiKV v6.1.0 or newer, not {cluster.version}"
    if not cluster.version:
        yield from _unpinned(kind, spec, where, cluster)


def _unpinned(kind: str, spec: Mapping[str, Any], where: str, cluster: Cluster) -> Iterator[str]:
    """Images that would be pulled as ``latest``, because no version is known that could be their tag."""
    why = "its TiKV image has no tag" if cluster.config_field else "no object in Kubernetes tells its version"
    whose = f"fits cluster {cluster.namespace}/{cluster.name} ({why}) in {where}"
    if not split_image(str(spec.get("toolImage") or "")).pinned:
        yield f"nothing tells which br {whose}: set spec.toolImage with a tag"
    if kind == "CompactBackup" and not split_image(str(spec.get("tikvImage") or "")).pinned:
        # A br chosen by its digest alone has no tag that tikv-ctl could share.
        yield f"nothing tells which tikv-ctl {whose}: set spec.tikvImage with a tag, or a tag in spec.toolImage"
