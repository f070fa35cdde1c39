"""What every storage driver offers. Keys are relative to the driver's :class:`crds.contract.paths.Location` and never leave it.

A driver raises only :mod:`backup_manager.errors`. Its SDK is imported in its own module alone, and that module only when the
factory is asked for it. Reading and writing retry what a store calls temporary; :meth:`Storage.delete_batch` does not, since
the cleaner decides how fast to go on.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, NamedTuple, Protocol

from crds.contract.paths import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object of a listing. *size* in bytes; *etag* without quotes."""

    key: str
    size: int
    etag: str = ""
    modified: datetime | None = None
    version: str | None = None


class Target(NamedTuple):
    """One thing that a clean must delete: an object, one of its versions, or a delete marker. A tuple: there are millions."""

    key: str
    version: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteFailure:
    """One target that a batch could not delete, with the provider's own code and text.

    *locked*: a retention period or a legal hold protects it, until *locked_until* when the provider says a date.
    """

    key: str
    code: str
    message: str
    version: str | None = None
    retryable: bool = False
    locked: bool = False
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """What the store says about the bucket; None where it does not say.

    *versioned*: deleting leaves versions. *lock*: objects can be locked; *default_lock*: new ones are, in words. *clock_skew*:
    the store's clock minus ours, in seconds.
    """

    versioned: bool | None = None
    lock: bool | None = None
    default_lock: str = ""
    clock_skew: float | None = None


class Storage(Protocol):
    """A folder of objects."""

    @property
    def location(self) -> Location:
        """Where it is."""

    batch_size: int
    """How many targets one call of :meth:`delete_batch` takes at most. The cleaner sets 1 for one request a target; a driver
    does, when the store turns out to take no batches."""

    @property
    def notes(self) -> Sequence[str]:
        """What the store could not do and how we went on, each said once."""

    def at(self, location: Location) -> "Storage":
        """The same store and credentials, another folder."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every current object under ``<location>/<prefix>``, lazily, in the provider's order."""

    def stat(self, key: str) -> ObjectInfo:
        """One object's size and etag. Raises NotFoundError."""

    def read(self, key: str) -> bytes:
        """A small object whole. Raises NotFoundError."""

    def fetch(self, key: str) -> tuple[bytes, str]:
        """A small object whole, and the etag that :meth:`write` takes as *if_match*. Raises NotFoundError."""

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """An object as a stream. Raises NotFoundError."""

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store a small object and return its etag; with a condition that does not hold: PreconditionError."""

    def enforces_conditions(self, key: str) -> bool:
        """Whether the store itself refuses a conditional write of the object *key*, which exists and may be overwritten."""

    def delete(self, keys: Sequence[str]) -> Iterable[DeleteFailure]:
        """Delete what is there; a missing key counts as deleted. Returns what could not be deleted."""

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Everything under the location whose key has *prefix* and that takes space, page by page: on a versioned bucket every
        version and marker."""

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        """Delete one batch in one go, without retries; what is gone already counts as deleted."""

    def uploads(self) -> Iterator[Upload]:
        """Unfinished multipart uploads under the location; nothing where the provider has no such thing."""

    def abort(self, upload: Upload) -> None:
        """Throw an unfinished upload away."""

    def tidy(self) -> None:
        """Remove what holds no data once the location is empty (folders of a local volume); a no-op elsewhere."""

    def state(self) -> StoreState:
        """What the store says about the bucket. Raises when it cannot be reached or entered."""

    def close(self) -> None:
        """Give connections back."""
