"""What runs at once in one run of the tests, whatever the number of workers: a test with real servers needs a token, bringing
them up another one, of which there are as many as processors; and a setup that failed is tried once more by the test that has
every token of a test, alone.

A token is a file that its holder has locked: one that dies gives it back.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from sandbox.machine import cores, room
from sandbox.processes import start_time

_POLL: Final = 0.05
_FOR_EACH: Final = 2
"""So many tests with servers run for each processor."""
_SANDBOX_GIB: Final = 3.0
"""Memory of a sandbox with its TiDBs, and of the tools that a test runs beside it."""


class Turns:
    """*count* tokens in *folder*, which all workers share. Nobody may wait for one while it holds another of the same."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold one token, as soon as one is free."""
        with ExitStack() as held:
            while not self._take(held):
                time.sleep(_POLL)
            yield

    @contextmanager
    def all(self) -> Iterator[None]:
        """Hold every token, as soon as those who have one are through; nobody gets one before."""
        with ExitStack() as held:
            held.enter_context(self._locked("gate"))
            for number in range(self._count):
                held.enter_context(self._locked(str(number)))
            yield

    def _take(self, held: ExitStack) -> bool:
        with self._locked("gate"):
            for number in range(self._count):
                file = self._open(str(number))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                    continue
                held.enter_context(file)
                return True
        return False

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with self._open(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _open(self, name: str) -> IO[str]:
        return (self._folder / name).open("w")


def workers() -> int:
    """How many tests with real servers may run at once: two for each processor, for they wait more than half of their time;
    fewer where the memory is too small for so many sandboxes."""
    return min(_FOR_EACH * cores(), room(_SANDBOX_GIB))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The tokens of one run: *running* for a test, *starting* for what brings servers up, which takes all the processor time
    that it can get."""

    running: Turns
    starting: Turns


def _folder(run: int) -> Path:
    return Path(tempfile.gettempdir()) / f"tidb-backup-turns-{os.getuid()}-{run}"


def of_this_run() -> Bounds | None:
    """The tokens that this worker shares with the others of its run; None where it is alone."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return None
    folder = _folder(os.getppid())
    # Every worker must count alike, and the memory that is free changes.
    running = min(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), _FOR_EACH * cores())
    return Bounds(running=Turns(folder / "running", running), starting=Turns(folder / "starting", cores()))


def end_of_run() -> None:
    """Remove what the workers of this process shared, and what runs left behind that were killed."""
    for folder in _folder(0).parent.glob(_folder(0).name.removesuffix("0") + "*"):
        run = int(folder.name.rpartition("-")[2])
        if run == os.getpid() or not start_time(run):
            shutil.rmtree(folder, ignore_errors=True)
