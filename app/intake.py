"""Reading request bodies within bounds: of one request, of its time, and of all requests together."""

import asyncio
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from starlette.types import Message

from app.hooks.pieces import Body, Lean, whole
from app.hooks.request import RequestError

SMALL: Final = 64 * 1024
"""Bytes up to which a body is taken whatever others hold: most CRs, so that big ones never keep them waiting."""
STALLED_SECONDS: Final = 1.0
"""A body of which nothing came for so long gives way when another needs the room."""
_RETRY: Final = {"Retry-After": "1"}


class CallerGone(Exception):
    """The caller closed the connection before its request was complete."""


@dataclass(eq=False, slots=True, kw_only=True)
class Share:
    """What one request holds of the common room: *counted* of its *size* bytes. *last* is when some came (seconds of the event
    loop), *timer* ends its reading."""

    size: int = 0
    counted: int = 0
    last: float = 0.0
    timer: asyncio.Timeout | None = None


class Bodies:
    """All request bodies in memory: at most *limit* bytes together, those up to :data:`SMALL` aside."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes, now."""
        self._shares: set[Share] = set()
        """Those with bytes that count."""

    def add(self, share: Share, count: int, now: float) -> None:
        """Note *count* more bytes at *now* (seconds of the event loop), for which requests that stalled are given up. Raises
        RequestError when they do not fit even so."""
        share.size += count
        share.last = now
        if share.size <= SMALL:
            return
        need = share.size - share.counted
        while self.held + need > self.limit:
            stalled = [other for other in self._shares if other.timer and now - other.last >= STALLED_SECONDS]
            if not stalled:
                text = f"requests at hand hold {self.held} of {self.limit} bytes, this one does not fit; try again in a second"
                raise RequestError(503, text, _RETRY)
            slowest = min(stalled, key=lambda other: other.last)
            self.release(slowest)
            if slowest.timer and not slowest.timer.expired():
                slowest.timer.reschedule(now)
            slowest.timer = None
        self.held += need
        share.counted += need
        self._shares.add(share)

    def release(self, share: Share) -> None:
        """Forget *share*: its request is answered, or given up."""
        self.held -= share.counted
        share.counted = 0
        self._shares.discard(share)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyReader:
    """How the requests of one route are read: no more than *limit* bytes within *seconds*, and of the children what *lean*
    keeps."""

    limit: int
    seconds: float
    bodies: Bodies
    lean: Lean = whole

    async def read(self, request: Request, share: Share) -> Body:
        """The body of *request*, a big one parsed while it comes in. Raises RequestError when it is too long, does not fit, or
        takes more than *seconds* after its first piece, and CallerGone."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self.limit:
            raise self._too_long()
        body = Body(lean=self.lean)
        message = await request.receive()
        if message.get("more_body"):
            # A timer costs as much as all else here, and most bodies come in one piece.
            try:
                async with asyncio.timeout(self.seconds) as share.timer:
                    while message.get("more_body"):
                        await self._take(message, body, share)
                        message = await request.receive()
            except TimeoutError:
                raise RequestError(408, f"the request body did not come in time; {body.size} bytes were read") from None
            finally:
                share.timer = None
        await self._take(message, body, share)
        return body

    async def _take(self, message: Message, body: Body, share: Share) -> None:
        if message["type"] == "http.disconnect":
            raise CallerGone
        chunk = message.get("body", b"")
        self.bodies.add(share, len(chunk), asyncio.get_running_loop().time())
        if body.add(chunk):
            await asyncio.to_thread(body.work)
        if body.size > self.limit:
            raise self._too_long()

    def _too_long(self) -> RequestError:
        return RequestError(413, f"the request body is longer than {self.limit} bytes")
