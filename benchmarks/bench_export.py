"""What the manager costs: an export against plain dumpling, and the time and memory from its start to the tool's.

Everything runs on this machine in one go: a TiDB with generated rows, one SeaweedFS bucket, the same dumpling with the same
options. Rounds alternate, the table shows medians and ratios. ``python benchmarks/bench_export.py [--seconds 20] [--rounds 3]``

The manager is started as the image starts it, with compiled bytecode (from a cache that is warmed first).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from tests.support import servers

ROW: Final = 1024
ROWS_A_STATEMENT: Final = 20_000
FIRST_ROWS: Final = 100_000
MOST_ROWS: Final = 6_400_000
OPTIONS: Final = ("--threads=16", "--rows=10000")
STARTS: Final = 7
LIMITS: Final = {"export": 1.05, "start": 0.5, "memory": 60.0}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The servers and where things are."""

    folder: Path
    tidb: servers.Tidb
    s3: servers.S3

    @property
    def env(self) -> dict[str, str]:
        """The manager's environment; Python compiles once, as an image does."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        cache = {"PYTHONPYCACHEPREFIX": str(self.folder / "pycache"), "PATH": servers.tool_path()}
        return kept | cache | self.s3.env

    def manager(self, prefix: str, **env: str) -> tuple[float, int]:
        """Seconds and exit code of one export through the manager."""
        cr = {
            "kind": "Backup",
            "metadata": {"name": "bench", "namespace": "bench"},
            "spec": {
                "from": {"host": self.tidb.host, "port": self.tidb.port, "user": "root"},
                "tableFilter": ["bench.*"],
                "dumpling": {"options": list(OPTIONS)},
                "s3": {"provider": "seaweedfs", "endpoint": self.s3.endpoint, "bucket": "bench", "prefix": prefix},
            },
        }
        path = self.folder / f"{prefix}.yaml"
        path.write_text(yaml.safe_dump(cr))
        report = f"--report={self.folder / 'report.jsonl'}"
        argv = [str(Path(sys.executable).with_name("backup-manager")), "export", f"--from-file={path}", report]
        return self.timed(argv, env=self.env | env)

    def dumpling(self, output: str) -> float:
        """Seconds of plain dumpling."""
        where = ["--host=127.0.0.1", f"--port={self.tidb.port}", "--user=root", "--status-addr=127.0.0.1:0"]
        storage = [f"--s3.endpoint={self.s3.endpoint}", "--s3.provider=seaweedfs"] if output.startswith("s3") else []
        argv = [servers.tool("dumpling"), f"--output={output}", *storage, *where, "--filter", "bench.*", *OPTIONS]
        seconds, code = self.timed(argv, env=self.env)
        if code:
            raise SystemExit(f"dumpling failed, see {self.folder / 'log'}")
        return seconds

    def tar_and_copy(self) -> float:
        """Seconds of TiDB Operator's way: dump to a volume, make a .tgz, copy it."""
        started, folder = time.monotonic(), self.folder / "dump"
        self.dumpling(str(folder))
        with tarfile.open(self.folder / "dump.tgz", "w:gz") as packed:
            packed.add(folder, arcname="dump")
        self.s3.client().upload_file(str(self.folder / "dump.tgz"), "bench", "archives/dump.tgz")
        shutil.rmtree(folder)
        (self.folder / "dump.tgz").unlink()
        return time.monotonic() - started

    def timed(self, argv: Sequence[str], *, env: dict[str, str]) -> tuple[float, int]:
        """Run *argv* in the repository with its output in a file."""
        with (self.folder / "log").open("wb") as log:
            started = time.monotonic()
            code = subprocess.run(argv, env=env, stdout=log, stderr=log, cwd=servers.ROOT, check=False).returncode
            return time.monotonic() - started, code


@contextmanager
def stage() -> Iterator[Bench]:
    """Start the servers."""
    folder = Path(tempfile.mkdtemp(prefix="bench-export-"))
    try:
        with servers.tidb(folder / "tidb") as tidb, servers.seaweed(folder / "s3") as s3:
            s3.client().create_bucket(Bucket="bench")
            yield Bench(folder=folder, tidb=tidb, s3=s3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(tidb: servers.Tidb, start: int, rows: int) -> None:
    """Add *rows* rows of about a kilobyte that do not compress."""
    for first in range(start, start + rows, ROWS_A_STATEMENT):
        text = "concat(" + ",".join(f"sha2(concat(i, '-{part}'), 512)" for part in range(ROW // 128)) + ")"
        tidb.execute(
            "set session cte_max_recursion_depth = 100000",
            "insert into bench.rows_ with recursive n(i) as "
            f"(select {first} union all select i + 1 from n where i < {first + ROWS_A_STATEMENT - 1}) select i, {text} from n",
        )


def prepare(bench: Bench, seconds: float) -> tuple[int, float]:
    """Rows until a plain dump takes *seconds*; their number, and what it took."""
    bench.tidb.execute("create database bench", f"create table bench.rows_ (id int primary key, v varchar({ROW}))")
    rows = 0
    goal = FIRST_ROWS
    while True:
        fill(bench.tidb, rows, goal - rows)
        rows = goal
        took = bench.dumpling(f"s3://bench/calibrate-{rows}")
        print(f"  {rows:>9,} rows: plain dumpling takes {took:.1f} s", flush=True)
        if took >= seconds or rows >= MOST_ROWS:
            return rows, took
        goal = min(MOST_ROWS, max(int(rows * min(4.0, 1.15 * seconds / took)), rows + ROWS_A_STATEMENT))
        goal -= goal % ROWS_A_STATEMENT


def start_costs(bench: Bench) -> tuple[float, float]:
    """Median seconds from the manager's start to the tool's, and its peak memory until then in MB."""
    tools, out = bench.folder / "tools", bench.folder / "started"
    tools.mkdir()
    script = tools / "dumpling"
    script.write_text(f"#!/bin/sh\ndate +%s.%N > {out}\ngrep VmHWM /proc/$PPID/status >> {out}\nexit 1\n")
    script.chmod(0o755)
    times, peaks = [], []
    for number in range(STARTS + 1):
        started = time.time()
        bench.manager(f"start-{number}", PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
        lines = out.read_text().split()
        times.append(float(lines[0]) - started)
        peaks.append(int(lines[2]) / 1024)
    return statistics.median(times[1:]), statistics.median(peaks[1:])


def compare(bench: Bench, rounds: int) -> tuple[float, float]:
    """Median seconds of plain dumpling and of the manager, taken in turns."""
    plain, ours = [], []
    for number in range(rounds):
        turns: list[Callable[[], None]] = [
            lambda n=number: plain.append(bench.dumpling(f"s3://bench/plain-{n}")),  # type: ignore[misc]
            lambda n=number: ours.append(_succeeded(bench.manager(f"ours-{n}"))),  # type: ignore[misc]
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
        print(f"  round {number + 1}: plain {plain[-1]:.2f} s, manager {ours[-1]:.2f} s", flush=True)
    return statistics.median(plain), statistics.median(ours)


def _succeeded(timed: tuple[float, int]) -> float:
    if timed[1]:
        raise SystemExit("the manager failed")
    return timed[0]


def main() -> int:
    """Measure and print; a missed limit is printed, not an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="how long a plain dump should take at least (20)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the comparison (3)")
    given = parser.parse_args()
    with stage() as bench:
        print("start to tool", flush=True)
        start, memory = start_costs(bench)
        print(f"  {start:.2f} s, {memory:.0f} MB\nrows", flush=True)
        rows, _ = prepare(bench, given.seconds)
        print("comparison", flush=True)
        plain, ours = compare(bench, given.rounds)
        copied = bench.tar_and_copy()
    ratio = ours / plain
    table = [
        ("plain dumpling", f"{plain:.2f} s", f"{rows:,} rows", ""),
        ("through the manager", f"{ours:.2f} s", f"{ratio:.3f} x", _verdict(ratio, LIMITS["export"])),
        ("dump, tar, copy", f"{copied:.2f} s", f"{copied / plain:.2f} x", ""),
        ("start to tool", f"{start:.2f} s", f"<= {LIMITS['start']} s", _verdict(start, LIMITS["start"])),
        ("memory at tool's start", f"{memory:.0f} MB", f"<= {LIMITS['memory']:.0f} MB", _verdict(memory, LIMITS["memory"])),
    ]
    print()
    for name, value, against, verdict in table:
        print(f"{name:<24}{value:>10}{against:>18}  {verdict}")
    return 0


def _verdict(value: float, limit: float) -> str:
    return "ok" if value <= limit else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
