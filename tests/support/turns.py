"""What runs at once in one run of the tests: a test with real servers needs one of as many tokens as there are processors,
whatever the number of workers, and a setup that failed is tried once more with all of them, alone.

A token is a file that its holder has locked: one that dies gives it back.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from sandbox.machine import cores

_POLL: Final = 0.05


class Turns:
    """*count* tokens in *folder*, which all workers share. Nobody may wait for a token while it holds one."""

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


def _folder(run: int) -> Path:
    return Path(tempfile.gettempdir()) / f"tidb-backup-turns-{os.getuid()}-{run}"


def of_this_run() -> Turns | None:
    """The tokens that this worker shares with the others of its run; None where it is alone."""
    return Turns(_folder(os.getppid()), cores()) if "PYTEST_XDIST_WORKER" in os.environ else None


def end_of_run() -> None:
    """Remove what the workers of this process shared."""
    shutil.rmtree(_folder(os.getpid()), ignore_errors=True)
