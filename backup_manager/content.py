"""What a backup is asked for, and what its artefact holds: schemas, tables, views and sequences, with files, rows and bytes
where the tool tells them.

The totals (:class:`Content`) stand in the record; the list of objects (:class:`Item`) lies compressed beside the data. A run is
``Complete`` only when :func:`judge` finds that what the spec names is in the artefact.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
import orjson

from backup_manager import table_filter
from backup_manager.errors import PermanentError
from backup_manager.packed_lines import pack_lines, unpack_lines
from crds.contract.report import Count
from crds.contract.wire import Document

LIGHTNING_SCHEMA: Final = "lightning_task_info"
"""Left behind by imports of other programs, and of this one before it switched that off; not data of a user."""
SYSTEM_SCHEMAS: Final = frozenset(
    {"mysql", "sys", "information_schema", "performance_schema", "metrics_schema", "inspection_schema", LIGHTNING_SCHEMA}
)
NAMED: Final = 5
"""How many objects a message or a report names; the list beside the data has all."""


def first_named(names: Sequence[str]) -> str:
    """The first of *names* and the number of the others, for messages.

    >>> first_named(["a", "b"]), first_named(["a", "b", "c", "d", "e", "f", "g"])
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


class Kind(StrEnum):
    """Kind of an object of a database. An empty schema is an entry of its own."""

    SCHEMA = "schema"
    TABLE = "table"
    VIEW = "view"
    SEQUENCE = "sequence"


class Item(Document, frozen=True, kw_only=True):
    """One object. *files*: data files; *rows* and *bytes* (uncompressed) as the tool told them, None where it did not."""

    kind: Kind
    schema: str
    name: str = ""
    files: int = 0
    rows: int | None = None
    bytes: int | None = None

    @property
    def place(self) -> str:
        """``schema.name``, for messages."""
        return f"{self.schema}.{self.name}" if self.name else self.schema


class Content(Document, frozen=True, kw_only=True):
    """Totals of an artefact. *rows* and *bytes* are None when they are not known of every table; *files* counts data files;
    *start_ts* and *end_ts* are the ends of a log. *users* counts users and roles, None where they were not asked for.
    *readable* is False for an artefact that only its tool can read."""

    schemas: Count = 0
    tables: Count = 0
    views: Count = 0
    sequences: Count = 0
    files: Count = 0
    rows: Count | None = None
    bytes: Count | None = None
    start_ts: str | None = None
    end_ts: str | None = None
    users: Count | None = None
    readable: bool = True

    @classmethod
    def of(cls, items: Collection[Item]) -> "Content":
        """The totals of *items*."""
        tables = [item for item in items if item.kind is Kind.TABLE]
        return cls(
            schemas=len({item.schema for item in items}),
            tables=len(tables),
            views=sum(item.kind is Kind.VIEW for item in items),
            sequences=sum(item.kind is Kind.SEQUENCE for item in items),
            files=sum(item.files for item in items),
            rows=_total(item.rows for item in tables),
            bytes=_total(item.bytes for item in tables),
        )

    def __str__(self) -> str:
        """For people."""
        if not self.readable:
            return "encrypted, its content is not known"
        if self.start_ts or self.end_ts:
            return f"log from {self.start_ts or '?'} to {self.end_ts or '?'}"
        counts = {"schemas": self.schemas, "tables": self.tables, "views": self.views, "sequences": self.sequences}
        told = [f"{number} {word}" for word, number in counts.items() if number or word in {"schemas", "tables"}]
        more = {"users": self.users, "rows": self.rows}
        return ", ".join([*told, *(f"{number} {word}" for word, number in more.items() if number is not None)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a spec names: filter *rules*, or one *schema*, or one *table* of it; none of them is everything."""

    rules: Sequence[str] = ()
    schema: str = ""
    table: str = ""

    @classmethod
    def of_br(cls, spec: Mapping[str, object]) -> "Asked":
        """By ``backupType``: ``db`` and ``table`` name objects in ``spec.br``, else ``tableFilter`` counts."""
        br, kind = spec.get("br"), spec.get("backupType") or "full"
        if kind in {"db", "table"} and isinstance(br, dict):
            return cls(schema=str(br.get("db") or ""), table=str(br.get("table") or "") if kind == "table" else "")
        rules = spec.get("tableFilter")
        return cls(rules=[str(rule) for rule in rules] if isinstance(rules, list) else [])

    @property
    def all(self) -> bool:
        """Whether nothing is named."""
        return not (self.rules or self.schema)

    def selects(self, item: Item) -> bool:
        """Whether *item* is asked for."""
        if self.schema:
            return item.schema.lower() == self.schema.lower() and (not self.table or item.name.lower() == self.table.lower())
        return _selects(self.rules, item)

    def select(self, items: Iterable[Item]) -> list[Item]:
        """Those of *items* that are asked for."""
        return [item for item in items if self.selects(item)]

    def __str__(self) -> str:
        """For messages."""
        if self.schema:
            return f"spec.br.db {self.schema!r}" + (f", spec.br.table {self.table!r}" if self.table else "")
        return f"the filter {list(self.rules)}" if self.rules else "everything"


def judge(asked: Asked, items: Sequence[Item], *, reason: str, verb: str, where: str) -> list[str]:
    """Compare what is *asked* with what there is; returns the rules with wildcards that match nothing, for a remark.

    A failure (PermanentError with *reason*): the whole selection matches nothing; or a rule that names one table (no wildcard,
    no regular expression) matches nothing, although others do. A rule with a wildcard may match nothing beside others, and
    rules with ``!`` never count. An empty schema is matched by a rule whose table part is ``*``. *where* says what was looked
    at, *verb* what did not happen.
    """
    found = asked.select(items)
    if not found and not asked.all:
        raise PermanentError(f"{asked} matches nothing in {where}, so nothing was {verb}", reason=reason, hint=_hint(asked))
    unmatched = [rule for rule in asked.rules if not rule.startswith("!") and not any(_selects([rule], i) for i in found)]
    named = [rule for rule in unmatched if table_filter.literal(rule)]
    if named:
        raise PermanentError(
            f"spec.tableFilter {', '.join(repr(rule) for rule in named[:NAMED])} names nothing in {where}",
            reason=reason,
            hint="Correct the name, or remove the rule; a rule that may match nothing is written with a wildcard.",
        )
    return unmatched


def pack(items: Iterable[Item]) -> bytes:
    """The list, compressed: one JSON object a line, as :class:`Item`."""
    return pack_lines(orjson.dumps(item.plain()) for item in items)


def unpack(data: bytes) -> list[Item]:
    """The list. Raises OSError, EOFError, ValueError or zlib.error on what is none."""
    return [msgspec.json.decode(line, type=Item) for line in unpack_lines(data)]


def _hint(asked: Asked) -> str:
    if asked.schema:
        return "Correct spec.br.db and spec.br.table."
    return "Correct spec.tableFilter. Rules are schema.table; without a wildcard they name one table."


def _selects(rules: Sequence[str], item: Item) -> bool:
    if item.kind is not Kind.SCHEMA:
        return table_filter.selects(rules, item.schema, item.name)
    # A name that no table has: of the rules for it, only those for every table match.
    return table_filter.selects(rules, item.schema, "\0")


def _total(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total
