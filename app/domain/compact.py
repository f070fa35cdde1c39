"""CompactBackup: one Job, whose own backoffLimit repeats failed Pods, and a status copied from it.

The first form: validation, the Job in both modes, and its outcome are complete; a compaction's own progress text comes from
what its manager reports in ``result.progress``.
"""

from datetime import datetime
from typing import Any, Final

from app.domain import cluster as clusters
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.jobs import Job, JobIntent, Purpose, observed_jobs
from app.domain.observed import Object, Observed, metadata
from app.domain.retries import VANISHED, failure_of
from app.domain.run import stall_hint, stall_time
from app.domain.status import Draft, Phase, holds
from app.domain.validation import admit, hold
from crds import names
from crds.report import Phase as ReportPhase

_TERMINAL: Final = frozenset({Phase.COMPLETE, Phase.FAILED})
_REPORTED: Final = {ReportPhase.PREPARE: Phase.PREPARE, ReportPhase.WAITING: Phase.WAITING}


def related(parent: Object, config: Config) -> list[dict[str, Any]]:
    """The cluster, for its version."""
    return clusters.related(parent.get("spec") or {}, str(metadata(parent).get("namespace") or ""), config)


def decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer to a sync or finalize of a CompactBackup, which owns no data of its own."""
    draft = Draft(observed.status, phase_field="state")
    if observed.finalizing:
        return Decision(status=draft.done(), finalized=True)
    if draft.phase in _TERMINAL:
        return Decision(status=draft.done())
    name = names.fit(observed.name)
    job = observed_jobs(observed).get(name)
    if job:
        return _follow(draft, job, observed, now, config)
    if holds(observed.status, Phase.SCHEDULED):
        draft.enter(Phase.FAILED, reason=VANISHED, message=f"Job {name} was deleted before its end was seen")
        draft.put(message=f"Job {name} was deleted before its end was seen; make a new CompactBackup")
        return Decision(status=draft.done())
    admission = admit("CompactBackup", observed, config)
    if hold(draft, observed, admission):
        draft.put(message=admission.invalid or (admission.waiting or ("", ""))[1])
        return Decision(status=draft.done())
    draft.put(message=None)
    return Decision(status=draft.done(), create=[JobIntent(name=name, purpose=Purpose.COMPACT, cluster=admission.cluster)])


def _follow(draft: Draft, job: Job, observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    report, status = job.report, job.obj.get("status") or {}
    draft.mark(Phase.SCHEDULED, at=job.created, message=f"Job {job.name}")
    draft.put(
        message=None,
        progress=str(report.result.get("progress") or "") if report else None,
        completedIndexes=status.get("completedIndexes"),
        failedIndexes=status.get("failedIndexes"),
    )
    if job.failed:
        failure = failure_of(job)
        draft.enter(Phase.FAILED, at=failure.at, reason=failure.cause, message=failure.message)
        draft.put(message="; ".join(text for text in (failure.cause, failure.message) if text))
    elif job.complete and not _proven(job, observed):
        message = f"Job {job.name} is complete but left no final report, so nothing proves its work"
        draft.enter(Phase.FAILED, at=job.ended, reason="ReportMissing", message=message)
        draft.put(message=message)
    elif job.complete:
        draft.enter(Phase.COMPLETE, at=job.ended)
        draft.put(endTs=str((report.result.get("endTs") if report else "") or observed.spec.get("endTs") or ""))
    elif report:
        phase = _REPORTED.get(report.phase, Phase.RUNNING)
        draft.enter(phase, at=report.time_started or job.started, message=report.error.message if report.error else "")
    else:
        draft.enter(Phase.SCHEDULED, at=job.created, message=f"Job {job.name}")
    wait = _stalled(draft, job, now, config)
    return Decision(status=draft.done(), resync_after=wait)


def _proven(job: Job, observed: Observed) -> bool:
    """A sharded Job has one report for many Pods, so there the completed indexes are the proof."""
    return job.succeeded or observed.spec.get("mode") == "sharded"


def _stalled(draft: Draft, job: Job, now: datetime, config: Config) -> float | None:
    """Note a stall; else the seconds until it would be one."""
    late = stall_time(job, config)
    if late is None:
        return None
    if now < late:
        return (late - now).total_seconds()
    draft.mark(Phase.STALLED, at=late, reason="NoPodReady", message=stall_hint(job, config))
    return None
