"""br's command lines: TiDB Operator's, except that a flag is left out where the subcommand does not know it.

Upstream appends every value of ``spec.br`` to every subcommand, and br then refuses with ``unknown flag``. The user's own
``spec.br.options`` stay verbatim, and last of the generic part so that they win.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from backup_manager import log_lines
from backup_manager.errors import UsageError
from backup_manager.tidb.cluster import Cluster
from backup_manager.tools.process import Stream
from backup_manager.tools.tidb_log import Operation, Progress, fields, operation, progress
from crds.contract import tso

NAME: Final = "br"
LOG_TO_TERM: Final = {"BR_LOG_TO_TERM": "1"}
"""Its presence alone sends br's log to stdout. Never set for ``operator base64ify``, whose stdout is its result."""
TYPES: Final = ("full", "db", "table")
_REPLICATION: Final = (
    "--pitr-concurrency=1024",
    "--metadata-download-batch-size=512",
    "--retain-latest-mvcc-version",
)


class LogCommand(StrEnum):
    """A log backup's subcommand; the value is ``--subcommand``'s and br's second word is what follows the dash."""

    START = "log-start"
    STOP = "log-stop"
    PAUSE = "log-pause"
    RESUME = "log-resume"
    TRUNCATE = "log-truncate"
    STATUS = "log-status"
    METADATA = "log-metadata"

    @property
    def verb(self) -> str:
        """br's own word."""
        return self.value.removeprefix("log-")


def backup(spec: Mapping[str, Any], cluster: Cluster, storage: Sequence[str]) -> list[str]:
    """``br backup ...`` for a snapshot."""
    kind = _kind(spec)
    at = _tso(spec.get("commitTs"), "spec.commitTs")
    head = ["backup", kind, *([f"--backupts={at}"] if at else [])]
    numbers = _numbers(spec, {"concurrency": "concurrency", "rateLimit": "ratelimit", "timeAgo": "timeago"} | _COMMON)
    return [*head, *cluster.flags, *_global(spec), *storage, *_selection(spec, kind), *numbers, *_options(spec)]


def restore(spec: Mapping[str, Any], cluster: Cluster, storage: Sequence[str]) -> list[str]:
    """``br restore ...`` of a snapshot."""
    return ["restore", _kind(spec), *_restore_tail(spec, cluster, storage, _kind(spec))]


def restore_point(
    spec: Mapping[str, Any],
    cluster: Cluster,
    storage: Sequence[str],
    *,
    restored_ts: str,
    full_backup: str = "",
    replication_phase: int = 0,
) -> list[str]:
    """``br restore point ...``; *full_backup* is the storage URL of the base snapshot. The mode's flags come last."""
    start = _tso(spec.get("logRestoreStartTs"), "spec.logRestoreStartTs")
    until = _tso(restored_ts, "spec.pitrRestoredTs") or "0"
    if not full_backup and not start:
        raise UsageError(
            "a restore to a point in time has no start",
            hint="Set spec.pitrFullBackupStorageProvider, or spec.logRestoreStartTs.",
        )
    base = f"--full-backup-storage={full_backup}" if full_backup else f"--start-ts={start}"
    phase = replication(replication_phase)
    return ["restore", "point", *_restore_tail(spec, cluster, storage, "full"), f"--restored-ts={until}", base, *phase]


def replication(phase: int) -> list[str]:
    """The flags of one *phase* of a restore beside a compaction; 0 is none. br v8.5.0 does not know all of them."""
    return [f"--restore-phase={phase}", *_REPLICATION] if phase else []


def log(
    command: LogCommand,
    task: str,
    spec: Mapping[str, Any],
    cluster: Cluster,
    storage: Sequence[str],
    *,
    start_ts: str = "",
    until: str = "",
) -> list[str]:
    """``br log ...``. Raises UsageError when a truncate has no *until*."""
    start, until = _tso(start_ts, "spec.commitTs"), _tso(until, "spec.logTruncateUntil")
    if command is LogCommand.TRUNCATE and not until:
        raise UsageError("log-truncate needs --truncate-until", hint="Set spec.logTruncateUntil.")
    known = dict(_COMMON) | {"rateLimit": "ratelimit"}
    match command:
        case LogCommand.START:
            head = [f"--task-name={task}", *([f"--start-ts={start}"] if start else [])]
        case LogCommand.TRUNCATE:
            head = [f"--until={until}"]
        case LogCommand.METADATA:
            head = []
        case LogCommand.STATUS:
            head = ["--json", f"--task-name={task}"]
        case _:
            head = [f"--task-name={task}"]
    selection = _filters(spec) if command is LogCommand.START else []
    tail = [*cluster.flags, *_global(spec), *storage, *selection, *_numbers(spec, known), *_options(spec)]
    return ["log", command.verb, *head, *tail]


def abort(spec: Mapping[str, Any], cluster: Cluster, storage: Sequence[str]) -> list[str]:
    """``br abort restore ...``: remove what a failed restore left. Older br knows no such command and says so with exit 0."""
    return ["abort", "restore", _kind(spec), *cluster.flags, *_global(spec), *storage, *_selection(spec, _kind(spec))]


def encrypts(spec: Mapping[str, Any]) -> bool:
    """Whether the user's options encrypt the backup, so that ``backupmeta`` is not for us to read."""
    return any(option.startswith("--crypter.") for option in _options(spec))


@dataclass(slots=True, kw_only=True)
class BrOutput:
    """What br's lines told so far. *facts* are what ``log metadata`` finds, *document* is the answer of ``log status``;
    only a run that is *asked* for these is searched for them."""

    progress: Progress | None = None
    operations: dict[str, Operation] = field(default_factory=dict)
    summary: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    log_restored: bool = False
    """``restore point`` sums up the base snapshot first: its success says nothing of the log."""
    document: str = ""
    usage: bool = False
    asked: bool = False
    look_within: int = 256 * 1024
    """Every line so far into the log is looked at: br prints its help instead of working, not after it."""

    def select(self, _stream: Stream, block: bytes) -> Iterable[bytes]:
        """The lines of *block* that can tell something: of millions, most tell nothing."""
        if self.asked or self.look_within > 0:
            self.look_within -= len(block)
            return log_lines.lines(block)
        return log_lines.holding(block, _MARKS)

    def line(self, stream: Stream, line: str) -> None:
        """Take in one line."""
        if not (_PROGRESS in line or _SUCCESS in line or _OPERATION in line or line[0:1] != "[" or self.asked):
            return
        if stream is Stream.OUT and (told := progress(line)):
            self.progress = told
        elif announced := operation(line):
            self.operations[announced.operation_id] = announced
        elif _SUCCESS in line:
            self.summary = fields(line)
            self.log_restored |= f'"{RESTORED_LOG}"' in line
        elif "log-max-ts=" in line:  # `br log metadata`
            self.facts = fields(line)
        elif line.startswith('[{"name":'):  # `br log status --json`
            self.document = line
        elif line.startswith("Usage:") or "--help" in line:
            self.usage = True


RESTORED_LOG: Final = "restore log success summary"
_PROGRESS, _SUCCESS, _OPERATION = "[progress] [step=", " success summary", "BR operation started"
_MARKS: Final = tuple(mark.encode() for mark in (_PROGRESS, _SUCCESS, _OPERATION))
"""Long ones, as those are found missing fastest."""
_COMMON: Final = {"checksum": "checksum", "checkRequirements": "check-requirements"}


def _tso(text: Any, field_name: str) -> str:
    """A time of the CR as the TSO that it means; empty for none and for 0. br reads some forms in its local zone, others not
    at all. Raises UsageError."""
    try:
        value = tso.parse(str(text)) if text else 0
    except tso.TimestampError as error:
        raise UsageError(f"{field_name}: {error}", hint="Write a TSO, or a time like 2006-01-02T15:04:05+08:00.") from None
    return str(value) if value else ""


def _kind(spec: Mapping[str, Any]) -> str:
    kind = str(spec.get("backupType") or "full")
    if kind not in TYPES:
        raise UsageError(f"spec.backupType {kind!r} is unknown to br", hint=f"Use one of {', '.join(TYPES)}.")
    return kind


def _restore_tail(spec: Mapping[str, Any], cluster: Cluster, storage: Sequence[str], kind: str) -> list[str]:
    known = {"concurrency": "concurrency"} | _COMMON | {"rateLimit": "ratelimit", "onLine": "online"}
    return [*cluster.flags, *_global(spec), *storage, *_selection(spec, kind), *_numbers(spec, known), *_options(spec)]


def _global(spec: Mapping[str, Any]) -> list[str]:
    return _numbers(spec, {"logLevel": "log-level", "statusAddr": "status-addr", "sendCredToTikv": "send-credentials-to-tikv"})


def _numbers(spec: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    br = spec.get("br") or {}
    return [f"--{flag}={_text(br[name])}" for name, flag in known.items() if br.get(name) not in {None, ""}]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filters(spec: Mapping[str, Any]) -> list[str]:
    return [item for rule in spec.get("tableFilter") or () for item in ("--filter", str(rule))]


def _selection(spec: Mapping[str, Any], kind: str) -> list[str]:
    """Which tables: filters (only ``full`` and ``point`` know them), or the database and table of ``spec.br``."""
    if kind == "full":
        return _filters(spec)
    if spec.get("tableFilter"):
        raise UsageError(
            f"spec.tableFilter does not go with backupType {kind}",
            hint="Use backupType full with the filter, or drop the filter.",
        )
    br = spec.get("br") or {}
    wanted = {"table": ("table", "db"), "db": ("db",)}[kind]
    missing = [name for name in wanted if not br.get(name)]
    if missing:
        raise UsageError(f"backupType {kind} needs spec.br.{missing[0]}", hint=f"Set spec.br.{missing[0]}.")
    return [f"--{name}={br[name]}" for name in wanted]


def _options(spec: Mapping[str, Any]) -> list[str]:
    return [str(option) for option in (spec.get("br") or {}).get("options") or ()]
