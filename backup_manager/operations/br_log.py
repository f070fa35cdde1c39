"""One command of a log backup, with br.

Every command is safe to repeat: a Pod may die after br has done its work and before that was told. So a start that finds its
own task running, and a stop that finds none, have reached what they are for. Only ``log-start`` writes to (and so claims) the
path, and only it waits for other BR tasks on the cluster: a restore must not be overtaken, but stop and pause act on what runs.

No command reaches what is another Backup's. A truncation deletes, so the record beside the data must not name another owner,
and nobody may be reading the log.
Stop, pause and resume act on a task by its name, which two namespaces may share, so it must have begun where our log does.
"""

from typing import TYPE_CHECKING, Any, Final

import orjson

from backup_manager.catalog.ownership import Fence, claimed
from backup_manager.catalog.readers import ReaderActiveError, wait_for_readers
from backup_manager.catalog.record import Owner
from backup_manager.catalog.records import Records
from backup_manager.context import Context, Result
from backup_manager.errors import ManagerError, PermanentError, ToolError, UsageError
from backup_manager.locking import lease
from backup_manager.tidb.pd import LogTask, Pd, TaskState
from backup_manager.tools import br, br_runner
from backup_manager.tools.br import LogCommand
from crds.contract import tso

if TYPE_CHECKING:
    from backup_manager.operations.br_backup import Backup

REASONS: Final = {
    LogCommand.START: "StartLogBackupFailed",
    LogCommand.STOP: "StopLogBackupFailed",
    LogCommand.PAUSE: "PauseLogBackupFailed",
    LogCommand.RESUME: "ResumeLogBackuFailed",  # sic: dashboards know upstream's spelling
    LogCommand.TRUNCATE: "TruncateLogBackuFailed",
    LogCommand.STATUS: "LogBackupStatusFailed",
    LogCommand.METADATA: "LogBackupMetadataFailed",
}

_READER_SECONDS: Final = 600.0
"""Other commands wait behind a truncation, so it does not wait for long; a mark of a dead reader is known as such before."""
_NO_METADATA: Final = "GetLogBackupMetadataFailed"
_GOALS: Final = {
    LogCommand.STOP: (TaskState.ABSENT,),
    LogCommand.PAUSE: (TaskState.PAUSED, TaskState.ERROR_PAUSED),
    LogCommand.RESUME: (TaskState.RUNNING,),
}


def run(context: Context, state: "Backup") -> Result:
    """Do what ``--subcommand`` says. It changes no GC life time: br and TiKV hold it by themselves."""
    command = LogCommand(context.flags.get("subcommand") or LogCommand.START)
    until = str(context.flags.get("truncate-until") or "")
    start = str(context.flags.get("commit-ts") or "")
    told = br.log(
        command,
        context.resource.name,
        context.resource.spec,
        state.cluster,
        state.target.br_arguments,
        start_ts=start,
        until=until,
    )
    asked = command in {LogCommand.STATUS, LogCommand.METADATA}
    work = br_runner.BrRun(argv=[state.binary, *told], env=state.target.env, reason=REASONS[command], asked=asked)
    if command is LogCommand.START:
        return _start(context, state, work)
    context.journal.running()
    context.journal.step(command.value)
    if command is LogCommand.TRUNCATE:
        _await_readers(context, state)
        _refuse_foreign(context, state)
        _refuse_ahead(state, context.resource.name, until)
    task = _task(state, context.resource.name) if command in _GOALS else None
    if task and (other := _other_task(context, state, task)):
        if command is not LogCommand.STOP:
            raise PermanentError(
                f"task {context.resource.name} in the cluster is not this Backup's: {other}",
                reason="LogTaskNotOurs",
                hint="Two log backups of one name use one cluster: create this one under another name.",
            )
        note = f"nothing to stop: task {context.resource.name} in the cluster is not this Backup's: {other}"
        context.log(note)
        return Result(details={"command": command.value, "notes": [note]})
    try:
        heard = br_runner.run(context, work)
    except ToolError as error:
        if not _reached(state, context.resource.name, command):
            raise
        context.log(f"br refused, but the log backup is where {command} is to bring it: {error.message}")
        heard = br.BrOutput()
    details: dict[str, Any] = {"command": command.value, **_read(command, heard)}
    if command is LogCommand.TRUNCATE:
        details["logSuccessTruncateUntil"] = until
        _note(context, state, start=tso.parse(until))
    if task:
        _note(context, state, end=task.checkpoint_ts)
    return Result(details=details)


def _start(context: Context, state: "Backup", work: br_runner.BrRun) -> Result:
    context.journal.path(state.storage.location.url)
    with state.folder.open_until_end(), lease.held(context, state.cluster.namespace, state.cluster.name):
        state.folder.claim(fence=Fence.TOOL)
        context.journal.running()
        context.journal.step(LogCommand.START.value)
        state.folder.confirm()
        try:
            br_runner.run(context, work)
        except ToolError as error:
            if error.problem().reason != "LogTaskExists" or not _is_ours(context, state):
                raise
            context.log("the log backup runs already: an earlier attempt had started it")
        start = _start_of(state)
        _note(context, state, start=start)
    return Result(commit_ts=str(start), details={"command": LogCommand.START.value})


def _await_readers(context: Context, state: "Backup") -> None:
    """A truncation deletes what a restore to a point in time may be reading; a compaction is simply repeated. Raises
    ReaderActiveError."""
    try:
        wait_for_readers(context, state.storage, limit=_READER_SECONDS, kinds=("Restore",))
    except ReaderActiveError as error:
        raise ReaderActiveError(
            f"the log is not truncated: {error.message}",
            hint="It is tried again while backoffRetryPolicy allows, then only for another logTruncateUntil.",
        ) from None


def _refuse_foreign(context: Context, state: "Backup") -> None:
    """Raises ClaimedError when the record of the log names another owner. Without a record (a log that TiDB Operator started)
    the path that the Backup recorded at its start is all there is to go by."""
    record = Records(state.storage, now=context.now).load()
    if record is not None and record.live and record.owner.uid != Owner.of(context.resource).uid:
        raise claimed(state.storage.location.url, record)


def _note(context: Context, state: "Backup", *, start: int = 0, end: int = 0) -> None:
    """Write the ends of the log into its record. The log is as good when that cannot be done."""
    try:
        Records(state.storage, now=context.now).note_log(Owner.of(context.resource), start=start, end=end)
    except ManagerError as error:
        context.log(f"the record of the log could not be updated: {error.message}")


def _task(state: "Backup", name: str) -> LogTask | None:
    """The task in the cluster; None when PD does not answer."""
    try:
        return Pd(state.cluster).log_task(name)
    except ManagerError:
        return None


def _other_task(context: Context, state: "Backup", task: LogTask) -> str:
    """Why the *task* of our name is another log backup's; empty when it is ours, is absent, or nothing tells.

    Where our log begins is known from its ``backupmeta`` and from ``status.commitTs``. Neither is there when no start of ours
    ever succeeded; then no task can be ours.
    """
    if task.state is TaskState.ABSENT or not task.start_ts:
        return ""
    starts, read = {str(context.resource.status.get("commitTs") or "")} - {""}, True
    try:
        starts.add(str(_start_of(state)))
    except ManagerError as error:
        read = error.problem().reason == _NO_METADATA
    if str(task.start_ts) in starts or not (starts or read):
        return ""
    ours = f"the log of this Backup began at {' or '.join(sorted(starts))}" if starts else "this Backup never started one"
    return f"it began at {task.start_ts}, {ours}"


def _refuse_ahead(state: "Backup", task: str, until: str) -> None:
    """br truncates to any time, and one that the log has not come to takes all of it: a slip of the pen. Raises UsageError.

    Without an answer of PD the log is truncated all the same: its task may be long gone.
    """
    try:
        reached = Pd(state.cluster).log_task(task).checkpoint_ts
    except ManagerError:
        return
    if reached and tso.parse(until) > reached:
        raise UsageError(
            f"the log would be truncated to {until}, which lies after its checkpoint {reached}: all of it would be deleted",
            reason="LogTruncateAhead",
            hint="Correct spec.logTruncateUntil, or wait until the log has come that far.",
        )


def _reached(state: "Backup", task: str, command: LogCommand) -> bool:
    """Whether PD says that *command* has nothing left to do: br refuses to pause what is paused, and so on."""
    try:
        return Pd(state.cluster).log_task(task).state in _GOALS.get(command, ())
    except ManagerError:
        return False


def _is_ours(context: Context, state: "Backup") -> bool:
    """Whether the task of our name in PD is the one that writes to our folder: both know when it started."""
    try:
        since = _start_of(state)
        return since > 0 and Pd(state.cluster).log_task(context.resource.name).start_ts == since
    except ManagerError:
        return False


def _start_of(state: "Backup") -> int:
    return br_runner.read_meta(state.storage, reason=_NO_METADATA).start_version


def _read(command: LogCommand, heard: br.BrOutput) -> dict[str, Any]:
    """What the two commands that ask tell."""
    if command is LogCommand.METADATA:
        names = {"log-min-ts": "logMinTs", "log-max-ts": "logMaxTs"}
        return {ours: heard.facts[theirs] for theirs, ours in names.items() if theirs in heard.facts}
    if command is LogCommand.STATUS and heard.document:
        keep = ("name", "start_ts", "checkpoint", "storage", "last_errors")
        return {"tasks": [{name: _text(task.get(name)) for name in keep} for task in orjson.loads(heard.document)]}
    return {}


def _text(value: Any) -> Any:
    """TSOs as text: no reader of JSON may round them."""
    return str(value) if isinstance(value, int) else value
