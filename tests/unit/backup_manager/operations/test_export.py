"""Export with a dumpling that does what a test says: every reason, and what is left behind."""

import dataclasses
import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup_manager import content
from backup_manager.catalog.record import Owner
from backup_manager.catalog.records import Records
from backup_manager.context import Result
from backup_manager.errors import ClaimedError, ManagerError, RunInterruptedError, SupersededError
from backup_manager.operations import export
from backup_manager.signals import StopSignal
from backup_manager.storage.base import ObjectInfo
from backup_manager.storage.local import LocalStorage
from backup_manager.tidb import accounts
from backup_manager.tidb.connection import DatabaseError
from backup_manager.tools import process
from backup_manager.tools.dumpling import SUCCESS
from crds.contract.paths import Location, Provider
from crds.contract.report import Phase
from tests.support.fake_tool import FakeTool
from tests.support.manager import FakeDatabase, World, local_storage, world
from tests.unit.backup_manager.tidb.test_accounts import HASH
from tests.unit.backup_manager.tidb.test_accounts import database as accounts_of_tidb
from tests.unit.backup_manager.tidb.test_schema_objects import database as objects_of_tidb

METADATA = (
    "Started dump at: x\nSHOW MASTER STATUS:\n\tLog: tidb-binlog\n\tPos: 470656142251917312\n\tGTID:\n\nFinished dump at: y\n"
)
FILES = {
    "metadata": METADATA,
    "shop-schema-create.sql": "CREATE DATABASE shop;",
    "shop.o-schema.sql": "CREATE TABLE o;",
    "shop.o.000000001.sql": "INSERT INTO o VALUES (1);",
}


class Case:
    """One export on a local volume."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.tool = FakeTool(folder=tmp_path / "bin")
        self.database = FakeDatabase()
        self.spec: dict[str, Any] = {"from": {"host": "db", "user": "bk"}, "local": local_storage(tmp_path)}
        self.folder = tmp_path / "volume" / "backups" / "cr-0f5e9c1a"
        self.record = tmp_path / "volume" / "backups" / "cr-0f5e9c1a.record.json"

    def world(self, *, stop: StopSignal | None = None, env: dict[str, str] | None = None) -> World:
        return world(
            self.tmp_path, self.spec, env={**self.tool.env, "BACKUP_MANAGER_PASSWORD": "hunter22", **(env or {})}, stop=stop
        )

    def run(self, **options: Any) -> tuple[Result, World]:
        here = self.world(**options)
        return export.run(here.context), here

    def fails(self, **options: Any) -> tuple[str, World]:
        here = self.world(**options)
        with pytest.raises(ManagerError) as caught:
            export.run(here.context)
        problem = caught.value.problem()
        assert problem.hint, "every failure offers a next step"
        assert len(problem.message.splitlines()) <= 2
        assert "hunter22" not in problem.message + "".join(here.lines)
        return problem.reason, here


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = Case(tmp_path)
    monkeypatch.setattr(export, "connect", lambda _context, _access: case.database)
    return case


def test_a_good_export(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], err=["Release version: v8.5.0"], files=FILES)
    result, here = case.run()
    assert result.commit_ts == "470656142251917312"
    assert result.backup_size == sum(map(len, FILES.values()))
    assert dict(result.details) == {
        "objectCount": 4,
        "schemas": 1,
        "tables": 1,
        "views": 0,
        "sequences": 0,
        "schemasLeftOut": ["test"],
        "leftOut": [],
    }
    assert (case.database.history, case.database.life_time) == (["72h", "10m0s"], "10m0s")
    record = json.loads(case.record.read_text())
    assert (record["state"], record["toolVersion"], record["commitTs"]) == ("Complete", "v8.5.0", "470656142251917312")
    assert "hunter22" not in case.record.read_text() + "".join(here.lines)
    assert [(p.step, p.progress) for p in here.report.progress] == [
        ("Prepare", 100),
        ("Dump", 100),
        ("Describe", 100),
        ("Verify", 100),
    ]


def test_users_are_exported_when_the_spec_asks_for_them_and_then_not_among_what_is_left_out(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    case.database = accounts_of_tidb()
    case.database.counts = {"mysql.user": 3}
    case.spec["dumpling"] = {"users": True}
    result, here = case.run()
    assert result.details["users"] == 3
    assert result.details["leftOut"] == ["grants on what is not in it: 2 (els`e, mysql)"]
    document = (case.folder / accounts.KEY).read_text()
    assert HASH in document
    record = case.record.read_text()
    assert json.loads(record)["content"]["users"] == 3
    kept = Path(str(case.folder) + ".content.gz").read_bytes(), here.report.to_json(), "".join(here.lines), record
    assert not any(HASH in str(place) or HASH.encode() in gzip.decompress(kept[0]) for place in kept[1:])


def test_an_export_reads_views_sequences_and_users_once_and_on_one_connection(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    case.database = objects_of_tidb()
    case.spec["dumpling"] = {"users": True}
    case.spec["tableFilter"] = ["shop.*"]
    asked = list[str]()
    ask = case.database.ask
    case.database.ask = lambda statement, parameters=(): asked.append(statement) or ask(statement, parameters)  # type: ignore[method-assign,func-returns-value]
    case.run()
    assert sum("next_row_id" in statement for statement in asked) == 1
    assert sum("show fields" in statement for statement in asked) == 1
    assert case.database.connections == 2, "one look before the dump, one pass after it"


def test_an_export_is_listed_once_when_it_is_judged_and_recorded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    here, listings = case.world(), list[str]()
    list_of = LocalStorage.list

    def listed(storage: LocalStorage, prefix: str = "") -> Iterator[ObjectInfo]:
        if "step Verify" in here.lines and storage.location.prefix.endswith("cr-0f5e9c1a"):
            listings.append(prefix)
        return list_of(storage, prefix)

    monkeypatch.setattr(LocalStorage, "list", listed)
    result = export.run(here.context)
    assert listings == [""]
    assert result.details["objectCount"] == len(FILES)


def test_users_that_nobody_asked_for_are_left_out_and_named(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    case.database = accounts_of_tidb()
    case.database.counts = {"mysql.user": 3}
    result, _ = case.run()
    assert result.details["leftOut"] == ["users and roles, with their grants: 3"]
    assert "users" not in result.details
    assert not (case.folder / accounts.KEY).exists()


def test_a_login_that_may_not_read_users_is_told_before_the_dump(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    case.database.refused = {"select user, host": DatabaseError("no right", reason="DatabaseAccessDenied", hint="Grant it.")}
    case.spec["dumpling"] = {"users": True}
    assert case.fails()[0] == "DatabaseAccessDenied"
    assert case.tool.called("dumpling") == []


def said(files: dict[str, int], rows: int = 1) -> list[str]:
    """What dumpling logs at debug level for these data files of shop.o, and of the schema files."""
    opened = [f'[t] [DEBUG] [writer_util.go:497] ["opened file"] [path="local:///x/{name}"]' for name in FILES | files]
    done = [
        f'[t] [DEBUG] [writer_util.go:203] ["finish dumping table(chunk)"] [database=shop] [table=o] ["finished rows"={rows}] '
        f'["finished size"={size}]'
        for size in files.values()
    ]
    return [*opened, *done, SUCCESS]


ONE = {"shop.o.000000001.sql": len(FILES["shop.o.000000001.sql"])}


def test_rows_and_bytes_of_each_table_are_in_the_record(case: Case) -> None:
    case.tool.install("dumpling", out=said(ONE), files=FILES)
    result, here = case.run()
    assert (result.details["tables"], result.details["rows"]) == (1, 1)
    assert json.loads(case.record.read_text())["content"] == {
        "schemas": 1,
        "tables": 1,
        "views": 0,
        "sequences": 0,
        "files": 1,
        "rows": 1,
        "bytes": ONE["shop.o.000000001.sql"],
        "readable": True,
    }
    (kept,) = content.unpack(Path(str(case.folder) + ".content.gz").read_bytes())
    assert (kept.place, kept.rows, kept.bytes, kept.files) == ("shop.o", 1, ONE["shop.o.000000001.sql"], 1)
    assert "[DEBUG]" not in "".join(here.lines)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"shop.o.000000001.sql": 25, "shop.o.000000002.sql": 30}, "shop.o.000000002.sql of table shop.o"),
        ({"shop.o.000000001.sql": 26}, "table shop.o the storage holds 1 files of 25 bytes"),
        ({"shop.p%2Eq.000000000.sql": 7}, "shop.p%2Eq.000000000.sql of table shop.p.q"),
    ],
    ids=["vanished", "cut", "the whole table"],
)
def test_a_data_file_that_the_store_lost_fails_the_export(case: Case, files: dict[str, int], told: str) -> None:
    """The store answered 200 to every write."""
    assert len(FILES["shop.o.000000001.sql"]) == 25
    case.tool.install("dumpling", out=said(files), files=FILES)
    here = case.world()
    with pytest.raises(ManagerError) as caught:
        export.run(here.context)
    assert (caught.value.problem().reason, caught.value.problem().retryable) == ("DumpIncomplete", True)
    assert told in caught.value.message
    assert json.loads(case.record.read_text())["state"] == "Failed"


def test_a_schema_file_that_the_store_lost_fails_the_export(case: Case) -> None:
    case.tool.install("dumpling", out=said(ONE), files={name: FILES[name] for name in FILES if "o-schema" not in name})
    assert case.fails()[0] == "DumpIncomplete"


@pytest.mark.parametrize("rules", [["shop.typo"], ["shop.o", "shop.typo"], ["typo.*"]])
def test_a_filter_that_names_nothing_is_no_export(case: Case, rules: list[str]) -> None:
    """dumpling writes the empty schema of a rule whose table does not exist, and succeeds."""
    case.spec["tableFilter"] = rules
    files = FILES if "shop.o" in rules else {name: FILES[name] for name in ("metadata", "shop-schema-create.sql")}
    case.tool.install("dumpling", out=[SUCCESS], files=files)
    assert case.fails()[0] == "NothingDumped"


def test_a_file_with_a_pinned_uid_that_is_run_again_says_that_nothing_was_done(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    case.run()
    here = case.world()
    again = dataclasses.replace(here.context, flags={"from-file": "export.yaml"})
    with pytest.raises(ManagerError) as caught:
        export.run(again)
    assert caught.value.problem().reason == "AlreadyComplete"
    assert caught.value.exit_code != 0
    assert "nothing was done" in caught.value.message
    assert "metadata.uid" in caught.value.hint


def test_the_path_is_told_before_the_tool_starts(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    _, here = case.run()
    first = here.reporter.stored[0]
    assert (first.backup_path, first.phase) == (f"local://{case.folder}", Phase.PREPARE)
    assert case.tool.called("dumpling")[0]["argv"][1] == f"--output={case.folder}"


def test_the_folder_that_the_job_names_is_used(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    _, here = case.run(env={"BACKUP_PATH": f"local://{case.tmp_path}/volume/elsewhere/x"})
    assert here.report.backup_path == f"local://{case.tmp_path}/volume/elsewhere/x"


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"out": ["create dumper failed: Error 1045 (28000): Access denied for user"], "code": 1}, "DatabaseAccessDenied"),
        ({"out": ["dump failed: write x: no space left on device"], "code": 1}, "DiskFull"),
        ({"out": ["dump failed: something new"], "code": 1}, "DumpTidbClusterFailed"),
        ({"err": ["unknown flag: --nope"], "code": 2}, "ToolFlagUnknown"),
        ({"kill_itself": signal.SIGKILL}, "ToolKilled"),
        ({"out": [], "files": FILES}, "DumpTidbClusterFailed"),
        ({"out": [SUCCESS], "files": {"shop.o.000000001.sql": "x"}}, "DumpIncomplete"),
        ({"out": [SUCCESS], "files": FILES | {"metadata": METADATA.replace("Finished", "")}}, "DumpIncomplete"),
        ({"out": [SUCCESS], "files": {"metadata": METADATA.replace("47065", ": 4")}}, "GetCommitTsFailed"),
        ({"out": [SUCCESS], "files": {"metadata": METADATA}}, "NothingDumped"),
    ],
    ids=[
        "login",
        "disk",
        "other",
        "flag",
        "killed",
        "no mark",
        "no metadata",
        "metadata cut",
        "no position",
        "nothing matched",
    ],
)
def test_every_failure_has_its_reason_and_gc_is_put_back(case: Case, tool: dict[str, Any], reason: str) -> None:
    case.tool.install("dumpling", **tool)
    assert case.fails()[0] == reason
    assert (case.database.life_time, case.database.marker) == ("10m0s", None)
    assert json.loads(case.record.read_text())["problem"]["reason"] == reason


def test_a_missing_tool_is_told_before_anything_is_touched(case: Case) -> None:
    assert case.fails()[0] == "ToolMissing"
    assert (case.database.history, case.record.exists()) == ([], False)


def test_sigterm_ends_the_tool_and_puts_gc_back(case: Case) -> None:
    stop = StopSignal()
    case.tool.install("dumpling", out=["up"], sleep=3600)
    case.tool.once_called("dumpling", stop.request)
    here = case.world(stop=stop)
    with pytest.raises(RunInterruptedError) as caught:
        export.run(here.context)
    assert caught.value.problem().retryable
    assert case.database.history == ["72h", "10m0s"]


def test_a_repeated_run_removes_its_own_leftovers_and_starts_anew(case: Case) -> None:
    case.tool.install("dumpling", files=FILES | {"shop.o.000000002.sql": "half"}, kill_itself=signal.SIGKILL)
    case.fails()
    assert (case.folder / "shop.o.000000002.sql").exists()
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    result, here = case.run()
    assert result.details["objectCount"] == 4
    assert here.report.result["leftoversRemoved"] == 5
    assert not (case.folder / "shop.o.000000002.sql").exists()
    assert case.tool.called("dumpling")[-1]["argv"][1] == f"--output={case.folder}/attempt-2"
    record = json.loads(case.record.read_text())
    assert (record["data"], record["objectCount"], record["open"]) == ("attempt-2", 4, [])
    assert here.report.backup_path == f"local://{case.folder}"


def test_an_export_that_was_overtaken_while_it_dumped_does_not_complete(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process stood still; a later attempt of the same Backup claimed, and has not ended yet."""
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    here = case.world()
    place = Location(provider=Provider.LOCAL, bucket=str(case.tmp_path / "volume"), prefix="backups/cr-0f5e9c1a")
    later = Records(LocalStorage(place), attempt_id="later")
    process_run = process.run

    def overtaken(*arguments: Any, **options: Any) -> Any:
        ended = process_run(*arguments, **options)
        later.claim(Owner.of(here.context.resource), operation="export", spec={})
        return ended

    monkeypatch.setattr(process, "run", overtaken)
    with pytest.raises(SupersededError) as caught:
        export.run(here.context)
    assert (caught.value.problem().reason, caught.value.problem().retryable) == ("AttemptSuperseded", False)
    record = json.loads(case.record.read_text())
    assert (record["state"], record["attempt"]["id"], "problem" in record) == ("Claimed", "later", False)
    assert [attempt["id"] for attempt in record["open"]] == ["later"]


def test_a_repeated_run_of_a_finished_export_dumps_nothing_again(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    first, _ = case.run()
    again, _ = case.run()
    assert (again.commit_ts, again.backup_size) == (first.commit_ts, first.backup_size)
    assert len(case.tool.called("dumpling")) == 1


def test_data_without_a_record_is_never_touched(case: Case) -> None:
    case.folder.mkdir(parents=True)
    (case.folder / "precious").write_text("mine")
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    for _ in range(2):
        assert case.fails()[0] == "BackupPathInUse"
    assert (case.folder / "precious").read_text() == "mine"
    assert case.tool.called("dumpling") == []


def test_a_folder_of_another_backup_is_refused(case: Case) -> None:
    case.tool.install("dumpling", out=[SUCCESS], files=FILES)
    case.run()
    other = world(
        case.tmp_path,
        case.spec,
        env={**case.tool.env, "BACKUP_PATH": f"local://{case.folder}"},
        uid="another-uid",
    )
    with pytest.raises(ClaimedError):
        export.run(other.context)
    assert len(case.tool.called("dumpling")) == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"from": {"host": "db"}}, "s3, gcs, azblob, local"),
        ({"from": {}, "s3": {"bucket": "b"}}, "spec.from.host"),
        ({"from": {"host": "db", "port": "many"}, "s3": {"bucket": "b"}}, "spec.from.port"),
        ({"from": {"host": "db"}, "s3": {"bucket": ""}}, "s3.bucket"),
        ({"from": {"host": "db"}, "s3": {"provider": "aws", "prefix": "x"}}, "s3.bucket"),
        ({"from": {"host": "db"}, "s3": {"bucket": "b", "prefix": "../x"}}, "s3.prefix"),
    ],
)
def test_a_spec_that_cannot_work_names_the_field(case: Case, spec: dict[str, Any], told: str) -> None:
    case.tool.install("dumpling")
    case.spec = spec
    here = case.world()
    with pytest.raises(ManagerError) as caught:
        export.run(here.context)
    assert caught.value.exit_code == 2
    assert told in caught.value.message + caught.value.hint


@pytest.mark.parametrize("path", ["local:///elsewhere/x", "nonsense", "local://{volume}"])
def test_a_path_from_the_job_that_cannot_be_is_refused(case: Case, path: str) -> None:
    case.tool.install("dumpling")
    assert case.fails(env={"BACKUP_PATH": path.format(volume=case.tmp_path / "volume")})[0] == "InvalidSpec"
