"""One pass of a BackupSchedule: what to make, what retention lets go, and the status that says so.

================== ==========================================================================================
the spec is wrong  condition ``Invalid``; nothing is made, nothing deleted, the rest of the status stays
``pause``          nothing is made, slots pass by for good; retention goes on
otherwise          the newest due slot (:mod:`app.domain.slots`), the log backup, a compaction that is due
always             retention (:mod:`app.domain.retention`), truncation target, recovery window
being deleted      nothing: the children go by their owner references, each by its own cleanPolicy
================== ==========================================================================================
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain import compaction, schedule_log, schedule_spec, scheduled, slots
from app.domain.compaction import Compactions, Stretch
from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.observed import Object, Observed, metadata
from app.domain.retention import Compaction, Item, Rule, State, Verdict, plan, plan_compactions
from app.domain.schedule_log import Log
from app.domain.schedule_spec import Schedule, ScheduleError
from app.domain.scheduled import BACKUPS, COMPACTIONS, Children
from app.domain.slots import Slots
from app.domain.times import edited_at, moment, stamp
from crds import names, tso

INVALID: Final = "Invalid"
STALLED: Final = "ScheduleStalled"
HELD: Final = "RetentionHeld"
_MAX_MESSAGE: Final = 1024
_MAX_EXPIRING: Final = 10
_HELD_RULES: Final = frozenset({Rule.UNREADABLE, Rule.CLOCK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A Backup to be made for a slot."""

    name: str
    slot: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBackup:
    """The log backup to be made; *since* makes its folder unique."""

    name: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactLog:
    """A compaction to be made, of what *log* wrote."""

    name: str
    stretch: Stretch
    log: Object


ScheduleIntent = Snapshot | LogBackup | CompactLog


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What one pass looks at."""

    observed: Observed
    schedule: Schedule
    children: Children
    slots: Slots
    log: Log | None
    compactions: Compactions
    now: datetime
    config: Config

    @property
    def status(self) -> Mapping[str, Any]:
        return self.observed.status


def survey(observed: Observed, created: datetime, config: Config) -> tuple[Schedule, Children, Log | None]:
    """The spec, the children and the log backup, the policy being the one that holds beside that log. Raises ScheduleError.

    With :func:`~app.domain.retention.plan` this is all that decides what goes, for the hook as for ``tidb-backup plan``.
    """
    schedule = schedule_spec.read(observed.spec, created=created, config=config)
    children = scheduled.read(observed, epoch=created)
    log = schedule_log.read(children)
    if log:
        schedule = replace(schedule, policy=replace(schedule.policy, pitr=True, checkpoint=log.reached))
    return schedule, children, log


def decide(observed: Observed, now: datetime, config: Config) -> Decision[ScheduleIntent]:
    """Sync and finalize of a BackupSchedule."""
    if observed.finalizing:
        return Decision(status=observed.status, finalized=True)
    # A CR that was never in a cluster (a dry run) begins now.
    created = moment(metadata(observed.parent).get("creationTimestamp")) or now.replace(microsecond=0)
    try:
        schedule, children, log = survey(observed, created, config)
    except ScheduleError as error:
        return _refused(observed, str(error), config)
    due = slots.evaluate(
        schedule,
        children,
        observed.status,
        created=created,
        now=now,
        others=_group(observed, children),
        patience=timedelta(seconds=config.start_deadline),
    )
    done = compaction.read(
        children.compactions,
        before=moment(observed.status.get("lastCompactProgress")),
        log_start=log.started if log else None,
    )
    current = _Pass(
        observed=observed, schedule=schedule, children=children, slots=due, log=log, compactions=done, now=now, config=config
    )
    return _decision(current, created)


def _group(observed: Observed, children: Children) -> list[str]:
    """The Backups of the schedule's group that are under way, its own left out."""
    if not (metadata(observed.parent).get("labels") or {}).get(names.SCHEDULE_GROUP_LABEL):
        return []
    related = (observed.related.get(BACKUPS) or {}).values()
    return scheduled.group_running(related, (item.name for item in children.items))


def _refused(observed: Observed, problem: str, config: Config) -> Decision[ScheduleIntent]:
    """The decision on a spec that cannot work."""
    status = {key: value for key, value in observed.status.items() if key not in {"conditions", "nextBackupTime"}}
    status["conditions"] = [_condition(INVALID, "InvalidSpec", problem, edited_at(observed.parent))]
    return Decision(status=status, resync_after=config.resync, warnings=(problem[:_MAX_MESSAGE],))


def _decision(current: _Pass, created: datetime) -> Decision[ScheduleIntent]:
    verdicts = plan(current.children.items, current.schedule.policy, current.now)
    compactions = _compaction_verdicts(current)
    drops = [Drop(kind=BACKUPS, name=verdict.name, rule=verdict.rule) for verdict in _to_drop(current, verdicts)]
    drops += [
        Drop(kind=COMPACTIONS, name=verdict.name, rule=verdict.rule)
        for verdict in compactions
        if not verdict.keep and verdict.rule != Rule.DELETING
    ]
    held = next((verdict for verdict in verdicts if verdict.rule in _HELD_RULES), None)
    return Decision(
        status=_status(current, verdicts, held),
        create=list(_intents(current, created)),
        drop=drops,
        resync_after=_wait(current, verdicts, compactions),
        warnings=[f"retention deletes nothing: {held.detail}"] if held else [],
    )


def _to_drop(current: _Pass, verdicts: Sequence[Verdict]) -> Iterable[Verdict]:
    """The Backups to be deleted now. One whose slot the *received* status does not know yet waits for the next pass: until
    then it is the only witness that its slot was dealt with."""
    known = slots.recorded(current.status)
    slot_of = {item.name: item.slot for item in current.children.items}
    for verdict in verdicts:
        if verdict.keep or verdict.rule == Rule.DELETING:
            continue
        slot = slot_of[verdict.name]
        if slot is None or (known is not None and slot <= known):
            yield verdict


def _compaction_verdicts(current: _Pass) -> list[Verdict]:
    if not current.schedule.limited or not current.children.compactions:
        return []
    states = {"Complete": State.COMPLETE, "Failed": State.FAILED}
    items = []
    for found in current.children.compactions:
        meta = metadata(found)
        state = State.DELETING if meta.get("deletionTimestamp") else states.get(compaction.state_of(found), State.RUNNING)
        made = moment(meta.get("creationTimestamp")) or current.now
        items.append(Compaction(str(meta.get("name")), state, made, compaction.end_of(found)))
    oldest = current.children.oldest_commit
    broken = any(item.problem for item in current.children.items)
    return plan_compactions(
        items, current.schedule.policy, current.now, oldest=tso.to_datetime(oldest) if oldest and not broken else None
    )


def _intents(current: _Pass, created: datetime) -> Iterable[ScheduleIntent]:
    """What is to be made in this pass."""
    if current.schedule.pause:
        return
    schedule = current.observed.name
    if current.schedule.log and current.log is None:
        since = current.schedule.timetable.newest(after=created, now=current.now) or created
        yield LogBackup(name=schedule_log.log_name(schedule), since=since)
    if current.slots.due:
        yield Snapshot(name=names.slot_backup(schedule, current.slots.due), slot=current.slots.due)
    if current.log and (stretch := compaction.due(schedule, current.schedule, current.log, current.compactions, current.now)):
        yield CompactLog(name=stretch.name, stretch=stretch, log=current.log.backup)


def _wait(current: _Pass, verdicts: Sequence[Verdict], compactions: Sequence[Verdict]) -> float:
    """Seconds until the clock alone may change the decision."""
    now = current.now
    waits = [verdict.until - now for verdict in verdicts if verdict.until and verdict.until > now]
    if current.schedule.pause or current.slots.stall:
        waits.append(current.schedule.timetable.following(now) - now)
    elif current.slots.next:
        waits.append(current.slots.next - now)
    if current.slots.due or any(verdict.rule == Rule.NEXT_PASS for verdict in (*verdicts, *compactions)):
        waits.append(timedelta(seconds=current.config.resync))
    if rest := compaction.wait(current.schedule, current.compactions, now):
        waits.append(rest)
    soonest = min((wait for wait in waits if wait > timedelta(0)), default=timedelta(seconds=current.config.resync))
    return soonest.total_seconds()


def _condition(kind: str, reason: str, message: str, at: datetime | None) -> dict[str, Any]:
    text = message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}..."
    condition = {"type": kind, "status": "True", "reason": reason, "message": text}
    return {**condition, "lastTransitionTime": stamp(at)} if at else condition


def _conditions(current: _Pass, held: Verdict | None) -> list[dict[str, Any]]:
    """Only what holds is listed; each time is one of the objects' or a slot, never the present."""
    conditions = []
    if current.schedule.pause:
        text = "no Backups are made while spec.pause is set; retention goes on"
        conditions.append(_condition(slots.PAUSED, "Paused", text, edited_at(current.observed.parent)))
    if stall := current.slots.stall:
        conditions.append(_condition(STALLED, stall.reason, stall.message, stall.slot))
    if held:
        reason = "Unreadable" if held.rule == Rule.UNREADABLE else "ClockBehind"
        conditions.append(_condition(HELD, reason, f"retention deletes nothing: {held.detail}", None))
    return conditions


def _status(current: _Pass, verdicts: Sequence[Verdict], held: Verdict | None) -> dict[str, Any]:
    before, children = current.status, current.children
    status = {
        **before,
        **_last_backup(current),
        "lastScheduleTime": current.slots.mark,
        "nextBackupTime": current.slots.next,
        "lastSuccessTime": _last_success(current),
        "retention": _kept(verdicts, children.items),
        "conditions": _conditions(current, held) or None,
        **_log_status(current),
    }
    if children.compactions or before.get("lastCompact"):
        status |= compaction.status(current.compactions, before)
    return {key: stamp(value) if isinstance(value, datetime) else value for key, value in status.items() if value is not None}


def _last_backup(current: _Pass) -> dict[str, Any]:
    """The newest run that a Backup was observed for. Once none is left its time moves on, as upstream's does."""
    before, children = current.status, current.children
    known = moment(before.get("lastBackupTime"))
    if children.newest_slot and (known is None or children.newest_slot >= known or not before.get("lastBackup")):
        return {"lastBackup": children.newest_name, "lastBackupTime": children.newest_slot, "allBackupCleanTime": None}
    if not children.items and before.get("lastBackup"):
        return {"lastBackup": None, "lastBackupTime": None, "allBackupCleanTime": current.slots.mark}
    return {}


def _last_success(current: _Pass) -> datetime | None:
    """When a Backup was last complete, also after that Backup has gone."""
    item = current.children.newest_success
    known = moment(current.status.get("lastSuccessTime"))
    if item is None:
        return known
    backup = (current.observed.children.get(BACKUPS) or {}).get(f"{current.observed.namespace}/{item.name}") or {}
    completed = moment((backup.get("status") or {}).get("timeCompleted")) or item.time
    return max(completed, known) if known else completed


def _kept(verdicts: Sequence[Verdict], items: Sequence[Item]) -> dict[str, Any]:
    """``status.retention``: how many stay, how old the oldest is, which go next."""
    complete = {item.name: item.time for item in items if item.state is State.COMPLETE}
    stay = [complete[verdict.name] for verdict in verdicts if verdict.keep and verdict.name in complete]
    dated = [(verdict.until, verdict) for verdict in verdicts if verdict.keep and verdict.until]
    soonest = sorted(dated, key=lambda pair: (pair[0], pair[1].name))[:_MAX_EXPIRING]
    kept: dict[str, Any] = {"kept": len(stay)}
    if stay:
        kept["oldest"] = stamp(min(stay))
    if soonest:
        kept["expiring"] = [{"name": item.name, "rule": str(item.rule), "until": stamp(until)} for until, item in soonest]
    return kept


def _log_status(current: _Pass) -> dict[str, Any]:
    """The fields about the log. Without a log backup what was known of it stays, except what can no longer be promised."""
    log, before = current.log, current.status
    if log is None:
        return {"recoveryWindow": None, "logTruncateUntil": None}
    progress = current.compactions.progress
    cap = None if current.schedule.compaction is None else tso.from_datetime(progress) if progress else 0
    until = schedule_log.truncate_until(log, current.children, before=str(before.get("logTruncateUntil") or ""), cap=cap)
    return {
        "logBackup": log.name,
        "logBackupStartTs": log.started,
        "logTruncateUntil": (until or None) if current.schedule.limited else None,
        "recoveryWindow": schedule_log.recovery_window(log, current.children),
    }
