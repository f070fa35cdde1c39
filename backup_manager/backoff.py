"""A call that is made again while what it asks for is away for a moment: exponential pauses with jitter, one overall deadline.

The deadline is one of a monotonic clock, so slow answers count as much as pauses do. :mod:`tenacity` does the work; it is
imported only once a call has failed.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_JITTER: Final = 0.3


def _unlimited() -> float:
    return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long and how a call is repeated.

    *seconds* is the overall limit from the first failure on; *left* is a further one, asked each time: the seconds that the
    process has before it is killed. *sleep* may raise, which ends the repetition.
    """

    seconds: float
    left: Callable[[], float] = _unlimited
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def call(
        self,
        work: Callable[[], T],
        *,
        passing: Callable[[BaseException], bool],
        asked: Callable[[BaseException], float] = lambda _error: 0.0,
        on_failure: Callable[[BaseException], None] = lambda _error: None,
    ) -> T:
        """What *work* returns; it is repeated while its error is a *passing* one. The last error is raised.

        *asked* is the pause in seconds that an error asks for (``Retry-After``): it is kept when it fits into the limit.
        """
        try:
            return work()
        except Exception as error:
            if not passing(error):
                raise
            return self._repeat(work, error, passing, asked, on_failure)

    def _repeat(
        self,
        work: Callable[[], T],
        first: Exception,
        passing: Callable[[BaseException], bool],
        asked: Callable[[BaseException], float],
        on_failure: Callable[[BaseException], None],
    ) -> T:
        import tenacity  # noqa: PLC0415  (only when a call has failed)

        deadline = self.clock() + self.seconds
        grow = tenacity.wait_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE) + tenacity.wait_random(0, _JITTER)
        failed = [first]

        def again() -> T:
            if failed:  # tenacity has to see the failure that brought us here
                raise failed.pop()
            return work()

        def remaining() -> float:
            return max(0.0, min(deadline - self.clock(), self.left()))

        def error_of(state: tenacity.RetryCallState) -> BaseException:
            error = state.outcome.exception() if state.outcome else None
            return error or first

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            wait=lambda state: min(max(grow(state), asked(error_of(state))), remaining()),
            stop=lambda _state: remaining() <= 0.0,
            before_sleep=lambda state: on_failure(error_of(state)),
            sleep=self.sleep,
            reraise=True,
        )(again)
