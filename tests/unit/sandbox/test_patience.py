"""One generous limit, and a server that does something is not given up before it."""

import os
import sys
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.machine import cores, room
from sandbox.patience import PATIENCE, STALLED, STARTS, Deadline, signs_of_life, until
from sandbox.processes import EndedEarlyError, Recorded, start_ready, stop


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_moves_is_waited_for_until_the_limit_and_what_does_not_is_not() -> None:
    clock = Clock()
    deadline = Deadline(limit=100, stalled=10, clock=clock)
    for number in range(10):
        clock.now += 9
        deadline.progress(number)
        assert deadline.over == ""
    clock.now += 9
    deadline.progress(9)  # the same as before
    assert deadline.over == ""
    clock.now += 1
    assert deadline.over == "after 100 s"
    stalled = Deadline(limit=100, stalled=10, clock=clock)
    clock.now += 10
    assert stalled.over == "for 10 s nothing moved"
    assert STALLED < PATIENCE


def test_who_has_waited_for_long_looks_less_often() -> None:
    clock = Clock()
    deadline = Deadline(limit=100, stalled=100, clock=clock)
    assert deadline.pause() == deadline.pause(0.05) == 0.05
    clock.now += 2
    assert deadline.pause() == pytest.approx(0.1)
    assert deadline.pause(0.2) == 0.2
    clock.now += 90
    assert deadline.pause() == 0.25


def test_until_returns_what_it_found_and_names_what_it_did_not() -> None:
    answers = iter([0, "", "here"])
    assert until(lambda: next(answers), "it", poll=0) == "here"
    with pytest.raises(SandboxError, match=r"not so after 0 s: the moon"):
        until(lambda: False, lambda: "the moon", limit=0)


def test_processor_time_and_log_are_signs_of_life(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ticks, size = signs_of_life(os.getpid(), log)
    assert size == 0
    log.write_text("hello")

    def busy() -> bool:
        sum(range(10**5))
        return signs_of_life(os.getpid(), log)[0] > ticks

    until(busy, "a tick", poll=0)
    assert signs_of_life(os.getpid(), log)[1] == 5
    assert signs_of_life(2**30, tmp_path / "absent") == (0, 0)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "1000000000 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_processors_are_those_that_this_process_may_use(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == (expected or len(os.sched_getaffinity(0)))


def test_the_free_memory_bounds_too(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99999999 kB\nMemAvailable: 7340032 kB\n")
    assert [room(each, tmp_path / "meminfo") for each in (3, 8)] == [2, 1]


def server(tmp_path: Path, failures: int) -> tuple[list[Recorded], Path]:
    """Start a server that ends *failures* times before it is ready; every process that was made for it, and its log."""
    script = (
        "import pathlib, sys, time\n"
        "count = pathlib.Path('count'); tries = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(tries)); print('try', tries, flush=True)\n"
        f"if tries <= {failures}: sys.exit(255)\n"
        "print('ready', flush=True); time.sleep(3600)\n"
    )
    made: list[Recorded] = []
    log = tmp_path / "it.log"
    argv = [sys.executable, "-c", script]
    ready = lambda: "ready" in log.read_text()  # noqa: E731
    try:
        start_ready("it", argv, ready, what="it is ready", log=log, cwd=tmp_path, env=dict(os.environ), started=made.append)
    finally:
        stop(made)
    return made, log


def test_a_server_that_ends_before_it_is_ready_is_started_again(tmp_path: Path) -> None:
    made, log = server(tmp_path, failures=STARTS - 1)
    assert len(made) == STARTS
    assert log.read_text().splitlines()[-2:] == [f"try {STARTS}", "ready"]


def test_a_server_that_always_ends_is_an_error_that_quotes_its_log(tmp_path: Path) -> None:
    with pytest.raises(EndedEarlyError, match=rf"(?s)it ended before it was ready \(it is ready\).*try {STARTS}"):
        server(tmp_path, failures=99)
