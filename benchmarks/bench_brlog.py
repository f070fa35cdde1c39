"""What it costs to read br's log: lines of real runs, repeated to 100 MB, taken in as the manager does, against counting them.

``python benchmarks/bench_brlog.py [--megabytes 100] [--rounds 5]``; exit 1 when a limit is passed.
"""

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

from backup_manager.tools.br import Heard
from backup_manager.tools.process import Stream
from tests.support.br import golden

LOGS: Final = ("backup-full", "restore-full", "backup-killed", "region-errors-overcome")
ORDINARY: Final = 20
LIMITS: Final = {"ratio": 2.0, "megabytes": 1.0}


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
    with path.open(encoding="utf-8", errors="replace") as file:
        for _ in file:
            lines += 1
    return lines


def parse(path: Path) -> int:
    """The same loop, each line taken in."""
    heard, lines = Heard(), 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            heard.line(Stream.OUT, line)
            lines += 1
    if heard.progress is None or not heard.summary:
        raise SystemExit("the log was not understood")
    return lines


def seconds(work: Callable[[Path], int], path: Path) -> float:
    """Processor time of one run: other work on the machine does not count."""
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


def main() -> int:
    """Measure and print; 0 when both limits are kept."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log, small = Path(folder) / "br.log", Path(folder) / "small.log"
        lines = write_log(log, chosen.megabytes * 1_000_000)
        write_log(small, 5_000_000)
        times = [(seconds(count, log), seconds(parse, log)) for _ in range(chosen.rounds)]
        counted, parsed = (statistics.median(column) for column in zip(*times, strict=True))
        memory, flat = peak(log) if chosen.megabytes <= 20 else peak(small), peak(small)
    ratio = parsed / counted
    sys.stdout.write(
        f"{lines:,} lines, {chosen.megabytes} MB: counting {counted:.2f} s, parsing {parsed:.2f} s, "
        f"ratio {ratio:.2f} (limit {LIMITS['ratio']}), memory {max(memory, flat):.2f} MB (limit {LIMITS['megabytes']})\n"
    )
    return 0 if ratio <= LIMITS["ratio"] and max(memory, flat) <= LIMITS["megabytes"] else 1


if __name__ == "__main__":
    sys.exit(main())
