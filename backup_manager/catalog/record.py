"""The record of a backup: a small JSON object beside its data, ``<path>.record.json``. Here are its fields and its text.

Who owns a path, and what a CR may do with it, is decided from this document alone: docs/adr/0001-path-ownership.md describes
the states and :mod:`backup_manager.catalog.ownership` decides the transitions. Secrets never enter.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from posixpath import basename
from typing import Any, Final, Literal, Self

import msgspec
import orjson

from backup_manager.catalog import audit_log
from backup_manager.content import Content
from backup_manager.errors import StorageError
from backup_manager.kubernetes.resource import Resource
from backup_manager.masking import MASK, Masker
from backup_manager.packed_lines import pack_lines, unpack_lines
from backup_manager.storage.base import ObjectInfo, Storage
from crds.contract.paths import ATTEMPT_FOLDER, PROBE, RECORD_SUFFIX, RESERVED_NAMES, RESERVED_SUFFIXES, Location, reserved_part
from crds.contract.report import Problem
from crds.contract.wire import Document, WireError

SUFFIX: Final = RECORD_SUFFIX
VERSION: Final = 2
"""Version 2 is a record whose data lies in a folder of an attempt, or whose path is cleaned with an attempt still open. A
manager that reads version 1 alone would take all that is under the path for the data, or the path for free; so it refuses."""
_RESERVED: Final = (*RESERVED_SUFFIXES, *RESERVED_NAMES, PROBE)


class State(StrEnum):
    """State of a path that has a record. A path is Free without one, and when it is Cleaned with no attempt open."""

    CLAIMED = "Claimed"
    COMPLETE = "Complete"
    FAILED = "Failed"
    CLEANING = "Cleaning"
    CLEANED = "Cleaned"


class Role(StrEnum):
    """What an attempt does to a path."""

    WRITE = "write"
    CLEAN = "clean"


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


class Attempt(Document, frozen=True, kw_only=True):
    """One process that claimed the path. *number* grows with each claim on the path and is given out by the conditional write;
    *id* is the Pod's uid, or random outside of Kubernetes; *owner* is the uid of the CR it worked for."""

    number: int
    id: str
    role: Role = Role.WRITE
    owner: str = ""
    pod: str = ""

    def __str__(self) -> str:
        """For messages."""
        return f"attempt {self.number} ({'cleaner' if self.role is Role.CLEAN else 'writer'} {self.pod or self.id})"


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
    """The document. Times inform; none of them decides anything.

    *attempts*: the last attempt number given out. *revision* differs at each write, so that an etag of the content never comes
    back. *attempt* holds the path as a writer, *cleaner* as the one that deletes. *open*: attempts that have not been seen to
    end. *content*: totals of what the artefact holds, None in a record of a release that did not look. *contents*: name of the
    list of its objects beside the record. *data*: the folder inside the path where the data lies, empty for the path itself.
    *left_out*: what the cluster has and the export has not, a line each. *neighbours_checked*: whether a writer of this owner
    got past the check of ancestors and descendants, and so may have written. *withdrawn*: this claim was given back before
    anything was written or deleted.
    """

    v: Literal[1, 2] = 1
    state: State
    owner: Owner
    backup_path: str
    operation: str = ""
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    tool: str = ""
    tool_version: str = ""
    argv: tuple[str, ...] = ()
    attempts: int = 1
    revision: int = 0
    attempt: Attempt | None = None
    cleaner: Attempt | None = None
    open: tuple[Attempt, ...] = ()
    data: str = ""
    neighbours_checked: bool = True
    withdrawn: bool = False
    time_claimed: datetime
    time_completed: datetime | None = None
    commit_ts: str | None = None
    size: int | None = None
    object_count: int | None = None
    objects: str = ""
    content: Content | None = None
    contents: str = ""
    left_out: tuple[str, ...] | None = None
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
        written["v"] = VERSION if self.data or (not self.live and self.open) else 1
        return msgspec.json.format(msgspec.json.encode({**written.pop("unknown"), **written}), indent=2)

    @property
    def digest(self) -> str:
        """The digest of what it says: what the history keeps of it."""
        return audit_log.digest(self.to_json())

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """Read a record. One that cannot be read, or not be written back (a number or time that JSON cannot hold, nested too
        deep), is not ignored: it may be a claim. Raises StorageError."""
        try:
            record = cls.read(data)
            if record.data and not is_attempt_folder(record.data):
                raise WireError("data names a folder that no attempt has")
            known = cls.__struct_encode_fields__
            record = record.but(unknown={key: value for key, value in orjson.loads(data).items() if key not in known})
            record.to_json()
        except (ValueError, OverflowError, RecursionError):
            raise unreadable(where, data) from None
        return record


def is_attempt_folder(name: str) -> bool:
    """Whether *name* is that of a folder into which a repeated attempt wrote.

    >>> is_attempt_folder("attempt-2"), is_attempt_folder("attempt-x")
    (True, False)
    """
    return name.startswith(ATTEMPT_FOLDER) and name.removeprefix(ATTEMPT_FOLDER).isdecimal()


def unreadable(where: str, data: bytes) -> StorageError:
    """The error for a record *data* at *where* that this version cannot read."""
    version = _version_of(data)
    if version is not None and version > VERSION:
        message = f"{where} is a record of version {version}; this backup-manager reads version {VERSION}"
        hint = "Use the backup-manager image that wrote it, or a newer one. Nothing was written or deleted."
    else:
        message = f"{where} is not a record that this version can read"
        hint = (
            "Nothing was written or deleted. Restore the record from an older version of the object, or from a copy; remove it "
            "by hand only when nothing under its path is needed any more."
        )
    return StorageError(message, reason="UnreadableRecord", hint=hint)


def _version_of(data: bytes) -> int | None:
    try:
        version = orjson.loads(data).get("v")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def record_location(location: Location) -> tuple[Location, str]:
    """Folder and name of the record of *location*.

    >>> from crds.contract.paths import Provider
    >>> folder, name = record_location(Location(provider=Provider.S3, bucket="b", prefix="p/daily-1"))
    >>> folder.url, name
    ('s3://b/p', 'daily-1.record.json')
    """
    return location.parent, basename(location.prefix) + SUFFIX


def safe_spec(spec: Mapping[str, Any], mask: Masker) -> dict[str, Any]:
    """*spec* without what may be secret: the SAS token, values of variables, and whatever *mask* knows."""
    copy: dict[str, Any] = mask.value(orjson.loads(orjson.dumps(spec)))
    for holder in (copy, copy.get("pitrFullBackupStorageProvider") or {}):
        if isinstance(holder.get("azblob"), dict) and holder["azblob"].get("sasToken"):
            holder["azblob"]["sasToken"] = MASK
    copy["env"] = [{**item, "value": MASK} if "value" in item else item for item in copy.get("env") or ()]
    return {key: value for key, value in copy.items() if value not in (None, [], {})}


def find(storage: Storage) -> Iterator[Record]:
    """Every record under the storage's folder. Lists all of it."""
    for info in storage.list():
        if info.key.endswith(SUFFIX):
            yield Record.parse(storage.read(info.key), f"{storage.location.url.rstrip('/')}/{info.key}")


def is_data(key: str) -> bool:
    """Whether an object is part of a backup: records, lists and histories of other paths may lie among its data.

    >>> is_data("shop.t.000000000.sql"), is_data("x/y.record.json"), is_data("x/.history/00000001.json"), is_data(f"{PROBE}1")
    (True, False, False, False)
    """
    if not any(mark in key for mark in _RESERVED):
        return True
    return not reserved_part(key) and not any(part.startswith(PROBE) for part in key.split("/"))


def pack_objects(objects: Iterable[ObjectInfo]) -> tuple[bytes, int, int]:
    """The list of objects, compressed (one JSON array ``[key, size, etag]`` a line), with their number and total size."""
    count = size = 0

    def lines() -> Iterator[bytes]:
        nonlocal count, size
        for info in objects:
            key = info.key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            yield orjson.dumps((key, info.size, info.etag))
            count += 1
            size += info.size

    packed = pack_lines(lines())
    return packed, count, size


def unpack_objects(data: bytes) -> dict[str, tuple[int, str]]:
    """Size and etag by key."""
    return {key: (size, etag) for key, size, etag in map(orjson.loads, unpack_lines(data))}
