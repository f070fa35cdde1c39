"""Watching a running dumpling through its status port, for percent, bytes and the expected end."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Final

from backup_manager.tools import dumpling

POLL_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 2.0
_EARLY: Final = 1.0
"""Below this percentage an expected end would be a guess."""


@contextmanager
def watch(
    port: int,
    *,
    now: Callable[[], datetime],
    tell: Callable[[dumpling.Metrics, datetime | None], None],
    poll_seconds: float = POLL_SECONDS,
) -> Iterator[None]:
    """Ask the dumpling on *port* every *poll_seconds* while the body runs; *tell* gets its numbers and the expected end."""
    ended = threading.Event()

    def work() -> None:
        started = now()
        while not ended.wait(poll_seconds):
            if numbers := ask(port):
                tell(numbers, eta(started, now(), numbers.percent))

    thread = threading.Thread(target=work, name="dumpling-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_ANSWER_SECONDS + poll_seconds)


def ask(port: int) -> dumpling.Metrics | None:
    """One look; None when dumpling does not answer (yet)."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)) as connection:
            connection.request("GET", "/metrics")
            return dumpling.metrics(connection.getresponse().read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException):
        return None


def eta(started: datetime, now: datetime, percent: float | None) -> datetime | None:
    """When the rest ends at the speed so far; None while it is too early to say.

    >>> from datetime import UTC
    >>> start = datetime(2026, 1, 1, tzinfo=UTC)
    >>> eta(start, start + timedelta(seconds=30), 25.0) - start
    datetime.timedelta(seconds=120)
    """
    if percent is None or percent < _EARLY:
        return None
    spent = (now - started).total_seconds()
    return now + timedelta(seconds=spent * (100 - percent) / percent)
