"""Processes are known by pid and start time, and stopped by them alone."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.patience import until
from sandbox.processes import Recorded, spawn, start_time, stop, tail, wait_ready

SLEEPER = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(3600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(3600)",
]


def start(tmp_path: Path, argv: list[str]) -> Recorded:
    return spawn("it", argv, log=tmp_path / "it.log", cwd=tmp_path, env=dict(os.environ))


def alive(process: Recorded) -> bool:
    """As a call, so that a type checker does not take the answer for a constant."""
    return process.alive


def test_start_record_and_stop(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEPER)
    process.save(tmp_path / "it.json")
    assert Recorded.load(tmp_path / "it.json") == process
    assert alive(process)
    stop([process])
    assert start_time(process.pid) == 0


def test_a_deaf_process_is_killed_after_the_grace(tmp_path: Path) -> None:
    process = start(tmp_path, DEAF)
    wait_ready(process, lambda: "deaf" in process.tail(), what="it is deaf")
    stop([process], grace=0.2)
    assert not alive(process)


def test_another_process_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEPER)
    namesake = replace(process, started=process.started - 1)
    assert not alive(namesake)
    stop([namesake])
    namesake.kill(signal.SIGKILL)
    assert alive(process)
    stop([process])


def test_ready_in_time_dead_or_late(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEPER)
    wait_ready(process, lambda: "hello" in process.tail(), what="it said hello")
    with pytest.raises(SandboxError, match=r"(?s)it: it flew: not so after 0.1 s.*hello"):
        wait_ready(process, lambda: False, limit=0.1, what="it flew")
    with pytest.raises(SandboxError, match=r"(?s)it: it flew: not so for 0.3 s nothing moved.*hello"):
        wait_ready(process, lambda: False, stalled=0.3, what="it flew")
    stop([process])
    with pytest.raises(SandboxError, match=r"(?s)it ended before it was ready \(it flew\).*hello"):
        wait_ready(process, lambda: False, what="it flew")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="it does not start: /no/such/program"):
        start(tmp_path, ["/no/such/program"])


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    record = Recorded.of("it", child.pid, Path("/dev/null"))
    until(lambda: not alive(record), "it ended")
    child.returncode = 0


def test_broken_records_are_none(tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text("{")
    assert Recorded.load(tmp_path / "it.json") is None
    assert Recorded.load(tmp_path / "absent.json") is None


def test_tail(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(100)))
    assert tail(tmp_path / "log", 2) == "    98\n    99"
    assert tail(tmp_path / "absent") == "    (its log is empty)"
