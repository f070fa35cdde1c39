"""Environment of a manager's container, in the order of TiDB Operator 1.6: password, storage, ``BR_LOG_TO_TERM``, the CR's own
entries, ``TZ``; after them ours, which nothing may override.

Secrets are referenced, never read. Which of Azure's two ways a Secret supports cannot be known here, so their keys are optional
and the manager takes what it finds.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.domain.config import Config
from app.domain.job.observed import JobIntent, Purpose
from app.domain.observed import Observed
from crds.contract import identity, names
from crds.contract.paths import Provider, provider_of, without_user

Env = list[dict[str, Any]]

_LOG_TO_TERM: Final = "\x01"
"""What Go's ``string(rune(1))`` gives: the operator means "1" and writes this; br looks only whether it is set."""
_USES_BR: Final = frozenset({Purpose.BACKUP, Purpose.LOG, Purpose.RESTORE, Purpose.PRUNE})
_NO_PASSWORD: Final = frozenset({Purpose.CLEAN, Purpose.COMPACT, Purpose.WATCH})
_NO_STORAGE: Final = frozenset({Purpose.WATCH, Purpose.GC_LIFE_TIME})
"""They ask PD or TiDB and nothing else: what they do not need they do not get."""
_RESTORES: Final = frozenset({Purpose.RESTORE, Purpose.PRUNE})
_S3_DEFAULTS: Final = {"aws": {"acl": "private", "storageClass": "STANDARD_IA"}}
_AZURE_KEYS: Final = ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_STORAGE_KEY")


def environment(observed: Observed, intent: JobIntent, config: Config) -> Env:
    """The whole environment of the Job that *intent* describes."""
    spec = observed.spec
    place = [] if intent.purpose in _NO_STORAGE else storage(spec)
    env = [*_password(spec, intent), *place, *_full_backup(spec, intent)]
    if intent.purpose in _USES_BR:
        env.append(_literal("BR_LOG_TO_TERM", _LOG_TO_TERM))
    env = _overridden(env, spec.get("env") or [])
    if intent.purpose is not Purpose.COMPACT and "TZ" not in {entry.get("name") for entry in env}:
        env.append(_literal("TZ", config.time_zone))
    ours = _identity(observed, intent)
    reserved = {entry["name"] for entry in ours}
    return [*(entry for entry in env if entry.get("name") not in reserved), *ours]


def _literal(name: str, value: object) -> dict[str, Any]:
    return {"name": name, "value": "" if value is None else str(value)}


def _secret(name: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    reference = {"name": secret, "key": key, **({"optional": True} if optional else {})}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _password(spec: Mapping[str, Any], intent: JobIntent) -> Env:
    access = spec.get("from") or spec.get("to") or {}
    if intent.purpose in _NO_PASSWORD or not access.get("secretName"):
        return []
    name = f"KMS_ENCRYPTED_{names.ENV_PASSWORD}" if spec.get("useKMS") else names.ENV_PASSWORD
    return [_secret(name, access["secretName"], "password")]


def storage(spec: Mapping[str, Any]) -> Env:
    """What the storage of *spec* needs; empty for a local volume."""
    provider = provider_of(spec)
    if provider is Provider.S3:
        return _s3(spec["s3"], kms=bool(spec.get("useKMS")))
    if provider is Provider.GCS:
        return _gcs(spec["gcs"])
    return _azblob(spec["azblob"]) if provider is Provider.AZBLOB else []


def _full_backup(spec: Mapping[str, Any], intent: JobIntent) -> Env:
    """What the storage of a point-in-time restore's snapshot needs: an account of its own, under names of its own."""
    full = spec.get("pitrFullBackupStorageProvider")
    if not full or intent.purpose not in _RESTORES:
        return []
    return [
        {**entry, "name": f"{names.ENV_FULL_BACKUP}{entry['name']}"}
        for entry in storage({**full, "useKMS": spec.get("useKMS")})
    ]


def _s3(given: Mapping[str, Any], *, kms: bool) -> Env:
    defaults = _S3_DEFAULTS.get(str(given.get("provider")), {})
    endpoint = without_user(str(given.get("endpoint") or ""))
    if given.get("provider") == "ceph" and endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    env = [
        _literal("S3_PROVIDER", given.get("provider")),
        _literal("S3_ENDPOINT", endpoint),
        _literal("AWS_REGION", given.get("region")),
        _literal("AWS_ACL", given.get("acl") or defaults.get("acl")),
        _literal("AWS_STORAGE_CLASS", given.get("storageClass") or defaults.get("storageClass")),
    ]
    if kms:
        env.append(_literal("AWS_DEFAULT_REGION", given.get("region")))
    if secret := given.get("secretName"):
        env += [_secret("AWS_ACCESS_KEY_ID", secret, "access_key"), _secret("AWS_SECRET_ACCESS_KEY", secret, "secret_key")]
    return env


def _gcs(given: Mapping[str, Any]) -> Env:
    env = [
        _literal("GCS_PROJECT_ID", given.get("projectId")),
        _literal("GCS_OBJECT_ACL", given.get("objectAcl")),
        _literal("GCS_BUCKET_ACL", given.get("bucketAcl")),
        _literal("GCS_LOCATION", given.get("location")),
        _literal("GCS_STORAGE_CLASS", given.get("storageClass")),
    ]
    if secret := given.get("secretName"):
        env.append(_secret("GCS_SERVICE_ACCOUNT_JSON_KEY", secret, "credentials"))
    return env


def _azblob(given: Mapping[str, Any]) -> Env:
    secret, account = given.get("secretName"), given.get("storageAccount")
    env = [_literal("AZURE_ACCESS_TIER", given.get("accessTier") or "Cool")]
    if account:
        env.append(_literal("AZURE_STORAGE_ACCOUNT", account))
    elif secret:
        env.append(_secret("AZURE_STORAGE_ACCOUNT", secret, "AZURE_STORAGE_ACCOUNT"))
    if secret and not given.get("sasToken"):
        env += [_secret(key, secret, key, optional=True) for key in _AZURE_KEYS]
    return env


def _overridden(env: Env, theirs: Env) -> Env:
    """*theirs* replace entries of the same name in place; the rest is appended."""
    merged = {entry["name"]: entry for entry in env}
    merged.update({entry["name"]: dict(entry) for entry in theirs if entry.get("name")})
    return list(merged.values())


def _identity(observed: Observed, intent: JobIntent) -> Env:
    """Who the manager is and what it works on."""
    env = [
        _field(names.ENV_JOB_NAME, "metadata.labels['batch.kubernetes.io/job-name']"),
        _field(names.ENV_JOB_UID, f"metadata.labels['{names.ENV_JOB_UID_LABEL}']"),
        _field(names.ENV_POD_NAME, "metadata.name"),
        _field(names.ENV_POD_UID, "metadata.uid"),
        _field(names.ENV_POD_NAMESPACE, "metadata.namespace"),
        _literal(names.ENV_CR_UID, observed.uid),
        _literal(names.ENV_GRACE, names.GRACE_SECONDS),
    ]
    if intent.path:
        env.append(_literal(names.ENV_BACKUP_PATH, intent.path))
    if intent.recorded:
        env.append(_literal(names.ENV_RECORDED, identity.to_text(intent.recorded)))
    return env
