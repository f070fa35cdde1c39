"""Slots in every zone of the tz database over ten years, and that both ends of the search agree."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import available_timezones

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.schedule import cron

FROM = datetime(2020, 1, 1, tzinfo=UTC)
TO = datetime(2030, 1, 1, tzinfo=UTC)
ZONES = sorted(name for name in available_timezones() if not name.startswith(("posix/", "right/")) and name != "localtime")
WEEK = timedelta(days=7)
QUARTER = timedelta(minutes=15)


def transitions(name: str) -> Iterator[datetime]:
    """About when the offset of a zone changes."""
    zone = cron.zone(name)
    weeks = [FROM + number * WEEK for number in range((TO - FROM) // WEEK + 1)]
    for begin, end in pairwise(weeks):
        before, after = begin.astimezone(zone).utcoffset(), end.astimezone(zone).utcoffset()
        if before is None or after is None or before == after:
            continue
        low, high = begin, end
        while high - low > timedelta(minutes=1):
            middle = low + (high - low) // 2
            low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
        yield high.replace(minute=high.minute // 15 * 15, second=0, microsecond=0)


def test_a_gap_is_skipped_and_a_fold_runs_once_in_every_zone() -> None:
    """Around every change of every zone: each quarter of an hour that the zone's clock showed has exactly one slot, at the
    first time it was shown."""
    checked = 0
    for name in ZONES:
        zone = cron.zone(name)
        quarterly = cron.parse("*/15 * * * *", anchor=FROM, tz=zone)
        for change in transitions(name):
            begin, end = change - timedelta(hours=4), change + timedelta(hours=4)
            moments = [begin + number * QUARTER for number in range(1, (end - begin) // QUARTER + 1)]
            expected = [moment for moment in moments if moment.astimezone(zone).fold == 0]
            assert list(takewhile(lambda slot: slot <= end, cron.upcoming(quarterly, begin))) == expected, name  # noqa: B023
            checked += 1
    assert checked > 1000


FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "*/15", "7,37", "59"]),
    st.sampled_from(["*", "0", "1", "2", "*/6", "1-3", "23"]),
    st.sampled_from(["*", "1", "29", "31", "*/10", "?"]),
    st.sampled_from(["*", "2", "3,11", "1-6"]),
    st.sampled_from(["*", "0", "1-5", "sun", "*/3"]),
).map(" ".join)
MOMENTS = st.datetimes(datetime(1995, 1, 1), datetime(2045, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001


@given(text=FIELDS, name=st.sampled_from(ZONES), now=MOMENTS)
@settings(max_examples=300, deadline=None)
def test_searching_from_either_end_agrees(text: str, name: str, now: datetime) -> None:
    try:
        table = cron.parse(text, anchor=FROM, tz=cron.zone(name))
    except cron.CronError:
        assert text.split()[2] in {"31", "29"}  # an impossible date
        return
    following = table.following(now)
    assert following > now
    newest = table.newest(after=now, now=following)
    assert newest == following
    assert table.newest(after=now, now=following - timedelta(seconds=1)) is None
    assert table.newest(after=following, now=table.following(following)) == table.following(following)


@given(seconds=st.integers(1, 10**7), now=MOMENTS)
@settings(deadline=None)
def test_every_agrees_too(seconds: int, now: datetime) -> None:
    table = cron.Every(anchor=FROM, step=timedelta(seconds=seconds))
    following = table.following(now)
    assert following > max(now, FROM)
    assert (following - FROM) % timedelta(seconds=seconds) == timedelta(0)
    assert table.newest(after=now, now=following) == following
