"""Reading request bodies within bounds: of one request, of its time, and of all requests together."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.hooks.pieces import Body, Lean, whole
from app.hooks.wire import RequestError

SMALL: Final = 64 * 1024
"""Bytes up to which a body is taken whatever others hold: most CRs, so that big ones never keep them waiting."""
STALLED_SECONDS: Final = 1.0
"""A body of which nothing came for so long gives way when another needs the room."""
_RETRY: Final = {"Retry-After": "1"}


class CallerGone(Exception):
    """The caller closed the connection before its request was complete."""


@dataclass(eq=False, slots=True)
class _Share:
    """What one request holds of the common room, until the ``with`` ends. *timer* ends its reading."""

    bodies: "Bodies"
    size: int = 0
    counted: int = 0
    last: float = 0.0
    timer: asyncio.Timeout | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bodies.forget(self)


class Bodies:
    """All request bodies in memory: at most *limit* bytes together, those up to :data:`SMALL` aside."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes, now."""
        self._shares: set[_Share] = set()

    def share(self) -> _Share:
        """A share for one request, until it is answered."""
        share = _Share(self)
        self._shares.add(share)
        return share

    def forget(self, share: _Share) -> None:
        """*share* is given back."""
        self._release(share)
        self._shares.discard(share)

    def add(self, share: _Share, count: int, now: float) -> None:
        """Note *count* more bytes at *now* (seconds of the event loop), for which requests that stalled are given up. Raises
        RequestError when they do not fit even so."""
        share.size += count
        share.last = now
        need = share.size - share.counted if share.size > SMALL else 0
        while self.held + need > self.limit:
            stalled = [other for other in self._shares if other.timer and other.counted and now - other.last >= STALLED_SECONDS]
            if not stalled:
                text = f"requests at hand hold {self.held} of {self.limit} bytes, this one does not fit; try again in a second"
                raise RequestError(503, text, _RETRY)
            slowest = min(stalled, key=lambda other: other.last)
            self._release(slowest)
            if slowest.timer and not slowest.timer.expired():
                slowest.timer.reschedule(now)
            slowest.timer = None
        self.held += need
        share.counted += need

    def _release(self, share: _Share) -> None:
        self.held -= share.counted
        share.counted = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """How the requests of one route are read: no more than *limit* bytes within *seconds*, and of the children what *lean*
    keeps."""

    limit: int
    seconds: float
    bodies: Bodies
    lean: Lean = whole

    async def read(self, request: Request, share: _Share) -> Body:
        """The body of *request*, a big one parsed while it comes in. Raises RequestError when it is too long, too slow or
        does not fit, and CallerGone."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self.limit:
            raise self._too_long()
        loop, body = asyncio.get_running_loop(), Body(lean=self.lean)
        try:
            async with asyncio.timeout(self.seconds) as share.timer:
                async for chunk in request.stream():
                    self.bodies.add(share, len(chunk), loop.time())
                    if body.add(chunk):
                        await asyncio.to_thread(body.work)
                    if body.size > self.limit:
                        raise self._too_long()
        except TimeoutError:
            raise RequestError(408, f"the request body did not come in time; {body.size} bytes were read") from None
        except ClientDisconnect:
            raise CallerGone from None
        finally:
            share.timer = None
        return body

    def _too_long(self) -> RequestError:
        return RequestError(413, f"the request body is longer than {self.limit} bytes")
