"""The few numbers of br's ``backupmeta`` that a status shows, read without a protobuf library.

The message is ``backup.BackupMeta``; only varint fields and the sizes of the files it lists are looked at. In layout v1 it
lists the files itself; in v2 (``version`` 1) it names side files that do, in one or more levels. ``backup_size`` is the size of
it all, but only newer br writes that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from backup_manager.errors import PermanentError
from backup_manager.tools.protobuf import walk

NAME: Final = "backupmeta"
_FILES, _START, _END, _SIZE = 4, 5, 6, 25
_FILE_INDEX, _OTHER_INDEXES = 13, (14, 15, 16)
_INDEXED_META, _INDEXED_DATA = 1, 2
_FILE_NAME, _FILE_SIZE = 1, 11
_MOST_LEVELS: Final = 8
"""Of side files that name side files: br makes one or two."""

Read = Callable[[str], bytes]


class BackupMetaError(PermanentError):
    """``backupmeta`` or a side file of it cannot be read: cut short, or encrypted."""

    reason = "GetBackupMetadataFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupMeta:
    """*start_version* and *end_version* are TSOs; *size* is in bytes, the backup's own figure where it has one."""

    start_version: int
    end_version: int
    size: int


def parse(data: bytes, read: Read | None = None) -> BackupMeta:
    """Read a ``backupmeta``; *read* gives side files. Raises BackupMetaError, and what *read* raises.

    The size is ``backup_size`` when br wrote one, else that of the message, of its side files and of all data files they list.
    Without *read* the data files of layout v2 are not known and not counted.

    >>> parse(bytes.fromhex("280130ac02c8018827")).end_version
    300
    """
    numbers, listed, indexes = dict[int, int](), 0, list[memoryview]()
    try:
        for number, value in _fields(data):
            if isinstance(value, int):
                numbers[number] = value
            elif number == _FILES:
                listed += _file(value)[1]
            elif number == _FILE_INDEX:
                indexes.append(value)
            elif number in _OTHER_INDEXES:
                listed += sum(
                    _file(file)[1] for field, file in walk(value) if field == _INDEXED_META and not isinstance(file, int)
                )
        if not (numbers.get(_START) or numbers.get(_END)):
            raise ValueError("it tells no time")
    except (IndexError, ValueError) as error:
        raise _unreadable(NAME, data, error) from None
    size = numbers.get(_SIZE) or len(data) + listed + sum(_indexed(NAME, index, read, _MOST_LEVELS) for index in indexes)
    return BackupMeta(start_version=numbers.get(_START, 0), end_version=numbers.get(_END, 0), size=size)


def _indexed(name: str, index: bytes | memoryview, read: Read | None, levels: int) -> int:
    """Bytes of what *index*, a ``MetaFile`` out of *name*, lists, all levels down."""
    size, deeper = 0, list[str]()
    try:
        for number, value in walk(index):
            if number in (_INDEXED_META, _INDEXED_DATA) and not isinstance(value, int):
                file, bytes_of_it = _file(value)
                size += bytes_of_it
                if number == _INDEXED_META:
                    deeper.append(_beside(file))
        if deeper and not levels:
            raise ValueError("side files without end")
    except (IndexError, ValueError) as error:
        raise _unreadable(name, index, error) from None
    return size + sum(_indexed(part, read(part), read, levels - 1) for part in deeper if read)


def _fields(data: bytes) -> Iterator[tuple[int, int | memoryview]]:
    if not data:
        raise ValueError("it is empty")
    return walk(data)


def _file(message: memoryview) -> tuple[str, int]:
    """Name and size of a ``File``."""
    name, size = "", 0
    for number, value in walk(message):
        if number == _FILE_SIZE and isinstance(value, int):
            size = value
        elif number == _FILE_NAME and not isinstance(value, int):
            name = bytes(value).decode()
    return name, size


def _beside(name: str) -> str:
    """*name*, which must be of a side file: those lie beside ``backupmeta``, and nothing else is read for it."""
    if not name.startswith(f"{NAME}.") or "/" in name:
        raise ValueError(f"{name[:40]!r} is no side file")
    return name


def _unreadable(name: str, data: bytes | memoryview, error: Exception) -> BackupMetaError:
    return BackupMetaError(
        f"{name} of {len(data)} bytes is no backup description: {error}",
        hint="It may be encrypted (--crypter.method) or cut short; check the backup with br itself.",
    )
