"""What dumpling and tidb-lightning leave out of a database: sequences with their values, views, placement policies.

dumpling ends with an error at a view on a view and at a view whose table is gone, and misreads the value of a sequence that
counts down; lightning takes a sequence for the data of an unknown table and creates no placement policy. So an export writes
these objects itself, as SQL in one document beside the data (:data:`KEY`), and an import applies it: policies, databases and
sequences before the load (a table's default may be ``nextval``), views after it (they need the tables). An object that the
target has already is left as it is; the value of a sequence is only ever moved on.
"""

import gzip
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import msgspec

from backup_manager.content import SYSTEM_SCHEMAS, Item, Kind, first_named
from backup_manager.errors import ManagerError, PermanentError
from backup_manager.table_filter import selects
from backup_manager.tidb.accounts import ROOT
from backup_manager.tidb.connection import Database, Rows

OBJECT_FILE: Final = re.compile(
    r"^(?P<schema>[^/.]+)\.(?P<name>[^/.]+?)-schema-(?P<kind>view|sequence)\.sql(?P<packed>\.\w+)?$"
)
"""A file of a view or a sequence; names are quoted as in a URL."""
KEY: Final = "schema-objects.json"
"""Its name has one dot, so that lightning takes it for no file of a table."""
_LEFT_OUT: Final = 12
_INT64: Final = 1 << 63
_EXISTS: Final = re.compile(r"^(CREATE (?:DATABASE|SEQUENCE|PLACEMENT POLICY)) (?!IF NOT EXISTS)", re.IGNORECASE)
_POLICY_FILE: Final = re.compile(r"(?:^|/)[^/]+-placement-policy-create\.sql(?P<packed>\.\w+)?$")
_POLICY: Final = re.compile(r"CREATE PLACEMENT POLICY .*(?= \*/;)", re.DOTALL)
_SET_VALUE: Final = re.compile(r";\s*SELECT SETVAL\(`.*`,\s*(?P<value>-?\d+)\);\s*$", re.DOTALL)


class NamedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """*last*: the last value that was given out, or may have been (a server caches some); None for one never used."""

    schema: str
    name: str
    create: str
    last: int | None = None


class NamedView(msgspec.Struct, frozen=True, kw_only=True):
    """A view with the character set and collation that it was created under."""

    schema: str
    name: str
    create: str
    charset: str = "utf8mb4"
    collation: str = "utf8mb4_bin"


class SchemaObjects(msgspec.Struct, frozen=True, kw_only=True):
    """The document. *schemas*: ``CREATE DATABASE`` by name, of those that hold a sequence or view."""

    v: int = 1
    policies: tuple[str, ...] = ()
    schemas: dict[str, str] = {}
    sequences: tuple[NamedSequence, ...] = ()
    views: tuple[NamedView, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to apply."""
        return bool(self.policies or self.sequences or self.views)

    def to_json(self) -> bytes:
        """The bytes to store."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def parse(cls, data: bytes, where: str) -> "SchemaObjects":
        """Raises PermanentError."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PermanentError(
                f"{where} cannot be read: {error}",
                reason="SourceDamaged",
                hint="Restore this object of the export from an older version, or import another export.",
            ) from None

    def items(self) -> list[Item]:
        """Views and sequences, for the account of what a dump holds."""
        views = [Item(kind=Kind.VIEW, schema=view.schema, name=view.name) for view in self.views]
        return [*views, *(Item(kind=Kind.SEQUENCE, schema=one.schema, name=one.name) for one in self.sequences)]

    def selected(self, rules: Sequence[str]) -> "SchemaObjects":
        """Those that a restore's table filter selects; policies belong to no database."""
        return msgspec.structs.replace(
            self,
            sequences=tuple(item for item in self.sequences if selects(rules, item.schema, item.name)),
            views=tuple(item for item in self.views if selects(rules, item.schema, item.name)),
        )


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What an export found: the objects, and a line for each thing that stays out of it."""

    objects: SchemaObjects = msgspec.field(default_factory=SchemaObjects)
    left_out: tuple[str, ...] = ()


def require_readable(rows: Rows, rules: Sequence[str]) -> int | None:
    """Read one view and one sequence of those that the filter *rules* select: a missing right shows before the dump, and not
    after hours. Returns the version of the schema, for :func:`collect`. Raises PermanentError."""
    first = {kind: (schema, name) for schema, name, kind in reversed(_places(rows, rules))}
    if place := first.get("VIEW"):
        with suppress(PermanentError):  # an invalid one, or another's: it will be left out, by name
            rows(f"show create view {quoted(*place)}")
    if place := first.get("SEQUENCE"):
        rows(f"show create sequence {quoted(*place)}")
    return _schema_version(rows)


def collect(
    rows: Rows,
    rules: Sequence[str],
    *,
    snapshot: str = "",
    version: int | None = None,
    views: bool = True,
    sequences: bool = True,
) -> Found:
    """The objects that the filter *rules* select, on one connection, after the dump.

    Definitions are those of the dump's *snapshot* (a TSO), so that they fit the tables in it. Where TiDB does not let us read
    it, they are those of now, and the *version* of the schema before the dump tells whether that is the same. Values of
    sequences are always those of now, so that none is behind the rows.
    """
    historic = _look_back(rows, snapshot)
    places = _places(rows, rules)
    kept: list[NamedView] = []
    left_out: list[str] = []
    for schema, name, _ in (place for place in places if place[2] == "VIEW" and views):
        try:
            rows(f"show fields from {quoted(schema, name)}")  # a view whose tables are gone cannot be created again
            row = rows(f"show create view {quoted(schema, name)}")[0]
        except PermanentError as error:
            left_out.append(f"view {schema}.{name}: {error.message}")
        else:
            kept.append(NamedView(schema=schema, name=name, create=str(row[1]), charset=str(row[2]), collation=str(row[3])))
    for kind, wanted in (("VIEW", views), ("SEQUENCE", sequences)):
        number = sum(place[2] == kind for place in places)
        if number and not wanted:
            left_out.append(f"{kind.lower()}s: {number}, by spec.dumpling.options")
    counts = _sequences(rows, [place for place in places if place[2] == "SEQUENCE" and sequences])
    schemas = sorted({item.schema for item in kept} | {item.schema for item in counts})
    policies = tuple(
        str(rows(f"show create placement policy {quoted(str(row[0]))}")[0][1])
        for row in rows("select policy_name as policy from information_schema.placement_policies order by 1")
    )
    created = {schema: str(rows(f"show create database {quoted(schema)}")[0][1]) for schema in schemas}
    if historic:
        rows("set tidb_snapshot = ''")
    elif (kept or counts) and (why := _moved(rows, version)):
        left_out.append(f"views and sequences as of the snapshot: {why}, the export has them as at its end")
    valued = []
    for item in counts:
        try:
            valued.append(item.valued(rows(f"show table {quoted(item.schema, item.name)} next_row_id")))
        except PermanentError as error:
            left_out.append(f"sequence {item.schema}.{item.name}: dropped after the snapshot, {error.message}")
    objects = SchemaObjects(policies=policies, schemas=created, sequences=tuple(valued), views=tuple(kept))
    return Found(objects=objects, left_out=tuple(left_out))


def _places(rows: Rows, rules: Sequence[str]) -> list[tuple[str, str, str]]:
    """Schema, name and kind of each view and sequence that the filter *rules* select."""
    return [
        (str(schema), str(name), str(kind).upper())
        for schema, name, kind in rows("select table_schema, table_name, table_type from "
        "information_schema.tables where table_type in ('VIEW', 'SEQUENCE') order by 1, 2")
        if str(schema).lower() not in SYSTEM_SCHEMAS and selects(rules, str(schema), str(name))
    ]  # fmt: skip


def _look_back(rows: Rows, snapshot: str) -> bool:
    """Read at *snapshot* from now on; False where TiDB refuses it (garbage was collected since, or has never been)."""
    if not snapshot.isdigit():
        return False
    try:
        rows("set tidb_snapshot = %s", (snapshot,))
    except PermanentError:
        return False
    return True


def _schema_version(rows: Rows) -> int | None:
    """It grows with every change of a definition; None where the login may not ask for it."""
    try:
        return int(rows("admin show ddl")[0][0])
    except PermanentError:
        return None


def _moved(rows: Rows, version: int | None) -> str:
    """Why what is read now may be otherwise than it was at schema *version*; empty when it is not."""
    if version is None:
        return "whether one was changed while the export ran is not known (ADMIN SHOW DDL needs SUPER)"
    return "" if _schema_version(rows) == version else "the schema was changed while the export ran"


def left_out_of_cluster(database: Database, schemas: Iterable[str], *, users: bool = False) -> list[str]:
    """A line for each kind of thing in the cluster that no export holds and that is there; *schemas* are those left out.
    *users*: whether this one holds users, which exports do not without being asked."""
    lines = []
    for schema in schemas:
        number = _count(database, "information_schema.tables where table_type = 'BASE TABLE' and table_schema = %s", schema)
        if number:
            lines.append(f"schema {schema}, tables: {number}")
    for what, query in _OF_CLUSTER[users:]:
        if number := _count(database, query):
            lines.append(f"{what}: {number}")
    return lines


_OF_CLUSTER: Final = (
    ("users and roles, with their grants", f"mysql.user where not {ROOT}"),
    ("SQL bindings", "mysql.bind_info where source <> 'builtin' and status in ('enabled', 'using')"),
    ("resource groups", "information_schema.resource_groups where name <> 'default'"),
    ("cached tables, which come back uncached", "information_schema.tables where create_options = 'cached=on'"),
)


def bounded(lines: Sequence[str]) -> list[str]:
    """*lines*, no more than fit into a status."""
    more = len(lines) - _LEFT_OUT
    return [line[:200] for line in lines[:_LEFT_OUT]] + ([f"and {more} more"] if more > 0 else [])


def of_dump(keys: Iterable[str], read: Callable[[str], bytes], where: str) -> SchemaObjects:
    """The objects of an export: its document; else, of a dump that another program made, dumpling's own files of sequences and
    policies (lightning makes its views). Raises PermanentError for a file in a form that cannot be read here."""
    keys = list(keys)
    if KEY in keys:
        return SchemaObjects.parse(read(KEY), f"{where.rstrip('/')}/{KEY}")
    sequences, schemas, policies = [], {}, []
    for key in sorted(keys):
        if (match := OBJECT_FILE.match(key)) and match["kind"] == Kind.SEQUENCE:
            schema, name = unquote(match["schema"]), unquote(match["name"])
            text = _text(read, key, match["packed"])
            value = _SET_VALUE.search(text)
            create = text[: value.start()] if value else text.rstrip().rstrip(";")
            create = create[max(create.upper().find("CREATE SEQUENCE"), 0) :]
            sequences.append(
                NamedSequence(schema=schema, name=name, create=create, last=int(value["value"]) if value else None)
            )
            schemas[schema] = f"CREATE DATABASE {quoted(schema, percent='%')}"
            created = f"{match['schema']}-schema-create.sql{match['packed'] or ''}"
            if created in keys:
                said = _text(read, created, match["packed"])
                schemas[schema] = said[max(said.upper().find("CREATE DATABASE"), 0) :].rstrip().rstrip(";")
        elif (match := _POLICY_FILE.search(key)) and (policy := _POLICY.search(_text(read, key, match["packed"]))):
            policies.append(policy[0])
    return SchemaObjects(policies=tuple(policies), schemas=schemas, sequences=tuple(sequences))


def before_load(database: Database, objects: SchemaObjects, log: Callable[[str], None]) -> None:
    """Create policies, databases and sequences. A policy that the target refuses is logged: a table that uses it will tell."""
    for create in objects.policies:
        try:
            with database.session() as cursor:
                cursor.execute(_if_not_exists(create))
        except PermanentError as error:
            log(f"a placement policy was not created: {error.message}")
    for item in objects.sequences:
        with database.session() as cursor:
            cursor.execute(_if_not_exists(objects.schemas[item.schema]))
            cursor.execute(f"use {quoted(item.schema, percent='%')}")
            cursor.execute(_if_not_exists(item.create))
            if item.last is not None:
                cursor.execute(f"select setval({quoted(item.name, percent='%')}, {item.last})")


def after_load(database: Database, objects: SchemaObjects) -> list[str]:
    """Create the views, those that others need first; returns the ones that were there already. Raises PermanentError naming
    the views that could not be created: the rest of the import is done by then."""
    there = {
        (str(schema).lower(), str(name).lower())
        for schema, name in database.rows(
            "select table_schema, table_name from information_schema.tables where table_type = 'VIEW'"
        )
    }
    waiting = [view for view in objects.views if (view.schema.lower(), view.name.lower()) not in there]
    kept = [f"{view.schema}.{view.name}" for view in objects.views if view not in waiting]
    problems: dict[str, str] = {}
    while waiting:
        refused = []
        for view in waiting:
            try:
                with database.session() as cursor:
                    cursor.execute(f"create database if not exists {quoted(view.schema, percent='%')}")
                    cursor.execute(f"use {quoted(view.schema, percent='%')}")
                    cursor.execute(f"set names {_word(view.charset)} collate {_word(view.collation)}")
                    cursor.execute(view.create)
            except PermanentError as error:
                problems[f"{view.schema}.{view.name}"] = error.message
                refused.append(view)
        if len(refused) == len(waiting):
            raise _not_created(refused, problems)
        waiting = refused
    return kept


def _not_created(views: Sequence[NamedView], problems: dict[str, str]) -> ManagerError:
    names = [f"{view.schema}.{view.name}" for view in views]
    return PermanentError(
        f"all tables were imported, but these views were not created: {first_named(names)}; {problems[names[0]]}",
        reason="ViewsNotRestored",
        hint=f"Create what they need and then the views themselves ({KEY} of the export has their SQL), or leave them out by "
        "spec.tableFilter.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """A sequence without its value."""

    schema: str
    name: str
    create: str
    increment: int
    lowest: int
    highest: int

    def valued(self, found: Sequence[tuple[object, ...]]) -> NamedSequence:
        """With the value that ``SHOW TABLE NEXT_ROW_ID`` *found*."""
        following = next(int(str(row[3])) for row in found if row[4] == "SEQUENCE")
        last = last_value(following, self.increment, self.lowest, self.highest)
        return NamedSequence(schema=self.schema, name=self.name, create=self.create, last=last)


def _sequences(rows: Rows, places: Sequence[tuple[str, str, str]]) -> list[_Sequence]:
    if not places:
        return []
    query = "select sequence_schema, sequence_name, increment, min_value, max_value from information_schema.sequences"
    facts = {(str(row[0]), str(row[1])): tuple(map(int, row[2:])) for row in rows(query)}
    found = []
    for schema, name, _ in places:
        increment, lowest, highest = facts[schema, name]
        create = str(rows(f"show create sequence {quoted(schema, name)}")[0][1])
        one = _Sequence(schema=schema, name=name, create=create, increment=increment, lowest=lowest, highest=highest)
        found.append(one)
    return found


def last_value(following: int, increment: int, lowest: int, highest: int) -> int | None:
    """The last value given out, from NEXT_ROW_ID: TiDB shows it plus one, whatever the increment, as an unsigned number.

    >>> last_value(1001, 1, 1, 2**63 - 2), last_value(2**64 - 4, -2, -1000, -1), last_value(7, 5, 1, 100)
    (1000, -5, 6)
    >>> last_value(1, 1, 1, 100), last_value(1, -1, -1000, -1), last_value(9, 1, 1, 5)
    (None, None, 5)
    """
    last = (following - 2 * _INT64 if following >= _INT64 else following) - 1
    if increment < 0:
        return None if last > highest else max(last, lowest)
    return None if last < lowest else min(last, highest)


def quoted(*parts: str, percent: str = "%%") -> str:
    """Identifiers for a statement; a driver that gets parameters wants ``%`` doubled."""
    return ".".join("`" + part.replace("`", "``").replace("%", percent) + "`" for part in parts)


def _if_not_exists(create: str) -> str:
    return _EXISTS.sub(r"\1 IF NOT EXISTS ", create)


def _count(database: Database, source: str, *parameters: str) -> int:
    """Rows of a fixed query; 0 where the server has no such table or does not show it."""
    try:
        return int(database.rows(f"select count(*) from {source}", parameters)[0][0])  # noqa: S608  (fixed texts)
    except PermanentError:
        return 0


def _word(text: str) -> str:
    return re.sub(r"\W", "", text)


def _text(read: Callable[[str], bytes], key: str, packed: str | None) -> str:
    if packed not in {None, ".gz"}:
        raise PermanentError(
            f"{key} is compressed as {packed}, which only tidb-lightning reads; nothing was imported",
            reason="SourceUnreadable",
            hint="Decompress this file in the export (zstd -d, or snzip -d), then restore again.",
        )
    data = read(key)
    return (gzip.decompress(data) if packed else data).decode("utf-8", "replace")
