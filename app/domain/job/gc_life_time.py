"""The GC life time that a run raised: a condition while it may be raised, and a Job that restores it when its run cannot.

A manager reports that it is about to raise the life time before it does, and that it no longer needs it raised once it has
restored it (``gcLifeTimeState``, :class:`crds.contract.report.GcLifeTime`). In between the CR has condition
``GcLifeTimeRaised``.

============================================= ============================================================
observed, with the condition                  answer
============================================= ============================================================
a newer report says that it is released       the condition goes
another attempt follows                       nothing: that attempt takes it over
the run has ended, a Pod may still be there   wait
no run is left                                Job ``gc-life-time-<kind>-<cr>``
that Job failed                               the condition says what to do by hand; once more after an hour
the CR is being deleted                       its Jobs end first, then the Job once; whether it failed or not, the
                                              deletion goes on after it, with a warning
============================================= ============================================================

The decision is in docs/adr/0004-gc-life-time.md.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from app.domain import cluster as clusters
from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.job import ending
from app.domain.job.observed import JOB, Job, JobIntent, Purpose, observed_jobs
from app.domain.job.retry import failure_of
from app.domain.observed import Observed, metadata
from app.domain.status import Phase, StatusBuilder, holds
from app.domain.times import moment
from crds.contract import durations, names
from crds.contract.report import GcLifeTime

RETRY: Final = timedelta(hours=1)
"""After a failed Job. Its manager waits for the database for minutes, and Kubernetes repeats it."""
_KIND: Final = Phase.GC_LIFE_TIME_RAISED
_BY_HAND: Final = "By hand: "
_PODS_LEFT: Final = 10
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_STATES: Final = {str(state): state for state in GcLifeTime}


def show(builder: StatusBuilder, jobs: Iterable[Job]) -> None:
    """Set or remove the condition, by the newest of *jobs* whose report says something of it; else it stays as it was."""
    newest = None
    for job in jobs:
        if _state(job) and (newest is None or _age(newest) < _age(job)):
            newest = job
    if newest is None:
        return
    if _state(newest) == GcLifeTime.RELEASED:
        builder.forget(_KIND)
        return
    report = newest.report
    message = f"Job {newest.name} needs it. {_statement(report.result.get('gcLifeTimeBefore') if report else None)}".strip()
    builder.mark(_KIND, at=(report.time_started if report else None) or newest.started, reason="RunNeedsIt", message=message)


def settle(observed: Observed, builder: StatusBuilder, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer for a CR whose run has ended: its status, and the Job when there is something to restore."""
    if not holds(observed.status, _KIND):
        return Decision(status=builder.done())
    jobs = observed_jobs(observed)
    show(builder, jobs.values())
    job = jobs.get(_name(observed))
    if not holds(builder.done(), _KIND) or (job and not job.finished):
        return Decision(status=_progress(builder, observed, job))
    if job is None:
        return _run(builder, observed, config)
    _show_failure(builder, observed, job)
    due = (job.ended or now) + RETRY
    if now < due:
        return Decision(status=builder.done(), resync_after=(due - now).total_seconds())
    rule = "restoring the GC life time failed an hour ago: it is tried again"
    return Decision(status=builder.done(), drop=[Drop(kind=JOB, name=job.name, rule=rule)])


def finalize(observed: Observed, builder: StatusBuilder, config: Config) -> Decision[JobIntent] | None:
    """What a CR that is being deleted has to wait for; None when nothing is (or can be) restored any more."""
    jobs = observed_jobs(observed)
    show(builder, jobs.values())
    if not holds(builder.done(), _KIND):
        return None
    job, deleted = jobs.get(_name(observed)), moment(metadata(observed.parent).get("deletionTimestamp"))
    if job and job.finished and not (deleted and job.created and job.created < deleted):
        _show_failure(builder, observed, job)
        return None  # it was tried: a clean that runs by now is not to be disturbed
    others = (_name(observed), names.clean_job(observed.name), names.stop_job(observed.name))
    if busy := ending.busy_jobs(observed, but=lambda name: name.startswith(others)):
        drops = ending.stopping(busy, "deleting: a run ends before its GC life time is restored")
        return Decision(status=builder.done(), drop=drops, resync_after=_PODS_LEFT)
    if job is None:
        return _run(builder, observed, config)
    if not job.finished:
        return Decision(status=_progress(builder, observed, job))
    _show_failure(builder, observed, job)
    rule = "deleting: restoring the GC life time failed before, it is tried once more"
    return Decision(status=builder.done(), drop=[Drop(kind=JOB, name=job.name, rule=rule)])


def left_raised(status: Mapping[str, Any]) -> str:
    """The warning for a CR that is removed although its GC life time may be raised; empty when it is not."""
    found = _condition(status)
    return f"the GC life time may still be raised: {found.get('message', '')}" if found.get("status") == "True" else ""


def _run(builder: StatusBuilder, observed: Observed, config: Config) -> Decision[JobIntent]:
    """The Job, once no Pod of another one is left."""
    if ending.busy_jobs(observed):
        return Decision(status=builder.done(), resync_after=_PODS_LEFT)
    intent = JobIntent(name=_name(observed), purpose=Purpose.GC_LIFE_TIME, cluster=clusters.find(observed, config))
    return Decision(status=builder.done(), create=[intent])


def _progress(builder: StatusBuilder, observed: Observed, job: Job | None) -> Mapping[str, Any]:
    if job and holds(builder.done(), _KIND):
        message = f"Job {job.name} restores it. {_remedy(observed)}".strip()
        builder.mark(_KIND, at=job.created, reason="Restoring", message=message)
    return builder.done()


def _show_failure(builder: StatusBuilder, observed: Observed, job: Job) -> None:
    reason = "NotRestored"
    if job.succeeded and job.report:
        # A run that lost its owner (--cascade=orphan) is at work: it restores the value itself.
        reason, why = "RunNeedsIt", str(job.report.result.get("gcLifeTime") or "its report does not say that it was released")
    elif job.failed:
        failure = failure_of(job)
        why = "; ".join(text for text in (failure.cause, failure.message) if text)
    else:
        why = "ReportMissing; it is complete but left no final report"
    message = f"Job {job.name}: {why}. {_remedy(observed)}".strip()
    builder.mark(_KIND, at=job.ended, reason=reason, message=message)


def _statement(before: object) -> str:
    """How to restore the value *before* by hand; empty when a report says something that is no duration."""
    try:
        durations.parse(str(before or ""))
    except durations.DurationError:
        return ""
    return f"{_BY_HAND}set global tidb_gc_life_time = '{before}'"


def _remedy(observed: Observed) -> str:
    """The statement to restore the value by hand, from the condition: the Job whose report had the value may be gone."""
    _, found, statement = str(_condition(observed.status).get("message") or "").rpartition(_BY_HAND)
    return found + statement if found else ""


def _state(job: Job) -> GcLifeTime | None:
    said = job.report.result.get("gcLifeTimeState") if job.report else None
    return _STATES.get(said) if isinstance(said, str) else None


def _age(job: Job) -> tuple[datetime, str]:
    return job.created or _EARLIEST, job.name


def _name(observed: Observed) -> str:
    return names.gc_life_time_job(str(observed.parent.get("kind") or ""), observed.name)


def _condition(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((item for item in status.get("conditions") or () if item.get("type") == _KIND), {})
