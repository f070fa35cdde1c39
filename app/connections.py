"""Connections to the hooks, within bounds: their number, and the time for a TLS handshake and the head of a request.

uvicorn bounds neither, and its limit of concurrency would refuse the newcomer, who may be Metacontroller, for the sake of
those who idle. So connections are accepted here, before they cost the memory of a handshake, and each is handed to a
protocol of uvicorn's, which is its own hook for that. A handshake uses the certificate of that moment.
"""

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import Any, Final

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.credentials import Certificate
from app.metrics import Metrics
from app.routes import CONNECTION

_PAUSE_SECONDS: Final = 0.2
"""After a connection could not be accepted: the process has no file descriptor left."""
_SWEEP_SECONDS: Final = 1.0
_HEAD_BYTES: Final = 64 * 1024
"""Metacontroller's heads have some 300 bytes."""
_UNREAD_BYTES: Final = 1024 * 1024
_GOODBYE_SECONDS: Final = 2.0
"""For the other side to confirm the end of TLS; a dead one must not hold up the end of the process."""
_UNREAD_SECONDS: Final = 3.0
"""How long, and how much of, the rest of a refused body is taken, so that its sender gets to read the refusal."""


_QUIET: Final = logging.getLogger("app.connections")
"""For uvicorn's protocol: its warnings about what strangers send would fill the log."""
_QUIET.setLevel(logging.ERROR)


class _Dropped(Exception):
    """Stops the parser: the connection is closed."""


class Connections:
    """All connections of one server. *certificate* is None for plain HTTP."""

    def __init__(
        self, *, most: int, head_seconds: float, body_seconds: float, certificate: Certificate | None, metrics: Metrics
    ) -> None:
        self.most, self.head_seconds, self.body_seconds = most, head_seconds, body_seconds
        self.certificate = certificate
        self._metrics = metrics
        self._open: set[Connection] = set()
        self._beginning: set[asyncio.Task[None]] = set()

    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    async def accept(self, listener: socket.socket, config: Config, state: ServerState) -> None:
        """Accept connections on *listener* (not blocking) for the application of *config*, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError:
                # Out of file descriptors, most likely: one that idles has to go for the newcomer.
                self._drop_idlest("no_descriptor")
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            connection = Connection(self, accepted, config=config, server_state=state, app_state={}, _loop=loop)
            self._admit(connection)
            task = loop.create_task(self._begin(connection, accepted))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: "Connection", accepted: socket.socket) -> None:
        """The handshake, where there is one. What follows is between the loop and *connection*."""
        secure: dict[str, Any] = {}
        if self.certificate:
            limits = {"ssl_handshake_timeout": self.head_seconds, "ssl_shutdown_timeout": _GOODBYE_SECONDS}
            secure = {"ssl": self.certificate.context, **limits}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted, **secure)
        except (OSError, ssl.SSLError):  # a timeout is an OSError
            connection.drop("handshake")
            accepted.close()

    def _admit(self, connection: "Connection") -> None:
        """Take *connection*, and close another where that is one too many: of those that keep us waiting, not the other way
        round, the one of which nothing came for longest, one without a token before one with. With none, *connection*."""
        self._open.add(connection)
        if len(self._open) > self.most and not self._drop_idlest("too_many", but=connection):
            connection.drop("too_many")

    def _drop_idlest(self, reason: str, *, but: "Connection | None" = None) -> bool:
        """Close the connection that keeps us waiting for longest, other than *but*. False when none does."""
        waiting = [one for one in self._open if one.awaits_peer and one is not but]
        if not waiting:
            return False
        min(waiting, key=lambda one: (one.trusted, one.last_data)).drop(reason)
        return True

    def forget(self, connection: "Connection") -> None:
        """*connection* is closed."""
        self._open.discard(connection)

    def dropped(self, reason: str) -> None:
        """Count a connection that was closed by us."""
        self._metrics.connection_dropped(reason)

    async def drop_waiting(self) -> None:
        """Close whoever keeps us waiting a moment after the end began, until cancelled."""
        while True:
            await asyncio.sleep(_GOODBYE_SECONDS)
            for connection in [one for one in self._open if one.awaits_peer]:
                connection.drop("shutdown")

    async def sweep(self) -> None:
        """Close what is over its time, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in list(self._open):
                if reason := connection.overdue(now):
                    connection.drop(reason)


class Connection(HttpToolsProtocol):
    """One connection, over *accepted*. It is ``trusted`` once it presented an accepted token."""

    def __init__(self, connections: Connections, accepted: socket.socket, **given: Any) -> None:
        super().__init__(**given)
        self.trusted = False
        self.last_data = self.loop.time()
        self._all = connections
        self._accepted = accepted
        self.begun = False
        """The handshake is done, and uvicorn knows the connection."""
        self._closed = False
        self._head_since: float | None = self.last_data
        """Since when the head of a request is due or coming in; None while a request is under way, or all is quiet."""
        self._head_bytes = 0
        self._message_open = False
        """The body of the request that began last has not ended."""
        self._body_since = 0.0
        self._unread_since: float | None = None
        self._unread = 0
        self._bodiless = 0
        """Bytes of the open message since the last ones of its body: the framing of chunks, and trailers."""
        self._full_since: float | None = None
        """Since when the other side takes no more of our answers."""
        self.logger = _QUIET

    # What the loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The handshake is done."""
        self.begun = True
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, decrypted."""
        if self._closed:
            return
        self.last_data = self.loop.time()
        if self._message_open:
            if self.cycle.response_complete:
                self._unread += len(data)
                if self._unread > _UNREAD_BYTES:
                    self.drop("unread_body")
                    return
        else:
            self._head_since = self._head_since or self.last_data
            self._head_bytes += len(data)
            self._bodiless = 0
        self._bodiless += len(data)
        super().data_received(data)
        if self._head_since is not None and self._head_bytes > _HEAD_BYTES:
            self.drop("head_too_long")
        elif self._message_open and self._bodiless > _UNREAD_BYTES:
            self.drop("trailers")

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP."""
        if not self._closed:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """The answers pile up."""
        self._full_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """They are taken again."""
        self._full_since = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        self._closed = True
        self._all.forget(self)
        super().connection_lost(exc)
        # Each of these leads back here, and the garbage collector comes seldom: buffers of a megabyte would wait for it.
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]
        self.scope = None  # type: ignore[assignment]

    # What the parser calls

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Metacontroller never sends a request before it has the answer to the last; who does could queue up any number.
            self.drop("pipelined")
            raise _Dropped
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """The application takes over; it bounds the body."""
        self._head_since, self._head_bytes = None, 0
        self._message_open, self._unread, self._unread_since = True, 0, None
        self._body_since = self.last_data
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._bodiless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body ended."""
        self._message_open = False
        super().on_message_complete()

    # What Connections asks

    @property
    def awaits_peer(self) -> bool:
        """Whether it is the other side's turn: a handshake, a head, the rest of a body, the next request,
        the reading of an answer."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle or self._message_open or self._full_since is not None

    def overdue(self, now: float) -> str:
        """Why it is to be closed at *now*, "" when it is not. The handshake has a limit of its own."""
        if not self.begun:
            return ""
        if self._head_since is not None and now - self._head_since > self._all.head_seconds:
            return "head_timeout"
        if self._full_since is not None and now - self._full_since > self._all.body_seconds:
            return "unread_answer"
        if not self._message_open or self.cycle is None:
            return ""
        if not self.cycle.response_complete:
            # The application answers a slow body by itself, but for one of which nothing came.
            return "body_timeout" if now - self._body_since > self._all.body_seconds + _UNREAD_SECONDS else ""
        self._unread_since = self._unread_since or now
        return "unread_body" if now - self._unread_since > _UNREAD_SECONDS else ""

    def drop(self, reason: str) -> None:
        """Close it at once, counted under *reason*."""
        self._all.forget(self)
        if self._closed:
            return
        self._closed = True
        self._all.dropped(reason)
        if self.begun:
            self.transport.abort()
        else:
            # The loop has it for the handshake, which fails by this.
            with suppress(OSError):
                self._accepted.shutdown(socket.SHUT_RDWR)
