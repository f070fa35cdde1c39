"""The kind BackupSchedule: its children are Backups and compactions, never Jobs."""

from typing import Any, Final

from app.builders.scheduled_backup import build
from app.domain import schedule
from app.domain.config import Config
from app.domain.observed import Object, metadata
from app.domain.schedule import CompactLog, ScheduleIntent
from app.domain.scheduled import BACKUPS, COMPACTIONS, lean
from app.hooks.kind import Kind
from crds import names


def related(parent: Object, _config: Config) -> list[dict[str, Any]]:
    """A schedule of a group looks at the Backups of that group, which carry its label; any other looks at nothing.

    Metacontroller asks again when the spec changes or after 20 minutes, so an added label takes as long.
    """
    meta = metadata(parent)
    group = (meta.get("labels") or {}).get(names.SCHEDULE_GROUP_LABEL)
    if not group:
        return []
    return [
        {
            "apiVersion": names.API_VERSION,
            "resource": "backups",
            "namespace": meta.get("namespace"),
            "labelSelector": {"matchLabels": {names.SCHEDULE_GROUP_LABEL: group}},
        }
    ]


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
