"""Compaction with a br and a tikv-ctl that do what a test says. The rows of upstream's tests, and what it got wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from backup_manager.catalog.record import Owner
from backup_manager.catalog.records import Records
from backup_manager.context import Result
from backup_manager.errors import ManagerError, RunInterruptedError, UsageError
from backup_manager.operations import compact
from backup_manager.signals import StopSignal
from backup_manager.storage.factory import open_storage
from backup_manager.tools.tikv_ctl import CompactionOutput, Work
from crds.contract.paths import location_of
from tests.support.fake_tool import FakeTool
from tests.support.manager import NOW, World, local_storage, world

STRETCH = {"startTs": "400036290571534337", "endTs": "2026-01-02 03:04:05", "concurrency": 8}
HEAD = ["--log-level", "INFO", "--log-format", "json", "compact-log-backup", "--storage-base64", "QUJD"]


def says(message: str, **fields: Any) -> str:
    return json.dumps({"level": "INFO", "message": message, **fields})


GOOD = [
    "not JSON at all",
    says("Spawning compaction.", input_max_ts="450"),
    says("Spawning compaction.", input_max_ts=440),
    says("Finishing compaction.", meta_completed=3, meta_total=10, bytes_compacted="25", bytes_to_compact="100"),
]


class Case:
    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.tool = FakeTool(folder=tmp_path / "bin")
        self.spec: dict[str, Any] = {"br": {"cluster": "basic"}, "local": local_storage(tmp_path, "log"), **STRETCH}
        self.env: dict[str, str] = {}
        self.stop = StopSignal()

    def run(self, *, err: list[str] | None = None, encoded: str = "QUJD", **how: Any) -> tuple[Result, World]:
        self.tool.install("br", out=[encoded] if encoded else ["", ""])
        self.tool.install("tikv-ctl", err=GOOD if err is None else err, **how)
        here = world(self.tmp_path, self.spec, kind="CompactBackup", env=self.tool.env | self.env, stop=self.stop)
        return compact.run(here.context), here

    def fails(self, **how: Any) -> ManagerError:
        with pytest.raises(ManagerError) as caught:
            self.run(**how)
        return caught.value


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_a_good_one(case: Case) -> None:
    result, here = case.run()
    assert result.details == {"compactions": 1, "progress": "[READ_META(3/10),COMPACT_WORK(25/100)]", "endTs": "450"}
    argv = case.tool.called("tikv-ctl")[0]["argv"][1:]
    until = str(Work.of(STRETCH, {}).until)
    assert argv == [*HEAD, "--from", "400036290571534337", "-N", "8", "--until", until]
    assert here.report.bytes == 25
    assert here.report.progress[0].progress == 100
    called = case.tool.called("br")[0]
    assert called["argv"][1:3] == ["operator", "base64ify"]
    assert "BR_LOG_TO_TERM" not in called["env"]
    assert not any("QUJD" in line for line in here.lines)


def test_a_shard(case: Case) -> None:
    case.spec |= {"mode": "sharded", "shardCount": 4, "physicalFileCacheCapacity": "150Gi", "name": "weekly"}
    del case.spec["endTs"]
    case.env["JOB_COMPLETION_INDEX"] = "3"
    case.run()
    tail = ["--name", "weekly", "--cal-shift-ts", "--physical-file-cache-capacity", "150Gi"]
    expected = [*HEAD, "--from", STRETCH["startTs"], "-N", "8", *tail, "--shard", "4/4", "--minimal-compaction-size", "0"]
    assert case.tool.called("tikv-ctl")[0]["argv"][1:] == expected


SHARDED = {"mode": "sharded", "shardCount": 4}


@pytest.mark.parametrize(
    ("spec", "index", "said"),
    [
        ({"endTs": ""}, "0", "spec.endTs is empty"),
        ({"endTs": "1"}, "0", "spec.endTs is before spec.startTs"),
        ({"startTs": "yesterday"}, "0", "spec.startTs"),
        ({"concurrency": 0}, "0", "spec.concurrency"),
        (SHARDED, "", "JOB_COMPLETION_INDEX"),
        (SHARDED, "abc", "JOB_COMPLETION_INDEX"),
        (SHARDED, "4", "not below spec.shardCount 4"),
        (SHARDED | {"shardCount": 0}, "0", "spec.shardCount"),
        (SHARDED | {"physicalFileCacheCapacity": "150GB"}, "0", "150GB"),
        (SHARDED | {"physicalFileCacheCapacity": "-1G"}, "0", "negative"),
        ({"local": {"prefix": "../x", "volumeMount": {"mountPath": "/m"}}}, "0", "prefix"),
    ],
)
def test_what_cannot_work_is_told_before_any_tool(case: Case, spec: dict[str, Any], index: str, said: str) -> None:
    case.spec |= spec
    case.env["JOB_COMPLETION_INDEX"] = index
    error = case.fails()
    assert isinstance(error, UsageError)
    assert said in error.message
    assert error.hint
    assert case.tool.called("tikv-ctl") == []


def test_an_abort_is_a_failure_though_the_tool_lingers_or_ends_well(case: Case) -> None:
    aborted = [*GOOD, says("Compaction aborted.", err="no such file: v1/backupmeta/x")]
    problem = case.fails(err=aborted, sleep=3600).problem()
    assert (problem.reason, problem.retryable) == ("CompactBackupFailed", True)
    assert "no such file" in problem.message


def test_an_exit_status_is_a_failure(case: Case) -> None:
    assert case.fails(err=[*GOOD, "panic"], code=101).problem().reason == "CompactBackupFailed"


CLAP_2 = "error: Found argument '--cal-shift-ts' which wasn't expected, or isn't valid in this context\n"
CLAP_4 = "error: unrecognized subcommand 'compact-log-backup'\n"


@pytest.mark.parametrize(("says", "missing"), [(CLAP_2, "--cal-shift-ts"), (CLAP_4, "compact-log-backup")])
def test_a_tikv_ctl_that_is_too_old_is_told_before_it_begins(case: Case, says: str, missing: str) -> None:
    case.spec |= SHARDED
    case.env["JOB_COMPLETION_INDEX"] = "0"
    problem = case.fails(refuses=says).problem()
    assert (problem.reason, problem.retryable) == ("ToolFlagUnknown", False)
    assert f"does not know {missing}" in problem.message
    assert "spec.tikvImage" in problem.hint
    assert case.tool.called("tikv-ctl") == []


def test_a_tikv_ctl_that_does_not_answer_the_question_is_tried(case: Case) -> None:
    assert case.run(refuses="thread 'main' panicked\n")[0].details["compactions"] == 1


@pytest.mark.parametrize("encoded", ["", "two words"])
def test_a_storage_that_br_cannot_describe(case: Case, encoded: str) -> None:
    assert "cannot describe the storage" in case.fails(encoded=encoded).message
    assert case.tool.called("tikv-ctl") == []


def test_stopped_from_outside(case: Case, tmp_path: Path) -> None:
    case.tool.once_called("tikv-ctl", case.stop.request)
    assert isinstance(case.fails(sleep=3600), RunInterruptedError)


@pytest.mark.parametrize("line", ['{"message":', "{}", "[]", '{"message":"Finishing compaction.","meta_total":"x"}'])
def test_odd_lines_do_no_harm(line: str) -> None:
    heard = CompactionOutput()
    heard.line(line)
    assert heard.percent == 0


def test_no_clean_deletes_the_log_while_it_is_compacted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean of another namespace or cluster sees only the mark."""
    marks, seen, work = case.tmp_path / "volume" / "log.readers", list[str](), compact._compact

    def compacting(*given: Any) -> CompactionOutput:
        seen.extend(mark.read_text() for mark in marks.iterdir())
        return work(*given)

    monkeypatch.setattr(compact, "_compact", compacting)
    case.run()
    assert len(seen) == 1
    assert "CompactBackup ns/cr" in seen[0]
    assert not marks.exists()


def test_a_log_that_is_being_cleaned_is_not_compacted(case: Case) -> None:
    records = Records(open_storage(case.spec, location=location_of(case.spec), env={}), now=lambda: NOW)
    records.begin_clean(Owner(namespace="ns", name="log", uid="uid-of-the-log"))
    assert case.fails().problem().reason == "SourceBeingCleaned"
    assert not case.tool.called("tikv-ctl")
