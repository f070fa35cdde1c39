"""What the preflight adds to a run on a healthy store: its own time on each kind of store, and behind a slow line.

The stores are SeaweedFS, fake-gcs-server and azurite on this machine. The slow line is a proxy that holds back every packet, so
that one request takes the round-trip time that is named. Last, whole exports of one small table with and without the preflight
(the annotation that leaves it out), in turns. ``python -m benchmarks.bench_preflight [--rounds 7]``
"""

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from backup_manager.storage.factory import open_storage
from backup_manager.storage.preflight import preflight, require
from crds.contract import names
from sandbox.ports import HOST
from tests.support import servers
from tests.support.object_stores import azure, gcs

TARGET: Final = 2.0
ROUND_TRIPS: Final = (0.0, 0.02, 0.1)
_REQUEST: Final = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) /")


class SlowLine:
    """A proxy to *port* of the loopback interface; *seconds* is the time that a request takes on its way there and back."""

    def __init__(self, port: int, seconds: float) -> None:
        self.requests = 0
        self._port, self._seconds = port, seconds
        self._server = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                time.sleep(self._seconds)  # the connection itself takes a round trip
                server = socket.create_connection((HOST, self._port))
                for one, other in ((client, server), (server, client)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.requests += bool(_REQUEST.match(data))
                time.sleep(self._seconds / 2)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def seconds_of(spec: Mapping[str, Any], env: Mapping[str, str], rounds: int) -> float:
    """Median seconds of a whole preflight, with a connection of its own."""
    found = []
    for _ in range(rounds):
        started = time.monotonic()
        with closing(open_storage(spec, env=env)) as storage:
            require(preflight(storage))
        found.append(time.monotonic() - started)
    return statistics.median(found)


def s3_spec(endpoint: str, prefix: str) -> dict[str, Any]:
    """The bucket of the benchmark."""
    return {"s3": {"provider": "seaweedfs", "endpoint": endpoint, "bucket": "bench", "prefix": prefix}}


def lines(s3: servers.S3, rounds: int) -> Iterator[tuple[str, float, int]]:
    """The preflight on S3 behind each line: its name, seconds, requests."""
    for round_trip in ROUND_TRIPS:
        with closing(SlowLine(urlsplit(s3.endpoint).port or 0, round_trip)) as line:
            took = seconds_of(s3_spec(line.url, "probe"), s3.env, rounds)
            yield f"S3, {round_trip * 1000:.0f} ms a request", took, line.requests // rounds


def whole(tidb: servers.Tidb, s3: servers.S3, folder: Path, rounds: int) -> tuple[float, float]:
    """Median seconds of an export with the preflight, and without it."""
    taken: dict[str, list[float]] = {"false": [], "true": []}
    for number in range(rounds):
        for skip in ("false", "true") if number % 2 == 0 else ("true", "false"):
            source = {"host": tidb.host, "port": tidb.port, "user": "root"}
            spec = {"from": source, "tableFilter": ["bench.*"], "cleanPolicy": "Delete"}
            spec |= s3_spec(s3.endpoint, f"whole-{number}-{skip}")
            meta = {"name": "bench", "annotations": {names.SKIP_PREFLIGHT_ANNOTATION: skip}}
            path = folder / "cr.yaml"
            path.write_text(yaml.safe_dump({"kind": "Backup", "metadata": meta, "spec": spec}))
            argv = [sys.executable, "-m", "backup_manager.cli", "export", f"--from-file={path}", "--report=/dev/null"]
            started = time.monotonic()
            env = {"PATH": servers.tool_path(), **s3.env}
            subprocess.run(argv, env=env, check=True, capture_output=True, cwd=servers.ROOT)
            taken[skip].append(time.monotonic() - started)
    return statistics.median(taken["false"]), statistics.median(taken["true"])


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder for the servers."""
    folder = Path(tempfile.mkdtemp(prefix="bench-preflight-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Measure and print; a missed target is printed, not an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (7)")
    rounds = parser.parse_args().rounds
    with (
        temporary() as folder,
        servers.seaweed(folder / "s3") as s3,
        gcs(folder / "gcs") as google,
        azure(folder / "azure") as microsoft,
        servers.tidb(folder / "tidb") as tidb,
    ):
        s3.client().create_bucket(Bucket="bench")
        tidb.execute("create database bench", "create table bench.t (id int)", "insert into bench.t values (1)")
        rows = [
            *lines(s3, rounds),
            *((store.name, seconds_of(store.at("p"), store.env, rounds), 0) for store in (google, microsoft)),
        ]
        with_it, without = whole(tidb, s3, folder, rounds)
    print(f"{'preflight':<24}{'seconds':>9}{'requests':>10}")
    for name, seconds, requests in rows:
        print(f"{name:<24}{seconds:>9.3f}{requests or '':>10}  {'ok' if seconds <= TARGET else f'MISSED: <= {TARGET:g}'}")
    print(f"{'export with, without':<24}{with_it:>9.2f}{without:>10.2f}  {with_it - without:+.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
