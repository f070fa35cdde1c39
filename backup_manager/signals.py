"""SIGTERM, SIGINT and SIGHUP end a run once, in order: the tool first, then what has to be restored, then the report.

The Pod is killed when its grace period is over, so the end has one time budget. It starts with the signal; each part of the
end (:class:`End`) may use the time up to its share, whatever the parts before it took. The last share belongs to the outcome.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import FrameType
from typing import Final

from backup_manager.errors import RunInterruptedError
from crds.contract import names

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TOOL_GRACE_SECONDS: Final = 20.0
"""What a tool gets to end by itself before it is killed."""


class End(Enum):
    """The parts of a run's end, in order; the value is the share of the grace period at which a part has to be over."""

    TOOL = 0.5
    """The tool has ended and its last lines are read."""
    RESTORE = 0.75
    """The GC life time is restored."""
    RECORD = 0.8
    """The record has the failure, the Lease is released."""
    REPORT = 0.97
    """The outcome is stored; what is left is for the process to end."""


class StopSignal:
    """Whether this run was asked to end, and how much time is left for it.

    A waiting operation uses :meth:`wait` in place of sleeping, a looping one calls :meth:`check`. What must happen at once (the
    signal of a running tool) subscribes with :meth:`listen`. *grace* is the Pod's grace period in seconds.
    """

    def __init__(self, *, grace: float = names.GRACE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.grace = grace
        self._clock = clock
        self._event = threading.Event()
        self._started = math.inf
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._guards: list[Callable[[], None]] = []

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "StopSignal":
        """With the grace period of the Pod (:data:`crds.contract.names.ENV_GRACE`), or the default where it is not known."""
        try:
            grace = float(env.get(names.ENV_GRACE) or names.GRACE_SECONDS)
        except ValueError:
            grace = names.GRACE_SECONDS
        return cls(grace=grace if 0 < grace < math.inf else names.GRACE_SECONDS)

    @property
    def requested(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask for the end; repeated calls change nothing. Nothing kills the process afterwards: there is no time limit."""
        with self._lock:
            listeners = () if self._event.is_set() else tuple(self._listeners)
            self._event.set()
        for listener in listeners:
            listener()

    def terminate(self) -> None:
        """Ask for the end of a process that is killed when the grace period is over; the budget starts now.

        Returns when every body under :meth:`guarded` has ended or was late: not for the main thread.
        """
        with self._lock:
            first = self._started == math.inf
            if first:
                self._started = self._clock()
        self.request()
        if first:
            for watch in tuple(self._guards):
                watch()

    def left(self, part: End) -> float:
        """Seconds until *part* of the end has to be over, never negative; infinite while no kill is announced."""
        return max(0.0, self._started + self.grace * part.value - self._clock())

    def monotonic(self) -> float:
        """Seconds on the monotonic clock that :meth:`wait` passes on: deadlines of waits are times of this clock."""
        return self._clock()

    def wait(self, seconds: float) -> None:
        """Sleep; raise RunInterruptedError as soon as the end is asked for."""
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise RunInterruptedError when the end was asked for."""
        if self.requested:
            raise RunInterruptedError(
                "the run was stopped before it ended", hint="It is repeated only if backoffRetryPolicy has a retry left."
            )

    @contextmanager
    def listen(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call *listener* on the request, at once when it came already."""
        with self._lock:
            self._listeners.append(listener)
            late = self._event.is_set()
        try:
            if late:
                listener()
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def guarded(self, part: End, late: Callable[[], None]) -> Iterator[None]:
        """Call *late*, in the thread that :meth:`terminate` runs in, when the body has not ended by the time of *part*."""
        ended = threading.Event()

        def watch() -> None:
            if not ended.wait(self.left(part)):
                late()

        self._guards.append(watch)
        try:
            yield
        finally:
            ended.set()
            self._guards.remove(watch)

    def install(self) -> None:
        """Take over the process's signals. Main thread only."""

        def handler(_number: int, _frame: FrameType | None) -> None:
            # Events and listeners take locks that the interrupted code may hold: leave the signal context first.
            threading.Thread(target=self.terminate, name="stop").start()

        for number in STOPPING:
            signal.signal(number, handler)
