"""Restore: the Job of an import or a restore by br, its status, and the removal of what a failed one left behind.

=================================== ================================================================
received status, observed Jobs      answer
=================================== ================================================================
pruned, ``Complete``, or ``Failed`` the same status for ever; a restore that ended never runs again
  without ``prune``
``Failed`` with ``prune``           ``restore-<cr>-prune``, once
a Job is there, or was              :mod:`~app.domain.run`; one that vanished may have done its work,
                                    so it is not repeated
a Job is due, spec wrong            ``Invalid`` with the rule, until the spec is edited
a Job is due, cluster missing       ``Waiting`` with its name
a point in time                     also what :mod:`~app.domain.pitr` asks for
with ``replicationConfig``          two Jobs: :mod:`~app.domain.replication`
a Job is due                        the Job
=================================== ================================================================
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.domain import cluster as clusters
from app.domain import pitr, progress, replication
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.jobs import Job, JobIntent, Purpose, observed_jobs
from app.domain.observed import Object, Observed, metadata
from app.domain.retries import failure_of
from app.domain.run import Run, show
from app.domain.status import Draft, Phase, holds, outcome_of
from app.domain.validation import admit, hold
from crds import names

_PRUNED: Final = (Phase.PRUNE_COMPLETE, Phase.PRUNE_FAILED)


def related(parent: Object, config: Config) -> list[dict[str, Any]]:
    """The cluster, the schedule that knows what can be restored, and the CompactBackup that a replication restore goes with."""
    spec, namespace = parent.get("spec") or {}, str(metadata(parent).get("namespace") or "")
    rules = clusters.related(spec, namespace, config)
    # A label, not spec: but it says where a Restore comes from and does not change, so the answer may be cached.
    rules += pitr.related(spec, metadata(parent).get("labels") or {}, namespace)
    return rules + replication.related(spec, namespace)


def decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer to a sync or finalize of a Restore. A deleted one owns no data: its Jobs go with it."""
    draft = Draft(observed.status)
    if observed.finalizing:
        return Decision(status=draft.done(), finalized=True)
    outcome = outcome_of(observed.status)
    if outcome is Phase.FAILED and _prunes(observed.spec):
        return _prune(draft, observed, config)
    if outcome:
        return Decision(status=draft.done())
    return _sync(draft, observed, now, config)


def _sync(draft: Draft, observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    if replication.applies(observed):
        return replication.sync(draft, observed, now, config)
    run = Run.of(
        names.restore_job(observed.name),
        observed,
        repeats_vanished=False,
        preparing=Phase.RUNNING,
        retry_reason="RetryFailedRestore",
    )
    outcome = run.evaluate(now, config)
    show(draft, outcome)
    if outcome.job and outcome.job.report and outcome.job.report.backup_path:
        draft.put(backupPath=outcome.job.report.backup_path)
    if not outcome.due:
        return Decision(status=draft.done(), resync_after=outcome.wait)
    admission = pitr.judge(admit("Restore", observed, config), observed)
    if hold(draft, observed, admission):
        return Decision(status=draft.done())
    purpose = Purpose.RESTORE if observed.spec.get("br") else Purpose.IMPORT
    return Decision(status=draft.done(), create=[JobIntent(name=outcome.due, purpose=purpose, cluster=admission.cluster)])


def _prunes(spec: Mapping[str, Any]) -> bool:
    return spec.get("prune") == "afterFailed" and bool(spec.get("br"))


def _prune(draft: Draft, observed: Observed, config: Config) -> Decision[JobIntent]:
    """Run ``br abort`` once. A prune Job that fails or vanishes ends in ``PruneFailed``: what is left needs a human."""
    if any(holds(observed.status, phase) for phase in _PRUNED):
        return Decision(status=draft.done())
    name = names.prune_job(observed.name)
    job = observed_jobs(observed).get(name)
    if job:
        _show_prune(draft, job)
        return Decision(status=draft.done())
    if holds(observed.status, Phase.PRUNE_SCHEDULED):
        message = f"Job {name} was deleted before its end was seen"
        draft.enter(Phase.PRUNE_FAILED, reason="JobVanished", message=message)
        return Decision(status=draft.done())
    admission = admit("Restore", observed, config)
    if hold(draft, observed, admission, move=False):
        return Decision(status=draft.done())
    return Decision(status=draft.done(), create=[JobIntent(name=name, purpose=Purpose.PRUNE, cluster=admission.cluster)])


def _show_prune(draft: Draft, job: Job) -> None:
    draft.mark(Phase.PRUNE_SCHEDULED, at=job.created, reason="RestoreFailedPruneScheduled", message=f"Job {job.name}")
    if job.succeeded:
        draft.enter(Phase.PRUNE_COMPLETE, at=job.ended)
    elif job.complete:
        draft.enter(Phase.PRUNE_FAILED, at=job.ended, reason="ReportMissing", message=f"Job {job.name} left no final report")
    elif job.failed:
        failure = failure_of(job)
        draft.enter(Phase.PRUNE_FAILED, at=failure.at, reason=failure.cause, message=failure.message)
    elif job.report:
        draft.enter(Phase.PRUNE_RUNNING, at=job.report.time_started or job.started)
        progress.show_running(draft, job)
    else:
        draft.enter(Phase.PRUNE_SCHEDULED, at=job.created, reason="RestoreFailedPruneScheduled", message=f"Job {job.name}")
