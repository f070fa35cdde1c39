"""One pass of a BackupSchedule: what to make, what retention lets go, and the status that says so.

================== ==========================================================================================
the spec is wrong  condition ``Invalid``; nothing is made, nothing deleted, the rest of the status stays
``pause``          nothing is made, slots pass by for good; retention goes on
otherwise          the newest due slot (:mod:`app.domain.schedule.slots`), the log backup, a compaction that is due
always             retention (:mod:`app.domain.schedule.retention`), truncation target, recovery window
the clock is wrong nothing is made, nothing deleted (:mod:`app.domain.schedule.clock`); a pass that would act asks first
being deleted      nothing: the children go by their owner references, each by its own cleanPolicy
================== ==========================================================================================
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.observed import Object, Observed, controlled_by, items, metadata, name_of, part
from app.domain.schedule import children as scheduled
from app.domain.schedule import clock as clocks
from app.domain.schedule import compaction, slots
from app.domain.schedule import log as schedule_log
from app.domain.schedule import spec as schedule_spec
from app.domain.schedule.children import BACKUPS, COMPACTIONS, Children
from app.domain.schedule.clock import TOLERANCE, Clock
from app.domain.schedule.compaction import Compactions, Stretch
from app.domain.schedule.log import Log
from app.domain.schedule.retention import Compaction, Hold, Item, Rule, State, Verdict, plan, plan_compactions
from app.domain.schedule.slots import NAME_TAKEN, Slots, Stall, Terms
from app.domain.schedule.spec import Schedule, ScheduleError
from app.domain.times import edited_at, last_edit, moment, stamp, witnessed
from crds.contract import names, tso

INVALID: Final = "Invalid"
STALLED: Final = "ScheduleStalled"
HELD: Final = "RetentionHeld"
UNCONFIRMED: Final = "ClockUnconfirmed"
_MAX_MESSAGE: Final = 1024
_MAX_EXPIRING: Final = 10
_HELD_RULES: Final = frozenset({Rule.UNREADABLE, Rule.CLOCK})
_LOOK_AGAIN: Final = frozenset({Rule.NEXT_PASS, Rule.CLOCK})
"""Rules that end by themselves, and no event says when: clocks that differ by seconds agree moments later."""
_ANSWER_SOON: Final = timedelta(seconds=5)
"""The write that asks for the API server's time brings the next pass; this is for the case that it does not."""


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
    """What one pass looks at. *hold* keeps it from making and deleting anything. *timetable* and *check* go to the status."""

    observed: Observed
    schedule: Schedule
    children: Children
    slots: Slots
    log: Log | None
    compactions: Compactions
    clock: Clock
    created: datetime
    now: datetime
    config: Config
    timetable: Mapping[str, Any]
    check: Mapping[str, Any] | None
    ahead: bool = False
    hold: Hold | None = None

    @property
    def status(self) -> Mapping[str, Any]:
        return self.observed.status


def load_schedule(observed: Observed, created: datetime, config: Config) -> tuple[Schedule, Children, Log | None]:
    """The spec, the children and the log backup, the policy being the one that holds beside that log. Raises ScheduleError.

    With :func:`~app.domain.schedule.retention.plan` this is all that decides what goes, for the hook as for ``tidb-backup
    plan``.
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
    clock = clocks.judge(observed.parent, observed.status, now)
    begun = _begun(observed, now, clock)
    created = begun.created
    try:
        schedule, children, log = load_schedule(observed, created, config)
    except ScheduleError as error:
        return _refused(observed, str(error), config)
    asked = moment(part(observed.status, "clockCheck").get("shown"))
    since = max(begun.since or created, created)
    given = replace(terms(observed, created, now, children), since=since, confirmed=clock.confirmed, asked=asked)
    done = compaction.read(
        children.compactions,
        before=moment(observed.status.get("lastCompactProgress")),
        log_start=log.started if log else None,
        taken=children.taken,
    )
    current = _Pass(
        observed=observed,
        schedule=schedule,
        children=children,
        slots=slots.evaluate(schedule, children, observed.status, observed.name, given),
        log=log,
        compactions=done,
        clock=clock,
        created=created,
        now=now,
        config=config,
        timetable={**_timetable(observed, now), "since": stamp(begun.since) if begun.since else None},
        ahead=begun.ahead,
        check=clock.check if clock.trusted else part(observed.status, "clockCheck") or None,
    )
    decision = _decision(current)
    if clock.trusted or not (clock.reason or _acts(current, decision)):
        return decision
    return _decision(_held(current))


def terms(observed: Observed, created: datetime, now: datetime, children: Children) -> Terms:
    """What the slots of the observed schedule are judged by, with a clock of which nothing is known."""
    since = moment(_timetable(observed, now).get("since"))
    return Terms(created=created, since=max(since or created, created), now=now, others=_group(observed, children))


def _timetable(observed: Observed, now: datetime) -> dict[str, Any]:
    """``status.timetable``: which times ``lastScheduleTime`` belongs to, and since when, where they were edited. Slots from
    before the edit were none then, so they are not missed now."""
    spec, before = observed.spec, part(observed.status, "timetable")
    ours = {"schedule": str(spec.get("schedule") or ""), "timeZone": str(spec.get("timeZone") or "")}
    if not before or (before.get("schedule"), before.get("timeZone") or "") == (ours["schedule"], ours["timeZone"]):
        since = moment(before.get("since"))
    else:
        since = last_edit(observed.parent) or now
    return {"schedule": ours["schedule"], "timeZone": ours["timeZone"] or None, "since": stamp(since) if since else None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """From when a schedule counts: its creation, and the edit of its times. *ahead*: one of them lies in the future."""

    created: datetime
    since: datetime | None
    ahead: bool


def _begun(observed: Observed, now: datetime, clock: Clock) -> _Begun:
    """From when the observed schedule counts.

    A time in the future was put down while a clock was wrong, the API server's perhaps, and would stop the schedule until then.
    Once our clock is borne out, the schedule counts from the time that bore it out instead;
    ``status.timetable.since`` keeps that.
    """
    present, limit = now.replace(microsecond=0), now + TOLERANCE
    # A CR that was never in a cluster (a dry run) begins now.
    created = moment(metadata(observed.parent).get("creationTimestamp")) or present
    since = moment(_timetable(observed, now).get("since"))
    if since and since <= limit:
        created = min(created, since)
    ahead = max(created, since or created) > limit
    if ahead and clock.trusted:
        borne_out = witnessed(observed.parent) or moment(part(observed.status, "clockCheck").get("shown")) or present
        return _Begun(created=min(created, borne_out), since=borne_out, ahead=False)
    return _Begun(created=created, since=since, ahead=ahead)


def _acts(current: _Pass, decision: Decision[ScheduleIntent]) -> bool:
    """Whether *decision* does anything because of the time: then the clock has to be borne out first."""
    moved = decision.status.get("lastScheduleTime") != current.status.get("lastScheduleTime")
    behind = current.slots.stall is not None and current.slots.stall.reason == clocks.BEHIND
    return bool(decision.create or decision.drop) or moved or behind or current.ahead


def _held(current: _Pass) -> _Pass:
    """The same pass with a clock that is wrong, or has to be borne out first: nothing that depends on it changes."""
    clock, before = current.clock, current.status
    stall: Stall | None
    if clock.reason:
        stall, hold = Stall(reason=clock.reason, message=clock.message, slot=clock.at), (Rule.CLOCK, clock.message)
    else:
        stall, hold = _unanswered(current), (Rule.NEXT_PASS, "the API server is asked for its time first")
    waits = Slots(mark=_witnessed_mark(current), next=moment(before.get("nextBackupTime")), stall=stall)
    return replace(current, slots=waits, hold=hold, check=clock.check)


def _unanswered(current: _Pass) -> Stall | None:
    """Where the CRD is older than the webhook, the API server drops ``clockCheck`` and ``timetable``: nothing would be written,
    and no time come back. Then it is this condition that is written; it changes as often as the question is to be repeated."""
    if not current.status or part(current.status, "timetable"):
        return None
    step = TOLERANCE.total_seconds()
    asked = datetime.fromtimestamp(current.now.timestamp() // step * step, UTC)
    message = (
        f"the API server is asked for its time since {stamp(asked)}, nothing is made or deleted before it answers. Should this "
        "stay, the CRD of BackupSchedule is not that of this version: apply its CRDs"
    )
    return Stall(reason=UNCONFIRMED, message=message)


def _witnessed_mark(current: _Pass) -> datetime | None:
    """The newest slot that is dealt with, as far as our clock has no part in it: what is put down, and the run of which a
    Backup is observed that the API server says was made when its time had come. Then it may be deleted by hand."""
    known, newest = moment(current.status.get("lastScheduleTime")), current.children.newest
    if newest is None or newest.slot is None or newest.created is None or newest.slot > newest.created + TOLERANCE:
        return known
    return max(known, newest.slot) if known else newest.slot


def _group(observed: Observed, children: Children) -> list[str]:
    """The Backups of the schedule's group that are under way, its own left out."""
    group = part(metadata(observed.parent), "labels").get(names.SCHEDULE_GROUP_LABEL)
    if not group:
        return []
    related = [
        backup
        for backup in (observed.related.get(BACKUPS) or {}).values()
        if part(metadata(backup), "labels").get(names.SCHEDULE_GROUP_LABEL) == group
    ]
    return scheduled.group_running(related, (item.name for item in children.items))


def _refused(observed: Observed, problem: str, config: Config) -> Decision[ScheduleIntent]:
    """The decision on a spec that cannot work."""
    status = {key: value for key, value in observed.status.items() if key not in {"conditions", "nextBackupTime"}}
    status["conditions"] = [_condition(INVALID, "InvalidSpec", problem, edited_at(observed.parent))]
    return Decision(status=status, resync_after=config.resync, warnings=(problem[:_MAX_MESSAGE],))


def _decision(current: _Pass) -> Decision[ScheduleIntent]:
    verdicts = plan(current.children.items, current.schedule.policy, current.now, hold=current.hold)
    compactions = _compaction_verdicts(current)
    drops = [Drop(kind=BACKUPS, name=verdict.name, rule=verdict.rule) for verdict in _to_drop(current, verdicts)]
    drops += [
        Drop(kind=COMPACTIONS, name=verdict.name, rule=verdict.rule)
        for verdict in compactions
        if not verdict.keep and verdict.rule != Rule.DELETING
    ]
    held = next((verdict for verdict in verdicts if verdict.rule in _HELD_RULES), None)
    intents = [] if current.hold else list(_intents(current))
    return Decision(
        status=_status(current, verdicts, held, intents),
        create=intents,
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
    found = []
    for item in current.children.compactions:
        meta = metadata(item)
        state = State.DELETING if meta.get("deletionTimestamp") else states.get(compaction.state_of(item), State.RUNNING)
        made = moment(meta.get("creationTimestamp")) or current.now
        found.append(Compaction(str(meta.get("name")), state, made, compaction.end_of(item)))
    oldest = current.children.oldest_commit
    broken = any(item.problem for item in current.children.items)
    least = tso.to_datetime(oldest) if oldest and not broken else None
    return plan_compactions(found, current.schedule.policy, current.now, oldest=least, hold=current.hold)


def _intents(current: _Pass) -> Iterable[ScheduleIntent]:
    """What is to be made in this pass."""
    if current.schedule.pause:
        return
    schedule = current.observed.name
    if current.schedule.log and current.log is None and _in_the_way(current) is None:
        since = current.schedule.timetable.newest(after=current.created, now=current.now) or current.created
        yield LogBackup(name=scheduled.log_name(schedule), since=since)
    if current.slots.due:
        yield Snapshot(name=names.slot_backup(schedule, current.slots.due), slot=current.slots.due)
    if current.log and (stretch := compaction.due(schedule, current.schedule, current.log, current.compactions, current.now)):
        yield CompactLog(name=stretch.name, stretch=stretch, log=current.log.backup)


def _in_the_way(current: _Pass) -> Object | None:
    """The Backup that has the name of the schedule's log backup, which is not observed as such."""
    name = scheduled.log_name(current.observed.name)
    key = f"{current.observed.namespace}/{name}"
    return (current.observed.related.get(BACKUPS) or {}).get(key) or (current.observed.children.get(BACKUPS) or {}).get(key)


def _log_stall(current: _Pass) -> Stall | None:
    """The log backup that cannot be made, since a Backup of its name is there that the schedule did not make."""
    if not current.schedule.log or current.log or (found := _in_the_way(current)) is None:
        return None
    observed, meta, name = current.observed, metadata(found), name_of(found)
    if controlled_by(meta, observed.uid) and not current.children.foreign(name):
        return None  # ours, and moments later among the children
    text = f"the log backup cannot be made: Backup {name} is there, and this schedule did not make it. "
    if scheduled.is_log(found) and not meta.get("ownerReferences"):
        label = f"kubectl label backup {name} -n {observed.namespace} {names.CONTROLLER_UID_LABEL}={observed.uid}"
        text += f"If it is the log of the same cluster, hand it over: {label}; else give this schedule another name"
    else:
        text += "Give this schedule another name, or that Backup"
    return Stall(reason=NAME_TAKEN, message=text)


def _not_created(current: _Pass, intents: Sequence[ScheduleIntent]) -> Iterable[Stall]:
    """What was asked for before and is asked for again. Metacontroller says nothing where the name is taken."""
    asked = current.status.get("requested")
    for intent in intents:
        if not isinstance(asked, list) or intent.name not in asked:
            continue
        kind = "CompactBackup" if isinstance(intent, CompactLog) else "Backup"
        run = f"the run of {stamp(intent.slot)} has not begun: " if isinstance(intent, Snapshot) else ""
        text = (
            f"{run}{kind} {intent.name} was asked for and is not among this schedule's. Either Kubernetes refused it (events: "
            f"kubectl describe backupschedule {current.observed.name}), or one is there that this schedule did not make "
            f"(kubectl get {kind.lower()} {intent.name}): then set its cleanPolicy to Retain and delete it, its data stays"
        )
        yield Stall(reason="NotCreated", message=text, slot=intent.slot if isinstance(intent, Snapshot) else None)


def _wait(current: _Pass, verdicts: Sequence[Verdict], compactions: Sequence[Verdict]) -> float:
    """Seconds until the clock alone may change the decision."""
    now = current.now
    if current.hold:
        return current.config.resync if current.clock.reason else _ANSWER_SOON.total_seconds()
    waits = [verdict.until - now for verdict in verdicts if verdict.until and verdict.until > now]
    if current.schedule.pause or current.slots.stall:
        waits.append(current.schedule.timetable.following(now) - now)
    elif current.slots.next:
        waits.append(current.slots.next - now)
    if current.slots.due or any(verdict.rule in _LOOK_AGAIN for verdict in (*verdicts, *compactions)):
        waits.append(timedelta(seconds=current.config.resync))
    if rest := compaction.wait(current.schedule, current.compactions, now):
        waits.append(rest)
    soonest = min((wait for wait in waits if wait > timedelta(0)), default=timedelta(seconds=current.config.resync))
    return soonest.total_seconds()


def _condition(kind: str, reason: str, message: str, at: datetime | None) -> dict[str, Any]:
    text = message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}..."
    condition = {"type": kind, "status": "True", "reason": reason, "message": text}
    return {**condition, "lastTransitionTime": stamp(at)} if at else condition


def _conditions(current: _Pass, held: Verdict | None, intents: Sequence[ScheduleIntent]) -> list[dict[str, Any]]:
    """Only what holds is listed; each time is one of the objects' or a slot, never the present."""
    conditions = []
    if current.schedule.pause:
        text = "no Backups are made while spec.pause is set; retention goes on"
        conditions.append(_condition(slots.PAUSED, "Paused", text, edited_at(current.observed.parent)))
    log = None if current.schedule.pause else _log_stall(current)
    stalls = [stall for stall in (current.slots.stall, log, *_not_created(current, intents)) if stall]
    if stalls:
        words = "; ".join(stall.message for stall in stalls)
        conditions.append(_condition(STALLED, stalls[0].reason, words, stalls[0].slot))
    if held:
        reason = "Unreadable" if held.rule == Rule.UNREADABLE else current.clock.reason or clocks.BEHIND
        conditions.append(_condition(HELD, reason, f"retention deletes nothing: {held.detail}", None))
    return conditions


def _status(
    current: _Pass, verdicts: Sequence[Verdict], held: Verdict | None, intents: Sequence[ScheduleIntent]
) -> dict[str, Any]:
    before, children = current.status, current.children
    status = {
        **before,
        **_last_backup(current),
        "lastScheduleTime": current.slots.mark,
        "nextBackupTime": current.slots.next,
        "lastSuccessTime": _last_success(current),
        "timetable": {key: value for key, value in current.timetable.items() if value is not None},
        "clockCheck": current.check,
        "requested": sorted(intent.name for intent in intents) or None,
        "retention": before.get("retention") if current.hold else _kept(verdicts, children.items),
        "conditions": _conditions(current, held, intents) or None,
        **_log_status(current),
    }
    if children.compactions or before.get("lastCompact"):
        status |= compaction.status(current.compactions, before)
    return {key: stamp(value) if isinstance(value, datetime) else value for key, value in status.items() if value is not None}


def clock_hold(status: Mapping[str, Any]) -> Hold | None:
    """Why retention deletes nothing while the webhook's clock is wrong, as the received *status* says."""
    for item in items(status.get("conditions")):
        if item.get("type") == STALLED and item.get("reason") in {clocks.AHEAD, clocks.BEHIND} and item.get("status") == "True":
            return Rule.CLOCK, str(item.get("message") or "")
    return None


def _last_backup(current: _Pass) -> dict[str, Any]:
    """The newest run that a Backup was observed for. Once none is left its time moves on, as upstream's does."""
    before, children = current.status, current.children
    known, newest = moment(before.get("lastBackupTime")), children.newest
    if current.clock.confirmed:
        limit = current.now + TOLERANCE
        newest, known = children.newest_until(limit), known if known and known <= limit else None
    if newest and newest.slot and (known is None or newest.slot >= known or not before.get("lastBackup")):
        return {"lastBackup": newest.name, "lastBackupTime": newest.slot, "allBackupCleanTime": None}
    if before.get("lastBackup") and all(item.state is State.FOREIGN for item in children.items):
        return {"lastBackup": None, "lastBackupTime": None, "allBackupCleanTime": current.slots.mark}
    return {}


def _last_success(current: _Pass) -> datetime | None:
    """When a Backup was last complete, also after that Backup has gone."""
    item = current.children.newest_success
    known = moment(current.status.get("lastSuccessTime"))
    if item is None:
        return known
    backup = (current.observed.children.get(BACKUPS) or {}).get(f"{current.observed.namespace}/{item.name}") or {}
    completed = moment(part(backup, "status").get("timeCompleted")) or item.time
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
