"""SIGTERM, SIGINT and SIGHUP end a run once, in order: the tool first, then what has to be put back, then the report."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from backup_manager.errors import InterruptedError_

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Whether this run was asked to end.

    A waiting operation uses :meth:`wait` in place of sleeping, a looping one calls :meth:`check`. What must happen at once (the
    signal of a running tool) subscribes with :meth:`listen`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask for the end; repeated calls change nothing."""
        with self._lock:
            listeners = () if self._event.is_set() else tuple(self._listeners)
            self._event.set()
        for listener in listeners:
            listener()

    def wait(self, seconds: float) -> None:
        """Sleep; raise InterruptedError_ as soon as the end is asked for."""
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise InterruptedError_ when the end was asked for."""
        if self.requested:
            raise InterruptedError_("the run was stopped before it ended", hint="It is repeated when the retry policy allows.")

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

    def install(self) -> None:
        """Take over the process's signals. Main thread only."""

        def handler(_number: int, _frame: FrameType | None) -> None:
            # Events and listeners take locks that the interrupted code may hold: leave the signal context first.
            threading.Thread(target=self.request, name="stop").start()

        for number in STOPPING:
            signal.signal(number, handler)
