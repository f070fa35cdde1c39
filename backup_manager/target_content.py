"""What a restore brought back, as the target itself lists it in ``information_schema``."""

from collections.abc import Sequence
from typing import Final

from backup_manager.content import Item, Kind, first_named
from backup_manager.database import Database
from backup_manager.errors import PermanentError

_OBJECTS: Final = "select table_schema, table_name from information_schema.tables"


def require(database: Database, wanted: Sequence[Item]) -> None:
    """Raise PermanentError (``RestoreIncomplete``) naming what of *wanted* the target lacks. Names compare without case, as in
    TiDB. One query, whatever the number of tables; schemas of the system are the tool's own business."""
    places = {(item.schema.lower(), item.name.lower()): item for item in wanted if item.kind is not Kind.SCHEMA}
    places = {place: item for place, item in places.items() if place[0] != "mysql"}
    if not places:
        return
    present = {(str(schema).lower(), str(name).lower()) for schema, name in database.rows(_OBJECTS)}
    lacking = [item.place for place, item in sorted(places.items()) if place not in present]
    if lacking:
        raise PermanentError(
            f"{len(lacking)} of {len(places)} tables did not come back: {first_named(lacking)}",
            reason="RestoreIncomplete",
            hint="Look for [ERROR] and [WARN] of the tool in the log (kubectl logs). Drop what came back before another try.",
        )
