"""What happened under a prefix, one small object an event: ``<folder>/.history/00000001.json``, beside the records.

Object stores cannot append and some forbid rewriting, so each event is an object of its own, created only if its number is
free. Every entry carries the digest of the one before it and of the record that it tells of: who removes or edits an entry in
the middle breaks the chain, who edits a record contradicts it, and who cuts the end off leaves records that nobody wrote.
Cutting the end *and* those records, or forging the whole chain, shows only against a digest kept elsewhere:
``tidb-backup history verify -o json`` tells it, and ``--against`` that file checks that the chain still goes on from there.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Final, Literal, Self

import msgspec

from backup_manager.content import Content
from backup_manager.context import Context
from backup_manager.errors import ManagerError, PreconditionError, StorageError
from backup_manager.storage.base import Storage
from crds.contract.paths import HISTORY_FOLDER, Location
from crds.contract.wire import Document, WireError

FOLDER: Final = HISTORY_FOLDER
RESTORED: Final = "Restored"
RESTORE_FAILED: Final = "RestoreFailed"
WITHDRAWN: Final = "Withdrawn"
ATTEMPT_ENDED: Final = "AttemptEnded"
_DIGITS: Final = 8
_PAGE: Final = 1000
_BLOCK: Final = 1000
_RACES: Final = 200
"""Each lost race means that another run has written its entry."""


def digest(data: bytes) -> str:
    """The digest that entries carry."""
    return hashlib.sha256(data).hexdigest()


class Entry(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One event. *event* is the record's new state; ``Withdrawn`` for a claim given back before anything was written,
    ``AttemptEnded`` for an attempt that ended without a change of state; or ``Restored`` or ``RestoreFailed``. *kind*,
    *namespace*, *name* and *uid* are of the CR behind it, *path* is the data's. *record* is the digest of the record as the
    event left it, *content* the totals of the data, or of what a restore brought back. What a newer manager adds is not lost by
    not knowing it: digests are of the stored bytes."""

    v: Literal[1] = 1
    seq: int
    previous: str = ""
    at: datetime
    event: str
    path: str
    kind: str
    namespace: str = ""
    name: str
    uid: str = ""
    operation: str = ""
    attempt: int | None = None
    size: int | None = None
    object_count: int | None = None
    commit_ts: str | None = None
    content: Content | None = None
    reason: str = ""
    by: str = ""
    why: str = ""
    deleted: int | None = None
    record: str = ""

    def to_json(self) -> bytes:
        """The bytes to store; the next entry carries their digest."""
        told = self.but(at=self.at.astimezone(UTC).replace(microsecond=0))
        return msgspec.json.format(msgspec.json.encode(told), indent=1)


class Kind(StrEnum):
    """What is wrong with a chain."""

    CUT = "cut"
    EDITED = "edited"
    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditViolation:
    """One thing that is wrong; *seq* is the entry it shows at, 0 for none."""

    kind: Kind
    seq: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A chain as it was read: the entries that can be read, what is wrong, and the digest of each stored entry by number."""

    folder: Location
    entries: Sequence[Entry]
    findings: Sequence[AuditViolation]
    digests: Mapping[int, str]

    @property
    def length(self) -> int:
        """Number of the last entry."""
        return max(self.digests, default=0)

    @property
    def head(self) -> str:
        """Digest of the last entry."""
        return self.digests.get(self.length, "")

    def still_has(self, length: int, head: str) -> AuditViolation | None:
        """Whether the chain goes on from where it was seen before, at entry *length* with the digest *head*."""
        if not length or self.digests.get(length) == head:
            return None
        if length in self.digests:
            return AuditViolation(kind=Kind.EDITED, seq=length, message=f"entry {length} is another one than was seen before")
        return AuditViolation(kind=Kind.CUT, seq=length, message=f"entry {length} was seen before and is gone")


def folder_of(path: Location) -> Location:
    """The folder whose chain tells of *path*: the one that its record lies in."""
    return path.parent


class AuditLog:
    """The chain of one folder."""

    def __init__(self, storage: Storage, folder: Location) -> None:
        self.folder = folder
        self._entries = storage.at(folder.child(FOLDER))

    @classmethod
    def beside(cls, storage: Storage) -> Self:
        """The chain that tells of the path that *storage* looks at."""
        return cls(storage, folder_of(storage.location))

    def append(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC), **fields: Any) -> Entry:
        """Write the next entry. Raises what the storage raises, and StorageError when others are always faster."""
        length = self._length()
        for _ in range(_RACES):
            previous = digest(self._entries.read(_key(length))) if length else ""
            entry = Entry(seq=length + 1, previous=previous, at=now(), **fields)
            try:
                self._entries.write(_key(entry.seq), entry.to_json(), if_absent=True)
            except PreconditionError:
                length += 1
                continue
            return entry
        raise StorageError(f"{self._entries.location.url} changes all the time", reason="StorageConflict")

    def read(self) -> Audit:
        """Every entry, each checked against the one before it."""
        stored = {info.key: self._entries.read(info.key) for info in self._entries.list()}
        return _checked(self.folder, stored)

    def _length(self) -> int:
        """The number of the last entry, 0 for none.

        The first ones may be gone (a lifecycle rule of the bucket), so no number is known to exist. The first page of a listing
        is taken; where that is full, blocks of numbers are probed from there.
        """
        page = list(islice(self._numbers(), _PAGE))
        if len(page) < _PAGE:
            return max(page, default=0)
        low = page[-1] // _BLOCK
        step = 1
        while self._last_of(low + step):
            low, step = low + step, step * 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._last_of(middle) else (low, middle)
        return max(self._last_of(low), page[-1])

    def _numbers(self, prefix: str = "") -> Iterator[int]:
        """Numbers of the entries whose names begin with *prefix*, ascending."""
        keys = (info.key.removesuffix(".json") for info in self._entries.list(prefix))
        return (int(stem) for stem in keys if stem.isascii() and stem.isdigit() and len(stem) == _DIGITS)

    def _last_of(self, block: int) -> int:
        """The highest number in a *block* of :data:`_BLOCK` numbers, 0 when it has none."""
        return max(self._numbers(_key(block * _BLOCK)[: _DIGITS - len(str(_BLOCK)) + 1]), default=0)


def _key(number: int) -> str:
    return f"{number:0{_DIGITS}d}.json"


def _checked(folder: Location, stored: Mapping[str, bytes]) -> Audit:
    entries, findings, digests = [], [], {}
    expected, before = 1, ""
    for key in sorted(stored):
        stem = key.removesuffix(".json")
        if not (stem.isascii() and stem.isdigit() and key == _key(int(stem))):
            findings.append(
                AuditViolation(kind=Kind.EDITED, seq=0, message=f"{FOLDER}/{key} is no entry; nothing of ours wrote it")
            )
            continue
        number = int(stem)
        if number != expected:
            findings.append(_gap(expected, number - 1))
        entry = _entry(stored[key], number)
        if entry is None:
            findings.append(AuditViolation(kind=Kind.EDITED, seq=number, message=f"entry {number} cannot be read"))
        else:
            entries.append(entry)
            if number == expected and entry.previous != before:
                findings.append(_broken(number))
        expected, before = number + 1, digest(stored[key])
        digests[number] = before
    return Audit(folder=folder, entries=entries, findings=findings, digests=digests)


def _entry(data: bytes, number: int) -> Entry | None:
    try:
        entry = Entry.read(data)
    except WireError:
        return None
    return entry if entry.seq == number else None


def _gap(first: int, last: int) -> AuditViolation:
    missing = f"entry {first} is" if first == last else f"entries {first} to {last} are"
    return AuditViolation(kind=Kind.CUT, seq=first, message=f"{missing} missing")


def _broken(number: int) -> AuditViolation:
    what = f"entry {number} does not carry the digest of entry {number - 1}: one of the two was edited"
    return AuditViolation(kind=Kind.EDITED, seq=number, message=what if number > 1 else "entry 1 claims to follow another")


def against_records(account: Audit, records: Iterable[tuple[str, str]]) -> list[AuditViolation]:
    """What the chain and the *records* of its folder (path and digest of each) contradict each other in."""
    told = {entry.path: entry for entry in account.entries if entry.record}
    found = dict(records)
    findings = []
    for path, found_digest in sorted(found.items()):
        entry = told.get(path)
        if entry is None:
            text = f"no entry tells of the record of {path}: the end of the history was cut off, or its run ended before it"
            findings.append(AuditViolation(kind=Kind.RECORD, seq=0, message=text))
        elif entry.record != found_digest:
            text = (
                f"the record of {path} is not the one that entry {entry.seq} ({entry.event}) left: it was edited, later "
                "entries were cut off, or a run was killed between the two"
            )
            findings.append(AuditViolation(kind=Kind.RECORD, seq=entry.seq, message=text))
    for path in sorted(told.keys() - found.keys()):
        text = f"the record of {path} is gone; entry {told[path].seq} ({told[path].event}) was the last to tell of it"
        findings.append(AuditViolation(kind=Kind.RECORD, seq=told[path].seq, message=text))
    return findings


@dataclass(slots=True, kw_only=True)
class Restoring:
    """What a restore adds to its entry as it becomes known: what came back, and of which time it is."""

    content: Content | None = None
    commit_ts: str | None = None


@contextmanager
def restoring(context: Context, storage: Storage, operation: str) -> Iterator[Restoring]:
    """Tell the history beside the data that it was restored, or that this failed. Whoever may only read leaves no entry."""
    told = Restoring()
    try:
        yield told
    except ManagerError as error:
        _tell_restore(context, storage, operation, RESTORE_FAILED, reason=error.problem().reason)
        raise
    _tell_restore(context, storage, operation, RESTORED, content=told.content, commit_ts=told.commit_ts or None)


def _tell_restore(context: Context, storage: Storage, operation: str, event: str, **fields: Any) -> None:
    resource = context.resource
    try:
        AuditLog.beside(storage).append(
            now=context.now,
            event=event,
            path=storage.location.url,
            kind=resource.kind,
            namespace=resource.namespace,
            name=resource.name,
            uid=resource.uid,
            operation=operation,
            **fields,
        )
    except ManagerError as error:
        context.log(f"the history beside {storage.location.url} was not told: {error.message}")
