"""``python -m app``: the hooks on one port, for their caller alone; metrics and health on another, for everybody.

Both are uvicorn servers in one event loop, so that ``/metrics`` tells what the hooks did and a loop that is stuck fails the
probe of the kubelet.
"""

import asyncio
import contextlib
import ctypes
import signal
import socket
from collections.abc import Iterator
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.connections import Connections
from app.credentials import Certificate, CredentialsError
from app.routes import Webhook
from app.settings import Settings

KEEP_ALIVE = 600
"""Seconds. Metacontroller never closes an idle connection of a hook with a CA bundle of its own; closed here, it might be just
about to use it, and that call fails. So it is kept for longer than any resync."""
_STATUS_CONNECTIONS = 64
_BACKLOG = 1024
_M_MMAP_THRESHOLD = -3
_BIG_BLOCK = 256 * 1024


class _Server(uvicorn.Server):
    """Serves over *connections*, which are accepted on *listener*."""

    def __init__(self, config: uvicorn.Config, connections: Connections, listener: socket.socket) -> None:
        super().__init__(config)
        self._connections, self._listener = connections, listener

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn, except that it is no signal that ends the process afterwards: the exit code is 0, and the other server
        ends in order too."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def main_loop(self) -> None:
        accepting = asyncio.create_task(self._connections.accept(self._listener, self.config, self.server_state))
        sweeping = asyncio.create_task(self._connections.sweep())
        try:
            await super().main_loop()
        finally:
            accepting.cancel()
            sweeping.cancel()
            self._listener.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        dropping = asyncio.create_task(self._connections.drop_waiting())
        try:
            await super().shutdown(sockets)
        finally:
            dropping.cancel()


class _StatusServer(_Server):
    """Ends with the other server, which minds the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. What was asked before is answered before it returns.

    Raises CredentialsError when a file of the settings cannot be used, SystemExit when a port cannot be listened on.
    """
    _give_memory_back()
    webhook = Webhook(settings)
    webhook.certificate = _certificate(settings)
    bounded = partial(
        Connections, head_seconds=settings.header_timeout, body_seconds=settings.body_timeout, metrics=webhook.metrics
    )
    callers = bounded(most=settings.max_connections, certificate=webhook.certificate)
    webhook.metrics.count_connections(callers.count)
    config = partial(
        uvicorn.Config, host=settings.host, ws="none", log_level=settings.log_level, access_log=False, server_header=False
    )
    listener = _listen(settings.host, settings.port)
    hooks = _Server(config(webhook.hooks_app(), port=settings.port, timeout_keep_alive=KEEP_ALIVE), callers, listener)
    status_app = FastAPI(title="TiDB backup hooks: metrics and health", docs_url=None, redoc_url=None, openapi_url=None)
    webhook.add_status_routes(status_app, ready=lambda: hooks.started and not hooks.should_exit)
    status = _StatusServer(
        config(status_app, port=settings.status_port, lifespan="off"),
        bounded(most=_STATUS_CONNECTIONS, certificate=None),
        _listen(settings.host, settings.status_port),
    )
    scheme = "https" if webhook.certificate else "http"
    webhook.log.info("the hooks listen", url=f"{scheme}://{settings.host}:{listener.getsockname()[1]}")
    # uvicorn picks the loop: uvloop where it is installed.
    with asyncio.Runner(loop_factory=hooks.config.get_loop_factory()) as runner:
        runner.run(_serve_both(hooks, status))


def _give_memory_back() -> None:
    """Have glibc return big blocks to the system when they are freed. By default it raises the size from which it does so to
    that of the biggest block freed so far, that is of a body; then bodies stay in memory for good. Other libraries have no
    such call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BIG_BLOCK)


async def _serve_both(hooks: uvicorn.Server, status: uvicorn.Server) -> None:
    # They have listeners of their own.
    watching = asyncio.create_task(status.serve(sockets=[]))
    try:
        await hooks.serve(sockets=[])
    finally:
        status.should_exit = True
        await watching


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SystemExit(f"error: cannot listen on {host}, port {port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def _certificate(settings: Settings) -> Certificate | None:
    cert, key = settings.tls_cert_file, settings.tls_key_file
    if bool(cert) != bool(key):
        missing = "TIDB_BACKUP_TLS_KEY_FILE" if cert else "TIDB_BACKUP_TLS_CERT_FILE"
        raise CredentialsError(f"{missing} is not set; TLS needs certificate and key")
    return Certificate(cert, key) if cert and key else None
