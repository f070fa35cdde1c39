"""What the cluster says about the task of a log backup, and what follows when the status says something else.

While the task should be there, one light Job, ``backup-<backup>-log-watch``, asks the cluster every minute and reports what it
saw. Those reports alone move anything here, never the clock:

================== ======================== =========================================================
the task is        the status says          what follows
================== ======================== =========================================================
as the status says                          the facts: checkpoint, lag, when it was seen
running            Paused, RetryFailed      ``Running``, reason ``LogBackupKernelSync``, at the second look
paused by hand     Running, RetryFailed     ``Paused``, reason ``LogBackupKernelSync``, at the second look
paused by an error Running                  ``RetryFailed``, reason ``LogBackupErrorPaused``, at once
absent             it is to be stopped      ``Stopped``, reason ``LogBackupKernelSync``, at the second look
absent             anything else            ``Failed``, reason ``LogBackupTaskNotFound``, at the second look
unknown            anything                 ``Failed``, reason ``LogBackupStateQueryFailed``, after a week of it
================== ======================== =========================================================

Then the spec goes on from there: a task that somebody paused by hand is resumed when the spec says ``log-start``. A *second
look* is a later report that says the same; both must be younger than the end of the last command, whose effect they would miss.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from app.domain.config import Config
from app.domain.decision import Drop
from app.domain.job.observed import JOB, Job, JobIntent, Purpose
from app.domain.job.run import stall_cause, stall_time
from app.domain.observed import Observed, metadata
from app.domain.status import Phase, StatusBuilder, holds
from app.domain.times import moment, stamp
from app.domain.validation import admit
from crds.contract import durations, names
from crds.contract.report import Phase as ReportPhase

COMMAND: Final = "log-watch"
GRACE_ANNOTATION: Final = "tidb.pingcap.com/log-backup-state-query-failure-grace-period"
"""On a log Backup: a Go duration, how long its state may stay unknown."""
TASK_NOT_FOUND: Final = "LogBackupTaskNotFound"
_SYNCED: Final = "LogBackupKernelSync"
_GRACE: Final = timedelta(hours=168)
_AGAIN: Final = 60
"""Seconds until a watch that ended by itself is replaced."""
_WATCHED: Final = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.RETRY_FAILED})
_MAX_TEXT: Final = 500


class TaskState(StrEnum):
    """The task as the cluster sees it."""

    RUNNING = "running"
    PAUSED = "paused"
    ERROR_PAUSED = "errorPaused"
    ABSENT = "absent"
    UNKNOWN = "unknown"


_STATES: Final = frozenset(TaskState)
_CORRECTED: Final = {TaskState.RUNNING: Phase.RUNNING, TaskState.PAUSED: Phase.PAUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the watch reported last. *checkpoint* is a TSO as text."""

    state: TaskState
    at: datetime
    checkpoint: str = ""
    lag: int | None = None
    pause_reason: str = ""
    last_error: str = ""

    @classmethod
    def of(cls, job: Job | None) -> "Observation | None":
        """Read the report of the watch; None when it has not looked yet, or says what this version does not understand."""
        result = job.report.result if job and job.report else {}
        at, state = moment(result.get("observedAt")), result.get("taskState")
        if at is None or state not in _STATES:
            return None
        checkpoint, lag = str(result.get("checkpointTs") or ""), result.get("lagSeconds")
        return cls(
            state=TaskState(state),
            at=at,
            checkpoint=checkpoint if checkpoint.isdigit() and int(checkpoint) else "",
            lag=max(0, int(lag)) if isinstance(lag, int | float) else None,
            pause_reason=str(result.get("pauseReason") or "")[:_MAX_TEXT],
            last_error=str(result.get("lastError") or "")[:_MAX_TEXT],
        )

    def task(self, since: datetime) -> dict[str, Any]:
        """``status.logTask``: the task has been in this state from *since* on."""
        found = {
            "state": str(self.state),
            "since": stamp(since),
            "observedAt": stamp(self.at),
            "lagSeconds": self.lag,
            "pauseReason": self.pause_reason,
            "lastError": self.last_error,
        }
        return {key: value for key, value in found.items() if value not in (None, "")}


def last_command_end(entries: Iterable[Mapping[str, Any]]) -> datetime | None:
    """When the last command ended, as *entries* of ``status.logSubCommandStatuses`` tell; earlier looks do not count."""
    return max((time for entry in entries if (time := moment(entry.get("timeCompleted")))), default=None)


def merge_observation(builder: StatusBuilder, observation: Observation | None, settled: datetime | None) -> None:
    """Copy what is new in *observation* into the status."""
    if builder.phase == Phase.STOPPED:
        builder.put(logTask=None)
    before: Mapping[str, Any] = builder.get("logTask") or {}
    seen = moment(before.get("observedAt"))
    stale = observation is None or (seen and observation.at <= seen) or (settled and observation.at <= settled)
    if observation is None or stale or builder.phase not in _WATCHED:
        return
    since = moment(before.get("since")) if before.get("state") == observation.state else None
    if since is None or (settled and since <= settled):
        since = observation.at
    builder.put(logTask=observation.task(since))
    if observation.checkpoint:
        builder.put(logCheckpointTs=observation.checkpoint)
    if observation.state is not TaskState.UNKNOWN:
        builder.put(timeSynced=observation.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the status has to say instead, and why. *at* is when the task was seen so."""

    phase: Phase
    reason: str
    message: str
    at: datetime | None


def correction(builder: StatusBuilder, observed: Observed, settled: datetime | None, *, stopping: bool) -> Correction | None:
    """The row of this module's table that the status in *builder* has come to; *stopping*: the task is to be stopped."""
    task: Mapping[str, Any] = builder.get("logTask") or {}
    since, at = moment(task.get("since")), moment(task.get("observedAt"))
    if builder.phase not in _WATCHED or since is None or at is None or (settled and since <= settled):
        return None
    state, phase, name = TaskState(task["state"]), builder.phase, observed.name
    if state is TaskState.ERROR_PAUSED:
        return _paused_by_error(task, name, at) if phase == Phase.RUNNING else None
    if state is TaskState.UNKNOWN:
        return _unknown(task, observed, since, at)
    second_look = at > since
    if not second_look or phase == _CORRECTED.get(state):
        return None
    if state is TaskState.ABSENT:
        return _absent(name, at, stopping=stopping)
    message = f"task {name} was seen {state} twice while the status said {phase}"
    return Correction(phase=_CORRECTED[state], reason=_SYNCED, message=message, at=at)


def _absent(name: str, at: datetime, *, stopping: bool) -> Correction:
    if stopping:
        return Correction(phase=Phase.STOPPED, reason=_SYNCED, message=f"task {name} is gone already", at=at)
    message = (
        f"the cluster has no log backup task {name} any more: it was stopped or removed by somebody else. What was backed up "
        "so far stays; for a log without a gap make a new log Backup, and a snapshot after it"
    )
    return Correction(phase=Phase.FAILED, reason=TASK_NOT_FOUND, message=message, at=at)


def _paused_by_error(task: Mapping[str, Any], name: str, at: datetime) -> Correction:
    why = "; ".join(str(task[key]) for key in ("pauseReason", "lastError") if task.get(key)) or "no reason is told"
    message = (
        f"the cluster paused task {name} after an error: {why}. Mend the cause within GC's reach, then set logSubcommand to "
        "log-pause and back to log-start"
    )
    return Correction(phase=Phase.RETRY_FAILED, reason="LogBackupErrorPaused", message=message, at=at)


def _unknown(task: Mapping[str, Any], observed: Observed, since: datetime, at: datetime) -> Correction | None:
    grace = grace_period(observed)
    if at - since < grace:
        return None
    error = f": {task['lastError']}" if task.get("lastError") else ""
    message = f"the state of task {observed.name} has been unknown for {durations.go_text(at - since)}{error}"
    return Correction(phase=Phase.FAILED, reason="LogBackupStateQueryFailed", message=message, at=at)


def is_gone(status: Mapping[str, Any]) -> bool:
    """Whether the task was found to have vanished: no command can reach it any more."""
    return any(item.get("reason") == TASK_NOT_FOUND for item in status.get("conditions") or ())


def grace_period(observed: Observed) -> timedelta:
    """How long the state may stay unknown: a week, unless an annotation of the Backup names another time above 0."""
    text = (metadata(observed.parent).get("annotations") or {}).get(GRACE_ANNOTATION) or ""
    try:
        given = durations.parse(str(text)) if text else timedelta()
    except durations.DurationError:
        return _GRACE
    return given if given > timedelta() else _GRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """What is to be done about the watch's own Job; *wait* is in seconds."""

    create: list[JobIntent] = field(default_factory=list)
    drop: list[Drop] = field(default_factory=list)
    wait: float | None = None


def reconcile_watch_job(job: Job | None, builder: StatusBuilder, observed: Observed, now: datetime, config: Config) -> Care:
    """Have exactly one watch while the task should be in the cluster, and none before and after."""
    wanted = builder.phase in _WATCHED and bool(builder.get("commitTs"))
    if job is None:
        return _made(observed, config) if wanted else Care()
    if not wanted and observed.status.get("phase") not in _WATCHED:
        return Care(drop=[Drop(kind=JOB, name=job.name, rule="the task has ended: nothing is left to watch")])
    if not job.finished:
        return _stalled(job, builder, now, config)
    left = (job.ended + timedelta(seconds=_AGAIN) - now).total_seconds() if job.ended else 0
    if left > 0:
        return Care(wait=left)
    return Care(drop=[Drop(kind=JOB, name=job.name, rule="the watch ended before its task: another one follows")])


def _made(observed: Observed, config: Config) -> Care:
    admission = admit("Backup", observed, config)
    if admission.invalid or admission.waiting:
        return Care()
    name = names.log_job(observed.name, COMMAND)
    return Care(create=[JobIntent(name=name, purpose=Purpose.WATCH, command=COMMAND, cluster=admission.cluster)])


def _stalled(job: Job, builder: StatusBuilder, now: datetime, config: Config) -> Care:
    late = stall_time(job, config)
    if holds(builder.done(), Phase.STALLED):
        return Care()  # a command that failed says more than its watch
    if (report := job.report) and report.error and report.phase is ReportPhase.FAILED:
        message = f"the task is not watched: {report.error.message}; see: kubectl logs job/{job.name}"
        builder.mark(Phase.STALLED, at=report.time_completed, reason=report.error.reason, message=message)
    if late and now >= late:
        reason, message = stall_cause(job, config)
        builder.mark(Phase.STALLED, at=late, reason=reason, message=message)
    return Care(wait=(late - now).total_seconds() if late and now < late else None)
