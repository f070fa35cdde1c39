"""Nobody deletes what a restore reads.

A clean asks two places, since a reader may be anywhere:

* Kubernetes: the Restores (and compactions) of its namespace that are not final and name the path, or one around or inside it,
  whether one of their Pods runs at this moment or not;
* the storage: a reader leaves a mark beside the data, ``<path>.readers/<uid>-<attempt>.json``, and renews it while it reads. A
  reader inside somebody's path leaves one beside that path too. One that has not changed for all of its time, by the cleaner's
  own clock, is of a dead reader.

Of a reader and a cleaner that begin at the same moment one sees the other: the reader writes its mark and then looks at the
record, the cleaner writes its claim (state ``Cleaning``) and then looks for marks. Before that claim the cleaner waits too, so
that a Restore which was there first may go on through all of its attempts.

Keys that may only read leave no mark; the log says so, and the first place remains. Records of a path: ``docs/adr/0001``.
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import orjson

from backup_manager.catalog.record import Record, State
from backup_manager.catalog.records import Records
from backup_manager.context import Context
from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PermanentError,
    PreconditionError,
    StorageError,
    TransientError,
)
from backup_manager.kubernetes.client import ApiForbiddenError, ApiNotFoundError
from backup_manager.locking import lock as locks
from backup_manager.locking.lock import Entry, Lock, LockLostError, Note, Pace
from backup_manager.storage.base import Storage
from backup_manager.storage.retry import with_retries
from crds.contract import identity, paths
from crds.contract.paths import Location, PathError, Provider
from crds.contract.report import Problem
from crds.contract.wire import Document, WireError

PACE: Final = Pace(duration=300.0, renew=60.0, retry=10.0, fence=240.0)
"""A mark is a small object that is written again each minute: no more, where a bucket is versioned or paid by the request."""
READERS: Final = ("Restore", "CompactBackup")
"""Kinds that read what lies at a path."""
LIMIT_SECONDS: Final = 3600.0
"""For so long one attempt of a clean waits; the hook tries again later."""
_POLL_SECONDS: Final = 10.0
_LONGEST: Final = 3600.0
"""What a mark may ask for, in seconds."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9.-]+")
_PRUNING: Final = frozenset({"PruneScheduled", "PruneRunning"})
_FINAL: Final = frozenset({"Complete", "Failed"})


class SourceBeingCleanedError(PermanentError):
    """The data is being deleted, or is deleted already."""

    reason = "SourceBeingCleaned"


class SourceNotCompleteError(PermanentError):
    """The record says that a run is still writing the data, or that none completed it."""

    reason = "SourceNotComplete"


class ReaderActiveError(TransientError):
    """A reader did not end in time; nothing was deleted by this attempt of the clean."""

    reason = "ReaderActive"


class MarkLostError(LockLostError):
    """The mark of a reader could not be renewed for so long that a clean may begin: the tool was stopped."""

    reason = "ReaderMarkLost"


class Mark(Document, frozen=True, kw_only=True):
    """What a reader leaves: who it is, for how many *seconds* an unchanged mark counts, a *token* that each write changes."""

    v: int = 1
    token: str
    owner: str = ""
    owner_uid: str = ""
    attempt: str = ""
    seconds: float = PACE.duration

    @classmethod
    def of(cls, note: Note) -> Self:
        """Of the reader that *note* names."""
        holder, seconds = note.holder, note.seconds
        return cls(token=secrets.token_hex(8), owner=note.owner, owner_uid=note.owner_uid, attempt=holder, seconds=seconds)


# The reader's side


@contextmanager
def reading(context: Context, *sources: Storage, pace: Pace = PACE) -> Iterator[None]:
    """Keep every one of *sources* from being cleaned while the body reads it.

    Raises SourceBeingCleanedError when a clean was first, MarkLostError when a mark could not be kept: the run is to stop.
    """
    with ExitStack() as stack:
        for source in sources:
            for place in _places(context, source):
                _enter(context, stack, MarkPlace.beside(source, place, locks.identity(context)), pace)
            _refuse_cleaned(context, source)
        yield


def _enter(context: Context, stack: ExitStack, mark: "MarkPlace | None", pace: Pace) -> None:
    if mark is None:
        return
    lock = Lock(place=mark, we=mark.reader, pace=pace)
    try:
        if not lock.try_acquire():
            raise TransientError(f"{mark.shown} is written by another process", reason="StorageConflict")
    except StorageError as error:
        seen = "a clean sees this run only as a Restore of its own namespace"
        context.log(f"no mark of a reader can be left at {mark.shown} ({error.message}): {seen}")
        return
    stack.enter_context(locks.renewing(context, lock, lost=lambda why: _lost(mark, why)))


def _places(context: Context, source: Storage) -> list[Location]:
    """The path, and those around it that have a record: their clean would delete it too."""
    return [source.location, *(location for location, _ in _records_around(context, source))]


def _records_around(context: Context, source: Storage) -> list[tuple[Location, Record]]:
    found = [(location, _record(context, source, location)) for location in source.location.parents() if location.prefix]
    return [(location, record) for location, record in found if record is not None]


def _record(context: Context, source: Storage, location: Location) -> Record | None:
    """The record of *location*; None also where it may not be read, or is of a kind that this version does not know."""
    try:
        return Records(source.at(location), now=context.now).load()
    except ManagerError as error:
        if error.problem().retryable or error.problem().reason == "BucketNotFound":
            raise
        context.log(f"whether {location.url} is being cleaned is not known: {error.message}")
        return None


def _refuse_cleaned(context: Context, source: Storage) -> None:
    """Look at the records after the marks were left. Of a path around ours a tombstone says nothing: ours may be younger."""
    record = _record(context, source, source.location)
    gone = record is not None and record.state is State.CLEANED and record.cleaned is not None
    found = [(source.location, record)] if record is not None else []
    for location, there in [*found, *_records_around(context, source)]:
        if there.state is State.CLEANING or (gone and location == source.location):
            told = "was deleted" if there.state is State.CLEANED else "is being deleted"
            raise SourceBeingCleanedError(
                f"the data at {location.url}, of {there.owner}, {told}",
                hint="Restore another backup. Data that was copied back by hand is restored from a path of its own.",
            )


def require_complete(record: Record, url: str) -> None:
    """Refuse a source whose *record* has no complete data: an attempt may be writing it, and the next one removes what it left.

    To be asked while the source is being read (:func:`reading`), so that a complete one stays. Data without a record is another
    tool's and not judged. Raises SourceNotCompleteError: retryable while a run may still complete it.
    """
    if record.state not in {State.CLAIMED, State.FAILED}:
        return
    running = record.state is State.CLAIMED
    raise SourceNotCompleteError(
        f"{url} holds no complete backup: {record.owner} {'has not completed it yet' if running else 'failed'}",
        hint="Restore it once that Backup is Complete, or restore another backup.",
        retryable=running,
    )


def refuse_incomplete(context: Context, source: Storage) -> None:
    """:func:`require_complete` for the record of *source*, if there is one that can be read."""
    if (record := _record(context, source, source.location)) is not None:
        require_complete(record, source.location.url)


def _lost(mark: "MarkPlace", why: str) -> MarkLostError:
    return MarkLostError(
        f"the mark that keeps {mark.path.url} from being cleaned was lost, so the tool was stopped: {why}",
        hint="The run is repeated when the retry policy allows and the data is still there.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkPlace:
    """One reader's mark beside *path*, as a lock that is its alone: renewed, fenced and removed like any other."""

    marks: Storage
    path: Location
    key: str
    reader: Note

    @classmethod
    def beside(cls, source: Storage, path: Location, reader: Note) -> Self | None:
        """The mark of *reader*; None for a whole bucket or volume, which is never cleaned."""
        marks = marks_of(source, path)
        if marks is None:
            return None
        key = _UNSAFE.sub("_", f"{reader.owner_uid or 'file'}-{reader.holder}")
        return cls(marks=marks, path=path, key=f"{key}.json", reader=reader)

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.marks.location.url.rstrip('/')}/{self.key}"

    def look(self) -> Entry | None:
        """The mark as it lies there."""
        try:
            data, etag = self.marks.fetch(self.key)
        except NotFoundError as error:
            if error.problem().reason == "BucketNotFound":
                raise
            return None
        return Entry(version=etag, note=_note(data))

    def write(self, note: Note, version: str | None) -> Entry | None:
        """Write it under the condition, or remove it with every version of it."""
        if not note.holder:
            _delete_mark(self.marks, self.key)
            return Entry(version="", note=note)
        data = Mark.of(note).to_line().encode()
        try:
            if version is None:
                etag = self.marks.write(self.key, data, if_absent=True)
            else:
                etag = self.marks.write(self.key, data, if_match=version)
        except PreconditionError:
            return None
        return Entry(version=etag, note=note)


def _note(data: bytes) -> Note:
    try:
        mark = Mark.read(data)
    except WireError:
        return Note(holder="unknown", owner="a reader of another version")
    return Note(holder=mark.attempt, owner=mark.owner, owner_uid=mark.owner_uid, seconds=mark.seconds)


def marks_of(storage: Storage, path: Location) -> Storage | None:
    """Where the marks of readers of *path* lie; None for a whole bucket or volume."""
    if not path.prefix:
        return None
    return storage.at(Location(provider=path.provider, bucket=path.bucket, prefix=path.prefix + paths.READERS_SUFFIX))


def _delete_mark(marks: Storage, key: str) -> None:
    """Delete the mark with every version of it, one request each: some stores and keys refuse a batch alone. A refusal that
    passes is tried again, since a mark that stays makes a clean wait for all of its time. Raises StorageError."""
    marks.batch_size = 1
    for target in [target for page in marks.targets(key) for target in page]:
        if failures := with_retries(partial(marks.delete_batch, [target])):
            first = failures[0]
            raise StorageError(f"{marks.location.url.rstrip('/')}/{key} cannot be deleted: {first.code} {first.message}")
    marks.tidy()


# The cleaner's side


def wait_for_readers(
    context: Context,
    storage: Storage,
    *,
    limit: float = LIMIT_SECONDS,
    kinds: Sequence[str] = READERS,
    watch: "Watch | None" = None,
) -> bool:
    """Wait until no CR of *kinds* reads what lies under *storage*; whether one did. Raises ReaderActiveError after *limit*
    seconds. Who waits more than once keeps a *watch*, so that a mark of a dead reader counts its time once."""
    watch = watch or Watch(context=context, storage=storage)
    deadline, waited = context.stop.monotonic() + limit, False
    while reader := _reading_restore(context, storage.location, kinds) or watch.living(kinds):
        problem = _problem(reader, storage.location)
        if context.stop.monotonic() >= deadline:
            raise ReaderActiveError(problem.message, hint=problem.hint)
        context.journal.waiting(problem)
        if not waited:
            context.log(problem.message)
        waited = True
        context.stop.wait(_POLL_SECONDS)
    if waited:
        context.journal.running()
    return waited


def _problem(reader: str, path: Location) -> Problem:
    return Problem(
        reason="ReaderActive",
        message=f"waiting for {reader}, which reads {path.url}",
        hint=f"Nothing is deleted meanwhile. It goes on when {reader} is Complete or Failed, or was deleted.",
        retryable=True,
    )


@dataclass(slots=True, kw_only=True)
class Watch:
    """The marks beside a path and beside those around it, and since when each is as it is, by our own clock."""

    context: Context
    storage: Storage
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def living(self, kinds: Sequence[str]) -> str:
        """Who of *kinds* left a mark that may still be renewed; empty for nobody. Marks of the dead are removed."""
        path = self.storage.location
        for location in (path, *path.parents()):
            marks = marks_of(self.storage, location)
            if marks is None or location.url in self.closed:
                continue
            try:
                if owner := self._living_in(marks, kinds):
                    return owner
            except AccessDeniedError as error:
                self.closed.add(location.url)
                if location == path:
                    self.context.log(f"readers of other namespaces are not seen: {error.message}")
        return ""

    def _living_in(self, marks: Storage, kinds: Sequence[str]) -> str:
        for info in list(marks.list()):
            place, version = f"{marks.location.url}/{info.key}", f"{info.etag} {info.modified}"
            before, since = self.seen.get(place, ("", 0.0))
            if version != before:
                since = self.context.stop.monotonic()
                self.seen[place] = version, since
            try:
                note = _note(marks.read(info.key))
            except NotFoundError:
                continue
            if self.context.stop.monotonic() - since <= min(max(note.seconds, PACE.duration), _LONGEST):
                if _kind(note) not in READERS or _kind(note) in kinds:
                    return note.owner or "an unknown reader"
                continue
            self._remove(marks, info.key, note)
        return ""

    def _remove(self, marks: Storage, key: str, note: Note) -> None:
        self.context.log(f"{note.owner or 'an unknown reader'} has not renewed its mark {key} and counts as dead")
        try:
            _delete_mark(marks, key)
        except ManagerError as error:
            self.context.log(f"its mark stays: {error.message}")


def _kind(note: Note) -> str:
    return note.owner.partition(" ")[0]


def _reading_restore(context: Context, path: Location, kinds: Sequence[str]) -> str:
    """A CR of *kinds* in the namespace that is not final and names *path*; empty for none."""
    api = context.kubernetes
    if api is None:
        return ""
    here = _Place.of(context.resource.spec, path)
    for kind in kinds:
        try:
            found = list(api.resources(kind, context.resource.namespace))
        except (ApiForbiddenError, ApiNotFoundError) as error:
            context.log(f"{kind}s that read the path are not looked for: {error.message}")
            continue
        for resource in found:
            if may_read(resource) and any(place.meets(here) for place in _sources(resource)):
                meta = resource.get("metadata") or {}
                return f"{kind} {meta.get('namespace')}/{meta.get('name')}"
    return ""


def may_read(resource: Mapping[str, Any]) -> bool:
    """Whether a run of this Restore or CompactBackup may read, now or later: it is not final, and not only wrong."""
    status = resource.get("status") or {}
    phase = str(status.get("phase") or status.get("state") or "")
    held = {str(item.get("type")) for item in status.get("conditions") or () if item.get("status") == "True"}
    if phase in _PRUNING:
        return True
    if phase in _FINAL or held & _FINAL:
        return False
    # A wrong spec makes no Job; but the Job of one that became wrong later goes on.
    return "Invalid" not in held or "Scheduled" in held


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A path that two CRs may name differently. *volume* tells local volumes apart: a mount path does not say what is mounted.
    Endpoints are not compared, since one store may have several names."""

    location: Location
    volume: bytes = b""

    @classmethod
    def of(cls, spec: Mapping[str, Any], location: Location) -> Self:
        if location.provider is not Provider.LOCAL:
            return cls(location=location)
        local = spec.get("local") or {}
        volume = {key: value for key, value in (local.get("volume") or {}).items() if key != "name"}
        start = str((local.get("volumeMount") or {}).get("subPath") or "").strip("/")
        prefix = "/".join(part for part in (start, location.prefix) if part)
        bucket = "" if volume else location.bucket
        identity = orjson.dumps(volume, option=orjson.OPT_SORT_KEYS) if volume else b""
        return cls(location=Location(provider=location.provider, bucket=bucket, prefix=prefix), volume=identity)

    def meets(self, other: "_Place") -> bool:
        """Whether one of the two holds the other."""
        if self.volume != other.volume:
            return False
        return self.location.contains(other.location) or other.location.contains(self.location)


def _sources(resource: Mapping[str, Any]) -> Iterator[_Place]:
    """Every place that a Restore or CompactBackup names or has recorded at its start; what cannot be read names none."""
    spec, status = resource.get("spec") or {}, resource.get("status") or {}
    storages = [
        storage
        for said in (spec, _as_recorded(spec, status))
        for storage in (said, said.get("pitrFullBackupStorageProvider") or {})
    ]
    for storage in storages:
        for text in _texts(storage):
            yield from _place(storage, text)
        try:
            yield _Place.of(storage, paths.location_of(storage))
        except (PathError, AttributeError, TypeError):
            continue
    yield from _place(spec, str(status.get("backupPath") or ""))


def _as_recorded(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Mapping[str, Any]:
    """*spec* as it was when the CR started; as it is where nothing was recorded, or nothing that can be read."""
    recorded = identity.readable(status.get("recorded"))
    try:
        return identity.apply(spec, recorded) if recorded else spec
    except (ValueError, TypeError, KeyError):
        return spec


def _texts(storage: Mapping[str, Any]) -> Sequence[str]:
    """``path`` of the storage, which an import may name in place of bucket and prefix."""
    provider = paths.provider_of(storage)
    named = storage.get(provider) if provider else None
    told = str(named.get("path") or "") if isinstance(named, Mapping) else ""
    if told and "://" not in told:
        told = f"{'azure' if provider is Provider.AZBLOB else provider}://{told.lstrip('/')}"
    return [told] if told else []


def _place(storage: Mapping[str, Any], text: str) -> Iterator[_Place]:
    mount = str(((storage.get("local") or {}).get("volumeMount") or {}).get("mountPath") or "")
    try:
        if text:
            yield _Place.of(storage, Location.parse(text, mount_path=mount))
    except PathError:
        return
