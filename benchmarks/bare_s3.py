"""An S3 server that costs nothing: keys are made up while they are listed, and a deletion only counts.

What a clean takes here is its own share: time a key, and memory. ``python benchmarks/bare_s3.py COUNT`` prints its address.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs, urlsplit

PAGE: Final = 1000


class Bare(ThreadingHTTPServer):
    """One bucket that holds *count* keys under every prefix until they are deleted."""

    daemon_threads = True

    def __init__(self, count: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.count, self.deleted = count, 0

    def page(self, prefix: str, start: int) -> str:
        """A listing from the *start*-th key on."""
        stop = min(start + PAGE, self.count) if self.deleted < self.count else start
        keys = "".join(
            f"<Contents><Key>{prefix}{n % 64:02d}/{n:09d}_write_{n * 7919:x}.sst</Key>"
            '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"9dd4e461268c8034f5c8564e155c67a6"</ETag>'
            "<Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for n in range(start, stop)
        )
        more = stop < self.count and stop > start
        token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else ""
        return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{keys}{token}</ListBucketResult>"


class Handler(BaseHTTPRequestHandler):
    """Answers what a clean asks."""

    protocol_version = "HTTP/1.1"
    server: Bare

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}
        if "list-type" in query:
            self._say(200, self.server.page(query["prefix"], int(query.get("continuation-token", 0))))
        elif "uploads" in query:
            self._say(200, "<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        elif "versioning" in query:
            self._say(200, "<VersioningConfiguration></VersioningConfiguration>")
        else:
            self._say(404, "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.deleted += body.count(b"<Object>")
        self._say(200, "<DeleteResult></DeleteResult>")

    def _say(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return


if __name__ == "__main__":
    server = Bare(int(sys.argv[1]))
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
