"""What a CR's status shows of its Job's report: percent, times, size, position, runs of br."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.job.observed import Job
from app.domain.status import Phase, StatusBuilder
from app.domain.times import moment, stamp
from crds.contract import durations, sizes, tso
from crds.contract.report import Report, StepProgress

_MAX_OPERATIONS: Final = 10
_CLOCKS_APART: Final = timedelta(hours=1)
"""How far PD's clock may be ahead of Kubernetes'."""
_LINES, _LINE = 16, 200
"""Of what was left out: how many lines of how many characters a status takes."""


def percent(report: Report) -> str:
    """The step under way, as the ``Progress`` column shows it; empty when the manager counts nothing."""
    return f"{int(report.progress[-1].progress)}%" if report.progress else ""


def _step(step: StepProgress) -> dict[str, object]:
    written = step.plain()
    value = step.progress
    return {**written, "progress": int(value) if value.is_integer() else value}


def show_running(builder: StatusBuilder, job: Job) -> None:
    """Copy what the report of the unfinished *job* says; a new attempt starts its own progress."""
    report = job.report
    builder.put(
        timeStarted=(report.time_started if report else None) or job.started,
        timeCompleted=None,
        timeTaken=None,
        progress=percent(report) if report else None,
        progresses=[_step(step) for step in report.progress] if report else None,
        eta=report.eta if report else None,
    )


def show_ended(builder: StatusBuilder, job: Job, *, complete: bool) -> None:
    """Copy what the report of the finished *job* says, and how long it took."""
    report = job.report
    started = (report.time_started if report else None) or job.started
    ended = (report.time_completed if report else None) or job.ended
    taken = durations.go_text(timedelta(seconds=round((ended - started).total_seconds()))) if started and ended else None
    builder.put(timeStarted=started, timeCompleted=ended, timeTaken=taken, eta=None)
    if report and report.progress:
        builder.put(progress=percent(report), progresses=[_step(step) for step in report.progress])
    if complete:
        builder.put(progress="100%")


def show_position(builder: StatusBuilder, job: Job) -> None:
    """The snapshot's TSO, once known. One from after its Job's end is not believed: a schedule cuts its log up to there."""
    if not (job.report and (said := job.report.commit_ts)):
        return
    if job.ended and _after(said, job.ended + _CLOCKS_APART):
        message = f"the report of Job {job.name} names a commitTs from after the end of the Job"
        builder.mark(Phase.REPORT_REFUSED, at=job.created, reason="ReportedTimeImpossible", message=message)
        builder.put(commitTs=None)
    else:
        builder.put(commitTs=said)


def _after(timestamp: str, limit: datetime) -> bool:
    try:
        return tso.to_datetime(tso.parse(timestamp)) > limit
    except (ValueError, OverflowError):
        return False  # no TSO: whoever reads it takes it for unknown


def show_data(builder: StatusBuilder, job: Job) -> None:
    """Where a Backup's data lies, from the moment its Job exists, and how much it is.

    The path is the one that the Job was given. A report is an annotation, and what lies at this path is deleted one day: what
    it names is taken over only where nothing was given (a Job of an earlier version) and nothing is known.
    """
    report = job.report
    said = report.backup_path if report else None
    if path := job.path or builder.get("backupPath") or said:
        builder.put(backupPath=path)
    if job.reported_elsewhere:
        message = f"the report of Job {job.name} names another path than the one it was given; that path is not touched"
        builder.mark(Phase.REPORT_REFUSED, at=job.created, reason="ReportedPathDiffers", message=message)
    if report and report.backup_size is not None:
        builder.put(backupSize=report.backup_size, backupSizeReadable=sizes.readable(report.backup_size))


def show_left_out(builder: StatusBuilder, job: Job) -> None:
    """What an export does not hold, or what of it a restore did not bring."""
    left_out = job.report.result.get("leftOut") if job.report else None
    if isinstance(left_out, list) and left_out:
        builder.put(leftOut=[str(line)[:_LINE] for line in left_out[:_LINES]])


def show_operations(builder: StatusBuilder, job: Job) -> None:
    """The runs of br that the report names: newest first, each once, no more than ten."""
    said = job.report.result.get("brOperations") if job.report else None
    fresh = [found for item in said if (found := _operation(item))] if isinstance(said, list) else []
    if not fresh:
        return
    known = {item["operationID"] for item in fresh}
    before = [item for item in builder.get("brOperations") or () if item.get("operationID") not in known]
    builder.put(brOperations=[*fresh, *before][:_MAX_OPERATIONS])


def _operation(said: Any) -> dict[str, str] | None:
    """One entry of ``brOperations``, of what a report may well say; None when it does not say which run."""
    if not isinstance(said, Mapping) or not said.get("operationID"):
        return None
    texts = {key: str(said[key]) for key in ("operationID", "command") if said.get(key)}
    times = {key: stamp(time) for key in ("startedAt", "observedAt") if (time := moment(said.get(key)))}
    return {**texts, **times}
