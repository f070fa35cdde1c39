"""The end of a run: one budget, divided among its parts."""

import itertools
import math
import threading
from dataclasses import dataclass

import pytest

from backup_manager.errors import RunInterruptedError
from backup_manager.signals import End, StopSignal
from crds.contract import names


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_budget_starts_with_the_signal_and_every_part_ends_before_the_next() -> None:
    clock = Clock()
    stop = StopSignal(grace=60, clock=clock)
    assert {stop.left(part) for part in End} == {math.inf}
    clock.now += 1000
    stop.terminate()
    lefts = [stop.left(part) for part in End]
    assert lefts == [30, 45, 48, pytest.approx(58.2)]
    clock.now += 40
    stop.terminate()  # a second signal gives no second budget
    assert [stop.left(part) for part in End] == [0, 5, 8, pytest.approx(18.2)]


def test_each_part_of_the_end_has_time_and_all_end_before_the_kill() -> None:
    shares = [part.value for part in End]
    assert shares == sorted(shares)
    assert all(after > before for before, after in itertools.pairwise(shares))
    assert shares[-1] < 1
    assert (1 - End.RECORD.value) * names.GRACE_SECONDS >= 10, "the outcome is stored over a slow API server"
    assert (End.RESTORE.value - End.TOOL.value) * names.GRACE_SECONDS >= 10, "a connection to the database and a query"


def test_an_end_that_nobody_kills_has_no_limit() -> None:
    stop = StopSignal(clock=Clock())
    stop.request()
    assert stop.left(End.TOOL) == math.inf
    stop.terminate()
    assert stop.left(End.TOOL) == 30


@pytest.mark.parametrize(
    ("text", "grace"), [("30", 30), ("", 60), ("x", 60), ("-5", 60), ("0", 60), ("inf", 60), ("nan", 60), (None, 60)]
)
def test_the_grace_period_is_the_pods(text: str | None, grace: float) -> None:
    stop = StopSignal.of({} if text is None else {names.ENV_GRACE: text})
    assert stop.grace == grace


def test_a_late_end_is_noticed_and_one_in_time_is_not() -> None:
    clock, late = Clock(), list[str]()
    stop = StopSignal(grace=60, clock=clock)
    with stop.guarded(End.RECORD, lambda: late.append("first")):
        pass
    with stop.guarded(End.RECORD, lambda: late.append("second")):
        clock.now += 60
        stop._started = 100.0  # the signal came a minute ago
        for watch in stop._guards:
            watch()
    assert late == ["second"]


def test_the_thread_of_the_signal_waits_for_the_end_of_the_body() -> None:
    stop, late = StopSignal(grace=3600), list[str]()
    ended = threading.Event()

    def signalled() -> None:
        stop.terminate()
        ended.set()

    with stop.guarded(End.RECORD, lambda: late.append("late")):
        threading.Thread(target=signalled).start()
        with pytest.raises(RunInterruptedError):
            stop.wait(3600)
        assert not ended.is_set()
    assert ended.wait(30)
    assert late == []
