"""What must hold in every history, whatever happens; judged on what a hook was shown, and on what there really is.

* An answer: never 5xx; the same bytes for the same bytes; no null; no present time in a status; a status of the schema.
* A run: never a second live Job; no Job of a run once its end stands in the status.
* A restore: never done twice; no further Job once one was done, while one may live, or after one that was seen has vanished.
* A clean: only where the policy asks for it, of the path that was recorded at the start, not beside a run that is seen.
* Retention: only what the schedule itself made, and only what :mod:`tests.support.keep_oracle` lets go by the true time.
* A schedule: no slot twice, and none that has not come.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from app.domain.schedule.children import BACKUPS
from app.domain.times import moment
from cli.simulator.metacontroller import JOBS, Pass, respond
from cli.simulator.store import Object, controller_of, deleting, uid_of
from crds.contract import names
from crds.v1alpha1 import KINDS
from tests.support import keep_oracle
from tests.support.world.kubernetes import Kubernetes, finished
from tests.support.world.managers import RUNS, Managers, owner_of, path_of, purpose_of

_ODD: Final = re.compile(rb"T\d\d:\d\d:\d[13579]Z")
TOLERANCE: Final = timedelta(minutes=10)
"""How far the webhook's clock may be off (docs/adr/0003-clock.md)."""
SCHEDULES: Final = f"BackupSchedule.{names.API_VERSION}"
_SAMPLE: Final = 8
"""Of so many answers one is asked for twice."""
_ENDED: Final = frozenset({"Complete", "Failed"})
_NO_WRITERS: Final = frozenset({"clean", "log-stop"})
"""Purposes of Jobs that write no backup."""
_RESTORES: Final = ("/restore", "/import", "/1", "/2")
"""Ends of the keys of :attr:`.Managers.worked` that are of a restore, or of a phase of one."""
UNKNOWN_FIELD: Final = "ofANewerVersion"
"""In a status: what only a newer webhook and a newer CRD know."""


class Violation(AssertionError):
    """An invariant does not hold."""


def demand(holds: object, text: str, *facts: Any) -> None:
    """Raises Violation unless it *holds*."""
    if not holds:
        raise Violation(text.format(*facts))


@cache
def _status_of(kind: str) -> TypeAdapter[Any]:
    annotation: Any = KINDS[kind].model_fields["status"].annotation
    return TypeAdapter(annotation)


def _slot_of(obj: Object) -> str | None:
    slot = (obj["metadata"].get("annotations") or {}).get(names.SLOT_ANNOTATION)
    return None if slot is None else str(slot)


class Invariants:
    """Watches one world."""

    def __init__(self, store: Kubernetes, managers: Managers, clock: Callable[[], datetime]) -> None:
        self._store, self._managers, self._clock = store, managers, clock
        self._answers = 0
        self._latest = clock()
        """The latest time that the API server's clock has shown: what it wrote then stays when the clock is set back."""
        self._created: list[Object] = []
        """What was made since an answer began to be obeyed."""
        store.watchers.append(self._on_write)
        self._paths: dict[str, set[str]] = {}
        """By uid of a CR: where its Jobs were made to write."""
        self._ended: set[str] = set()
        """Uids of CRs whose end was written into their status."""
        self._seen: dict[str, dict[str, bool]] = {}
        """By uid of a Restore: its Jobs that stood in a request whose answer's status was written; True if it had ended."""
        self._made: dict[str, dict[str, str]] = {}
        """By uid of a schedule: the Backups that it made, by uid, and the mode of each."""
        self._slots: dict[str, set[str]] = {}
        """By uid of a schedule: the slots that it made a Backup for."""

    def _on_write(self, _kind: str, _key: str, before: Object | None, after: Object | None) -> None:
        if before is None and after is not None:
            self._created.append(after)
        elif before is not None and after is not None and (slot := _slot_of(before)) and _slot_of(after) != slot:
            # Somebody wrote another slot on it, so it no longer stands for that one.
            for slots in self._slots.values():
                slots.discard(slot)

    # The answer

    def answered(self, current: Pass) -> None:
        """A hook has answered."""
        self._latest = max(self._latest, self._clock())
        self._answers += 1
        demand(b"null" not in current.body, "null in the answer {}", current.body)
        shown = current.body[current.body.rfind(b'"status":') :]
        if b"clockCheck" in shown:
            # The one field that asks the API server for its time by showing ours.
            shown = orjson.dumps({key: value for key, value in current.answer["status"].items() if key != "clockCheck"})
        found = _ODD.search(shown)
        demand(found is None, "the present time {} is in the status", found and found.group())
        if current.kind == SCHEDULES:
            self._judge_retention(current)
            self._judge_slots(current)
        if self._answers % _SAMPLE == 0:
            self._judge_schema(current)
            again = respond(current.kind, current.request, current.now, current.config)[2]
            demand(again == current.body, "same request, other bytes: {} and {}", current.body, again)

    def _judge_schema(self, current: Pass) -> None:
        """The API server would refuse a status that breaks the schema, each time anew."""
        status = {key: value for key, value in current.answer["status"].items() if key != UNKNOWN_FIELD}
        try:
            _status_of(current.kind.partition(".")[0]).validate_json(orjson.dumps(status))
        except ValidationError as error:
            raise Violation(f"the schema refuses the status: {error}") from error

    # Before it is obeyed

    def before(self, current: Pass) -> None:
        """The answer of *current* is about to be obeyed."""
        self._created.clear()
        if not current.kind.startswith("BackupSchedule"):
            self._judge_drops(current)

    def _gone(self, current: Pass, kind: str) -> list[Object]:
        wanted = {child["metadata"]["name"] for child in current.answer["children"] if kind.startswith(f"{child['kind']}.")}
        group = current.children.get(kind) or {}
        return [child for child in group.values() if child["metadata"]["name"] not in wanted and not deleting(child)]

    def _judge_drops(self, current: Pass) -> None:
        """Jobs that the answer deletes: a run's only when its end is received, one of somebody else never."""
        for job in self._gone(current, JOBS):
            name = job["metadata"]["name"]
            demand(owner_of(job) == uid_of(current.parent), "{} is deleted, which is of somebody else", name)
            status = current.parent.get("status") or {}
            ends = {item["type"] for item in status.get("conditions") or () if item["status"] == "True"}
            known = finished(job) and not ends.isdisjoint(_ENDED)
            kept = purpose_of(job) in RUNS and not current.finalizing and not known
            demand(not kept, "{} is deleted before its end is in the status", name)

    def _judge_retention(self, current: Pass) -> None:
        gone = self._gone(current, BACKUPS)
        if not gone:
            return
        mine = self._made.get(uid_of(current.parent), {})
        foreign = [child["metadata"]["name"] for child in gone if uid_of(child) not in mine]
        demand(not foreign, "retention deletes {}, which the schedule did not make", foreign)
        policy = keep_oracle.Policy.of(current.parent["spec"])
        known = [
            {**child, "spec": {**child["spec"], "backupMode": mine[uid_of(child)]}}  # as it was made: an edit changes nothing
            for child in current.children[BACKUPS].values()
            if uid_of(child) in mine and not deleting(child)
        ]
        dropped = [child["metadata"]["name"] for child in gone]
        try:
            # The hook's own clock counts as far as it may be off.
            clock = min(max(current.now, self._clock() - TOLERANCE), self._latest + TOLERANCE)
            keep_oracle.check_deletions(policy, known, dropped, clock, limit=current.config.max_deletions)
        except AssertionError as error:
            raise Violation(str(error)) from error

    def _judge_slots(self, current: Pass) -> None:
        for child in current.answer["children"]:
            slot = (child["metadata"].get("annotations") or {}).get(names.SLOT_ANNOTATION) if "spec" in child else None
            if slot is not None:
                due, name = moment(slot), child["metadata"]["name"]
                has_come = due is not None and due <= self._latest + TOLERANCE
                demand(has_come, "{} is for a slot that has not come", name)

    # After it was obeyed

    def after(self, current: Pass) -> None:
        """What the answer of *current* has done, as far as Metacontroller came."""
        twice = [work for work, times in self._managers.worked.items() if times > 1 and work.endswith(_RESTORES)]
        demand(not twice, "restored twice: {}", twice)
        uid = uid_of(current.parent)
        for child in self._created:
            if child["kind"] == "Job":
                self._judge_job(current, child)
            elif child["kind"] == "Backup":
                self._judge_run(uid, child)
        live = self._store.find(current.kind, f"{current.parent['metadata']['namespace']}/{current.parent['metadata']['name']}")
        if live is None or uid_of(live) != uid or live.get("status") != current.answer["status"]:
            return
        status = current.answer["status"]
        if (status.get("phase") or status.get("state")) in _ENDED:
            self._ended.add(uid)
        if current.kind.startswith("Restore"):
            mine = [job for job in current.children[JOBS].values() if owner_of(job) == uid]
            self._seen.setdefault(uid, {}).update((uid_of(job), finished(job)) for job in mine)

    def _judge_run(self, schedule: str, backup: Object) -> None:
        self._made.setdefault(schedule, {})[uid_of(backup)] = str(backup["spec"].get("backupMode") or "")
        slot = _slot_of(backup)
        if slot is not None and backup["spec"].get("backupMode") != "log" and not self._is_going(SCHEDULES, schedule):
            slots = self._slots.setdefault(schedule, set())
            demand(slot not in slots, "{} is made for a slot that was made before", backup["metadata"]["name"])
            slots.add(slot)

    def clock_is_set_back(self) -> None:
        """Slots that are in the future again come a second time."""
        for slots in self._slots.values():
            slots -= {slot for slot in slots if (time := moment(slot)) is None or time > self._clock()}

    def _is_going(self, kind: str, uid: str) -> bool:
        """Whether the CR is being deleted, which a cache may not show yet: what is still made for it goes with it."""
        return any(uid_of(cr) == uid and deleting(cr) for cr in self._store.of(kind).values())

    def _judge_job(self, current: Pass, job: Object) -> None:
        purpose, owner, name = purpose_of(job), owner_of(job), job["metadata"]["name"]
        demand(owner == uid_of(current.parent), "{} is made for another CR", name)
        if purpose == "clean":
            self._judge_clean(current, job)
        if purpose != "clean" and (path := path_of(job)):
            self._paths.setdefault(owner, set()).add(path)
        if purpose not in RUNS:
            return
        demand(not current.finalizing, "{} is made although its CR is being deleted", name)
        demand(owner not in self._ended, "{} is made although the end of its run stands in the status", name)
        others = [
            other
            for other in self._store.of(JOBS).values()
            if owner_of(other) == owner
            and uid_of(other) != uid_of(job)
            and not finished(other)
            and purpose_of(other) in RUNS
            # One that was orphaned runs on unseen: the claim of its path keeps the two apart.
            and controller_of(other) == owner
        ]
        demand(not others, "{} is made beside {}, which lives", name, [other["metadata"]["name"] for other in others])
        # A Job for a CR that a cache shows as it was before its deletion: its manager begins nothing.
        if current.kind.startswith("Restore") and not self._is_going(current.kind, owner):
            self._judge_restore(current, job)

    def _judge_restore(self, current: Pass, job: Object) -> None:
        owner, name = owner_of(job), job["metadata"]["name"]
        step = next((arg for arg in job["spec"]["template"]["spec"]["containers"][0]["args"] if "replicationPhase" in arg), "")
        key = f"{owner}/{step.partition('=')[2] or purpose_of(job)}"
        demand(not self._managers.worked.get(key), "{} is made although the restore was done", name)
        live = [other["metadata"]["name"] for other in self._managers.live(owner) if uid_of(other) != uid_of(job)]
        demand(not live, "{} is made beside Pods of {}", name, live)
        here = {uid_of(other) for other in self._store.of(JOBS).values()}
        seen = self._seen.get(owner, {})
        vanished = [other for other, over in seen.items() if not over and other not in here]
        demand(not vanished, "{} is made although a Job that was seen has vanished", name)

    def _judge_clean(self, current: Pass, job: Object) -> None:
        name, path, spec = job["metadata"]["name"], path_of(job), current.parent["spec"]
        policy = spec.get("cleanPolicy") or "Retain"
        demand(current.finalizing, "{} is made although its CR is not being deleted", name)
        demand(policy != "Retain", "{} is made although the policy is Retain", name)
        complete = (current.parent.get("status") or {}).get("phase") == "Complete"
        demand(policy == "Delete" or not complete, "{} is made although the policy keeps what is complete", name)
        known = self._paths.get(uid_of(current.parent), set())
        # What became an imported Backup before any status told of a run is one.
        conditions = (current.parent.get("status") or {}).get("conditions") or ()
        imported = any(item.get("reason") == "Imported" for item in conditions)
        demand(
            imported or path in known or uid_of(current.parent)[:8] in path,
            "{} cleans {}, the run wrote to {}",
            name,
            path,
            known,
        )
        beside = [
            other["metadata"]["name"]
            for other in current.children[JOBS].values()
            if owner_of(other) == owner_of(job) and purpose_of(other) not in _NO_WRITERS and not finished(other)
        ]
        demand(not beside, "{} is made beside {}, which lives", name, beside)
