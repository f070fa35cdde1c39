"""How a run tells the world: a :class:`Journal` holds the report being written, a :class:`Reporter` carries it away."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from backup_manager.errors import RunInterruptedError
from backup_manager.masking import Masker
from crds.contract.report import Phase, Problem, Report, StepProgress


class Reporter(Protocol):
    """Carries reports. :meth:`offer` is for progress, :meth:`store` for what must not be lost."""

    def offer(self, report: Report) -> None:
        """Pass on *report* when it is due; never raises, never blocks the work, may drop it for a newer one."""

    def store(self, report: Report) -> None:
        """Pass on *report* for certain. Raises UnreachableError when that cannot be done within minutes."""

    def close(self) -> None:
        """Let go of threads and files."""


class NullReporter:
    """Tells nobody."""

    def offer(self, report: Report) -> None:
        """Nothing."""

    def store(self, report: Report) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _now() -> datetime:
    return datetime.now(UTC)


class Journal:
    """The report being written. Every method may be called from any thread.

    Progress of a step only grows; a new step closes the one before at 100, as TiDB Operator writes ``status.progresses``.
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        attempt: str = "",
        masker: Masker | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._reporter = reporter
        self.masker = masker or Masker()
        self._clock = clock
        self._lock = threading.RLock()
        self._report = Report(seq=0, attempt=attempt, phase=Phase.PREPARE, time_started=clock())

    @property
    def report(self) -> Report:
        """The report as it stands."""
        return self._report

    def path(self, url: str) -> None:
        """Where the data goes. Returns only when that is stored: no byte is written before."""
        self._update(backup_path=url)
        self._reporter.store(self._report)

    def secure(self) -> None:
        """Store the report as it stands (after :meth:`note`). Returns only when that is done."""
        self._reporter.store(self._report)

    def waiting(self, problem: Problem) -> None:
        """The run waits for something outside of it."""
        self._tell(phase=Phase.WAITING, error=self._masked(problem))

    def running(self) -> None:
        """The work itself goes on."""
        self._tell(phase=Phase.RUNNING, error=None)

    def step(self, name: str, percent: float = 0.0, *, done: int | None = None, eta: datetime | None = None) -> None:
        """*name* has come to *percent*; *done* counts bytes, *eta* is the expected end of the run."""
        with self._lock:
            progress = _advanced(self._report.progress, name, min(max(percent, 0.0), 100.0), self._clock())
            self._tell(progress=progress, bytes=self._report.bytes if done is None else done, eta=eta or self._report.eta)

    def note(self, **result: Any) -> None:
        """Add to ``result``, with the next report that goes out."""
        with self._lock:
            self._update(result={**self._report.result, **self.masker.value(result)})

    def tell(self) -> None:
        """Offer the report as it stands (after :meth:`note`)."""
        self._reporter.offer(self._report)

    def complete(self, *, commit_ts: str | None = None, backup_size: int | None = None, **result: Any) -> None:
        """The run did what it should. Returns only when that is stored. Raises RunInterruptedError after :meth:`fail`."""
        with self._lock:
            if self._report.final:
                raise RunInterruptedError("the run ended after it had been reported as stopped")
            self.note(**result)
            closed = tuple(_closed(part, self._clock()) for part in self._report.progress)
            self._update(
                phase=Phase.COMPLETE,
                progress=closed,
                commit_ts=commit_ts or self._report.commit_ts,
                backup_size=self._report.backup_size if backup_size is None else backup_size,
                time_completed=self._clock(),
                eta=None,
                error=None,
            )
        self._reporter.store(self._report)

    def fail(self, problem: Problem) -> None:
        """The run failed. Returns only when that is stored. An outcome that is there already stays, and is stored again."""
        with self._lock:
            if not self._report.final:
                self._update(phase=Phase.FAILED, error=self._masked(problem), time_completed=self._clock(), eta=None)
        self._reporter.store(self._report)

    def _masked(self, problem: Problem) -> Problem:
        return problem.but(message=self.masker(problem.message), hint=self.masker(problem.hint))

    def _update(self, **fields: Any) -> None:
        with self._lock:
            self._report = self._report.but(**fields, seq=self._report.seq + 1)

    def _tell(self, **fields: Any) -> None:
        with self._lock:
            if self._report.final:  # a thread that has not noticed yet
                return
            self._update(**fields)
        self._reporter.offer(self._report)


def _closed(part: StepProgress, now: datetime) -> StepProgress:
    return part if part.progress >= 100 else StepProgress(step=part.step, progress=100.0, last_transition_time=now)


def _advanced(progress: tuple[StepProgress, ...], name: str, percent: float, now: datetime) -> tuple[StepProgress, ...]:
    known = next((index for index, part in enumerate(progress) if part.step == name), None)
    if known is None:
        closed = (*progress[:-1], _closed(progress[-1], now)) if progress else ()
        return (*closed, StepProgress(step=name, progress=percent, last_transition_time=now))
    grown = StepProgress(step=name, progress=max(percent, progress[known].progress), last_transition_time=now)
    return (*progress[:known], grown, *progress[known + 1 :])
