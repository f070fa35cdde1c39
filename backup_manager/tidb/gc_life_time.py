"""TiDB's garbage collection must not overtake a long dump: its life time is raised meanwhile, and restored for certain.

The truth is in the database itself, in ``mysql.tidb`` (docs/adr/0004-gc-life-time.md):

======================================= ===========================================================================
row                                     holds
======================================= ===========================================================================
:data:`VARIABLE`                        the life time; each transaction below locks it first, so they are serial
:data:`MARKER`                          the value *before*, and in its comment the one it was *raised* to
:data:`HOLDER` and the uid of a CR      when that CR's run last proved that it lives, and which attempt it is
======================================= ===========================================================================

The life time is only ever raised, and the last holder to leave restores it. A holder renews its row for as long as it runs; one
whose row has not changed for :data:`PACE`'s duration is dead, and counts no more. Times are PD's (``@@tidb_current_ts``), so no
node's clock matters; before a holder is taken for dead, its row must also stay the same for :data:`CONFIRM_SECONDS` of our own
monotonic clock, so a jump of PD's clock kills nobody. A holder that cannot renew stops its tool before it may count as dead.

A run that was killed leaves its row: the next attempt of the CR takes it over, ``backup-manager gc-life-time`` (a Job that the
hook makes once no run of the CR is left) removes it, and any other run does after the duration.
"""

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from backup_manager.context import Context
from backup_manager.errors import ManagerError, PermanentError, RunInterruptedError, UsageError
from backup_manager.locking import lock
from backup_manager.locking.lock import LockLostError, Pace
from backup_manager.signals import End
from backup_manager.tidb.connection import Database
from crds.contract import durations, names, tso
from crds.contract.report import GcLifeTime

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

VARIABLE: Final = "tikv_gc_life_time"
MARKER: Final = "tidb_backup_gc_life_time_before"
HOLDER: Final = "tidb_backup_gc_holder/"
DEFAULT: Final = "72h"
PACE: Final = Pace(duration=600.0, renew=60.0, retry=5.0, fence=480.0)
"""A holder renews each minute. One that cannot for 8 minutes stops its tool; after 10 minutes it counts as dead."""
CONFIRM_SECONDS: Final = 2 * PACE.renew
"""Two renewals that did not come, by our own monotonic clock."""
_OLD_HOLDER_LIFETIME: Final = timedelta(hours=24)
"""Of a run of a release that did not renew; it is noted in the marker's comment."""
_RESET_SECONDS: Final = 25.0
_QUERY_SECONDS: Final = 25.0
_ROW_NAME_LIMIT: Final = 64

_BEGIN: Final = "begin pessimistic"
_NOW: Final = "select @@tidb_current_ts"
_SELECT: Final = "select variable_value, comment from mysql.tidb where variable_name = %s for update"
_LOOK: Final = "select variable_value, comment from mysql.tidb where variable_name = %s"
_LOOK_AT_HOLDERS: Final = (
    "select variable_name, variable_value, comment from mysql.tidb where variable_name > %s and variable_name < %s"
)
_HOLDERS: Final = f"{_LOOK_AT_HOLDERS} for update"
_AFTER_HOLDERS: Final = HOLDER[:-1] + chr(ord(HOLDER[-1]) + 1)
_UPDATE: Final = "update mysql.tidb set variable_value = %s where variable_name = %s"
_WRITE: Final = "replace into mysql.tidb (variable_name, variable_value, comment) values (%s, %s, %s)"
_DELETE: Final = "delete from mysql.tidb where variable_name = %s"


class GcLifeTimeError(PermanentError):
    """The life time could not be read, raised or restored."""

    reason = "SetTikvGCLifeTimeFailed"


class GcLifeTimeLostError(LockLostError):
    """Others may have restored the life time under this run: it could not renew its row, or the row is gone."""

    reason = "GcLifeTimeLost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the marker row says: the value *before* and the one it was *raised* to (empty when that cannot be read).
    *old_holders* are runs of a release that did not renew, name to RFC 3339 time."""

    before: str
    raised: str
    old_holders: dict[str, str] = field(default_factory=dict)

    def comment(self) -> str:
        """The text of the row."""
        said: dict[str, Any] = {"raised": self.raised}
        return json.dumps({**said, **({"holders": self.old_holders} if self.old_holders else {})}, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A holder's row. *value* is PD's time in milliseconds at its last renewal, *attempt* a token of one process."""

    row: str
    value: str
    attempt: str
    owner: str

    @classmethod
    def of(cls, row: str, value: str, comment: str) -> "Holder":
        """From the database; a row that cannot be read belongs to somebody, who is not known."""
        try:
            said: Any = json.loads(comment)
            attempt, owner = str(said["attempt"]), str(said["owner"])
        except (ValueError, KeyError, TypeError):
            attempt, owner = "", "an unknown run"
        return cls(row=row, value=value, attempt=attempt, owner=owner)

    @property
    def stamp(self) -> int:
        """The time in it; 0 when it is not one."""
        return int(self.value) if self.value.isdecimal() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """What raising did. *before* is empty when there is nothing to restore."""

    before: str = ""
    current: str = ""
    remark: str = ""


@contextmanager
def raised(
    context: Context, database: Database | None, wanted: str | None, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Raised]:
    """Keep the life time at *wanted* (``spec.tikvGCLifeTime``, else 72h) or longer while the body runs.

    Restored however the body ends, in a connection of its own. When that fails, ``ResetTikvGCLifeTimeFailed`` is the reason
    reported, together with the body's own error, as TiDB Operator has it. Raises GcLifeTimeLostError when the row could not be
    renewed, after the run was asked to stop.
    """
    if database is None:
        yield Raised(remark="no database is named in the CR, so the GC life time is left as it is")
        return
    mark = Mark.of(context, database, clock=clock)
    done = _raise(context, mark, wanted)
    context.log(f"gc life time: {done.remark}")
    context.journal.note(gcLifeTimeBefore=done.before or done.current, gcLifeTime=done.remark)
    if not done.before:
        yield done
        return
    context.journal.tell()
    try:
        with lock.renewing(context, mark, lost=_lost):
            yield done
    except ManagerError as error:
        _restore(context, mark, done.before, error)
        raise
    except BaseException:
        _restore(context, mark, done.before)
        raise
    else:
        _restore(context, mark, done.before)


def release(context: Context, database: Database) -> str:
    """Remove the row of the CR, whichever attempt left it, and restore the life time if nobody else needs it; in words, what
    was done. For a CR of which no run is left."""
    mark = Mark.of(context, database)
    remark = mark.leave(context, any_attempt=True)
    context.log(f"gc life time: {remark}")
    context.journal.note(gcLifeTime=remark, gcLifeTimeState=GcLifeTime.RELEASED)
    return remark


def _raise(context: Context, mark: "Mark", wanted: str | None) -> Raised:
    target = _parsed(wanted or DEFAULT, "spec.tikvGCLifeTime", "ParseConfiguredTikvGCLifeTimeFailed")
    with _reason("GetTikvGCLifeTimeFailed"):
        current, note = mark.look()
    if current is None:
        return Raised(remark=f"this server has no {VARIABLE}; it is left as it is")
    old = _parsed(current, f"{VARIABLE} of the server", "ParseOldTikvGCLifeTimeFailed")
    if note is None and old >= target:
        return Raised(current=current, remark=f"{current} is long enough")
    # Stored before the change: whoever looks after this run, should it be killed, knows that there is something to restore.
    context.journal.note(gcLifeTimeBefore=note.before if note else current, gcLifeTimeState=GcLifeTime.RAISED)
    context.journal.secure()
    with _reason("SetTikvGCLifeTimeFailed"):
        note = mark.enter(wanted or DEFAULT, target)
    return Raised(before=note.before, current=note.raised, remark=f"raised from {note.before} to {note.raised} for this run")


def _restore(context: Context, mark: "Mark", before: str, failure: ManagerError | None = None) -> None:
    """Restore the old value, trying for 25 s; SIGTERM does not cut it short, but the Pod's grace period limits it."""
    failing_since = math.inf
    while True:
        try:
            remark = mark.leave(context)
        except ManagerError as error:
            failing_since = min(failing_since, mark.clock())
            left = min(failing_since + _RESET_SECONDS - mark.clock(), context.stop.left(End.RESTORE))
            if left > 1 and error.problem().retryable:
                time.sleep(1)
                continue
            raise _left_raised(mark.database, before, error, failure) from None
        context.log(f"gc life time: {remark}")
        context.journal.note(gcLifeTime=remark, gcLifeTimeState=GcLifeTime.RELEASED)
        return


@dataclass(slots=True, kw_only=True)
class Mark:
    """The row by which one attempt of a CR says that it needs the raised life time."""

    database: Database
    row: str
    attempt: str
    owner: str
    old_name: str
    """What a release that did not renew calls this CR's run."""
    pace: Pace = PACE
    clock: Callable[[], float] = time.monotonic
    renewed_at: float = 0.0
    seen: dict[tuple[str, str], float] = field(default_factory=dict)
    """When our own clock first saw another holder's row as it is."""

    @classmethod
    def of(cls, context: Context, database: Database, *, clock: Callable[[], float] = time.monotonic) -> "Mark":
        """The mark of *context*'s run; one row for a CR, since it has one run at a time."""
        resource = context.resource
        return cls(
            database=database,
            row=HOLDER + names.fit(resource.uid, _ROW_NAME_LIMIT - len(HOLDER)),
            attempt=context.env.get(names.ENV_POD_UID) or secrets.token_hex(8),
            owner=f"{resource.kind} {resource.namespace}/{resource.name}",
            old_name=f"{resource.namespace}/{resource.name}@{resource.uid[:8]}",
            clock=clock,
        )

    @property
    def shown(self) -> str:
        """For messages."""
        return f"row {self.row} of mysql.tidb at {self.database.access.host}:{self.database.access.port}"

    def look(self) -> tuple[str | None, Note | None]:
        """The life time and the marker as they are, without locking."""
        with self.database.session() as cursor:
            current, _ = _row(cursor, VARIABLE, _LOOK)
            return current, _note(cursor, _LOOK)

    def enter(self, wanted: str, target: timedelta) -> Note:
        """Raise the life time to at least *wanted* and note that we need it."""
        asked = self.clock()
        with self.database.session() as cursor:
            now, current, note = _locked(cursor)
            if current is None:
                raise GcLifeTimeError(f"{VARIABLE} is gone from mysql.tidb")
            old = _parsed(current, f"{VARIABLE} of the server", "ParseOldTikvGCLifeTimeFailed")
            if old < target:
                cursor.execute(_UPDATE, (wanted, VARIABLE))
            # A value that somebody set after it was raised is the one to restore.
            untouched = note is not None and note.raised in {"", current}
            new = Note(
                before=note.before if note and untouched else current,
                raised=wanted if old < target else current,
                old_holders={name: at for name, at in note.old_holders.items() if name != self.old_name} if note else {},
            )
            self._observe(_holders(cursor, _HOLDERS))
            cursor.execute(_WRITE, (MARKER, new.before, new.comment()))
            cursor.execute(_WRITE, (self.row, str(now), self._comment()))
        self.renewed_at = asked
        return new

    def renew(self) -> None:
        """Prove that we live. Raises LockLostError when our row is gone, or another attempt's."""
        asked = self.clock()
        with self.database.session(seconds=int(self.pace.retry)) as cursor:
            cursor.execute(_BEGIN)
            # Our own row is all that is locked: whoever changes the life time locks that one first and may wait for ours.
            value, comment = _row(cursor, self.row, _SELECT)
            if value is None:
                raise LockLostError("the row is gone: another run took this one for dead and may have restored the life time")
            if Holder.of(self.row, value, comment).attempt != self.attempt:
                raise LockLostError("another attempt of this CR has begun")
            cursor.execute(_WRITE, (self.row, str(_now(cursor)), self._comment()))
            self._observe(_holders(cursor, _LOOK_AT_HOLDERS))
        self.renewed_at = asked

    def release(self) -> None:
        """Nothing: :meth:`leave` does it, and its failure is the run's."""

    def leave(self, context: Context, *, any_attempt: bool = False) -> str:
        """Remove our row, and restore the life time when we were the last; in words, what was done.

        Other holders that seem dead are looked at again until that is certain, unless the process is about to end.
        """
        while True:
            limit = min(_QUERY_SECONDS, context.stop.left(End.RESTORE))
            with self.database.session(seconds=max(1, int(limit))) as cursor:
                now, current, note = _locked(cursor)
                if current is None or note is None:
                    cursor.execute(_DELETE, (self.row,))
                    return _not_restored(cursor, current)
                holders = _holders(cursor, _HOLDERS)
                ours = {holder.row for holder in holders if self._is_ours(holder, any_attempt=any_attempt)}
                for row in ours:
                    cursor.execute(_DELETE, (row,))
                others = [holder for holder in holders if holder.row not in ours]
                self._observe(others)
                # PD's time never goes back, so a time far ahead of it is not of a renewal. A renewal that committed after this
                # transaction began may be a little ahead.
                silent = [holder for holder in others if abs(now - holder.stamp) > self.pace.duration * 1000]
                doubtful = [holder for holder in silent if self._until_certain(holder) > 0]
                old = _old_living(note, self.old_name, now)
                needed = sorted({*(holder.owner for holder in others if holder not in silent), *old})
                if not needed and not doubtful:
                    return _lower(cursor, current, note, others)
            if needed:
                return f"stays {current} for {', '.join(needed)}, which will restore {note.before}"
            pause = max(self._until_certain(holder) for holder in doubtful)
            shown = ", ".join(sorted({holder.owner for holder in doubtful}))
            if context.stop.requested or pause > context.stop.left(End.RESTORE):
                return f"stays {current} for {shown}, which may be dead: the next run restores {note.before}"
            context.log(f"gc life time: {shown} did not renew for {self.pace.duration:g} s, looking again in {pause:.0f} s")
            with suppress(RunInterruptedError):
                context.stop.wait(pause)

    def _is_ours(self, holder: Holder, *, any_attempt: bool) -> bool:
        return holder.row == self.row and (any_attempt or holder.attempt == self.attempt)

    def _comment(self) -> str:
        return json.dumps({"attempt": self.attempt, "owner": self.owner}, separators=(",", ":"))

    def _observe(self, holders: Sequence[Holder]) -> None:
        now = self.clock()
        self.seen = {(h.row, h.value): self.seen.get((h.row, h.value), now) for h in holders if h.row != self.row}

    def _until_certain(self, holder: Holder) -> float:
        """Seconds for which the row of a silent *holder* has yet to stay the same."""
        return self.seen.get((holder.row, holder.value), self.clock()) + CONFIRM_SECONDS - self.clock()


def _not_restored(cursor: "Cursor", current: str | None) -> str:
    """Why there is nothing to restore: another run did it, or what it was before cannot be told any more."""
    before, _ = _row(cursor, MARKER, _SELECT)
    if current is None or before is None:
        return "restored already by another run"
    return (
        f"stays {current}: row {MARKER} of mysql.tidb says that it was {before[:40]!r} before, which is not a duration. "
        f"By hand: set global tidb_gc_life_time = '10m' (or what it was), and delete that row"
    )


def _lower(cursor: "Cursor", current: str, note: Note, dead: Sequence[Holder]) -> str:
    """Restore the life time: nobody needs it raised any more."""
    for holder in dead:
        cursor.execute(_DELETE, (holder.row,))
    cursor.execute(_DELETE, (MARKER,))
    if note.raised not in {"", current}:
        return f"left at {current}: somebody changed it meanwhile (before the run it was {note.before})"
    cursor.execute(_UPDATE, (note.before, VARIABLE))
    after = f"; did not renew: {', '.join(sorted(holder.owner for holder in dead))}" if dead else ""
    return f"restored to {note.before}{after}"


def _locked(cursor: "Cursor") -> tuple[int, str | None, Note | None]:
    """Begin a transaction that no other one of these overlaps: PD's time in milliseconds, the life time, the marker."""
    cursor.execute(_BEGIN)
    current, _ = _row(cursor, VARIABLE, _SELECT)
    return _now(cursor), current, _note(cursor, _SELECT)


def _now(cursor: "Cursor") -> int:
    cursor.execute(_NOW)
    found = cursor.fetchone()
    return tso.to_milliseconds(int(found[0])) if found else 0


def _row(cursor: "Cursor", name: str, statement: str) -> tuple[str | None, str]:
    cursor.execute(statement, (name,))
    row = cursor.fetchone()
    return (str(row[0]), str(row[1] or "")) if row else (None, "")


def _holders(cursor: "Cursor", statement: str) -> list[Holder]:
    cursor.execute(statement, (HOLDER, _AFTER_HOLDERS))
    return [Holder.of(str(name), str(value or ""), str(comment or "")) for name, value, comment in cursor.fetchall()]


def _note(cursor: "Cursor", statement: str) -> Note | None:
    before, comment = _row(cursor, MARKER, statement)
    if before is None or not _is_duration(before):
        return None  # a value that was never a life time must not become one
    try:
        said: Any = json.loads(comment)
        old = {str(name): str(at) for name, at in (said.get("holders") or {}).items()}
        return Note(before=before, raised=str(said["raised"]), old_holders=old)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Note(before=before, raised="")


def _old_living(note: Note, ours: str, now: int) -> dict[str, str]:
    """The runs of a release that did not renew which may still be at work."""
    oldest = datetime.fromtimestamp(now / 1000, UTC) - _OLD_HOLDER_LIFETIME
    since, until = (time.strftime("%Y-%m-%dT%H:%M:%SZ") for time in (oldest, oldest + 2 * _OLD_HOLDER_LIFETIME))
    return {name: at for name, at in note.old_holders.items() if name != ours and since <= at <= until}


def _is_duration(text: str) -> bool:
    try:
        durations.parse(text)
    except durations.DurationError:
        return False
    return True


def _parsed(text: str, what: str, reason: str) -> timedelta:
    try:
        return durations.parse(text)
    except durations.DurationError as error:
        raise UsageError(f"{what}: {error}", reason=reason) from None


@contextmanager
def _reason(reason: str) -> Iterator[None]:
    """Errors of the database inside get *reason*; ones that have a better reason keep it."""
    try:
        yield
    except (GcLifeTimeError, UsageError):
        raise
    except ManagerError as error:
        problem = error.problem()
        raise GcLifeTimeError(problem.message, hint=problem.hint, reason=reason, retryable=problem.retryable) from None


def _lost(why: str) -> GcLifeTimeLostError:
    return GcLifeTimeLostError(
        f"the raised GC life time could not be kept, so the tool was stopped: {why}",
        hint="Versions that the run still needed may be gone. It is repeated when the retry policy allows.",
    )


def _left_raised(database: Database, before: str, error: ManagerError, failure: ManagerError | None) -> GcLifeTimeError:
    both = f"{failure.message}; and then " if failure else ""
    return GcLifeTimeError(
        f"{both}the GC life time could not be restored: {error.message}",
        reason="ResetTikvGCLifeTimeFailed",
        retryable=bool(failure and failure.problem().retryable),
        hint=f"A Job of this CR, or the next run on {database.access.host}, restores it. "
        f"By hand: set global tidb_gc_life_time = '{before}'",
    )
