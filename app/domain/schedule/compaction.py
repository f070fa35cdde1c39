"""When a schedule compacts its log, and which stretch: reference rules of TiDB Operator, decided from what is observed.

One compaction at a time takes at most three intervals of the log, from where the last complete one ended, at most once an
interval. Its name is the beginning of its stretch, so that a repeated pass asks for the same one; a failed one is repeated
under the next ``-r<n>``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from app.domain.observed import Object, metadata, name_of, part
from app.domain.schedule.children import compaction_name
from app.domain.schedule.log import Log
from app.domain.schedule.spec import Schedule
from app.domain.times import moment
from crds.contract import names, tso

_INTERVALS: Final = 3
_NAME_LAYOUT: Final = "%Y-%m-%dt%H-%M-%S"
TEXT_LAYOUT: Final = "%Y-%m-%d %H:%M:%S"
"""How ``startTs`` and ``endTs`` are written, in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One compaction to be made."""

    name: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Compactions:
    """What was compacted so far: *progress* is where the last complete one ended, *newest* the last one made, *taken* the
    names in use, those of foreign ones too."""

    progress: datetime | None = None
    newest: Object | None = None
    running: bool = False
    taken: frozenset[str] = frozenset()

    @property
    def made(self) -> datetime | None:
        """When the newest one was made."""
        return moment(metadata(self.newest).get("creationTimestamp")) if self.newest else None


def _point(text: object) -> datetime | None:
    try:
        timestamp = tso.parse(text) if isinstance(text, str) else 0
    except ValueError:
        return None
    return tso.to_datetime(timestamp) if timestamp else None


def end_of(compaction: Object) -> datetime | None:
    """Where *compaction* ends; the end it reached counts more than the one it was asked for."""
    return _point(part(compaction, "status").get("endTs")) or _point(part(compaction, "spec").get("endTs"))


def state_of(compaction: Object) -> str:
    """``status.state``."""
    return str(part(compaction, "status").get("state") or "")


def read(
    compactions: Sequence[Object], *, before: datetime | None, log_start: datetime | None, taken: frozenset[str] = frozenset()
) -> Compactions:
    """The state of *compactions*; *before* is the progress known so far, which never goes back, *taken* the names in use."""
    ends = [end_of(item) for item in compactions if state_of(item) == "Complete"]
    known = [end for end in (*ends, before) if end and (log_start is None or end > log_start)]
    newest = max(
        compactions, key=lambda item: (str(metadata(item).get("creationTimestamp") or ""), name_of(item)), default=None
    )
    running = any(state_of(item) not in {"Complete", "Failed"} for item in compactions)
    return Compactions(progress=max(known, default=None), newest=newest, running=running, taken=taken)


def due(schedule: str, spec: Schedule, log: Log, done: Compactions, now: datetime) -> Stretch | None:
    """The stretch that is to be compacted now, if any."""
    span, begin, reached = spec.compaction, log.started, log.reached
    if span is None or begin is None or reached is None or log.deleting or done.running:
        return None
    start = max(time for time in (done.progress or begin, spec.compaction_from) if time)
    if start >= reached or not _rested(done.made, span, now):
        return None
    end = reached if reached - start < _INTERVALS * span else start + _INTERVALS * span
    if end - begin < span:
        return None
    start, end = start.replace(microsecond=0), end.replace(microsecond=0)
    first = f"{compaction_name(schedule)}-{start.strftime(_NAME_LAYOUT)}"
    name = next(name for name in (names.retry(first, attempt) for attempt in count()) if name not in done.taken)
    return Stretch(name=name, start=start, end=end) if end > start else None


def _rested(made: datetime | None, span: timedelta, now: datetime) -> bool:
    return made is None or made + span <= now


def wait(spec: Schedule, done: Compactions, now: datetime) -> timedelta | None:
    """How long until the next compaction may be due; None while nothing but the clock stands against it."""
    if spec.compaction is None or done.made is None or _rested(done.made, spec.compaction, now):
        return None
    return done.made + spec.compaction - now


def text(point: datetime) -> str:
    """*point* as ``startTs`` and ``endTs`` carry it."""
    return point.strftime(TEXT_LAYOUT)


def status(done: Compactions, before: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the schedule's status that compaction owns."""
    return {
        "lastCompact": name_of(done.newest) if done.newest else before.get("lastCompact"),
        "lastCompactProgress": done.progress,
        "lastCompactExecutionTs": done.made or before.get("lastCompactExecutionTs"),
    }
