"""Restoring a point in time beside a compaction of its log (``replicationConfig``): two Jobs, the second once both are ready.

============================================= ============================================================
observed                                      answer
============================================= ============================================================
no Job yet, the CompactBackup is of another   ``Invalid`` with what differs
log
no Job yet                                    ``<cr>-snapshot-restore``, phase ``SnapshotRestore``
it ended well                                 marker ``SnapshotRestored``
it failed for good                            ``Failed``, reason ``SnapshotRestoreFailed``
the CompactBackup is ``Complete``             marker ``CompactSettled``, reason ``AllShardsComplete``
it is ``Failed``                              marker ``CompactSettled``, reason ``ShardsPartialFailed``
neither within ``waitTimeout`` of the         marker ``CompactSettled``, reason ``CompactBackupWaitTimeout``
creation of the Restore
the first marker alone                        condition ``Waiting`` says what the CompactBackup does
both markers                                  ``<cr>-log-restore``, phase ``LogRestore``
it ended                                      ``Complete``; ``Failed``, reason ``LogRestoreFailed``
============================================= ============================================================

A compaction that failed never fails the restore: what it did not compact is restored from the log as it is, only slower. Each
step is a run of its own, with the retries of the policy (:mod:`~app.domain.job.run`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job import gc_life_time
from app.domain.job.observed import JobIntent, Purpose, observed_jobs
from app.domain.job.retry import Policy
from app.domain.job.run import Outcome, Run, show
from app.domain.observed import Object, Observed, condition, metadata
from app.domain.restore import pitr
from app.domain.status import Phase, StatusBuilder, holds
from app.domain.times import moment
from app.domain.validation import Admission, admit, hold
from crds.contract import durations, names
from crds.contract.paths import PathError, location_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of the two Jobs: its *name* ends the Job's, *failure* is the reason when it fails for good."""

    name: str
    phase: Phase
    failure: str


SNAPSHOT: Final = Step(name="snapshot-restore", phase=Phase.SNAPSHOT_RESTORE, failure="SnapshotRestoreFailed")
LOG: Final = Step(name="log-restore", phase=Phase.LOG_RESTORE, failure="LogRestoreFailed")


def related(spec: Mapping[str, Any], namespace: str) -> list[dict[str, Any]]:
    """The customize rule that brings the CompactBackup."""
    name = (spec.get("replicationConfig") or {}).get("compactBackupName")
    if not name:
        return []
    return [{"apiVersion": names.API_VERSION, "resource": "compactbackups", "namespace": namespace, "names": [name]}]


def applies(observed: Observed) -> bool:
    """Whether the Restore goes in two steps; one that has begun goes on as it began, whatever is edited."""
    jobs = observed_jobs(observed)
    # The status may be one write behind: the first Job may be there before it tells of a step.
    if observed.status.get("replicationStep") or any(_first_job(observed, step) in jobs for step in (SNAPSHOT, LOG)):
        return True
    begun = holds(observed.status, Phase.SCHEDULED) or names.restore_job(observed.name) in jobs
    return pitr.is_pitr(observed.spec) and bool(observed.spec.get("replicationConfig")) and not begun


def _first_job(observed: Observed, step: Step) -> str:
    return names.fit(f"{observed.name}-{step.name}")


def sync(builder: StatusBuilder, observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer for a Restore that has not ended."""
    two = _TwoSteps(builder, observed, now, config)
    if not holds(builder.done(), Phase.SNAPSHOT_RESTORED) and (decision := two.run(SNAPSHOT)):
        return decision
    return two.wait_for_compaction() or two.run(LOG) or two.answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Why the compaction is not settled, and when it counts as settled all the same."""

    reason: str
    message: str
    until: datetime | None


class _TwoSteps:
    """One pass over a Restore with ``replicationConfig``."""

    def __init__(self, builder: StatusBuilder, observed: Observed, now: datetime, config: Config) -> None:
        self.builder, self.observed, self.now, self.config = builder, observed, now, config
        self.received = observed.status
        self.started = bool(self.received.get("replicationStep"))
        self.pending = self._compaction()

    def answer(self, *, create: tuple[JobIntent, ...] = (), wait: float | None = None) -> Decision[JobIntent]:
        """The decision of this pass; it comes back when the compaction has been waited for long enough."""
        until = self.pending.until if self.pending else None
        waits = [time for time in (wait, (until - self.now).total_seconds() if until else None) if time is not None]
        return Decision(status=self.builder.done(), create=create, resync_after=min(waits, default=None))

    def run(self, step: Step) -> Decision[JobIntent] | None:
        """Follow *step*; None once the snapshot is there."""
        current = self.received.get("replicationStep") == step.name
        gc_life_time.show(self.builder, observed_jobs(self.observed).values())
        run = Run(
            first=_first_job(self.observed, step),
            policy=Policy.of(self.observed.spec),
            jobs=observed_jobs(self.observed),
            status=self.received if current else {**self.received, "backoffRetryStatus": None},
            seen=current,
            repeats_vanished=False,
            preparing=Phase.RUNNING,
            retry_reason="RetryFailedRestore",
        )
        outcome = run.evaluate(self.now, self.config)
        self._show(step, outcome)
        if outcome.due:
            return self._start(step, outcome.due)
        if step is SNAPSHOT and outcome.phase is Phase.COMPLETE:
            self.builder.mark(Phase.SNAPSHOT_RESTORED, at=outcome.at)
            return None
        return self.answer(wait=outcome.wait)

    def _show(self, step: Step, outcome: Outcome) -> None:
        if outcome.phase is None:
            return
        self.builder.put(replicationStep=step.name)
        show(self.builder, _as_part(outcome, step))
        first = moment(self.received.get("timeStarted"))
        if step is LOG and first:
            ended = moment(self.builder.get("timeCompleted"))
            self.builder.put(timeStarted=first, timeTaken=durations.go_text(ended - first) if ended else None)

    def _start(self, step: Step, name: str) -> Decision[JobIntent]:
        admission = pitr.judge(admit("Restore", self.observed, self.config), self.observed)
        if hold(self.builder, self.observed, self._unless_mismatch(admission), move=not self.started):
            return self.answer()
        intent = JobIntent(name=name, purpose=Purpose.RESTORE, command=step.name, cluster=admission.cluster)
        return self.answer(create=(intent,))

    def _unless_mismatch(self, admission: Admission) -> Admission:
        """A wrong name in the spec is best told before hours of restoring."""
        if admission.invalid or self.started or not self.pending or self.pending.reason != "CompactBackupMismatch":
            return admission
        return Admission(invalid=self.pending.message)

    def wait_for_compaction(self) -> Decision[JobIntent] | None:
        """The snapshot is there; the log waits for the compaction."""
        if self.pending is None:
            return None
        at = moment(metadata(self.observed.parent).get("creationTimestamp"))
        self.builder.mark(Phase.WAITING, at=at, reason=self.pending.reason, message=self.pending.message)
        return self.answer()

    def _compaction(self) -> Pending | None:
        """Why the compaction is not settled; None once it is, which is marked, or when it is no longer asked for."""
        if holds(self.received, Phase.COMPACT_SETTLED):
            return None
        asked = self.observed.spec.get("replicationConfig") or {}
        name = asked.get("compactBackupName")
        if not name:
            return None
        found = self._compact_backup(name)
        state = str(((found or {}).get("status") or {}).get("state") or "")
        differences = _differences(found, self.observed) if found else []
        if found and not differences and state in _SETTLED:
            ended = moment((condition(found, state) or {}).get("lastTransitionTime"))
            self._settle(_SETTLED[state], f"CompactBackup {name} is {state}", ended)
            return None
        until = self._deadline(str(asked.get("waitTimeout") or ""))
        if until and self.now >= until and (self.started or not differences):
            self._settle("CompactBackupWaitTimeout", f"CompactBackup {name} took longer than {asked['waitTimeout']}", until)
            return None
        if differences:
            message = f"CompactBackup {name} is of another log: {', '.join(differences)}; correct it or replicationConfig"
            return Pending(reason="CompactBackupMismatch", message=message, until=until)
        message = (
            f"the log waits for CompactBackup {name}: it is {state or 'not started'}"
            if found
            else f"no CompactBackup {name} yet"
        )
        return Pending(reason="CompactBackupPending" if found else "CompactBackupNotFound", message=message, until=until)

    def _compact_backup(self, name: str) -> Object | None:
        group = self.observed.related.get("CompactBackup.pingcap.com/v1alpha1") or {}
        return group.get(f"{self.observed.namespace}/{name}")

    def _settle(self, reason: str, message: str, at: datetime | None) -> None:
        self.builder.mark(Phase.COMPACT_SETTLED, at=at, reason=reason, message=message)

    def _deadline(self, timeout: str) -> datetime | None:
        """The end of ``waitTimeout``; None for ever. What cannot be read has been named by the validation."""
        created = moment(metadata(self.observed.parent).get("creationTimestamp"))
        try:
            patience = durations.parse(timeout) if timeout else timedelta()
        except durations.DurationError:
            return None
        return created + patience if created and patience > timedelta() else None


_SETTLED: Final = {str(Phase.COMPLETE): "AllShardsComplete", str(Phase.FAILED): "ShardsPartialFailed"}


def _as_part(outcome: Outcome, step: Step) -> Outcome:
    """*outcome* of one step as the whole Restore shows it."""
    if outcome.phase is Phase.FAILED:
        words = "; ".join(text for text in (outcome.reason, outcome.message) if text)
        return replace(outcome, reason=step.failure, message=words)
    between = step is SNAPSHOT and outcome.phase is Phase.COMPLETE
    return replace(outcome, phase=step.phase) if between or outcome.phase in {Phase.SCHEDULED, Phase.RUNNING} else outcome


def _differences(compact: Object, restore: Observed) -> list[str]:
    """What CompactBackup and Restore do not have in common but must; credentials and storage classes may differ."""
    given = compact.get("spec") or {}
    namespace = str(metadata(compact).get("namespace") or "")
    pairs = {
        "br.cluster": (_br(given, "cluster"), _br(restore.spec, "cluster")),
        "br.clusterNamespace": (
            _br(given, "clusterNamespace") or namespace,
            _br(restore.spec, "clusterNamespace") or restore.namespace,
        ),
        "storage": (_storage(given), _storage(restore.spec)),
    }
    return [f"its {field} is {theirs}, here it is {ours}" for field, (theirs, ours) in pairs.items() if theirs != ours]


def _br(spec: Mapping[str, Any], field: str) -> str:
    return str((spec.get("br") or {}).get(field) or "")


def _storage(spec: Mapping[str, Any]) -> str:
    try:
        return location_of(spec).url
    except PathError:
        return "not to be read"
