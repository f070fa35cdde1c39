"""All bodies together stay within their bound, and who is slow gives way to who is not."""

import asyncio
from collections.abc import Iterator

import pytest

from app.hooks.request import RequestError
from app.intake import SMALL, Bodies, Share

KIB = 1024


@pytest.fixture
def bodies() -> Bodies:
    return Bodies(1024 * KIB)


def test_what_was_answered_makes_room(bodies: Bodies) -> None:
    for _ in range(10):
        share = Share()
        bodies.add(share, 1000 * KIB, now=0)
        assert bodies.held == 1000 * KIB
        bodies.release(share)
    assert bodies.held == 0


def test_one_too_many_is_told_to_come_back(bodies: Bodies) -> None:
    bodies.add(Share(), 1000 * KIB, now=0)
    with pytest.raises(RequestError, match="does not fit") as caught:
        bodies.add(Share(), 100 * KIB, now=10)
    assert caught.value.status == 503
    assert caught.value.headers == {"Retry-After": "1"}
    assert bodies.held == 1000 * KIB


def test_a_small_one_always_fits(bodies: Bodies) -> None:
    bodies.add(Share(), 1024 * KIB, now=0)
    bodies.add(Share(), SMALL, now=0)
    assert bodies.held == 1024 * KIB


def test_a_body_that_grows_is_counted_from_its_first_byte(bodies: Bodies) -> None:
    share = Share()
    for _ in range(20):
        bodies.add(share, 10 * KIB, now=0)
    assert bodies.held == 200 * KIB


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_the_one_that_stalled_for_longest_gives_way(bodies: Bodies, loop: asyncio.AbstractEventLoop) -> None:
    async def stall(name: str, started: asyncio.Event, now: float) -> str:
        share = Share()
        try:
            async with asyncio.timeout(60) as share.timer:
                bodies.add(share, 500 * KIB, now)
                started.set()
                await asyncio.sleep(30)
        except TimeoutError:
            return name
        return ""

    async def all_of_them() -> tuple[str, int]:
        now = loop.time()
        tasks = []
        for name, age in (("second", 5.0), ("first", 9.0)):
            started = asyncio.Event()
            tasks.append(asyncio.create_task(stall(name, started, now - age)))
            await started.wait()
        bodies.add(Share(), 400 * KIB, now)
        held = bodies.held
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return done.pop().result(), held

    assert loop.run_until_complete(all_of_them()) == ("first", 900 * KIB)
