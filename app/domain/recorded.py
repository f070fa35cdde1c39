"""What a CR recorded when it started, and what follows when its spec says something else since.

A run, once started, keeps its path, storage, cluster and database (:mod:`crds.contract.identity`). Every decision after the
start, and every Job that follows from it, is made from the spec *as it was recorded*. The edit itself shows as condition
``Invalid`` with reason ``IdentityChanged`` and has no other effect; other fields act as ever. The record is found, in this
order, in

1. the environment of an observed Job of the CR: it is immutable, and there before any status;
2. ``status.recorded``;
3. ``status.backupPath``, for a CR that an earlier version or TiDB Operator started: the path is all that is known then, and the
   rest of the spec is recorded as it is found.

A CR that has not started has no record: its spec may be edited at will. Attempts that would start the work again (backup,
export, restore, import) wait until the edit is taken back, for it is not known which of the two places was meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.decision import Decision
from app.domain.job.observed import JOB, Job, JobIntent, Purpose, observed_jobs
from app.domain.observed import Object, Observed, condition, metadata
from app.domain.status import Phase, StatusBuilder, holds, outcome_of
from app.domain.times import edited_at, status_written_at
from app.domain.validation import spec_problem
from crds.contract import identity, names
from crds.contract.identity import Change, Recorded

REASON: Final = "IdentityChanged"
NAME_TAKEN: Final = "JobNameTaken"
NOT_CREATED: Final = "JobNotCreated"
_STARTS_WORK: Final = frozenset({Purpose.BACKUP, Purpose.EXPORT, Purpose.RESTORE, Purpose.IMPORT})
_PATIENCE: Final = timedelta(seconds=30)
"""A Job that was asked for is observed within moments; after this it counts as not made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a CR started. *observed* is the request as the decisions are to see it: with the spec as recorded. *fields* is the
    record, or what would be recorded by a start now; *changes* is what was edited since the start. *asked* is the request as it
    came."""

    asked: Observed
    observed: Observed
    fields: Recorded
    changes: list[Change]
    begun: bool

    @classmethod
    def of(cls, observed: Observed) -> "Start":
        """Find the record of the observed CR."""
        jobs = observed_jobs(observed)
        found = next((fields for _, job in sorted(jobs.items()) if (fields := job.recorded)), None)
        # Compared in every pass: observedGeneration may be that of an earlier version, which compares nothing.
        now = _now_of(observed.parent, observed.namespace)
        begun = found is not None or bool(jobs) or has_begun(observed.status)
        if not begun:
            return cls(asked=observed, observed=observed, fields=now, changes=[], begun=False)
        fields = found or _of_status(observed.parent, observed.namespace, now)
        changes = _changes(observed.parent, observed.namespace, fields, now)
        shown = replace(observed, parent=_as_recorded(observed.parent, fields)) if changes else observed
        return cls(asked=observed, observed=shown, fields=fields, changes=changes, begun=True)

    def finish(self, decision: Decision[JobIntent], now: datetime) -> Decision[JobIntent]:
        """*decision* with the record in its status and its Jobs, and with what the spec or a missing Job has to say."""
        create = [replace(intent, recorded=self.fields) for intent in decision.create]
        if self.changes:
            create = [intent for intent in create if not _starts_work(intent)]
        known = decision.status.get("recorded")
        started = create or self.begun or outcome_of(decision.status)
        if not started or (not create and known is None and outcome_of(self.asked.status)):
            return decision  # nothing has started, or it had ended before records were kept
        if not create and not self.changes and known == self.fields:
            return decision
        builder = StatusBuilder.going_on(decision.status, self.observed.status, phase_field=_phase_field(self.observed))
        builder.put(recorded=dict(self.fields))
        if self.changes:
            retrying = builder.phase == Phase.RETRY_FAILED and not builder.get("commitTs")
            _show_changes(builder, self.asked, self.changes, held=retrying or len(create) < len(decision.create))
        wait = _show_missing(builder, self.observed, create, now) if create else None
        waits = [time for time in (decision.resync_after, wait) if time is not None]
        return replace(decision, status=builder.done(), create=create, resync_after=min(waits, default=None))


def _starts_work(intent: JobIntent) -> bool:
    """Whether *intent* repeats what may have been begun elsewhere; anything else only follows up on it."""
    return intent.purpose in _STARTS_WORK or intent.command == "log-start"


def has_begun(status: Mapping[str, Any]) -> bool:
    """Whether *status* knows of a Job that was made, or of data."""
    known = ("backupPath", "commitTs", "logSubCommandStatuses", "replicationStep")
    return any(status.get(field) for field in known) or holds(status, Phase.SCHEDULED) or outcome_of(status) is not None


def parent_as_recorded(parent: Object) -> Object:
    """*parent* with its spec as recorded, for customize, which sees no Jobs."""
    status, namespace = parent.get("status") or {}, str(metadata(parent).get("namespace") or "")
    if not has_begun(status):
        return parent
    now = _now_of(parent, namespace)
    fields = _of_status(parent, namespace, now)
    return _as_recorded(parent, fields) if _changes(parent, namespace, fields, now) else parent


def as_recorded(observed: Observed, fields: Recorded) -> Observed:
    """*observed* with its spec as *fields* record it; nothing recorded changes nothing."""
    now = _now_of(observed.parent, observed.namespace)
    if not fields or not _changes(observed.parent, observed.namespace, fields, now):
        return observed
    return replace(observed, parent=_as_recorded(observed.parent, fields))


def _now_of(parent: Object, namespace: str) -> dict[str, str]:
    return identity.record(parent.get("spec") or {}, namespace=namespace, annotations=metadata(parent).get("annotations") or {})


def _changes(parent: Object, namespace: str, fields: Recorded, now: Recorded) -> list[Change]:
    if fields == now:
        return []
    annotations = metadata(parent).get("annotations") or {}
    return identity.changes(parent.get("spec") or {}, fields, namespace=namespace, annotations=annotations, now=now)


def _of_status(parent: Object, namespace: str, now: Recorded) -> Recorded:
    status: Mapping[str, Any] = parent.get("status") or {}
    if fields := identity.readable(status.get("recorded")):
        return fields
    spec = parent.get("spec") or {}
    # A log backup is known by what only it has.
    is_log = parent.get("kind") == "Backup" and status.get("logSubCommandStatuses")
    mode = {"backupMode": "log"} if is_log else {}
    path = str(status.get("backupPath") or "")
    if not path or parent.get("kind") != "Backup":
        return {**now, **mode}
    meta = metadata(parent)
    folder = "" if spec.get("br") else f"{meta.get('name')}-{str(meta.get('uid') or '')[:8]}"
    return {**identity.with_place(now, spec, path, folder=folder), **mode}


def _as_recorded(parent: Object, fields: Recorded) -> Object:
    meta = metadata(parent)
    annotations = identity.apply_annotations(meta.get("annotations") or {}, fields)
    spec = identity.apply(parent.get("spec") or {}, fields)
    return {**parent, "metadata": {**meta, "annotations": annotations}, "spec": spec}


def _phase_field(observed: Observed) -> str:
    return "state" if observed.parent.get("kind") == "CompactBackup" else "phase"


def _show_changes(builder: StatusBuilder, observed: Observed, changes: list[Change], *, held: bool) -> None:
    told = "; ".join(map(str, changes))
    kind = str(observed.parent.get("kind") or "CR")
    path = observed.status.get("backupPath")
    effect = "no further attempt is made until it is set back" if held else "the edit has no effect"
    where = f" (its data is at {path})" if path else ""
    message = (
        f"{told}: what a {kind} works on is fixed once it has started{where}, so {effect}. "
        f"Set it back, or create a new {kind} for the other value"
    )
    if problem := spec_problem(kind, observed):
        message = f"{message}. Besides: {problem}"
    note = builder.enter if held else builder.mark
    generation = metadata(observed.parent).get("generation")
    note(Phase.INVALID, at=edited_at(observed.parent), reason=REASON, message=message, generation=generation)


def _show_missing(builder: StatusBuilder, observed: Observed, create: list[JobIntent], now: datetime) -> float | None:
    """Note which Jobs are asked for and not there yet, and say so when one does not come; else the seconds until it is late.

    A name that another CR's Job has is never observed: Metacontroller shows only our own Jobs, and takes "already exists" for
    done. So it is judged by the time that has passed since the status last changed.
    """
    there, received = observed.of_kind(JOB), observed.status.get("awaitedJobs") or ()
    wanted = sorted(intent.name for intent in create)
    builder.put(awaitedJobs=wanted)
    if holds(builder.done(), Phase.STALLED):
        return None  # a command that failed says more
    if foreign := next((Job(obj=there[name]) for name in wanted if name in there), None):
        message = f"Job {foreign.name} is there but belongs to {foreign.owner or 'nobody'}; {_way_out(observed, foreign.name)}"
        builder.mark(Phase.STALLED, at=foreign.created, reason=NAME_TAKEN, message=message)
        return None
    missing = next((name for name in wanted if name in received), None)
    since = status_written_at(observed.parent) or edited_at(observed.parent)
    if missing is None or since is None:
        return None
    shown: Mapping[str, Any] = condition(observed.parent, Phase.STALLED) or {}
    if now < since + _PATIENCE and shown.get("reason") != NOT_CREATED:
        return (since + _PATIENCE - now).total_seconds()
    builder.mark(Phase.STALLED, at=since + _PATIENCE, reason=NOT_CREATED, message=_not_created(observed, missing))
    return None


def _not_created(observed: Observed, job: str) -> str:
    kind, name = str(observed.parent.get("kind") or "CR"), observed.name
    owners = [f"{other} {theirs}" for other, theirs in names.possible_owners(job) if (other, theirs) != (kind, name)]
    others = ", or ".join([*owners, f"an earlier {kind} {name} that was deleted with --cascade=orphan"])
    return (
        f"Job {job} was requested but does not appear. Either a Job of that name belongs to another CR ({others}), "
        f"or the API server refuses it (then an event SyncError of this {kind} has the cause); {_way_out(observed, job)}"
    )


def _way_out(observed: Observed, job: str) -> str:
    kind = observed.parent.get("kind") or "CR"
    return (
        f"see: kubectl describe job {job} -n {observed.namespace}. Once no other Job has that name this {kind} continues "
        f"automatically: delete that Job when it has ended, or create this {kind} under another name"
    )
