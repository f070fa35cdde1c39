"""CompactBackup: one Job, named as it is, whose own limits repeat failed Pods, and a status copied from it.

=========================== ========================================== ======================================================
observed                    default                                    sharded
=========================== ========================================== ======================================================
spec wrong                  ``Invalid`` with the rule, until it is edited
cluster missing             ``Waiting`` with its name
a Pod failed, tried again   ``RetryFailed``, a retry record            ``Running``, the message counts the failures
progress                    the tool's own text                        shards done of all; indexes as in the Job's status
Job complete                ``Complete`` if its report says so too     ``Complete``: the indexes are the proof
Job failed                  ``Failed``, its last reason                ``Failed``, naming the shards that were given up
Job gone before its end     ``Failed``: a new CompactBackup is needed
=========================== ========================================== ======================================================
"""

from datetime import datetime
from typing import Any, Final

from app.domain import cluster as clusters
from app.domain import recorded
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.observed import Job, JobIntent, Purpose, observed_jobs
from app.domain.job.retry import VANISHED, failure_of
from app.domain.job.run import stall_cause, stall_time
from app.domain.observed import Object, Observed, metadata
from app.domain.recorded import Start
from app.domain.status import Phase, StatusBuilder, holds
from app.domain.times import stamp
from app.domain.validation import admit, hold
from crds.contract import names
from crds.contract.report import Phase as ReportPhase
from crds.contract.report import Report

_INTERRUPTED: Final = "Interrupted"
"""The manager's reason when its Pod was stopped."""
_LONGEST_RANGE: Final = 100
_TERMINAL: Final = frozenset({Phase.COMPLETE, Phase.FAILED})
_REPORTED: Final = {ReportPhase.PREPARE: Phase.PREPARE, ReportPhase.WAITING: Phase.WAITING}


def related(parent: Object, config: Config) -> list[dict[str, Any]]:
    """The cluster, for its version."""
    parent = recorded.parent_as_recorded(parent)
    return clusters.related(parent.get("spec") or {}, str(metadata(parent).get("namespace") or ""), config)


def decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer to a sync or finalize of a CompactBackup, which owns no data of its own."""
    start = Start.of(observed)
    return start.finish(_decide(start.observed, now, config), now)


def _decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    builder = StatusBuilder(observed.status, phase_field="state")
    if observed.finalizing:
        return Decision(status=builder.done(), finalized=True)
    if builder.phase in _TERMINAL:
        return Decision(status=builder.done())
    name, jobs = names.compact_job(observed.name, sharded=_sharded(observed)), observed_jobs(observed)
    # An earlier release called the Job of every compaction like its CR.
    job = jobs.get(name) or jobs.get(names.fit(observed.name))
    if job:
        return _follow(builder, job, observed, now, config)
    if holds(observed.status, Phase.SCHEDULED):
        builder.enter(Phase.FAILED, reason=VANISHED, message=f"Job {name} was deleted before its end was seen")
        builder.put(message=f"Job {name} was deleted before its end was seen; make a new CompactBackup")
        return Decision(status=builder.done())
    admission = admit("CompactBackup", observed, config)
    if hold(builder, observed, admission):
        builder.put(message=admission.invalid or (admission.waiting or ("", ""))[1])
        return Decision(status=builder.done())
    builder.put(message=None)
    return Decision(status=builder.done(), create=[JobIntent(name=name, purpose=Purpose.COMPACT, cluster=admission.cluster)])


def _follow(builder: StatusBuilder, job: Job, observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """Show where *job* is."""
    sharded = _sharded(observed)
    builder.mark(Phase.SCHEDULED, at=job.created, message=f"Job {job.name}")
    builder.put(message=None)
    (_show_shards if sharded else _show_tool)(builder, job)
    if job.failed:
        _give_up(builder, job)
    elif job.complete and not (job.succeeded or sharded):
        # A sharded Job has one report for many Pods, so there the completed indexes are the proof.
        _fail(
            builder,
            job.ended,
            "ReportMissing",
            f"Job {job.name} is complete but left no final report, so nothing proves its work",
        )
    elif job.complete:
        builder.enter(Phase.COMPLETE, at=job.ended)
        builder.put(endTs=str((job.report.result.get("endTs") if job.report else "") or observed.spec.get("endTs") or ""))
    else:
        _show_running(builder, job, sharded=sharded)
    wait = _stalled(builder, job, now, config)
    return Decision(status=builder.done(), resync_after=wait)


def _sharded(observed: Observed) -> bool:
    return bool(observed.spec.get("mode") == "sharded")


def _fail(builder: StatusBuilder, at: datetime | None, reason: str, message: str) -> None:
    builder.enter(Phase.FAILED, at=at, reason=reason, message=message)
    builder.put(message="; ".join(text for text in (reason, message) if text))


def _give_up(builder: StatusBuilder, job: Job) -> None:
    """The Job failed. Kubernetes sees that its limit is reached only when the container has begun once more, and stops that
    run: then not its end but the last failure on record is the cause."""
    failure, records = failure_of(job), builder.get("backoffRetryStatus") or ()
    told = bool(job.report and job.report.phase is ReportPhase.FAILED and failure.cause != _INTERRUPTED)
    if told or not records:
        _fail(
            builder,
            failure.at,
            failure.cause,
            "; ".join(text for text in (_has_failed_permanently(builder), failure.message) if text),
        )
        return
    causes = [str(record.get("retryReason") or "") for record in records]
    own = [cause for cause in causes if not cause.startswith(_INTERRUPTED)]
    reason, _, message = (own or causes)[-1].partition("; ")
    _fail(builder, failure.at, reason, "; ".join(text for text in (message, "maxRetryTimes is used up") if text))


def _show_tool(builder: StatusBuilder, job: Job) -> None:
    """How far the tool is, in its own words."""
    builder.put(progress=str(job.report.result.get("progress") or "") if job.report else None)


def _show_shards(builder: StatusBuilder, job: Job) -> None:
    """Which shards are done and which were given up, as Kubernetes counts them: one report cannot speak for many Pods."""
    status = job.obj.get("status") or {}
    done, failed = status.get("completedIndexes"), status.get("failedIndexes")
    shards = (job.obj.get("spec") or {}).get("completions")
    builder.put(
        completedIndexes=done,
        failedIndexes=failed,
        progress=f"[SHARDS({count_indexes(str(done or ''))}/{shards})]" if shards else None,
    )
    if again := (status.get("failed") or 0) - count_indexes(str(failed or "")):
        builder.put(message=f"{again} Pods failed so far, and their shards were tried again")


def _has_failed_permanently(builder: StatusBuilder) -> str:
    """What a sharded Job left undone."""
    failed = str(builder.get("failedIndexes") or "")
    return f"{count_indexes(failed)} shards were given up: {failed}; the rest is compacted" if failed else ""


def count_indexes(text: str) -> int:
    """How many indexes *text* lists in the way of an indexed Job's status.

    >>> count_indexes("0-2,5"), count_indexes("")
    (4, 0)
    """
    count = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit() and len(part) < _LONGEST_RANGE:
            count += int(last or first) - int(first) + 1
    return count


def _show_running(builder: StatusBuilder, job: Job, *, sharded: bool) -> None:
    report = job.report
    if report is None:
        builder.enter(Phase.SCHEDULED, at=job.created, message=f"Job {job.name}")
    elif report.phase is ReportPhase.FAILED and not sharded:
        _show_retry(builder, report)
    else:
        phase = _REPORTED.get(report.phase, Phase.RUNNING) if not sharded else Phase.RUNNING
        message = report.error.message if report.error and phase is Phase.WAITING else ""
        builder.enter(phase, at=report.time_started or job.started, message=message)


def _show_retry(builder: StatusBuilder, report: Report) -> None:
    """The Pod failed, and Kubernetes tries it again: ``maxRetryTimes`` bounds that."""
    error = report.error
    reason, words = (error.reason, error.message) if error else ("Failed", "")
    builder.enter(Phase.RETRY_FAILED, at=report.time_completed, reason=reason, message=words)
    builder.put(message="; ".join(text for text in (reason, words) if text))
    records = list(builder.get("backoffRetryStatus") or ())
    at = stamp(report.time_completed) if report.time_completed else ""
    if at and (not records or records[-1].get("detectFailedAt") != at):
        record = {"retryNum": len(records) + 1, "detectFailedAt": at, "retryReason": builder.get("message")}
        builder.put(backoffRetryStatus=[*records, record])


def _stalled(builder: StatusBuilder, job: Job, now: datetime, config: Config) -> float | None:
    """Note a stall; else the seconds until it would be one."""
    late = stall_time(job, config)
    if late is None:
        return None
    if now < late:
        return (late - now).total_seconds()
    reason, message = stall_cause(job, config)
    builder.mark(Phase.STALLED, at=late, reason=reason, message=message)
    return None
