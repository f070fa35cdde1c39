"""A small world around one BackupSchedule in the in-memory cluster: runs that end, people, a clock, caches that lag.

An answer may be lost, or its status alone; the hook's clock may be behind or ahead for a while, by any time, while that of the
API server is right. People edit the times, copy Backups, and make some of a name that the schedule will want. Every deletion
that an answer causes is judged by :mod:`tests.support.keep_oracle`, which knows nothing of the code under test.
"""

import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

import orjson

from app.domain.config import Config
from app.domain.observed import Observed
from app.domain.schedule.children import BACKUPS
from app.domain.schedule.clock import TOLERANCE
from app.domain.schedule.cron import parse, zone
from app.domain.times import moment, stamp
from app.hooks.backupschedule import KIND
from app.hooks.response import render
from cli.simulator.metacontroller import Metacontroller, Pass, finalizer, respond
from cli.simulator.store import Object, deleting, kind_of, uid_of
from crds.contract import names, tso
from tests.support import keep_oracle
from tests.support.schedules import CREATED, schedule
from tests.support.world.caches import LaggingCaches
from tests.support.world.kubernetes import Faults, Kubernetes

LIMIT = 3
CONFIG = Config(max_deletions=LIMIT)
LOG_NAME = "log-nightly"
_SCHEDULES = f"BackupSchedule.{names.API_VERSION}"
_KEY = "db/nightly"


def _lean(seen: Observed) -> Observed:
    """What the hook would see if the request were a big one."""
    children = {kind: {key: KIND.lean(child) for key, child in group.items()} for kind, group in seen.children.items()}
    return replace(seen, children=children)


@dataclass(frozen=True, kw_only=True)
class Times:
    """When a schedule is due, since when, and whether a status told of it."""

    schedule: str
    zone: str
    since: datetime
    seen: bool = False

    @classmethod
    def of(cls, spec: dict[str, Any], since: datetime) -> Self:
        """Those of *spec*."""
        return cls(schedule=spec["schedule"], zone=spec.get("timeZone") or "", since=since)

    def told(self, timetable: dict[str, Any]) -> bool:
        """Whether ``status.timetable`` is about these."""
        return (timetable.get("schedule"), timetable.get("timeZone") or "") == (self.schedule, self.zone)

    def has(self, slot: datetime, until: datetime) -> bool:
        """Whether *slot* was one of these while they held, *until* the next ones did."""
        if not self.since <= slot <= until:
            return False
        return parse(self.schedule, anchor=CREATED, tz=zone(self.zone)).newest(after=CREATED, now=slot) == slot


class World:
    """The live objects, and what the caches still show of earlier ones."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.now = CREATED
        self.skew = timedelta(0)
        """How far the hook's clock is ahead; negative: behind."""
        self.runs: list[str] = []
        """Every snapshot Backup ever made, by name: a name twice is a run done twice."""
        self.strangers: set[str] = set()
        """What people made, whatever it looks like: it has to stay."""
        self.times = [Times.of(spec, CREATED)]
        """The times of the schedule, oldest first; what no status told of was never in force."""
        self.deleted = 0
        self.passes = 0
        self._store = Kubernetes(lambda: self.now)
        self._caches = LaggingCaches(self._store)
        self._metacontroller = Metacontroller(self._store, cache=self._caches)
        self._store.create(schedule(spec, finalizers=[finalizer(_SCHEDULES)], managedFields=[]))

    @property
    def backups(self) -> dict[str, Object]:
        """The Backups by name."""
        return {backup["metadata"]["name"]: backup for backup in self._store.of(BACKUPS).values()}

    @property
    def _parent(self) -> Object:
        return self._store.get(_SCHEDULES, _KEY)

    @property
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self._parent["spec"]
        return found

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._parent.get("status") or {}
        return found

    def sync(self, *, parent_lag: int = 0, children_lag: int = 0, lost: bool = False, status_lost: bool = False) -> None:
        """One pass; *lost*: nobody hears the answer, *status_lost*: only the children are managed."""
        self.passes += 1
        self._caches.catch_up(_SCHEDULES, but=parent_lag)
        self._caches.catch_up(BACKUPS, but=children_lag)
        if not self._caches.of(_SCHEDULES):
            self._caches.catch_up_all()
        current = self._metacontroller.call(_SCHEDULES, _KEY, self.now + self.skew, CONFIG)
        assert current is not None
        seen, _, body = respond(_SCHEDULES, current.request, current.now, CONFIG)
        assert body == current.body, "same input, same bytes"
        thin = _lean(seen)
        assert body == render(KIND, thin, KIND.decide(thin, current.now, CONFIG), CONFIG), (
            "a big request is answered as a small one"
        )
        self._is_fixpoint(seen, current)
        if lost:
            return
        self._judge(current)
        self._store.faults = Faults(status_conflict=status_lost)
        outcome = self._metacontroller.settle(current)
        self._store.faults = None
        assert not outcome.errors
        self.deleted += len(outcome.deleted)
        for child in outcome.created:
            self._begin(child)
        if self.times[-1].told(self.status.get("timetable") or {}):
            self.times[-1] = replace(self.times[-1], seen=True)

    def _is_fixpoint(self, seen: Observed, current: Pass) -> None:
        """Where no deletion waited for the status, feeding it back changes nothing."""

        def fed(answer: dict[str, Any]) -> dict[str, Any]:
            again = replace(seen, parent={**seen.parent, "status": answer["status"]})
            found: dict[str, Any] = orjson.loads(render(KIND, again, KIND.decide(again, current.now, CONFIG), CONFIG))
            return found

        repeated = fed(current.answer)
        assert fed(repeated) == repeated

    def _judge(self, current: Pass) -> None:
        wanted = {child["metadata"]["name"] for child in current.answer["children"]}
        known = {child["metadata"]["name"]: child for child in current.children[BACKUPS].values()}
        gone = [name for name in known if name not in wanted and not deleting(known[name])]
        policy = keep_oracle.Policy.of(current.parent["spec"])
        assert not self.strangers & set(gone), f"{self.strangers & set(gone)} are none of the schedule's"
        own = [backup for name, backup in known.items() if name not in self.strangers]
        # A clock that is off by no more than the tolerance is acted upon.
        keep_oracle.check_deletions(policy, own, gone, min(current.now, self.now + TOLERANCE), limit=LIMIT)

    def _begin(self, child: Object) -> None:
        name = child["metadata"]["name"]
        is_log = child["spec"].get("backupMode") == "log"
        if not is_log:
            slot = moment(child["metadata"]["annotations"][names.SLOT_ANNOTATION])
            assert slot is not None
            assert slot <= self.now + TOLERANCE, f"{name} is for a slot that has not come"
            following = [*[times.since for times in self.times[1:]], self.now + TOLERANCE]
            in_force = any(times.has(slot, until) for times, until in zip(self.times, following, strict=True))
            assert in_force or slot == CREATED, f"{name} is for a slot from before the times were edited: {self.times}"
            self.runs.append(name)
        self._store.write(child, status={"commitTs": str(tso.from_datetime(self.now))} if is_log else {})

    def running(self) -> list[str]:
        """Snapshots that have not ended."""
        backups = {name: backup for name, backup in self.backups.items() if name not in {*self.strangers, LOG_NAME}}
        return [name for name, backup in backups.items() if not backup["status"].get("phase")]

    def end(self, name: str, *, phase: str, without_commit: bool = False) -> None:
        """The run of *name* ends now; its data is of its beginning."""
        backup = self.backups[name]
        created = moment(backup["metadata"]["creationTimestamp"])
        assert created is not None
        status = {"phase": phase, "timeCompleted": stamp(self.now)}
        if phase == "Complete" and not without_commit:
            status["commitTs"] = str(tso.from_datetime(created))
        self._store.write(backup, status=status)

    def log_advances(self) -> None:
        """The log backup gets as far as the present."""
        if log := self.backups.get(LOG_NAME):
            self._store.write(log, status={**log["status"], "logCheckpointTs": str(tso.from_datetime(self.now))})

    def delete_by_hand(self, name: str) -> None:
        """Somebody deletes a Backup whose run the schedule has put down already, in the cache too."""
        if name in self.strangers:
            return
        backup = self.backups[name]
        slot = moment((backup["metadata"].get("annotations") or {}).get(names.SLOT_ANNOTATION))
        versions = [self._caches.of(_SCHEDULES).get(_KEY), *self._caches.unseen(_SCHEDULES)]
        marks = [moment(((version or {}).get("status") or {}).get("lastScheduleTime")) for version in versions]
        if slot is None or all(mark and mark >= slot for mark in marks):
            self._store.delete(kind_of(backup), f"db/{name}", uid=uid_of(backup))

    def edit(self, **changes: Any) -> None:
        """Somebody edits the spec; None takes a field out."""
        spec = {key: value for key, value in {**self.spec, **changes}.items() if value is not None}
        if any(spec.get(field) != self.spec.get(field) for field in ("schedule", "timeZone")):
            if not self.times[-1].seen:
                self.times.pop()
            self.times.append(Times.of(spec, self.now if self.times else CREATED))
        self._store.write(self._parent, spec=spec)

    def copy_backup(self, number: int, name: str, *, hidden: bool = False, slot: datetime | None = None) -> None:
        """Somebody applies the YAML of a Backup under another *name*, annotations, labels and owner included; *hidden*: without
        those, so that Metacontroller does not show it; *slot*: with the annotation edited."""
        there = sorted(self.backups)
        if not there or name in self.backups:
            return
        made = copy.deepcopy(self.backups[there[number % len(there)]])
        meta = {
            key: made["metadata"][key]
            for key in ("namespace", "labels", "annotations", "ownerReferences")
            if key in made["metadata"]
        }
        if slot:
            meta["annotations"] = {**meta.get("annotations", {}), names.SLOT_ANNOTATION: stamp(slot)}
        if hidden:
            meta = {key: meta[key] for key in meta if key not in {"ownerReferences", "labels"}}
        self.strangers.add(name)
        ended = {"phase": "Complete", "timeCompleted": stamp(self.now)}
        self._store.create({**made, "metadata": {**meta, "name": name}, "status": ended})

    def remove_strangers(self) -> None:
        """Whatever people made goes again."""
        for name in self.strangers:
            self._store.delete(BACKUPS, f"db/{name}")
        self.strangers.clear()

    def lose_status(self) -> None:
        """The status is gone, as after a restore of the CR from a file; the newest Backup is still there to tell. (With both
        gone nothing in the world knows about that run any more.)"""
        if self.runs and self.runs[-1] in self.backups:
            self._store.write(self._parent, status={})
            self.times = [Times.of(self.spec, CREATED)]
