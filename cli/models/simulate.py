"""A schedule under a movable clock: the hook's own code decides, this world only carries out and lets time pass.

What the hook asks for is made, runs as long as told, and is complete; what it drops is gone, and its bytes with it where the
clean policy says so. A log backup runs a little behind the clock; a compaction takes no time. Nothing fails here.
Metacontroller and the API server are those of :mod:`cli.simulator`, and no cache lags.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from app.domain.config import Config
from app.domain.observed import metadata, name_of
from app.domain.schedule import cron
from app.domain.schedule.children import BACKUPS, COMPACTIONS, is_log, state_of
from app.domain.schedule.retention import State, Verdict
from app.domain.times import moment, stamp
from backup_manager.errors import ManagerError, UsageError
from cli.documents import Object
from cli.requests import completed, observe, request
from cli.schedules import ScheduleView, load_schedule
from cli.simulator.metacontroller import Metacontroller
from cli.simulator.store import Store, key_of, kind_of, owner_reference
from crds.contract import names, tso

MAX_RUNS: Final = 10_000
_SETTLED: Final = 200
"""Passes at one moment; a hook that does not come to rest by then has a defect."""
_LOG_LAG: Final = timedelta(minutes=3)
_NO_TIME: Final = timedelta(seconds=1)
_SCHEDULES: Final = f"BackupSchedule.{names.API_VERSION}"
_ENDING: Final = frozenset({"deletionTimestamp", "finalizers"})


class NoRestError(ManagerError):
    """The hook answers its own answer with another one, for ever."""

    reason = "NoFixpoint"


@dataclass(slots=True, kw_only=True)
class Run:
    """What became of one Backup."""

    name: str
    created: datetime
    completed: datetime | None = None
    deleted: datetime | None = None
    rule: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One moment of the account: *kept* Backups with *size* bytes, *stored* those in the storage, *made* and *gone* so far."""

    time: datetime
    made: int
    gone: int
    kept: int
    size: int
    stored: int


@dataclass(slots=True, kw_only=True)
class SimulationResult:
    """All that happened."""

    start: datetime
    end: datetime
    runs: list[Run] = field(default_factory=list)
    days: list[Sample] = field(default_factory=list)
    most: Sample | None = None
    largest: Sample | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    compactions: int = 0
    passes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """What is assumed of every run."""

    size: int = 0
    duration: timedelta = timedelta(minutes=30)


class Simulator:
    """The schedule *parent*, the Backups that there are already, and the clock."""

    def __init__(self, parent: Object, existing: Sequence[Object], config: Config, start: datetime, assume: Assumption) -> None:
        self._config, self._assume = config, assume
        self.now = start.replace(microsecond=0)
        self._store = Store(lambda: self.now)
        self._metacontroller = Metacontroller(self._store)
        given = completed(parent)
        meta = {"creationTimestamp": stamp(self.now), **metadata(parent), "uid": given["metadata"]["uid"], "generation": 1}
        stored = self._store.create({**given, "metadata": {key: meta[key] for key in meta if key not in _ENDING}})
        self._key = key_of(stored)
        self._ends: dict[tuple[str, str], datetime] = {}
        self._runs: dict[str, Run] = {}
        self._gone = self._size = self._left_behind = 0
        self.result = SimulationResult(start=self.now, end=self.now)
        groups = observe(request(given, existing, config)).children
        for kind in (BACKUPS, COMPACTIONS):
            for child in groups[kind].values():
                self._take_over(child)

    @property
    def _parent(self) -> dict[str, Any]:
        return self._store.get(_SCHEDULES, self._key)

    def _take_over(self, child: Object) -> None:
        """Store an existing *child* as the schedule's own, which its file may say by a label alone."""
        meta, parent = metadata(child), self._parent
        labels = {**(meta.get("labels") or {}), names.CONTROLLER_UID_LABEL: parent["metadata"]["uid"]}
        own = {"labels": labels, "ownerReferences": [owner_reference(parent)]}
        stored = self._store.create({**child, "metadata": {**meta, **own}})
        if kind_of(stored) == BACKUPS:
            self._meet(key_of(stored), stored)

    def run(self, days: int) -> SimulationResult:
        """Let *days* pass."""
        end = self.now + timedelta(days=days)
        self._refuse_too_much(end)
        day = self.now + timedelta(days=1)
        while True:
            wait = self._settle()
            following = min([self.now + wait, *self._ends.values()])
            while day <= end and day < following:  # what happens at the very moment still belongs to it
                self.result.days.append(self._account(day))
                day += timedelta(days=1)
            if following > end:
                break
            self.now = following
            self._finish_due()
        self.now = self.result.end = end
        self._settle()
        self.result.runs = sorted(self._runs.values(), key=lambda run: (run.created, run.name))
        self.result.verdicts = self._subject().verdicts()
        return self.result

    def _subject(self) -> ScheduleView:
        children = [child for kind in (BACKUPS, COMPACTIONS) for child in self._store.of(kind).values()]
        return load_schedule(self._parent, children, self._config, self.now)

    def _refuse_too_much(self, end: datetime) -> None:
        coming = cron.upcoming(self._subject().timetable, self.now)
        last = next(islice(coming, MAX_RUNS - 1, None))
        if last <= end:
            raise UsageError(
                f"more than {MAX_RUNS} runs until {stamp(end)}", hint="Simulate fewer --days of a schedule that runs so often."
            )

    def _settle(self) -> timedelta:
        """Ask the hook until it asks for nothing more; how long it then wants to wait."""
        for _ in range(_SETTLED):
            self.result.passes += 1
            self._log_goes_on()
            current = self._metacontroller.call(_SCHEDULES, self._key, self.now, self._config)
            if current is None:
                return timedelta(seconds=self._config.resync)
            before = self._parent.get("status")
            rules = {(drop.kind, drop.name): drop.rule for drop in current.decision.drop}
            outcome = self._metacontroller.settle(current)
            for child in outcome.deleted:
                self._drop(child, rules[kind_of(child), name_of(child)])
            for child in outcome.created:
                self._make(child)
            # A status that was written is an event too, and brings the next pass.
            if not outcome.created and not rules and self._parent.get("status") == before:
                self._note_peaks()
                return timedelta(seconds=max(1, current.wait or self._config.resync))
        raise NoRestError(
            "the schedule does not come to rest", hint="This is a defect of the hook; please report the schedule."
        )

    def _make(self, child: dict[str, Any]) -> None:
        kind, key = kind_of(child), key_of(child)
        if kind == COMPACTIONS:
            self.result.compactions += 1
            self._ends[kind, key] = self.now + _NO_TIME
        else:
            self._meet(key, child)

    def _meet(self, key: str, child: dict[str, Any]) -> None:
        """Take a Backup into the account, and let it run when it has not ended."""
        if is_log(child):
            begun = {"phase": "Running", "commitTs": str(tso.from_datetime(self.now)), **(child.get("status") or {})}
            self._store.write(child, status=begun)
            return
        status = child.get("status") or {}
        created = moment(metadata(child).get("creationTimestamp")) or self.now
        run = self._runs[key] = Run(name=name_of(child), created=created)
        if state_of(child) is State.RUNNING:
            self._ends[BACKUPS, key] = self.now + self._assume.duration
        else:
            run.completed = moment(status.get("timeCompleted"))
            self._weigh(run, int(status.get("backupSize") or (self._assume.size if run.completed else 0)))

    def _weigh(self, run: Run, size: int) -> None:
        run.size = size
        self._size += size

    def _finish_due(self) -> None:
        for (kind, key), end in sorted(self._ends.items()):
            if end > self.now:
                continue
            del self._ends[kind, key]
            child = self._store.find(kind, key)
            if child is None:
                continue
            if kind == COMPACTIONS:
                self._store.write(child, status={"state": "Complete", "endTs": child["spec"]["endTs"]})
                continue
            run = self._runs[key]
            run.completed = self.now
            self._weigh(run, self._assume.size)
            status = {
                "phase": "Complete",
                "timeStarted": stamp(run.created),
                "timeCompleted": stamp(self.now),
                "commitTs": str(tso.from_datetime(run.created)),
                "backupSize": run.size,
            }
            self._store.write(child, status=status)

    def _log_goes_on(self) -> None:
        until = (self._parent.get("status") or {}).get("logTruncateUntil")
        reached = tso.from_datetime(self.now - _LOG_LAG)
        for child in [backup for backup in self._store.of(BACKUPS).values() if is_log(backup)]:
            if reached > int(child["status"]["commitTs"]):
                truncated = {"logSuccessTruncateUntil": until} if until else {}
                self._store.write(child, status={**child["status"], "logCheckpointTs": str(reached), **truncated})

    def _drop(self, child: dict[str, Any], rule: str) -> None:
        kind, key = kind_of(child), key_of(child)
        self._ends.pop((kind, key), None)
        if run := self._runs.get(key):
            run.deleted, run.rule = self.now, rule
            self._gone += 1
            self._size -= run.size
            policy = child["spec"].get("cleanPolicy") or "Retain"
            if policy == "Retain" or (policy == "OnFailure" and run.completed):
                self._left_behind += run.size

    def _account(self, time: datetime) -> Sample:
        made = len(self._runs)
        stored = self._size + self._left_behind
        return Sample(time=time, made=made, gone=self._gone, kept=made - self._gone, size=self._size, stored=stored)

    def _note_peaks(self) -> None:
        day = self._account(self.now)
        if self.result.most is None or day.kept > self.result.most.kept:
            self.result.most = day
        if self.result.largest is None or day.stored > self.result.largest.stored:
            self.result.largest = day
