"""The coming runs of schedules: when, what the clock does to them, and what else works on the same TiDB cluster then."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from statistics import median
from typing import Final
from zoneinfo import ZoneInfo

from app.domain.observed import name_of
from app.domain.schedule import cron
from app.domain.times import moment
from cli.formats import age
from cli.schedules import ScheduleView, cluster_of

_UNKNOWN: Final = timedelta(minutes=1)
"""How long a run is taken to last when none was seen yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run; *time* None for a time of the clock that daylight saving skips. *wall* is on the schedule's own clock."""

    subject: ScheduleView
    time: datetime | None
    wall: datetime
    notes: Sequence[str] = field(default_factory=tuple)


def zone_of(subject: ScheduleView) -> ZoneInfo:
    """The clock that the schedule reads."""
    return cron.zone(str(subject.observed.spec.get("timeZone") or ""))


def duration(subject: ScheduleView) -> timedelta | None:
    """How long its complete runs took, the median; None when there are none."""
    taken = []
    for child in subject.observed.all_children():
        status = child.get("status") or {}
        started, ended = moment(status.get("timeStarted")), moment(status.get("timeCompleted"))
        if started and ended and status.get("phase") == "Complete" and status.get("backupSize") is not None:
            taken.append((ended - started).total_seconds())
    return timedelta(seconds=round(median(taken))) if taken else None


def coming(subjects: Sequence[ScheduleView], count: int, *, neighbours: Sequence[ScheduleView]) -> list[Run]:
    """The next *count* runs of *subjects* together, the one that is due now included; *neighbours* are the schedules that they
    may meet on a cluster."""
    runs = [run for subject in subjects if not subject.schedule.pause for run in _of(subject, count, neighbours)]
    runs.sort(key=lambda run: (run.time or run.wall.astimezone(UTC), run.subject.name))
    real = 0
    for index, run in enumerate(runs):
        real += run.time is not None
        if real == count:
            return runs[: index + 1]
    return runs


def _of(subject: ScheduleView, count: int, neighbours: Sequence[ScheduleView]) -> Iterator[Run]:
    zone = zone_of(subject)
    due = subject.due()
    if waiting := due.due or (due.stall.slot if due.stall and due.stall.reason != "DeadlineMissed" else None):
        words = due.stall.message if due.stall else "due now"
        yield Run(subject=subject, time=waiting, wall=waiting.astimezone(zone), notes=(words,))
    times = list(islice(cron.upcoming(subject.timetable, subject.now), count))
    before = subject.now.astimezone(zone).utcoffset()
    for time in times:
        wall = time.astimezone(zone)
        notes = [*_clock(wall, before), *_collisions(subject, time, neighbours)]
        before = wall.utcoffset()
        yield Run(subject=subject, time=time, wall=wall, notes=tuple(notes))
    for wall in _skipped(subject, zone, times[-1]):
        text = "skipped: the clock is put forward over this time"
        yield Run(subject=subject, time=None, wall=wall, notes=(text,))


def _clock(wall: datetime, before: timedelta | None) -> Iterator[str]:
    """What the clock of the zone does around *wall*."""
    if wall.utcoffset() != wall.replace(fold=1).utcoffset():
        yield "this time comes twice on the clock; it runs once, the first time"
    moved = (wall.utcoffset() or timedelta()) - (before or timedelta())
    if before is not None and moved:
        way = ("forward", "earlier") if moved > timedelta() else ("back", "later")
        yield f"the clock was put {way[0]}: {age(abs(moved))} {way[1]} in UTC than the run before"


def _skipped(subject: ScheduleView, zone: ZoneInfo, until: datetime) -> Iterator[datetime]:
    """Times of the timetable that do not exist on the clock of *zone*: the same timetable on a clock without jumps has them."""
    text = str(subject.observed.spec.get("schedule") or "")
    if text.startswith("@every") or zone.key == "UTC":
        return
    even = cron.parse(text, anchor=subject.created, tz=cron.zone(""))
    last = until.astimezone(zone).replace(tzinfo=UTC)
    for face in cron.upcoming(even, subject.now.astimezone(zone).replace(tzinfo=UTC)):
        if face > last:
            return
        wall = face.replace(tzinfo=zone)
        if wall.astimezone(UTC).astimezone(zone) != wall:
            yield wall


def _collisions(subject: ScheduleView, time: datetime, neighbours: Sequence[ScheduleView]) -> Iterator[str]:
    """Runs of other schedules on the same TiDB cluster that this run meets."""
    cluster = cluster_of(subject.observed.parent)
    own = duration(subject) or _UNKNOWN
    for other in neighbours:
        same = other.name == subject.name or not cluster or cluster_of(other.observed.parent) != cluster
        if same or other.schedule.pause:
            continue
        theirs = duration(other) or _UNKNOWN
        if earlier := other.timetable.newest(after=time - theirs, now=time):
            name = name_of(other.observed.parent)
            told = f"with {name}" if earlier == time else f"while {name} of {earlier:%H:%M}Z still runs (takes {age(theirs)})"
            yield f"collides on {cluster}: begins {told}"
        elif (later := other.timetable.following(time)) < time + own:
            name = name_of(other.observed.parent)
            yield f"collides on {cluster}: {name} begins at {later:%H:%M}Z, while it runs ({age(own)})"
