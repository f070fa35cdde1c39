"""dumpling: its command line, what it says while it runs, and what it leaves behind.

dumpling takes the password only as ``--password`` (there is no environment variable, file or prompt for it), so it stands in
the tool's own argv inside the Pod; it is masked everywhere we print. Its status port is bound to the loopback interface, since
``/debug/pprof/cmdline`` there would show that argv to the network.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from backup_manager.database import Access
from backup_manager.errors import PermanentError
from backup_manager.tools.process import Stream

NAME: Final = "dumpling"
SUCCESS: Final = "dump data successfully, dumpling will exit now"
METADATA: Final = "metadata"
DEFAULT_FILTERS: Final = ("*.*", "!/^(mysql|test|INFORMATION_SCHEMA|PERFORMANCE_SCHEMA|METRICS_SCHEMA|INSPECTION_SCHEMA)$/.*")
DEFAULT_OPTIONS: Final = ("--threads=16", "--rows=10000")
SYSTEM_SCHEMAS: Final = frozenset(
    {"mysql", "sys", "information_schema", "performance_schema", "metrics_schema", "inspection_schema"}
)

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
class Heard:
    """What dumpling's lines told so far."""

    success: bool = False
    version: str = ""

    def line(self, _stream: Stream, line: str) -> None:
        """Take in one line."""
        if SUCCESS in line:
            self.success = True
        elif (match := _VERSION.match(line)) and match["version"] != "Unknown":
            self.version = match["version"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the file ``metadata`` says."""

    commit_ts: str
    finished: bool


def filters(spec: Mapping[str, Any]) -> Sequence[str]:
    """``spec.tableFilter``, else ``spec.dumpling.tableFilter``, else the default."""
    return spec.get("tableFilter") or (spec.get("dumpling") or {}).get("tableFilter") or DEFAULT_FILTERS


def argv(
    binary: str, *, access: Access, output: str, storage_flags: Sequence[str], spec: Mapping[str, Any], status_port: int
) -> list[str]:
    """dumpling's command line, in TiDB Operator's order; the user's options come last but for TLS, so that they win."""
    options = (spec.get("dumpling") or {}).get("options") or DEFAULT_OPTIONS
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
    command.append(f"--status-addr=127.0.0.1:{status_port}")
    for rule in filters(spec):
        command += ["--filter", rule]
    command += [str(option) for option in options]
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
