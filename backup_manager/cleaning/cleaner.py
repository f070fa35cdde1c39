"""Deletes everything under one path: fast, in bounded memory, and only that.

The main thread lists page by page and hands batches to worker threads, as many as :class:`.pacing.AdaptiveLimit` allows;
listing the next page and deleting the last ones overlap, and never more than the window is held in memory. What a store refuses
for now is tried again with growing, jittered pauses. When a pass is done the path is listed again: it is clean when the listing
says so, not when the deletions said so. A crash at any point leaves less to do for the next run, nothing else.

What is locked (object lock, immutability, legal hold) is reported with its date instead of being tried for ever.
"""

import heapq
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from backup_manager.cleaning.adaptive_limit import AdaptiveLimit
from backup_manager.errors import AccessDeniedError, ManagerError, PartialError, StorageError, ThrottledError, TransientError
from backup_manager.signals import StopSignal
from backup_manager.storage.base import DeleteFailure, Storage, Target

ATTEMPTS: Final = 10
"""Tries of one key, or of one batch, within a pass: some 20 seconds of a store that says no."""
EXAMPLES: Final = 20
"""So many keys are named in a report that is bounded."""
_REPORT_EVERY: Final = 2.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_CONFIRM_EVERY: Final = 10.0
"""So often during a pass the claim on the path is looked at again."""
_LOOK_UP: Final = 1.0
"""So often at least it is seen that the Pod is to stop, and progress is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanOptions:
    """``spec.cleanOption``; a count that is not positive means its default, as upstream has it.

    *page_size*: targets under way at most. *rounds*: passes over the path. *backoff*: rest between passes that met trouble.
    *batches*: whether to delete in batches at all; *batch_concurrency* and *single_concurrency* are the requests in flight.
    """

    page_size: int = 10_000
    rounds: int = 5
    backoff: bool = False
    batches: bool = True
    batch_concurrency: int = 40
    single_concurrency: int = 100

    @classmethod
    def of(cls, spec: Mapping[str, Any] | None) -> Self:
        """From the CR's words."""
        option, default = spec or {}, cls()

        def count(name: str, otherwise: int) -> int:
            value = int(option.get(name) or 0)
            return value if value > 0 else otherwise

        return cls(
            page_size=count("pageSize", default.page_size),
            rounds=count("retryCount", default.rounds),
            backoff=bool(option.get("backoffEnabled")),
            batches=not option.get("disableBatchConcurrency"),
            batch_concurrency=count("batchConcurrency", default.batch_concurrency),
            single_concurrency=count("routineConcurrency", default.single_concurrency),
        )


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened so far, over all passes; *locked*, *failed* and the examples are the last pass's."""

    deleted: int = 0
    bytes: int = 0
    listed: int = 0
    passes: int = 0
    throttled: int = 0
    retried: int = 0
    uploads: int = 0
    failed: int = 0
    locked: int = 0
    locked_until: datetime | None = None
    examples: list[DeleteFailure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.deleted / self.seconds if self.seconds > 0 else 0.0

    def next_pass(self) -> None:
        """Forget what only the last pass said."""
        self.passes += 1
        self.listed = self.failed = self.locked = 0
        self.locked_until = None
        self.examples = []

    def refused(self, failure: DeleteFailure) -> None:
        """One target stays."""
        if failure.locked:
            self.locked += 1
            if failure.locked_until:
                self.locked_until = max(failure.locked_until, self.locked_until or failure.locked_until)
        else:
            self.failed += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(failure)


class Cleaner:
    """One clean of one storage location. :meth:`run` may be called once.

    *confirm* raises when the path may no longer be deleted from; it is called before each pass and every ten seconds. *keep*
    names keys that stay; then unfinished uploads and empty folders stay too, for they cannot be told apart.
    """

    def __init__(
        self,
        storage: Storage,
        options: CleanOptions | None = None,
        *,
        on_progress: Callable[[Tally], None] = lambda _tally: None,
        confirm: Callable[[], None] = lambda: None,
        keep: Callable[[str], bool] | None = None,
        stop: StopSignal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not storage.location.prefix:
            raise StorageError(
                f"{storage.location.url} is a whole bucket or volume, which is never cleaned",
                reason="UnsafePath",
                hint="Delete its content by hand if it is meant; give backups a prefix.",
            )
        self.tally = Tally()
        self._storage = storage
        if options and not options.batches:
            storage.batch_size = 1
        self._options = options or CleanOptions()
        self._on_progress = on_progress
        self._confirm = confirm
        self._keep = keep
        self._confirmed = float("-inf")
        self._stop = stop or StopSignal()
        self._clock = clock
        self._reported = float("-inf")
        self._window = AdaptiveLimit(self._concurrency(), clock=clock)

    def run(self) -> Tally:
        """Delete until the path is listed empty. Raises PartialError with the tally kept when something stays."""
        self.tally.started = self._clock()
        try:
            clean = self._passes()
            if self._keep is None:
                self._abort_uploads()
                self._storage.tidy()
        finally:
            self._report(force=True)
        if not clean:
            raise self._leftovers()
        return self.tally

    def _passes(self) -> bool:
        """Whether a listing came back with nothing that could still be deleted."""
        workers = max(self._options.single_concurrency, self._options.batch_concurrency)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="clean")
        try:
            for number in range(self._options.rounds + 1):
                self.tally.next_pass()
                self._confirm_claim(force=True)
                _Pass(self, pool).run()
                if self.tally.listed == self.tally.locked:
                    return not self.tally.locked
                if self._hopeless():
                    return False
                if self._options.backoff and (self.tally.failed or self._window.throttle_count):
                    self._stop.wait(_rest(number))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return False

    def _hopeless(self) -> bool:
        """Whether another pass would meet the same refusals: none of this one's targets went, and none may later."""
        tally = self.tally
        refused = tally.failed + tally.locked
        return refused == tally.listed and not any(failure.retryable for failure in tally.examples)

    def _abort_uploads(self) -> None:
        try:
            for upload in self._storage.uploads():
                self._stop.check()
                self._storage.abort(upload)
                self.tally.uploads += 1
        except (AccessDeniedError, StorageError) as error:
            self.tally.notes.append(f"unfinished multipart uploads could not be removed: {error.message}")

    def _leftovers(self) -> ManagerError:
        tally = self.tally
        url = self._storage.location.url
        if tally.locked and not tally.failed:
            until = f"until {tally.locked_until:%Y-%m-%dT%H:%M:%SZ}" if tally.locked_until else "by a legal hold"
            return PartialError(
                f"{url}: {tally.locked} objects are locked {until}; the rest is gone",
                reason="ObjectsLocked",
                hint="They are deleted after that date." if tally.locked_until else "Lift the hold; then the clean goes on.",
            )
        if not tally.failed:
            return PartialError(
                f"{url}: objects are still listed after {tally.passes} passes that deleted all they saw",
                reason="ObjectsRemain",
                hint="Is something still writing there, or does the store not carry out deletions?",
            )
        first = tally.examples[0]
        kind = AccessDeniedError if all(f.code == "AccessDenied" for f in tally.examples) else PartialError
        return kind(
            f"{url}: {tally.failed} objects could not be deleted, first {first.key[:120]!r}: {first.code} {first.message}"[
                :500
            ],
            reason="ObjectsRemain",
            hint="Allow s3:DeleteObject and s3:DeleteObjectVersion here, or the provider's equivalent."
            if kind is AccessDeniedError
            else "The list of the first ones is in the report; the clean can be repeated.",
        )

    def _concurrency(self) -> int:
        """Requests in flight at most: by the configured numbers, and so that no more than a page of targets is under way."""
        size = self.batch_size
        limit = self._options.single_concurrency if size == 1 else self._options.batch_concurrency
        return max(1, min(limit, self._options.page_size // size))

    @property
    def batch_size(self) -> int:
        """Targets in one request; a store may turn out to take only one."""
        return min(self._storage.batch_size, self._options.page_size)

    def _confirm_claim(self, *, force: bool = False) -> None:
        now = self._clock()
        if force or now - self._confirmed >= _CONFIRM_EVERY:
            self._confirm()
            self._confirmed = now

    def _report(self, *, force: bool = False) -> None:
        now = self._clock()
        if force or now - self._reported >= _REPORT_EVERY:
            self._reported = now
            self.tally.seconds = now - self.tally.started
            self.tally.throttled = self._window.throttle_count
            self.tally.notes += [note for note in self._storage.notes if note not in self.tally.notes]
            self._on_progress(self.tally)


@dataclass(order=True, slots=True)
class _Again:
    """Targets to try again at *due*; *attempt* is how often they were tried."""

    due: float
    attempt: int = field(compare=False)
    targets: Sequence[Target] = field(compare=False)


class _Pass:
    """One listing and the deletion of what it shows."""

    def __init__(self, cleaner: Cleaner, pool: Executor) -> None:
        self._c = cleaner
        self._pool = pool
        self._again: list[_Again] = []
        self._flying: dict[Future[Sequence[DeleteFailure]], tuple[Sequence[Target], int]] = {}
        self._fresh = self._batches()
        self._listing = True

    def run(self) -> None:
        while self._launch() or self._flying or self._again:
            self._c._stop.check()
            self._c._confirm_claim()
            self._land()
            self._c._report()

    def _batches(self) -> Iterator[Sequence[Target]]:
        keep = self._c._keep
        for page in self._c._storage.targets():
            if keep is not None:
                page = [target for target in page if not keep(target.key)]  # noqa: PLW2901
            self._c.tally.listed += len(page)
            start = 0
            while start < len(page):
                size = self._c.batch_size
                yield page[start : start + size]
                start += size

    def _launch(self) -> bool:
        """Fill the window with what is due; whether the listing may have more."""
        window = self._c._window
        window.raise_limit(self._c._concurrency())
        while len(self._flying) < window.size:
            work = self._due() or self._next()
            if work is None:
                break
            targets, attempt = work
            self._flying[self._pool.submit(self._c._storage.delete_batch, targets)] = targets, attempt
        return self._listing

    def _due(self) -> tuple[Sequence[Target], int] | None:
        if not self._again or self._again[0].due > self._c._clock():
            return None
        ready = heapq.heappop(self._again)
        return ready.targets, ready.attempt

    def _next(self) -> tuple[Sequence[Target], int] | None:
        if self._listing:
            for batch in self._fresh:
                return batch, 0
            self._listing = False
        return None

    def _land(self) -> None:
        """Take in what has ended; without anything to do, wait for it or for the next retry."""
        pause = max(0.0, self._again[0].due - self._c._clock()) if self._again else _LOOK_UP
        if not self._flying:
            if self._again and pause:
                self._c._stop.wait(pause)
            return
        if len(self._flying) >= self._c._window.size:  # what is due has to wait for room
            pause = _LOOK_UP
        elif self._listing:
            pause = 0.0
        done, _ = wait(self._flying, timeout=min(pause, _LOOK_UP), return_when=FIRST_COMPLETED)
        for future in done:
            targets, attempt = self._flying.pop(future)
            self._settle(future, targets, attempt + 1)

    def _settle(self, future: Future[Sequence[DeleteFailure]], targets: Sequence[Target], attempt: int) -> None:
        try:
            failures = future.result()
        except TransientError as error:
            if isinstance(error, ThrottledError):
                self._c._window.throttled()
            if attempt >= ATTEMPTS:
                raise
            self._retry(targets, attempt)
            return
        tally = self._c.tally
        tally.deleted += len(targets) - len(failures)
        tally.bytes += sum(target.size for target in targets)
        if failures:
            self._refused(targets, failures, attempt)
        else:
            self._c._window.on_success()

    def _refused(self, targets: Sequence[Target], failures: Sequence[DeleteFailure], attempt: int) -> None:
        sizes = {(target.key, target.version): target for target in targets}
        again: list[Target] = []
        for failure in failures:
            target = sizes.get((failure.key, failure.version)) or Target(failure.key, failure.version)
            self._c.tally.bytes -= target.size
            if failure.retryable and attempt < ATTEMPTS:
                again.append(target)
            else:
                self._c.tally.refused(failure)
        if again:
            self._c._window.throttled()
            self._retry(again, attempt)

    def _retry(self, targets: Sequence[Target], attempt: int) -> None:
        self._c.tally.retried += len(targets)
        heapq.heappush(self._again, _Again(self._c._clock() + _rest(attempt), attempt, targets))


def _rest(attempt: int) -> float:
    return min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311  (not a secret)
