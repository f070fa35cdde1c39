"""A webhook whose answers a test writes as a function; it remembers every call."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sandbox.ports import HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """An answer as bytes, for what a JSON object cannot say."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[dict[str, Any]], dict[str, Any] | Raw]


class HookServer:
    """Routes are paths; a path without an answer gets 404."""

    def __init__(self) -> None:
        self.routes: dict[str, Answer] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.authorizations: list[str] = []
        """The header ``Authorization`` of each call, "" where there was none."""
        self._arrivals: list[tuple[str, float]] = []
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        """Address of a route."""
        return f"http://{HOST}:{self._server.server_port}{path}"

    def requests(self, path: str) -> list[dict[str, Any]]:
        """Bodies received on a route, oldest first."""
        return [body for called, body in self.calls if called == path]

    @staticmethod
    def now() -> float:
        """The clock of :meth:`times`."""
        return time.monotonic()

    def times(self, path: str) -> list[float]:
        """When each call arrived on a route, oldest first, on the monotonic clock. The caller's wait until the next one begins
        with its answer, so that two are never closer than he waits, on whatever machine."""
        return [moment for called, moment in self._arrivals if called == path]

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server._arrivals.append((self.path, server.now()))
                server.calls.append((self.path, body))
                server.authorizations.append(self.headers.get("Authorization") or "")
                route = server.routes.get(self.path)
                answer = route(body) if route else Raw(status=404, body=b"no such route")
                raw = answer if isinstance(answer, Raw) else Raw(body=json.dumps(answer).encode())
                self.send_response(raw.status)
                for name, value in raw.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw.body)))
                with suppress(ConnectionError):  # who asked may have given up by now
                    self.end_headers()
                    self.wfile.write(raw.body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@contextmanager
def hook_server() -> Iterator[HookServer]:
    """A running server, closed at the end."""
    server = HookServer()
    try:
        yield server
    finally:
        server.close()
