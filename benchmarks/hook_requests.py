"""Hook requests of the size that a real API server makes them: managed fields, last-applied annotation and all."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.times import stamp
from crds.contract import names, tso

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
"""The newest slot of an hourly schedule: the server's clock is the real one."""
UID = "5b6f1d9c-3c3c-4a51-9d1c-3f1f1a2b3c4d"
S3 = {"provider": "aws", "region": "eu-central-1", "bucket": "tidb-backups", "prefix": "shop", "secretName": "s3"}
SPEC: dict[str, Any] = {
    "backupMode": "snapshot",
    "backupType": "full",
    "br": {"cluster": "shop", "clusterNamespace": "shop", "sendCredToTikv": True},
    "s3": S3,
    "cleanPolicy": "Delete",
    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
}


def _managed(manager: str, tree: dict[str, Any], at: str) -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": names.API_VERSION,
        "time": at,
        "fieldsType": "FieldsV1",
        "fieldsV1": tree,
    }


def _managed_status(status: dict[str, Any], at: str) -> dict[str, Any]:
    return {**_managed("metacontroller", _fields({"status": status}), at), "subresource": "status"}


def _fields(value: Any) -> dict[str, Any]:
    """``fieldsV1`` of *value*: every key once more, with ``f:`` before it."""
    return {f"f:{key}": _fields(item) if isinstance(item, dict) else {} for key, item in value.items()}


def _labels(kind: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/instance": "nightly",
        "app.kubernetes.io/managed-by": f"{kind}-operator",
        "app.kubernetes.io/name": kind,
        "controller-uid": UID,
        "tidb.pingcap.com/backup-schedule": "nightly",
    }


def _object(
    kind: str,
    name: str,
    spec: dict[str, Any],
    status: dict[str, Any],
    *,
    at: str,
    api_version: str = names.API_VERSION,
    **meta: Any,
) -> dict[str, Any]:
    labels = meta.pop("labels", None) or _labels(kind.lower())
    bare = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
    written = {"spec": spec, "metadata": {"labels": labels, "ownerReferences": {}}}
    annotations = {"metacontroller.k8s.io/last-applied-configuration": json.dumps(bare), **meta.pop("annotations", {})}
    owner = {"kind": "BackupSchedule", "name": "nightly", "uid": UID, "controller": True, "blockOwnerDeletion": True}
    return {
        **bare,
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": UID,
            "resourceVersion": "123456789",
            "generation": 1,
            "creationTimestamp": at,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": names.API_VERSION, **owner}],
            "finalizers": ["metacontroller.io/compositecontroller-tidb-backup"],
            "managedFields": [
                _managed("metacontroller", _fields(written), at),
                _managed_status(status, at),
            ],
            **meta,
        },
        "status": status,
    }


def _request(parent: dict[str, Any], children: dict[str, Any]) -> dict[str, Any]:
    return {"controller": {}, "parent": parent, "children": children, "related": {}, "finalizing": False}


def _scheduled_backup(slot: datetime) -> dict[str, Any]:
    at = stamp(slot)
    status = {
        "phase": "Complete",
        "backupPath": f"s3://tidb-backups/shop/{at}",
        "backupSize": 123456789,
        "backupSizeReadable": "123 MB",
        "commitTs": str(tso.from_datetime(slot)),
        "timeStarted": at,
        "timeCompleted": stamp(slot + timedelta(minutes=5)),
        "timeTaken": "5m0s",
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": at} for kind in ("Scheduled", "Running", "Complete")
        ],
        "observedGeneration": 1,
    }
    meta = {names.SLOT_ANNOTATION: at}
    return _object("Backup", names.slot_backup("nightly", slot), SPEC, status, at=at, annotations=meta)


def write_status(parent: dict[str, Any], status: dict[str, Any]) -> None:
    """Put *status* into *parent* as the API server does, with the time of the write: a schedule compares its clock with it."""
    parent["status"] = status
    parent["metadata"]["managedFields"][-1] = _managed_status(status, stamp(datetime.now(UTC)))


def schedule_request(count: int) -> dict[str, Any]:
    """A sync of a schedule with *count* complete Backups, of which nothing has to be done."""
    slots = [NOW - number * timedelta(hours=1) for number in range(count)]
    spec = {"schedule": "0 * * * *", "retention": {"keepLast": count, "keepDaily": 30}, "backupTemplate": SPEC}
    parent = _object("BackupSchedule", "nightly", spec, {}, at=stamp(NOW - timedelta(days=3000)))
    # Metacontroller's JSON encoder sorts the keys of a map.
    children = {f"shop/{item['metadata']['name']}": item for item in map(_scheduled_backup, reversed(slots))}
    return _request(parent, {f"Backup.{names.API_VERSION}": children, f"CompactBackup.{names.API_VERSION}": {}})


def backup_request(job: dict[str, Any] | None = None) -> dict[str, Any]:
    """A sync of an export, running if its *job* is given."""
    spec = {"from": {"host": "tidb.shop.svc", "secretName": "tidb"}, "s3": S3, "storageSize": "10Gi"}
    at = stamp(NOW)
    parent = _object("Backup", "daily", spec, {}, at=at)
    if job is None:
        return _request(parent, {"Job.batch/v1": {}})
    report = {"v": 1, "seq": 3, "phase": "Running", "progress": [{"step": "dump", "progress": 42.0}], "timeStarted": at}
    annotations = {**job["metadata"]["annotations"], names.REPORT_ANNOTATION: json.dumps(report)}
    labels = job["metadata"]["labels"]  # without them it would be another CR's Job, and another one be asked for
    status = {"active": 1, "ready": 1, "startTime": at}
    name = job["metadata"]["name"]
    found = _object("Job", name, job["spec"], status, at=at, api_version="batch/v1", annotations=annotations, labels=labels)
    return _request(parent, {"Job.batch/v1": {f"shop/{name}": found}})
