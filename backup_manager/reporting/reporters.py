"""Where reports go: the annotation of our own Job, a file, or stdout; the last one also into the termination message.

Progress is sparse: at most every :data:`EVERY_SECONDS`, and whenever a step begins or ends. A progress report never disturbs
the work; the path and the outcome are stored for certain or the run does not succeed.
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from backup_manager.backoff import Backoff
from backup_manager.errors import ManagerError, UnreachableError, UsageError
from backup_manager.kubernetes.client import ConflictError, KubernetesApi, retry_after
from backup_manager.reporting.journal import Reporter
from crds.contract import names
from crds.contract.report import ANNOTATION, TERMINATION_BYTES, Report

EVERY_SECONDS: Final = 10.0
STORE_SECONDS: Final = 300.0
"""How long a report that must not be lost is tried for, unless the process is killed sooner."""
TERMINATION_LOG: Final = Path("/dev/termination-log")


class Pace:
    """Decides which progress reports are worth sending."""

    def __init__(self, every: float = EVERY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._sent = float("-inf")
        self._milestone: tuple[object, ...] = ()

    def wait(self, report: Report) -> float:
        """Seconds until *report* may go out; 0 for one with news: another phase, a step begun or ended, a look at a log."""
        if _milestone(report) != self._milestone:
            return 0.0
        return max(0.0, self._sent + self._every - self._clock())

    def sent(self, report: Report) -> None:
        """*report* went out now."""
        self._sent, self._milestone = self._clock(), _milestone(report)


def _milestone(report: Report) -> tuple[object, ...]:
    waits_for = report.error.reason if report.error else ""
    # Each look at a log backup's task is news: there are few.
    look = report.result.get("observedAt")
    return report.phase, waits_for, look, tuple((part.step, part.progress >= 100) for part in report.progress)


class JobAnnotationReporter:
    """Patches :data:`crds.contract.report.ANNOTATION` of one Job. A thread of its own sends progress, the newest report only.

    *store_seconds* limits how long :meth:`store` repeats itself, *left* does so too: the seconds until this process is killed.
    """

    def __init__(
        self,
        api: KubernetesApi,
        *,
        namespace: str,
        job: str,
        uid: str,
        log: Callable[[str], None],
        pace: Pace | None = None,
        store_seconds: float = STORE_SECONDS,
        left: Callable[[], float] = lambda: math.inf,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._job = namespace, job, uid
        self._log = log
        self._pace = pace or Pace()
        self._left = left
        self._backoff = Backoff(seconds=store_seconds, left=left, sleep=sleep)
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._told = -1
        self._newest: Report | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._deliver, name="reporter", daemon=True)
        self._thread.start()

    def offer(self, report: Report) -> None:
        """Hand *report* to the thread."""
        with self._changed:
            self._newest = report
            self._changed.notify()

    def store(self, report: Report) -> None:
        """Patch now, and again for minutes; a conflict is tried again, another Job of this name never."""

        def passing(error: BaseException) -> bool:
            return isinstance(error, UnreachableError) or (isinstance(error, ConflictError) and self._still_ours())

        with self._changed:
            self._newest = None
        with self._sending:
            self._backoff.call(
                lambda: self._patch(report),
                passing=passing,
                asked=retry_after,
                on_failure=lambda error: self._log(f"report {report.seq} not stored yet: {error}"),
            )

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _still_ours(self) -> bool:
        namespace, job, uid = self._job
        try:
            return not uid or self._api.job(namespace, job)["metadata"]["uid"] == uid
        except UnreachableError:
            return True
        except ManagerError:
            return False

    def _patch(self, report: Report) -> None:
        namespace, job, uid = self._job
        self._api.annotate_job(namespace, job, uid, {ANNOTATION: report.to_json()})
        self._told = report.seq
        self._pace.sent(report)

    def _deliver(self) -> None:
        while (report := self._due()) is not None:
            # A progress report that waited behind a stored one is old news by then.
            with self._sending:
                if report.seq <= self._told or math.isfinite(self._left()):
                    continue  # about to be killed: the outcome must not wait for an answer to progress
                try:
                    self._patch(report)
                except ManagerError as error:
                    self._pace.sent(report)
                    self._log(f"progress report {report.seq} was dropped: {error.message}")

    def _due(self) -> Report | None:
        """The newest report once it may go out; None when closed."""
        with self._changed:
            while not self._closed:
                pause = None if self._newest is None else self._pace.wait(self._newest)
                if pause == 0.0:
                    report, self._newest = self._newest, None
                    return report
                self._changed.wait(pause)
            return None


class LinesReporter:
    """One JSON line a report, to a file or to stdout; on a terminal one readable line that is written over."""

    def __init__(self, stream: TextIO, *, pace: Pace | None = None, owned: bool = False) -> None:
        self._stream = stream
        self._owned = owned
        self._terminal = stream.isatty()
        self._pace = pace or Pace(every=1.0 if self._terminal else EVERY_SECONDS)
        self._lock = threading.Lock()
        self._width = 0

    def offer(self, report: Report) -> None:
        """Write it when it is due."""
        with self._lock:
            if self._pace.wait(report) == 0:
                with suppress(OSError, ValueError):
                    self._write(report)

    def store(self, report: Report) -> None:
        """Write it. Raises UnreachableError when that fails."""
        with self._lock:
            try:
                self._write(report)
            except (OSError, ValueError) as error:
                raise UnreachableError(f"the report cannot be written: {error}", reason="ReportNotStored") from None

    def close(self) -> None:
        """Close the file, when it is ours."""
        if self._owned:
            self._stream.close()

    def _write(self, report: Report) -> None:
        if self._terminal:
            line = readable(report)
            self._stream.write(f"\r{line.ljust(self._width)}" + ("\n" if report.final else ""))
            self._width = len(line)
        else:
            self._stream.write(report.to_json() + "\n")
        self._stream.flush()
        self._pace.sent(report)


def readable(report: Report) -> str:
    """*report* in one line for a person.

    >>> from crds.contract.report import Phase, StepProgress
    >>> readable(Report(seq=1, phase=Phase.RUNNING, progress=(StepProgress(step="Dump", progress=42.4),), bytes=5024))
    'Running  Dump 42%  5.0 kB'
    """
    from crds.contract.sizes import readable as readable_size  # noqa: PLC0415  (terminals only)

    parts = [report.phase.value]
    if report.final:
        parts += [report.backup_path or "", readable_size(report.backup_size) if report.backup_size is not None else ""]
        parts.append(f"commitTs {report.commit_ts}" if report.commit_ts else "")
    elif report.progress:
        last = report.progress[-1]
        parts += [f"{last.step} {last.progress:.0f}%", readable_size(report.bytes) if report.bytes else ""]
        parts.append(f"until about {report.eta:%H:%M:%S} UTC" if report.eta else "")
    if report.error:
        parts.append(f"{report.error.reason}: {report.error.message}  {report.error.hint}".strip())
    return "  ".join(part for part in parts if part)


def open_reporter(
    target: str,
    *,
    api: Callable[[], KubernetesApi],
    env: Mapping[str, str],
    namespace: str,
    log: Callable[[str], None],
    left: Callable[[], float] = lambda: math.inf,
) -> Reporter:
    """The reporter for ``--report``: ``job``, ``stdout`` or a file; empty: the Job when there is one, else stdout."""
    job = env.get(names.ENV_JOB_NAME, "")
    if target == "job" and not job:
        raise UsageError(f"--report=job needs the environment variable {names.ENV_JOB_NAME}", hint="Use --report=stdout.")
    if target == "job" or (not target and job):
        namespace = env.get(names.ENV_POD_NAMESPACE) or namespace
        uid = env.get(names.ENV_JOB_UID, "")
        return JobAnnotationReporter(api(), namespace=namespace, job=job, uid=uid, log=log, left=left)
    if target in {"", "stdout", "-"}:
        return LinesReporter(sys.stdout)
    try:
        return LinesReporter(Path(target).open("a", encoding="utf-8"), owned=True)
    except OSError as error:
        raise UsageError(
            f"--report={target} cannot be written: {error.strerror}", hint="Name a file in an existing folder."
        ) from None


def write_termination_message(report: Report, path: Path = TERMINATION_LOG) -> None:
    """The outcome into the container's termination message, where ``kubectl describe pod`` shows it."""
    if path.exists():
        with suppress(OSError):
            outcome = report.but(progress=())
            fits = len(outcome.to_json().encode()) <= TERMINATION_BYTES
            path.write_text((outcome if fits else outcome.but(result={})).to_json())
