"""A mounted volume. Files are the objects; symbolic links are never followed, so nothing outside the folder can be met."""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
    TransientError,
)
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from crds.contract.paths import Location

_PAGE: Final = 1000
_TEMPORARY: Final = ".tidb-backup-tmp-"
_FS_GROUP: Final = "The Pod's user needs to write on the volume: set podSecurityContext.fsGroup."


class LocalStorage:
    """One folder of a volume."""

    notes: Sequence[str] = ()

    def __init__(self, location: Location) -> None:
        self.batch_size = _PAGE
        self.location = location
        self._mount = Path("/") / location.bucket.strip("/")
        self._root = self._mount / location.prefix if location.prefix else self._mount

    def at(self, location: Location) -> "LocalStorage":
        """Another folder."""
        return LocalStorage(location)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every file whose path starts with *prefix*, in byte order of the paths."""
        self._inside()
        for key, entry in _walk(self._root, "", prefix):
            stat = entry.stat(follow_symlinks=False)
            yield ObjectInfo(
                key=key, size=stat.st_size, etag=_quick_etag(stat), modified=datetime.fromtimestamp(stat.st_mtime, UTC)
            )

    def stat(self, key: str) -> ObjectInfo:
        """Size and etag."""
        with self._errors(key):
            stat = self._path(key).stat(follow_symlinks=False)
        return ObjectInfo(
            key=key, size=stat.st_size, etag=_quick_etag(stat), modified=datetime.fromtimestamp(stat.st_mtime, UTC)
        )

    def read(self, key: str) -> bytes:
        """The bytes."""
        with self.open(key) as file:
            return file.read()

    def fetch(self, key: str) -> tuple[bytes, str]:
        """The bytes and the etag of the content."""
        data = self.read(key)
        return data, _content_etag(data)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The file, opened."""
        with self._errors(key):
            return os.fdopen(os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write beside and move into place, so that a reader sees the old or the new file whole. The etag is the content's."""
        path = self._path(key)
        with self._errors(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _temporary(path.parent, data) as name:
                if if_absent:
                    os.link(name, path)  # fails when it exists: the one atomic create-with-content
                elif if_match is not None:
                    _replace_if(path, name, if_match)
                else:
                    Path(name).replace(path)
        return _content_etag(data)

    def enforces_conditions(self, key: str) -> bool:
        """Always."""
        return True

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete files."""
        return self.delete_batch([Target(key) for key in keys])

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Every file, link and socket under the folder."""
        self._inside()
        page: list[Target] = []
        for key, entry in _walk(self._root, "", prefix, unfinished=True):
            page.append(Target(key, None, entry.stat(follow_symlinks=False).st_size))
            if len(page) == _PAGE:
                yield page
                page = []
        yield page

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        """Unlink each."""
        failures = []
        for target in batch:
            try:
                self._path(target.key).unlink(missing_ok=True)
            except NotADirectoryError:
                continue
            except OSError as error:
                code = errno_name(error)
                failures.append(
                    DeleteFailure(
                        key=target.key, code=code, message=error.strerror or "", retryable=code in {"EBUSY", "ESTALE"}
                    )
                )
        return failures

    def uploads(self) -> Iterator[Upload]:
        """Files have no uploads."""
        return iter(())

    def abort(self, upload: Upload) -> None:
        """Nothing to abort."""

    def tidy(self) -> None:
        """Remove empty folders, the folder itself too, but never the mount."""
        self._inside()
        for folder, _, _ in os.walk(self._root, topdown=False, followlinks=False):
            if Path(folder) != self._mount:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def state(self) -> StoreState:
        """Raises when the volume is not there."""
        with self._errors(""):
            if not self._mount.is_dir():
                raise NotFoundError(
                    f"{self._mount} is no folder", reason="VolumeNotMounted", hint="Check local.volume and local.volumeMount."
                )
        return StoreState(versioned=False, lock=False, clock_skew=0.0)

    def close(self) -> None:
        """Nothing to close."""

    def _path(self, key: str) -> Path:
        """The file of *key*. Refuses a way out, by dots or by a link among the folders."""
        if any(part in {"", ".", ".."} for part in key.split("/")):
            raise StorageError(f"{key!r} is no file name under {self.location.url}", reason="UnsafeName")
        path = self._root / key
        if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(self._mount)):
            raise StorageError(f"{path} leads out of {self._mount} by a symbolic link", reason="UnsafeName")
        return path

    def _inside(self) -> None:
        """The folder itself is under the mount, seen through links too."""
        if Path(os.path.realpath(self._root)) != Path(os.path.realpath(self._mount)) / self.location.prefix:
            raise StorageError(f"{self._root} is reached through a symbolic link", reason="UnsafeName")
        self.state()

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _os_error(error, f"{self._root}/{key}") from None


def _walk(folder: Path, start: str, prefix: str, *, unfinished: bool = False) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below *folder* whose key has *prefix*, in byte order of the keys; links are listed and not entered.

    Half-written files of our own show only on demand (*unfinished*).
    """
    try:
        with os.scandir(folder) as entries:
            found = [(f"{start}{e.name}{'/' if e.is_dir(follow_symlinks=False) else ''}", e) for e in entries]
    except FileNotFoundError:
        return
    except OSError as error:
        raise _os_error(error, str(folder)) from None
    found.sort(key=lambda item: os.fsencode(item[0]))
    for key, entry in found:
        if not (key.startswith(prefix) or (key.endswith("/") and prefix.startswith(key))):
            continue
        if key.endswith("/"):
            yield from _walk(Path(entry.path), key, prefix, unfinished=unfinished)
        elif unfinished or not entry.name.startswith(_TEMPORARY):
            yield key, entry


@contextmanager
def _temporary(folder: Path, data: bytes) -> Iterator[str]:
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _replace_if(path: Path, name: str, etag: str) -> None:
    """Replace *path* when its content still has *etag*. The lock is on the old file; who waited for it finds it replaced."""
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        current = path.stat(follow_symlinks=False)
        if (current.st_dev, current.st_ino) != _identity(file.fileno()) or _content_etag(file.read()) != etag:
            raise PreconditionError(f"{path} was changed")
        Path(name).replace(path)


def _identity(descriptor: int) -> tuple[int, int]:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino


def _content_etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _quick_etag(stat: os.stat_result) -> str:
    """Of a listing: size and time, since reading every file would cost a second backup."""
    return f"{stat.st_size:x}-{stat.st_mtime_ns:x}"


def errno_name(error: OSError) -> str:
    """``ENOSPC`` and the like."""
    return errno.errorcode.get(error.errno or 0, "EIO")


_HINTS: Final[Mapping[str, tuple[type[ManagerError], str, str]]] = {
    "ENOENT": (NotFoundError, "", ""),
    "ENOTDIR": (NotFoundError, "", ""),
    "EEXIST": (PreconditionError, "", ""),
    "EACCES": (AccessDeniedError, "", _FS_GROUP),
    "EPERM": (AccessDeniedError, "", _FS_GROUP),
    "EROFS": (AccessDeniedError, "", "The volume is mounted read-only: check local.volumeMount.readOnly."),
    "ENOSPC": (StorageError, "StorageFull", "Enlarge the volume or free space on it."),
    "EDQUOT": (StorageError, "StorageFull", "Raise the quota or free space."),
    "ELOOP": (StorageError, "UnsafeName", "A symbolic link stands there; links are not followed."),
    "ESTALE": (TransientError, "StorageUnavailable", "The volume's server lost the file; is it up?"),
    "ETIMEDOUT": (TransientError, "StorageUnavailable", "The volume's server does not answer."),
    "EIO": (TransientError, "StorageUnavailable", "The volume has an I/O error."),
}


def _os_error(error: OSError, path: str) -> ManagerError:
    kind, reason, hint = _HINTS.get(errno_name(error), (StorageError, "", ""))
    return kind(f"{path}: {error.strerror}", reason=reason, hint=hint)
