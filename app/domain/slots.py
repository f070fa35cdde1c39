"""Which run of a schedule is due now: the newest slot, never a second Backup for one, never one from before the newest.

A slot counts as dealt with once a Backup for it was *observed*, or once it was left out on purpose. The answer that asks for
a Backup does not move the mark, so a creation that failed is asked for again, under the same name. The mark is kept in
``status.lastScheduleTime``; should the status be stale or lost, the observed Backups tell the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.domain.schedule_spec import Schedule
from app.domain.scheduled import Children
from app.domain.times import moment, stamp

PAUSED = "Paused"
"""Condition of a schedule that makes no Backups; its disappearance tells that it was resumed."""


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


def recorded(status: Mapping[str, Any]) -> datetime | None:
    """The newest slot that the received status knows to be dealt with. The fields of TiDB Operator count too: a schedule that
    it served so far goes on from there."""
    known = (moment(status.get(field)) for field in ("lastScheduleTime", "lastBackupTime", "allBackupCleanTime"))
    return max((time for time in known if time), default=None)


def was_paused(status: Mapping[str, Any]) -> bool:
    """Whether the received status is that of a paused schedule."""
    return any(item.get("type") == PAUSED and item.get("status") == "True" for item in status.get("conditions") or ())


def evaluate(
    schedule: Schedule,
    children: Children,
    status: Mapping[str, Any],
    *,
    created: datetime,
    now: datetime,
    others: Sequence[str] = (),
    patience: timedelta,
) -> Slots:
    """What is due at *now*. *others* are Backups of the schedule's group that are under way; *patience* is how long a Backup
    that was asked for may fail to appear before that is worth a condition."""
    mark = max((time for time in (recorded(status), children.newest_slot) if time), default=None)
    newest = schedule.timetable.newest(after=mark or created, now=now)
    if newest is None and mark is None and schedule.immediately and created <= now:
        newest = created
    if schedule.pause or (was_paused(status) and newest):
        # What falls into a pause is left out for good; the pass after it finds nothing to make up for.
        return Slots(mark=newest or mark, next=None if schedule.pause else schedule.timetable.following(now))
    if newest is None:
        stall = None
        if mark and mark > now:
            stall = Stall(
                reason="ClockBehind", message=f"the clock is behind the newest run, {stamp(mark)}; nothing is due before"
            )
        return Slots(mark=mark, next=schedule.timetable.following(max(now, mark or now)), stall=stall)
    if stall := _obstacle(schedule, children, newest, now, others):
        missed = stall.reason == "DeadlineMissed"
        return Slots(mark=mark, next=schedule.timetable.following(now) if missed else newest, stall=stall)
    if newest + patience <= now:
        message = f"the run of {stamp(newest)} is late: its Backup does not exist yet; the schedule's events say why"
        stall = Stall(reason="NotCreated", message=message, slot=newest)
    return Slots(due=newest, mark=mark, next=schedule.timetable.following(now), stall=stall)


def _obstacle(schedule: Schedule, children: Children, slot: datetime, now: datetime, others: Sequence[str]) -> Stall | None:
    """What keeps the run of *slot* from beginning."""
    run = f"the run of {stamp(slot)}"
    if schedule.deadline is not None and now - slot > schedule.deadline:
        seconds = int(schedule.deadline.total_seconds())
        return Stall(
            reason="DeadlineMissed", message=f"{run} could not begin within startingDeadlineSeconds: {seconds}", slot=slot
        )
    if schedule.forbid and (running := children.running):
        return Stall(reason="PreviousRunning", message=f"{run} waits for {running[0]}, which is still under way", slot=slot)
    if others:
        return Stall(
            reason="GroupRunning", message=f"{run} waits for {others[0]} of the same group, still under way", slot=slot
        )
    return None
