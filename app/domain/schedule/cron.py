"""When a schedule is due: five-field cron and ``@every``, read as TiDB Operator reads them, in a time zone of their own.

The text is understood as by robfig/cron v1, the parser of TiDB Operator: day of week is 0 to 6, names are allowed, ``N/step``
means ``N-max/step``, and day of month and day of week must *both* match when either was written with ``*`` or ``?`` (a step
after it changes nothing), else *one* of them is enough. What that parser accepts and can never run is refused here.

A slot is a time on the clock of the zone. One that daylight saving skips does not exist; one that it repeats runs once, the
first time. Searching starts from the end that is wanted, so that years of missed slots cost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from crds.contract import durations

_DAY: Final = timedelta(days=1)
_SEARCH_YEARS: Final = 41
"""29 February falls on one given weekday every 28 years, or 40 where a century skips it."""
_LONGEST_MONTH: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class CronError(ValueError):
    """A schedule or zone that cannot work; the text says which field and what to write."""


class Timetable(Protocol):
    """The slots of one schedule."""

    def newest(self, *, after: datetime, now: datetime) -> datetime | None:
        """The last slot later than *after* and not later than *now*."""
        ...

    def following(self, after: datetime) -> datetime:
        """The first slot later than *after*."""
        ...


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEKDAYS),
)
_ZONE_PREFIXES: Final = ("CRON_TZ=", "TZ=")
"""How other cron parsers are told a zone inside the text."""
_DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY: Final = "@every "


def _number(text: str, field: _Field) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + field.low
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise CronError(f"{field.name}: {text!r} is no number" + (f" or name like {field.names[1]}" if field.names else ""))
    return int(text)


def _range(text: str, field: _Field) -> range:
    """The values of one range, ``*``, ``a``, ``a-b``, each with ``/step`` or without."""
    span, slash, step_text = text.partition("/")
    step = _number(step_text, _Field(f"{field.name}, step", 0, 999)) if slash else 1
    low_text, hyphen, high_text = span.partition("-")
    if span in {"*", "?"}:
        low, high = field.low, field.high
    else:
        low = _number(low_text, field)
        high = _number(high_text, field) if hyphen else field.high if slash else low
    if not field.low <= low <= high <= field.high:
        raise CronError(f"{field.name}: {text!r} is not within {field.low}-{field.high}, low end first")
    if step == 0:
        raise CronError(f"{field.name}: step 0 in {text!r} never moves on")
    return range(low, high + 1, step)


def _values(text: str, field: _Field) -> tuple[frozenset[int], bool]:
    """The values of a comma-separated *field*, and whether ``*`` or ``?`` was among them."""
    parts = [part for part in text.split(",") if part]
    if not parts:
        raise CronError(f"{field.name}: {text!r} is empty")
    return frozenset(value for part in parts for value in _range(part, field)), any(part[0] in "*?" for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A five-field expression in *zone*. *both* tells whether day of month and day of week must match together."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both: bool
    zone: ZoneInfo

    def newest(self, *, after: datetime, now: datetime) -> datetime | None:
        """The last slot later than *after* and not later than *now*; searched backwards."""
        local = now.astimezone(self.zone)
        # In the second pass of a repeated hour every slot of that hour has already been: start from its end.
        repeated = local.replace(fold=0).utcoffset(), local.utcoffset()
        if repeated[0] is not None and repeated[1] is not None:
            local += repeated[0] - repeated[1]
        for wall in self._walls(local.replace(fold=0), -1):
            slot = self._slot(wall)
            if slot is not None and slot <= now:
                return slot if slot > after else None
        return None

    def following(self, after: datetime) -> datetime:
        """The first slot later than *after*."""
        start = after.astimezone(self.zone).replace(fold=0, second=0, microsecond=0)
        for wall in self._walls(start, 1):
            slot = self._slot(wall)
            if slot is not None and slot > after:
                return slot
        raise CronError("schedule: no run within 40 years")

    def _slot(self, wall: datetime) -> datetime | None:
        """The moment when the zone's clock shows *wall* for the first time; None where daylight saving skips it."""
        moment = wall.astimezone(UTC)
        # Two times of one zone are compared by what the clock shows.
        return moment if moment.astimezone(self.zone) == wall else None

    def _walls(self, start: datetime, step: int) -> Iterator[datetime]:
        """Every matching minute of the zone's clock from *start* on, later ones (step 1) or earlier ones (step -1)."""
        first = start.date()
        for day in self._days(first, step):
            for hour in self.hours[::step]:
                if day == first and (hour - start.hour) * step < 0:
                    continue
                for minute in self.minutes[::step]:
                    wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
                    if day != first or (wall >= start if step > 0 else wall <= start):
                        yield wall

    def _days(self, day: date, step: int) -> Iterator[date]:
        last = day.year + step * _SEARCH_YEARS
        while day.year != last:
            if day.month not in self.months:
                first = day.replace(day=1)
                day = (first + 32 * _DAY).replace(day=1) if step > 0 else first - _DAY
                continue
            if self._runs_on(day):
                yield day
            day += step * _DAY

    def _runs_on(self, day: date) -> bool:
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (in_month and in_week) if self.both else (in_month or in_week)


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """``@every <duration>``: slots at *anchor* + k * *step*, k from 1. Anchored at the schedule's creation, so that neither a
    restart nor a late run moves them."""

    anchor: datetime
    step: timedelta

    def newest(self, *, after: datetime, now: datetime) -> datetime | None:
        """The last slot later than *after* and not later than *now*; computed."""
        count = (now - self.anchor) // self.step
        slot = self.anchor + count * self.step
        return slot if count > 0 and slot > after else None

    def following(self, after: datetime) -> datetime:
        """The first slot later than *after*."""
        return self.anchor + max((after - self.anchor) // self.step + 1, 1) * self.step


def zone(name: str) -> ZoneInfo:
    """The IANA zone *name*; the empty name is UTC. Raises CronError.

    >>> zone("Asia/Shanghai").key
    'Asia/Shanghai'
    """
    if name.startswith(("right/", "posix/")) or name.lower() in {"local", "localtime", "posixrules"}:
        raise CronError(f"time zone {name!r} depends on the machine; write an IANA name like Asia/Shanghai")
    try:
        return ZoneInfo(name or "UTC")
    except (OSError, ValueError, LookupError):
        raise CronError(f"time zone {name!r} is unknown; write an IANA name like Asia/Shanghai") from None


def parse(text: str, *, anchor: datetime, tz: ZoneInfo) -> Timetable:
    """The timetable that *text* means in *tz*; *anchor* is where ``@every`` counts from. Raises CronError.

    >>> when = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    >>> parse("30 2 * * mon-fri", anchor=when, tz=zone("Asia/Tokyo")).following(when).isoformat()
    '2026-02-01T17:30:00+00:00'
    """
    prefix, _, rest = text.strip().partition(" ")
    if prefix.startswith(_ZONE_PREFIXES):
        named = prefix.partition("=")[2]
        raise CronError(f"{text!r} names a time zone; write spec.timeZone: {named!r} and spec.schedule: {rest.strip()!r}")
    if text.startswith(_EVERY):
        try:
            step = durations.parse(text.removeprefix(_EVERY).strip())
        except durations.DurationError as error:
            raise CronError(f"@every: {error}") from None
        if step < timedelta(seconds=1):
            raise CronError(f"{text!r}: the interval must be at least 1s")
        return Every(anchor=anchor, step=timedelta(seconds=step // timedelta(seconds=1)))
    if text.startswith("@") and text not in _DESCRIPTORS:
        raise CronError(f"{text!r} is unknown; write one of {', '.join(_DESCRIPTORS)}, @every <duration>")
    fields = _DESCRIPTORS.get(text, text).split()
    if len(fields) != len(_FIELDS):
        raise CronError(f"{text!r} has {len(fields)} fields; write 5: minute hour day-of-month month day-of-week")
    values, stars = zip(*(_values(part, field) for part, field in zip(fields, _FIELDS, strict=True)), strict=True)
    minutes, hours, days, months, weekdays = values
    both = stars[2] or stars[4]
    if both and not any(day <= _LONGEST_MONTH[month - 1] for month in months for day in days):
        raise CronError(f"{text!r} never runs: none of its months has such a day")
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days,
        months=months,
        weekdays=weekdays,
        both=both,
        zone=tz,
    )


def upcoming(timetable: Timetable, after: datetime) -> Iterator[datetime]:
    """Every slot later than *after*, one by one."""
    while True:
        after = timetable.following(after)
        yield after


def interval(timetable: Timetable, now: datetime, slots: int = 8) -> timedelta:
    """The longest wait between two of the next *slots*: how long no run is no cause for alarm.

    >>> noon = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    >>> interval(parse("0 2 * * 1-5", anchor=noon, tz=zone("")), noon).days
    3
    """
    times = list(islice(upcoming(timetable, now), slots))
    return max((later - earlier for earlier, later in pairwise(times)), default=timedelta(0))
