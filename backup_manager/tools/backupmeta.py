"""The few numbers of br's ``backupmeta`` that a status shows, read without a protobuf library.

The message is ``backup.BackupMeta``; only varint fields and the sizes of the files it lists are looked at.
"""

from dataclasses import dataclass
from typing import Final

from backup_manager.errors import PermanentError
from backup_manager.tools.protobuf import walk

NAME: Final = "backupmeta"
_FILES, _START, _END, _SIZE, _FILE_SIZE = 4, 5, 6, 25, 11


class BackupMetaError(PermanentError):
    """``backupmeta`` cannot be read: cut short, or encrypted."""

    reason = "GetBackupMetadataFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupMeta:
    """*start_version* and *end_version* are TSOs; *size* is in bytes, the backup's own figure where it has one."""

    start_version: int
    end_version: int
    size: int


def parse(data: bytes) -> BackupMeta:
    """Read a ``backupmeta``. Raises BackupMetaError.

    The size is ``backup_size`` when br wrote one, else the message itself and all the files it lists (layout v1).

    >>> parse(bytes.fromhex("280130ac02c8018827")).end_version
    300
    """
    numbers, files = dict[int, int](), 0
    try:
        if not data:
            raise ValueError("it is empty")
        for number, value in walk(data):
            if isinstance(value, int):
                numbers[number] = value
            elif number == _FILES:
                files += sum(size for field, size in walk(value) if field == _FILE_SIZE and isinstance(size, int))
    except (IndexError, ValueError) as error:
        raise BackupMetaError(
            f"{NAME} of {len(data)} bytes is no backup description: {error}",
            hint="It may be encrypted (--crypter.method) or cut short; check the backup with br itself.",
        ) from None
    return BackupMeta(
        start_version=numbers.get(_START, 0),
        end_version=numbers.get(_END, 0),
        size=numbers.get(_SIZE) or len(data) + files,
    )
