"""What a restore brought back, as the target itself lists it in ``information_schema``."""

from collections.abc import Sequence
from typing import Final

from backup_manager.content import SYSTEM_SCHEMAS, Asked, Item, Kind, first_named, judge
from backup_manager.errors import PermanentError
from backup_manager.tidb.connection import Database

_OBJECTS: Final = "select table_schema, table_name from information_schema.tables"
_WITH_KIND: Final = "select table_schema, table_name, table_type from information_schema.tables"
_KINDS: Final = {"VIEW": Kind.VIEW, "SEQUENCE": Kind.SEQUENCE}


def after_log(database: Database, base: Sequence[Item], asked: Asked) -> tuple[list[Item], list[str]]:
    """What of all that is *asked* for the target lists after a restore to a point in time, and names of what it lacks of the
    *base* snapshot.

    The log may create, rename and drop tables, and only br reads it. So a table of the base may be gone for a good reason; that
    all are, or that the target has nothing of what the spec names, is a failure. Raises PermanentError.
    """
    items = [
        Item(kind=_KINDS.get(str(kind).upper(), Kind.TABLE), schema=str(schema), name=str(name))
        for schema, name, kind in database.rows(_WITH_KIND)
        if str(schema).lower() not in SYSTEM_SCHEMAS
    ]
    judge(asked, items, reason="NothingRestored", verb="restored", where="the target as of this time")
    present = {(item.schema.lower(), item.name.lower()) for item in items}
    tables = [item for item in base if item.kind is not Kind.SCHEMA]
    lacking = [item.place for item in tables if (item.schema.lower(), item.name.lower()) not in present]
    if tables and len(lacking) == len(tables):
        raise PermanentError(
            f"none of the {len(tables)} tables of the base snapshot is in the target: {first_named(lacking)}",
            reason="RestoreIncomplete",
            hint="Look for [ERROR] and [WARN] of br in the log (kubectl logs). A time before they were dropped may be meant.",
        )
    return asked.select(items), lacking


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
