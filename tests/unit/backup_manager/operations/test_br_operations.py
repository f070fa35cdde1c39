"""Backup and restore with a br that does what a test says."""

import dataclasses
import json
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backup_manager.catalog import audit_log, ownership
from backup_manager.catalog.readers import ReaderActiveError
from backup_manager.catalog.record import Owner, Record, State
from backup_manager.catalog.records import Records
from backup_manager.content import Content
from backup_manager.context import Result
from backup_manager.errors import ManagerError, RunInterruptedError
from backup_manager.operations import br_backup, br_log, br_restore
from backup_manager.signals import StopSignal
from backup_manager.storage.factory import open_storage
from backup_manager.tidb.gc_life_time import Mark
from backup_manager.tidb.pd import LogTask, Pd, TaskState
from backup_manager.tools import br_runner
from crds.contract import names
from crds.contract.paths import location_of
from crds.contract.report import Phase
from tests.support.fake_tool import FakeTool
from tests.support.manager import NOW, FakeDatabase, World, local_storage, world

# backupmeta: end_version 300, backup_size 5000 (and, for a log task, start_version 7)
META = bytes.fromhex("280730ac02c8018827").decode("latin-1")
SUMMARY = '[x] ["Full Backup success summary"] [total-kv=100] [total-kv-size=123.5kB] [BackupTS=300] [Size=2345]'


class Case:
    """One run on a local volume."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.tool = FakeTool(folder=tmp_path / "bin")
        self.database = FakeDatabase()
        self.flags: dict[str, Any] = {"mode": "snapshot", "tikvVersion": "v8.5.0"}
        self.spec: dict[str, Any] = {
            "br": {"cluster": "basic"},
            "from": {"host": "db"},
            "to": {"host": "db"},
            "local": local_storage(tmp_path, "backups/full"),
        }
        self.folder = tmp_path / "volume" / "backups" / "full"
        self.env: dict[str, str] = {}
        self.status: dict[str, Any] = {}

    def install(self, *, out: list[str] | None = None, meta: str | None = META, **how: Any) -> None:
        files = {} if meta is None else {"backupmeta": meta}
        self.tool.install("br", out=out or [SUMMARY], files=files, folder=self.folder, **how)

    def world(self, *, stop: StopSignal | None = None) -> World:
        env = {**self.tool.env, "BACKUP_MANAGER_PASSWORD": "hunter22", **self.env}
        here = world(self.tmp_path, self.spec, env=env, flags=self.flags, stop=stop)
        resource = dataclasses.replace(here.context.resource, status=self.status)
        return dataclasses.replace(here, context=dataclasses.replace(here.context, resource=resource))

    def run(self, operation: Any = br_backup, **options: Any) -> tuple[Result, World]:
        here = self.world(**options)
        return operation.run(here.context), here

    def fails(self, operation: Any = br_backup, **options: Any) -> ManagerError:
        with pytest.raises(ManagerError) as caught:
            self.run(operation, **options)
        assert caught.value.hint
        return caught.value

    def argv(self) -> list[str]:
        line: list[str] = self.tool.called("br")[-1]["argv"]
        return line


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = Case(tmp_path)
    for operation in (br_backup, br_restore):
        monkeypatch.setattr(operation, "connect", lambda _context, _access: case.database)
    return case


def test_a_good_snapshot(case: Case) -> None:
    case.install(out=['[x] [progress] [step="Full Backup"] [progress=42%]', SUMMARY])
    result, here = case.run()
    assert (result.commit_ts, result.backup_size) == ("300", 5000)
    assert result.details["totalKv"] == "100"
    assert here.reporter.stored[0].backup_path == f"local://{case.folder}"
    assert here.reporter.stored[0].phase is Phase.PREPARE
    assert [p.step for p in here.report.progress] == ["Prepare", "Backup", "Full Backup", "Verify"]
    assert case.database.history == ["72h", "10m0s"]
    assert "BR_LOG_TO_TERM" in case.tool.called("br")[0]["env"]
    assert case.argv()[1:3] == ["backup", "full"]


NOTHING = [
    {"tableFilter": ["nosuch.*"]},
    {"backupType": "db", "br": {"cluster": "basic", "db": "nosuch"}},
    {"backupType": "table", "br": {"cluster": "basic", "db": "nosuch", "table": "t"}},
]


@pytest.mark.parametrize("spec", NOTHING)
def test_a_snapshot_without_what_the_spec_names_is_a_failure(case: Case, spec: dict[str, Any]) -> None:
    """br ends with 0, and leaves a backupmeta of no table."""
    case.spec |= spec
    case.install()
    assert case.fails().problem().reason == "NothingDumped"


@pytest.mark.parametrize("spec", NOTHING)
def test_a_restore_without_what_the_spec_names_never_reaches_the_cluster(case: Case, spec: dict[str, Any]) -> None:
    put_backup(case)
    (case.folder / "backupmeta").write_bytes(bytes.fromhex("30ac02c8018827"))
    case.spec |= spec
    case.install(meta=None)
    assert case.fails(br_restore).problem().reason == "NothingRestored"
    assert case.tool.called("br") == []


def test_of_an_encrypted_snapshot_br_s_own_count_decides(case: Case) -> None:
    case.spec |= {"tableFilter": ["nosuch.*"], "br": {"cluster": "basic", "options": ["--crypter.method=aes128-ctr"]}}
    case.install(out=[SUMMARY.replace("[total-kv=100]", "[total-ranges=0]")])
    assert case.fails().problem().reason == "NothingDumped"


def test_a_data_file_that_backupmeta_names_and_the_store_lost(case: Case) -> None:
    lost = META + bytes.fromhex("2209").decode("latin-1") + "\n\x05a.sst" + "\x58\x07"
    case.install(meta=lost)
    problem = case.fails().problem()
    assert problem.reason == "BackupIncomplete"
    assert "a.sst" in problem.message


def test_no_database_named_means_no_gc_change(case: Case) -> None:
    del case.spec["from"]
    case.install()
    case.run()
    assert case.database.history == []


@pytest.mark.parametrize(
    ("tool", "reason", "retryable"),
    [
        ({"err": ["Error: [pd] failed to get cluster id"], "code": 1}, "PDUnreachable", True),
        ({"err": ["Error: the moon is full"], "code": 1}, "BackupDataToRemoteFailed", False),
        ({"kill_itself": signal.SIGKILL}, "ToolKilled", True),
        ({"out": ["Usage: br backup [flags]"]}, "CommandNotFound", False),
        ({}, "GetBackupMetadataFailed", True),
    ],
    ids=["no PD", "other", "killed", "help", "no meta"],
)
def test_failures_of_a_snapshot(case: Case, tool: dict[str, Any], reason: str, retryable: bool) -> None:
    case.install(meta=None, **tool)
    problem = case.fails().problem()
    assert (problem.reason, problem.retryable) == (reason, retryable)
    assert case.database.life_time == "10m0s"


def test_sigterm_is_forwarded_to_br_since_it_goes_on_from_its_checkpoint(case: Case) -> None:
    stop = StopSignal()
    case.install(sleep=3600, term_says="Got signal terminated to exit.", term_code=1)
    case.tool.once_called("br", stop.request)
    assert isinstance(case.fails(stop=stop), RunInterruptedError)
    assert case.database.life_time == "10m0s"


def leave_half(case: Case) -> None:
    case.install(meta=None, kill_itself=signal.SIGKILL)
    case.fails()
    (case.folder / "checkpoints").mkdir(parents=True)
    (case.folder / "checkpoints" / "one").write_text("x")


def test_a_repeated_snapshot_goes_on_from_the_checkpoint(case: Case) -> None:
    leave_half(case)
    case.install()
    _, here = case.run()
    assert (case.folder / "checkpoints" / "one").exists()
    assert any("checkpoint" in line for line in here.lines)


@pytest.mark.parametrize("version", ["4.0", "nightly", "v6.5.0"])
def test_without_checkpoints_the_leftovers_go_first(case: Case, version: str) -> None:
    leave_half(case)
    case.flags["tikvVersion"] = version
    case.install()
    case.run()
    assert not (case.folder / "checkpoints" / "one").exists()


def test_data_of_somebody_else_is_refused(case: Case) -> None:
    case.folder.mkdir(parents=True)
    (case.folder / "backupmeta").write_text("theirs")
    case.install()
    assert case.fails().problem().reason == "BackupPathInUse"
    assert case.tool.called("br") == []


def test_a_finished_snapshot_is_not_taken_twice(case: Case) -> None:
    case.install()
    case.run()
    result, _ = case.run()
    assert result.commit_ts == "300"
    assert len(case.tool.called("br")) == 1


def test_a_run_that_died_after_br_had_finished_only_reads_the_result(case: Case) -> None:
    leave_half(case)
    (case.folder / "backupmeta").write_bytes(META.encode("latin-1"))
    Mark.of(case.world().context, case.database).enter("72h", timedelta(hours=72))  # type: ignore[arg-type]
    result, _ = case.run()
    assert result.commit_ts == "300"
    assert len(case.tool.called("br")) == 1
    assert (case.database.life_time, case.database.marker, case.database.holders) == ("10m0s", None, [])


def test_an_encrypted_backup_takes_the_words_of_br(case: Case) -> None:
    case.spec["br"]["options"] = ["--crypter.method=aes128-ctr", "--crypter.key=0123456789abcdef"]
    case.install(meta="\xff" * 500)
    result, here = case.run()
    assert (result.commit_ts, result.backup_size) == ("300", 500)
    record = (case.tmp_path / "volume" / "backups" / "full.record.json").read_text()
    assert "0123456789abcdef" not in record + "".join(here.lines) + json.dumps(here.report.result)
    (called,) = case.tool.called("br")
    assert "0123456789abcdef" not in " ".join(called["argv"])
    assert any(word.startswith("--crypter.key-file=") for word in called["argv"])


@pytest.mark.parametrize(
    ("command", "second", "told"),
    [
        ("log-start", "start", {"command": "log-start"}),
        ("log-stop", "stop", {"command": "log-stop"}),
        ("log-pause", "pause", {"command": "log-pause"}),
        ("log-resume", "resume", {"command": "log-resume"}),
        ("log-truncate", "truncate", {"command": "log-truncate", "logSuccessTruncateUntil": "99"}),
    ],
)
def test_commands_of_a_log_backup(case: Case, command: str, second: str, told: dict[str, str]) -> None:
    case.flags = {"mode": "log", "subcommand": command, "truncate-until": "99"}
    case.install(out=["ok"])
    result, here = case.run()
    assert case.argv()[1:3] == ["log", second]
    assert dict(result.details) == told
    assert result.commit_ts == ("7" if command == "log-start" else None)
    assert (here.report.backup_path is not None) is (command == "log-start")
    assert case.database.history == []


@pytest.mark.parametrize(("command", "reason"), [(c.value, r) for c, r in br_log.REASONS.items()])
def test_reasons_of_log_commands_are_upstreams(case: Case, command: str, reason: str) -> None:
    case.flags = {"mode": "log", "subcommand": command, "truncate-until": "99"}
    case.install(meta=None, err=["Error: no"], code=1)
    assert case.fails().problem().reason == reason


def records_of(case: Case) -> Records:
    return Records(open_storage(case.spec, location=location_of(case.spec), env={}), now=lambda: NOW)


def test_a_truncation_beside_the_record_of_another_backup_is_refused(case: Case) -> None:
    records_of(case).claim(Owner(namespace="ns", name="other", uid="uid-of-another"), operation="log backup", spec={})
    case.flags |= {"mode": "log", "subcommand": "log-truncate", "truncate-until": "9"}
    case.install()
    error = case.fails()
    assert error.problem().reason == "BackupPathClaimed"
    assert "Backup ns/other" in error.message
    assert not case.tool.called("br")


def test_the_ends_of_a_log_are_in_its_record_and_its_history(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.install(out=["ok"])
    told = []
    for command, checkpoint in [("start", 0), ("pause", 500), ("truncate", 500), ("stop", 900)]:
        task = LogTask(state=TaskState.RUNNING, start_ts=7, checkpoint_ts=checkpoint)
        monkeypatch.setattr(Pd, "log_task", lambda _pd, _name, task=task: task)
        case.flags = {"mode": "log", "subcommand": f"log-{command}", "truncate-until": "99"}
        case.run()
        record = records_of(case).load()
        assert record is not None
        assert (record.state, record.content is not None) == (State.CLAIMED, True)
        assert record.content is not None
        told.append((record.content.start_ts, record.content.end_ts))
    assert told == [("7", None), ("7", "500"), ("99", "500"), ("99", "900")]
    assert record is not None
    storage = open_storage(case.spec, location=location_of(case.spec), env={})
    account = audit_log.AuditLog.beside(storage).read()
    written = (case.folder.parent / "full.record.json").read_bytes()
    assert audit_log.against_records(account, [(record.backup_path, audit_log.digest(written))]) == []
    assert account.findings == []
    assert [entry.content for entry in account.entries][-1] == record.content


@pytest.mark.parametrize(
    ("there", "start", "end", "now"),
    [
        (None, 0, 0, None),
        (Content(start_ts="7", end_ts="500"), 7, 0, None),
        (Content(start_ts="7", end_ts="500"), 600, 0, ("600", None)),
        (Content(start_ts="7"), 0, 20, ("7", "20")),
    ],
    ids=["nothing known", "the same", "a log that begins anew", "an end"],
)
def test_only_what_changes_is_written_into_the_record_of_a_log(
    there: Content | None, start: int, end: int, now: tuple[str, str | None] | None
) -> None:
    owner = Owner(name="log", uid="u")
    record = Record(state=State.CLAIMED, owner=owner, backup_path="s3://b/log", time_claimed=NOW, content=there)
    found = ownership.note_log(record, owner, start=start, end=end)
    assert (found and found.content and (found.content.start_ts, found.content.end_ts)) == now
    for foreign in (record.but(owner=Owner(name="o", uid="o")), record.but(state=State.CLEANING), None):
        assert ownership.note_log(foreign, owner, start=1000, end=2000) is None


class Waiting(StopSignal):
    """Waiting moves the clock and takes no time."""

    seconds = 0.0

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("kind", "waits"), [("Restore", True), ("CompactBackup", False)])
def test_a_log_is_not_truncated_under_a_restore_that_reads_it(case: Case, kind: str, waits: bool) -> None:
    case.flags |= {"mode": "log", "subcommand": "log-truncate", "truncate-until": "9"}
    case.install(out=["ok"])
    here = case.world(stop=Waiting())
    reads = {"metadata": {"namespace": "ns", "name": "r"}, "spec": case.spec, "status": {"phase": "Running"}}
    api: Any = SimpleNamespace(resources=lambda asked, _namespace: [reads] if asked == kind else [])
    context = dataclasses.replace(here.context, kubernetes=api)
    if not waits:
        br_backup.run(context)
        assert case.argv()[1:3] == ["log", "truncate"]
        return
    with pytest.raises(ReaderActiveError, match="Restore ns/r") as caught:
        br_backup.run(context)
    assert "backoffRetryPolicy" in caught.value.hint
    assert not case.tool.called("br")
    assert here.report.phase is Phase.WAITING


@pytest.mark.parametrize("command", ["log-truncate", "log-start"])
def test_a_command_is_refused_where_the_spec_names_another_path_than_its_job(case: Case, command: str) -> None:
    case.env[names.ENV_BACKUP_PATH] = f"local://{case.folder.parent}/log-A"
    case.flags |= {"mode": "log", "subcommand": command, "truncate-until": "9"}
    case.install()
    error = case.fails()
    assert (error.problem().reason, error.problem().retryable) == ("IdentityChanged", False)
    assert f"local://{case.folder.parent}/log-A" in error.message
    assert not case.tool.called("br")


TASK_STARTS = {"none": 0, "ours": 7, "another": 8}


@pytest.mark.parametrize("command", ["log-stop", "log-pause", "log-resume"])
@pytest.mark.parametrize(
    ("task", "meta", "commit", "ours"),
    [
        ("ours", META, "", True),
        ("ours", None, "7", True),
        ("none", None, "", True),
        # A log backup of the same name in another namespace, on the same cluster.
        ("another", META, "7", False),
        ("another", None, "", False),
    ],
)
def test_a_command_on_the_task_of_another_backup_of_this_name_does_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, *, command: str, task: str, meta: str | None, commit: str, ours: bool
) -> None:
    state = TaskState.ABSENT if task == "none" else TaskState.RUNNING
    found = LogTask(state=state, start_ts=TASK_STARTS[task])
    monkeypatch.setattr(Pd, "log_task", lambda _pd, _name: found)
    if meta is not None:
        case.folder.mkdir(parents=True)
        (case.folder / "backupmeta").write_bytes(meta.encode("latin-1"))
    case.status = {"commitTs": commit}
    case.flags |= {"mode": "log", "subcommand": command}
    case.install(meta=None)
    if ours:
        case.run()
        assert case.argv()[1:3] == ["log", command.removeprefix("log-")]
    elif command == "log-stop":
        result, _ = case.run()
        assert "is not this Backup's" in result.details["notes"][0]
        assert not case.tool.called("br")
    else:
        assert case.fails().problem().reason == "LogTaskNotOurs"
        assert not case.tool.called("br")


@pytest.mark.parametrize(
    ("flags", "spec"),
    [
        ({"mode": "volume-snapshot"}, {}),
        ({"mode": "snapshot"}, {"br": None}),
        ({"mode": "snapshot"}, {"br": {}}),
        ({"mode": "log", "subcommand": "log-truncate", "truncate-until": "0"}, {}),
        ({"mode": "snapshot"}, {"local": {"volumeMount": {"mountPath": "/"}}}),
    ],
)
def test_what_cannot_work_is_a_usage_error_before_br(case: Case, flags: dict[str, Any], spec: dict[str, Any]) -> None:
    case.flags, case.spec = flags, case.spec | spec
    case.install()
    assert case.fails().exit_code == 2
    assert case.tool.called("br") == []


def put_backup(case: Case) -> None:
    case.folder.mkdir(parents=True)
    (case.folder / "backupmeta").write_bytes(META.encode("latin-1"))


def test_a_good_restore(case: Case) -> None:
    put_backup(case)
    case.install(
        meta=None,
        out=[
            '[x] [progress] [step="Full Restore"] [progress=42%]',
            "[2026/11/23 05:22:38.172 +00:00] [BR operation started] [operation_id=a] [command=restore]",
            '[x] ["Full Restore success summary"] [total-kv=1]',
        ],
    )
    result, here = case.run(br_restore)
    assert (result.commit_ts, result.backup_size) == ("300", 5000)
    assert case.argv()[1:3] == ["restore", "full"]
    assert here.report.result["brOperations"][0]["operationID"] == "a"
    assert [p.step for p in here.report.progress] == ["Prepare", "Look", "Restore", "Full Restore", "Check"]
    assert case.database.history == ["72h", "10m0s"]


def test_a_restore_of_nothing_is_told_before_br_waits_for_a_cluster(case: Case) -> None:
    case.install(meta=None)
    assert case.fails(br_restore).problem().reason == "SourceNotFound"
    assert case.tool.called("br") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Error: [pd] failed to get cluster id", "PDUnreachable"),
        ("Error: cluster is not fresh: user db/tables: shop.o", "TargetNotEmpty"),
        ("Error: the moon is full", "RestoreDataFromRemoteFailed"),
    ],
)
def test_failures_of_a_restore(case: Case, line: str, reason: str) -> None:
    put_backup(case)
    case.install(meta=None, err=[line], code=1)
    assert case.fails(br_restore).problem().reason == reason
    assert case.database.life_time == "10m0s"


def test_a_restore_that_br_takes_for_running_waits_until_br_takes_it_for_dead(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(StopSignal, "wait", lambda _self, seconds: waits.append(seconds))
    put_backup(case)
    line = "Error: task with ID 1 already exists and is running: [BR:Common:ErrInvalidArgument]"
    case.install(meta=None, err=[line], code=1)
    problem = case.fails(br_restore).problem()
    assert (problem.reason, problem.retryable) == ("RestoreTaskRunning", True)
    assert waits == [br_runner.STALE_SECONDS]
    assert br_runner.STALE_SECONDS > 300
    assert len(case.tool.called("br")) == 2


@pytest.mark.parametrize(
    ("tool", "reason"),
    [({}, None), ({"err": ["Error: no"], "code": 1}, "BRAbortFailed"), ({"out": ["Usage: br [command]"]}, "CommandNotFound")],
)
def test_prune(case: Case, tool: dict[str, Any], reason: str | None) -> None:
    case.flags["abort"] = True
    case.install(meta=None, **({"out": ["done"]} | tool))
    if reason:
        assert case.fails(br_restore).problem().reason == reason
    else:
        case.run(br_restore)
        assert case.argv()[1:4] == ["abort", "restore", "full"]
