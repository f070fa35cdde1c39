"""The record of a backup: a small JSON object beside its data, ``<path>.record.json``.

It is three things. Before the first byte it is the *claim* on the path: created only if absent, so of two CRs on one path the
second is refused before it writes. At the end it is the *account*: what, when, by which tool, how many bytes and objects, with
the list of all objects in ``<path>.objects.gz`` for a later verification. After a clean it is the *tombstone*: who deleted what
and when. It lies beside the data and outlives the CR and the cluster.

Every change is a compare-and-swap, so none is lost, and is told to the folder's history (:mod:`backup_manager.history`).
Secrets never enter.
"""

import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from posixpath import basename, dirname
from typing import Any, Final, Literal, Self

import msgspec
import orjson

from backup_manager import history
from backup_manager.custom_resource import Resource
from backup_manager.errors import (
    AccessDeniedError,
    ClaimedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
)
from backup_manager.masking import MASK, Masker
from backup_manager.storage.base import ObjectInfo, Storage
from crds.paths import Location
from crds.report import Problem
from crds.wire import Document, WireError

SUFFIX: Final = ".record.json"
OBJECTS_SUFFIX: Final = ".objects.gz"
_RACES: Final = 8
_PAST: Final = 5


class State(StrEnum):
    """What the data under the path is."""

    CLAIMED = "Claimed"
    COMPLETE = "Complete"
    FAILED = "Failed"
    CLEANING = "Cleaning"
    CLEANED = "Cleaned"


class Owner(Document, frozen=True, kw_only=True):
    """The CR a path belongs to."""

    kind: str = "Backup"
    namespace: str = ""
    name: str
    uid: str

    @classmethod
    def of(cls, resource: Resource) -> Self:
        """Of a CR; one that was never in a cluster has no uid and is known by its name."""
        uid = resource.uid or f"file:{resource.namespace}/{resource.name}"
        return cls(kind=resource.kind or "Backup", namespace=resource.namespace, name=resource.name, uid=uid)

    def __str__(self) -> str:
        """For messages."""
        return f"{self.kind} {self.namespace}/{self.name} (uid {self.uid})"


class Cleaned(Document, frozen=True, kw_only=True):
    """Who deleted the data, when, why and how much."""

    by: str = ""
    why: str = ""
    at: datetime
    deleted: int = 0
    bytes: int = 0


class Past(Document, frozen=True, kw_only=True):
    """An earlier life of the path, in short."""

    owner: Owner
    state: State
    time_completed: datetime | None = None
    cleaned: Cleaned | None = None


class Record(Document, frozen=True, kw_only=True):
    """The document."""

    v: Literal[1] = 1
    state: State
    owner: Owner
    backup_path: str
    operation: str = ""
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    tool: str = ""
    tool_version: str = ""
    argv: tuple[str, ...] = ()
    attempts: int = 1
    time_claimed: datetime
    time_completed: datetime | None = None
    commit_ts: str | None = None
    size: int | None = None
    object_count: int | None = None
    objects: str = ""
    problem: Problem | None = None
    cleaned: Cleaned | None = None
    past: tuple[Past, ...] = ()
    unknown: dict[str, Any] = msgspec.field(default_factory=dict)
    """What a newer manager wrote at the top level: kept when this one writes the record back."""

    @property
    def live(self) -> bool:
        """Whether there may be data that belongs to :attr:`owner`."""
        return self.state is not State.CLEANED

    def to_json(self) -> bytes:
        """The bytes to store."""
        written = self.plain()
        return msgspec.json.format(msgspec.json.encode({**written.pop("unknown"), **written}), indent=2)

    @property
    def digest(self) -> str:
        """The digest of what it says: what the history keeps of it."""
        return history.digest(self.to_json())

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """Read a record. One that cannot be read is not ignored: it may be a claim. Raises StorageError."""
        try:
            record = cls.read(data)
        except WireError:
            raise StorageError(
                f"{where} is no record that this version can read",
                reason="UnreadableRecord",
                hint="Look at it; remove it by hand when it does not belong to a backup, or use a newer manager.",
            ) from None
        known = cls.__struct_encode_fields__
        return record.but(unknown={key: value for key, value in orjson.loads(data).items() if key not in known})


def record_location(location: Location) -> tuple[Location, str]:
    """Folder and name of the record of *location*.

    >>> from crds.paths import Provider
    >>> folder, name = record_location(Location(provider=Provider.S3, bucket="b", prefix="p/daily-1"))
    >>> folder.url, name
    ('s3://b/p', 'daily-1.record.json')
    """
    parent = Location(provider=location.provider, bucket=location.bucket, prefix=dirname(location.prefix))
    return parent, basename(location.prefix) + SUFFIX


def safe_spec(spec: Mapping[str, Any], mask: Masker) -> dict[str, Any]:
    """*spec* without what may be secret: the SAS token, values of variables, and whatever *mask* knows."""
    copy: dict[str, Any] = mask.value(orjson.loads(orjson.dumps(spec)))
    for holder in (copy, copy.get("pitrFullBackupStorageProvider") or {}):
        if isinstance(holder.get("azblob"), dict) and holder["azblob"].get("sasToken"):
            holder["azblob"]["sasToken"] = MASK
    copy["env"] = [{**item, "value": MASK} if "value" in item else item for item in copy.get("env") or ()]
    return {key: value for key, value in copy.items() if value not in (None, [], {})}


def _now() -> datetime:
    return datetime.now(UTC)


class Records:
    """The record of one path, and those around and inside it."""

    def __init__(self, storage: Storage, *, now: Callable[[], datetime] = _now) -> None:
        self.location = storage.location
        self._storage = storage
        folder, self._key = record_location(storage.location)
        self._beside = storage.at(folder)
        self._chain = history.Chain(storage, folder)
        self._url = f"{folder.url.rstrip('/')}/{self._key}"
        self._now = now

    def load(self) -> Record | None:
        """The record, or None when there is none."""
        found = self._fetch()
        return found[0] if found else None

    def claim(self, owner: Owner, *, operation: str, spec: Mapping[str, Any], mask: Masker | None = None) -> Record:
        """Take the path for *owner*, before anything is written. Raises ClaimedError when it is another's.

        The claim is written first and the neighbourhood looked at afterwards: of two that claim a path and a folder in it at
        the same time, at least one sees the other. A repeated claim of the same owner succeeds and counts the attempt.
        """
        wanted = Record(
            state=State.CLAIMED,
            owner=owner,
            backup_path=self.location.url,
            operation=operation,
            spec=safe_spec(spec, mask or Masker()),
            time_claimed=self._now(),
        )
        for _ in range(_RACES):
            found = self._fetch()
            try:
                if found is None:
                    self._write(wanted, if_absent=True)
                    self._refuse_neighbours(owner, before=None)
                    self._tell(wanted)
                    return wanted
                return self._claim_again(wanted, *found)
            except PreconditionError:
                continue
        raise StorageError(f"{self._url} changes all the time", reason="StorageConflict", hint="Which other job writes there?")

    def _claim_again(self, wanted: Record, there: Record, etag: str) -> Record:
        if there.live and (there.owner.uid != wanted.owner.uid or there.state is State.CLEANING):
            raise claimed(self.location.url, there)
        if there.live:
            update: dict[str, Any] = {"attempts": there.attempts + 1, "spec": wanted.spec, "operation": wanted.operation}
            if there.state is not State.COMPLETE:
                update |= {"state": State.CLAIMED, "problem": None}
            record = there.but(**update)
            self._write(record, if_match=etag)
            self._tell(record)
            return record
        record = wanted.but(past=(*there.past, _past(there))[-_PAST:])
        self._write(record, if_match=etag)
        self._refuse_neighbours(wanted.owner, before=there)
        self._tell(record)
        return record

    def _refuse_neighbours(self, owner: Owner, *, before: Record | None) -> None:
        """Give a fresh claim back, to what was there *before*, when a path around or inside it is another's."""
        try:
            self.check_around({owner.uid})
            self.check_inside({owner.uid})
        except Exception:
            if before is None:
                self._beside.delete([self._key])
            else:
                self._write(before)
            raise

    def complete(
        self,
        owner: Owner,
        *,
        tool: str = "",
        tool_version: str = "",
        argv: Sequence[str] = (),
        commit_ts: str | None = None,
        mask: Masker | None = None,
        listed: bool = True,
    ) -> Record:
        """Close the account: list the data, keep the list (unless not *listed*: a log backup never ends), count and size."""
        update: dict[str, Any] = {
            "state": State.COMPLETE,
            "tool": tool,
            "tool_version": tool_version,
            "argv": tuple((mask or Masker())(argument) for argument in argv),
            "commit_ts": commit_ts,
            "time_completed": self._now(),
            "problem": None,
        }
        if listed:
            packed, count, size = pack_objects(self._storage.list())
            name = self._key.removesuffix(SUFFIX) + OBJECTS_SUFFIX
            self._beside.write(name, packed)
            update |= {"objects": name, "object_count": count, "size": size}
        return self._update(owner, lambda record: record.but(**update))

    def fail(self, owner: Owner, problem: Problem) -> Record:
        """The run failed; what it wrote stays claimed, for a retry or a clean."""
        return self._update(owner, lambda r: r.but(state=State.FAILED, problem=problem))

    def begin_clean(self, owner: Owner) -> None:
        """Say that the data is being deleted, when there is a record of it."""
        if self.load() is not None:
            self._update(owner, lambda record: record.but(state=State.CLEANING), foreign=True)

    def bury(self, owner: Owner, cleaned: Cleaned) -> Record:
        """Leave the tombstone, also where no record was (data of TiDB Operator)."""
        bare = Record(state=State.CLEANED, owner=owner, backup_path=self.location.url, time_claimed=self._now())
        for _ in range(_RACES):
            found = self._fetch()
            try:
                if found is None:
                    record = bare.but(cleaned=cleaned)
                    self._write(record, if_absent=True)
                else:
                    record = found[0].but(state=State.CLEANED, cleaned=cleaned, objects="")
                    self._write(record, if_match=found[1])
            except PreconditionError:
                continue
            if found and found[0].objects:
                self._beside.delete([found[0].objects])
            self._tell_if_possible(record)
            return record
        raise StorageError(f"{self._url} changes all the time", reason="StorageConflict")

    def objects(self, record: Record) -> dict[str, tuple[int, str]]:
        """The kept list: size and etag by key. Raises NotFoundError when it was not kept or is gone."""
        if not record.objects:
            raise NotFoundError(f"{self._url} keeps no list of objects", reason="NoObjectList")
        return unpack_objects(self._beside.read(record.objects))

    def check_around(self, uids: Set[str]) -> None:
        """Refuse when a folder that holds this path belongs to none of *uids*. Raises ClaimedError."""
        prefix = self.location.prefix
        while prefix:
            prefix = dirname(prefix)
            place = Location(provider=self.location.provider, bucket=self.location.bucket, prefix=prefix)
            try:
                record = Records(self._storage.at(place)).load()
            except AccessDeniedError:
                # Keys that are confined to a folder cannot look above it; whoever wrote there had other keys.
                continue
            if record and record.live and record.owner.uid not in uids:
                raise claimed(place.url, record)

    def check_inside(self, uids: Set[str]) -> None:
        """Refuse when a folder inside this path belongs to none of *uids*. Lists the whole path. Raises ClaimedError."""
        for record in find(self._storage):
            if record.live and record.owner.uid not in uids:
                raise claimed(record.backup_path, record)

    def _fetch(self) -> tuple[Record, str] | None:
        try:
            data, etag = self._beside.fetch(self._key)
        except NotFoundError as error:
            if error.problem().reason == "BucketNotFound":
                raise
            return None
        return Record.parse(data, self._url), etag

    def _write(self, record: Record, *, if_absent: bool = False, if_match: str | None = None) -> None:
        try:
            self._beside.write(self._key, record.to_json(), if_absent=if_absent, if_match=if_match)
        except AccessDeniedError as error:
            raise AccessDeniedError(
                error.message,
                reason=error.problem().reason,
                hint=f"Records lie beside the data: allow reading and writing {self._url} too.",
            ) from None

    def _update(self, owner: Owner, change: Callable[[Record], Record], *, foreign: bool = False) -> Record:
        for _ in range(_RACES):
            found = self._fetch()
            if found is None:
                raise NotFoundError(f"{self._url} is gone", reason="RecordLost", hint="Something deleted it during the run.")
            if found[0].owner.uid != owner.uid and not foreign:
                raise claimed(self.location.url, found[0])
            try:
                record = change(found[0])
                self._write(record, if_match=found[1])
            except PreconditionError:
                continue
            self._tell_if_possible(record)
            return record
        raise StorageError(f"{self._url} changes all the time", reason="StorageConflict")

    def _tell_if_possible(self, record: Record) -> None:
        """A backup that is good stays good though its diary cannot be written; ``history verify`` shows what is missing."""
        with suppress(ManagerError):
            self._tell(record)

    def _tell(self, record: Record) -> None:
        """Add what *record* now says to the history."""
        owner, cleaned = record.owner, record.cleaned if record.state is State.CLEANED else None
        self._chain.append(
            now=self._now,
            event=str(record.state),
            path=record.backup_path,
            kind=owner.kind,
            namespace=owner.namespace,
            name=owner.name,
            uid=owner.uid,
            operation=record.operation,
            attempt=record.attempts,
            size=record.size,
            object_count=record.object_count,
            commit_ts=record.commit_ts,
            reason=record.problem.reason if record.problem else "",
            by=cleaned.by if cleaned else "",
            why=cleaned.why if cleaned else "",
            deleted=cleaned.deleted if cleaned else None,
            record=record.digest,
        )


def claimed(path: str, record: Record) -> ClaimedError:
    """The refusal, naming whose path it is."""
    return ClaimedError(
        f"{path} belongs to {record.owner} ({record.state})",
        hint="Give this Backup a prefix of its own; or delete the other Backup with its data first.",
    )


def find(storage: Storage) -> Iterator[Record]:
    """Every record under the storage's folder. Lists all of it."""
    for info in storage.list():
        if info.key.endswith(SUFFIX):
            yield Record.parse(storage.read(info.key), f"{storage.location.url.rstrip('/')}/{info.key}")


def _past(record: Record) -> Past:
    return Past(owner=record.owner, state=record.state, time_completed=record.time_completed, cleaned=record.cleaned)


def pack_objects(objects: Iterable[ObjectInfo]) -> tuple[bytes, int, int]:
    """The list of objects, compressed (one JSON array ``[key, size, etag]`` a line), with their number and total size."""
    buffer, count, size = io.BytesIO(), 0, 0
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed:
        for info in objects:
            key = info.key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            packed.write(orjson.dumps((key, info.size, info.etag)) + b"\n")
            count += 1
            size += info.size
    return buffer.getvalue(), count, size


def unpack_objects(data: bytes) -> dict[str, tuple[int, str]]:
    """Size and etag by key."""
    with gzip.open(io.BytesIO(data)) as lines:
        return {key: (size, etag) for key, size, etag in map(orjson.loads, lines)}
