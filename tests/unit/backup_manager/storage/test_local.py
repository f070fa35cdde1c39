"""A mounted volume: nothing outside the folder is read, written or deleted, whatever links lie in it."""

import os
from pathlib import Path

import pytest

from backup_manager.cleaning.cleaner import Cleaner
from backup_manager.errors import AccessDeniedError, ManagerError, NotFoundError, StorageError
from backup_manager.storage import local
from backup_manager.storage.local import LocalStorage
from crds.contract.paths import Location, Provider


def storage(mount: Path, prefix: str = "p/q") -> LocalStorage:
    return LocalStorage(Location(provider=Provider.LOCAL, bucket=str(mount), prefix=prefix))


def test_links_are_deleted_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    mount = tmp_path / "mount"
    folder = mount / "p" / "q"
    folder.mkdir(parents=True)
    (folder / "dir-link").symlink_to(outside)
    (folder / "file-link").symlink_to(outside / "precious")
    (folder / "data").write_text("x")
    assert [info.key for info in storage(mount).list()] == ["data", "dir-link", "file-link"]
    with pytest.raises(StorageError, match="Too many levels"):
        storage(mount).read("file-link")
    with pytest.raises(StorageError, match="leads out"):
        storage(mount).read("dir-link/precious")
    with pytest.raises(StorageError, match="leads out"):
        storage(mount).write("dir-link/new", b"")
    Cleaner(storage(mount)).run()
    assert (outside / "precious").read_text() == "keep"
    assert sorted(os.listdir(outside)) == ["precious"]
    assert mount.is_dir()
    assert not folder.exists()


def test_folder_reached_through_a_link_is_refused(tmp_path: Path) -> None:
    outside, mount = tmp_path / "outside", tmp_path / "mount"
    (outside / "q").mkdir(parents=True)
    (outside / "q" / "precious").write_text("keep")
    mount.mkdir()
    (mount / "p").symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        Cleaner(storage(mount)).run()
    with pytest.raises(StorageError, match="symbolic link"):
        list(storage(mount).list())
    assert (outside / "q" / "precious").exists()


def test_a_mount_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    real, mount = tmp_path / "real", tmp_path / "mount"
    real.mkdir()
    mount.symlink_to(real)
    storage(mount).write("a", b"1")
    assert (real / "p" / "q" / "a").read_bytes() == b"1"
    Cleaner(storage(mount)).run()
    assert not list(real.rglob("*q*"))


@pytest.mark.parametrize("key", ["../x", "a/../../x", "", "a//b", "./a", "/etc/passwd"])
def test_keys_that_are_no_file_names(tmp_path: Path, key: str) -> None:
    with pytest.raises(StorageError, match="no file name"):
        storage(tmp_path).write(key, b"")


def test_siblings_and_the_mount_survive(tmp_path: Path) -> None:
    for name in ("p/q/a/b", "p/q-b/a", "p/qa", "p/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    Cleaner(storage(tmp_path)).run()
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == ["p/a", "p/q-b/a", "p/qa"]


def test_a_folder_that_is_not_there_is_clean(tmp_path: Path) -> None:
    assert Cleaner(storage(tmp_path)).run().deleted == 0
    assert tmp_path.is_dir()


def test_volume_that_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Cleaner(storage(tmp_path / "absent")).run()
    assert caught.value.problem().reason == "VolumeNotMounted"


def test_listing_is_in_byte_order(tmp_path: Path) -> None:
    names = ["a", "a-b", "a/b", "a.b", "ä", "B", "a/a"]
    for name in [n for n in names if n != "a"]:
        storage(tmp_path).write(name, b"")
    listed = [info.key for info in storage(tmp_path).list()]
    assert listed == sorted((n for n in names if n != "a"), key=str.encode)
    assert [info.key for info in storage(tmp_path).list("a/")] == ["a/a", "a/b"]


def test_half_written_files_are_hidden_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "p" / "q"
    folder.mkdir(parents=True)
    (folder / ".tidb-backup-tmp-x").write_text("half")
    assert not list(storage(tmp_path).list())
    Cleaner(storage(tmp_path)).run()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("ENOSPC", StorageError, "StorageFull"),
        ("EDQUOT", StorageError, "StorageFull"),
        ("EACCES", AccessDeniedError, "StorageAccessDenied"),
        ("EROFS", AccessDeniedError, "StorageAccessDenied"),
        ("ESTALE", ManagerError, "StorageUnavailable"),
        ("EMFILE", StorageError, "StorageFailed"),
    ],
)
def test_trouble_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[ManagerError], reason: str
) -> None:
    import errno

    def fail(*_args: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind) as caught:
        storage(tmp_path).write("a", b"1")
    assert caught.value.problem().reason == reason
    assert not list(storage(tmp_path).list())
    assert not list((tmp_path / "p" / "q").iterdir())


def test_errno_name() -> None:
    assert local.errno_name(OSError(28, "x")) == "ENOSPC"
    assert local.errno_name(OSError("x")) == "EIO"
