"""How long a server, or anything that a test sees from outside, is waited for. No other module has such numbers.

A slow machine is no error. So what is waited for may take :data:`PATIENCE`, fifty times what it takes on two idle cores, and a
server is given up before that only when it shows no sign of life at all for :data:`STALLED`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sandbox.errors import SandboxError

PATIENCE: Final = 900.0
"""Seconds that one thing may take."""
STALLED: Final = 180.0
"""Seconds without any progress, after which it is not waited for any longer."""
CONNECT: Final = 30.0
"""Seconds that one request to a server may take before it is made again."""
STARTS: Final = 3
"""So often a server is started that ends before it is ready."""
_SHORTEST: Final = 0.05
_LONGEST: Final = 0.25
_PART: Final = 20


class Deadline:
    """The end of one wait: *limit* seconds from now, or *stalled* seconds after the last progress.

    *clock* is in seconds and never goes back.
    """

    def __init__(
        self, *, limit: float = PATIENCE, stalled: float = STALLED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._stalled = clock, stalled
        self._began = self._moved = clock()
        self._limit = limit
        self._seen: Any = None

    def progress(self, mark: Any) -> None:
        """Take note of *mark*: another value than the last one is progress."""
        if mark != self._seen:
            self._seen, self._moved = mark, self._clock()

    @property
    def over(self) -> str:
        """Why it is over; empty while it is not."""
        now = self._clock()
        if now - self._began >= self._limit:
            return f"after {self._limit:g} s"
        if now - self._moved >= self._stalled:
            return f"for {self._stalled:g} s nothing moved"
        return ""

    def pause(self, shortest: float = _SHORTEST) -> float:
        """Seconds until it is worth looking again: a twentieth of the wait so far, within *shortest* and a quarter of a second.
        Each look costs both sides, and whoever has waited for ten seconds does not notice a tenth."""
        return max(shortest, min(_LONGEST, (self._clock() - self._began) / _PART))


def until(
    condition: Callable[[], Any], what: Callable[[], str] | str, *, limit: float = PATIENCE, poll: float = _SHORTEST
) -> Any:
    """Poll *condition* until it is true, every *poll* seconds at first, and return what it gave. Raises SandboxError after
    *limit*."""
    deadline = Deadline(limit=limit, stalled=limit)
    while not (found := condition()):
        if over := deadline.over:
            raise SandboxError(f"not so {over}: {what if isinstance(what, str) else what()}")
        time.sleep(deadline.pause(poll))
    return found


def signs_of_life(pid: int, log: Path) -> tuple[int, int]:
    """What grows as long as a process does anything: its processor time in clock ticks, and the size of its *log* in bytes."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        ticks = 0
    try:
        return ticks, log.stat().st_size
    except OSError:
        return ticks, 0
