"""A ``.tgz`` that TiDB Operator made: streamed from the storage and unpacked, nothing kept of the archive itself.

Entries may not leave the folder (``filter="data"``). The dump's folder is found by its ``metadata``, not by the archive's
name, so a renamed archive imports as well.
"""

import errno
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, cast

from backup_manager.errors import PermanentError
from backup_manager.signals import StopSignal
from backup_manager.tools.dumpling import METADATA

SUFFIXES: Final = (".tgz", ".tar.gz")
_ENTRIES_BETWEEN_TELLS: Final = 64


class ArchiveError(PermanentError):
    """The archive cannot be unpacked."""

    reason = "UnarchiveBackupDataFailed"


class Counted:
    """A stream that counts what was read from it and stops when asked to."""

    def __init__(self, stream: BinaryIO, stop: StopSignal) -> None:
        self._stream = stream
        self._stop = stop
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        self._stop.check()
        data = self._stream.read(size)
        self.read_bytes += len(data)
        return data


def unpack(stream: BinaryIO, size: int, target: Path, *, stop: StopSignal, tell: Callable[[int], None]) -> Path:
    """Unpack *stream* (an archive of *size* bytes) into *target*; the folder in it that holds the dump.

    *tell* gets the bytes read so far. Raises ArchiveError, also (``DiskFull``) when *target* is too small.
    """
    free = shutil.disk_usage(target).free
    if free < size:
        raise disk_full(f"{target} has {free} bytes free, the packed archive alone has {size}")
    counted = Counted(stream, stop)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, counted), mode="r|gz") as archive:
            for number, entry in enumerate(archive):
                archive.extract(entry, target, filter="data")
                if number % _ENTRIES_BETWEEN_TELLS == 0:
                    tell(counted.read_bytes)
    except tarfile.FilterError as error:
        raise ArchiveError(
            f"the archive has an entry that does not belong in a dump: {error}",
            hint="Do not import archives of unknown origin.",
        ) from None
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(f"{target} is full while unpacking") from None
        raise ArchiveError(
            f"the archive cannot be unpacked: {error}", hint="Is it a .tgz made by TiDB Operator, and whole?"
        ) from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ArchiveError(
            f"the archive cannot be unpacked: {error}", hint="Is it a .tgz made by TiDB Operator, and whole?"
        ) from None
    return _dump_folder(target)


def disk_full(message: str) -> PermanentError:
    """The error for a volume that is too small for an archive."""
    return PermanentError(
        message,
        reason="DiskFull",
        hint="Mount a larger volume at /tmp through spec.additionalVolumes and additionalVolumeMounts.",
    )


def _dump_folder(target: Path) -> Path:
    found = sorted(target.rglob(METADATA), key=lambda path: len(path.parts))
    if not found:
        raise ArchiveError("the archive holds no dump: there is no file `metadata` in it", hint="Which archive is this?")
    return found[0].parent
