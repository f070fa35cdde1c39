"""Watch a log backup: checkpoint, lag, pause reason and last error, each minute, for as long as the Pod lives.

The report's ``result`` is ``{checkpointTs, lagSeconds, taskState, pauseReason, lastError, observedAt}``; what they mean for the
Backup is the hook's to decide. A PD that cannot be asked is told as ``unknown`` with the reason, and asked again.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from backup_manager.context import Context, Result
from backup_manager.errors import ManagerError, UsageError
from backup_manager.tidb.pd import LogTask, Pd, TaskState
from backup_manager.tools import br_runner
from crds.contract import durations, tso

INTERVAL: Final = 60.0
"""Seconds between two looks, as TiDB Operator's tracker has it."""
ENV_INTERVAL: Final = "BACKUP_MANAGER_LOG_INTERVAL"
"""Another time between two looks, as a Go duration of at least a second."""


def run(context: Context) -> Result:
    """Never returns by itself: SIGTERM ends it."""
    if (context.resource.spec.get("backupMode") or "snapshot") != "log" or context.resource.spec.get("br") is None:
        raise UsageError("this Backup is no log backup", hint="Set spec.backupMode: log and spec.br, or do not watch it.")
    pd, last, said = Pd(br_runner.cluster(context)), 0, ""
    seconds = interval(context.env)
    while True:
        task = look(pd, context.resource.name)
        last = task.checkpoint_ts or last
        context.journal.note(**told(task, last, context.now()))
        context.journal.running()
        line = f"log backup {context.resource.name}: {task.state} {task.pause_reason or task.last_error}".rstrip()
        if line != said:  # the log tells changes; the report tells every minute
            context.log(line)
            said = line
        context.stop.wait(seconds)


def interval(env: Mapping[str, str]) -> float:
    """Seconds between two looks. Raises UsageError."""
    text = env.get(ENV_INTERVAL)
    if not text:
        return INTERVAL
    try:
        seconds = durations.parse(text).total_seconds()
    except durations.DurationError as error:
        raise UsageError(f"{ENV_INTERVAL}: {error}", hint="Give a duration like 30s in spec.env, or leave it out.") from None
    if seconds < 1:
        raise UsageError(f"{ENV_INTERVAL}: {text} is less than a second", hint="PD need not be asked more often.")
    return seconds


def look(pd: Pd, task: str) -> LogTask:
    """One look that always has an answer."""
    try:
        return pd.log_task(task)
    except ManagerError as error:
        return LogTask(state=TaskState.UNKNOWN, last_error=error.message)


def told(task: LogTask, checkpoint: int, now: datetime) -> dict[str, str | int]:
    """What the report says; *checkpoint* is the last one known."""
    found: dict[str, str | int] = {
        "taskState": task.state.value,
        "pauseReason": task.pause_reason,
        "lastError": task.last_error,
        "observedAt": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if checkpoint:
        found["checkpointTs"] = str(checkpoint)
        found["lagSeconds"] = max(0, round((now - tso.to_datetime(checkpoint)).total_seconds()))
    return found
