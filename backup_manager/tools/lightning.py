"""tidb-lightning: its configuration and what it says.

The password goes into a TOML file that only we may read, never into argv. Its status server stays off (a busy port makes
lightning end with 0, having imported nothing), and so do its checkpoints (a stale one makes a later run skip tables). It keeps
no rows that conflict: those are an error, and the schema ``lightning_task_info``, which it would leave behind, is switched off.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from backup_manager import log_lines
from backup_manager.tidb.connection import Access
from backup_manager.tools.process import Stream
from backup_manager.tools.tidb_log import fields

NAME: Final = "tidb-lightning"
SUCCESS: Final = "tidb lightning exit successfully"
CANCELED: Final = "tidb lightning canceled"
Backend = Literal["tidb", "local"]
_FILE, _PROGRESS = '"restore file completed"', "[progress]"
_MARKS: Final = tuple(mark.encode() for mark in (SUCCESS, CANCELED, _FILE, _PROGRESS))
_PROGRESS_SECONDS: Final = 10
_PERCENT: Final = re.compile(r"(?P<percent>[\d.]+)%")
_NOT_DATA: Final = """[[mydumper.files]]
pattern = '(?i).*-schema-sequence\\.sql(?:\\.\\w*)?$'
type = "ignore"
"""
"""lightning takes a file of a sequence for rows of a table ``<name>-schema-sequence``, and ends with an error."""
_ROWS: Final = re.compile(r"kvs=(?P<rows>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One run: from *source* (a folder or a URL that lightning reads) into *access*."""

    source: str
    access: Access
    backend: Backend = "tidb"
    pd_addr: str = ""
    filters: Sequence[str] = ()
    sorted_kv_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One progress line."""

    percent: float
    remaining: str = ""


@dataclass(slots=True, kw_only=True)
class LightningOutput:
    """What lightning's lines told so far."""

    success: bool = False
    canceled: bool = False
    rows: int = 0
    progress: Progress | None = field(default=None)

    def select(self, _stream: Stream, block: bytes) -> Iterable[bytes]:
        """The lines of *block* that can tell something."""
        return log_lines.holding(block, _MARKS)

    def line(self, line: str) -> None:
        """Take in one line."""
        if SUCCESS in line:
            self.success = True
        elif CANCELED in line:
            self.canceled = True
        elif _FILE in line and (match := _ROWS.search(line)):
            self.rows += int(match["rows"])
        elif _PROGRESS in line and (told := progress(line)):
            self.progress = told


def argv(binary: str, config: Path) -> list[str]:
    """lightning's command line; everything else stands in the file."""
    return [binary, "--config", str(config), "--log-file=-"]


def toml(work: Import) -> str:
    """The configuration file."""
    tls = work.access.tls
    sections: dict[str, Mapping[str, Any]] = {
        "lightning": {
            "level": "info",
            "status-addr": "",
            "server-mode": False,
            "check-requirements": True,
            "task-info-schema-name": "",
        },
        "checkpoint": {"enable": False},
        "tikv-importer": {"backend": work.backend}
        | ({"sorted-kv-dir": str(work.sorted_kv_dir)} if work.backend == "local" and work.sorted_kv_dir else {}),
        "mydumper": {"data-source-dir": work.source, "default-file-rules": True}
        | ({"filter": list(work.filters)} if work.filters else {}),
        "tidb": {"host": work.access.host, "port": work.access.port, "user": work.access.user, "password": work.access.password}
        | ({"pd-addr": work.pd_addr} if work.pd_addr else {})
        | ({"tls": "skip-verify"} if tls and not tls.verify else {}),
        "cron": {"log-progress": f"{_PROGRESS_SECONDS}s"},
    }
    if tls:
        certificate = {"cert-path": str(tls.cert), "key-path": str(tls.key)}
        sections["security"] = ({"ca-path": str(tls.ca)} if tls.verify else {}) | certificate
    return "\n".join((*(_section(name, values) for name, values in sections.items()), _NOT_DATA))


def progress(line: str) -> Progress | None:
    """The progress that *line* tells.

    >>> progress('[2026/01/01 00:00:00.000 +00:00] [INFO] [import.go:1] [progress] [total=12.3%] [remaining=40s]')
    Progress(percent=12.3, remaining='40s')
    """
    found = fields(line)
    match = _PERCENT.match(found.get("total", ""))
    return Progress(percent=float(match["percent"]), remaining=found.get("remaining", "")) if match else None


def _section(name: str, values: Mapping[str, Any]) -> str:
    return "".join([f"[{name}]\n", *(f"{key} = {_toml(value)}\n" for key, value in values.items())])


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case _:
            return f'"{"".join(_escaped(char) for char in str(value))}"'


def _escaped(char: str) -> str:
    if char in {'"', "\\"}:
        return f"\\{char}"
    return f"\\u{ord(char):04x}" if ord(char) < 32 or ord(char) == 127 else char
