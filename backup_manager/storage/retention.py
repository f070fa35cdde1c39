"""Until when locked objects are kept. Each date costs a request, so a large locked backup is judged by its first objects."""

import threading
from datetime import datetime
from typing import Final

LOOKUPS: Final = 200
"""So many objects are asked for their date; the rest are taken to be like them."""


class LockDates:
    """The latest date seen; safe to use from several threads."""

    def __init__(self, lookups: int = LOOKUPS) -> None:
        self.latest: datetime | None = None
        self._left = lookups
        self._mutex = threading.Lock()

    def may_ask(self) -> bool:
        """Whether one more object may be asked; counts it."""
        with self._mutex:
            self._left -= 1
            return self._left >= 0

    def note(self, until: datetime | None) -> datetime | None:
        """Remember *until*, and return it."""
        if until:
            with self._mutex:
                self.latest = max(until, self.latest or until)
        return until
