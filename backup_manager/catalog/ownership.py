"""Who owns a path: the transitions of docs/adr/0001-path-ownership.md, as functions from the record that was read to the record
to write.

Nothing here reads or writes. :class:`backup_manager.catalog.records.Records` reads the record, asks for the transition, and
writes the result under the condition that the record is still the one that was read; when it is not, it asks again. No time is
compared.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from backup_manager.catalog.record import Attempt, Cleaned, Owner, Past, Record, Role, State
from backup_manager.content import Content
from backup_manager.errors import ClaimedError, NotFoundError, StorageError, SupersededError
from crds.contract import names
from crds.contract.paths import ATTEMPT_FOLDER
from crds.contract.report import Problem

_PAST: Final = 5
FORCE: Final = 'tidb.pingcap.com/force-delete: "true"'


class Fence(StrEnum):
    """What keeps the writes of an earlier attempt, which may still run, apart from those of this one.

    *FOLDER*: a folder of its own. *TOOL*: the tool's own lock (br's, on its checkpoint). *NONE*: nothing, so that every earlier
    attempt must have been seen to end.
    """

    FOLDER = "folder"
    TOOL = "tool"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The process that asks: the CR it works for, its identity, and the attempts of which it knows that they ended."""

    owner: Owner
    id: str
    pod: str = ""
    ended: Set[str] = frozenset()

    def attempt(self, number: int, role: Role) -> Attempt:
        """Its attempt *number* on a path."""
        return Attempt(number=number, id=self.id, role=role, owner=self.owner.uid, pod=self.pod)

    def still_open(self, record: Record) -> tuple[Attempt, ...]:
        """The attempts of *record* that may still run, without this process's own."""
        return tuple(attempt for attempt in record.open if attempt.id != self.id and attempt.id not in self.ended)


def claim(there: Record | None, wanted: Record, actor: Actor, fence: Fence) -> Record:
    """The record after *actor* claimed the path to write to it; *there* itself when an attempt of its CR completed it already.

    *wanted* is a first claim. Raises ClaimedError when the path is another's, is being cleaned, or may still be written to or
    deleted from by an attempt that has not ended.
    """
    if there is None:
        return wanted.but(attempt=actor.attempt(1, Role.WRITE), open=(actor.attempt(1, Role.WRITE),), neighbours_checked=False)
    if there.live and (there.owner.uid != actor.owner.uid or there.state is State.CLEANING):
        raise claimed(wanted.backup_path, there)
    if there.state is State.COMPLETE:
        return there
    others = actor.still_open(there)
    if others and not _is_fenced(there, others, actor, fence):
        raise in_use(wanted.backup_path, others[0])
    number = there.attempts + 1
    attempt = actor.attempt(number, Role.WRITE)
    update = {
        "attempts": number,
        "attempt": attempt,
        "open": (*others, attempt),
        "revision": there.revision + 1,
        "unknown": there.unknown,
    }
    apart = fence is Fence.FOLDER and (others or (there.live and there.neighbours_checked))
    if not there.live:
        update |= {"past": _past_lives(there), "neighbours_checked": False, "data": _folder(number) if apart else ""}
        return wanted.but(**update)
    return there.but(
        state=State.CLAIMED,
        problem=None,
        spec=wanted.spec,
        operation=wanted.operation,
        data=_folder(number) if apart else "",
        **{name: value for name, value in update.items() if name != "unknown"},
    )


def _is_fenced(there: Record, others: tuple[Attempt, ...], actor: Actor, fence: Fence) -> bool:
    """Whether *actor* may claim beside *others*: its own CR's writers, with something that keeps their writes apart. A cleaner
    deletes everything under the path, so nothing protects from one."""
    ours = there.owner.uid == actor.owner.uid and all(a.role is Role.WRITE and a.owner == actor.owner.uid for a in others)
    return ours and (fence is Fence.FOLDER or (fence is Fence.TOOL and there.live))


def _folder(number: int) -> str:
    return f"{ATTEMPT_FOLDER}{number}"


def refuse(there: Record | None, wanted: Record, actor: Actor, problem: Problem) -> Record:
    """The record after a claim of *actor* was refused since the path holds data which no record explains: a withdrawn claim, so
    that a clean of this CR knows that the data is not its own. *there* itself when it belongs to somebody."""
    withdrawn = {"state": State.CLEANED, "withdrawn": True, "problem": problem}
    if there is None:
        return wanted.but(**withdrawn)
    if there.live or (there.withdrawn and there.owner.uid == actor.owner.uid and there.cleaner is None):
        return there
    return wanted.but(
        **withdrawn,
        attempts=there.attempts,
        open=there.open,
        revision=there.revision + 1,
        past=_past_lives(there),
        unknown=there.unknown,
    )


def admit(there: Record | None, mine: Record) -> Record:
    """The record after the claim *mine* got past the check of its neighbours. Raises SupersededError."""
    found = _held(there, mine)
    return found.but(neighbours_checked=True, revision=found.revision + 1)


def withdraw(there: Record | None, mine: Record, problem: Problem) -> Record:
    """The record after the claim *mine* was given back, since a neighbour of the path is another's. Raises SupersededError.

    A CR of which no attempt got past that check has written nothing: its claim becomes a tombstone. Else the path stays its.
    """
    found = _held(there, mine)
    update = {"open": _without(found, mine.attempt), "revision": found.revision + 1}
    if found.neighbours_checked:
        return found.but(state=State.FAILED, problem=problem, **update)
    return found.but(state=State.CLEANED, withdrawn=True, problem=problem, **update)


def complete(there: Record | None, mine: Record, account: Mapping[str, Any]) -> Record:
    """The record after the attempt of *mine* completed its data, with the fields of *account*. Raises SupersededError."""
    found = _held(there, mine)
    rest = {"open": _without(found, mine.attempt), "revision": found.revision + 1}
    return found.but(**account, state=State.COMPLETE, problem=None, **rest)


def fail(there: Record | None, mine: Record, problem: Problem) -> Record:
    """The record after the attempt of *mine* failed; the path stays its owner's. Raises SupersededError."""
    found = _held(there, mine)
    return found.but(state=State.FAILED, problem=problem, open=_without(found, mine.attempt), revision=found.revision + 1)


def close(there: Record | None, attempt: Attempt | None) -> Record | None:
    """The record after *attempt* ended without changing the state; None when it is not noted as open."""
    if there is None or attempt is None or all(not _same(found, attempt) for found in there.open):
        return None
    return there.but(open=_without(there, attempt), revision=there.revision + 1)


def note_log(there: Record | None, owner: Owner, *, start: int, end: int) -> Record | None:
    """The record of a log backup with the ends of its log, TSOs of which 0 leaves the old one; None when nothing changes, or
    the path is not *owner*'s to write to. A log that begins after the old end has no end yet."""
    if there is None or there.state is not State.CLAIMED or there.owner.uid != owner.uid:
        return None
    before = there.content or Content()
    last = end or (int(before.end_ts or 0) if int(before.end_ts or 0) >= start else 0)
    content = before.but(start_ts=str(start) if start else before.start_ts, end_ts=str(last) if last else None)
    return None if content == before else there.but(content=content, revision=there.revision + 1)


def begin_clean(there: Record | None, bare: Record, actor: Actor, uids: Set[str], *, keep_complete: bool) -> Record:
    """The record after *actor* claimed the path to delete what is under it. *bare* is the claim of a path without a record.

    There may be nothing to delete: *there* comes back when it is Complete and *keep_complete*, or when this CR cleaned it
    already and no attempt is open; a claim of this CR that no attempt got past the neighbours with comes back withdrawn. Of
    several cleaners of one path the last one to claim it is its cleaner: each of them had the right. Raises ClaimedError when
    the path belongs to none of *uids*.
    """
    if there is None:
        cleaner = actor.attempt(1, Role.CLEAN)
        return bare.but(state=State.CLEANING, cleaner=cleaner, open=(cleaner,), neighbours_checked=False)
    if there.live and there.owner.uid not in uids:
        raise clean_refused(bare.backup_path, there)
    if there.state is State.COMPLETE and keep_complete:
        return there
    if there.owner.uid == actor.owner.uid:
        if there.state in {State.CLAIMED, State.FAILED} and not there.neighbours_checked:
            # The next step of an attempt that still runs is a conditional write, which this one makes fail.
            return there.but(state=State.CLEANED, withdrawn=True, open=actor.still_open(there), revision=there.revision + 1)
        if not there.live and (there.cleaner is None or not there.withdrawn) and not actor.still_open(there):
            return there
    number = there.attempts + 1
    cleaner = actor.attempt(number, Role.CLEAN)
    update = {
        "state": State.CLEANING,
        "attempts": number,
        "cleaner": cleaner,
        "open": (*actor.still_open(there), cleaner),
        "revision": there.revision + 1,
    }
    if there.live:
        return there.but(**update)
    return bare.but(past=_past_lives(there), neighbours_checked=False, unknown=there.unknown, **update)


def withdraw_clean(there: Record | None, mine: Record, before: Record | None) -> Record:
    """The record after the cleaner's claim *mine* was given back, nothing deleted: as it was *before*.

    Raises SupersededError.
    """
    found = _cleaning(there, mine)
    update = {"open": _without(found, mine.cleaner), "revision": found.revision + 1}
    if before is None:
        return found.but(state=State.CLEANED, withdrawn=True, **update)
    # A cleaner whose claim was taken over does not get it back: it went on without knowing of these neighbours.
    cleaner = found.cleaner if before.state is State.CLEANING else before.cleaner
    return before.but(attempts=found.attempts, cleaner=cleaner, **update)


def confirm_clean(there: Record | None, mine: Record) -> None:
    """Raise SupersededError unless the cleaner's claim *mine* is still the path's."""
    _cleaning(there, mine)


def confirm(there: Record | None, mine: Record) -> None:
    """Raise SupersededError unless the writer's claim *mine* is still the path's."""
    _held(there, mine)


def finish_clean(there: Record | None, mine: Record, cleaned: Cleaned, actor: Actor) -> Record:
    """The record after the cleaner of *mine* found the path empty. Raises SupersededError."""
    found = _cleaning(there, mine)
    open_ = tuple(attempt for attempt in actor.still_open(found) if not _same(attempt, mine.cleaner))
    return found.but(state=State.CLEANED, cleaned=cleaned, objects="", contents="", open=open_, revision=found.revision + 1)


def _past_lives(there: Record) -> tuple[Past, ...]:
    """What is kept when a path is claimed anew. A claim that was withdrawn was no life."""
    if there.withdrawn:
        return there.past
    last = Past(owner=there.owner, state=there.state, time_completed=there.time_completed, cleaned=there.cleaned)
    return (*there.past, last)[-_PAST:]


def claimed(path: str, record: Record) -> ClaimedError:
    """The refusal of a claim, naming whose path it is."""
    return ClaimedError(
        f"{path} belongs to {record.owner} ({record.state})",
        hint="Give this Backup a prefix of its own; or delete the other Backup with its data first.",
    )


def in_use(path: str, attempt: Attempt) -> ClaimedError:
    """The refusal of a claim on a path that was cleaned while an attempt may still run."""
    return ClaimedError(
        f"{path} cannot be used again: {attempt} was not seen to end and may still "
        f"{'delete' if attempt.role is Role.CLEAN else 'write'} there",
        reason="BackupPathInUse",
        hint="Give this Backup another prefix. An attempt counts as ended when it reported its end, or when Kubernetes shows "
        "its Pod with every container terminated.",
    )


def data_in_use(path: str, first: str) -> StorageError:
    """The refusal of a claim on a path that holds data which no record explains."""
    return StorageError(
        f"{path} holds data that is not this backup's, first {first[:120]!r}",
        reason="BackupPathInUse",
        hint="Give this Backup another prefix. What is there stays; delete it yourself only if nobody needs it.",
    )


def clean_refused(path: str, record: Record) -> ClaimedError:
    """The refusal of a clean, naming whose data it is."""
    return ClaimedError(
        f"{path} holds the data of {record.owner} ({record.state}); it is not deleted",
        hint=f"If this Backup took it over, set the annotation {names.CONFIRM_CLEAN_ANNOTATION}: {record.owner.uid}; "
        f"to remove this Backup and keep the data, {FORCE}.",
    )


def _held(there: Record | None, mine: Record) -> Record:
    """*there*, when the attempt of *mine* still holds the path as its writer. Raises SupersededError."""
    if there is None:
        raise record_lost(mine.backup_path)
    same = there.owner.uid == mine.owner.uid and there.attempt == mine.attempt and mine.attempt is not None
    if same and there.state is State.CLAIMED:
        return there
    raise superseded(mine.attempt, there)


def _cleaning(there: Record | None, mine: Record) -> Record:
    if there is None:
        raise record_lost(mine.backup_path)
    if there.state is State.CLEANING and there.cleaner == mine.cleaner and mine.cleaner is not None:
        return there
    raise superseded(mine.cleaner, there)


def superseded(attempt: Attempt | None, there: Record) -> SupersededError:
    """The end of an attempt that lost its path to *there*."""
    holder = there.cleaner if there.state in {State.CLEANING, State.CLEANED} else there.attempt
    who = f", {holder}" if holder else ""
    return SupersededError(
        f"{there.backup_path} is no longer held by {attempt or 'this attempt'}, but by {there.owner} ({there.state}{who})",
        hint="The record beside the data names the attempt that counts. What this attempt did is not part of any backup.",
    )


def record_lost(path: str) -> NotFoundError:
    """The end of an attempt whose record was deleted."""
    return NotFoundError(
        f"the record of {path} is gone",
        reason="RecordLost",
        hint="Something deleted it during the run; look who may delete there.",
    )


def _without(record: Record, attempt: Attempt | None) -> tuple[Attempt, ...]:
    return tuple(found for found in record.open if attempt is None or not _same(found, attempt))


def _same(one: Attempt, other: Attempt | None) -> bool:
    return other is not None and (one.number, one.id, one.role) == (other.number, other.id, other.role)
