"""What stays and what goes, rule by rule."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.domain.schedule.retention import Compaction, Item, Policy, Rule, State, Verdict, plan, plan_compactions

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def back(name: str, age: timedelta, state: State = State.COMPLETE, **fields: object) -> Item:
    time = NOW - age
    return Item(name, state, **{"time": time, "slot": time, "created": time, **fields})  # type: ignore[arg-type]


def daily(count: int) -> list[Item]:
    """d1 is a day old, d2 two, ..."""
    return [back(f"d{age}", age * DAY) for age in range(1, count + 1)]


def gone(verdicts: Iterable[Verdict]) -> set[str]:
    return {verdict.name for verdict in verdicts if not verdict.keep}


def of(verdicts: Iterable[Verdict], name: str) -> Verdict:
    return next(verdict for verdict in verdicts if verdict.name == name)


def test_without_a_policy_everything_stays() -> None:
    assert {verdict.rule for verdict in plan(daily(9), Policy(), NOW)} == {Rule.UNLIMITED}


class TestCount:
    def test_keeps_the_newest(self) -> None:
        assert gone(plan(daily(5), Policy(max_backups=3), NOW)) == {"d4", "d5"}

    def test_only_complete_ones_count(self) -> None:
        """Upstream counts failed and running ones, and the log backup, so that a failing streak rotates good ones out."""
        failing = [back(f"f{age}", age * HOUR, State.FAILED) for age in range(1, 9)]
        running = [back("r", HOUR / 2, State.RUNNING)]
        verdicts = plan([*daily(3), *failing, *running], Policy(max_backups=2), NOW)
        assert gone(verdicts) == {"d3", "f6", "f7", "f8"}
        assert of(verdicts, "f8").rule == Rule.FAILED_HISTORY
        assert of(verdicts, "r").rule == Rule.RUNNING

    def test_says_until_when_given_the_coming_runs(self) -> None:
        verdicts = plan(daily(2), Policy(max_backups=3), NOW, coming=lambda number: NOW + number * DAY)
        assert of(verdicts, "d1").until == NOW + 3 * DAY
        assert of(verdicts, "d2").until == NOW + 2 * DAY


class TestTime:
    def test_keeps_the_young(self) -> None:
        verdicts = plan(daily(5), Policy(max_reserved_time=3 * DAY), NOW)
        assert gone(verdicts) == {"d4", "d5"}
        assert of(verdicts, "d2").until == NOW + DAY

    def test_wins_over_the_count(self) -> None:
        assert gone(plan(daily(5), Policy(max_reserved_time=4 * DAY, max_backups=1), NOW)) == {"d5"}

    def test_a_failed_one_between_does_not_stop_it(self) -> None:
        """Upstream stops at the first that is not expired, and takes an empty commitTs for infinitely old."""
        items = [back("old", 9 * DAY), back("failed", 8 * DAY, State.FAILED), back("older", 10 * DAY), back("new", HOUR)]
        assert gone(plan(items, Policy(max_reserved_time=DAY), NOW)) == {"old", "older"}


@pytest.mark.parametrize(
    ("ages", "checkpoint", "expected_gone"),
    [
        # TestCalculateExpiredBackupsWithLogBackup, reserve 24h: the newest one before the window stays as the base.
        ([4, 3, 2, 1], 0, {"d4", "d3", "d2"}),
        ([4, 3, 2, 1], 1, {"d4", "d3"}),
        ([4, 3, 2], 0, {"d4", "d3"}),
        ([3], 0, set()),
        ([4, 3, 0], 0, {"d4"}),
        ([], 0, set()),
    ],
)
def test_the_newest_one_before_the_window_stays_as_pitr_base(ages: list[int], checkpoint: int, expected_gone: set[str]) -> None:
    items = [back(f"d{age}", age * DAY) for age in ages]
    reached = NOW - checkpoint * DAY
    verdicts = plan(items, Policy(max_reserved_time=DAY, pitr=True, checkpoint=reached), NOW)
    assert gone(verdicts) == expected_gone


def test_the_base_is_named() -> None:
    verdicts = plan(daily(4), Policy(max_reserved_time=36 * HOUR, pitr=True, checkpoint=NOW), NOW)
    assert of(verdicts, "d2").rule == Rule.PITR_BASE
    assert gone(verdicts) == {"d3", "d4"}


class TestKeepRules:
    """As restic reads them."""

    def test_daily_keeps_the_newest_of_each_day_that_has_one(self) -> None:
        items = [back("a", HOUR), back("b", 2 * HOUR), back("c", 3 * DAY), back("d", 3 * DAY + HOUR), back("e", 9 * DAY)]
        verdicts = plan(items, Policy(counts={Rule.KEEP_DAILY: 2}), NOW)
        assert gone(verdicts) == {"b", "d", "e"}
        assert of(verdicts, "a").rule == Rule.KEEP_DAILY

    def test_the_oldest_stays_while_the_count_is_not_used_up(self) -> None:
        items = [back("a", HOUR), back("b", 2 * HOUR), back("c", 3 * HOUR)]
        assert gone(plan(items, Policy(counts={Rule.KEEP_DAILY: 2}), NOW)) == {"b"}

    def test_rules_add_up(self) -> None:
        policy = Policy(counts={Rule.KEEP_LAST: 2, Rule.KEEP_WEEKLY: 3, Rule.KEEP_MONTHLY: 2})
        verdicts = plan(daily(60), policy, NOW)
        # Weeks begin on Monday: 2026-01-30 (d1), Sunday 25th (d6), Sunday 18th (d13); months: d1, 2025-12-31 (d31).
        assert {verdict.name: verdict.rule for verdict in verdicts if verdict.keep} == {
            "d1": "keepWeekly+keepMonthly+keepLast",
            "d2": "keepLast",
            "d6": "keepWeekly",
            "d13": "keepWeekly",
            "d31": "keepMonthly",
        }

    def test_a_date_is_promised_only_as_far_as_it_is_known(self) -> None:
        verdicts = plan(daily(10), Policy(counts={Rule.KEEP_DAILY: 3}), NOW)
        # d1 is of the 30th and goes once the 31st, 1st and 2nd have one each.
        assert of(verdicts, "d1").until == datetime(2026, 2, 2, tzinfo=UTC)
        assert of(verdicts, "d3").until == datetime(2026, 1, 31, tzinfo=UTC)

    def test_days_are_those_of_the_zone(self) -> None:
        # 15:00 UTC is midnight in Tokyo.
        items = [back("before", timedelta(hours=21.5)), back("after", timedelta(hours=20.5)), back("next", HOUR)]
        counts = {Rule.KEEP_DAILY: 2}
        assert gone(plan(items, Policy(counts=counts), NOW)) == {"before"}
        assert gone(plan(items, Policy(counts=counts, zone=ZoneInfo("Asia/Tokyo")), NOW)) == {"after"}

    def test_a_late_run_belongs_to_the_night_it_was_due(self) -> None:
        slot = datetime(2026, 1, 30, 23, 59, tzinfo=UTC)
        items = [
            Item("thu", State.COMPLETE, slot - DAY + 2 * HOUR, slot - DAY, slot - DAY),
            Item("fri", State.COMPLETE, slot + 2 * HOUR, slot, slot),
        ]
        assert gone(plan(items, Policy(counts={Rule.KEEP_DAILY: 2}), NOW)) == set()

    def test_within_counts_from_the_newest(self) -> None:
        items = [back(f"d{age}", age * DAY) for age in (10, 11, 12, 13)]
        assert gone(plan(items, Policy(within=2 * DAY), NOW)) == {"d13"}

    def test_a_huge_count_is_no_date(self) -> None:
        verdicts = plan(daily(2), Policy(counts={Rule.KEEP_YEARLY: 2**31 - 1, Rule.KEEP_HOURLY: 2**31 - 1}), NOW)
        assert [verdict.until for verdict in verdicts] == [None, None]


class TestFloorAndHistory:
    def test_min_keep_is_a_floor(self) -> None:
        verdicts = plan(daily(5), Policy(max_reserved_time=HOUR, min_keep=2), NOW)
        assert gone(verdicts) == {"d3", "d4", "d5"}
        assert of(verdicts, "d1").rule == Rule.MIN_KEEP

    def test_the_last_good_one_stays_however_old(self) -> None:
        assert gone(plan([back("only", 400 * DAY)], Policy(max_reserved_time=DAY), NOW)) == set()

    @pytest.mark.parametrize(("limit", "expected"), [(0, {"f1", "f2"}), (1, {"f2"}), (5, set())])
    def test_failures_have_a_history_of_their_own(self, limit: int, expected: set[str]) -> None:
        items = [back("f1", DAY, State.FAILED), back("f2", 2 * DAY, State.FAILED)]
        assert gone(plan(items, Policy(failed_history=limit), NOW)) == expected

    def test_what_is_going_or_strange_is_left_alone(self) -> None:
        items = [back("going", 9 * DAY, State.DELETING), back("strange", 9 * DAY, State.FOREIGN, slot=None), *daily(2)]
        verdicts = plan(items, Policy(max_backups=1), NOW)
        assert of(verdicts, "going").rule == Rule.DELETING
        assert of(verdicts, "strange").keep
        assert gone(verdicts) == {"going", "d2"}


class TestDoubt:
    def test_an_unreadable_item_stops_deletion_and_is_named(self) -> None:
        items = [*daily(5), back("odd", 3 * DAY, problem="status.commitTs 'x' is no TSO")]
        verdicts = plan(items, Policy(max_backups=1), NOW)
        assert gone(verdicts) == set()
        assert of(verdicts, "d5").rule == Rule.UNREADABLE
        assert of(verdicts, "d5").detail == "odd: status.commitTs 'x' is no TSO"

    @pytest.mark.parametrize(
        "ahead",
        [
            back("tomorrow", -DAY),
            back("tomorrow", DAY)._replace(slot=NOW + DAY),
            back("tomorrow", DAY)._replace(created=NOW + DAY),
        ],
    )
    def test_a_clock_that_is_behind_deletes_nothing(self, ahead: Item) -> None:
        items = [*daily(5), ahead]
        verdicts = plan(items, Policy(max_reserved_time=DAY), NOW)
        assert gone(verdicts) == set()
        assert {verdict.rule for verdict in verdicts} >= {Rule.CLOCK}

    def test_a_pass_deletes_so_many_the_oldest_first(self) -> None:
        verdicts = plan(daily(9), Policy(max_backups=1, max_deletions=3), NOW)
        assert gone(verdicts) == {"d9", "d8", "d7"}
        assert of(verdicts, "d2").rule == Rule.NEXT_PASS


class TestCompactions:
    def item(self, age: int, state: State = State.COMPLETE) -> Compaction:
        return Compaction(f"c{age}", state, NOW - age * DAY, NOW - age * DAY)

    def test_by_time(self) -> None:
        items = [self.item(age) for age in (1, 2, 3, 4)]
        assert gone(plan_compactions(items, Policy(max_reserved_time=60 * HOUR), NOW, oldest=None)) == {"c3", "c4"}

    def test_by_count(self) -> None:
        items = [self.item(1), self.item(2, State.FAILED), self.item(3)]
        assert gone(plan_compactions(items, Policy(max_backups=2), NOW, oldest=None)) == {"c3"}

    def test_under_keep_rules_those_behind_the_oldest_backup_go(self) -> None:
        items = [self.item(age) for age in (1, 2, 3)]
        policy = Policy(counts={Rule.KEEP_DAILY: 2})
        assert gone(plan_compactions(items, policy, NOW, oldest=NOW - 2 * DAY)) == {"c3"}
        assert gone(plan_compactions(items, policy, NOW, oldest=None)) == set()

    def test_the_newest_and_running_ones_stay(self) -> None:
        items = [self.item(30), self.item(40, State.RUNNING)]
        assert gone(plan_compactions(items, Policy(max_reserved_time=DAY), NOW, oldest=NOW)) == set()

    def test_a_clock_that_is_behind_deletes_nothing(self) -> None:
        items = [self.item(-1), self.item(30)]
        assert gone(plan_compactions(items, Policy(max_backups=1), NOW, oldest=None)) == set()


def test_same_input_in_any_order_same_plan() -> None:
    items = daily(30)
    policy = Policy(counts={Rule.KEEP_DAILY: 3, Rule.KEEP_WEEKLY: 2})
    assert plan(items, policy, NOW) == plan(list(reversed(items)), policy, NOW)
