"""Cron as robfig/cron v1 reads it, in a zone, searched from either end."""

import sys
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from croniter import croniter

from app.domain.schedule import cron

NOON = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


def table(text: str, zone: str = "") -> cron.Timetable:
    return cron.parse(text, anchor=NOON, tz=cron.zone(zone))


def next_runs(text: str, count: int, *, zone: str = "", after: datetime = NOON) -> list[str]:
    return [f"{slot:%Y-%m-%dT%H:%M}" for slot in islice(cron.upcoming(table(text, zone), after), count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 2 * * *", ["2026-02-01T02:00", "2026-02-02T02:00"]),
        ("*/20 * * * *", ["2026-01-31T12:20", "2026-01-31T12:40"]),
        ("5/20 * * * *", ["2026-01-31T12:05", "2026-01-31T12:25"]),  # N/step means N-max/step
        ("10-30/10 13 * * *", ["2026-01-31T13:10", "2026-01-31T13:20"]),
        ("0 0 ? * sun", ["2026-02-01T00:00", "2026-02-08T00:00"]),
        ("0 0 1 JAN,jul *", ["2026-07-01T00:00", "2027-01-01T00:00"]),
        ("0 0 1,,2 * *", ["2026-02-01T00:00", "2026-02-02T00:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("@yearly", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("@annually", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("@monthly", ["2026-02-01T00:00", "2026-03-01T00:00"]),
        ("@weekly", ["2026-02-01T00:00", "2026-02-08T00:00"]),
        ("@daily", ["2026-02-01T00:00", "2026-02-02T00:00"]),
        ("@midnight", ["2026-02-01T00:00", "2026-02-02T00:00"]),
        ("@hourly", ["2026-01-31T13:00", "2026-01-31T14:00"]),
        ("@every 1h30m", ["2026-01-31T13:30", "2026-01-31T15:00"]),
    ],
)
def test_next_runs(text: str, expected: list[str]) -> None:
    assert next_runs(text, 2) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Both restricted: one of them is enough. 2026-02-13 is the first Friday the 13th, but every Friday counts.
        ("0 0 13 * fri", ["2026-02-06T00:00", "2026-02-13T00:00", "2026-02-20T00:00"]),
        # One of them with a star: both must match, also when a step follows the star.
        ("0 0 13 * *", ["2026-02-13T00:00", "2026-03-13T00:00", "2026-04-13T00:00"]),
        ("0 0 */12 * fri", ["2026-02-13T00:00", "2026-03-13T00:00", "2026-05-01T00:00"]),
    ],
)
def test_day_of_month_and_day_of_week(text: str, expected: list[str]) -> None:
    assert next_runs(text, 3) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("* * * *", "has 4 fields"),
        ("* * * * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("60 * * * *", "minute: '60' is not within 0-59"),
        ("* 24 * * *", "hour: '24'"),
        ("* * 0 * *", "day of month: '0'"),
        ("* * * 13 *", "month: '13'"),
        ("* * * * 7", "day of week: '7' is not within 0-6"),
        ("* * * foo *", "month: 'foo' is no number or name"),
        ("5-1 * * * *", "low end first"),
        ("*/0 * * * *", "step 0"),
        ("1-2-3 * * * *", "minute"),
        ("1/2/3 * * * *", "minute, step"),
        ("-1 * * * *", "minute: '' is no number"),
        ("*-5 * * * *", "minute: '*' is no number"),
        (", * * * *", "minute: ',' is empty"),
        ("²  * * * *", "minute"),
        ("0 0 30 2 *", "never runs"),
        ("0 0 31 4,6,9,11 *", "never runs"),
        ("0 0 30 2 */2", "never runs"),
        ("@fortnightly", "is unknown"),
        ("@reboot", "is unknown"),
        ("@every", "is unknown"),
        ("@every soon", "is no duration"),
        ("@every 0s", "at least 1s"),
        ("@every 999ms", "at least 1s"),
        ("@every -5m", "at least 1s"),
        ("TZ=UTC 0 2 * * *", "write spec.timeZone: 'UTC'"),
    ],
)
def test_refuses(text: str, says: str) -> None:
    with pytest.raises(cron.CronError) as refused:
        table(text)
    assert says in str(refused.value)


@pytest.mark.parametrize("prefix", ["CRON_TZ=", "TZ="])
@pytest.mark.parametrize("times", ["0 2 * * *", "@daily", "@every 1h"])
def test_a_zone_inside_the_text_names_the_field_and_its_value(prefix: str, times: str) -> None:
    with pytest.raises(cron.CronError) as refused:
        cron.parse(f"{prefix}Asia/Tokyo {times}", anchor=datetime(2026, 1, 31, tzinfo=UTC), tz=cron.zone(""))
    assert f"write spec.timeZone: 'Asia/Tokyo' and spec.schedule: {times!r}" in str(refused.value)


def test_an_impossible_day_with_a_weekday_is_possible() -> None:
    assert next_runs("0 0 30 2 1", 2) == ["2026-02-02T00:00", "2026-02-09T00:00"]


@pytest.mark.parametrize(
    "name", ["Mars/Phobos", "../etc/passwd", "Local", "localtime", "right/UTC", "posix/UTC", "America", "a\0b"]
)
def test_refuses_zones(name: str) -> None:
    with pytest.raises(cron.CronError, match="write an IANA name"):
        cron.zone(name)


class TestDaylightSaving:
    """America/New_York: on 2026-03-08 the clock skips 02:00-03:00, on 2026-11-01 it shows 01:00-02:00 twice."""

    def test_a_slot_in_the_gap_is_skipped(self) -> None:
        runs = next_runs("30 2 * * *", 3, zone="America/New_York", after=datetime(2026, 3, 7, tzinfo=UTC))
        assert runs == ["2026-03-07T07:30", "2026-03-09T06:30", "2026-03-10T06:30"]

    def test_a_slot_in_the_fold_runs_once(self) -> None:
        runs = next_runs("30 1 * * *", 3, zone="America/New_York", after=datetime(2026, 10, 31, 12, tzinfo=UTC))
        assert runs == ["2026-11-01T05:30", "2026-11-02T06:30", "2026-11-03T06:30"]

    @pytest.mark.parametrize("minutes", [0, 20, 40, 59])
    def test_the_second_pass_of_the_hour_is_over_before_it_began(self, minutes: int) -> None:
        second_pass = datetime(2026, 11, 1, 6, minutes, tzinfo=UTC)
        zoned = table("*/30 * * * *", "America/New_York")
        assert zoned.newest(after=LONG_AGO, now=second_pass) == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
        assert zoned.following(second_pass) == datetime(2026, 11, 1, 7, 0, tzinfo=UTC)

    def test_a_day_that_a_zone_never_had(self) -> None:
        # Samoa went from 2011-12-29 straight to 2011-12-31.
        runs = next_runs("0 12 * * *", 2, zone="Pacific/Apia", after=datetime(2011, 12, 29, 12, tzinfo=UTC))
        assert runs == ["2011-12-29T22:00", "2011-12-30T22:00"]
        assert [datetime.fromisoformat(f"{run}Z").astimezone(cron.zone("Pacific/Apia")).day for run in runs] == [29, 31]


class TestNewest:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("* * * * *", "2026-01-31T12:00"),
            ("0 2 * * *", "2026-01-31T02:00"),
            ("0 0 29 2 *", "2024-02-29T00:00"),
            ("59 23 31 12 *", "2025-12-31T23:59"),
        ],
    )
    def test_is_the_last_one_however_many_were_missed(self, text: str, expected: str) -> None:
        newest = table(text).newest(after=NOON - timedelta(days=3653), now=NOON)
        assert newest is not None
        assert f"{newest:%Y-%m-%dT%H:%M}" == expected

    def test_is_none_when_the_last_one_is_known(self) -> None:
        assert table("0 2 * * *").newest(after=datetime(2026, 1, 31, 2, tzinfo=UTC), now=NOON) is None
        assert table("0 2 * * *").newest(after=NOON + timedelta(days=3), now=NOON) is None

    def test_includes_the_present(self) -> None:
        slot = datetime(2026, 1, 31, 2, tzinfo=UTC)
        assert table("0 2 * * *").newest(after=LONG_AGO, now=slot) == slot
        assert table("0 2 * * *").following(slot) == slot + timedelta(days=1)

    def test_every_counts_from_its_anchor(self) -> None:
        every = table("@every 45m")
        assert every.newest(after=LONG_AGO, now=NOON + timedelta(minutes=44)) is None
        assert every.newest(after=LONG_AGO, now=NOON + timedelta(minutes=100)) == NOON + timedelta(minutes=90)
        assert every.newest(after=NOON + timedelta(minutes=90), now=NOON + timedelta(minutes=100)) is None
        assert every.following(LONG_AGO) == NOON + timedelta(minutes=45)

    def test_every_drops_fractions_of_a_second(self) -> None:
        assert table("@every 1500ms").following(NOON) == NOON + timedelta(seconds=1)

    @pytest.mark.parametrize("text", ["* * * * *", "@every 1m", "0 0 29 2 *", "0 0 29 2 */3"])
    def test_ten_missed_years_cost_as_much_as_a_missed_week(self, text: str) -> None:
        zoned = table(text, "Europe/Berlin")

        def calls(days: int) -> int:
            """Calls, in Python and in C, of one search that goes back so many days."""
            made = 0

            def count(_frame: object, event: str, _arg: object) -> None:
                nonlocal made
                made += event in {"call", "c_call"}

            before = sys.getprofile()
            sys.setprofile(count)
            try:
                zoned.newest(after=NOON - timedelta(days=days), now=NOON)
            finally:
                sys.setprofile(before)
            return made

        assert calls(3653) == calls(7)


@pytest.mark.parametrize(
    "text", ["*/7 3-5 * * *", "0 0 1,15 * *", "5 4 * * 0", "0 22 * * 1-5", "23 0-20/2 * * *", "0 0 13 * 5", "1 2 29 2 *"]
)
def test_agrees_with_croniter_in_utc(text: str) -> None:
    oracle = croniter(text, NOON)
    expected = [oracle.get_next(datetime) for _ in range(50)]
    assert list(islice(cron.upcoming(table(text), NOON), 50)) == expected


def test_the_longest_wait() -> None:
    assert cron.interval(table("0 9 * * 1-5"), NOON) == timedelta(days=3)
    assert cron.interval(table("@every 20s"), NOON) == timedelta(seconds=20)
