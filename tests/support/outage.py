"""A proxy before a server that a test takes away and brings back, at events and for as long as others react: no seconds."""

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import urllib3
import yaml

from sandbox.ports import HOST

_RESET: Final = struct.pack("ii", 1, 0)
"""``SO_LINGER`` of zero seconds: closing sends a reset, as a server that was killed does."""


class Outage:
    """Passes bytes to the server on port *target* of the loopback interface, while it is up."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._pattern: re.Pattern[bytes] | None = None
        self._then: Callable[[], None] = lambda: None
        self._left = 0.0
        self.refused = 0
        """Connections that were refused so far."""
        self._server = socket.create_server((HOST, 0), backlog=128)
        self.port: Final[int] = self._server.getsockname()[1]
        self.url: Final = f"http://{HOST}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def at(self, request: bytes, then: Callable[[], None]) -> None:
        """Call *then* once, when a request whose first line matches *request* comes, before it is passed on."""
        with self._lock:
            self._pattern, self._then = re.compile(request), then

    def down(self, refusals: float = float("inf")) -> None:
        """Cut every connection and refuse new ones, until :meth:`up` or until so many were refused."""
        with self._lock:
            self._left = refusals
            cut, self._open = self._open, set()
        for end in cut:
            _reset(end)

    def up(self) -> None:
        """Serve again."""
        with self._lock:
            self._left = 0.0

    def close(self) -> None:
        """The end of the proxy."""
        self.down()
        self._server.close()

    def _refuses(self) -> bool:
        with self._lock:
            if self._left <= 0:
                return False
            self._left -= 1
            self.refused += 1
            return True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self._refuses():
                    _reset(client)
                    continue
                server = socket.create_connection((HOST, self._target))
                with self._lock:
                    self._open |= {client, server}
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and (then := self._due(data)):
                    then()
                target.sendall(data)
        with self._lock:
            self._open -= {source, target}
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _due(self, data: bytes) -> Callable[[], None] | None:
        with self._lock:
            if self._pattern is None or not self._pattern.match(data):
                return None
            self._pattern = None
            return self._then


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def outage(url: str) -> Iterator[Outage]:
    """A proxy before the server at *url*, up at first."""
    made = Outage(int(url.rpartition(":")[2]))
    try:
        yield made
    finally:
        made.close()


class ApiOutage(ThreadingHTTPServer):
    """The API server of a kubeconfig behind plain HTTP, which answers 503 to as many requests as a test wants."""

    daemon_threads = True

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__((HOST, 0), _Forward)
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.token: str = config["users"][0]["user"]["token"]
        self.server: Final[str] = cluster["server"]
        self.pool: Final = urllib3.PoolManager(ca_certs=cluster["certificate-authority"], retries=False)
        self.url: Final = f"http://{HOST}:{self.server_address[1]}"
        self.left = 0
        """So many requests are refused yet."""
        self._lock = threading.Lock()

    def away(self, refusals: int) -> None:
        """Answer 503 to the next *refusals* requests."""
        with self._lock:
            self.left = refusals

    def refuses(self) -> bool:
        """Whether this request is one of them."""
        with self._lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True


class _Forward(BaseHTTPRequestHandler):
    server: ApiOutage

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, data = 503, b'{"message": "the server is currently unable to handle the request"}'
        if not self.server.refuses():
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type", "Accept") if name in self.headers}
            answer = self.server.pool.request(self.command, self.server.server + self.path, body=body or None, headers=headers)
            status, data = answer.status, answer.data
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the API server has a log of its own."""


@contextmanager
def api_outage(kubeconfig: Path) -> Iterator[ApiOutage]:
    """A proxy before the API server of *kubeconfig*, up at first."""
    with ApiOutage(kubeconfig) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            made.shutdown()
