"""A proxy before an S3 server that answers 200 to the write of some objects and keeps nothing."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import urllib3

from sandbox.ports import HOST

_HOP: Final = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})
_COMPLETED: Final = (
    '<?xml version="1.0"?><CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>"0"</ETag>'
    "</CompleteMultipartUploadResult>"
)


@contextmanager
def lying_store(endpoint: str, lost: str) -> Iterator[tuple[str, list[str]]]:
    """URL of a proxy of *endpoint* that loses the objects whose path matches *lost*, and the paths of those lost so far.

    An object goes with its PutObject, or with its CompleteMultipartUpload.
    """
    gone: list[str] = []
    pool = urllib3.PoolManager()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            completes = self.command == "POST" and "uploadId=" in query
            if re.search(lost, path) and (completes or (self.command == "PUT" and not query)):
                gone.append(path)
                self.answer(200, {"ETag": '"0"'}, _COMPLETED.encode() if completes else b"")
                return
            passed = pool.request(
                self.command, f"{endpoint}{self.path}", body=body, headers=dict(self.headers), redirect=False, retries=False
            )
            self.answer(passed.status, dict(passed.headers), b"" if self.command == "HEAD" else passed.data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_words: object) -> None: ...

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_port}", gone
    finally:
        server.shutdown()
        server.server_close()
