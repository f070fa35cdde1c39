"""``plan()`` against a slow reading of the same rules, and against the clock."""

from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.config import Config
from app.domain.retention import Item, Policy, Rule, State, plan
from app.domain.schedule_spec import read
from tests.support import keep_oracle
from tests.support.schedules import BR, NOW, backup

RULES = st.fixed_dictionaries(
    {"minKeep": st.integers(1, 4)},
    optional={
        **{
            rule: st.integers(1, 6)
            for rule in ("keepLast", "keepHourly", "keepDaily", "keepWeekly", "keepMonthly", "keepYearly")
        },
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


def _hundred_thousand(count: int = 100_000) -> list[Item]:
    times = [datetime(2026, 1, 31, tzinfo=UTC) - number * timedelta(minutes=7) for number in range(count)]
    return [Item(f"b{number}", State.COMPLETE, time, time, time) for number, time in enumerate(times)]


def test_a_hundred_thousand_in_half_a_second() -> None:
    items = _hundred_thousand()
    policies = [
        Policy(max_backups=50_000),
        Policy(max_reserved_time=timedelta(days=30)),
        Policy(counts={Rule.KEEP_HOURLY: 24, Rule.KEEP_DAILY: 7, Rule.KEEP_MONTHLY: 12, Rule.KEEP_YEARLY: 10}),
    ]
    for policy in policies:
        began = process_time()
        plan(items, policy, NOW)
        # The bound is 0.5 s; twice that leaves room for a machine that runs other tests too.
        assert process_time() - began < 1.0
