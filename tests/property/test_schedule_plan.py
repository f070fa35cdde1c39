"""``plan()`` against a slow reading of the same rules, and how its work grows with the number of Backups."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.config import Config
from app.domain.observed import Object
from app.domain.schedule import children as scheduled
from app.domain.schedule import log as schedule_log
from app.domain.schedule.retention import Item, Policy, Rule, State, plan
from app.domain.schedule.spec import read
from tests.support import keep_oracle
from tests.support.schedules import BR, CREATED, LOG, NOW, backup, log_backup, observed, schedule

BUCKETS = ("keepLast", "keepHourly", "keepDaily", "keepWeekly", "keepMonthly", "keepYearly")
RULES = st.fixed_dictionaries(
    {"minKeep": st.integers(1, 4)},
    optional={
        **{rule: st.integers(1, 6) for rule in BUCKETS},
        "keepWithin": st.sampled_from(["2h", "5d", "6w"]),
    },
).filter(lambda rules: len(rules) > 1)
POLICIES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.integers(1, 8).map(lambda count: {"maxBackups": count}),
    st.integers(1, 3000).map(lambda hours: {"maxReservedTime": f"{hours}h"}),
    RULES.map(lambda rules: {"retention": rules}),
)
AGES = st.lists(st.integers(0, 60 * 24 * 800), min_size=1, max_size=40, unique=True)
ZONES = st.sampled_from(["UTC", "America/St_Johns", "Pacific/Auckland"])


@given(policy=POLICIES, minutes=AGES, zone=ZONES)
@settings(max_examples=400, deadline=None)
def test_keeps_exactly_what_a_rule_wants(policy: dict[str, Any], minutes: list[int], zone: str) -> None:
    spec = {"schedule": "* * * * *", "backupTemplate": BR, "timeZone": zone, **policy}
    slots = [NOW - timedelta(minutes=age) for age in sorted(minutes)]
    items = [Item(f"b{slot:%Y%m%d%H%M}", State.COMPLETE, slot, slot, slot) for slot in slots]
    kept = {
        verdict.name
        for verdict in plan(items, read(spec, created=NOW, config=Config(max_deletions=99)).policy, NOW)
        if verdict.keep
    }
    complete = [backup(slot, name=item.name) for slot, item in zip(slots, items, strict=True)]
    assert kept == keep_oracle.must_stay(keep_oracle.Policy.of(spec), complete, NOW)


SETS = 10_000
FATES = ("Complete", "Complete", "Complete", "Failed", "Running")


def _random_spec(draw: Random) -> dict[str, Any]:
    """Every style of retention, beside a log backup or not."""
    few = partial(draw.randint, 1, 6)
    styles: list[dict[str, Any]] = [
        {"maxBackups": few()},
        {"maxReservedTime": f"{draw.randint(1, 2000)}h"},
        {"retention": {"minKeep": few(), draw.choice(BUCKETS): few(), draw.choice(BUCKETS): few()}},
        {"retention": {"keepWithin": draw.choice(["2h", "5d", "6w"]), "minKeep": few()}},
    ]
    log = {"logBackupTemplate": LOG} if draw.random() < 0.5 else {}
    zone = draw.choice(["UTC", "America/St_Johns", "Pacific/Auckland"])
    failed = draw.randint(0, 3)
    spec = {"schedule": "* * * * *", "backupTemplate": BR, "timeZone": zone, "failedHistoryLimit": failed}
    return {**spec, **log, **draw.choice(styles)}


def _random_backups(draw: Random) -> list[Object]:
    """Complete, failed and running ones of any age, and a log backup or none."""
    ages = draw.sample(range(60 * 24 * 100), draw.randint(0, 12))
    children: list[Object] = [backup(NOW - timedelta(minutes=age), draw.choice(FATES)) for age in ages]
    if draw.random() < 0.5:
        start = NOW - timedelta(days=draw.randint(1, 90))
        children.append(log_backup(start, start + timedelta(minutes=draw.randint(1, 60 * 24 * 90))))
    return children


def test_ten_thousand_sets_without_a_wrong_deletion(record_property: Callable[[str, object], None]) -> None:
    """:func:`plan` decides as the hook asks it; the oracle, which shares no code with it, says what had to stay: ``minKeep``,
    the base of the window, what runs, the log backup."""
    draw, gone, config = Random(5), 0, Config(max_deletions=99)
    for number in range(SETS):
        if number % 10 == 0:  # reading a spec takes longer than all the rest
            spec = _random_spec(draw)
            oracle, policy = keep_oracle.Policy.of(spec), read(spec, created=CREATED, config=config).policy
        children = _random_backups(draw)
        found = scheduled.read(observed(schedule(spec), children), epoch=CREATED)
        log = schedule_log.read(found)
        beside = replace(policy, pitr=True, checkpoint=log.reached) if log else policy
        drops = [verdict.name for verdict in plan(found.items, beside, NOW) if not verdict.keep]
        try:
            keep_oracle.check_deletions(oracle, children, drops, NOW, limit=99)
        except AssertionError as error:
            raise AssertionError(f"set {number}: {error}: {spec}") from None
        complete = {str(child["metadata"]["name"]) for child in children if child["status"].get("phase") == "Complete"}
        assert len(complete - set(drops)) >= min(oracle.min_keep, len(complete)), f"set {number}: {spec}"
        gone += len(drops)
    record_property("worlds", SETS)
    assert gone > SETS


class _Steps:
    """Counts what :func:`plan` does: every call, in Python or in C, and every look at a time or at a name."""

    def __init__(self) -> None:
        self.taken = 0

    def counted(self, base: type, *more: str) -> type:
        """A subclass of *base* whose comparisons count, and its methods *more*."""

        def counting(name: str) -> Callable[..., Any]:
            original = getattr(base, name)

            def method(*args: Any) -> Any:
                self.taken += 1
                return original(*args)

            return method

        named = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__hash__", *more)
        return type(f"Counted{base.__name__}", (base,), {name: counting(name) for name in named})

    def of_plan(self, policy: Policy, count: int) -> int:
        """The steps of one plan of *count* Backups, which come in no order."""
        moment, text = self.counted(datetime), self.counted(str, "__contains__")
        newest = moment(2026, 1, 31, tzinfo=UTC)
        times = [newest - number * timedelta(minutes=7) for number in range(count)]
        items = [Item(text(f"b{number}"), State.COMPLETE, time, time, time) for number, time in enumerate(times)]
        Random(count).shuffle(items)
        self.taken = 0

        def call(_frame: object, event: str, _arg: object) -> None:
            self.taken += event in {"call", "c_call"}

        before = sys.getprofile()
        sys.setprofile(call)
        try:
            plan(items, policy, NOW)
        finally:
            sys.setprofile(before)
        return self.taken


@pytest.mark.parametrize(
    "policy",
    [
        Policy(max_backups=50_000),
        Policy(max_backups=300, max_deletions=10),
        Policy(max_reserved_time=timedelta(days=3), pitr=True),
        Policy(counts={Rule.KEEP_HOURLY: 2400, Rule.KEEP_DAILY: 700, Rule.KEEP_MONTHLY: 12, Rule.KEEP_YEARLY: 10}),
        Policy(within=timedelta(days=20), min_keep=400),
    ],
    ids=["all", "count", "time", "buckets", "within"],
)
def test_ten_times_the_backups_are_ten_times_the_work(policy: Policy) -> None:
    """Sorting takes n * log n looks, everything else a few for each Backup. ``benchmarks/bench_plan.py`` measures seconds."""
    tenth, whole = (_Steps().of_plan(policy, count) for count in (500, 5_000))
    assert 500 * 2 < tenth < 500 * 80, "counted"
    assert whole < 15 * tenth, f"{whole:,} steps for 5,000, {tenth:,} for 500"
