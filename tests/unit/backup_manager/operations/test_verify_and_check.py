"""Verify against the record, and check before the run."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backup_manager.catalog.record import Cleaned, Owner
from backup_manager.catalog.records import Records
from backup_manager.content import Content, Item, Kind
from backup_manager.context import Result
from backup_manager.errors import AccessDeniedError, CheckError, NotFoundError, UsageError
from backup_manager.operations import check, verify
from backup_manager.storage.local import LocalStorage
from backup_manager.tidb import accounts, schema_objects
from backup_manager.tidb.accounts import Account, Accounts
from backup_manager.tidb.connection import Database, DatabaseUnreachableError
from backup_manager.tidb.schema_objects import NamedView, SchemaObjects
from crds.contract import names
from crds.contract.paths import Location, Provider
from crds.contract.report import Problem
from tests.support.manager import NOW, UID, World, local_storage, world

OWNER = Owner(namespace="ns", name="cr", uid="u")


@pytest.fixture
def folder(tmp_path: Path) -> LocalStorage:
    local_storage(tmp_path)
    return LocalStorage(Location(provider=Provider.LOCAL, bucket=str(tmp_path / "volume"), prefix="backups/x"))


@pytest.fixture
def scene(tmp_path: Path, folder: LocalStorage) -> World:
    return world(tmp_path, {"local": local_storage(tmp_path)}, env={names.ENV_BACKUP_PATH: folder.location.url})


def complete(folder: LocalStorage) -> Records:
    records = Records(folder)
    claim = records.claim(OWNER, operation="export", spec={})
    for name in ("a", "b/c", "d"):
        folder.write(name, name.encode())
    records.complete(claim)
    return records


def verified(scene: World) -> Result:
    return verify.run(scene.context)


def test_unchanged(scene: World, folder: LocalStorage) -> None:
    complete(folder)
    result = verified(scene)
    assert result.backup_size == 5
    assert scene.report.result == {"objectCount": 3, "missing": 0, "extra": 0, "changed": 0, "content": {"known": False}}


def test_missing_extra_changed(scene: World, folder: LocalStorage) -> None:
    complete(folder)
    folder.delete(["a"])
    folder.write("b/c", b"longer than before")
    folder.write("new", b"")
    with pytest.raises(CheckError, match="1 missing, 1 extra, 1 changed; first a") as caught:
        verified(scene)
    assert caught.value.exit_code == 4
    assert caught.value.problem().reason == "VerifyFailed"
    result = scene.report.result
    assert result["missingKeys"] == ["a"]
    assert result["extraKeys"] == ["new"]
    assert result["changedKeys"] == ["b/c: 3 bytes then, 18 now"]


def test_same_size_other_content(scene: World, folder: LocalStorage) -> None:
    complete(folder)
    folder.write("d", b"e")
    with pytest.raises(CheckError, match="content mark"):
        verified(scene)


def described(folder: LocalStorage) -> None:
    """An export with a view and two users, complete."""
    view = NamedView(schema="shop", name="v", create="CREATE VIEW `v` AS SELECT 1")
    users = [Account(user=name, host="%", create=f"CREATE USER IF NOT EXISTS '{name}'@'%'") for name in ("a", "b")]
    folder.write("shop.o-schema.sql", b"CREATE TABLE o;")
    folder.write(schema_objects.KEY, SchemaObjects(views=(view,)).to_json())
    folder.write(accounts.KEY, Accounts(accounts=tuple(users)).to_json())
    records = Records(folder)
    items = [Item(kind=Kind.TABLE, schema="shop", name="o"), Item(kind=Kind.VIEW, schema="shop", name="v")]
    claim = records.claim(OWNER, operation="export", spec={})
    records.complete(claim, tool="dumpling", held=Content.of(items).but(users=2), items=items)


def test_views_and_users_of_an_export_are_compared_too(scene: World, folder: LocalStorage) -> None:
    described(folder)
    verified(scene)
    assert scene.report.result["content"]["users"] == 2


@pytest.mark.parametrize(
    ("key", "data", "told"),
    [
        (schema_objects.KEY, SchemaObjects().to_json(), "view shop.v: not as recorded"),
        (schema_objects.KEY, b"{", "schema-objects.json cannot be read"),
        (accounts.KEY, Accounts().to_json(), "users.json holds 0 users, and 2 when it was written"),
    ],
)
def test_an_export_with_another_description_than_recorded_is_told(
    scene: World, folder: LocalStorage, key: str, data: bytes, told: str
) -> None:
    described(folder)
    folder.write(key, data)
    with pytest.raises(CheckError):
        verified(scene)
    result = scene.report.result
    assert any(told in line for line in (*result.get("missingKeys", ()), *result.get("changedKeys", ())))


def test_many_differences_are_counted_and_a_few_named(scene: World, folder: LocalStorage) -> None:
    complete(folder)
    for number in range(50):
        folder.write(f"n{number}", b"")
    with pytest.raises(CheckError, match="50 extra"):
        verified(scene)
    assert len(scene.report.result["extraKeys"]) == 10


def test_no_record(scene: World) -> None:
    with pytest.raises(NotFoundError) as caught:
        verified(scene)
    assert caught.value.problem().reason == "NoRecord"


@pytest.mark.parametrize("state", ["Claimed", "Failed", "Cleaning", "Cleaned"])
def test_only_a_complete_backup_can_be_verified(scene: World, folder: LocalStorage, state: str) -> None:
    records = Records(folder)
    claim = records.claim(OWNER, operation="export", spec={})
    if state == "Failed":
        records.fail(claim, Problem(reason="DumpFailed", message="dumpling said no"))
    elif state in {"Cleaning", "Cleaned"}:
        cleaning = records.begin_clean(OWNER)
        if state == "Cleaned":
            records.finish_clean(cleaning, Cleaned(at=NOW, why="cleanPolicy Delete"))
    with pytest.raises(CheckError, match=f"is {state}, not Complete") as caught:
        verified(scene)
    assert caught.value.hint


def test_lost_object_list(scene: World, folder: LocalStorage) -> None:
    complete(folder)
    (Path(folder.location.bucket) / "backups" / "x.objects.gz").unlink()
    with pytest.raises(NotFoundError):
        verified(scene)


def checked(tmp_path: Path, spec: dict[str, Any], kind: str = "Backup") -> World:
    scene = world(tmp_path, spec, kind=kind)
    check.run(scene.context)
    return scene


def test_check_tells_a_line_each(tmp_path: Path) -> None:
    scene = checked(tmp_path, {"local": local_storage(tmp_path)})
    assert [c["status"] for c in scene.report.result["checks"]] == ["OK"] * 10
    assert any(line.startswith("OK      write") for line in scene.lines)


def down(*_args: object) -> None:
    raise DatabaseUnreachableError("db does not answer", hint="Look.")


def test_check_fails_with_exit_4_and_all_lines(tmp_path: Path) -> None:
    spec = {"local": {"prefix": "p", "volumeMount": {"mountPath": str(tmp_path / "absent")}}, "from": {"host": "db"}}
    scene = world(tmp_path, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "rows", down)
        with pytest.raises(CheckError, match="reach, database failed: VolumeNotMounted") as caught:
            check.run(scene.context)
    assert caught.value.exit_code == 4
    told = {c["name"]: c for c in scene.report.result["checks"]}
    assert told["database"] == {"name": "database", "status": "FAILED", "message": "db does not answer", "hint": "Look."}


def record_line(tmp_path: Path, scene: World) -> dict[str, str]:
    """What the check says of the record; nothing may be left behind."""

    def files() -> list[Path]:
        return sorted(path for path in tmp_path.rglob("*") if path.is_file())

    before = files()
    with suppress(CheckError):
        check.run(scene.context)
    assert files() == before
    found: dict[str, str] = next(c for c in scene.report.result["checks"] if c["name"] == "record")
    return found


@pytest.mark.parametrize("br", [{}, {"br": {"cluster": "basic"}}], ids=["export", "br"])
@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (None, "the path is free"),
        (Owner(namespace="ns", name="cr", uid=UID), "the path is free"),
        (Owner(namespace="ns", name="cr", uid="its-predecessor"), "belongs to Backup ns/cr (uid its-predecessor)"),
        (Owner(namespace="ns", name="another", uid="v"), "belongs to Backup ns/another (uid v) (Claimed)"),
    ],
)
def test_check_tells_whose_the_path_is(
    tmp_path: Path, folder: LocalStorage, br: dict[str, Any], owner: Owner | None, message: str
) -> None:
    if owner:
        Records(folder).claim(owner, operation="export", spec={})
    found = record_line(tmp_path, world(tmp_path, {"local": local_storage(tmp_path, "backups/x"), **br}))
    assert found["status"] == ("FAILED" if "belongs" in message else "OK")
    assert message in found["message"]
    assert ("prefix of its own" in found.get("hint", "")) == ("belongs" in message)


@pytest.mark.parametrize(("name", "status"), [("cr", "WARNING"), ("another", "FAILED")])
def test_check_of_a_file_knows_its_cr_by_name(tmp_path: Path, folder: LocalStorage, name: str, status: str) -> None:
    Records(folder).claim(Owner(namespace="elsewhere", name=name, uid="u"), operation="export", spec={})
    found = record_line(tmp_path, world(tmp_path, {"local": local_storage(tmp_path, "backups/x")}, uid=""))
    assert found["status"] == status
    assert f"belongs to Backup elsewhere/{name}" in found["message"]


def test_check_sees_a_folder_around_that_is_anothers(tmp_path: Path, folder: LocalStorage) -> None:
    around = folder.at(Location(provider=Provider.LOCAL, bucket=folder.location.bucket, prefix="backups"))
    Records(around).claim(Owner(namespace="ns", name="another", uid="v"), operation="backup", spec={})
    found = record_line(tmp_path, world(tmp_path, {"local": local_storage(tmp_path, "backups/x")}))
    assert (found["status"], "backups belongs to Backup ns/another" in found["message"]) == ("FAILED", True)


def test_check_of_br_writes_beside_the_data(tmp_path: Path, folder: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the record of a br backup will lie, the data's own folder is not enough."""
    write = LocalStorage.write

    def confined(self: LocalStorage, key: str, data: bytes, **conditions: Any) -> str:
        if self.location.prefix != folder.location.prefix:
            raise AccessDeniedError("not allowed here", hint="Allow it.")
        return write(self, key, data, **conditions)

    monkeypatch.setattr(LocalStorage, "write", confined)
    spec = {"local": local_storage(tmp_path, "backups/x")}
    assert record_line(tmp_path, world(tmp_path, spec))["status"] == "OK"
    found = record_line(tmp_path, world(tmp_path, {**spec, "br": {"cluster": "basic"}}))
    assert found["status"] == "FAILED"
    assert found["message"].endswith("backups, where the record will lie: StorageAccessDenied: not allowed here")
    assert found["hint"] == "Allow it."


def test_check_of_a_restore_writes_nothing(tmp_path: Path) -> None:
    scene = checked(tmp_path, {"local": local_storage(tmp_path)}, kind="Restore")
    assert "write" not in {c["name"] for c in scene.report.result["checks"]}


def test_check_of_a_point_in_time_restore_looks_at_both(tmp_path: Path) -> None:
    local = {"local": local_storage(tmp_path)}
    scene = checked(tmp_path, {**local, "pitrFullBackupStorageProvider": local}, kind="Restore")
    found = {c["name"] for c in scene.report.result["checks"]}
    assert {"reach", "base reach"} <= found


def test_check_of_a_schedule_looks_at_its_templates(tmp_path: Path) -> None:
    local = {"local": local_storage(tmp_path)}
    scene = checked(tmp_path, {"backupTemplate": local, "logBackupTemplate": local}, kind="BackupSchedule")
    found = {c["name"] for c in scene.report.result["checks"]}
    assert {"backup write", "log write"} <= found


def test_check_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a storage nor a database"):
        checked(tmp_path, {})


def test_check_with_a_spec_that_cannot_work(tmp_path: Path) -> None:
    scene = world(tmp_path, {"s3": {"provider": "x", "bucket": "b", "endpoint": "minio:9000"}})
    with pytest.raises(CheckError, match="no http:// or https:// address"):
        check.run(scene.context)


def test_the_folder_of_the_attempt_that_completed_is_verified(scene: World, folder: LocalStorage) -> None:
    first, second = Records(folder, attempt_id="1"), Records(folder, attempt_id="2")
    first.claim(OWNER, operation="export", spec={})
    folder.write("metadata", b"of the first attempt, which was frozen")
    claim = second.claim(OWNER, operation="export", spec={})
    second.data_storage(claim).write("metadata", b"of the second")
    second.complete(claim)
    folder.write("late", b"of the first, which thawed")
    result = verified(scene)
    assert result.backup_size == len(b"of the second")
    assert scene.report.result["dataPath"] == f"{folder.location.url}/attempt-2"
    folder.delete(["attempt-2/metadata"])
    with pytest.raises(CheckError, match="1 missing"):
        verified(scene)
