"""TiDB's garbage collection must not overtake a long dump: its life time is raised meanwhile, and put back for certain.

The life time is only ever raised, never lowered. What it was before is written into TiDB itself (the row
:data:`MARKER` beside it) in the transaction that raises it. So a run that is killed leaves a note, and whoever runs next puts
the old value back; and of several runs at once only the last to end does.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from backup_manager.database import Database
from backup_manager.errors import ManagerError, PermanentError, UsageError
from crds import durations

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

    from backup_manager.operations.steps import Context

VARIABLE: Final = "tikv_gc_life_time"
MARKER: Final = "tidb_backup_gc_life_time_before"
DEFAULT: Final = "72h"
HOLDER_LIFETIME: Final = timedelta(hours=24)
"""A run that noted itself longer ago than this, and is not ours, is taken for dead."""
_RESET_SECONDS: Final = 25.0
_COMMENT_LIMIT: Final = 1000

_SELECT: Final = "select variable_value, comment from mysql.tidb where variable_name = %s for update"
_UPDATE: Final = "update mysql.tidb set variable_value = %s where variable_name = %s"
_NOTE: Final = "replace into mysql.tidb (variable_name, variable_value, comment) values (%s, %s, %s)"
_FORGET: Final = "delete from mysql.tidb where variable_name = %s"


class GcLifeTimeError(PermanentError):
    """The life time could not be read, raised or put back."""

    reason = "SetTikvGCLifeTimeFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the marker row says: the value *before*, the value it was *raised* to, and the runs that need it (name to time)."""

    before: str
    raised: str
    holders: dict[str, str] = field(default_factory=dict)

    def comment(self) -> str:
        """The text of the row; the oldest holders give way when it would not fit."""
        holders = dict(sorted(self.holders.items(), key=lambda item: item[1]))
        while True:
            text = json.dumps({"raised": self.raised, "holders": holders}, separators=(",", ":"))
            if len(text) <= _COMMENT_LIMIT or not holders:
                return text
            holders.pop(next(iter(holders)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """What raising did. *before* is empty when there is nothing to put back."""

    before: str = ""
    current: str = ""
    remark: str = ""


@contextmanager
def raised(context: "Context", database: Database | None, wanted: str | None) -> Iterator[Raised]:
    """Keep the life time at *wanted* (``spec.tikvGCLifeTime``, else 72h) or longer while the body runs.

    Put back however the body ends, in a connection of its own. When that fails, ``ResetTikvGCLifeTimeFailed`` is the reason
    told, together with the body's own error, as TiDB Operator has it.
    """
    if database is None:
        yield Raised(remark="no database is named in the CR, so the GC life time is left as it is")
        return
    holder = f"{context.resource.namespace}/{context.resource.name}@{context.resource.uid[:8]}"
    done = _raise(database, holder, wanted, context.now())
    context.log(f"gc life time: {done.remark}")
    context.journal.note(gcLifeTimeBefore=done.before or done.current, gcLifeTime=done.remark)
    if not done.before:
        yield done
        return
    try:
        yield done
    except ManagerError as error:
        _put_back(context, database, holder, done.before, error)
        raise
    except BaseException:
        _put_back(context, database, holder, done.before)
        raise
    else:
        _put_back(context, database, holder, done.before)


def _raise(database: Database, holder: str, wanted: str | None, now: datetime) -> Raised:
    target = _parsed(wanted or DEFAULT, "spec.tikvGCLifeTime", "ParseConfiguredTikvGCLifeTimeFailed")
    with _reason("GetTikvGCLifeTimeFailed"), database.session() as cursor:
        cursor.execute("begin")
        current, _ = _row(cursor, VARIABLE)
        if current is None:
            return Raised(remark=f"this server has no {VARIABLE}; it is left as it is")
        known = _note(cursor)
        old = _parsed(current, f"{VARIABLE} of the server", "ParseOldTikvGCLifeTimeFailed")
        if known is None and old >= target:
            return Raised(current=current, remark=f"{current} is long enough")
        with _reason("SetTikvGCLifeTimeFailed"):
            if old < target:
                cursor.execute(_UPDATE, (wanted or DEFAULT, VARIABLE))
            note = Note(
                before=known.before if known else current,
                raised=(wanted or DEFAULT) if old < target else current,
                holders={**_living(known, holder, now), holder: _stamp(now)},
            )
            cursor.execute(_NOTE, (MARKER, note.before, note.comment()))
    return Raised(before=note.before, current=note.raised, remark=f"raised from {note.before} to {note.raised} for this run")


def _put_back(context: "Context", database: Database, holder: str, before: str, failure: ManagerError | None = None) -> None:
    """Put the old value back, trying for 25 s; SIGTERM does not cut it short."""
    deadline = time.monotonic() + _RESET_SECONDS
    while True:
        try:
            remark = _lower(database, holder, context.now())
        except ManagerError as error:
            if time.monotonic() + 1 < deadline and error.problem().retryable:
                time.sleep(1)
                continue
            raise _left_raised(database, before, error, failure) from None
        context.log(f"gc life time: {remark}")
        context.journal.note(gcLifeTime=remark)
        return


def _lower(database: Database, holder: str, now: datetime) -> str:
    with database.session() as cursor:
        cursor.execute("begin")
        note, (current, _) = _note(cursor), _row(cursor, VARIABLE)
        if note is None or current is None:
            return "put back already by another run"
        others = _living(note, holder, now)
        if others:
            left = Note(before=note.before, raised=note.raised, holders=others)
            cursor.execute(_NOTE, (MARKER, note.before, left.comment()))
            remark = f"stays {current} for {', '.join(sorted(others))}, which will put {note.before} back"
        elif current == note.raised:
            cursor.execute(_UPDATE, (note.before, VARIABLE))
            cursor.execute(_FORGET, (MARKER,))
            remark = f"put back to {note.before}"
        else:
            cursor.execute(_FORGET, (MARKER,))
            remark = f"left at {current}: somebody changed it meanwhile (before the run it was {note.before})"
    return remark


def _row(cursor: "Cursor", name: str) -> tuple[str | None, str]:
    cursor.execute(_SELECT, (name,))
    row = cursor.fetchone()
    return (str(row[0]), str(row[1] or "")) if row else (None, "")


def _note(cursor: "Cursor") -> Note | None:
    before, comment = _row(cursor, MARKER)
    if before is None:
        return None
    try:
        said: Any = json.loads(comment)
        return Note(before=before, raised=str(said["raised"]), holders={str(k): str(v) for k, v in said["holders"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Note(before=before, raised="")


def _living(note: Note | None, ours: str, now: datetime) -> dict[str, str]:
    """The other runs in *note* that may still be at work."""
    oldest = _stamp(now - HOLDER_LIFETIME)
    return {name: since for name, since in (note.holders if note else {}).items() if name != ours and since >= oldest}


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


def _left_raised(database: Database, before: str, error: ManagerError, failure: ManagerError | None) -> GcLifeTimeError:
    both = f"{failure.message}; and then " if failure else ""
    return GcLifeTimeError(
        f"{both}the GC life time could not be put back: {error.message}",
        reason="ResetTikvGCLifeTimeFailed",
        retryable=bool(failure and failure.problem().retryable),
        hint=f"The next run on {database.access.host} does it. By hand: set global tidb_gc_life_time = '{before}'",
    )
