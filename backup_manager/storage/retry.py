"""Calls that are made again: plain ones, and conditional writes whose answer may get lost.

Repeating a conditional write meets its own first success as a broken condition. It is told from another's by the content, and
only after a try whose outcome is not known: two writers of the same bytes must not both believe that they won.
"""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from backup_manager.errors import ManagerError, PreconditionError, TransientError
from backup_manager.storage.base import DeleteFailure, Target

T = TypeVar("T")
ATTEMPTS: Final = 6
"""With the pauses below a store may be away for some ten seconds before a call gives up."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


def pause(attempt: int) -> float:
    """How long to wait after the *attempt*-th failure (0 is the first): exponential, with jitter in the upper half."""
    return min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311  (not a secret)


def with_retries(call: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """What *call* returns, once it does not fail for a passing reason."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except TransientError:
            if attempt + 1 == ATTEMPTS:
                raise
            sleep(pause(attempt))
    raise AssertionError("ATTEMPTS is at least 1")


def delete_all(
    delete_batch: Callable[[Sequence[Target]], Sequence[DeleteFailure]],
    keys: Sequence[str],
    size: int,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> list[DeleteFailure]:
    """Delete current objects in batches of *size*, each with retries; for a few, where no cleaner sets the pace."""
    failures: list[DeleteFailure] = []
    for start in range(0, len(keys), size):
        batch = [Target(key) for key in keys[start : start + size]]
        failures += with_retries(partial(delete_batch, batch), sleep=sleep)
    return failures


def conditional_put(
    put: Callable[[], str],
    fetch: Callable[[], tuple[bytes, str]],
    data: bytes,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Call *put*, which makes one try and returns the etag, until its outcome is known; *fetch* reads the object back."""
    unknown = False
    for attempt in range(ATTEMPTS):
        try:
            return put()
        except TransientError:
            unknown = True
            if attempt + 1 == ATTEMPTS:
                raise
            sleep(pause(attempt))
        except PreconditionError:
            if unknown and (etag := _etag_of(fetch, data)):
                return etag
            raise
    raise AssertionError("ATTEMPTS is at least 1")


def _etag_of(fetch: Callable[[], tuple[bytes, str]], data: bytes) -> str:
    """The etag of the object when it holds *data*, else empty."""
    try:
        found, etag = fetch()
    except ManagerError:
        return ""
    return etag if found == data else ""
