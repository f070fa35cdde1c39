"""What every storage driver offers. Keys are relative to the driver's :class:`crds.paths.Location` and never leave it.

A driver raises only :mod:`backup_manager.errors`. Its SDK is imported in its own module alone, and that module only when the
factory is asked for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

from crds.paths import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object of a listing. *size* in bytes; *etag* without quotes; *version* only from :meth:`Storage.list_versions`."""

    key: str
    size: int
    etag: str = ""
    modified: datetime | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteFailure:
    """One key that a batch could not delete, with the provider's own code and text."""

    key: str
    code: str
    message: str
    version: str | None = None
    retryable: bool = False


class Storage(Protocol):
    """A folder of objects."""

    @property
    def location(self) -> Location:
        """Where it is."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object under ``<location>/<prefix>``, lazily, in the provider's order."""

    def read(self, key: str) -> bytes:
        """A small object whole. Raises NotFoundError."""

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """An object as a stream. Raises NotFoundError."""

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store a small object and return its etag; with a condition that does not hold: PreconditionError."""

    def delete(self, keys: Sequence[str]) -> Iterable[DeleteFailure]:
        """Delete what is there; a missing key counts as deleted. Returns what could not be deleted."""
