"""What a tool's error means: a reason, whether waiting helps, and what to do next.

br, dumpling and lightning share their storage and database code, so one table serves all three. Its texts are theirs, taken
from the real binaries. The same words can mean different things to different commands ("already exists" of a log task, of a
restore, of a table), so an entry that belongs to some commands names them and is not searched for the others. What the table
does not know is reported in the tool's own words under the operation's general reason.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from backup_manager.errors import ManagerError, RunInterruptedError, ToolError
from backup_manager.masking import Masker
from backup_manager.tools.flag_probe import REFUSAL
from backup_manager.tools.process import ProcessResult
from backup_manager.tools.tidb_log import fields, is_error_line

MESSAGE_LIMIT: Final = 400
RESTORE_TASK_RUNNING: Final = "RestoreTaskRunning"
"""br registers a restore in the cluster; one that was killed counts as running until its last heartbeat is 5 minutes old."""
_NETWORK: Final = r"dial tcp|invalid connection|bad connection|connection refused|i/o timeout|broken pipe|connection reset"
_QUOTED: Final = re.compile(r"`[^`]*`|(?<=Duplicate entry )'.*'(?= for key)")
"""Names and values of the user in an error: they are no words of the tool's."""


class Verb(StrEnum):
    """What a tool was asked to do."""

    EXPORT = "export"
    IMPORT = "import"
    BACKUP = "backup"
    RESTORE = "restore"
    POINT = "restore point"
    LOG = "log"
    ABORT = "abort"
    COMPACT = "compact"


_VERB_OF_TOOL: Final = {"dumpling": Verb.EXPORT, "tidb-lightning": Verb.IMPORT, "tikv-ctl": Verb.COMPACT}
_BR_COMMANDS: Final = (
    (("restore", "point"), Verb.POINT),
    (("restore",), Verb.RESTORE),
    (("backup",), Verb.BACKUP),
    (("log",), Verb.LOG),
    (("abort",), Verb.ABORT),
)


def verb_of(argv: Sequence[str]) -> Verb | None:
    """What the command line *argv* (tool first) asks for; None for one that is not known.

    >>> verb_of(["/bin/br", "restore", "point", "--pd=x"]), verb_of(["dumpling", "-h", "db"])
    (<Verb.POINT: 'restore point'>, <Verb.EXPORT: 'export'>)
    """
    tool, *rest = argv
    found = _VERB_OF_TOOL.get(tool.rpartition("/")[2])
    return found or next((verb for words, verb in _BR_COMMANDS if tuple(rest[: len(words)]) == words), None)


_WRITES_SNAPSHOT: Final = frozenset({Verb.BACKUP, Verb.EXPORT})
_RESTORES: Final = frozenset({Verb.RESTORE, Verb.POINT, Verb.IMPORT, Verb.ABORT})
_BY_BR: Final = frozenset({Verb.BACKUP, Verb.RESTORE, Verb.POINT, Verb.LOG, Verb.ABORT})
_USES_SQL: Final = frozenset({Verb.EXPORT, Verb.IMPORT})
_EVERY: Final = frozenset(Verb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One failure that we know. *pattern* is searched in the tool's error text, whatever the case of its letters, when the
    tool was asked for one of *verbs*.

    It is compiled when a tool has failed, not at the start of every run.
    """

    pattern: str
    reason: str
    hint: str
    retryable: bool = False
    verbs: frozenset[Verb] = _EVERY


def _known(pattern: str, reason: str, hint: str, *, retryable: bool = False, verbs: frozenset[Verb] = _EVERY) -> Known:
    return Known(pattern=pattern, reason=reason, hint=hint, retryable=retryable, verbs=verbs)


KNOWN: Final = (
    _known(r"no space left on device|disk quota exceeded", "DiskFull", "Free space on the volume, or use a larger one."),
    _known(REFUSAL.pattern, "ToolFlagUnknown", "Remove it from the options, or set a toolImage that knows it."),
    _known(
        r"SlowDown|TooManyRequests|reduce your request rate|status code: 503|ServerBusy",
        "StorageThrottled",
        "The storage asks to slow down: lower the number of threads, or rateLimit and concurrency.",
        retryable=True,
    ),
    _known(
        r"Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|NoCredentialProviders|ExpiredToken|InvalidToken"
        r"|AuthenticationFailed|AuthorizationFailure|could not find default credentials|invalid_grant"
        r"|oauth2: cannot fetch token",
        "StorageAccessDenied",
        "Check the keys in the storage's Secret, their right to read and write this bucket, and the node's clock.",
    ),
    _known(
        r"failed to get region of bucket .*NotFound|NoSuchBucket|bucket does(?:n't| not) exist|ContainerNotFound",
        "BucketNotFound",
        "Create the bucket, or correct its name in the spec.",
    ),
    _known(
        r"RequestError: send request failed|failed to get region of bucket .*(?:dial tcp|timeout)|storage: .*dial tcp"
        r"|dial tcp [^ ]*: .*(?:googleapis|blob\.core|amazonaws)",
        "StorageUnreachable",
        "Check the storage's endpoint and that no network policy is between.",
        retryable=True,
    ),
    _known(
        r"failed to get cluster id|cannot connect to PD|connection error: desc|trying to connect to etcd|pd: .*dial tcp"
        r"|context deadline exceeded: connection error",
        "PDUnreachable",
        "Check that the TidbCluster runs and that its PD service can be reached from this namespace.",
        retryable=True,
    ),
    _known(
        r"Error 1045\b|Access denied for user",
        "DatabaseAccessDenied",
        "Check the user in the spec, and the key `password` of the Secret named by secretName.",
        verbs=_USES_SQL,
    ),
    _known(
        r"Error (?:1142|1044|1227|8121)\b|command denied to user",
        "DatabaseAccessDenied",
        "Grant the user this privilege.",
        verbs=_USES_SQL,
    ),
    _known(
        r"is less than (?:the )?GC safepoint|GC safepoint .* exceed",
        "GarbageCollected",
        "The cluster no longer keeps that time. Start the log backup now: a new Backup with a later commitTs, or none.",
        verbs=frozenset({Verb.LOG}),
    ),
    _known(
        r"GC life time is shorter than transaction duration|is less than (?:the )?GC safepoint|GC safepoint .* exceed",
        "GarbageCollected",
        "Raise spec.tikvGCLifeTime above the time the run takes.",
        retryable=True,
        verbs=_EVERY - {Verb.LOG, Verb.COMPACT},
    ),
    _known(
        r"existing lock will expire|checkpoint.*lock",
        "CheckpointLocked",
        "An earlier br still holds its lock on this path, for at most 5 minutes.",
        retryable=True,
        verbs=frozenset({Verb.BACKUP}),
    ),
    _known(
        r"backup meta file exists|backupmeta.* exists|backup lock file .* exist|have been used for other purpose"
        r"|path.*not empty",
        "BackupPathInUse",
        "The path holds another backup: choose another prefix. Delete what is there only if nobody needs that backup.",
        verbs=frozenset({Verb.BACKUP, Verb.EXPORT, Verb.LOG}),
    ),
    _known(
        r"task with ID \d+ already exists and is running",
        RESTORE_TASK_RUNNING,
        "An earlier br that was killed counts as running for 5 minutes. Otherwise another br restores into this cluster.",
        retryable=True,
        verbs=_RESTORES - {Verb.IMPORT},
    ),
    _known(
        r"log backup task is running: .*please stop the task before restore",
        "LogBackupRunning",
        "Stop the target's log backup (logStop: true in its Backup), restore, then start it again and take a full backup.",
        verbs=frozenset({Verb.RESTORE, Verb.POINT}),
    ),
    _known(
        r"ErrStreamLogTaskExist|already .*log backup task|task .*already exist",
        "LogTaskExists",
        "br keeps one log backup a cluster. Stopping the other one ends what can be restored from it to any point in time.",
        verbs=frozenset({Verb.LOG}),
    ),
    _known(
        r"ErrTaskNotFound|no such task",
        "LogTaskNotFound",
        "The cluster knows no log backup of this name: it was stopped from outside, or never started.",
        verbs=frozenset({Verb.LOG}),
    ),
    _known(
        r"log-backup\.enable",
        "LogBackupDisabled",
        "Set TiKV's log-backup.enable to true and restart the stores.",
        verbs=frozenset({Verb.LOG}),
    ),
    _known(
        r"cluster is not fresh|ErrRestoreNotFreshCluster|already existed in restored cluster|Duplicate entry|not empty",
        "TargetNotEmpty",
        "The target holds data: restore into an empty cluster, or drop these tables first if their rows are not needed.",
        verbs=frozenset({Verb.RESTORE, Verb.POINT, Verb.IMPORT}),
    ),
    _known(
        r"doesn't exist or contains no files|ErrEmptySourceDir|backupmeta.*(?:not exist|NoSuchKey|no such)"
        r"|the specified key does not exist",
        "SourceNotFound",
        "There is no backup at this path: check bucket, prefix or path in the spec.",
        verbs=_RESTORES | {Verb.COMPACT},
    ),
    _known(
        r"too many SSTs|ErrKVEpochNotMatch|region is unavailable|Region.*unavailable|tikv server timeout|Error 900[0-9]\b",
        "ClusterBusy",
        "TiKV does not keep up or is restarting; check the cluster's health.",
        retryable=True,
        verbs=_EVERY - {Verb.COMPACT},
    ),
    _known(
        _NETWORK,
        "DatabaseUnreachable",
        "Check that TiDB runs and that no network policy is between.",
        retryable=True,
        verbs=_USES_SQL,
    ),
    _known(
        _NETWORK,
        "ClusterUnreachable",
        "Check that PD and TiKV run and can be reached from this namespace.",
        retryable=True,
        verbs=_BY_BR,
    ),
    _known(
        _NETWORK,
        "StorageUnreachable",
        "Check the storage's endpoint and that no network policy is between.",
        retryable=True,
        verbs=frozenset({Verb.COMPACT}),
    ),
)
"""The first entry that fits counts."""

_SAID: Final = re.compile(
    r"(?:create dumper failed|dump failed|parse arguments failed|tidb lightning encountered error"
    r"|failed to start HTTP server): (.*)|^Error: (.*)"
)
_STACK: Final = re.compile(r"^\s*(?:at |goroutine |[\w./@-]+\.\(?\*?\w+\)?\.?[\w.()*]*$|\S+\.go:\d+|\S+/\S+@\S+)")
_NOISE: Final = re.compile(
    r"^(?:Detail BR log in|Usage:|\s*$|Release [Vv]ersion|Git |Build |Go [Vv]ersion)|gracefully shutting down"
)


def error_text(ended: ProcessResult) -> str:
    """The line that matters among a tool's last ones, with what follows it (never a Go stack).

    A tool's own closing words come first, then the error of its last ERROR log line, then its last line of stderr.
    """
    for lines in (ended.err, ended.out):
        for index in range(len(lines) - 1, -1, -1):
            if said := _SAID.search(lines[index]):
                first = said[1] if said[1] is not None else said[2]
                return " ".join([first.strip(), *_continued(lines[index + 1 :])])
    for line in reversed((*ended.out, *ended.err)):
        if is_error_line(line):
            found = fields(line)
            return found.get("error") or found.get("errorVerbose", line).splitlines()[0]
    told = [line.strip() for line in (*ended.err, *ended.out) if not _NOISE.search(line) and not line.startswith("[")]
    return told[-1] if told else ""


def _continued(lines: tuple[str, ...]) -> list[str]:
    """The rest of an error that spans lines (AWS puts the cause there); ends at a log line or a stack."""
    rest: list[str] = []
    for line in lines:
        if line.startswith("[") or _STACK.search(line) or len(rest) >= 3:
            break
        if line.strip():
            rest.append(line.strip())
    return rest


def known_failure(text: str, verb: Verb | None) -> Known | None:
    """The entry of :data:`KNOWN` for a tool's error *text*; without a *verb* the entries of every one are searched."""
    searched = _QUOTED.sub("", text)
    fits = (item for item in KNOWN if verb is None or verb in item.verbs)
    return next((item for item in fits if re.search(item.pattern, searched, re.IGNORECASE)), None)


def failure(
    tool: str, ended: ProcessResult, *, reason: str, mask: Masker, hint: str = "", argv: Sequence[str] = ()
) -> ManagerError:
    """The error to raise for a tool that did not do its work.

    *reason* is the operation's general one. *argv* is the command line, which says what *tool* was asked to do; dumpling,
    tidb-lightning and tikv-ctl do one thing each and need none.
    """
    if ended.stopped:
        return RunInterruptedError(
            f"{tool} was stopped before it ended",
            hint="The run is repeated only if backoffRetryPolicy has a retry left.",
        )
    text = mask(error_text(ended))[:MESSAGE_LIMIT]
    if ended.killed_by is not None:
        return ToolError(
            f"{tool} {ended.how}",
            reason="ToolKilled",
            retryable=True,
            hint="Look at the Pod's last state; raise spec.resources.limits.memory, or use fewer threads.",
        )
    known = known_failure(text, verb_of(argv or [tool]))
    message = f"{tool} {ended.how}: {text}" if text else f"{tool} {ended.how}"
    if known:
        return ToolError(message, reason=known.reason, hint=known.hint, retryable=known.retryable)
    return ToolError(
        message, reason=reason, hint=hint or f"Its log has the details (kubectl logs): look for [ERROR] of {tool}."
    )
