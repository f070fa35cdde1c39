"""Deleting a backup from S3: ``backup-manager clean`` against ``s5cmd rm`` and ``rclone purge``.

One SeaweedFS server is filled once, stopped, and kept as a template. Every run starts from a fresh copy of it, so each tool
meets the same server in the same state; rounds alternate between the tools. What is timed is the whole process, from its start
to its exit; our own reads and writes the record and lists the path again, which the others do not. ``server`` is the CPU time
that the server spent meanwhile, which a busy machine disturbs less than the wall time.

``python -m benchmarks.bench_clean [--objects 20000] [--rounds 3] [--million] [--keep FOLDER]``

With ``--keep`` the filled templates stay in FOLDER and are used again, which saves most of the time. Memory and linearity up to
a million keys are measured at a server that costs nothing, where every second is our own; with ``--million`` at SeaweedFS as
well, which takes an hour or two to fill on a small machine. ``docs/benchmarks-clean.md`` has results.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError

from backup_manager.catalog.record import Owner
from backup_manager.catalog.records import Records
from backup_manager.cleaning.cleaner import Cleaner, CleanOptions
from backup_manager.kubernetes.resource import Resource
from backup_manager.storage.factory import open_storage
from backup_manager.storage.http_pool import Answer, HttpPool
from tests.support import servers

BUCKET: Final = "bench"
PREFIX: Final = "nightly/cr-0f5e9c1a"
FOLDERS: Final = 64
INJECTED: Final = 0.05
LIMITS: Final = {"s5cmd": 1.0, "rclone": 0.5, "memory": 100.0, "faults": 1.5, "linear": 11.0}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one tool."""

    seconds: float
    megabytes: float
    cpu: float
    server: float


@dataclass
class Table:
    """Runs by tool."""

    runs: dict[str, list[Run]] = field(default_factory=dict)

    def add(self, tool: str, run: Run) -> None:
        """Note one run, and say so."""
        self.runs.setdefault(tool, []).append(run)
        print(
            f"  {tool:<22} {run.seconds:7.2f} s   {run.megabytes:6.1f} MB   cpu {run.cpu:6.2f} s   server {run.server:6.2f} s",
            flush=True,
        )

    def median(self, tool: str, of: str = "seconds") -> float:
        """The median of one number."""
        return float(statistics.median(getattr(run, of) for run in self.runs[tool]))


def fill(server: servers.S3, count: int, folder: Path) -> None:
    """Put *count* small objects under the path, of a Backup with its record, and one beside it. With s5cmd, which spends the
    least on it."""
    server.client().create_bucket(Bucket=BUCKET)
    one, commands = folder / "one", folder / "commands"
    one.write_bytes(b"x")
    with commands.open("w") as file:
        file.write(f"cp {one} s3://{BUCKET}/{PREFIX}-sibling/keep\n")
        for number in range(count):
            key = f"{PREFIX}/{number % FOLDERS:02d}/{number:09d}_write_{number * 7919:x}.sst"
            file.write(f"cp {one} s3://{BUCKET}/{key}\n")
    argv = [servers.tool("s5cmd"), "--endpoint-url", server.endpoint, "--log", "error", "--numworkers", "32"]
    began = time.monotonic()
    records, owner = Records(open_storage(spec(server), env=server.env)), Owner.of(Resource.of(CR))
    claim = records.claim(owner, operation="backup", spec={})
    subprocess.run([*argv, "run", str(commands)], env=environment(server), check=True, stdout=subprocess.DEVNULL)
    records.complete(claim)
    print(f"  filled {count} in {time.monotonic() - began:.0f} s", flush=True)


CR: Final[dict[str, Any]] = {
    "kind": "Backup",
    "metadata": {"name": "cr", "namespace": "bench", "uid": "0f5e9c1a"},
    "spec": {"cleanPolicy": "Delete"},
    "status": {"backupPath": f"s3://{BUCKET}/{PREFIX}"},
}


def spec(server: servers.S3) -> dict[str, Any]:
    """A CR's storage."""
    return {"s3": {"provider": "seaweedfs", "endpoint": server.endpoint, "bucket": BUCKET, "prefix": PREFIX}}


def template(folder: Path, count: int) -> Path:
    """The data of a server that holds *count* objects."""
    place = folder / f"filled-{count}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        print(f"filling {count} objects", flush=True)
        with servers.seaweed(place) as server, tempfile.TemporaryDirectory() as scratch:
            fill(server, count, Path(scratch))
        (place / "done").touch()
    return place


@contextmanager
def fresh(place: Path) -> Iterator[servers.S3]:
    """A server on a copy of the template, which must be full at first and, but for the sibling, empty at the end."""
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        copy = Path(scratch) / "weed"
        shutil.copytree(place, copy)
        with servers.seaweed(copy) as server:
            assert first(server, f"{PREFIX}/"), "the template is empty"
            await_volumes(server)
            yield server
            assert not first(server, f"{PREFIX}/"), "objects are left"
            assert first(server, f"{PREFIX}-sibling/"), "the sibling is gone"


def await_volumes(server: servers.S3) -> None:
    """Wait until what it holds can be read: for a while after its start it lists objects whose data it has not found yet."""
    client, deadline = server.client(), time.monotonic() + 60
    for key in (f"{PREFIX}-sibling/keep", f"{PREFIX}.record.json", f"{PREFIX}.objects.gz"):
        while True:
            try:
                client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                break
            except ClientError:
                assert time.monotonic() < deadline, f"{key} cannot be read"
                time.sleep(0.2)


def first(server: servers.S3, prefix: str) -> bool:
    """Whether anything is there."""
    return bool(server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix, MaxKeys=1).get("KeyCount"))


class Peak(threading.Thread):
    """Watches a process's largest resident size. The kernel's own account of a child starts with ours, from before its exec."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.megabytes = 0.0
        self._file = Path(f"/proc/{pid}/status")
        self.start()

    def run(self) -> None:
        time.sleep(0.02)  # past the exec
        while True:
            try:
                line = next(line for line in self._file.read_text().splitlines() if line.startswith("VmHWM"))
            except (OSError, StopIteration):
                return
            self.megabytes = max(self.megabytes, int(line.split()[1]) / 1024)
            time.sleep(0.02)


def server_seconds() -> float:
    """CPU time of the SeaweedFS that we started, so far."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = file.read_text().rpartition(") ")
        except OSError:
            continue
        words = tail.split()
        if head.endswith("(weed") and int(words[1]) == os.getpid():
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def timed(argv: list[str], env: Mapping[str, str], stdin: str = "") -> Run:
    """Run a command to its end."""
    server, began = server_seconds(), time.monotonic()
    process = subprocess.Popen(
        argv, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=servers.ROOT
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(stdin.encode())
    process.stdin.close()
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    peak = Peak(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    peak.join()
    if process.returncode:
        raise RuntimeError(f"{argv[:4]} ended with {process.returncode}: {b''.join(said).decode()[-2000:]}")
    return Run(
        seconds=seconds,
        megabytes=peak.megabytes,
        cpu=usage.ru_utime + usage.ru_stime,
        server=server_seconds() - server,
    )


def environment(server: servers.S3) -> dict[str, str]:
    """What every tool gets; bytecode is compiled once, as in an image."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | server.env | {"PATH": servers.tool_path(), "AWS_REGION": "us-east-1"}


def ours(server: servers.S3) -> Run:
    """``backup-manager clean`` as a Job runs it, but for the API server."""
    cr = {**CR, "spec": {**spec(server), **CR["spec"]}}
    argv = [sys.executable, "-m", "backup_manager.cli", "clean", "--from-file=-", "--report=stdout"]
    return timed(argv, environment(server), json.dumps(cr))


def s5cmd(server: servers.S3) -> Run:
    """``s5cmd rm``."""
    path = f"s3://{BUCKET}/{PREFIX}/*"
    return timed([servers.tool("s5cmd"), "--endpoint-url", server.endpoint, "--log", "error", "rm", path], environment(server))


def rclone(server: servers.S3) -> Run:
    """``rclone purge``."""
    remote = {
        "RCLONE_CONFIG_S_TYPE": "s3",
        "RCLONE_CONFIG_S_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_S_ENV_AUTH": "true",
        "RCLONE_CONFIG_S_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_S_REGION": "us-east-1",
        "RCLONE_CONFIG": "/dev/null",
    }
    return timed([servers.tool("rclone"), "purge", f"s:{BUCKET}/{PREFIX}"], environment(server) | remote)


def engine(server: servers.S3, *, faults: float) -> Run:
    """The engine alone in a process of its own, with that share of requests answered 503 in the server's place."""
    argv = [sys.executable, __file__, "--engine", server.endpoint, f"--faults={faults}"]
    return timed(argv, environment(server) | {"PYTHONPATH": str(servers.ROOT)})


def run_engine(endpoint: str, faults: float) -> None:
    """The body of :func:`engine`."""
    chance, send = random.Random(7), HttpPool.send

    def flaky(self: HttpPool, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if chance.random() < faults:
            return Answer(503, {}, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
        return send(self, method, target, headers, body)

    HttpPool.send = flaky  # type: ignore[method-assign]
    storage = open_storage(spec(servers.S3(endpoint=endpoint)), env=os.environ)
    tally = Cleaner(storage, CleanOptions(batches="BENCH_SINGLE" not in os.environ)).run()
    print(f"{tally.deleted} deleted, {tally.throttled} throttled, {tally.retried} retried", file=sys.stderr)


TOOLS: Final[Mapping[str, Callable[[servers.S3], Run]]] = {
    "backup-manager clean": ours,
    "s5cmd rm": s5cmd,
    "rclone purge": rclone,
}


def compare(place: Path, rounds: int) -> Table:
    """All tools, alternating."""
    table = Table()
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for name, tool in list(TOOLS.items())[:: -1 if number % 2 else 1]:
            with fresh(place) as server:
                table.add(name, tool(server))
        for name, share in (("engine", 0.0), ("engine, 5 % 503", INJECTED)):
            with fresh(place) as server:
                table.add(name, engine(server, faults=share))
    return table


@contextmanager
def bare(count: int) -> Iterator[servers.S3]:
    """A server that costs nothing, with *count* keys."""
    argv = [sys.executable, str(Path(__file__).with_name("bare_s3.py")), str(count)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield servers.S3(endpoint=process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def own_share(counts: Sequence[int]) -> dict[int, Run]:
    """The engine's own time and memory at several sizes."""
    found = {}
    print("the engine alone, at a server that costs nothing", flush=True)
    for count in counts:
        with bare(count) as server:
            run = found[count] = engine(server, faults=0.0)
        print(
            f"  {count:>9} keys {run.seconds:7.2f} s  {run.megabytes:6.1f} MB  cpu {run.cpu:6.2f} s, "
            f"{run.cpu / count * 1e6:.1f} us a key",
            flush=True,
        )
    return found


def linear(folder: Path, counts: list[int]) -> dict[int, Run]:
    """Ours alone at several sizes."""
    found = {}
    for count in counts:
        with fresh(template(folder, count)) as server:
            found[count] = ours(server)
        run = found[count]
        print(
            f"  {count:>9} objects {run.seconds:8.1f} s  {run.megabytes:6.1f} MB  {count / run.seconds:8.0f} a second",
            flush=True,
        )
    return found


def main() -> int:
    """Print the tables; 1 when a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="also 1,000, 100,000 and 1,000,000 objects, ours alone")
    parser.add_argument("--keep", type=Path, help="folder for the filled servers")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--faults", type=float, default=0.0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.engine:
        run_engine(chosen.engine, chosen.faults)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        alone = own_share([1000, 100_000, 1_000_000])
        table = compare(template(folder, chosen.objects), chosen.rounds)
        sizes = linear(folder, [1000, 100_000, 1_000_000]) if chosen.million else {}
    return judge(chosen.objects, chosen.rounds, table, alone, sizes)


def judge(objects: int, rounds: int, table: Table, alone: Mapping[int, Run], sizes: Mapping[int, Run]) -> int:
    """The table of medians, and whether the limits hold."""
    mine = table.median("backup-manager clean")
    print(f"\n{objects} objects, medians of {rounds}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    print(f"{'':<24}{'seconds':>9}{'MB':>8}{'cpu s':>8}{'server s':>10}{'a second':>10}{'ours is':>9}")
    for name in table.runs:
        seconds = table.median(name)
        print(
            f"{name:<24}{seconds:>9.2f}{table.median(name, 'megabytes'):>8.0f}{table.median(name, 'cpu'):>8.2f}"
            f"{table.median(name, 'server'):>10.2f}{objects / seconds:>10.0f}{mine / seconds:>8.2f}x"
        )
    met = {
        "s5cmd": mine / table.median("s5cmd rm"),
        "rclone": mine / table.median("rclone purge"),
        "memory": max(run.megabytes for run in [*table.runs["backup-manager clean"], *alone.values(), *sizes.values()]),
        "faults": table.median("engine, 5 % 503") / table.median("engine"),
    }
    largest = sizes or alone
    met["linear"] = largest[1_000_000].seconds / largest[100_000].seconds
    failed = [name for name, value in met.items() if value > LIMITS[name]]
    print("limits: " + ", ".join(f"{name} {value:.2f} of {LIMITS[name]:g}" for name, value in met.items()))
    print("met" if not failed else f"NOT met: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
