"""Backup: which Jobs a snapshot or an export wants, and what its status says. Log backups and deletion have modules of
their own: :mod:`~app.domain.backup.log`, :mod:`~app.domain.backup.finalize`.

============================== =========================================================
received status, observed Jobs answer
============================== =========================================================
``Complete`` or ``Failed``     the same status for ever; whatever happens to its Jobs
  its GC life time is raised   :mod:`~app.domain.job.gc_life_time`: a Job that restores it
annotated as imported          ``Complete``, as its record says (:mod:`~app.domain.backup.imported`)
a Job is there, or was         :mod:`~app.domain.job.run`: wait, end, or the next attempt
a Job is due, spec wrong       ``Invalid`` with the rule, until the spec is edited
a Job is due, cluster missing  ``Waiting`` with its name, until it appears and is Ready
a Job is due                   the Job
edited since its start         as it was recorded, and ``Invalid`` (:mod:`~app.domain.recorded`)
============================== =========================================================
"""

from datetime import datetime
from typing import Any

from app.domain import cluster as clusters
from app.domain import recorded
from app.domain.backup import finalize as clean
from app.domain.backup import imported
from app.domain.backup import log as log_backup
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job import gc_life_time, progress
from app.domain.job.observed import JobIntent, Purpose
from app.domain.job.run import Run, show
from app.domain.observed import Object, Observed, metadata
from app.domain.recorded import Start
from app.domain.status import StatusBuilder, outcome_of
from app.domain.validation import admit, hold
from crds.contract import names
from crds.contract.paths import export_location, location_of


def related(parent: Object, config: Config) -> list[dict[str, Any]]:
    """The cluster; the namespace, whose end changes what deletion may do; the schedule that truncates a log backup."""
    parent = recorded.parent_as_recorded(parent)
    spec, meta = parent.get("spec") or {}, metadata(parent)
    namespace = str(meta.get("namespace") or "")
    rules = clusters.related(spec, namespace, config)
    rules.append({"apiVersion": "v1", "resource": "namespaces", "names": [namespace]})
    # A label, not spec: but the schedule sets it when it makes the Backup, so the answer may be cached.
    schedule = (meta.get("labels") or {}).get(names.SCHEDULE_LABEL)
    if schedule and log_backup.is_log(spec):
        rules.append(
            {"apiVersion": names.API_VERSION, "resource": "backupschedules", "namespace": namespace, "names": [schedule]}
        )
    return rules


def decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer to a sync or finalize of a Backup."""
    start = Start.of(observed)
    return start.finish(_decide(start.observed, now, config), now)


def _decide(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    if observed.finalizing:
        return clean.finalize(observed, now, config)
    if log_backup.is_log(observed.spec):
        return log_backup.sync(observed, now, config)
    return _sync(observed, now, config)


def _sync(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    builder = StatusBuilder(observed.status)
    if outcome_of(observed.status):
        return gc_life_time.settle(observed, builder, now, config)
    # The annotation is about a Backup that never ran; on any other it could make a clean delete a path of somebody's choice.
    run = Run.of(names.backup_job(observed.name), observed)
    begun = bool(run.jobs) or recorded.has_begun(observed.status)
    if not begun and (status := imported.status_of(observed)) is not None:
        return Decision(status=status)
    outcome = run.evaluate(now, config)
    show(builder, outcome)
    gc_life_time.show(builder, run.jobs.values())
    if outcome.job:
        progress.show_data(builder, outcome.job)
    if not outcome.due:
        return Decision(status=builder.done(), resync_after=outcome.wait)
    admission = admit("Backup", observed, config)
    if hold(builder, observed, admission):
        return Decision(status=builder.done())
    purpose = Purpose.BACKUP if observed.spec.get("br") else Purpose.EXPORT
    intent = JobIntent(name=outcome.due, purpose=purpose, path=_path(observed), cluster=admission.cluster)
    return Decision(status=builder.done(), create=[intent])


def _path(observed: Observed) -> str:
    """Where the run writes: br to the CR's own prefix, an export to its own folder below it."""
    spec = observed.spec
    return (location_of(spec) if spec.get("br") else export_location(spec, observed.name, observed.uid)).url
