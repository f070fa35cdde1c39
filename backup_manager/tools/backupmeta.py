"""The few numbers of br's ``backupmeta`` that a status shows, read without a protobuf library.

The message is ``backup.BackupMeta``; only varint fields and the sizes of the files it lists are looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backup_manager.errors import PermanentError

NAME: Final = "backupmeta"
_FILES, _START, _END, _SIZE, _FILE_SIZE = 4, 5, 6, 25, 11
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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
        for number, value in _walk(data):
            if isinstance(value, int):
                numbers[number] = value
            elif number == _FILES:
                files += sum(size for field, size in _walk(value) if field == _FILE_SIZE and isinstance(size, int))
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


def _walk(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    view, position = memoryview(data), 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == _VARINT:
            value, position = _varint(view, position)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length, position = _varint(view, position)
        if length is None:
            raise ValueError(f"wire type {kind}")
        if position + length > len(view):
            raise ValueError("cut short")
        if kind == _BYTES:
            yield number, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(view):
            raise ValueError("cut short")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number too long")
