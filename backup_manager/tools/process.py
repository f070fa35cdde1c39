"""The one place that runs a tool: its own process group, both pipes read at once, signals forwarded, secrets masked.

The tool's lines are logged again (masked), and those that the caller selects are handed to it; both a block at a time
(:mod:`backup_manager.log_lines`). Only a bounded tail is kept: a tool that logs for days costs little time and no memory.

SIGTERM to us becomes SIGTERM to the tool's group, and SIGKILL after a grace period, sooner when our own Pod's leaves less
(:class:`backup_manager.signals.End`). When we are killed ourselves, the kernel kills the tool too: a writer must never outlive
the run that answers for it.
"""

import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

from backup_manager import log_lines
from backup_manager.errors import ToolError
from backup_manager.masking import Masker
from backup_manager.signals import TOOL_GRACE_SECONDS, End, StopSignal

_TAIL_LINES: Final = 40
_TAIL_WIDTH: Final = 2000
_DRAIN_SECONDS: Final = 5.0
_DRAIN_SHARE: Final = 1 / 3
"""Of the time that a stopped tool has: for its last lines after its end."""
_PR_SET_PDEATHSIG: Final = 1


class Stream(StrEnum):
    """Which pipe a line came from."""

    OUT = "stdout"
    ERR = "stderr"


LineHandler = Callable[[Stream, str], None]
Selector = Callable[[Stream, bytes], Iterable[bytes]]
"""Which lines of a block (whole lines of one stream) are worth a look."""


def every_line(_stream: Stream, block: bytes) -> Iterable[bytes]:
    """The selector that leaves out nothing."""
    return log_lines.lines(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessResult:
    """How a tool ended. *code* is its exit status, negative for a signal; the tails hold its last lines, masked."""

    code: int
    stopped: bool
    out: tuple[str, ...]
    err: tuple[str, ...]

    @property
    def killed_by(self) -> signal.Signals | None:
        """The signal that ended it, or None."""
        with suppress(ValueError):
            return signal.Signals(-self.code) if self.code < 0 else None
        return None

    @property
    def how(self) -> str:
        """In words."""
        killed = self.killed_by
        if killed is signal.SIGKILL and not self.stopped:
            return "was killed (SIGKILL), most likely for want of memory"
        return f"was ended by {killed.name}" if killed else f"ended with exit status {self.code}"


def find_tool(name: str, folder: str, env: Mapping[str, str]) -> str:
    """The binary *name*: from *folder*, where an init container may have put it, else from PATH. Raises ToolError."""
    copied = Path(folder) / name
    if os.access(copied, os.X_OK) and copied.is_file():
        return str(copied)
    found = shutil.which(name, path=env.get("PATH"))
    if found is None:
        raise ToolError(
            f"{name} is neither in {folder} nor on PATH",
            reason="ToolMissing",
            hint=f"Set spec.toolImage to an image that has /{name}, or use the backup-manager image that brings it.",
        )
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody uses now, for a tool's own status server."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stop: StopSignal,
    mask: Masker,
    log: Callable[[str], None],
    on_line: LineHandler = lambda _stream, _line: None,
    select: Selector = every_line,
    grace: float = TOOL_GRACE_SECONDS,
    cwd: Path | None = None,
) -> ProcessResult:
    """Run *argv* to its end. *on_line* gets each line that *select* picks (unmasked, without its end) from two threads, one
    a stream. *log* gets one line, or several with line ends between them."""
    stop.check()
    tool = Path(argv[0]).name
    log(f"run: {shlex.join(mask.argv(argv))}")
    process = _start(argv, env, cwd)
    outputs = [
        _Output(tool=tool, stream=stream, pipe=pipe, on_line=on_line, select=select, mask=mask, log=log)
        for stream, pipe in ((Stream.OUT, process.stdout), (Stream.ERR, process.stderr))
    ]
    readers = [threading.Thread(target=output.read, name=f"{tool}-{output.stream}", daemon=True) for output in outputs]
    for reader in readers:
        reader.start()
    killers: list[threading.Timer] = []

    def end() -> None:
        patience = min(grace, stop.left(End.TOOL) * (1 - _DRAIN_SHARE))
        log(f"stop: SIGTERM to {tool}, SIGKILL in {patience:.0f} s")
        _signal(process, signal.SIGTERM)
        killer = threading.Timer(patience, _signal, (process, signal.SIGKILL))
        killer.daemon = True
        killers.append(killer)
        killer.start()

    with stop.listen(end):
        code = process.wait()
    for killer in killers:
        killer.cancel()
    _settle(process, readers, stop)
    return ProcessResult(code=code, stopped=stop.requested, out=tuple(outputs[0].tail), err=tuple(outputs[1].tail))


def _start(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603  (argv is a list of ours, no shell reads it)
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  (it makes one system call and nothing else)
        )
    except OSError as error:
        raise ToolError(
            f"{argv[0]} cannot be started: {error.strerror}",
            reason="ToolNotStarted",
            hint="Check that the tool fits this machine's architecture and may be executed.",
        ) from None


_LIBC: Final[Any] = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _settle(process: subprocess.Popen[bytes], readers: Sequence[threading.Thread], stop: StopSignal) -> None:
    """Wait for the last lines; a grandchild that holds a pipe open is ended with its group."""
    _drain(readers, min(_DRAIN_SECONDS, stop.left(End.TOOL) / 2))
    if any(reader.is_alive() for reader in readers):
        _signal(process, signal.SIGKILL)
        _drain(readers, min(_DRAIN_SECONDS, stop.left(End.TOOL)))


def _drain(readers: Sequence[threading.Thread], seconds: float) -> None:
    """Wait for all *readers* together."""
    deadline = time.monotonic() + seconds
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))


@dataclass(slots=True, kw_only=True)
class _Output:
    """One pipe of a tool, read to its end."""

    tool: str
    stream: Stream
    pipe: IO[bytes] | None
    on_line: LineHandler
    select: Selector
    mask: Masker
    log: Callable[[str], None]
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    def read(self) -> None:
        """Log every line, keep the last ones, hand over those that are selected."""
        if self.pipe is None:
            return
        with self.pipe as pipe:
            for block in log_lines.read(pipe.fileno()):
                self._block(block)

    def _block(self, block: bytes) -> None:
        shown = self.mask.block(block.removesuffix(b"\n"), cut=isinstance(block, log_lines.Cut))
        self.log(shown)
        self.tail.extend(line[:_TAIL_WIDTH].rstrip("\r") for line in shown.rsplit("\n", _TAIL_LINES)[-_TAIL_LINES:])
        for line in self.select(self.stream, block):
            try:
                self.on_line(self.stream, line.decode("utf-8", "replace"))
            except Exception as error:  # noqa: BLE001  (a line that we misread must not stop a backup)
                self.log(f"{self.tool}: could not read a line of {self.stream}: {type(error).__name__}")
