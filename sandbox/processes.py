"""Start, watch and stop the sandbox's own processes, and never anybody else's.

A process is known by its pid *and* its start time in clock ticks: a pid alone may by now be another program's. Linux only,
as the rest of the sandbox (``/proc``, namespaces).
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from sandbox.errors import SandboxError
from sandbox.patience import PATIENCE, STALLED, STARTS, Deadline, signs_of_life

TAIL_LINES = 15
"""So many last lines of a log are quoted when its process dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One process as written down: enough to find it again from another process, and to be sure that it is the same."""

    name: str
    pid: int
    started: int
    log: str

    @classmethod
    def of(cls, name: str, pid: int, log: Path) -> Self:
        """Record the running process *pid*."""
        return cls(name=name, pid=pid, started=start_time(pid), log=str(log))

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read a record, or None when there is none or it is broken."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write the record; readers see the old one or the new one, never a half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(path)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs. A zombie does not, and a zombie child of ours is reaped on the way."""
        if self.started != 0 and start_time(self.pid) == self.started:
            return True
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return False

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def tail(self) -> str:
        """The last lines of its log, indented."""
        return tail(Path(self.log))


def start_time(pid: int) -> int:
    """Start of process *pid* in clock ticks since boot; 0 when it does not run (any more)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *rest = text.rpartition(")")[2].split()
    return 0 if state in {"Z", "X"} else int(rest[18])


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a file, indented by four; a note when there are none."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 32_768))
            text = handle.read().decode(errors="replace")
    except OSError:
        text = ""
    kept = text.splitlines()[-lines:]
    return "\n".join(f"    {line[:400]}" for line in kept) or "    (its log is empty)"


def spawn(name: str, argv: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str]) -> Recorded:
    """Start *argv* in its own session, its output going to *log*. Raises SandboxError when it cannot even start."""
    log.parent.mkdir(parents=True, exist_ok=True)
    cwd.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                argv, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise SandboxError(
                f"{name} does not start: {argv[0]}: {error.strerror}; build the tools with 'make tools'"
            ) from error
    recorded = Recorded.of(name, process.pid, log)
    process.returncode = 0  # we look after it by pid; without this Popen warns when it is collected
    return recorded


def stop(processes: Iterable[Recorded], *, grace: float = 10.0) -> None:
    """SIGTERM to all at once, then SIGKILL to whoever is left after *grace* seconds; returns when all are gone."""
    waiting = [process for process in processes if process.alive]
    for process in waiting:
        process.kill(signal.SIGTERM)
    if not _gone(waiting, grace):
        for process in waiting:
            process.kill(signal.SIGKILL)
        _gone(waiting, 5.0)


def _gone(processes: Sequence[Recorded], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class EndedEarlyError(SandboxError):
    """A server ended before it was ready."""


def wait_ready(
    process: Recorded, ready: Callable[[], bool], *, what: str, limit: float = PATIENCE, stalled: float = STALLED
) -> None:
    """Wait until *ready* says yes, for as long as the process shows signs of life, *limit* seconds at most.

    Raises EndedEarlyError when it ends before, SandboxError when the time is over; both quote its last log lines.
    """
    deadline = Deadline(limit=limit, stalled=stalled)
    while not ready():
        if not process.alive:
            raise EndedEarlyError(
                f"{process.name} ended before it was ready ({what}); {process.log} ends with:\n{process.tail()}"
            )
        deadline.progress(signs_of_life(process.pid, Path(process.log)))
        if over := deadline.over:
            raise SandboxError(f"{process.name}: {what}: not so {over}; {process.log} ends with:\n{process.tail()}")
        time.sleep(deadline.pause(0.03))


def start_ready(
    name: str,
    argv: Sequence[str],
    ready: Callable[[], bool],
    *,
    what: str,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    started: Callable[[Recorded], None] = lambda _: None,
) -> Recorded:
    """Start *argv* and wait until it is ready; *started* sees each process that was made for it.

    One that ends before is started again, :data:`STARTS` times in all: on a machine that is slow at that moment kube-apiserver
    gives up after 30 s when it could not write its first roles, and goes on from there at its next start. Raises SandboxError.
    """
    for left in reversed(range(STARTS)):
        process = spawn(name, argv, log=log, cwd=cwd, env=env)
        started(process)
        try:
            wait_ready(process, ready, what=what)
            break
        except EndedEarlyError:
            if not left:
                raise
        except BaseException:
            stop([process])
            raise
    return process
