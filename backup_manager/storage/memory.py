"""A store in memory, for tests and dry runs: the rules of an S3 bucket (flat keys, versions, locks, uploads)."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import BinaryIO

from backup_manager.errors import NotFoundError, PreconditionError
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from crds.contract.paths import Location, Provider

_PAGE = 1000


def etag_of(data: bytes) -> str:
    """The etag of an object in memory or in a local file."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Bucket:
    """The shared state: several :class:`MemoryStorage` may look into one.

    ``objects`` is the current data by absolute key, ``history`` the older versions and markers of a *versioned* bucket,
    ``locked`` the keys that cannot be deleted before a date.
    """

    versioned: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)
    history: dict[tuple[str, str], int] = field(default_factory=dict)
    locked: dict[str, datetime] = field(default_factory=dict)
    multipart: dict[str, str] = field(default_factory=dict)
    mutex: Lock = field(default_factory=Lock)

    def put(self, key: str, data: bytes = b"") -> None:
        """Store *data*; a versioned bucket keeps what was there."""
        if self.versioned and key in self.objects:
            self.history[(key, f"v{len(self.history)}")] = len(self.objects[key])
        self.objects[key] = data


class MemoryStorage:
    """One folder of a :class:`Bucket`."""

    notes: Sequence[str] = ()

    def __init__(self, location: Location | None = None, bucket: Bucket | None = None) -> None:
        self.batch_size = _PAGE
        self.location = location or Location(provider=Provider.S3, bucket="memory", prefix="data")
        self.bucket = bucket if bucket is not None else Bucket()
        self._base = f"{self.location.prefix}/" if self.location.prefix else ""

    def at(self, location: Location) -> "MemoryStorage":
        """The same bucket, another folder."""
        return MemoryStorage(location, self.bucket)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object, in byte order."""
        start = self._base + prefix
        for key in sorted(key for key in list(self.bucket.objects) if key.startswith(start)):
            if (data := self.bucket.objects.get(key)) is not None:
                yield ObjectInfo(key=key[len(self._base) :], size=len(data), etag=etag_of(data))

    def stat(self, key: str) -> ObjectInfo:
        """Size and etag."""
        data = self.read(key)
        return ObjectInfo(key=key, size=len(data), etag=etag_of(data))

    def read(self, key: str) -> bytes:
        """The bytes."""
        try:
            return self.bucket.objects[self._base + key]
        except KeyError:
            raise NotFoundError(f"{self.location.url}: no object {key}") from None

    def fetch(self, key: str) -> tuple[bytes, str]:
        """Bytes and etag."""
        data = self.read(key)
        return data, etag_of(data)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The bytes as a stream."""
        return closing(io.BytesIO(self.read(key)))

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store, under the condition."""
        with self.bucket.mutex:
            there = self.bucket.objects.get(self._base + key)
            if if_absent and there is not None:
                raise PreconditionError(f"{key} exists")
            if if_match is not None and (there is None or etag_of(there) != if_match):
                raise PreconditionError(f"{key} changed")
            self.bucket.put(self._base + key, data)
        return etag_of(data)

    def enforces_conditions(self, key: str) -> bool:
        """Always."""
        return True

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete the current objects."""
        return self.delete_batch([Target(key) for key in keys])

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Objects, versions and markers."""
        start = self._base + prefix
        found = [Target(k[len(self._base) :], None, len(v)) for k, v in self.bucket.objects.items() if k.startswith(start)]
        found += [
            Target(key[len(self._base) :], version, size)
            for (key, version), size in self.bucket.history.items()
            if key.startswith(start)
        ]
        found.sort(key=lambda target: target.key)
        for first in range(0, len(found), _PAGE):
            yield found[first : first + _PAGE]

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        """Delete; a locked object stays."""
        failures = []
        for target in batch:
            key = self._base + target.key
            until = self.bucket.locked.get(key)
            if until is not None and until > datetime.now(UTC):
                failures.append(
                    DeleteFailure(
                        key=target.key,
                        version=target.version,
                        code="AccessDenied",
                        message="locked",
                        locked=True,
                        locked_until=until,
                    )
                )
            elif target.version is None:
                self.bucket.objects.pop(key, None)
            else:
                self.bucket.history.pop((key, target.version), None)
        return failures

    def uploads(self) -> Iterator[Upload]:
        """Unfinished uploads."""
        for upload_id, key in list(self.bucket.multipart.items()):
            if key.startswith(self._base):
                yield Upload(key=key[len(self._base) :], upload_id=upload_id)

    def abort(self, upload: Upload) -> None:
        """Forget an upload."""
        self.bucket.multipart.pop(upload.upload_id, None)

    def tidy(self) -> None:
        """Nothing to do."""

    def state(self) -> StoreState:
        """Known in full."""
        return StoreState(versioned=self.bucket.versioned, lock=bool(self.bucket.locked), clock_skew=0.0)

    def close(self) -> None:
        """Nothing to do."""
