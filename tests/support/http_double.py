"""A store's answers over real HTTP, for what no server at hand can be brought to say. Loopback only."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from sandbox.certificates import write_certificates


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer. *lost* bytes are announced and never sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    lost: int = 0


class Asked(NamedTuple):
    """One request; *path* with its query."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(kw_only=True)
class Double:
    """The running double and what it was asked."""

    url: str = ""
    authority: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def changes(self) -> list[Asked]:
        """Requests that would have changed something."""
        return [request for request in self.asked if request.method not in {"GET", "HEAD"}]


@contextmanager
def double(answer: Callable[[Asked], Said], *, tls: Path | None = None) -> Iterator[Double]:
    """A server that answers by *answer*; with *tls*, keys are made in that folder."""
    known = Double()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            known.asked.append(Asked(self.command, self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            said = answer(known.asked[-1])
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(said.body) + said.lost))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)
            self.close_connection = bool(said.lost)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that trusts us not just hangs up
    scheme = "http"
    if tls:
        write_certificates(tls)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "apiserver.crt", tls / "apiserver.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme, known.authority = "https", str(tls / "ca.crt")
    known.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
