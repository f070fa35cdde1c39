"""The work queue against client-go's rules."""

import threading

import pytest

from sandbox.patience import PATIENCE
from sandbox.standins.metacontroller.workqueue import BASE_DELAY, MAX_DELAY, WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock)


def test_a_waiting_key_is_not_added_twice(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a")
    assert queue.get(0) == "a"
    queue.done("a")
    assert queue.get(0) is None


def test_a_key_is_never_worked_on_twice_at_once(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.get(0) == "a"
    queue.add("a")
    assert queue.get(0) is None
    queue.done("a")
    assert queue.get(0) == "a"


def test_of_several_delays_the_earliest_counts_once(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 3)
    queue.add_after("a", 20)
    clock.now += 2.9
    assert queue.get(0) is None
    clock.now += 0.2
    assert queue.get(0) == "a"
    queue.done("a")
    clock.now += 100
    assert queue.get(0) is None


def test_a_delay_of_nothing_is_at_once(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0)
    assert queue.get(0) == "a"


def test_retries_double_up_to_the_cap_and_a_success_resets_them(queue: WorkQueue[str], clock: Clock) -> None:
    delays = []
    for _ in range(20):
        delays.append(queue.retry("a"))
        clock.now += 1000  # the bucket over all keys is full again
    assert delays[:4] == [BASE_DELAY, 2 * BASE_DELAY, 4 * BASE_DELAY, 8 * BASE_DELAY]
    assert delays[-1] == MAX_DELAY
    assert queue.failures("a") == 20
    queue.forget("a")
    assert queue.retry("a") == BASE_DELAY


def test_many_failing_keys_share_ten_retries_a_second(queue: WorkQueue[str]) -> None:
    delays = [queue.retry(str(number)) for number in range(130)]
    assert max(delays[:100]) == BASE_DELAY
    assert delays[100] == pytest.approx(0.1)
    assert delays[129] == pytest.approx(3.0)


def test_an_event_bypasses_the_backoff(queue: WorkQueue[str], clock: Clock) -> None:
    for _ in range(15):
        queue.retry("a")
        clock.now += 1000
        queue.get(0)
        queue.done("a")
    queue.retry("a")
    queue.add("a")
    assert queue.get(0) == "a"


def test_closing_wakes_the_workers() -> None:
    queue: WorkQueue[str] = WorkQueue()
    found: list[str | None] = ["unset"]
    worker = threading.Thread(target=lambda: found.append(queue.get()))
    worker.start()
    queue.close()
    worker.join(PATIENCE)
    assert found == ["unset", None]
