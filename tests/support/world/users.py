"""What users apply and edit: casts of CRs, every field of every spec (generated from the CRDs), copies, foreign objects."""

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from cli.simulator.store import Object
from crds.contract import names
from crds.generate import openapi_schema
from crds.v1alpha1 import KINDS
from tests.support.objects import S3

NAMESPACE: Final = "db"
BR: Final[dict[str, Any]] = {"br": {"cluster": "basic"}, "s3": {**S3, "prefix": "snapshots"}}
EXPORT: Final[dict[str, Any]] = {"from": {"host": "tidb", "secretName": "tidb"}, "s3": {**S3, "prefix": "exports"}}
LOG: Final[dict[str, Any]] = {"br": {"cluster": "basic"}, "s3": {**S3, "prefix": "log"}, "backupMode": "log"}
COMPACT: Final[dict[str, Any]] = {
    **BR,
    "s3": {**S3, "prefix": "log"},
    "startTs": "2026-01-31 00:00:00",
    "endTs": "2026-01-31 02:00:00",
}
PITR: Final[dict[str, Any]] = {
    "br": {"cluster": "basic"},
    "s3": {**S3, "prefix": "log"},
    "restoreMode": "pitr",
    "pitrFullBackupStorageProvider": {"s3": {**S3, "prefix": "snapshots"}},
}
PATIENT: Final = {"backoffRetryPolicy": {"minRetryDuration": "10s", "maxRetryTimes": 2, "retryTimeout": "2h"}}

CASTS: Final[tuple[tuple[tuple[str, str, Mapping[str, Any]], ...], ...]] = (
    (("Backup", "x", EXPORT),),
    (("Backup", "x", {**EXPORT, **PATIENT, "cleanPolicy": "Delete"}),),
    (("Backup", "x", {**BR, **PATIENT, "cleanPolicy": "OnFailure"}),),
    (("Restore", "x", {"to": EXPORT["from"], "s3": EXPORT["s3"], **PATIENT}),),
    (("Restore", "x", {**BR, **PATIENT, "prune": "afterFailed"}),),
    (("Restore", "x", {**PITR, **PATIENT}),),
    (
        ("Restore", "x", {**PITR, **PATIENT, "replicationConfig": {"compactBackupName": "c", "waitTimeout": "2h"}}),
        ("CompactBackup", "c", COMPACT),
    ),
    (("CompactBackup", "x", {**COMPACT, "mode": "sharded", "shardCount": 2}),),
    (("Backup", "x", {**LOG, **PATIENT, "cleanPolicy": "Delete"}),),
    (("Backup", "x", LOG), ("Backup", "x-log-start", {**BR, "cleanPolicy": "Delete"})),
    (("Backup", "x", {**BR, **PATIENT, "cleanPolicy": "Delete"}), ("Restore", "x", BR)),
    (
        (
            "BackupSchedule",
            "s",
            {"schedule": "*/20 * * * *", "backupTemplate": {**BR, "cleanPolicy": "Delete"}, "maxBackups": 2},
        ),
    ),
    (
        (
            "BackupSchedule",
            "s",
            {"schedule": "0 * * * *", "backupTemplate": {**EXPORT, **PATIENT}, "retention": {"keepLast": 1, "keepDaily": 2}},
        ),
    ),
    (
        (
            "BackupSchedule",
            "s",
            {
                "schedule": "0 2 * * *",
                "backupTemplate": {**BR, "cleanPolicy": "Delete"},
                "maxReservedTime": "72h",
                "logBackupTemplate": LOG,
                "compactBackupTemplate": COMPACT,
                "compactInterval": "24h",
            },
        ),
    ),
)
"""What is there at the beginning."""


def cr(kind: str, name: str, spec: Mapping[str, Any], **meta: Any) -> Object:
    """A CR as a user writes it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, **meta},
        "spec": copy.deepcopy(dict(spec)),
    }


# Every field of every spec

_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "cleanPolicy": ("Delete", "OnFailure", "Retain"),
    "prefix": ("elsewhere", "snapshots/x", ""),
    "cluster": ("other", "basic"),
    "bucket": ("elsewhere",),
    "schedule": ("0 * * * *", "30 13 * * *", "@hourly", "@daily", "@every 2h", "never"),
    "timeZone": ("America/New_York", "UTC", "Nowhere"),
    "maxReservedTime": ("2h", "72h", "0s"),
    "keepWithin": ("2h", "3d"),
    "logTruncateUntil": ("2026-01-31 01:00:00", "2026-01-31 02:10:00", "2099-01-01 00:00:00", "soon"),
    "commitTs": ("2026-01-31 01:00:00",),
    "compactInterval": ("2h", "24h"),
    "minRetryDuration": ("2s", "10s", "600s"),
    "retryTimeout": ("20s", "2h"),
    "waitTimeout": ("10s", "2h"),
    "startTs": ("2026-01-31 00:00:00",),
    "endTs": ("2026-01-31 02:00:00",),
    "compactBackupName": ("c", "other"),
    "toolImage": ("pingcap/br:v8.5.1", "br"),
}
_DEEP: Final = frozenset(
    {"s3", "gcs", "br", "from", "to", "retention", "backoffRetryPolicy", "replicationConfig", "cleanOption"}
)
_TEMPLATES: Final = frozenset({"backupTemplate", "logBackupTemplate", "compactBackupTemplate"})
Path = tuple[str, ...]


@cache
def fields(kind: str) -> tuple[tuple[Path, Mapping[str, Any]], ...]:
    """Every field of the spec of *kind* that an edit may set, with its schema; those that decide most come first."""
    spec = openapi_schema(KINDS[kind])["properties"]["spec"]
    return tuple(sorted(_fields(spec, ()), key=lambda item: (item[0][-1] not in _TEXTS, item[0])))


def _fields(schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for name, found in sorted((schema.get("properties") or {}).items()):
        if name in _TEMPLATES or (name in _DEEP and found.get("properties")):
            yield from _fields(found, (*path, name))
        yield (*path, name), found


def values(name: str, schema: Mapping[str, Any]) -> tuple[Any, ...]:
    """Values that the schema lets into the field *name*; None takes it out."""
    if name in _TEXTS:
        return (*_TEXTS[name], None)
    least = int(schema.get("minimum") or 0)
    of_type: Mapping[str, tuple[Any, ...]] = {
        "boolean": (True, False),
        "integer": (least, least + 1, least + 2),
        "string": ("10s" if "pattern" in schema else "text",),
        "array": ([],),
        "object": () if schema.get("required") or not schema.get("properties") else ({},),
    }
    return (*(schema.get("enum") or of_type.get(str(schema.get("type")), ())), None)


def edited(spec: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """*spec* with *value* at *path*, where the fields above it are there; None takes it out."""
    name, *rest = path
    if rest:
        inner = spec.get(name)
        return {**spec, name: edited(inner, tuple(rest), value)} if isinstance(inner, dict) else dict(spec)
    changed = {key: item for key, item in spec.items() if key != name}
    return changed if value is None else {**changed, name: value}


# Copies and foreign objects


def renamed(obj: Object, name: str, *, keeps_uid: bool = False) -> Object:
    """What ``kubectl get -o yaml`` gives, renamed by hand and applied: labels and annotations stay, status and owner do not
    (kubectl drops what the API server owns, people often drop the owner)."""
    meta = {key: obj["metadata"][key] for key in ("labels", "annotations") if key in obj["metadata"]}
    if keeps_uid and obj["metadata"].get("ownerReferences"):
        meta["ownerReferences"] = obj["metadata"]["ownerReferences"]
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": {"name": name, "namespace": obj["metadata"]["namespace"], **meta},
        "spec": obj["spec"],
    }


def foreign_job(name: str, labels: Mapping[str, str]) -> Object:
    """Somebody else's Job, by a name or with labels that we use too."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": dict(labels)},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}},
    }
