"""A small world around one BackupSchedule: Metacontroller with lagging caches, an API server, runs that end, people, a clock.

Caches lag behind but never go back, parent and children each on their own; an answer may be lost, or its status alone; the
hook's clock may be behind for a while. Every deletion that an answer causes is judged by :mod:`tests.support.keep_oracle`,
which knows nothing of the code under test.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from app.domain.config import Config
from app.domain.observed import Observed
from app.domain.scheduled import BACKUPS, COMPACTIONS
from app.domain.times import moment, stamp
from app.hooks.answer import render
from app.hooks.backupschedule import KIND
from crds import names, tso
from tests.support import keep_oracle
from tests.support.schedules import CREATED, schedule

LIMIT = 3
CONFIG = Config(max_deletions=LIMIT)
LOG_NAME = "log-nightly"


def _copy(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def _lean(seen: Observed) -> Observed:
    """What the hook would see if the request were a big one."""
    children = {kind: {key: KIND.lean(child) for key, child in group.items()} for kind, group in seen.children.items()}
    return Observed(parent=seen.parent, children=children, related=seen.related, finalizing=seen.finalizing)


@dataclass
class World:
    """The live objects, and what the caches still show of earlier ones."""

    spec: dict[str, Any]
    now: datetime = CREATED
    behind: timedelta = timedelta(0)
    """How far the hook's clock is behind."""
    backups: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    """Every snapshot Backup ever made, by name: a name twice is a run done twice."""
    deleted: int = 0
    passes: int = 0
    _parents: list[list[dict[str, Any]]] = field(default_factory=list)
    _children: list[dict[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed()

    def _changed(self) -> None:
        parent = _copy([self.spec, self.status])
        if not self._parents or self._parents[-1] != parent:
            self._parents.append(parent)
        children = _copy(self.backups)
        if not self._children or self._children[-1] != children:
            self._children.append(children)

    def observe(self, parent_lag: int = 0, children_lag: int = 0) -> Observed:
        """What the hook would see now; what was seen once is never unseen."""
        del self._parents[: max(len(self._parents) - 1 - parent_lag, 0)]
        del self._children[: max(len(self._children) - 1 - children_lag, 0)]
        spec, status = _copy(self._parents[0])
        children = {f"db/{name}": backup for name, backup in _copy(self._children[0]).items()}
        return Observed(parent=schedule(spec, status=status), children={BACKUPS: children, COMPACTIONS: {}})

    def sync(self, *, parent_lag: int = 0, children_lag: int = 0, lost: bool = False, status_lost: bool = False) -> None:
        """One pass; *lost*: nobody hears the answer, *status_lost*: only the children are managed."""
        self.passes += 1
        seen = self.observe(parent_lag, children_lag)
        clock = self.now - self.behind
        body = render(KIND, seen, KIND.decide(seen, clock, CONFIG), CONFIG)
        assert body == render(KIND, seen, KIND.decide(seen, clock, CONFIG), CONFIG), "same input, same bytes"
        thin = _lean(seen)
        assert body == render(KIND, thin, KIND.decide(thin, clock, CONFIG), CONFIG), "a big request is answered as a small one"
        answer = orjson.loads(body)
        self._is_fixpoint(seen, answer, clock)
        if lost:
            return
        self._manage(seen, answer["children"], clock)
        if not status_lost:
            self.status = answer["status"]
        self._changed()

    def _is_fixpoint(self, seen: Observed, answer: dict[str, Any], clock: datetime) -> None:
        """Where no deletion waited for the status, feeding it back changes nothing."""
        again = Observed(parent={**seen.parent, "status": answer["status"]}, children=seen.children)
        repeated = orjson.loads(render(KIND, again, KIND.decide(again, clock, CONFIG), CONFIG))
        once_more = Observed(parent={**seen.parent, "status": repeated["status"]}, children=seen.children)
        assert orjson.loads(render(KIND, once_more, KIND.decide(once_more, clock, CONFIG), CONFIG)) == repeated

    def _manage(self, seen: Observed, answered: list[dict[str, Any]], clock: datetime) -> None:
        wanted = {child["metadata"]["name"]: child for child in answered}
        known = seen.of_kind(BACKUPS)
        gone = [name for name in known if name not in wanted and not known[name]["metadata"].get("deletionTimestamp")]
        policy = keep_oracle.Policy.of(self._parents[0][0])
        keep_oracle.check_deletions(policy, list(known.values()), gone, clock, limit=LIMIT)
        for name in gone:
            if name in self.backups and self.backups[name]["metadata"]["uid"] == known[name]["metadata"]["uid"]:
                del self.backups[name]
                self.deleted += 1
        for name, child in wanted.items():
            if name not in known and name not in self.backups:
                self._create(child)

    def _create(self, child: dict[str, Any]) -> None:
        name = child["metadata"]["name"]
        is_log = child["spec"].get("backupMode") == "log"
        if not is_log:
            slot = moment(child["metadata"]["annotations"][names.SLOT_ANNOTATION])
            assert slot is not None
            assert slot <= self.now, f"{name} is for a slot that has not come"
            self.runs.append(name)
        child["metadata"] |= {"creationTimestamp": stamp(self.now), "uid": f"{name}-{len(self.runs)}"}
        child["status"] = {"commitTs": str(tso.from_datetime(self.now))} if is_log else {}
        self.backups[name] = child

    def running(self) -> list[str]:
        """Snapshots that have not ended."""
        return [name for name, backup in self.backups.items() if not backup["status"].get("phase") and name != LOG_NAME]

    def end(self, name: str, *, phase: str, without_commit: bool = False) -> None:
        """The run of *name* ends now; its data is of its beginning."""
        backup = self.backups[name]
        created = moment(backup["metadata"]["creationTimestamp"])
        assert created is not None
        status = {"phase": phase, "timeCompleted": stamp(self.now)}
        if phase == "Complete" and not without_commit:
            status["commitTs"] = str(tso.from_datetime(created))
        backup["status"] = status
        self._changed()

    def log_advances(self) -> None:
        """The log backup gets as far as the present."""
        if LOG_NAME in self.backups:
            self.backups[LOG_NAME]["status"]["logCheckpointTs"] = str(tso.from_datetime(self.now))
            self._changed()

    def delete_by_hand(self, name: str) -> None:
        """Somebody deletes a Backup whose run the schedule has put down already, in the cache too."""
        backup = self.backups[name]
        slot = moment((backup["metadata"].get("annotations") or {}).get(names.SLOT_ANNOTATION))
        marks = [moment(status.get("lastScheduleTime")) for _, status in self._parents]
        if slot is None or all(mark and mark >= slot for mark in marks):
            del self.backups[name]
            self._changed()

    def edit(self, **changes: Any) -> None:
        """Somebody edits the spec; None takes a field out."""
        self.spec = {key: value for key, value in {**self.spec, **changes}.items() if value is not None}
        self._changed()

    def lose_status(self) -> None:
        """The status is gone, as after a restore of the CR from a file; the newest Backup is still there to tell. (With both
        gone nothing in the world knows about that run any more.)"""
        if self.runs and self.runs[-1] in self.backups:
            self.status = {}
            self._changed()
