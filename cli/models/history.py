"""Every backup and restore in one list, whatever still tells of it: CRs, records, entries of the history, or several."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.backup.imported import Imported, ImportedError
from app.domain.observed import Object, metadata
from app.domain.times import moment
from backup_manager.catalog.audit_log import ATTEMPT_ENDED, RESTORE_FAILED, RESTORED, WITHDRAWN, Audit, Entry
from backup_manager.catalog.record import Past, Record
from backup_manager.content import Content
from cli.documents import key_of
from cli.formats import when
from cli.models.status import summarise
from cli.storage_scan import StorageScan, StoredRecord

_UNFINISHED: Final = "Claimed"
_FAILED: Final = "Failed"
_RESTORES: Final = {RESTORED: "Complete", RESTORE_FAILED: "Failed"}


@dataclass(slots=True, kw_only=True)
class Event:
    """One run. *outcome* is its last known state; *cleaned* says when its data was deleted; *sources* names its evidence."""

    kind: str
    namespace: str
    name: str
    uid: str
    path: str = ""
    time: datetime | None = None
    outcome: str = ""
    ended: datetime | None = None
    size: int | None = None
    commit_ts: str = ""
    content: Content | None = None
    cleaned: datetime | None = None
    notes: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    @property
    def took(self) -> timedelta | None:
        """How long it ran."""
        return self.ended - self.time if self.time and self.ended and self.ended >= self.time else None

    @property
    def data(self) -> dict[str, Any]:
        """For machines."""
        told: dict[str, Any] = {
            "time": self.time,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "outcome": self.outcome,
            "completed": self.ended,
            "bytes": self.size,
            "commitTs": self.commit_ts,
            "content": self.content.plain() if self.content else None,
            "path": self.path,
            "cleaned": self.cleaned,
            "notes": self.notes,
            "toldBy": self.sources,
        }
        return {key: value for key, value in told.items() if value not in (None, "", [])}


class Timeline:
    """Puts together what belongs to one run: the same CR (by uid) and path."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str, str], Event] = {}

    def events(self) -> list[Event]:
        """All of them, oldest first."""
        return sorted(self._events.values(), key=lambda event: (str(event.time or ""), event.namespace, event.name, event.uid))

    def add_shelf(self, scan: StorageScan) -> None:
        """What storages tell."""
        for account in scan.accounts:
            self._add_account(account)
        for stored in scan.stored:
            self._add_record(stored)

    def add_crs(self, crs: Iterable[Object], now: datetime) -> None:
        """What the cluster tells: the CRs' own words count most."""
        for cr in crs:
            self._add_cr(cr, now)

    def _event(self, kind: str, owner: tuple[str, str, str], path: str, teller: str) -> Event:
        """The event of the CR *owner* (namespace, name, uid); without a uid the name has to do."""
        namespace, name, uid = owner
        key = kind, uid or f"{namespace}/{name}", path if kind == "Backup" else ""
        event = self._events.setdefault(key, Event(kind=kind, namespace=namespace, name=name, uid=uid, path=path))
        if teller not in event.sources:
            event.sources.append(teller)
        return event

    def _add_account(self, account: Audit) -> None:
        for entry in account.entries:
            if entry.event in _RESTORES:
                self._add_restore(entry)
            elif entry.event == ATTEMPT_ENDED or (entry.event == WITHDRAWN and not entry.reason):
                continue  # nothing became of the run by it
            else:
                self._add_entry(entry)

    def _add_entry(self, entry: Entry) -> None:
        event = self._event(entry.kind, (entry.namespace, entry.name, entry.uid), entry.path, "history")
        event.time = event.time or entry.at
        event.outcome = _FAILED if entry.event == WITHDRAWN else entry.event
        event.size = entry.size if entry.size is not None else event.size
        event.commit_ts = entry.commit_ts or event.commit_ts
        event.content = entry.content or event.content
        if entry.event in {"Complete", _FAILED, WITHDRAWN}:
            event.ended = entry.at
        if entry.reason:
            event.notes = [entry.reason]
        if entry.event == "Cleaned":
            event.cleaned = entry.at
            event.notes = [_burial(entry.deleted, entry.by, entry.why)]

    def _add_restore(self, entry: Entry) -> None:
        event = self._event(entry.kind, (entry.namespace, entry.name, entry.uid), entry.path, "history")
        event.time, event.ended = event.time or entry.at, entry.at
        event.outcome, event.path = _RESTORES[entry.event], entry.path
        event.content, event.commit_ts = entry.content or event.content, entry.commit_ts or event.commit_ts
        event.notes = [entry.reason] if entry.reason else []

    def _add_record(self, stored: StoredRecord) -> None:
        record = stored.record
        for past in record.past:
            self._add_past(past, record)
        if record.withdrawn and record.problem is None:
            return  # a clean that was refused; no record describes what lies there
        owner = record.owner
        event = self._event(owner.kind, (owner.namespace, owner.name, owner.uid), record.backup_path, "record")
        event.time = record.time_claimed
        event.outcome = _FAILED if record.withdrawn else str(record.state)
        event.ended = record.time_completed or event.ended
        event.size = record.size if record.size is not None else event.size
        event.commit_ts = record.commit_ts or event.commit_ts
        event.content = record.content
        if record.problem:
            event.notes = [f"{record.problem.reason}: {record.problem.message}"]
        if record.cleaned:
            event.cleaned = record.cleaned.at
            event.notes = [_burial(record.cleaned.deleted, record.cleaned.by, record.cleaned.why)]

    def _add_past(self, past: Past, record: Record) -> None:
        owner = past.owner
        event = self._event(owner.kind, (owner.namespace, owner.name, owner.uid), record.backup_path, "record")
        event.outcome = str(past.state)
        event.ended = past.time_completed or event.ended
        event.time = event.time or past.time_completed or (past.cleaned.at if past.cleaned else None)
        if past.cleaned:
            event.cleaned = past.cleaned.at
            event.notes = [_burial(past.cleaned.deleted, past.cleaned.by, past.cleaned.why)]

    def _add_cr(self, cr: Object, now: datetime) -> None:
        kind, namespace, name = key_of(cr)
        status = cr.get("status") or {}
        path = str(status.get("backupPath") or "").rstrip("/") if kind == "Backup" else ""
        uid = _uid_of(cr)
        event = self._event(kind, (namespace, name, uid), self._known_path(kind, uid, path), "cr")
        summary = summarise(cr, now)
        event.namespace, event.name = namespace, name
        event.outcome = summary.phase if event.cleaned is None else event.outcome
        event.time = summary.started or event.time or moment(metadata(cr).get("creationTimestamp"))
        event.ended = moment(status.get("timeCompleted")) or event.ended
        event.size = summary.size if summary.size is not None else event.size
        event.commit_ts = str(status.get("commitTs") or event.commit_ts)
        if summary.message and not event.notes:
            event.notes = [summary.message]

    def _known_path(self, kind: str, uid: str, path: str) -> str:
        """The path of the event that is known already, where only a slash at its end differs."""
        for known_kind, known_uid, known in self._events:
            if (known_kind, known_uid) == (kind, uid) and known.rstrip("/") == path:
                return known
        return path


def _uid_of(cr: Object) -> str:
    """The uid under which the run is known: an imported Backup goes on as the one that wrote the data."""
    try:
        imported = Imported.of(cr)
    except ImportedError:
        imported = None
    return (imported.uid if imported else "") or str(metadata(cr).get("uid") or "")


def _burial(deleted: int | None, by: str, why: str) -> str:
    parts = [
        f"{deleted} objects deleted" if deleted is not None else "deleted",
        f"by {by}" if by else "",
        f"({why})" if why else "",
    ]
    return " ".join(part for part in parts if part)


def since(events: Sequence[Event], start: datetime | None) -> Iterator[Event]:
    """Those that began, ended or were cleaned after *start*."""
    for event in events:
        last = max((time for time in (event.time, event.ended, event.cleaned) if time), default=None)
        if start is None or (last is not None and last >= start):
            yield event


def outcome(event: Event) -> str:
    """For people: a claim without an end says so."""
    return "Unfinished" if event.outcome == _UNFINISHED else event.outcome


def remark(event: Event) -> str:
    """What else is worth a word."""
    cleaned = f"cleaned {when(event.cleaned)}" if event.cleaned else ""
    gone = "" if "cr" in event.sources else "CR gone"
    return "; ".join(part for part in (cleaned, gone, *event.notes) if part)
