"""``backoffRetryPolicy``: which failure is tried again, when, and when it is enough.

The rules of TiDB Operator 1.6 (delay doubles, two limits), widened to every mode and to restores, and narrowed to *transient*
failures: what repeating cannot cure fails at once, under its own name. A retry is a new Job, ``<first>-r<n>``. Every time in a
record is a fact of a Job, so the timeout is judged by when the retry would be due, not by when somebody looked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Self

from app.domain.job.observed import Job
from app.domain.times import moment, stamp
from crds.contract import durations, names
from crds.contract.report import Phase as ReportPhase

DEFAULT_MIN_DELAY: Final = "300s"
DEFAULT_MAX_RETRIES: Final = 2
DEFAULT_TIMEOUT: Final = "30m"
_DOUBLINGS: Final = 20
"""The delay stops doubling here: some ten years with the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``spec.backoffRetryPolicy`` with its defaults (the schema fills them only where the parent object was given)."""

    min_delay: timedelta
    max_retries: int
    timeout: timedelta

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The policy of *spec*; what cannot be read counts as absent, since :mod:`~app.domain.validation` has named it."""
        policy = spec.get("backoffRetryPolicy") or {}
        retries = policy.get("maxRetryTimes")
        return cls(
            min_delay=_duration(str(policy.get("minRetryDuration") or ""), DEFAULT_MIN_DELAY),
            max_retries=retries if isinstance(retries, int) else DEFAULT_MAX_RETRIES,
            timeout=_duration(str(policy.get("retryTimeout") or ""), DEFAULT_TIMEOUT),
        )

    def refusal(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Why the last of *records* is not retried, in the operator's words; empty when it is."""
        first, last = records[0], records[-1]
        too_many = len(records) > self.max_retries
        since = moment(first.get("detectFailedAt"))
        # Judged by when the retry would be due, so that the answer does not depend on who looks when.
        then = moment(last.get("detectFailedAt" if too_many else "expectedRetryAt"))
        if since and then and then - since > self.timeout:
            return f"retry timeout, max is {durations.go_text(self.timeout)}"
        return f"exceed retry times, max is {self.max_retries}" if too_many else ""


@lru_cache(maxsize=64)
def _duration(text: str, default: str) -> timedelta:
    try:
        given = durations.parse(text or default)
    except durations.DurationError:
        return durations.parse(default)
    return max(given, timedelta())


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How one attempt failed. *cause* is the short reason, *at* when."""

    job: str
    cause: str
    message: str = ""
    retryable: bool = True
    at: datetime | None = None

    @property
    def summary(self) -> str:
        """``Job x has failed``, as upstream writes ``retryReason``."""
        return f"Job {self.job} {'is gone' if self.cause == VANISHED else 'has failed'}"

    def told(self, *, before: str = "", after: str = "") -> str:
        """The whole story in one line."""
        return "; ".join(text for text in (before, self.summary, self.cause, self.message, after) if text)

    def record(self, number: int, policy: Policy) -> dict[str, Any]:
        """The entry of ``status.backoffRetryStatus`` for the retry *number* (from 1)."""
        delay = policy.min_delay * 2 ** min(number - 1, _DOUBLINGS)
        times = {"detectFailedAt": stamp(self.at), "expectedRetryAt": stamp(self.at + delay)} if self.at else {}
        return {"retryNum": number, **times, "retryReason": self.summary, "originalReason": self.cause}


VANISHED: Final = "JobVanished"


def failure_of(job: Job) -> Failure:
    """Why the failed *job* failed: what its manager said, else how Kubernetes saw it end, which is retryable."""
    report = job.report
    if report and report.phase is ReportPhase.FAILED:
        if error := report.error:
            words = "; ".join(text for text in (error.message, error.hint) if text)
            return Failure(job=job.name, cause=error.reason, message=words, retryable=error.retryable, at=job.ended)
        return Failure(job=job.name, cause="Failed", message="the manager gave no reason", retryable=False, at=job.ended)
    reason, message = job.failed_because
    return Failure(job=job.name, cause=reason, message=message, at=job.ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryState:
    """The attempts so far. *number* counts from 0; *job* is the current attempt's Job where it is observed; *failure* is set
    when the current attempt has failed and no other has followed; *records* are those of retries that were decided."""

    number: int
    job: Job | None
    failure: Failure | None
    records: list[dict[str, Any]]


def evaluate_retries(
    first: str,
    jobs: Mapping[str, Job],
    records: Sequence[Mapping[str, Any]],
    policy: Policy,
    *,
    seen: bool,
    last_activity: Callable[[], datetime | None],
) -> RetryState:
    """Follow the attempts of *first* through the observed *jobs*.

    Jobs count for more than the *records* of the received status, which may be one write behind. *seen* says that the status
    knows the first Job to have existed: if it is absent now it vanished, and *last_activity* finds the last sign of life.
    """
    known: list[dict[str, Any]] = [dict(record) for record in records]
    number = 0
    following = names.retry(first, number)
    while True:
        name, following = following, names.retry(first, number + 1)
        job, follower = jobs.get(name), jobs.get(following)
        was_followed = follower is not None or (number < len(known) and bool(known[number].get("realRetryAt")))
        if job and not job.failed and not was_followed:
            return RetryState(number=number, job=job, failure=None, records=known[:number])
        if job is None and not (seen or was_followed or number < len(known)):
            return RetryState(number=number, job=None, failure=None, records=known[:number])
        noted = moment(known[number].get("detectFailedAt")) if number < len(known) else last_activity()
        failure = failure_of(job) if job and job.failed else _vanished(name, noted)
        if not was_followed:
            return RetryState(number=number, job=job, failure=failure, records=known[: number + 1])
        if number >= len(known):
            known.append(failure.record(number + 1, policy))
        if follower and follower.created:
            known[number].setdefault("realRetryAt", stamp(follower.created))
        number, seen = number + 1, True


def _vanished(name: str, at: datetime | None) -> Failure:
    return Failure(job=name, cause=VANISHED, message="the Job was deleted before its end was seen", at=at)
