"""The webhook against its rivals in the same run: an empty FastAPI route, and the bare decoding of the same body.

Both servers are real uvicorn processes with one worker, asked over loopback on one kept-alive connection, in turns.
"""

import gc
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from app.domain.schedule import cron
from app.domain.schedule.retention import Item, Policy, Rule, State, plan
from app.routes import GC_THRESHOLD
from benchmarks.hook_credentials import Credentials, temporary_credentials
from benchmarks.hook_requests import NOW, backup_request, schedule_request, write_status
from sandbox.ports import free_ports

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: ours, the rival's, and the target of their ratio (or of ours alone)."""

    what: str
    ours: str
    rival: str = ""
    ratio: float | None = None
    target: float


class Server:
    """One application on *port*; over TLS with *credentials*, whose token is presented."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, credentials: Credentials | None = None) -> None:
        self.process = process
        self._headers = {"Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        if credentials:
            self._headers["Authorization"] = f"Bearer {credentials.token}"
            self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=120, context=credentials.trust)
        self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes) -> bytes:
        """The answer to *body*; fails unless it is 200."""
        self._connection.request("POST", path, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {answer[:200]!r}")
        return answer

    def memory(self, field: str) -> int:
        """``VmRSS`` or ``VmHWM`` (the peak) of the process, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@contextmanager
def serve(app: str, credentials: Credentials | None = None) -> Iterator[Server]:
    """Start *app* under uvicorn on a free port of the loopback interface, or ``python -m app`` for "app"; stop it by its own
    handle."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "uvicorn", app, f"--port={port}", "--timeout-keep-alive=120", "--no-access-log"]
    argv += ["--log-level=warning"]
    env = dict(os.environ)
    if app == "app":
        argv = [sys.executable, "-m", "app"]
        env |= {"TIDB_BACKUP_PORT": str(port), "TIDB_BACKUP_STATUS_PORT": "0", "TIDB_BACKUP_LOG_LEVEL": "warning"}
        env |= credentials.settings if credentials else {}
    elif credentials:
        argv += [f"--ssl-certfile={credentials.certificate}", f"--ssl-keyfile={credentials.key}"]
    with subprocess.Popen(argv, env=env) as process:
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield Server(process, port, credentials)
        finally:
            process.terminate()


def timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of one *call*."""
    began = clock()
    call()
    return clock() - began


def in_turns(rounds: int, *calls: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The median seconds of each of *calls*, made in turns so that a busy moment hits all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for index, call in enumerate(calls):
            times[index].append(timed(call, clock))
    return [median(series) for series in times]


def ten_times(call: Callable[[], object]) -> Callable[[], None]:
    """*call* made ten times, so that work of a tenth of the size is timed for as long as the whole."""

    def calls() -> None:
        for _ in range(10):
            call()

    return calls


def at_rest(hooks: Server, path: str, request: dict[str, Any]) -> bytes:
    """*request* as it comes again and again: with the status that the answers have settled on."""
    for _ in range(3):
        write_status(request["parent"], orjson.loads(hooks.post(path, orjson.dumps(request)))["status"])
    return orjson.dumps(request)


def small(hooks: Server, bare: Server) -> Row:
    """Sync of one Backup."""
    (job,) = orjson.loads(hooks.post("/backup/sync", orjson.dumps(backup_request())))["children"]
    body = at_rest(hooks, "/backup/sync", backup_request(job))
    calls = (lambda: hooks.post("/backup/sync", body)), (lambda: bare.post("/empty", body))
    in_turns(200, *calls)
    ours, rival = in_turns(3000, *calls)
    what = f"Backup sync, {len(body) / 1024:.1f} KB, against an empty route"
    return Row(what=what, ours=f"{ours * 1e6:.0f} us", rival=f"{rival * 1e6:.0f} us", ratio=ours / rival, target=1.5)


def small_over_tls(hooks: Server, bare: Server) -> Row:
    """The same as the manifests have it: over TLS, with a token, on the server of ``python -m app``."""
    row = small(hooks, bare)
    return replace(row, what="  over TLS with a token, against that route over TLS", target=1.6)


def big(hooks: Server) -> list[Row]:
    """Sync of schedules with many Backups."""
    thousand = at_rest(hooks, "/backupschedule/sync", schedule_request(1_000))
    before = hooks.memory("VmRSS")
    ten_thousand = at_rest(hooks, "/backupschedule/sync", schedule_request(10_000))
    peak = hooks.memory("VmHWM") - before
    calls = (
        lambda: hooks.post("/backupschedule/sync", ten_thousand),
        lambda: orjson.loads(ten_thousand),
        ten_times(lambda: hooks.post("/backupschedule/sync", thousand)),
    )
    ours, decode, tenths = in_turns(9, *calls)
    tenth = tenths / 10
    size = f"{len(ten_thousand) / _MIB:.0f} MB"
    return [
        Row(what=f"schedule sync, 10,000 Backups, {size}, against orjson.loads", ours=f"{ours * 1e3:.0f} ms",
            rival=f"{decode * 1e3:.0f} ms", ratio=ours / decode, target=3.0),
        Row(what="the same against 1,000 Backups", ours=f"{ours * 1e3:.0f} ms", rival=f"{tenth * 1e3:.1f} ms",
            ratio=ours / tenth, target=11.0),
        Row(what="its peak memory against the body", ours=f"{peak / _MIB:.0f} MB", rival=size,
            ratio=peak / len(ten_thousand), target=6.0),
    ]  # fmt: skip


def missed_slots() -> Row:
    """The newest slot of ten missed years of minutes."""
    table = cron.parse("* * * * *", anchor=NOW, tz=cron.zone("America/New_York"))
    (seconds,) = in_turns(500, lambda: table.newest(after=NOW - timedelta(days=3653), now=NOW))
    return Row(
        what="newest of ten missed years of minutes, in ms", ours=f"{seconds * 1e3:.3f} ms", ratio=seconds * 1e3, target=1.0
    )


def _plan(policy: Policy, count: int) -> Callable[[], object]:
    times = [NOW - number * timedelta(minutes=7) for number in range(count)]
    items = [Item(f"b{number}", State.COMPLETE, at, at, at) for number, at in enumerate(times)]
    return lambda: plan(items, policy, NOW)


def plans() -> list[Row]:
    """What retention decides about a hundred thousand Backups."""
    rows = []
    policies = {
        "keepHourly, keepDaily, keepMonthly": Policy(counts={Rule.KEEP_HOURLY: 24, Rule.KEEP_DAILY: 7, Rule.KEEP_MONTHLY: 12}),
        "maxReservedTime": Policy(max_reserved_time=timedelta(days=90)),
    }
    for name, policy in policies.items():
        calls = _plan(policy, 100_000), ten_times(_plan(policy, 10_000))
        most, tenths = in_turns(7, *calls, clock=time.process_time)
        tenth = tenths / 10
        rows.append(Row(what=f"plan of 100,000 Backups by {name}, in s", ours=f"{most:.2f} s", ratio=most, target=0.5))
        rows.append(Row(what="  against 10,000", ours=f"{most:.2f} s", rival=f"{tenth:.3f} s", ratio=most / tenth, target=13.0))
    return rows


def show(rows: list[Row]) -> None:
    """Print the table."""
    width = max(len(row.what) for row in rows)
    print(f"{'':{width}}  {'ours':>10}  {'rival':>10}  {'ratio':>7}  target")
    for row in rows:
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        verdict = "ok" if row.ratio is not None and row.ratio <= row.target else "MISSED"
        print(f"{row.what:{width}}  {row.ours:>10}  {row.rival:>10}  {ratio:>7}  <= {row.target:g} {verdict}")


def main() -> None:
    """Measure everything and print it."""
    # The same collector settings as the application's own, so that bare decoding is not slowed down.
    gc.set_threshold(*GC_THRESHOLD)
    rows = [missed_slots(), *plans()]
    with serve("app.main:app") as hooks, serve("benchmarks.bare_app:app") as bare:
        rows.append(small(hooks, bare))
        rows += big(hooks)
    with temporary_credentials() as found, serve("app", found) as hooks, serve("benchmarks.bare_app:app", found) as bare:
        rows.insert(-3, small_over_tls(hooks, bare))
    show(rows)


if __name__ == "__main__":
    main()
