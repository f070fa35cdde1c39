"""Random histories of a schedule, with a movable clock: no run twice, none out of order, no wrong deletion, and it settles.

``SCHEDULE_HISTORIES=10000 pytest tests/property/test_schedule_world.py`` runs more; with -s it prints what was run.
"""

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.domain.schedule.clock import TOLERANCE
from app.domain.schedule.cron import upcoming
from app.domain.schedule.spec import read
from app.domain.times import moment
from crds.contract import names
from tests.support.schedule_world import CONFIG, LOG_NAME, World
from tests.support.schedules import BR, CREATED, LOG

HISTORIES = int(os.environ.get("SCHEDULE_HISTORIES", "150"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
SEEN: Counter[str] = Counter()

ZONES = st.sampled_from([None, "America/New_York", "Europe/Dublin", "Australia/Lord_Howe", "Asia/Tokyo", "Africa/Casablanca"])
CRONS = st.sampled_from(
    ["0 2 * * *", "30 1 * * *", "*/30 * * * *", "@hourly", "0 0 29 2 *", "@every 20s", "@every 7h", "0 9 * * 1-5", "@weekly"]
)
POLICIES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.integers(1, 5).map(lambda count: {"maxBackups": count}),
    st.sampled_from(["1s", "30m", "23h", "71h", "720h"]).map(lambda span: {"maxReservedTime": span}),
    st.fixed_dictionaries(
        {},
        optional={
            **{rule: st.integers(1, 4) for rule in ("keepLast", "keepHourly", "keepDaily", "keepWeekly", "keepMonthly")},
            "keepYearly": st.integers(1, 2),
            "keepWithin": st.sampled_from(["1h", "3d", "2w"]),
        },
    )
    .filter(bool)
    .flatmap(lambda rules: st.integers(1, 3).map(lambda floor: {"retention": {**rules, "minKeep": floor}})),
)
SPECS = st.builds(
    lambda cron, zone, policy, more: {
        "schedule": cron,
        "backupTemplate": BR,
        **({"timeZone": zone} if zone else {}),
        **policy,
        **more,
    },
    CRONS,
    ZONES,
    POLICIES,
    st.fixed_dictionaries(
        {},
        optional={
            "runImmediately": st.just(True),
            "concurrencyPolicy": st.sampled_from(["Forbid", "Allow"]),
            "startingDeadlineSeconds": st.sampled_from([1, 600, 86400]),
            "failedHistoryLimit": st.integers(0, 2),
            "logBackupTemplate": st.just(LOG),
        },
    ),
)
LAGS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("sync"), LAGS, LAGS),
    st.tuples(st.just("sync"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(["answer lost", "status write lost"]), LAGS, LAGS),
    st.tuples(st.just("as usual"), st.integers(2, 9), st.sampled_from(["Complete", "Complete", "Failed"])),
    st.tuples(st.just("as usual"), st.integers(2, 9), st.just("Complete")),
    st.tuples(st.just("complete"), st.booleans()),
    st.tuples(st.just("fail")),
    st.tuples(st.just("log")),
    st.tuples(st.just("wait"), st.integers(1, 86400 * 40)),
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 60, 1800, 3600, 86400, 86400 * 31, 86400 * 366, 86400 * 3653])),
    st.tuples(st.just("clock"), st.sampled_from([0, 0, 0, -1, -3600, -86400, -86400 * 400, 1, 300, 3600, 86400, 86400 * 400])),
    st.tuples(st.just("clock"), st.integers(-86400 * 400, 86400 * 400)),
    st.tuples(st.just("jump"), st.integers(-86400 * 400, 86400 * 400), st.integers(1, 3)),
    st.tuples(st.just("times"), CRONS, ZONES),
    st.tuples(st.just("copy"), st.integers(0, 9), st.sampled_from(["before-upgrade", "nightly-copy", "log-copy"])),
    st.tuples(st.just("copy of a run"), st.integers(0, 9), st.integers(1, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("lose status")),
)


def play(world: World, step: tuple[Any, ...]) -> None:
    """One step of a history."""
    match step:
        case "sync", parent_lag, children_lag:
            world.sync(parent_lag=parent_lag, children_lag=children_lag)
        case "answer lost", parent_lag, children_lag:
            world.sync(parent_lag=parent_lag, children_lag=children_lag, lost=True)
        case "status write lost", parent_lag, children_lag:
            world.sync(parent_lag=parent_lag, children_lag=children_lag, status_lost=True)
        case "as usual", rounds, phase:
            for _ in range(rounds):
                as_usual(world, phase)
        case "complete" | "fail", *rest:
            for name in world.running()[:1]:
                world.end(name, phase="Complete" if step[0] == "complete" else "Failed", without_commit=rest == [True])
        case ("log",):
            world.log_advances()
        case "wait", seconds:
            world.now += timedelta(seconds=seconds)
        case "clock" | "jump", seconds, *passes:
            set_clock(world, timedelta(seconds=seconds), passes)
        case _:
            people(world, step)


def set_clock(world: World, skew: timedelta, passes: list[int]) -> None:
    """The hook's clock jumps, for good or for so many passes."""
    before, world.skew = world.skew, skew
    for _ in range(passes[0] if passes else 0):
        world.sync()
    if passes:
        world.skew = before


def copy_of_a_run(world: World, number: int, count: int, *, hidden: bool, edited: bool) -> None:
    """Somebody takes the name of a run that is still to come, well before it comes."""
    timetable = read(world.spec, created=CREATED, config=CONFIG).timetable
    slot = list(islice(upcoming(timetable, world.now + 2 * TOLERANCE), count))[-1]
    world.copy_backup(number, names.slot_backup("nightly", slot), hidden=hidden, slot=slot if edited else None)


def as_usual(world: World, phase: str) -> None:
    """Time goes on to the next slot, and its run ends before the one after."""
    due = moment(world.status.get("nextBackupTime")) or world.now + timedelta(hours=1)
    world.now = max(due, world.now)
    world.sync()
    for name in world.running():
        world.end(name, phase=phase)
    world.log_advances()
    world.sync()


def people(world: World, step: tuple[Any, ...]) -> None:
    """What people do."""
    match step:
        case "delete", number:
            snapshots = sorted(own(world))
            if snapshots:
                world.delete_by_hand(snapshots[number % len(snapshots)])
        case "pause", paused:
            world.edit(pause=True if paused else None)
        case "times", cron, zone:
            world.edit(schedule=cron, timeZone=zone)
        case "copy", number, name:
            world.copy_backup(number, name)
        case "copy of a run", number, count, hidden, edited:
            copy_of_a_run(world, number, count, hidden=hidden, edited=edited)
        case ("lose status",):
            world.lose_status()
        case _:
            raise AssertionError(f"no such step: {step}")


@given(spec=SPECS, steps=st.lists(STEPS, min_size=5, max_size=40))
@settings(max_examples=HISTORIES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(0 if HISTORIES > 1000 else 900)
def test_histories(spec: dict[str, Any], steps: list[tuple[Any, ...]]) -> None:
    world = World(spec=spec)
    for step in steps:
        play(world, step)
        assert len(world.runs) == len(set(world.runs)), f"made twice: {Counter(world.runs).most_common(1)}"
    settle(world)
    SEEN.update(histories=1, passes=world.passes, runs=len(world.runs), deletions=world.deleted)


def slot_of(name: str) -> Any:
    slot = names.slot_time(name)
    assert slot is not None
    return slot


def snapshot(world: World) -> bytes:
    return orjson.dumps([world.status, world.backups])


def settle(world: World) -> None:
    """Left alone, with a clock that is right, a schedule comes to rest, and its status tells what is there."""
    world.skew = timedelta(0)
    world.remove_strangers()
    for _ in range(100):
        before = snapshot(world)
        world.sync()
        for name in world.running():
            world.end(name, phase="Complete")
        if snapshot(world) == before:
            break
    else:
        raise AssertionError(f"never at rest: {world.status}")
    complete = [name for name, backup in world.backups.items() if backup["status"].get("phase") == "Complete"]
    assert world.status["retention"]["kept"] == len(complete)
    newest = max((slot_of(name) for name in own(world)), default=None)
    mark = moment(world.status.get("lastScheduleTime"))
    assert newest is None or (mark is not None and mark >= newest)
    reasons = {item["reason"] for item in world.status.get("conditions") or ()}
    assert not reasons & {"ClockAhead", "ClockBehind"} or mark is None or mark > world.now, world.status
    goes_on(world)


def goes_on(world: World) -> None:
    """Whatever the clock did before: the run after the next one is made on its day."""
    if world.spec.get("pause") or "startingDeadlineSeconds" in world.spec:
        return
    timetable = read(world.spec, created=CREATED, config=CONFIG).timetable
    slot = timetable.following(timetable.following(world.now) + TOLERANCE)
    world.now = slot
    for _ in range(3):
        world.sync()
        for name in world.running():
            world.end(name, phase="Complete")
    assert names.slot_backup("nightly", slot) in world.runs, f"no run at {slot}: {world.status}"


def own(world: World) -> list[str]:
    """Snapshots that the schedule made and that are still there."""
    return [name for name in world.backups if name != LOG_NAME and name not in world.strangers]


def test_what_was_run(record_property: Callable[[str, object], None]) -> None:
    record_property("worlds", SEEN["histories"])
    print(f"\nschedule histories: {dict(SEEN)}")  # noqa: T201 - the counts are the result
    assert SEEN["histories"] >= min(HISTORIES, 50)
    assert SEEN["runs"] > 0
    assert SEEN["deletions"] > 0
