"""What br's ``backupmeta`` tells: the times, the size, the files, and the schemas and tables; read without a protobuf library.

The message is ``backup.BackupMeta``. In layout v1 it lists files and schemas itself; in v2 (``version`` 1) it names side files
that do, in one or more levels. ``backup_size`` is the size of it all, but only newer br writes that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from backup_manager.content import Item, Kind
from backup_manager.errors import PermanentError
from backup_manager.protobuf import walk

NAME: Final = "backupmeta"
_FILES, _START, _END, _SIZE = 4, 5, 6, 25
_FILE_INDEX, _OTHER_INDEXES = 13, (14, 15, 16)
_INDEXED_META, _INDEXED_DATA = 1, 2
_FILE_NAME, _FILE_SIZE = 1, 11
_SCHEMAS, _SCHEMA_INDEX, _INDEXED_SCHEMA = 7, 14, 3
_SCHEMA_DB, _SCHEMA_TABLE, _SCHEMA_KVS, _SCHEMA_BYTES = 1, 2, 4, 5
_TEMPORARY: Final = "__TiDB_BR_Temporary_"
"""Before the names of the system's schemas, which br backs up too."""
_SYSTEM: Final = frozenset({"mysql", "sys"})
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
    size = numbers.get(_SIZE) or len(data) + listed + sum(_indexed(index, read) for index in indexes)
    return BackupMeta(start_version=numbers.get(_START, 0), end_version=numbers.get(_END, 0), size=size)


_NULL: Final = msgspec.Raw(b"null")


class _Name(msgspec.Struct, frozen=True):
    """A name in TiDB's own JSON of schemas and tables: as it was written."""

    original: str = msgspec.field(default="", name="O")


class _Database(msgspec.Struct, frozen=True):
    db_name: _Name


class _Table(msgspec.Struct, frozen=True):
    name: _Name
    view: msgspec.Raw = _NULL
    sequence: msgspec.Raw = _NULL


def content(data: bytes, read: Read) -> tuple[list[Item], dict[str, int]]:
    """The objects of the backup, those of the system under their own names (``mysql``); and names and sizes of its data files
    and side files. *bytes* of a table are of rows and indexes, where br counted them (``--checksum``). Each side file is read
    once, one at a time. Raises BackupMetaError, and what *read* raises.
    """
    objects: list[Item] = []
    empty: dict[str, Item] = {}
    files: dict[str, int] = {}
    try:
        for field, message in _messages(data, read, files):
            if field == _INDEXED_DATA:
                name, size = _file(message)
                files[name] = size
            elif field == _INDEXED_SCHEMA:
                item = _object(message)
                if item.kind is Kind.SCHEMA:
                    empty[item.schema] = item
                else:
                    objects.append(item)
    except (IndexError, ValueError, msgspec.DecodeError) as error:
        raise _unreadable(NAME, data, error) from None
    for schema in {item.schema for item in objects}:
        empty.pop(schema, None)
    return sorted([*objects, *empty.values()], key=lambda item: (item.schema, item.name)), files


def _messages(data: bytes, read: Read, sides: dict[str, int]) -> Iterator[tuple[int, memoryview]]:
    """The files and schemas of all levels, by their field numbers in a ``MetaFile``; *sides* takes in the side files."""
    for number, value in _fields(data):
        if isinstance(value, int):
            continue
        if number == _FILES:
            yield _INDEXED_DATA, value
        elif number == _SCHEMAS:
            yield _INDEXED_SCHEMA, value
        elif number == _FILE_INDEX or number in _OTHER_INDEXES:
            yield from _side_messages(NAME, value, read, sides, _MOST_LEVELS)


def _side_messages(
    name: str, index: bytes | memoryview, read: Read | None, sides: dict[str, int], levels: int
) -> Iterator[tuple[int, memoryview]]:
    """What *index*, a ``MetaFile`` out of *name*, holds, all levels down; without *read* only its own level. Raises
    BackupMetaError naming the side file that cannot be read."""
    deeper = list[str]()
    try:
        for number, value in walk(index):
            if isinstance(value, int):
                continue
            if number == _INDEXED_META:
                part, size = _file(value)
                sides[_beside(part)] = size
                deeper.append(part)
            else:
                yield number, value
        if deeper and not levels:
            raise ValueError("side files without end")
    except (IndexError, ValueError) as error:
        raise _unreadable(name, index, error) from None
    for part in deeper if read else ():
        yield from _side_messages(part, read(part), read, sides, levels - 1)  # type: ignore[misc]


def users(items: Sequence[Item]) -> list[Item]:
    """Those of *items* that are not the system's; all of them when there are no others."""
    return [item for item in items if item.schema.lower() not in _SYSTEM] or list(items)


def _object(message: memoryview) -> Item:
    """The object that a ``Schema`` describes."""
    texts, numbers = dict[int, memoryview](), dict[int, int]()
    for number, value in walk(message):
        if isinstance(value, int):
            numbers[number] = value
        else:
            texts[number] = value
    schema = msgspec.json.decode(texts.get(_SCHEMA_DB, b"{}"), type=_Database).db_name.original
    schema = schema.removeprefix(_TEMPORARY)
    if not texts.get(_SCHEMA_TABLE):
        return Item(kind=Kind.SCHEMA, schema=schema)
    table = msgspec.json.decode(texts[_SCHEMA_TABLE], type=_Table)
    described = {Kind.SEQUENCE: table.sequence, Kind.VIEW: table.view}
    kind = next((kind for kind, text in described.items() if bytes(text) != b"null"), Kind.TABLE)
    return Item(
        kind=kind,
        schema=schema,
        name=table.name.original,
        bytes=numbers.get(_SCHEMA_BYTES) if kind is Kind.TABLE else None,
    )


def _indexed(index: bytes | memoryview, read: Read | None) -> int:
    """Bytes of what *index* lists, all levels down: data files and side files."""
    sides = dict[str, int]()
    messages = _side_messages(NAME, index, read, sides, _MOST_LEVELS)
    return sum(_file(message)[1] for number, message in messages if number == _INDEXED_DATA) + sum(sides.values())


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
