"""dumpling: its command line, what it says while it runs, and what it leaves behind.

dumpling takes the password only as ``--password`` (there is no environment variable, file or prompt for it), so it stands in
the tool's own argv inside the Pod; it is masked everywhere we print. Its status port is bound to the loopback interface, since
``/debug/pprof/cmdline`` there would show that argv to the network.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from backup_manager.content import LIGHTNING_SCHEMA, Item, Kind
from backup_manager.errors import PermanentError
from backup_manager.tidb.connection import Access
from backup_manager.tidb.schema_objects import OBJECT_FILE
from backup_manager.tools import dump_options
from backup_manager.tools.process import Stream
from backup_manager.tools.tidb_log import fields

NAME: Final = "dumpling"
SUCCESS: Final = "dump data successfully, dumpling will exit now"
METADATA: Final = "metadata"
DEFAULT_FILTERS: Final = (
    "*.*",
    "!/^(mysql|test|INFORMATION_SCHEMA|PERFORMANCE_SCHEMA|METRICS_SCHEMA|INSPECTION_SCHEMA)$/.*",
    f"!{LIGHTNING_SCHEMA}.*",
)
DEFAULT_OPTIONS: Final = ("--threads=16", "--rows=10000")

_FINISHED: Final = "Finished dump at"
_METRIC: Final = re.compile(
    r"^dumpling_dump_(?P<name>finished_size|finished_rows|estimate_total_rows)(?:\{[^}]*\})? (?P<value>\S+)$", re.M
)
_VERSION: Final = re.compile(r"Release version:\s+(?P<version>\S+)")
_SCHEMA_FILE: Final = re.compile(r"^(?P<schema>[^/]+?)-schema-create\.sql(?:\.\w+)?$")
_TABLE_FILE: Final = re.compile(
    r"^(?P<schema>[^/.]+)\.(?P<table>[^/.]+?)(?:-schema\.sql|\.\d{9,13}\.(?:sql|csv|parquet))(?:\.\w+)?$"
)
_OTHER_FILE: Final = re.compile(r"-schema-(?:create|view|sequence|triggers|post)\.sql|-placement-policy-create\.sql")
_DATA_FILE: Final = re.compile(r"^(?P<schema>[^/.]+)\.(?P<table>[^/.]+?)\.\d{9,13}\.(?:sql|csv|parquet)(?P<packed>\.\w+)?$")
_OPENED, _FINISHED_CHUNK, _RETRIED = '["opened file"]', '["finish dumping table(chunk)"]', '["fail to dumping table(chunk)'
_DEBUG: Final = re.compile(r"\[[^\]]*\] \[DEBUG\] ")
_LOG_LEVEL: Final = "--loglevel=debug"
"""Only at this level does dumpling tell its files, and rows and bytes of each chunk: a few lines for each file."""


class CommitTsError(PermanentError):
    """The dump's ``metadata`` does not say its commit TS."""

    reason = "GetCommitTsFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """dumpling's own numbers, from its status port."""

    size: int
    rows: int
    estimated_rows: int

    @property
    def percent(self) -> float | None:
        """Rows against the server's estimate; never 100, as an estimate may be low. None without an estimate."""
        return min(100 * self.rows / self.estimated_rows, 99.0) if self.estimated_rows > 0 else None


@dataclass(slots=True, kw_only=True)
class DumplingOutput:
    """What dumpling's lines told so far."""

    success: bool = False
    version: str = ""
    opened: set[str] = field(default_factory=set)
    """Paths of the files that it wrote, as it names them. Empty when its log does not tell (``--loglevel`` in the options)."""
    tables: dict[tuple[str, str], "Written"] = field(default_factory=dict)

    def line(self, _stream: Stream, line: str) -> None:
        """Take in one line."""
        if _OPENED in line:
            self.opened.add(fields(line).get("path", ""))
        elif _FINISHED_CHUNK in line or _RETRIED in line:
            self._chunk(line, again=_RETRIED in line)
        elif SUCCESS in line:
            self.success = True
        elif (match := _VERSION.match(line)) and match["version"] != "Unknown":
            self.version = match["version"]

    def _chunk(self, line: str, *, again: bool) -> None:
        """A chunk is one SELECT; each file of it has a line with the rows and bytes in it."""
        found = fields(line)
        written = self.tables.setdefault((found.get("database", ""), found.get("table", "")), Written())
        if again:
            written.exact = False
        elif "finished size" in found:
            written.files += 1
            written.rows += int(found.get("finished rows", "0"))
            written.bytes += int(found["finished size"])

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Names of the files that dumpling wrote and that are not among *keys*."""
        kept = set(keys)
        return sorted(name for name in {path.rpartition("/")[2] for path in self.opened} if name and name not in kept)

    def items(self, listed: Sequence[Item]) -> list[Item]:
        """The objects *listed* by their files, with the rows and bytes that dumpling told of each table."""
        if not self.opened:
            return list(listed)
        return [self._with_numbers(item) if item.kind is Kind.TABLE else item for item in listed]

    def _with_numbers(self, item: Item) -> Item:
        written = self.tables.get((item.schema, item.name), Written())
        return item.but(rows=written.rows, bytes=written.bytes) if written.exact else item


@dataclass(slots=True, kw_only=True)
class Written:
    """What dumpling told of one table; not *exact* after a chunk of it was written again."""

    files: int = 0
    rows: int = 0
    bytes: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the file ``metadata`` says."""

    commit_ts: str
    finished: bool


def filters(spec: Mapping[str, Any]) -> Sequence[str]:
    """``spec.tableFilter``, else ``spec.dumpling.tableFilter``, else the default."""
    return spec.get("tableFilter") or (spec.get("dumpling") or {}).get("tableFilter") or DEFAULT_FILTERS


def options(spec: Mapping[str, Any]) -> dump_options.DumpOptions:
    """The user's options, else the default ones. Raises UsageError for one that no import could follow."""
    return dump_options.read(spec, DEFAULT_OPTIONS)


def argv(
    binary: str,
    *,
    access: Access,
    output: str,
    storage_flags: Sequence[str],
    rules: Sequence[str],
    words: Sequence[str],
    status_port: int,
) -> list[str]:
    """dumpling's command line, in TiDB Operator's order; the user's options (*words*) come last but for TLS, so that they win.

    Views and sequences are not its work (:mod:`backup_manager.tidb.schema_objects`).
    """
    command = [
        binary,
        f"--output={output}",
        *storage_flags,
        f"--host={access.host}",
        f"--port={access.port}",
        f"--user={access.user}",
    ]
    if access.password:
        command.append(f"--password={access.password}")
    command += [f"--status-addr=127.0.0.1:{status_port}", _LOG_LEVEL]
    for rule in rules:
        command += ["--filter", rule]
    command += words
    if access.tls:
        if access.tls.verify:
            command.append(f"--ca={access.tls.ca}")
        command += [f"--cert={access.tls.cert}", f"--key={access.tls.key}"]
    return command


def metrics(text: str) -> Metrics | None:
    """The numbers in a ``/metrics`` answer; None when they are not there yet."""
    found = {match["name"]: match["value"] for match in _METRIC.finditer(text)}
    try:
        size, rows = int(float(found["finished_size"])), int(float(found["finished_rows"]))
        return Metrics(size=size, rows=rows, estimated_rows=int(float(found.get("estimate_total_rows", "0"))))
    except (KeyError, ValueError, OverflowError):
        return None


def metadata(text: str) -> Metadata:
    """Read ``metadata``: the first line with ``Pos`` holds the commit TS. Raises CommitTsError when there is none.

    >>> metadata("SHOW MASTER STATUS:\\n\\tLog: tidb-binlog\\n\\tPos: 409054741514944513\\n").commit_ts
    '409054741514944513'
    """
    line = next((line for line in text.splitlines() if "Pos" in line), "")
    parts = line.split(":")
    commit_ts = parts[1].strip() if len(parts) == 2 else ""
    if not commit_ts:
        raise CommitTsError(
            "the dump's file `metadata` has no position, so its time is unknown",
            hint="Dump from TiDB itself, with a user that may run SHOW MASTER STATUS (REPLICATION CLIENT, or SUPER).",
        )
    return Metadata(commit_ts=commit_ts, finished=_FINISHED in text)


def is_dump_file(key: str) -> bool:
    """Whether *key* is a schema or data file, which a dump that matched nothing has none of."""
    return bool(_TABLE_FILE.match(key) or _OTHER_FILE.search(key))


def says_level(spec: Mapping[str, Any]) -> bool:
    """Whether the options choose a log level: then rows and bytes of each table are told only at ``debug``."""
    return any(str(option).startswith("--loglevel") for option in (spec.get("dumpling") or {}).get("options") or ())


def without_debug(block: str) -> str:
    """*block*, several lines, without those of level DEBUG.

    >>> without_debug("[2026/01/01] [INFO] [a] [x]\\n[2026/01/01] [DEBUG] [a] [y]\\nz")
    '[2026/01/01] [INFO] [a] [x]\\nz'
    """
    if "[DEBUG]" not in block:
        return block
    return "\n".join(line for line in block.split("\n") if not _DEBUG.match(line))


def table_of(key: str) -> str:
    """``schema.table`` of the file *key*, for messages; empty for other files.

    >>> table_of("shop.we%2Eird t.000000000.sql")
    'shop.we.ird t'
    """
    match = _TABLE_FILE.match(key)
    return f"{unquote(match['schema'])}.{unquote(match['table'])}" if match else ""


def items(files: Iterable[tuple[str, int]]) -> list[Item]:
    """The objects of a dump, by names and sizes of its *files*. Sizes of compressed files tell no bytes.

    >>> found = items([("a-schema-create.sql", 9), ("a.v-schema.sql", 9), ("a.v-schema-view.sql", 9), ("a.t.000000000.sql", 7)])
    >>> [(item.kind.value, item.place, item.files, item.bytes) for item in found]
    [('table', 'a.t', 1, 7), ('view', 'a.v', 0, None)]
    """
    kinds: dict[tuple[str, str], Kind] = {}
    data: dict[tuple[str, str], tuple[int, int | None]] = {}
    empty: set[str] = set()
    for key, size in files:
        if match := OBJECT_FILE.match(key):
            kinds[unquote(match["schema"]), unquote(match["name"])] = Kind(match["kind"])
        elif match := _SCHEMA_FILE.match(key):
            empty.add(unquote(match["schema"]))
        elif match := _TABLE_FILE.match(key):
            place = unquote(match["schema"]), unquote(match["table"])
            kinds.setdefault(place, Kind.TABLE)
            if told := _DATA_FILE.match(key):
                count, total = data.get(place, (0, 0))
                data[place] = count + 1, None if told["packed"] or total is None else total + size
    found = []
    for place, kind in sorted(kinds.items()):
        count, total = data.get(place, (0, 0))
        found.append(Item(kind=kind, schema=place[0], name=place[1], files=count, bytes=total if kind is Kind.TABLE else None))
    alone = empty - {schema for schema, _ in kinds}
    return [*found, *(Item(kind=Kind.SCHEMA, schema=schema) for schema in sorted(alone))]


def schemas(keys: Iterable[str]) -> set[str]:
    """The databases that a dump holds, by its file names.

    >>> sorted(schemas(["shop-schema-create.sql", "a%2Eb-schema-create.sql.gz", "shop.t-schema.sql"]))
    ['a.b', 'shop']
    """
    return {unquote(match["schema"]) for key in keys if (match := _SCHEMA_FILE.match(key))} | {name for name, _ in tables(keys)}


def tables(keys: Iterable[str]) -> set[tuple[str, str]]:
    """The tables that a dump holds, by its file names (schema files or data files).

    >>> sorted(tables(["shop.t-schema.sql", "shop.we%2Eird t.000000000.sql", "metadata", "shop-schema-create.sql"]))
    [('shop', 't'), ('shop', 'we.ird t')]
    """
    return {(unquote(match["schema"]), unquote(match["table"])) for key in keys if (match := _TABLE_FILE.match(key))}
