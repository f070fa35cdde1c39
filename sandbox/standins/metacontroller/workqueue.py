"""client-go's rate-limited work queue: a key is never worked on twice at once, and its failures space its retries.

Per key 5 ms doubling, at most 1000 s; over all keys a bucket of 100 that refills at 10 a second. ``add`` and ``add_after``
bypass both, as watch events and resyncs do.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BASE_DELAY: Final = 0.005
MAX_DELAY: Final = 1000.0
BUCKET_RATE: Final = 10.0
BUCKET_SIZE: Final = 100.0


class WorkQueue(Generic[Key]):
    """See the module. *clock* is for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready = threading.Condition()
        self._queue: deque[Key] = deque()
        self._dirty: set[Key] = set()
        self._processing: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._order = 0
        self._failures: dict[Key, int] = {}
        self._tokens, self._refilled = BUCKET_SIZE, clock()
        self._closed = False

    def add(self, key: Key) -> None:
        """Have *key* worked on soon; a key that is waiting already is not added twice."""
        with self._ready:
            self._add(key)

    def _add(self, key: Key) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._queue.append(key)
            self._ready.notify()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have *key* worked on in *seconds*; of several such wishes the earliest counts."""
        with self._ready:
            if seconds <= 0:
                self._add(key)
                return
            due = self._clock() + seconds
            if self._due.get(key, float("inf")) <= due:
                return
            self._due[key] = due
            self._order += 1
            heapq.heappush(self._later, (due, self._order, key))
            self._ready.notify()

    def retry(self, key: Key) -> float:
        """Have *key* worked on again after a failure; returns the delay."""
        with self._ready:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            delay: float = max(min(BASE_DELAY * 2 ** min(failures, 40), MAX_DELAY), self._reserve())
        self.add_after(key, delay)
        return delay

    def _reserve(self) -> float:
        now = self._clock()
        self._tokens = min(BUCKET_SIZE, self._tokens + (now - self._refilled) * BUCKET_RATE) - 1
        self._refilled = now
        return max(0.0, -self._tokens / BUCKET_RATE)

    def forget(self, key: Key) -> None:
        """Reset the failures of *key*: it succeeded."""
        with self._ready:
            self._failures.pop(key, None)

    def failures(self, key: Key) -> int:
        """Failures of *key* in a row."""
        return self._failures.get(key, 0)

    def get(self, timeout: float | None = None) -> Key | None:
        """The next key, which the caller must give back with :meth:`done`; None when closed or timed out."""
        deadline = None if timeout is None else self._clock() + timeout
        with self._ready:
            while not self._closed:
                wait = self._promote()
                if self._queue:
                    key = self._queue.popleft()
                    self._processing.add(key)
                    self._dirty.discard(key)
                    return key
                if deadline is not None:
                    left = deadline - self._clock()
                    if left <= 0:
                        return None
                    wait = left if wait is None else min(wait, left)
                self._ready.wait(wait)
            return None

    def _promote(self) -> float | None:
        """Move what is due to the queue; returns seconds until the next one, None when there is none."""
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
        return self._later[0][0] - now if self._later else None

    def done(self, key: Key) -> None:
        """The caller has finished with *key*; if it was added meanwhile, it is next."""
        with self._ready:
            self._processing.discard(key)
            if key in self._dirty:
                self._queue.append(key)
                self._ready.notify()

    def close(self) -> None:
        """Let every :meth:`get` return None."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
