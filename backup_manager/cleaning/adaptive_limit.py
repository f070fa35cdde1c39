"""How many requests to keep in flight at a store that may ask to slow down.

The rule is the one of TCP, since the problem is: nobody tells the right number, and it changes. Start small, double while all
goes well, halve on the first complaint, from then on grow by one a round (additive increase, multiplicative decrease).
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

_START: Final = 4
_QUIET: Final = 0.5
"""Complaints of requests that were under way together count once within this many seconds."""


class AdaptiveLimit:
    """The number of requests that may be in flight.

    >>> window = AdaptiveLimit(10); window.size
    4
    >>> for _ in range(4): window.on_success()
    >>> window.size
    8
    >>> window.throttled(); window.size
    4
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = monotonic) -> None:
        self.limit = max(1, limit)
        self.throttle_count = 0
        self._size = float(min(_START, self.limit))
        self._clock = clock
        self._doubling = True
        self._last_cut = float("-inf")

    @property
    def size(self) -> int:
        """How many may be in flight now; at least one."""
        return int(self._size)

    def raise_limit(self, limit: int) -> None:
        """Allow more, when requests have become smaller (single deletes in place of batches)."""
        self.limit = max(self.limit, limit)

    def on_success(self) -> None:
        """One request was served."""
        self._size = min(float(self.limit), self._size + (1.0 if self._doubling else 1.0 / self._size))

    def throttled(self) -> None:
        """One request was refused for its pace."""
        self.throttle_count += 1
        now = self._clock()
        if now - self._last_cut >= _QUIET:
            self._last_cut = now
            self._doubling = False
            self._size = max(1.0, self._size / 2)
