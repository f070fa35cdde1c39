"""Which Backups of a schedule stay and which go: :func:`plan`, the only place that decides a deletion.

The hook, the command line and the tests call the same function, so what is shown is what will be done. Only complete Backups
count towards a limit; what runs, and the log backup, is no candidate; failures have a short history of their own. Age is that
of the data (``commitTs``), else of the completion, else of the object.

``keep*`` rules are read as restic reads them: each counts buckets (hours, days, ISO weeks, months, years on the clock of the
schedule's zone) that hold a Backup, newest first, keeps the newest of each, and also the oldest of all while its count is not
used up; ``keepWithin`` counts from the newest Backup; what any rule wants is kept. Anything doubtful keeps everything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

Coming: TypeAlias = Callable[[int], datetime | None]
"""The time of the n-th run from now (1 is the next), where somebody wants to know until when a count will hold."""


class State(StrEnum):
    """What a Backup is to retention."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    DELETING = "deleting"
    FOREIGN = "foreign"
    """Not made by the schedule: it came under it by its labels, as a copy does. It counts for nothing, and stays."""


class Rule(StrEnum):
    """Why a Backup stays or goes."""

    RUNNING = "running"
    DELETING = "deleting"
    FOREIGN = "notScheduled"
    UNLIMITED = "unlimited"
    MAX_BACKUPS = "maxBackups"
    MAX_RESERVED_TIME = "maxReservedTime"
    RETENTION = "retention"
    KEEP_LAST = "keepLast"
    KEEP_HOURLY = "keepHourly"
    KEEP_DAILY = "keepDaily"
    KEEP_WEEKLY = "keepWeekly"
    KEEP_MONTHLY = "keepMonthly"
    KEEP_YEARLY = "keepYearly"
    KEEP_WITHIN = "keepWithin"
    MIN_KEEP = "minKeep"
    PITR_BASE = "pitrBase"
    FAILED_HISTORY = "failedHistoryLimit"
    NEWEST = "newest"
    IN_USE = "inUse"
    NEXT_PASS = "nextPass"  # noqa: S105  (a rule's name)
    UNREADABLE = "unreadable"
    CLOCK = "clockBehind"


class Item(NamedTuple):
    """One Backup. *time* is the age that counts, *slot* the run it was made for, *created* the object's own time; *problem*
    says what could not be read, *foreign* why a Backup is none of the schedule's."""

    name: str
    state: State
    time: datetime
    slot: datetime | None = None
    created: datetime | None = None
    problem: str = ""
    foreign: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long to keep. ``max_reserved_time`` wins over ``max_backups``; *counts* and *within* are the ``keep*`` rules.

    *pitr* says that a log backup exists, *checkpoint* how far it got: the newest Backup before a window of time then stays,
    for the log can only be applied to a Backup that is older.
    """

    max_backups: int | None = None
    max_reserved_time: timedelta | None = None
    counts: Mapping[Rule, int] = field(default_factory=dict)
    within: timedelta | None = None
    min_keep: int = 1
    failed_history: int = 5
    zone: tzinfo = UTC
    pitr: bool = False
    checkpoint: datetime | None = None
    max_deletions: int | None = None


class Compaction(NamedTuple):
    """One compaction of the log; *end* is where its stretch ends, None when unknown."""

    name: str
    state: State
    created: datetime
    end: datetime | None = None


class Verdict(NamedTuple):
    """What happens to one Backup, by which *rule* (several are joined by ``+``), and *until* when at least, where a date is
    known. *detail* explains what stopped a deletion."""

    name: str
    keep: bool
    rule: str
    until: datetime | None = None
    detail: str = ""


Hold: TypeAlias = tuple[Rule, str]
"""Why nothing may be deleted at all, as the rule and the detail of what would go."""

_NAME: Final = attrgetter("name")
_TIME: Final = attrgetter("time")


class _Bucket(NamedTuple):
    """A calendar unit: *key* of a local time, and the local *start* of the unit that comes *n* later."""

    key: Callable[[datetime], tuple[int, ...]]
    start: Callable[[datetime, int], datetime]


def _month_after(local: datetime, months: int) -> datetime:
    total = local.year * 12 + local.month - 1 + months
    return local.replace(year=total // 12, month=total % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0)


def _midnight(local: datetime) -> datetime:
    return local.replace(hour=0, minute=0, second=0, microsecond=0)


_BUCKETS: Final[Mapping[Rule, _Bucket]] = {
    Rule.KEEP_HOURLY: _Bucket(
        lambda at: (at.year, at.month, at.day, at.hour),
        lambda at, n: at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=n),
    ),
    Rule.KEEP_DAILY: _Bucket(lambda at: (at.year, at.month, at.day), lambda at, n: _midnight(at) + timedelta(days=n)),
    Rule.KEEP_WEEKLY: _Bucket(
        lambda at: at.isocalendar()[:2], lambda at, n: _midnight(at) + timedelta(days=7 * n - at.weekday())
    ),
    Rule.KEEP_MONTHLY: _Bucket(lambda at: (at.year, at.month), _month_after),
    Rule.KEEP_YEARLY: _Bucket(lambda at: (at.year,), lambda at, n: _month_after(at.replace(month=1), 12 * n)),
}


class _Kept:
    """By name of a complete Backup: its verdict, with the rules that want it and the latest date that one of them promises.

    The verdicts are made here and nowhere else: a container less for each Backup is a container less for the garbage
    collector to go through, which is half the time of a plan of 100,000.
    """

    def __init__(self) -> None:
        self.of: dict[str, Verdict] = {}

    def want(self, item: Item, rule: Rule, until: datetime | None) -> None:
        before = self.of.get(item.name)
        if before is None:
            self.of[item.name] = Verdict(item.name, True, rule, until)
            return
        # A rule without a date may hold for ever: then nobody can promise an end.
        date = max(before.until, until) if before.until and until else None
        self.of[item.name] = Verdict(item.name, True, f"{before.rule}+{rule}", date)


def _by_count(kept: _Kept, rule: Rule, count: int, complete: Sequence[Item], coming: Coming | None) -> None:
    for index, item in enumerate(complete[:count]):
        kept.want(item, rule, coming(count - index) if coming else None)


def _by_bucket(kept: _Kept, rule: Rule, count: int, complete: Sequence[Item], runs: Sequence[datetime]) -> None:
    """The newest of each of the last *count* buckets that hold a Backup; the oldest Backup of all if counts are left. *runs*
    are the local times that belong to *complete*."""
    bucket = _BUCKETS[rule]
    seen: set[tuple[int, ...]] = set()
    for index, (item, run) in enumerate(zip(complete, runs, strict=True)):
        key = bucket.key(run)
        if key not in seen or index == len(complete) - 1:
            # It leaves at the earliest when so many newer units have a Backup.
            kept.want(item, rule, _unit_after(bucket, runs[0], count - len(seen)))
            seen.add(key)
        if len(seen) == count:
            return


def _unit_after(bucket: _Bucket, newest: datetime, units: int) -> datetime | None:
    try:
        return bucket.start(newest, units).astimezone(UTC)
    except (OverflowError, ValueError):  # beyond the year 9999
        return None


def _by_time(kept: _Kept, rule: Rule, span: timedelta, complete: Sequence[Item], *, end: datetime, pitr: bool) -> None:
    """Everything younger than *span* before *end*; with a log backup also the newest Backup that is not."""
    edge = end - span
    for item in complete:
        if item.time >= edge:
            kept.want(item, rule, item.time + span)
        if pitr and item.time <= edge:
            kept.want(item, Rule.PITR_BASE, None)
            return
        if item.time < edge:
            return


def _by_keep_rules(kept: _Kept, policy: Policy, complete: Sequence[Item], coming: Coming | None) -> None:
    buckets = [rule for rule in policy.counts if rule in _BUCKETS]
    # A Backup belongs to the hour, day, ... of the run it was made for: a nightly one is that night's, however late it ended.
    runs = [(item.slot or item.time).astimezone(policy.zone) for item in complete] if buckets else []
    for rule in buckets:
        _by_bucket(kept, rule, policy.counts[rule], complete, runs)
    if last := policy.counts.get(Rule.KEEP_LAST):
        _by_count(kept, Rule.KEEP_LAST, last, complete, coming)


def _wanted(complete: Sequence[Item], policy: Policy, now: datetime, coming: Coming | None) -> tuple[_Kept, Rule]:
    """Which rules want which complete Backup (newest first), and the rule that lets the others go."""
    kept = _Kept()
    gone = Rule.RETENTION
    latest = max((item.time for item in complete[:1]), default=now)
    if policy.max_reserved_time is not None:
        gone = Rule.MAX_RESERVED_TIME
        # As upstream: with a log, the window ends where the log does, not at the present.
        end = min(max(latest, policy.checkpoint or latest), now) if policy.pitr else now
        _by_time(kept, gone, policy.max_reserved_time, complete, end=end, pitr=policy.pitr)
    elif policy.max_backups is not None:
        gone = Rule.MAX_BACKUPS
        _by_count(kept, gone, policy.max_backups, complete, coming)
    elif policy.counts or policy.within is not None:
        _by_keep_rules(kept, policy, complete, coming)
        if policy.within is not None:
            _by_time(kept, Rule.KEEP_WITHIN, policy.within, complete, end=latest, pitr=policy.pitr)
    else:
        _by_count(kept, Rule.UNLIMITED, len(complete), complete, None)
    for item in complete[: policy.min_keep]:
        if item.name not in kept.of:
            kept.want(item, Rule.MIN_KEEP, None)
    return kept, gone


def _halt(items: Sequence[Item], now: datetime) -> Hold | None:
    """Why nothing may be deleted at all: something cannot be read, or the clock is behind what is already there."""
    unreadable = min((item for item in items if item.problem), key=lambda item: item.name, default=None)
    if unreadable:
        return Rule.UNREADABLE, f"{unreadable.name}: {unreadable.problem}"
    for item in items:
        if item.time > now or (item.slot and item.slot > now) or (item.created and item.created > now):
            return Rule.CLOCK, f"the clock shows an earlier time than that of {item.name}"
    return None


def _judge(items: Sequence[Item], policy: Policy, now: datetime, coming: Coming | None) -> Iterator[Verdict]:
    """The verdicts on *items* (newest first), before anything stops a deletion."""
    kept, gone = _wanted([item for item in items if item.state is State.COMPLETE], policy, now, coming)
    failures = 0
    for item in items:
        match item.state:
            case State.COMPLETE:
                yield kept.of.get(item.name) or Verdict(item.name, False, gone)
            case State.FAILED:
                failures += 1
                yield Verdict(item.name, failures <= policy.failed_history, Rule.FAILED_HISTORY)
            case State.RUNNING:
                yield Verdict(item.name, True, Rule.RUNNING)
            case State.FOREIGN:
                yield Verdict(item.name, True, Rule.FOREIGN, None, item.foreign)
            case State.DELETING:
                yield Verdict(item.name, False, Rule.DELETING)


def plan(
    backups: Sequence[Item], policy: Policy, now: datetime, *, coming: Coming | None = None, hold: Hold | None = None
) -> list[Verdict]:
    """One verdict for each of *backups*, newest first. *coming* lets rules that count runs name a date; *hold* is a reason from
    outside to delete nothing.

    >>> def item(day): return Item(f"b{day}", State.COMPLETE, datetime(2026, 1, day, tzinfo=UTC))
    >>> now = datetime(2026, 1, 9, tzinfo=UTC)
    >>> [(v.name, v.keep, str(v.rule)) for v in plan([item(1), item(2), item(3)], Policy(max_backups=2), now)]
    [('b3', True, 'maxBackups'), ('b2', True, 'maxBackups'), ('b1', False, 'maxBackups')]
    """
    items = sorted(backups, key=_NAME, reverse=True)
    items.sort(key=_TIME, reverse=True)  # stable; one key of both would be one more container for each Backup
    verdicts = list(_judge(items, policy, now, coming))
    own = [item for item in items if item.state not in {State.DELETING, State.FOREIGN}]
    return _restrain(verdicts, hold or _halt(own, now), policy)


def _restrain(verdicts: list[Verdict], halt: Hold | None, policy: Policy) -> list[Verdict]:
    """*verdicts* (newest first) with no deletion at all after *halt*, and not more of them than one pass may do."""
    left = len(verdicts) if policy.max_deletions is None else policy.max_deletions
    for index in range(len(verdicts) - 1, -1, -1):  # the oldest go first
        verdict = verdicts[index]
        if verdict.keep or verdict.rule == Rule.DELETING:
            continue
        if halt:
            verdicts[index] = Verdict(name=verdict.name, keep=True, rule=halt[0], detail=halt[1])
        elif left <= 0:
            detail = f"{verdict.rule} lets it go; at most {policy.max_deletions} are deleted in one pass"
            verdicts[index] = Verdict(name=verdict.name, keep=True, rule=Rule.NEXT_PASS, detail=detail)
        else:
            left -= 1
    return verdicts


def _compaction_stays(
    item: Compaction, index: int, policy: Policy, now: datetime, oldest: datetime | None
) -> tuple[bool, Rule]:
    if item.state in {State.RUNNING, State.DELETING}:
        return item.state is State.RUNNING, Rule.RUNNING if item.state is State.RUNNING else Rule.DELETING
    if index == 0:
        return True, Rule.NEWEST  # it tells how far the log is compacted, should the status be lost
    if policy.max_reserved_time is not None:
        return item.end is None or item.end >= now - policy.max_reserved_time, Rule.MAX_RESERVED_TIME
    if policy.max_backups is not None:
        return index < policy.max_backups, Rule.MAX_BACKUPS
    return item.end is None or oldest is None or item.end >= oldest, Rule.IN_USE


def plan_compactions(
    compactions: Sequence[Compaction], policy: Policy, now: datetime, *, oldest: datetime | None, hold: Hold | None = None
) -> list[Verdict]:
    """One verdict for each of *compactions*, newest first. Their data stays where it is; only the object goes.

    A limit of time or number is upstream's. Under ``keep*`` rules one is kept while it reaches behind *oldest*, the oldest
    Backup that is left, None when that is no reason to delete anything; *hold* as for :func:`plan`.
    """
    items = sorted(compactions, key=lambda item: (item.created, item.name), reverse=True)
    verdicts = []
    for index, item in enumerate(items):
        keep, rule = _compaction_stays(item, index, policy, now, oldest)
        verdicts.append(Verdict(item.name, keep, rule))
    ahead = next((item.name for item in items if item.created > now), None)
    halt = (Rule.CLOCK, f"the clock shows an earlier time than that of {ahead}") if ahead else None
    return _restrain(verdicts, hold or halt, policy)
