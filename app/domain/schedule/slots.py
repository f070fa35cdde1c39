"""Which run of a schedule is due now: the newest slot, never a second Backup for one, never one from before the newest.

A slot counts as dealt with once a Backup for it was *observed*, or once it was left out on purpose. The answer that asks for
a Backup does not move the mark, so a creation that failed is asked for again, under the same name. The mark is kept in
``status.lastScheduleTime``; should the status be stale or lost, the observed Backups tell the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.observed import items
from app.domain.schedule.children import Children
from app.domain.schedule.clock import BEHIND, TOLERANCE
from app.domain.schedule.spec import Schedule
from app.domain.times import moment, stamp
from crds.contract import names

PAUSED: Final = "Paused"
"""Condition of a schedule that makes no Backups; its disappearance tells that it was resumed."""
NAME_TAKEN: Final = "NameTaken"
_ANSWERED: Final = timedelta(minutes=1)
"""An answer of the API server is there within moments; after this a run that waited for it is judged by the present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Why a run that is due does not begin: a condition's reason and message, and the run it is about."""

    reason: str
    message: str
    slot: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """*due* is to be made now. *mark* is the newest slot that is dealt with, *next* the next one to come (the one that waits,
    if one does; None while paused)."""

    due: datetime | None = None
    mark: datetime | None = None
    next: datetime | None = None
    stall: Stall | None = None


def _recorded(status: Mapping[str, Any]) -> list[datetime]:
    """The slots that the received status knows to be dealt with. The fields of TiDB Operator count too: a schedule that it
    served so far goes on from there."""
    known = (moment(status.get(field)) for field in ("lastScheduleTime", "lastBackupTime", "allBackupCleanTime"))
    return [time for time in known if time]


def recorded(status: Mapping[str, Any]) -> datetime | None:
    """The newest of the slots that the received status knows to be dealt with."""
    return max(_recorded(status), default=None)


def was_paused(status: Mapping[str, Any]) -> bool:
    """Whether the received status is that of a paused schedule."""
    return any(item.get("type") == PAUSED and item.get("status") == "True" for item in items(status.get("conditions")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the slots of one pass are judged by, beside spec and children.

    *since* is the time from which slots count: the schedule's creation, or the edit that made its times what they are. *now* is
    what our clock shows; *confirmed* tells that the API server's clock bears it out, so that a slot in the future is an error.
    *others* are Backups of the schedule's group that are under way. *asked* is when the API server was last asked for its time.
    """

    created: datetime
    since: datetime
    now: datetime
    confirmed: bool = False
    others: Sequence[str] = ()
    asked: datetime | None = None

    def found(self, slot: datetime) -> datetime:
        """When the run of *slot* was found due: a pass that had to ask for the time first does not make it late."""
        asked = self.asked
        return asked if asked and slot <= asked <= self.now <= asked + _ANSWERED else self.now


def _mark(schedule: Schedule, children: Children, status: Mapping[str, Any], terms: Terms) -> datetime | None:
    """The newest slot that is dealt with.

    One in the future was put down, or its Backup made, by a clock that was wrong, and would stop the schedule until then. When
    that is sure it counts no more; with nothing else left, all that is past counts as dealt with.
    """
    slots = _recorded(status)
    newest = children.newest.slot if children.newest else None
    mark = max([*slots, newest] if newest else slots, default=None)
    limit = terms.now + TOLERANCE
    if mark is None or mark <= limit or not terms.confirmed:
        return mark
    past = children.newest_until(limit)
    known = [time for time in (*slots, past.slot if past else None) if time and time <= limit]
    return max(known, default=None) or schedule.timetable.newest(after=terms.since, now=terms.now)


def evaluate(schedule: Schedule, children: Children, status: Mapping[str, Any], name: str, terms: Terms) -> Slots:
    """What is due of the schedule called *name*."""
    now = terms.now
    mark = _mark(schedule, children, status, terms)
    newest = schedule.timetable.newest(after=max(mark or terms.created, terms.since), now=now)
    if newest is None and mark is None and schedule.immediately and terms.created <= now:
        newest = terms.created
    if schedule.pause or (was_paused(status) and newest):
        # What falls into a pause is left out for good; the pass after it finds nothing to make up for.
        return Slots(mark=newest or mark, next=None if schedule.pause else schedule.timetable.following(now))
    if newest is None:
        stall = None
        if mark and mark > now + TOLERANCE:
            stall = Stall(reason=BEHIND, message=f"the clock is behind the newest run, {stamp(mark)}; nothing is due before")
        return Slots(mark=mark, next=schedule.timetable.following(max(now, mark or now)), stall=stall)
    if stall := _obstacle(schedule, children, newest, name, terms):
        missed = stall.reason == "DeadlineMissed"
        return Slots(mark=mark, next=schedule.timetable.following(now) if missed else newest, stall=stall)
    return Slots(due=newest, mark=mark, next=schedule.timetable.following(now))


def _obstacle(schedule: Schedule, children: Children, slot: datetime, name: str, terms: Terms) -> Stall | None:
    """What keeps the run of *slot* from beginning."""
    run, backup = f"the run of {stamp(slot)}", names.slot_backup(name, slot)
    if schedule.deadline is not None and terms.found(slot) - slot > schedule.deadline:
        seconds = int(schedule.deadline.total_seconds())
        return Stall(
            reason="DeadlineMissed", message=f"{run} could not begin within startingDeadlineSeconds: {seconds}", slot=slot
        )
    if children.foreign(backup):
        return Stall(
            reason=NAME_TAKEN,
            message=(
                f"{run} has no name: Backup {backup} is there, and this schedule did not make it. The next run has another "
                "name; for this one, set that Backup's cleanPolicy to Retain and delete it, its data stays"
            ),
            slot=slot,
        )
    if schedule.forbid and (running := children.running):
        return Stall(reason="PreviousRunning", message=f"{run} waits for {running[0]}, which is still under way", slot=slot)
    if terms.others:
        return Stall(
            reason="GroupRunning", message=f"{run} waits for {terms.others[0]} of the same group, still under way", slot=slot
        )
    return None
