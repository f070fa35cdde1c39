"""Restore: the Job of an import or a restore by br, its status, and the removal of what a failed one left behind.

=================================== ================================================================
received status, observed Jobs      answer
=================================== ================================================================
deleted                             its Jobs go; it goes when no Pod of one of them may run any more
pruned, ``Complete``, or ``Failed`` the same status for ever; a restore that ended never runs again
  without ``prune``
``Failed`` with ``prune``           ``restore-<cr>-prune``, once
ended, and its Jobs did long ago     they are deleted
a Job is there, or was              :mod:`~app.domain.job.run`; one that vanished may have done its work,
                                    so it is not repeated
a Job is due, spec wrong            ``Invalid`` with the rule, until the spec is edited
a Job is due, cluster missing       ``Waiting`` with its name
a point in time                     also what :mod:`~app.domain.restore.pitr` asks for
with ``replicationConfig``          two Jobs: :mod:`~app.domain.restore.replication`
a Job is due                        the Job
edited since its start              as it was recorded, and ``Invalid`` (:mod:`~app.domain.recorded`)
=================================== ================================================================
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain import cluster as clusters
from app.domain import recorded
from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.job import ending, gc_life_time, progress
from app.domain.job.ending import FORCE_ANNOTATION
from app.domain.job.observed import JOB, Job, JobIntent, Purpose, observed_jobs
from app.domain.job.retry import failure_of
from app.domain.job.run import Run, show
from app.domain.observed import Object, Observed, metadata
from app.domain.recorded import Start
from app.domain.restore import pitr, replication
from app.domain.status import Phase, StatusBuilder, holds, outcome_of
from app.domain.times import moment
from app.domain.validation import admit, hold
from crds.contract import names

_PRUNED: Final = (Phase.PRUNE_COMPLETE, Phase.PRUNE_FAILED)
_PODS_LEFT: Final = 10
"""Seconds until the Jobs of a deleted Restore are looked at again."""


def related(parent: Object, config: Config) -> list[dict[str, Any]]:
    """The cluster; the namespace, whose end changes what a deletion waits for; the schedule that knows what can be restored;
    the CompactBackup that a replication restore goes with."""
    parent = recorded.parent_as_recorded(parent)
    spec, namespace = parent.get("spec") or {}, str(metadata(parent).get("namespace") or "")
    rules = clusters.related(spec, namespace, config)
    rules.append({"apiVersion": "v1", "resource": "namespaces", "names": [namespace]})
    # A label, not spec: but it says where a Restore comes from and does not change, so the answer may be cached.
    rules += pitr.related(spec, metadata(parent).get("labels") or {}, namespace)
    return rules + replication.related(spec, namespace)


def decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer to a sync or finalize of a Restore."""
    start = Start.of(observed)
    return start.finish(_decide(start.observed, now, config), now)


def _decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    builder = StatusBuilder(observed.status)
    if observed.finalizing:
        return _finalize(builder, observed, config)
    outcome = outcome_of(observed.status)
    if outcome is None:
        return _sync(builder, observed, now, config)
    if outcome is Phase.FAILED and _prunes(observed.spec):
        decision = _prune(builder, observed, now, config)
    else:
        decision = gc_life_time.settle(observed, builder, now, config)
    return replace(decision, drop=[*decision.drop, *_expired(observed, now, config)])


def _expired(observed: Observed, now: datetime, config: Config) -> list[Drop]:
    """The Jobs of the restore itself, once the time to live of Jobs is over. Kubernetes is not asked to delete them: it would
    also do so while the webhook is down, and a restore that was done would look like one that never began. One whose GC life
    time is not restored yet is needed for that."""
    if gc_life_time.left_raised(observed.status):
        return []
    others = (names.prune_job(observed.name), names.gc_life_time_job("Restore", observed.name))
    ttl, rule = timedelta(seconds=config.job_ttl), "finished, its end is in the status, and its time to live is over"
    jobs = [job for name, job in observed_jobs(observed).items() if name not in others and not job.busy]
    return [Drop(kind=JOB, name=job.name, rule=rule) for job in jobs if job.ended and job.ended + ttl <= now]


def _finalize(builder: StatusBuilder, observed: Observed, config: Config) -> Decision[JobIntent]:
    """A deleted Restore owns no data, but its run ends first: until then another one must not be taken for the only one. Then
    the GC life time that the run may have left raised is restored."""
    gc_life_time.show(builder, observed_jobs(observed).values())  # the Job that says so goes now
    restoring = names.gc_life_time_job("Restore", observed.name)
    busy = ending.busy_jobs(observed, but=lambda name: name == restoring)
    if not busy:
        may_wait = not ending.forced(observed) and not ending.namespace_end(observed)
        if may_wait and (pending := gc_life_time.finalize(observed, builder, config)):
            return pending
        left = gc_life_time.left_raised(builder.done())
        return Decision(status=builder.done(), finalized=True, warnings=[left] if left else [])
    jobs = ", ".join(job.name for job in busy)
    if ending.forced(observed) or ending.namespace_end(observed):
        why = (
            f"annotation {FORCE_ANNOTATION}" if ending.forced(observed) else f"namespace {observed.namespace} is being deleted"
        )
        return Decision(status=builder.done(), finalized=True, warnings=[f"removed while Pods of {jobs} may still run: {why}"])
    message = (
        f"deleted, and waits for the end of Job {jobs}; if the node of its Pod is lost for good: kubectl delete pod --force, "
        f'or annotate {FORCE_ANNOTATION}="true"'
    )
    builder.mark(
        Phase.WAITING, at=moment(metadata(observed.parent).get("deletionTimestamp")), reason="RunEnding", message=message
    )
    drops = ending.stopping(busy, "deleting: a run ends before its Restore goes")
    return Decision(status=builder.done(), drop=drops, resync_after=_PODS_LEFT)


def _sync(builder: StatusBuilder, observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    if replication.applies(observed):
        return replication.sync(builder, observed, now, config)
    run = Run.of(
        names.restore_job(observed.name),
        observed,
        repeats_vanished=False,
        preparing=Phase.RUNNING,
        retry_reason="RetryFailedRestore",
    )
    outcome = run.evaluate(now, config)
    show(builder, outcome)
    gc_life_time.show(builder, run.jobs.values())
    if not outcome.due:
        return Decision(status=builder.done(), resync_after=outcome.wait)
    admission = pitr.judge(admit("Restore", observed, config), observed)
    if hold(builder, observed, admission):
        return Decision(status=builder.done())
    purpose = Purpose.RESTORE if observed.spec.get("br") else Purpose.IMPORT
    return Decision(status=builder.done(), create=[JobIntent(name=outcome.due, purpose=purpose, cluster=admission.cluster)])


def _prunes(spec: Mapping[str, Any]) -> bool:
    return spec.get("prune") == "afterFailed" and bool(spec.get("br"))


def _prune(builder: StatusBuilder, observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """Run ``br abort`` once. A prune Job that fails or vanishes ends in ``PruneFailed``: what is left needs a human."""
    if any(holds(observed.status, phase) for phase in _PRUNED):
        return gc_life_time.settle(observed, builder, now, config)
    name = names.prune_job(observed.name)
    job = observed_jobs(observed).get(name)
    if job:
        _show_prune(builder, job)
        return Decision(status=builder.done())
    if holds(observed.status, Phase.PRUNE_SCHEDULED):
        message = f"Job {name} was deleted before its end was seen"
        builder.enter(Phase.PRUNE_FAILED, reason="JobVanished", message=message)
        return Decision(status=builder.done())
    admission = admit("Restore", observed, config)
    if hold(builder, observed, admission, move=False):
        return Decision(status=builder.done())
    return Decision(status=builder.done(), create=[JobIntent(name=name, purpose=Purpose.PRUNE, cluster=admission.cluster)])


def _show_prune(builder: StatusBuilder, job: Job) -> None:
    builder.mark(Phase.PRUNE_SCHEDULED, at=job.created, reason="RestoreFailedPruneScheduled", message=f"Job {job.name}")
    if job.succeeded:
        builder.enter(Phase.PRUNE_COMPLETE, at=job.ended)
    elif job.complete:
        builder.enter(Phase.PRUNE_FAILED, at=job.ended, reason="ReportMissing", message=f"Job {job.name} left no final report")
    elif job.failed:
        failure = failure_of(job)
        builder.enter(Phase.PRUNE_FAILED, at=failure.at, reason=failure.cause, message=failure.message)
    elif job.report:
        builder.enter(Phase.PRUNE_RUNNING, at=job.report.time_started or job.started)
        progress.show_running(builder, job)
    else:
        builder.enter(Phase.PRUNE_SCHEDULED, at=job.created, reason="RestoreFailedPruneScheduled", message=f"Job {job.name}")
