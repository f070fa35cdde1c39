"""BackupSchedules and their Backups for tests, as they come over the wire."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Object, Observed
from app.domain.schedule.children import BACKUPS, COMPACTIONS
from app.domain.schedule.reconcile import ScheduleIntent, decide
from app.domain.times import stamp
from crds.contract import names, tso

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CREATED = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
S3 = {"provider": "aws", "bucket": "bucket", "prefix": "daily", "secretName": "s3"}
BR = {"br": {"cluster": "basic"}, "s3": S3}
EXPORT = {"from": {"host": "tidb", "secretName": "tidb"}, "s3": S3}
LOG = {**BR, "backupMode": "log"}
DAILY: dict[str, Any] = {"schedule": "0 2 * * *", "backupTemplate": BR}
CONFIG = Config()
UID = "b7e1"
OWNERS = [{"apiVersion": names.API_VERSION, "kind": "BackupSchedule", "name": "nightly", "uid": UID, "controller": True}]


def schedule(spec: Mapping[str, Any] = DAILY, *, status: Mapping[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    """A BackupSchedule ``db/nightly``, whose status was written at NOW, so that a clock which shows that is borne out; *meta*
    goes to its metadata."""
    found: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": "BackupSchedule",
        "metadata": {
            "name": "nightly",
            "namespace": "db",
            "uid": UID,
            "generation": 1,
            "creationTimestamp": stamp(CREATED),
            "managedFields": [written(CREATED, status=False), written(NOW)],
            **meta,
        },
        "spec": dict(spec),
    }
    return found if status is None else {**found, "status": dict(status)}


def written(time: datetime, *, status: bool = True) -> dict[str, Any]:
    """An entry of managed fields: the API server took in a write at *time*."""
    return {"manager": "metacontroller", "time": stamp(time), **({"subresource": "status"} if status else {})}


def backup(slot: datetime, phase: str = "Complete", *, name: str = "", deleting: bool = False, **status: Any) -> dict[str, Any]:
    """The Backup that ``nightly`` made for *slot*; a complete one took its snapshot right then."""
    if phase == "Complete":
        status = {"commitTs": str(tso.from_datetime(slot)), "timeCompleted": stamp(slot + timedelta(minutes=5)), **status}
    meta: dict[str, Any] = {
        "name": name or names.slot_backup("nightly", slot),
        "namespace": "db",
        "creationTimestamp": stamp(slot),
        "labels": {names.SCHEDULE_LABEL: "nightly", names.CONTROLLER_UID_LABEL: UID},
        "ownerReferences": OWNERS,
        "annotations": {names.SLOT_ANNOTATION: stamp(slot)},
    }
    if deleting:
        meta["deletionTimestamp"] = stamp(slot + HOUR)
    return {"kind": "Backup", "metadata": meta, "spec": BR, "status": {"phase": phase, **status} if phase else {}}


def log_backup(start: datetime, checkpoint: datetime | None = None, **status: Any) -> dict[str, Any]:
    """The log Backup of ``nightly``."""
    found: dict[str, Any] = {"phase": "Running", "commitTs": str(tso.from_datetime(start)), **status}
    if checkpoint:
        found["logCheckpointTs"] = str(tso.from_datetime(checkpoint))
    meta = {"name": "log-nightly", "namespace": "db", "creationTimestamp": stamp(start), "ownerReferences": OWNERS}
    spec = {**LOG, "s3": {**S3, "prefix": "logs/log-2026-01-01t12-00-00"}}
    return {"kind": "Backup", "metadata": meta, "spec": spec, "status": found}


def compaction(start: datetime, end: datetime, state: str = "Complete", *, made: datetime, name: str = "") -> dict[str, Any]:
    """A CompactBackup of ``nightly``."""
    found = f"compact-nightly-{start:%Y-%m-%dt%H-%M-%S}"
    return {
        "kind": "CompactBackup",
        "metadata": {
            "name": name or found,
            "namespace": "db",
            "creationTimestamp": stamp(made),
            "ownerReferences": OWNERS,
        },
        "spec": {"startTs": f"{start:%Y-%m-%d %H:%M:%S}", "endTs": f"{end:%Y-%m-%d %H:%M:%S}"},
        "status": {"state": state},
    }


def observed(parent: Object, children: Iterable[Object] = (), related: Iterable[Object] = ()) -> Observed:
    """What a sync of *parent* is called with."""
    groups: dict[str, dict[str, Object]] = {BACKUPS: {}, COMPACTIONS: {}}
    for child in children:
        groups[f"{child['kind']}.{names.API_VERSION}"][f"db/{child['metadata']['name']}"] = child
    others = {f"db/{item['metadata']['name']}": item for item in related}
    return Observed(parent=parent, children=groups, related={BACKUPS: others})


def sync(
    spec: Mapping[str, Any] = DAILY,
    *children: Object,
    status: Mapping[str, Any] | None = None,
    now: datetime = NOW,
    config: Config = CONFIG,
    **meta: Any,
) -> Decision[ScheduleIntent]:
    """One pass over ``db/nightly``, whose status was written just now, so that the clock is borne out."""
    fields = {"managedFields": [written(CREATED, status=False), written(now)]}
    return decide(observed(schedule(spec, status=status, **{**fields, **meta}), children), now, config)


def made(decision: Decision[ScheduleIntent]) -> list[str]:
    """Names of what is to be made."""
    return [intent.name for intent in decision.create]


def dropped(decision: Decision[ScheduleIntent]) -> dict[str, str]:
    """Names of what is to be deleted, with the rule."""
    return {drop.name: drop.rule for drop in decision.drop}


def condition(decision: Decision[ScheduleIntent], kind: str) -> dict[str, Any] | None:
    """A condition of the answer."""
    return next((item for item in decision.status.get("conditions") or () if item["type"] == kind), None)
