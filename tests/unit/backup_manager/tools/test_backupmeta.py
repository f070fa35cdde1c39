"""``backupmeta``: both layouts, encrypted and cut short."""

import os
from collections.abc import Callable

import pytest

from backup_manager.tools.backupmeta import BackupMetaError, parse


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def test_the_new_layout_says_its_size() -> None:
    meta = parse(number(5, 10) + number(6, 470656142251917312) + number(12, 1) + number(25, 2345) + message(1, b"cluster"))
    assert (meta.start_version, meta.end_version, meta.size) == (10, 470656142251917312, 2345)


def test_the_old_layout_counts_its_files_and_itself() -> None:
    data = message(4, number(11, 100) + message(1, b"name")) + message(4, number(11, 23)) + number(6, 7)
    meta = parse(data)
    assert (meta.end_version, meta.size) == (7, 123 + len(data))


def file(name: str, size: int) -> bytes:
    return message(1, name.encode()) + number(11, size)


def reader(**parts: bytes) -> Callable[[str], bytes]:
    """Side files by the end of their names."""
    return lambda name: parts[name.removeprefix("backupmeta.")]


def test_the_split_layout_of_older_br_counts_all_its_side_files_and_what_they_list() -> None:
    index = message(13, message(1, file("backupmeta.one", 40)) + message(1, file("backupmeta.two", 50)))
    data = number(6, 7) + number(12, 1) + index + message(14, message(1, file("backupmeta.schema", 1000)))
    one = message(2, file("a.sst", 100)) + message(2, file("b.sst", 200))
    two = message(1, file("backupmeta.deeper", 7))
    deeper = message(2, file("c.sst", 300))
    whole = parse(data, reader(one=one, two=two, deeper=deeper))
    assert whole.size == len(data) + 1000 + 40 + 50 + 7 + 600
    assert parse(data).size == len(data) + 1000 + 40 + 50
    own = parse(data + number(25, 4321), reader())  # br's own figure: no side file is read for it
    assert own.size == 4321


def test_a_side_file_cut_short_is_named() -> None:
    data = number(6, 7) + message(13, message(1, file("backupmeta.one", 40)))
    with pytest.raises(BackupMetaError, match=r"backupmeta\.one of 8 bytes is no backup description: cut short"):
        parse(data, reader(one=message(2, file("a.sst", 100))[:8]))


def test_side_files_that_name_themselves_end() -> None:
    again = message(1, file("backupmeta.again", 1))
    with pytest.raises(BackupMetaError, match="without end"):
        parse(number(6, 7) + message(13, again), reader(again=again))


@pytest.mark.parametrize("name", ["", "../backupmeta.one", "backupmeta.x/../../y", "a.sst", "/etc/passwd"])
def test_nothing_but_side_files_is_read(name: str) -> None:
    with pytest.raises(BackupMetaError, match="is no side file"):
        parse(number(6, 7) + message(13, message(1, file(name, 1))), lambda name: pytest.fail(f"{name} was read"))


def test_a_message_without_any_time_is_refused() -> None:
    with pytest.raises(BackupMetaError, match="it tells no time"):
        parse(message(4, file("a.sst", 100)))


def test_fixed_width_fields_are_passed_over() -> None:
    data = varint(30 << 3 | 1) + bytes(8) + varint(31 << 3 | 5) + bytes(4) + number(6, 9) + number(25, 1)
    assert parse(data).end_version == 9


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_message_cut_short_is_refused(cut: int) -> None:
    data = number(6, 470656142251917312) + message(4, number(11, 100) * 10)
    with pytest.raises(BackupMetaError):
        parse(data[:-cut])


def test_an_encrypted_file_is_refused_with_a_hint() -> None:
    for _ in range(50):
        with pytest.raises(BackupMetaError) as caught:
            parse(os.urandom(4096))
        assert "crypter" in caught.value.hint
        assert caught.value.problem().reason == "GetBackupMetadataFailed"


def test_an_empty_file_has_nothing() -> None:
    with pytest.raises(BackupMetaError):
        parse(b"")
