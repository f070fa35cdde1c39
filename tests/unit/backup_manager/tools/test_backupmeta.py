"""``backupmeta``: both layouts, encrypted and cut short."""

import os

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
