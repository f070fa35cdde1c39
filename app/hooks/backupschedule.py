"""The kind BackupSchedule: its children are Backups and compactions, never Jobs."""

from typing import Any, Final

from app.builders.scheduled_backup import build
from app.domain.config import Config
from app.domain.observed import Object, metadata, name_of, part
from app.domain.schedule import reconcile as schedule
from app.domain.schedule.children import BACKUPS, COMPACTIONS, lean, log_name
from app.domain.schedule.reconcile import CompactLog, ScheduleIntent
from app.hooks.resource import Kind
from crds.contract import names


def related(parent: Object, _config: Config) -> list[dict[str, Any]]:
    """A schedule with a log looks at the Backup that has its log backup's name, whoever made it; one of a group at the Backups
    of that group, which carry its label.

    Metacontroller asks again when the spec changes or after 20 minutes, so an added label takes as long.
    """
    meta = metadata(parent)
    backups = {"apiVersion": names.API_VERSION, "resource": "backups", "namespace": meta.get("namespace")}
    rules: list[dict[str, Any]] = []
    if part(parent, "spec").get("logBackupTemplate"):
        rules.append({**backups, "names": [log_name(name_of(parent))]})
    if group := part(meta, "labels").get(names.SCHEDULE_GROUP_LABEL):
        rules.append({**backups, "labelSelector": {"matchLabels": {names.SCHEDULE_GROUP_LABEL: group}}})
    return rules


def _kind_of(intent: ScheduleIntent) -> str:
    return COMPACTIONS if isinstance(intent, CompactLog) else BACKUPS


KIND: Final[Kind[ScheduleIntent]] = Kind(
    path="backupschedule",
    related=related,
    decide=schedule.decide,
    build=build,
    child_kind=BACKUPS,
    kind_of=_kind_of,
    lean=lean,
)
