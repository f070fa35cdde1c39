"""What it costs to read br's log: lines of real runs, repeated to 100 MB, taken in as the manager does, against counting them.

A second line tells what the manager does in addition: every line goes on to the Pod's own log, masked. Its rival is a loop that
copies the lines of the same pipe as they are.

``python benchmarks/bench_brlog.py [--megabytes 100] [--rounds 5]``; exit 1 when a limit is passed.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from backup_manager import log_lines
from backup_manager.masking import Masker
from backup_manager.runner import Run
from backup_manager.signals import StopSignal
from backup_manager.tools import process
from backup_manager.tools.br import BrOutput
from backup_manager.tools.process import Stream
from tests.support.br import golden

LOGS: Final = ("backup-full", "restore-full", "backup-killed", "region-errors-overcome")
ORDINARY: Final = 20
LIMITS: Final = {"ratio": 2.0, "megabytes": 1.0}
SECRETS: Final = ("S3cr3t/+value==", "hunter22hunter22")


def write_log(path: Path, size: int) -> int:
    """Fill *path* with at least *size* bytes of real lines; the number of lines.

    The golden logs are trimmed: of what br repeats by the thousand (a line for each range, region and file) two are left. So
    each line that tells something stands beside :data:`ORDINARY` times the others; br tells progress every two minutes.
    """
    lines = [line for name in LOGS for line in golden(name).stdout.splitlines(keepends=True)]
    block = "".join(lines) + ORDINARY * "".join(line for line in lines if "[progress]" not in line and "summary" not in line)
    repeats = size // len(block.encode()) + 1
    with path.open("w", encoding="utf-8") as file:
        for _ in range(repeats):
            file.write(block)
    return repeats * block.count("\n")


def count(path: Path) -> int:
    """The rival: nothing but counting."""
    lines = 0
    with path.open("rb") as file:
        for _ in file:
            lines += 1
    return lines


def parse(path: Path) -> None:
    """As the manager takes the log in."""
    heard = BrOutput()
    with path.open("rb") as file:
        for block in log_lines.read(file.fileno()):
            for line in heard.select(Stream.OUT, block):
                heard.line(Stream.OUT, line.decode("utf-8", "replace"))
    if heard.progress is None or not heard.summary:
        raise SystemExit("the log was not understood")


def copy(path: Path) -> None:
    """The rival of :func:`forward`: the lines of a pipe, as they are."""
    with Path(os.devnull).open("wb") as sink, subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as tool:
        for line in tool.stdout or ():
            sink.write(line)


def mask(path: Path) -> None:
    """The masking alone."""
    masker = Masker(SECRETS)
    with path.open("rb") as file:
        for block in log_lines.read(file.fileno()):
            masker.block(block)


def forward(path: Path) -> None:
    """All that the manager does with a tool's log, to the end in the Pod's own."""
    heard = BrOutput()
    with Path(os.devnull).open("w", encoding="utf-8") as sink:
        run = Run(verb=_NoVerb(), flags={}, env={}, stderr=sink)
        run.mask = Masker(SECRETS)
        process.run(
            ["cat", str(path)],
            env=os.environ,
            stop=StopSignal(),
            mask=run.mask,
            log=run.log,
            on_line=heard.line,
            select=heard.select,
        )
    if heard.progress is None or not heard.summary:
        raise SystemExit("the log was not understood")


class _NoVerb:
    """A run that only logs."""

    name, operation, kinds, name_flag, unread = "", "", (), "", ""

    def is_run(self, flags: Mapping[str, Any]) -> bool:
        """It works for no CR."""
        return False


def seconds(work: Callable[[Path], Any], path: Path) -> float:
    """Processor time of one run in this process: other work on the machine does not count."""
    started = time.process_time()
    work(path)
    return time.process_time() - started


def peak(path: Path) -> float:
    """Megabytes that parsing needs at most."""
    tracemalloc.start()
    parse(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1e6


def resident() -> float:
    """Megabytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Measure and print; 0 when both limits are kept."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "br.log"
        lines = write_log(log, chosen.megabytes * 1_000_000)
        before = resident()
        times = [[seconds(work, log) for work in (count, parse, copy, forward, mask)] for _ in range(chosen.rounds)]
        grown = resident() - before
        counted, parsed, copied, forwarded, masked = (statistics.median(column) for column in zip(*times, strict=True))
        memory = peak(log)
    ratio = parsed / counted
    sys.stdout.write(
        f"{lines:,} lines, {chosen.megabytes} MB: counting {counted:.2f} s, parsing {parsed:.2f} s, "
        f"ratio {ratio:.2f} (limit {LIMITS['ratio']}), memory {memory:.2f} MB (limit {LIMITS['megabytes']})\n"
        f"through a pipe to the Pod's log: copying lines {copied:.2f} s, parsed, masked and forwarded {forwarded:.2f} s "
        f"(of that masking {masked:.2f} s), ratio {forwarded / copied:.2f}; resident memory {grown:+.1f} MB\n"
    )
    return 0 if ratio <= LIMITS["ratio"] and memory <= LIMITS["megabytes"] else 1


if __name__ == "__main__":
    sys.exit(main())
