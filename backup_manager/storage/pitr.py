"""The two storages of a restore to a point in time: the log, and the base snapshot with credentials of its own.

br reads one set of options and one environment for both, and an option in either URL stays for the other one. So when the two
differ, each URL says everything, empty values included. Credentials go into a URL, which is then a secret, only for the side
that the environment cannot serve; the Job brings the base's in variables that begin with ``FULL_BACKUP_``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from backup_manager.errors import UsageError
from backup_manager.storage.settings import AzureSettings, S3Settings
from backup_manager.storage.tool_urls import ToolStorage, for_br, with_query
from crds.contract.paths import Location, Provider, provider_of

PREFIX: Final = "FULL_BACKUP_"
_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_OF_A_STORAGE: Final = frozenset(
    {
        *_KEYS,
        *("S3_PROVIDER", "S3_ENDPOINT", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACL", "AWS_STORAGE_CLASS"),
        *("GCS_PROJECT_ID", "GCS_OBJECT_ACL", "GCS_BUCKET_ACL", "GCS_LOCATION", "GCS_STORAGE_CLASS"),
        *("GCS_SERVICE_ACCOUNT_JSON_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
        *("AZURE_ACCESS_TIER", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"),
        *("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"),
    }
)
"""What the hook sets for a storage. What the platform sets for the Pod (a role, a workload identity) serves both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStorage:
    """*log* is the log's storage as br is told it; *base_url* goes to ``--full-backup-storage``."""

    log: ToolStorage
    base_url: str = field(default="", repr=False)


def base_environment(env: Mapping[str, str]) -> Mapping[str, str]:
    """The environment as the base's storage has it; the log's own when the Job brings nothing else."""
    given = {name.removeprefix(PREFIX): value for name, value in env.items() if name.startswith(PREFIX)}
    return {**{name: value for name, value in env.items() if name not in _OF_A_STORAGE}, **given} if given else env


def resolve_pitr_storages(
    spec: Mapping[str, Any],
    log: Location,
    base_spec: Mapping[str, Any],
    base: Location,
    *,
    env: Mapping[str, str],
    scratch: Path,
) -> PointStorage:
    """What br is told of both. Raises UsageError when it cannot be told two such storages at once."""
    theirs = base_environment(env)
    folder = scratch if theirs is env else scratch / "base"
    folder.mkdir(exist_ok=True)
    first = for_br(spec, log, env=env, scratch=scratch)
    second = for_br(base_spec, base, env=theirs, scratch=folder)
    if log.provider is not base.provider:  # their options and variables have different names
        added = {name: value for name, value in theirs.items() if name in _OF_A_STORAGE and name not in env}
        told = replace(first, flags=[*first.flags, *second.flags], env={**added, **second.env, **first.env})
        return PointStorage(log=_secret(told, second), base_url=second.url)
    ours, its = _explicit(log.provider, spec, env, first), _explicit(log.provider, base_spec, theirs, second)
    if ours == its:
        return PointStorage(log=_secret(first, second), base_url=second.url)
    if log.provider is Provider.AZBLOB and _application(spec, env) != _application(base_spec, theirs):
        raise UsageError(
            "br cannot use two Azure applications at once",
            hint="Give the base snapshot a sasToken, a Secret with AZURE_STORAGE_KEY, or the log's application.",
        )
    return _told_apart(first, second, ours, its)


def _told_apart(first: ToolStorage, second: ToolStorage, ours: Mapping[str, str], its: Mapping[str, str]) -> PointStorage:
    """Both URLs with everything in them. The log's keys stay in the environment, unless the base has none of its own."""
    secret = {name for name in _SECRET_OPTIONS if name in ours}
    env = dict(first.env)
    if all(its[name] == ours[name] for name in secret):
        told, its = ({**given, **dict.fromkeys(secret, "")} for given in (ours, its))
    elif not any(its.get(name) for name in secret) and any(ours.get(name) for name in secret):
        told, env = dict(ours), {**env, **dict.fromkeys((*_KEYS, "AZURE_STORAGE_KEY"), "")}
    else:
        told = {**ours, **dict.fromkeys(secret, "")}
    hidden = [value for given in (told, its) for name, value in given.items() if name in {*secret, "sas-token"} and value]
    log = ToolStorage(
        url=with_query(first.url, told), flags=first.flags, env=env, secrets=[*first.secrets, *second.secrets, *hidden]
    )
    return PointStorage(log=log, base_url=with_query(second.url, its))


_SECRET_OPTIONS: Final = ("access-key", "secret-access-key", "session-token", "account-key")
"""Those that br finds in the environment too; a SAS token it takes in the URL only."""


def _explicit(provider: Provider, spec: Mapping[str, Any], env: Mapping[str, str], told: ToolStorage) -> dict[str, str]:
    """Everything that decides how one side is read, by br's names."""
    storage = (spec.get(provider) or {}) if provider_of(spec) is provider else {}
    if provider is Provider.S3:
        s3 = S3Settings.of(storage, env)
        keys = {"access-key": s3.access_key, "secret-access-key": s3.secret_key, "session-token": s3.session_token}
        style = {"force-path-style": str(s3.path_style).lower()}
        return {"endpoint": s3.endpoint, "region": s3.region, "provider": s3.provider, **style, **keys}
    if provider is Provider.GCS:
        file = told.env.get("GOOGLE_APPLICATION_CREDENTIALS") or env.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        return {"credentials-file": file}
    if provider is Provider.AZBLOB:
        azure = AzureSettings.of(storage, env)
        return {"account-name": azure.account, "account-key": azure.account_key, "sas-token": azure.sas_token}
    return {}


def _application(spec: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, str, str]:
    azure = AzureSettings.of(spec.get(Provider.AZBLOB) or {}, env)
    return azure.tenant_id, azure.client_id, azure.client_secret


def _secret(told: ToolStorage, other: ToolStorage) -> ToolStorage:
    return replace(told, secrets=[*told.secrets, *other.secrets])
