"""Import with a lightning that does what a test says, from folders and archives."""

import io
import json
import os
import signal
import tarfile
import threading
import tomllib
from collections import namedtuple
from pathlib import Path
from typing import Any, cast

import pytest

from backup_manager.catalog.record import Owner
from backup_manager.catalog.records import Records
from backup_manager.content import Content, Item, Kind
from backup_manager.context import Result
from backup_manager.errors import ManagerError, RunInterruptedError
from backup_manager.locking.lock import Note
from backup_manager.operations import import_
from backup_manager.signals import StopSignal
from backup_manager.storage.local import LocalStorage
from backup_manager.tidb import accounts, schema_objects, target_lock
from backup_manager.tidb.connection import Database
from backup_manager.tools.lightning import CANCELED, SUCCESS
from crds.contract import names
from crds.contract.paths import Location, Provider
from crds.contract.report import Phase, Problem
from sandbox.patience import PATIENCE, until
from tests.support.fake_tool import FakeTool
from tests.support.manager import FakeDatabase, World, local_storage, world
from tests.unit.backup_manager.operations.test_export import FILES
from tests.unit.backup_manager.tidb.test_account_plan import BK, target
from tests.unit.backup_manager.tidb.test_accounts import HASH
from tests.unit.backup_manager.tidb.test_target_lock import QUICK

FOLDER = "cr-1a2b3c4d"


class Case:
    """One import from a local volume."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.tool = FakeTool(folder=tmp_path / "bin")
        self.database = FakeDatabase()
        self.annotations: dict[str, str] = {}
        self.spec: dict[str, Any] = {"to": {"host": "db"}, "local": local_storage(tmp_path, f"backups/{FOLDER}")}
        self.volume = tmp_path / "volume" / "backups"

    def dump(self, files: dict[str, str] | None = None) -> None:
        folder = self.volume / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (FILES if files is None else files).items():
            (folder / name).write_text(text)

    def pack(self, entries: dict[str, bytes], name: str = "backup-2024-01-02T03:04:05Z.tgz") -> str:
        self.volume.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.volume / name, "w:gz") as packed:
            for path, data in entries.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
        return f"local://{self.volume}/{name}"

    def world(self, *, path: str = "", stop: StopSignal | None = None) -> World:
        env = {**self.tool.env, "BACKUP_MANAGER_PASSWORD": "hunter22"}
        return world(
            self.tmp_path,
            self.spec,
            kind="Restore",
            env=env,
            flags={"backupPath": path} if path else {},
            annotations=self.annotations,
            stop=stop,
        )

    def run(self, **options: Any) -> tuple[Result, World]:
        here = self.world(**options)
        return import_.run(here.context), here

    def fails(self, **options: Any) -> ManagerError:
        here = self.world(**options)
        with pytest.raises(ManagerError) as caught:
            import_.run(here.context)
        assert caught.value.hint
        assert "hunter22" not in caught.value.message + "".join(here.lines)
        return caught.value


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = Case(tmp_path)
    monkeypatch.setattr(import_, "connect", lambda _context, _access: case.database)
    return case


def test_a_good_import(case: Case) -> None:
    case.dump()
    case.tool.install("tidb-lightning", out=[SUCCESS])
    result, here = case.run()
    assert result.commit_ts == "470656142251917312"
    assert dict(result.details) == {"tables": 1, "rows": 0, "backend": "tidb", "views": 0, "viewsKept": [], "sequences": 0}
    (entry,) = [json.loads(path.read_text()) for path in (case.volume / ".history").iterdir()]
    assert (entry["event"], entry["commitTs"], entry["content"]["tables"]) == ("Restored", "470656142251917312", 1)
    call = case.tool.called("tidb-lightning")[0]
    assert "hunter22" not in "".join(call["argv"]) + "".join(here.lines)
    assert [p.step for p in here.report.progress] == ["Prepare", "Look", "Check", "Sequences", "Load", "Compare", "Views"]
    config = here.context.scratch / "lightning.toml"
    assert config.stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(config.read_text())["tidb"]["password"] == "hunter22"


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"out": [CANCELED]}, "LoaderBackupDataFailed"),
        ({"err": ["failed to start HTTP server: listen tcp :8289: bind: address already in use"]}, "LoaderBackupDataFailed"),
        ({"err": ["tidb lightning encountered error: Error 1062 (23000): Duplicate entry '1'"], "code": 1}, "TargetNotEmpty"),
        ({"out": [SUCCESS], "code": 1}, "LoaderBackupDataFailed"),
        ({"kill_itself": signal.SIGKILL}, "ToolKilled"),
    ],
    ids=["canceled", "busy port", "duplicate", "mark but no exit 0", "killed"],
)
def test_success_needs_exit_0_and_the_mark(case: Case, tool: dict[str, Any], reason: str) -> None:
    case.dump()
    case.tool.install("tidb-lightning", **tool)
    assert case.fails().problem().reason == reason


def test_sigterm_is_a_failure_although_lightning_ends_with_0(case: Case) -> None:
    case.dump()
    stop = StopSignal()
    case.tool.install("tidb-lightning", out=["up"], sleep=3600, term_says=CANCELED, term_code=0)
    case.tool.once_called("tidb-lightning", stop.request)
    assert isinstance(case.fails(stop=stop), RunInterruptedError)


def test_tables_that_hold_rows_are_refused_and_named(case: Case) -> None:
    case.dump()
    case.tool.install("tidb-lightning", out=[SUCCESS])
    case.database.filled = [("Shop", "O"), ("other", "t")]
    error = case.fails()
    assert error.problem().reason == "TargetNotEmpty"
    assert "Shop.O" in error.message
    assert "other" not in error.message
    assert names.ALLOW_NON_EMPTY_ANNOTATION in error.hint
    assert case.tool.called("tidb-lightning") == []


def test_the_target_is_looked_at_only_while_the_lock_is_held(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another restore loads while this one waits for the lock is seen: the check is made under it."""
    monkeypatch.setattr(target_lock, "Pace", lambda: QUICK)
    case.dump()
    case.tool.install("tidb-lightning", out=[SUCCESS])
    note = Note(holder="pod-of-other", owner="Restore elsewhere/other", owner_uid="other", seconds=3600)
    place = target_lock.RowPlace(database=cast(Database, case.database))
    there = place.write(note, None)
    assert there is not None
    here, caught = case.world(), list[ManagerError]()

    def work() -> None:
        try:
            import_.run(here.context)
        except ManagerError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: here.report.phase is Phase.WAITING, "it waits")
    assert here.report.error is not None
    assert here.report.error.reason == "TargetInUse"
    assert "Restore elsewhere/other" in here.report.error.message
    case.database.filled = [("shop", "o")]
    place.write(Note(), there.version)
    thread.join(PATIENCE)
    assert [error.problem().reason for error in caught] == ["TargetNotEmpty"]
    assert case.tool.called("tidb-lightning") == []
    assert target_lock.ROW not in case.database.rows_of_tidb


def test_the_annotation_allows_it(case: Case) -> None:
    case.dump()
    case.tool.install("tidb-lightning", out=[SUCCESS])
    case.database.filled = [("shop", "o")]
    case.annotations = {names.ALLOW_NON_EMPTY_ANNOTATION: "true"}
    case.run()


def test_tables_that_the_filter_leaves_out_do_not_matter(case: Case) -> None:
    case.dump(FILES | {"shop.log.000000000.sql": "x"})
    case.tool.install("tidb-lightning", out=[SUCCESS])
    case.database.filled = [("shop", "log")]
    case.spec["tableFilter"] = ["*.*", "!shop.log"]
    case.run()


@pytest.mark.parametrize("rules", [["typo.*"], ["shop.typo"], ["shop.o", "shop.typo"]])
def test_a_filter_that_names_nothing_is_no_import(case: Case, rules: list[str]) -> None:
    case.dump()
    case.spec["tableFilter"] = rules
    case.tool.install("tidb-lightning", out=[SUCCESS])
    error = case.fails()
    assert error.problem().reason == "NothingRestored"
    assert not case.tool.called("tidb-lightning")


def test_counts_are_of_what_came_back(case: Case) -> None:
    case.dump(FILES | {"shop.b-schema.sql": "CREATE", "shop.c-schema.sql": "CREATE"})
    case.spec["tableFilter"] = ["shop.o", "typo.*"]
    case.tool.install("tidb-lightning", out=[SUCCESS])
    result, _ = case.run()
    assert (result.details["tables"], result.details["rulesWithoutTable"]) == (1, ["typo.*"])


def test_a_table_that_did_not_come_back_fails_the_import(case: Case) -> None:
    case.dump()
    case.database.present = [("shop", "other")]
    case.tool.install("tidb-lightning", out=[SUCCESS])
    error = case.fails()
    assert error.problem().reason == "RestoreIncomplete"
    assert "shop.o" in error.message


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_dump_that_lost_a_file_since_is_refused_before_lightning_starts(case: Case, damage: str) -> None:
    case.dump()
    where = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix=f"backups/{FOLDER}")
    records = Records(LocalStorage(where))
    records.complete(records.claim(Owner(name="b", uid="u"), operation="export", spec={}))
    file = case.volume / FOLDER / "shop.o.000000001.sql"
    file.write_text("INSERT") if damage == "cut" else file.unlink()
    case.tool.install("tidb-lightning", out=[SUCCESS])
    error = case.fails()
    assert (error.problem().reason, error.problem().retryable) == ("SourceDamaged", False)
    assert "shop.o.000000001.sql of table shop.o" in error.message
    assert not case.tool.called("tidb-lightning")


def test_a_dump_that_lost_its_file_of_views_and_sequences_is_refused_before_lightning_starts(case: Case) -> None:
    case.dump()
    file = case.volume / FOLDER / schema_objects.KEY
    file.write_bytes(schema_objects.SchemaObjects().to_json())
    where = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix=f"backups/{FOLDER}")
    records = Records(LocalStorage(where))
    records.complete(records.claim(Owner(name="b", uid="u"), operation="export", spec={}))
    file.unlink()
    case.tool.install("tidb-lightning", out=[SUCCESS])
    error = case.fails()
    assert error.problem().reason == "SourceDamaged"
    assert schema_objects.KEY in error.message
    assert not case.tool.called("tidb-lightning")


def test_an_export_without_users_is_refused_when_the_spec_asks_for_them(case: Case) -> None:
    case.dump()
    case.spec["users"] = "create"
    case.tool.install("tidb-lightning", out=[SUCCESS])
    assert case.fails().problem().reason == "UsersNotExported"
    assert not case.tool.called("tidb-lightning")


@pytest.mark.parametrize(("asked", "refused"), [("create", True), (None, False)])
def test_a_lost_file_of_users_matters_to_a_restore_of_users(case: Case, asked: str | None, refused: bool) -> None:
    case.dump(FILES | {accounts.KEY: accounts.Accounts().to_json().decode()})
    where = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix=f"backups/{FOLDER}")
    records = Records(LocalStorage(where))
    records.complete(records.claim(Owner(name="b", uid="u"), operation="export", spec={}))
    (case.volume / FOLDER / accounts.KEY).unlink()
    case.spec["users"] = asked
    case.tool.install("tidb-lightning", out=[SUCCESS])
    if not refused:
        case.run()
        return
    error = case.fails()
    assert error.problem().reason == "SourceDamaged"
    assert accounts.KEY in error.message
    assert not case.tool.called("tidb-lightning")


def test_a_login_that_may_not_make_users_is_refused_before_lightning_starts(case: Case) -> None:
    case.dump(FILES | {accounts.KEY: accounts.Accounts(accounts=(BK,)).to_json().decode()})
    case.spec["users"] = "create"
    case.database = target(mine="SELECT")
    case.tool.install("tidb-lightning", out=[SUCCESS])
    assert case.fails().problem().reason == "DatabaseAccessDenied"
    assert not case.tool.called("tidb-lightning")


def test_users_are_made_last_and_kept_ones_are_told(case: Case) -> None:
    other = BK.__class__(user="other", host="%", create="CREATE USER IF NOT EXISTS 'other'@'%'")
    case.dump(FILES | {accounts.KEY: accounts.Accounts(accounts=(BK, other)).to_json().decode()})
    case.spec["users"] = "create"
    case.database = target(told=HASH, me="other@%")
    case.tool.install("tidb-lightning", out=[SUCCESS])
    result, here = case.run()
    assert [p.step for p in here.report.progress][-2:] == ["Views", "Users"]
    assert (result.details["users"], result.details["usersKept"]) == (1, 1)
    assert result.details["leftOut"] == ["user 'other'@'%': it runs the restore"]
    assert any("'other'@'%'" in line for line in here.lines)
    assert HASH not in here.report.to_json() + "".join(here.lines)


def test_fewer_rows_than_the_record_tells_fail_the_import(case: Case) -> None:
    case.dump()
    where = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix=f"backups/{FOLDER}")
    records = Records(LocalStorage(where))
    items = [Item(kind=Kind.TABLE, schema="shop", name="o", rows=2, files=1)]
    claim = records.claim(Owner(name="b", uid="u"), operation="export", spec={})
    records.complete(claim, held=Content.of(items), items=items)
    case.tool.install("tidb-lightning", out=[SUCCESS])
    error = case.fails()
    assert error.problem().reason == "RestoreIncomplete"
    assert "loaded 0 rows, while the export holds 2" in error.message


def test_a_folder_without_a_dump_names_the_ones_inside(case: Case) -> None:
    case.dump()
    case.tool.install("tidb-lightning")
    case.spec["local"]["prefix"] = "backups"
    error = case.fails()
    assert error.problem().reason == "SourceNotFound"
    assert FOLDER in error.hint


def test_a_dump_of_nothing_is_refused(case: Case) -> None:
    case.dump({"metadata": FILES["metadata"]})
    case.tool.install("tidb-lightning")
    assert case.fails().problem().reason == "SourceEmpty"


def test_the_rows_of_a_query_are_no_dump_of_a_table(case: Case) -> None:
    """dumpling writes them with ``--sql``; lightning reads none of them and succeeds."""
    case.dump({"metadata": FILES["metadata"], "result.000000000.sql": "INSERT INTO `` VALUES (1);"})
    case.tool.install("tidb-lightning", out=[SUCCESS])
    assert case.fails().problem().reason == "SourceEmpty"
    assert not case.tool.called("tidb-lightning")


ROOT = "backup-2024-01-02T03:04:05Z"
ENTRIES = {f"{ROOT}/{name}": text.encode() for name, text in FILES.items()}


@pytest.mark.parametrize("name", [f"{ROOT}.tgz", "renamed.tgz"])
def test_an_archive_of_tidb_operator(case: Case, name: str) -> None:
    case.tool.install("tidb-lightning", out=[SUCCESS])
    result, here = case.run(path=case.pack(ENTRIES, name))
    assert result.commit_ts == "470656142251917312"
    config = tomllib.loads((here.context.scratch / "lightning.toml").read_text())
    folder = Path(config["mydumper"]["data-source-dir"])
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert [p.step for p in here.report.progress] == ["Prepare", "Unpack", "Check", "Sequences", "Load", "Compare", "Views"]


def test_a_missing_archive_is_told_as_such(case: Case) -> None:
    case.tool.install("tidb-lightning")
    case.volume.mkdir(parents=True)
    assert case.fails(path=f"local://{case.volume}/none.tgz").problem().reason == "SourceNotFound"


def test_an_archive_that_climbs_out_is_refused(case: Case) -> None:
    case.tool.install("tidb-lightning", out=[SUCCESS])
    assert case.fails(path=case.pack({"../evil": b"evil", **ENTRIES})).problem().reason == "UnarchiveBackupDataFailed"
    assert list(case.tmp_path.rglob("evil")) == []


def test_absolute_names_in_an_archive_stay_inside(case: Case) -> None:
    case.tool.install("tidb-lightning", out=[SUCCESS])
    _, here = case.run(path=case.pack({f"{case.tmp_path}/evil": b"evil", **ENTRIES}))
    assert not (case.tmp_path / "evil").exists()
    assert all(here.context.scratch in found.parents for found in case.tmp_path.rglob("evil"))


@pytest.mark.parametrize("damage", ["cut", "no gzip", "no dump"])
def test_a_damaged_archive(case: Case, damage: str) -> None:
    case.tool.install("tidb-lightning")
    path = case.pack({"root/readme": b"x"} if damage == "no dump" else ENTRIES | {f"{ROOT}/big": os.urandom(100_000)})
    file = Path(path.removeprefix("local://"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:50_000])
    elif damage == "no gzip":
        file.write_bytes(b"plain text" * 1000)
    assert case.fails(path=path).problem().reason == "UnarchiveBackupDataFailed"


def test_a_volume_that_is_too_small_is_told_before_unpacking(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(100, 90, 10))
    case.tool.install("tidb-lightning")
    error = case.fails(path=case.pack(ENTRIES))
    assert error.problem().reason == "DiskFull"
    assert "additionalVolumes" in error.hint


@pytest.mark.parametrize(
    ("flag", "storage", "folder", "name"),
    [
        ("s3://b/p/x", {}, "s3://b/p/x", ""),
        ("s3://b/p/x.tgz", {}, "s3://b/p", "x.tgz"),
        ("", {"path": "s3://b/p/x.tgz"}, "s3://b/p", "x.tgz"),
        ("", {"path": "b/p/x"}, "s3://b/p/x", ""),
        ("", {"bucket": "b", "prefix": "p"}, "s3://b/p", ""),
    ],
)
def test_where_the_data_is(tmp_path: Path, flag: str, storage: dict[str, str], folder: str, name: str) -> None:
    here = world(tmp_path, {"s3": {"provider": "aws", **storage}}, flags={"backupPath": flag} if flag else {})
    source = import_._source(here.context)
    assert (source.folder.url, source.archive) == (folder, name)


@pytest.mark.parametrize(
    "annotations",
    [{names.LIGHTNING_BACKEND_ANNOTATION: "fast"}, {names.LIGHTNING_BACKEND_ANNOTATION: "local"}],
)
def test_a_backend_that_cannot_be(case: Case, annotations: dict[str, str]) -> None:
    case.dump()
    case.tool.install("tidb-lightning")
    case.annotations = annotations
    assert case.fails().exit_code == 2


def attempts(case: Case, *, complete: bool = True) -> None:
    """An export whose second attempt completed; the first one thawed and ended later."""
    place = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix=f"backups/{FOLDER}")
    owner = Owner(namespace="ns", name="cr", uid="u")
    for number in (1, 2):
        records = Records(LocalStorage(place), attempt_id=str(number))
        claim = records.claim(owner, operation="export", spec={})
        for name, text in FILES.items():
            records.data_storage(claim).write(name, text.encode())
    if complete:
        records.complete(claim)
    case.dump(FILES | {"shop.stale.000000001.sql": "INSERT", "shop.stale-schema.sql": "CREATE"})


@pytest.mark.parametrize("by", ["prefix", "backupPath"])
def test_the_record_says_which_attempt_is_imported(case: Case, by: str) -> None:
    attempts(case)
    case.tool.install("tidb-lightning", out=[SUCCESS])
    result, here = case.run(path=f"local://{case.volume}/{FOLDER}" if by == "backupPath" else "")
    assert result.details["tables"] == 1
    config = tomllib.loads((here.context.scratch / "lightning.toml").read_text())
    assert config["mydumper"]["data-source-dir"].endswith(f"{FOLDER}/attempt-2")
    assert here.report.result["source"].endswith(f"{FOLDER}/attempt-2")


@pytest.mark.parametrize("failed", [False, True])
def test_an_import_of_a_backup_that_no_run_completed_is_refused(case: Case, failed: bool) -> None:
    case.dump()
    place = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix=f"backups/{FOLDER}")
    records = Records(LocalStorage(place), attempt_id="1")
    case.tool.install("tidb-lightning", out=[SUCCESS])
    claim = records.claim(Owner(namespace="ns", name="cr", uid="u"), operation="export", spec={})
    if failed:
        records.fail(claim, Problem(reason="Test", message="no"))
    problem = case.fails().problem()
    assert (problem.reason, problem.retryable) == ("SourceNotComplete", not failed)
    assert case.tool.called("tidb-lightning") == []


@pytest.mark.parametrize("record", ["", "{}", '{"v": 3}'])
def test_several_attempts_without_a_readable_record_are_refused_and_named(case: Case, record: str) -> None:
    attempts(case)
    file = case.volume / f"{FOLDER}.record.json"
    file.unlink()
    if record:
        file.write_text(record)
    case.tool.install("tidb-lightning", out=[SUCCESS])
    error = case.fails()
    assert error.problem().reason == "SourceAmbiguous"
    assert "attempt-2" in error.message
    assert f"{FOLDER}.record.json" in error.hint
    assert case.tool.called("tidb-lightning") == []


def test_one_attempt_without_a_readable_record_is_imported_as_ever(case: Case) -> None:
    case.dump()
    (case.volume / f"{FOLDER}.record.json").write_text("{}")
    case.tool.install("tidb-lightning", out=[SUCCESS])
    _, here = case.run()
    assert any("record" in line and "cannot be read" in line for line in here.lines)
