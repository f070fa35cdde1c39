"""One run of one command, over as many attempts as the policy allows: observed Jobs in, where it stands out.

============================ ======================================= ==================
observed                     outcome                                 phase
============================ ======================================= ==================
no Job, none known           a Job is *due*                          (the gate decides)
Job unfinished               wait for it                             what it reports
Job complete, final report   ended                                   ``Complete``
Job complete, no such report ended, ``ReportMissing``                ``Failed``
Job failed or vanished:
  nothing would be different ended, its own reason                   ``Failed``
  the policy has enough      ended, ``AlreadyFailed``                ``Failed``
  too early, or Pods left    wait                                    ``RetryFailed``
  else                       the next Job is *due*                   ``RetryFailed``
============================ ======================================= ==================
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Self

from app.domain.config import Config
from app.domain.job import progress
from app.domain.job.observed import Job, observed_jobs
from app.domain.job.retry import Failure, Policy, RetryState, evaluate_retries
from app.domain.observed import Observed, metadata
from app.domain.status import TRANSIENT, Phase, StatusBuilder, holds
from app.domain.times import moment, stamp
from crds.contract import names
from crds.contract.report import Phase as ReportPhase

_PHASES: Final = {
    ReportPhase.PREPARE: Phase.PREPARE,
    ReportPhase.WAITING: Phase.WAITING,
    ReportPhase.RUNNING: Phase.RUNNING,
    # The final report precedes the Job's own condition, which alone ends the run.
    ReportPhase.COMPLETE: Phase.RUNNING,
    ReportPhase.FAILED: Phase.RUNNING,
}
_PODS_LEFT: Final = 10
"""Seconds until a failed Job is looked at again for Pods that are still ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where a run stands. *phase* is None while no Job was ever seen. *due* names the Job to be created now, *wait* is in
    seconds. *job* is the current attempt's, *name* its name; *stalled* is why no Pod of it is ready:
    reason and message."""

    name: str
    phase: Phase | None = None
    job: Job | None = None
    reason: str = ""
    message: str = ""
    at: datetime | None = None
    due: str = ""
    wait: float | None = None
    stalled: tuple[str, str] | None = None
    stalled_at: datetime | None = None
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing more will be run."""
        return self.phase in {Phase.COMPLETE, Phase.FAILED}


def _activity_times(status: Mapping[str, Any]) -> Iterator[datetime]:
    texts = [status.get("timeStarted"), status.get("timeCompleted")]
    texts += [item.get("lastTransitionTime") for item in status.get("progresses") or ()]
    # What only says why nothing moves is no sign of a Job's life.
    conditions = [item for item in status.get("conditions") or () if item.get("type") not in TRANSIENT]
    texts += [item.get("lastTransitionTime") for item in conditions]
    texts += [record.get("realRetryAt") for record in status.get("backoffRetryStatus") or ()]
    return (time for time in map(moment, texts) if time)


def last_activity(status: Mapping[str, Any]) -> datetime | None:
    """The newest time in *status*: the last sign of life of a Job that vanished."""
    return max(_activity_times(status), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is to be run: Job *first* and its retries. *seen* says that the status knows the first Job to have existed.
    *repeats_vanished* is False where running twice could do harm: a vanished Job may have been a finished one. *preparing* is
    the phase of a manager that prepares: a Restore has no word for it."""

    first: str
    policy: Policy
    jobs: Mapping[str, Job]
    status: Mapping[str, Any]
    seen: bool
    repeats_vanished: bool = True
    preparing: Phase = Phase.PREPARE
    retry_reason: str = "RetryFailedBackup"

    @classmethod
    def of(cls, first: str, observed: Observed, **options: Any) -> Self:
        """The one run of a CR; the condition ``Scheduled`` says whether its first Job was ever seen."""
        status = observed.status
        seen = holds(status, Phase.SCHEDULED)
        return cls(
            first=first, policy=Policy.of(observed.spec), jobs=observed_jobs(observed), status=status, seen=seen, **options
        )

    def evaluate(self, now: datetime, config: Config) -> Outcome:
        """Where the run stands; *now* only decides what is due."""
        records = self.status.get("backoffRetryStatus") or []
        state = evaluate_retries(
            self.first, self.jobs, records, self.policy, seen=self.seen, last_activity=partial(last_activity, self.status)
        )
        name = names.retry(self.first, state.number)
        if state.failure:
            return self._failed(state, state.failure, name, now)
        if state.job is None:
            return Outcome(name=name, due=name, records=state.records)
        if state.job.finished:
            return _ended(state.job, name, state.records)
        outcome = _unfinished(state.job, name, state.records, now, config)
        return replace(outcome, phase=self.preparing) if outcome.phase is Phase.PREPARE else outcome

    def _failed(self, state: RetryState, failure: Failure, name: str, now: datetime) -> Outcome:
        final = Outcome(
            name=name,
            job=state.job,
            phase=Phase.FAILED,
            reason=failure.cause,
            message=failure.message,
            at=failure.at,
            records=state.records,
        )
        repeatable = failure.retryable and (state.job is not None or self.repeats_vanished)
        return self._retried(final, state, failure, now) if repeatable else final

    def _retried(self, final: Outcome, state: RetryState, failure: Failure, now: datetime) -> Outcome:
        """*final*, unless the policy allows another attempt."""
        records = state.records
        if len(records) == state.number:
            records = [*records, failure.record(state.number + 1, self.policy)]
        if refusal := self.policy.refusal(records):
            message = failure.told(before=refusal)
            return replace(final, reason="AlreadyFailed", message=message, records=records)
        expected = moment(records[-1].get("expectedRetryAt"))
        early = (expected - now).total_seconds() if expected else 0
        wait = max(early, _PODS_LEFT if state.job and state.job.busy else 0)
        following = names.retry(self.first, state.number + 1)
        return replace(
            final,
            phase=Phase.RETRY_FAILED,
            reason=self.retry_reason,
            message=failure.told(after=f"{following} follows{f' at {stamp(expected)}' if expected else ''}"),
            records=records,
            due="" if wait > 0 else following,
            wait=wait if wait > 0 else None,
        )


def _ended(job: Job, name: str, records: list[dict[str, Any]]) -> Outcome:
    """The outcome of a Job that Kubernetes calls complete."""
    if job.succeeded:
        return Outcome(name=name, job=job, phase=Phase.COMPLETE, at=job.ended, records=records)
    error = job.report.error if job.report else None
    reason = error.reason if error else "ReportMissing"
    message = error.message if error else f"Job {name} is complete but left no final report, so nothing proves its work"
    if job.reported_elsewhere:
        reason, message = "ReportedPathDiffers", f"Job {name} reports on another path than {job.path}, which it was given"
    return Outcome(name=name, job=job, phase=Phase.FAILED, reason=reason, message=message, at=job.ended, records=records)


def _unfinished(job: Job, name: str, records: list[dict[str, Any]], now: datetime, config: Config) -> Outcome:
    report = job.report
    phase = _PHASES[report.phase] if report else Phase.SCHEDULED
    error = report.error if report else None
    outcome = Outcome(
        name=name, job=job, phase=phase, at=(report.time_started if report else None) or job.started, records=records
    )
    if phase is Phase.WAITING:
        outcome = replace(outcome, reason=error.reason if error else "Waiting", message=error.message if error else "")
    late = stall_time(job, config)
    if late is None:
        return outcome
    if now < late:
        return replace(outcome, wait=(late - now).total_seconds())
    return replace(outcome, stalled=stall_cause(job, config), stalled_at=late)


def stall_time(job: Job, config: Config) -> datetime | None:
    """When *job* counts as stalled; None while there is a sign of life, or once it has ended."""
    return job.started + timedelta(seconds=config.start_deadline) if job.unready and job.started else None


def stall_cause(job: Job, config: Config) -> tuple[str, str]:
    """Reason and message when no Pod of *job* becomes ready: there may be none, and then the Job itself tells why."""
    namespace = str(metadata(job.obj).get("namespace") or "")
    if job.has_pods:
        return "NoPodReady", (
            f"no Pod of Job {job.name} became ready within {config.start_deadline} s: it cannot be scheduled, its image cannot "
            f"be pulled, or a Secret or volume is missing; see: kubectl describe pod -l job-name={job.name}"
        )
    return "NoPodCreated", (
        f"no Pod of Job {job.name} could be created within {config.start_deadline} s: its ServiceAccount {job.account} is "
        f"missing (kubectl label namespace {namespace} {names.NAMESPACE_LABEL}=enabled makes {names.SERVICE_ACCOUNT}), a quota "
        f"is used up, or an admission webhook refuses it; the Job's events say which: "
        f"kubectl describe job {job.name} -n {namespace}"
    )


def show(builder: StatusBuilder, outcome: Outcome, *, command: str = "") -> None:
    """Write *outcome* into a status (or into the part of one that belongs to *command*)."""
    job, phase = outcome.job, outcome.phase
    if phase is None:
        return
    if job:
        builder.mark(Phase.SCHEDULED, at=job.created, message=f"Job {outcome.name}", command=command)
        if outcome.ended:
            progress.show_ended(builder, job, complete=phase is Phase.COMPLETE)
        else:
            progress.show_running(builder, job)
        progress.show_position(builder, job)
        if not command:
            progress.show_operations(builder, job)
            progress.show_left_out(builder, job)
    if phase is Phase.SCHEDULED:
        builder.enter(phase, at=job.created if job else outcome.at, message=f"Job {outcome.name}", command=command)
    else:
        builder.enter(phase, at=outcome.at, reason=outcome.reason, message=outcome.message, command=command)
    if outcome.stalled:
        reason, message = outcome.stalled
        builder.mark(Phase.STALLED, at=outcome.stalled_at, reason=reason, message=message, command=command)
    builder.put(backoffRetryStatus=outcome.records)
