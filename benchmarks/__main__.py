"""Run every ``bench_*`` module of this folder in a process of its own, or those named on the command line."""

import subprocess
import sys
from pathlib import Path


def main(wanted: list[str]) -> int:
    """Exit 1 when a benchmark broke; a missed target is printed, not an error."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    chosen = [name for name in found if not wanted or name.removeprefix("bench_") in wanted]
    if not chosen:
        print(f"no such benchmark; there are: {', '.join(name.removeprefix('bench_') for name in found)}")
        return 2
    failed = []
    for name in chosen:
        print(f"\n== {name.removeprefix('bench_')}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nbroken: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
