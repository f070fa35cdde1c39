"""Log backups: the command tables of TiDB Operator 1.6, and the walk from start to stop."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.backup.log import wanted_command
from app.domain.backup.reconcile import decide
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.observed import JobIntent, Purpose
from crds.v1alpha1 import KINDS
from tests.support.objects import LOG_SPEC, NOW, at, job, observed, parent, report, tidb_cluster

CONFIG = Config()
RUNNING = {"phase": "Running", "commitTs": "450"}


@pytest.mark.parametrize(
    ("asked", "stop", "status", "expected"),
    [
        ("", False, {}, "log-start"),
        ("", True, {}, "log-stop"),
        ("", False, {"phase": "Stopped", "commitTs": "1"}, "log-stop"),
        ("", False, {"phase": "Paused", "commitTs": "1"}, "log-resume"),
        ("log-start", False, {"phase": "Paused", "commitTs": "1"}, "log-resume"),
        ("log-start", False, RUNNING, "log-start"),
        ("log-stop", False, RUNNING, "log-stop"),
        ("log-pause", False, RUNNING, "log-pause"),
        ("log-reboot", False, RUNNING, "log-unknown"),
    ],
)
def test_the_command_table(asked: str, stop: bool, status: dict[str, Any], expected: str) -> None:
    assert wanted_command({"logSubcommand": asked, "logStop": stop}, status) == expected


@pytest.mark.parametrize(
    ("asked", "status", "target", "expected"),
    [
        ("", RUNNING, "900", "log-truncate"),
        ("", {"phase": "Stopped", "commitTs": "450"}, "900", "log-truncate"),
        ("log-pause", {"phase": "Paused", "commitTs": "450"}, "900", "log-truncate"),
        ("log-pause", RUNNING, "900", "log-pause"),
        ("", {}, "900", "log-start"),
        ("", RUNNING, "450", "log-start"),
        ("", {**RUNNING, "logSuccessTruncateUntil": "900"}, "900", "log-start"),
        ("", {**RUNNING, "logSuccessTruncateUntil": "900"}, "800", "log-start"),
    ],
)
def test_truncation_comes_once_the_command_is_in_sync_and_only_forward(
    asked: str, status: dict[str, Any], target: str, expected: str
) -> None:
    assert wanted_command({"logSubcommand": asked}, status, target) == expected


class Walk:
    """A log Backup, its Jobs, and the status as it is written pass by pass."""

    def __init__(self, **spec: Any) -> None:
        self.spec = {**LOG_SPEC, **spec}
        self.status: dict[str, Any] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.related: list[Any] = [tidb_cluster()]
        self.clock = 0

    def sync(self) -> Decision[JobIntent]:
        self.clock += 10
        written = [{"subresource": "status", "time": at(self.clock)}]
        cr = parent("Backup", self.spec, status=self.status, managedFields=written)
        decision = decide(
            observed(cr, *self.jobs.values(), related=tuple(self.related)), NOW + timedelta(seconds=self.clock), CONFIG
        )
        status = KINDS["Backup"].model_fields["status"].annotation
        next(part for part in status.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
        self.status = dict(decision.status)
        for drop in decision.drop:
            assert drop.rule
            del self.jobs[drop.name]
        return decision

    def wanted(self) -> list[str]:
        """What commands are started; the watch is looked at elsewhere."""
        return [intent.name for intent in self.sync().create if intent.purpose is not Purpose.WATCH]

    def ends(self, name: str, said: str | None = None, state: str = "complete", args: list[str] | None = None) -> None:
        self.clock += 10
        self.jobs[name] = job(
            name, state=state, created=at(self.clock), ended=at(self.clock + 5), said=said or report("Complete"), args=args
        )
        self.clock += 10
        self.sync()

    def start(self) -> None:
        assert self.wanted() == ["backup-basic-log-start"]
        self.ends("backup-basic-log-start", report("Complete", commitTs="450", backupPath="s3://bucket/daily"))


def test_a_start_that_ended_leaves_the_task_running() -> None:
    walk = Walk()
    assert walk.sync().create[0].command == "log-start"
    walk.jobs["backup-basic-log-start"] = job("backup-basic-log-start", said=report("Prepare"))
    assert walk.sync().status["phase"] == "Prepare"
    walk.ends("backup-basic-log-start", report("Complete", commitTs="450", backupPath="s3://bucket/daily"))
    assert (walk.status["phase"], walk.status["commitTs"], walk.status["backupPath"]) == (
        "Running",
        "450",
        "s3://bucket/daily",
    )
    assert "timeCompleted" not in walk.status
    assert walk.status["logSubCommandStatuses"]["log-start"]["phase"] == "Complete"
    assert walk.wanted() == []


def test_pause_resume_pause_runs_the_same_command_twice_by_dropping_its_finished_job() -> None:
    walk = Walk()
    walk.start()
    for _ in range(2):
        walk.spec["logSubcommand"] = "log-pause"
        while not (wanted := walk.wanted()):
            pass
        assert wanted == ["backup-basic-log-pause"]
        walk.ends("backup-basic-log-pause")
        assert walk.status["phase"] == "Paused"
        walk.spec["logSubcommand"] = "log-start"
        while not (wanted := walk.wanted()):
            pass
        assert wanted == ["backup-basic-log-resume"]
        walk.ends("backup-basic-log-resume")
        assert walk.status["phase"] == "Running"
        assert walk.status["logSubCommandStatuses"]["log-pause"]["phase"] == "Repeatable"
    assert walk.wanted() == []


def test_a_stop_is_terminal_and_still_lets_the_log_be_truncated() -> None:
    walk = Walk()
    walk.start()
    walk.spec["logSubcommand"] = "log-stop"
    assert walk.wanted() == ["backup-basic-log-stop"]
    walk.ends("backup-basic-log-stop")
    assert walk.status["phase"] == "Stopped"
    assert walk.status["timeCompleted"]
    assert walk.wanted() == []
    walk.spec["logTruncateUntil"] = "900"
    (intent,) = walk.sync().create
    assert (intent.name, intent.truncate_until) == ("backup-basic-log-truncate", "900")
    walk.ends("backup-basic-log-truncate", args=["--truncate-until=900"])
    assert walk.status["logSuccessTruncateUntil"] == "900"
    assert walk.status["phase"] == "Stopped"
    assert walk.wanted() == []


def condition(walk: Walk, kind: str) -> dict[str, Any]:
    return next((item for item in walk.status.get("conditions", ()) if item["type"] == kind), {})


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ({"logTruncateUntil": "2026-02-30 00:00:00"}, "day is out of range for month"),
        ({"logSubcommand": "log-start", "logStop": True}, "logStop is the old way"),
        ({"logSubcommand": "log-reboot"}, "spec.logSubcommand"),
        ({"s3": None}, "no storage"),
    ],
)
def test_a_wrong_edit_of_a_running_backup_is_told_and_changes_nothing(spec: dict[str, Any], rule: str) -> None:
    walk = Walk()
    walk.start()
    before, walk.spec = walk.spec, {key: value for key, value in {**walk.spec, **spec}.items() if value is not None}
    assert walk.wanted() == []
    assert rule in condition(walk, "Invalid")["message"]
    assert walk.status["phase"] == "Running"
    walk.spec = before
    assert walk.wanted() == []
    assert condition(walk, "Invalid") == {}


def test_what_the_log_has_not_come_to_is_not_truncated() -> None:
    """A typo in the year would delete the whole log."""
    walk = Walk(logTruncateUntil="900")
    walk.start()
    walk.status["logCheckpointTs"] = "899"
    assert walk.wanted() == []
    assert (condition(walk, "Waiting")["reason"], walk.status["phase"]) == ("LogTruncateAhead", "Running")
    assert "its checkpoint 899" in condition(walk, "Waiting")["message"]
    walk.status["logCheckpointTs"] = "900"
    assert walk.wanted() == ["backup-basic-log-truncate"]
    assert condition(walk, "Waiting") == {}


def test_a_truncation_to_before_the_start_is_recorded_without_a_job_and_once() -> None:
    walk = Walk(logTruncateUntil="400")
    walk.start()
    assert walk.wanted() == []
    assert walk.status["logSuccessTruncateUntil"] == "400"
    before = dict(walk.status)
    assert walk.wanted() == []
    assert walk.status == before
    walk.spec["logTruncateUntil"] = "900"
    assert walk.wanted() == ["backup-basic-log-truncate"]


def test_the_schedule_may_ask_for_a_later_truncation() -> None:
    walk = Walk(logTruncateUntil="500")
    walk.start()
    schedule = {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "BackupSchedule",
        "metadata": {"namespace": "db", "name": "nightly", "uid": "uid-of-nightly"},
        "status": {"logTruncateUntil": "700", "logBackup": "basic", "logBackupStartTs": "1970-01-01T00:00:00Z"},
    }
    walk.related.append(schedule)
    assert walk.sync().create[0].truncate_until == "700"


NIGHTLY = {"logTruncateUntil": "700", "logBackup": "basic", "logBackupStartTs": "1970-01-01T00:00:00Z"}
OWNER = {"kind": "BackupSchedule", "name": "nightly", "controller": True}


@pytest.mark.parametrize(
    ("published", "meta", "follows"),
    [
        (NIGHTLY, {}, True),
        (NIGHTLY, {"ownerReferences": [{**OWNER, "uid": "uid-of-nightly"}]}, True),
        # The label alone, as in YAML that was copied from another Backup.
        ({"logTruncateUntil": "700"}, {}, False),
        ({**NIGHTLY, "logBackup": "log-nightly"}, {}, False),
        # Copied with owner and selector: Metacontroller takes it for a child of the schedule.
        ({**NIGHTLY, "logBackup": "log-nightly"}, {"ownerReferences": [{**OWNER, "uid": "uid-of-nightly"}]}, False),
        # A log that was made anew under its old name, and a schedule that does not know yet.
        ({**NIGHTLY, "logBackupStartTs": "2026-01-01T00:00:00Z"}, {}, False),
        ({**NIGHTLY, "logBackupStartTs": "soon"}, {}, False),
        ({key: value for key, value in NIGHTLY.items() if key != "logBackupStartTs"}, {}, False),
        # Of a schedule that was made anew under its old name.
        (NIGHTLY, {"ownerReferences": [{**OWNER, "uid": "uid-of-the-one-before"}]}, False),
    ],
)
def test_only_the_schedule_that_names_this_very_log_truncates_it(
    published: dict[str, Any], meta: dict[str, Any], *, follows: bool
) -> None:
    label: dict[str, Any] = {"labels": {"tidb.pingcap.com/backup-schedule": "nightly"}}
    schedule = {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "BackupSchedule",
        "metadata": {"namespace": "db", "name": "nightly", "uid": "uid-of-nightly"},
        "status": published,
    }
    cr = parent("Backup", LOG_SPEC, status={**RUNNING, "logCheckpointTs": "900"}, **label, **meta)
    decision = decide(observed(cr, job("backup-basic-log-watch"), related=(tidb_cluster(), schedule)), NOW, CONFIG)
    assert [intent.truncate_until for intent in decision.create] == (["700"] if follows else [])


def test_a_stop_before_the_start_waits() -> None:
    walk = Walk(logSubcommand="log-stop")
    assert walk.wanted() == []
    assert walk.status["phase"] == "Waiting"


def test_a_running_backup_stays_running_while_its_next_command_has_to_wait() -> None:
    walk = Walk()
    walk.start()
    walk.spec["logSubcommand"] = "log-pause"
    walk.related = [tidb_cluster(ready=False)]
    assert walk.wanted() == []
    assert walk.status["phase"] == "Running"
    assert [item["type"] for item in walk.status["conditions"]][-1] == "Waiting"
    walk.related = [tidb_cluster()]
    assert walk.wanted() == ["backup-basic-log-pause"]


@pytest.mark.parametrize(
    ("asked", "name", "phase"),
    [("log-start", "backup-basic-log-start", "Waiting"), ("log-pause", "backup-basic-log-pause", "Running")],
)
def test_a_command_that_waits_for_another_run_names_it(asked: str, name: str, phase: str) -> None:
    walk = Walk()
    if asked != "log-start":
        walk.start()
        walk.spec["logSubcommand"] = asked
    assert walk.wanted() == [name]
    busy = {"reason": "ClusterBusy", "message": "held by Restore db/x"}
    walk.jobs[name] = job(name, created=at(walk.clock), said=report("Waiting", error=busy))
    walk.sync()
    assert walk.status["phase"] == phase
    assert [item["message"] for item in walk.status["conditions"] if item["type"] == "Waiting"] == ["held by Restore db/x"]
    walk.jobs[name] = job(name, created=at(walk.clock), said=report("Running"))
    walk.sync()
    assert "Waiting" not in {item["type"] for item in walk.status["conditions"]}


def test_what_the_manager_truncated_counts_whatever_the_spec_says_meanwhile() -> None:
    walk = Walk(logTruncateUntil="900")
    walk.start()
    walk.wanted()
    walk.spec["logTruncateUntil"] = "950"
    walk.ends("backup-basic-log-truncate", report("Complete", result={"logSuccessTruncateUntil": "900"}))
    assert walk.status["logSuccessTruncateUntil"] == "900"
    asked = [intent.truncate_until for _ in range(3) for intent in walk.sync().create if intent.purpose is Purpose.LOG]
    assert asked[0] == "950"


def test_runs_of_br_are_shown_whatever_the_command() -> None:
    walk = Walk(logTruncateUntil="900")
    walk.start()
    walk.wanted()
    operation = {"operationID": "7", "command": "log truncate", "startedAt": at(1), "observedAt": at(2)}
    walk.ends(
        "backup-basic-log-truncate",
        report("Complete", result={"logSuccessTruncateUntil": "900", "brOperations": [operation]}),
        args=["--truncate-until=900"],
    )
    assert walk.status["brOperations"] == [operation]


def test_a_start_that_fails_for_good_fails_the_backup_and_is_not_repeated() -> None:
    walk = Walk()
    walk.wanted()
    walk.ends("backup-basic-log-start", report("Failed", error={"reason": "PDUnreachable", "message": "x"}), state="failed")
    assert walk.status["phase"] == "Failed"
    assert walk.status["timeCompleted"]
    assert walk.wanted() == []
    walk.jobs.clear()
    for asked in ("log-stop", "log-start"):
        walk.spec["logSubcommand"] = asked
        assert walk.wanted() == []


def test_a_transient_failure_of_a_command_is_retried() -> None:
    walk = Walk()
    walk.start()
    walk.spec["logSubcommand"] = "log-pause"
    walk.wanted()
    walk.ends("backup-basic-log-pause", report("Running"), state="failed")
    assert walk.status["phase"] == "Running"
    assert walk.status["logSubCommandStatuses"]["log-pause"]["phase"] == "RetryFailed"
    walk.clock += 400
    assert walk.wanted() == ["backup-basic-log-pause-r1"]
    walk.ends("backup-basic-log-pause-r1")
    assert walk.status["phase"] == "Paused"
    assert "backoffRetryStatus" not in walk.status


def test_a_failed_truncation_waits_for_another_target() -> None:
    walk = Walk(logTruncateUntil="900")
    walk.start()
    assert walk.wanted() == ["backup-basic-log-truncate"]
    failed = report("Failed", error={"reason": "TruncateLogBackuFailed", "message": "x"})
    walk.ends("backup-basic-log-truncate", failed, state="failed", args=["--truncate-until=900"])
    assert walk.wanted() == []
    assert condition(walk, "Stalled")["reason"] == "TruncateLogBackuFailed"
    assert "give another logTruncateUntil" in condition(walk, "Stalled")["message"]
    walk.spec["logTruncateUntil"] = "950"
    assert walk.wanted() == []
    assert "backup-basic-log-truncate" not in walk.jobs
    assert walk.sync().create[0].truncate_until == "950"


def test_a_command_that_failed_for_good_is_told_until_another_one_is_asked_for() -> None:
    walk = Walk()
    walk.start()
    walk.spec["logSubcommand"] = "log-pause"
    walk.wanted()
    failed = report("Failed", error={"reason": "PauseLogBackupFailed", "message": "no route"})
    walk.ends("backup-basic-log-pause", failed, state="failed")
    assert walk.wanted() == []
    told = condition(walk, "Stalled")
    assert (told["reason"], walk.status["phase"]) == ("PauseLogBackupFailed", "Running")
    assert "no route" in told["message"]
    before = dict(walk.status)
    assert walk.wanted() == []
    assert walk.status == before
    walk.spec["logSubcommand"] = "log-start"
    walk.wanted()
    assert condition(walk, "Stalled") == {}
    walk.spec["logSubcommand"] = "log-pause"
    assert walk.wanted() == []  # the failed Job makes room first
    assert walk.wanted() == ["backup-basic-log-pause"]


def test_outcomes_are_taken_in_in_the_order_in_which_they_ended() -> None:
    """The received status may be behind two finished Jobs."""
    walk = Walk(logSubcommand="log-start")
    walk.start()
    walk.jobs["backup-basic-log-pause"] = job(
        "backup-basic-log-pause", state="complete", created=at(100), ended=at(105), said=report("Complete")
    )
    walk.jobs["backup-basic-log-resume"] = job(
        "backup-basic-log-resume", state="complete", created=at(110), ended=at(115), said=report("Complete")
    )
    walk.sync()
    assert walk.status["phase"] == "Running"
    assert walk.wanted() == []


def test_a_start_without_a_position_in_its_report_counts_from_its_end() -> None:
    walk = Walk()
    walk.wanted()
    walk.ends("backup-basic-log-start")
    assert int(walk.status["commitTs"]) > 0
    assert walk.wanted() == []


def test_the_retries_of_one_command_are_not_counted_for_the_next() -> None:
    walk = Walk(logTruncateUntil="900")
    walk.start()
    walk.wanted()
    args = ["--truncate-until=900"]
    walk.ends("backup-basic-log-truncate", report("Running"), state="failed", args=args)
    for attempt in (1, 2):
        walk.clock += 400 * attempt
        assert walk.wanted() == [f"backup-basic-log-truncate-r{attempt}"]
        # What went before may have been removed meanwhile.
        walk.jobs.clear()
        walk.ends(f"backup-basic-log-truncate-r{attempt}", report("Running"), state="failed", args=args)
    assert walk.status["logSubCommandStatuses"]["log-truncate"]["phase"] == "Failed"
    assert len(walk.status["backoffRetryStatus"]) == 3
    walk.spec["logSubcommand"] = "log-pause"
    assert walk.wanted() == ["backup-basic-log-pause"]
    walk.jobs["backup-basic-log-pause"] = job("backup-basic-log-pause", created=at(walk.clock), said=report("Running"))
    walk.sync()
    assert walk.status["logSubCommandStatuses"]["log-pause"]["phase"] == "Running"
    assert "backoffRetryStatus" not in walk.status
    walk.ends("backup-basic-log-pause")
    assert walk.status["phase"] == "Paused"


def test_a_retry_that_ended_before_its_first_attempt_by_a_clock_set_back_settles_both() -> None:
    """Else the first attempt is news in every second pass, for ever."""
    first = job("backup-basic-log-start", state="failed", created=at(0), ended=at(86_400), said=report("Failed"))
    told = report("Complete", commitTs="5")
    second = job("backup-basic-log-start-r1", state="complete", created=at(60), ended=at(120), said=told)
    status: dict[str, Any] = {}
    seen = []
    for _ in range(6):
        cr = parent("Backup", LOG_SPEC, status=status)
        seen_by_hook = observed(cr, first, second, related=(tidb_cluster(),))
        status = dict(decide(seen_by_hook, NOW + timedelta(seconds=130), CONFIG).status)
        seen.append(status["phase"])
    assert seen[-4:] == ["Running"] * 4
