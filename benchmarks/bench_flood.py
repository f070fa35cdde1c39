"""The webhook under a flood: what its real caller notices, and how much memory it takes.

``python -m app`` with TLS and a token on the loopback interface; at the same time 3,000 connections that say nothing, 50
requests that send half of 50 MB and stop (each opened again when it is closed), 10,000 distinct CRs a minute, a scrape of the
metrics every 15 s, and the real caller, which syncs a Backup ten times a second. ``--with-token`` gives the token to the
half-sent bodies too.
"""

import argparse
import http.client
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles

import orjson

from benchmarks.hook_credentials import Credentials, temporary_credentials
from benchmarks.hook_requests import backup_request
from sandbox.ports import free_ports

IDLE = 3_000
HALF_SENT = 50
BODY = 50_000_000
CRS_PER_MINUTE = 10_000
MEMORY_TARGET = 250
"""MiB, resident."""
WAIT_TARGET = 250
"""ms, at the 99th percentile of the real caller."""
_MIB = 1024 * 1024


class Flood:
    """One run against the webhook on *port*."""

    def __init__(self, port: int, status_port: int, credentials: Credentials, *, with_token: bool) -> None:
        self.port, self.status_port, self.credentials = port, status_port, credentials
        self.stranger = credentials.token if with_token else "f" * 64
        self.stopped = threading.Event()
        self.waits: list[float] = []
        self.crs = 0
        self.scrapes: list[tuple[float, int]] = []
        self.failures: list[str] = []

    def run(self, seconds: float) -> None:
        """Everything at once."""
        work: list[Callable[[], None]] = [self.idle, self.scrape, self.call, self.flood, *[self.half_send] * HALF_SENT]
        threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in threads:
            thread.start()
        self.stopped.wait(seconds)
        self.stopped.set()
        for thread in threads:
            thread.join(30)

    def idle(self) -> None:
        """Keep 3,000 connections open that say nothing."""
        poller = select.poll()
        held: dict[int, socket.socket] = {}
        while not self.stopped.is_set():
            with suppress(OSError):
                while len(held) < IDLE and not self.stopped.is_set():
                    connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                    held[connection.fileno()] = connection
                    poller.register(connection, select.POLLIN | select.POLLHUP)
            for number, _ in poller.poll(200):
                poller.unregister(number)
                held.pop(number).close()
            # Some thousand connections a second are a flood of another kind.
            self.stopped.wait(1)

    def half_send(self) -> None:
        """Send half of a body, and wait until the other side has enough."""
        piece = b" " * 65536
        while not self.stopped.is_set():
            with suppress(OSError), self._secure() as connection:
                head = f"POST /backupschedule/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.stranger}\r\n"
                connection.sendall(f"{head}Content-Length: {BODY}\r\n\r\n".encode())
                for _ in range(BODY // 2 // len(piece)):
                    connection.sendall(piece)
                while connection.recv(65536):
                    pass
            self.stopped.wait(1)

    def _secure(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self.credentials.trust.wrap_socket(raw, server_hostname="127.0.0.1")

    def _caller(self) -> Callable[[bytes], None]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.credentials.trust)
        headers = {"Authorization": f"Bearer {self.credentials.token}", "Content-Type": "application/json"}

        def post(body: bytes) -> None:
            connection.request("POST", "/backup/sync", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                self.failures.append(f"answer {answer.status}")

        return post

    def call(self) -> None:
        """The real caller: a sync ten times a second."""
        post, body = self._caller(), orjson.dumps(backup_request())
        while not self.stopped.wait(0.1):
            began = time.perf_counter()
            try:
                post(body)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(type(error).__name__)
                post = self._caller()
            self.waits.append(time.perf_counter() - began)

    def flood(self) -> None:
        """10,000 distinct CRs a minute, from a caller with the token."""
        post, request, began = self._caller(), backup_request(), time.monotonic()
        while not self.stopped.is_set():
            request["parent"]["metadata"]["name"] = f"flood-{self.crs}"
            request["parent"]["status"] = {"phase": "Running", "backupSize": self.crs, "timeStarted": "2026-01-31T02:00:00Z"}
            try:
                post(orjson.dumps(request))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"flood: {type(error).__name__}")
                post = self._caller()
            self.crs += 1
            self.stopped.wait(max(0.0, began + self.crs * 60 / CRS_PER_MINUTE - time.monotonic()))

    def scrape(self) -> None:
        """What Prometheus does."""
        while not self.stopped.wait(15):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/metrics", timeout=60) as answer:
                size = len(answer.read())
            self.scrapes.append((time.perf_counter() - began, size))


def resident(process: "subprocess.Popen[bytes]", field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of *process*, in MiB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024 / _MIB


def main() -> int:
    """Run and print the table; exit 1 when the real caller was refused or dropped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--with-token", action="store_true", help="the half-sent bodies present the token")
    options = parser.parse_args()
    port, status_port = free_ports(2)
    with temporary_credentials() as credentials:
        own = {"TIDB_BACKUP_PORT": str(port), "TIDB_BACKUP_STATUS_PORT": str(status_port), "TIDB_BACKUP_LOG_LEVEL": "error"}
        with subprocess.Popen([sys.executable, "-m", "app"], env={**os.environ, **own, **credentials.settings}) as process:
            try:
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    time.sleep(0.1)
                before = resident(process, "VmRSS")
                flood = Flood(port, status_port, credentials, with_token=options.with_token)
                flood.run(options.minutes * 60)
                after, peak = resident(process, "VmRSS"), resident(process, "VmHWM")
            finally:
                process.terminate()
    worst = quantiles(flood.waits, n=100)[98] * 1e3
    load = os.getloadavg()[0]
    print(f"{options.minutes:g} min, {flood.crs:,} CRs, {len(flood.waits):,} calls of the real caller, load {load:.1f}")
    memory = f"{before:.0f} MiB before, {after:.0f} after, {peak:.0f} at most"
    print(f"  memory: {memory} (<= {MEMORY_TARGET}) {_verdict(peak, MEMORY_TARGET)}")
    waits = f"{median(flood.waits) * 1e3:.1f} ms at the median, {worst:.0f} ms at p99"
    print(f"  the real caller waits {waits} (<= {WAIT_TARGET}) {_verdict(worst, WAIT_TARGET)}")
    if flood.scrapes:
        slowest, biggest = max(seconds for seconds, _ in flood.scrapes), max(size for _, size in flood.scrapes)
        print(f"  a scrape takes {slowest:.2f} s at most, {biggest / _MIB:.1f} MiB")
    print(f"  refused or dropped: {len(flood.failures)} {sorted(set(flood.failures))}")
    return 1 if flood.failures else 0


def _verdict(value: float, target: float) -> str:
    return "ok" if value <= target else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
