"""Deletion: the table of app/domain/backup/finalize.py, row by row."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.backup.reconcile import decide
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.ending import FORCE_ANNOTATION
from app.domain.job.observed import JobIntent, Purpose
from crds.contract import names
from crds.v1alpha1 import KINDS
from tests.support.objects import (
    EXPORT_SPEC,
    LOG_SPEC,
    NOW,
    S3,
    at,
    job,
    namespace,
    observed,
    parent,
    report,
    tidb_cluster,
)

CONFIG = Config(clean_attempts=3)
PATH = "s3://bucket/daily/basic-0f5e9c1a"
RAN = {"type": "Scheduled", "status": "True"}
COMPLETE = {"phase": "Complete", "backupPath": PATH, "conditions": [RAN, {"type": "Complete", "status": "True"}]}
FAILED = {"phase": "Failed", "backupPath": PATH, "conditions": [RAN, {"type": "Failed", "status": "True"}]}
RUNNING = {"phase": "Running", "backupPath": PATH, "conditions": [RAN]}


def backup(policy: str = "Delete", status: Any = None, **meta: Any) -> dict[str, Any]:
    return parent("Backup", {**EXPORT_SPEC, "cleanPolicy": policy}, status=status, **meta)


def finalize(cr: dict[str, Any], *jobs: dict[str, Any], after: float = 0, related: Any = ()) -> Decision[JobIntent]:
    decision = decide(observed(cr, *jobs, related=tuple(related), finalizing=True), NOW + timedelta(seconds=after), CONFIG)
    status = KINDS["Backup"].model_fields["status"].annotation
    next(part for part in status.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
    return decision


def then(cr: dict[str, Any], decision: Decision[JobIntent]) -> dict[str, Any]:
    """The CR after *decision* was written."""
    return {**cr, "status": decision.status}


def condition(decision: Decision[JobIntent], kind: str) -> dict[str, Any]:
    return next((item for item in decision.status.get("conditions", []) if item["type"] == kind), {})


CLEANED = report("Complete", result={"deleted": 12, "failed": 0, "left": 0})
REFUSED = report(
    "Failed", error={"reason": "StorageAccessDenied", "message": "403 on delete"}, result={"deleted": 2, "left": 10}
)


@pytest.mark.parametrize("status", [COMPLETE, FAILED, RUNNING, None])
def test_retain_lets_go_at_once(status: Any) -> None:
    assert finalize(backup("Retain", status), job("backup-basic")).finalized


def test_on_failure_keeps_the_data_of_a_complete_backup() -> None:
    assert finalize(backup("OnFailure", COMPLETE)).finalized


def test_on_failure_keeps_it_even_when_the_received_status_is_behind() -> None:
    done = job("backup-basic", state="complete", said=report("Complete", backupPath=PATH))
    decision = finalize(backup("OnFailure", RUNNING), done)
    assert decision.finalized
    assert decision.status["phase"] == "Complete"


@pytest.mark.parametrize("status", [FAILED, RUNNING])
def test_on_failure_cleans_what_is_no_backup(status: Any) -> None:
    decision = finalize(backup("OnFailure", status))
    assert [intent.name for intent in decision.create] == ["clean-basic"]


def test_clean_works_on_the_recorded_path_not_on_an_edited_spec() -> None:
    cr = parent("Backup", {**EXPORT_SPEC, "s3": {**S3, "prefix": "other"}, "cleanPolicy": "Delete"}, status=COMPLETE)
    (intent,) = finalize(cr).create
    assert (intent.purpose, intent.path) == (Purpose.CLEAN, PATH)


def test_nothing_written_is_clean() -> None:
    decision = finalize(backup(status={"phase": "Invalid"}))
    assert decision.finalized
    assert condition(decision, "Clean")["status"] == "True"


def test_a_lost_status_does_not_lose_the_path() -> None:
    assert finalize(backup()).create[0].path == PATH
    other = job("backup-basic", state="complete", path="s3://bucket/daily/elsewhere", said=report("Complete"))
    assert finalize(backup(), other).create[0].path == "s3://bucket/daily/elsewhere"


def test_a_running_job_goes_first_and_is_waited_for() -> None:
    running = job("backup-basic", said=report("Running"))
    stopping = finalize(backup(status=RUNNING), running)
    assert [(drop.kind, drop.name, bool(drop.rule)) for drop in stopping.drop] == [("Job.batch/v1", "backup-basic", True)]
    assert not stopping.create
    assert not stopping.finalized
    ending = finalize(backup(status=RUNNING), job("backup-basic", state="failed", terminating=1))
    assert (list(ending.drop), list(ending.create), ending.resync_after) == ([], [], 10)
    assert finalize(backup(status=RUNNING)).create[0].name == "clean-basic"


def test_a_foreign_job_is_neither_stopped_nor_waited_for() -> None:
    decision = finalize(backup(status=COMPLETE), job("nightly-report", labels={"controller-uid": "x"}))
    assert not decision.drop
    assert decision.create


def test_a_finished_job_stays() -> None:
    decision = finalize(backup(status=COMPLETE), job("backup-basic", state="complete", said=report("Complete")))
    assert not decision.drop


def test_a_clean_that_ended_well_lets_go() -> None:
    waiting = finalize(backup(status=COMPLETE), job("clean-basic"))
    assert (waiting.finalized, waiting.status["phase"], condition(waiting, "Clean")["status"]) == (False, "Clean", "False")
    decision = finalize(then(backup(), waiting), job("clean-basic", state="complete", said=CLEANED))
    assert decision.finalized
    assert condition(decision, "Clean")["status"] == "True"
    assert decision.status["cleanStatus"] == {"attempt": 1, "deleted": 12, "failed": 0, "left": 0}


def test_data_that_the_record_calls_complete_is_kept_and_the_finalizer_goes() -> None:
    """The hook missed how the run ended; the clean did not."""
    status = {**RUNNING, "phase": "Failed", "conditions": [RAN, {"type": "Failed", "status": "True"}]}
    kept = report("Complete", result={"kept": True, "deleted": 0, "left": 0, "notes": ["the record says Complete"]})
    decision = finalize(backup("OnFailure", status=status), job("clean-basic", state="complete", said=kept))
    assert decision.finalized
    assert any(PATH in warning and "the record says Complete" in warning for warning in decision.warnings)
    assert condition(decision, "Clean").get("status") != "True"


@pytest.mark.parametrize("said", [None, report("Running"), report("Complete", result={"left": 1})])
def test_a_clean_without_proof_is_no_clean(said: str | None) -> None:
    assert not finalize(backup(status=COMPLETE), job("clean-basic", state="complete", said=said)).finalized


def test_a_failed_clean_is_tried_again_later_under_another_name() -> None:
    dead = job("clean-basic", state="failed", ended=at(60), said=REFUSED)
    decision = finalize(backup(status=COMPLETE), dead, after=60)
    assert not decision.create
    assert decision.resync_after == 60
    assert condition(decision, "CleanFailed")["reason"] == "StorageAccessDenied"
    assert "10 objects left at s3://bucket/daily/basic-0f5e9c1a" in decision.status["cleanStatus"]["message"]
    again = finalize(then(backup(), decision), dead, after=120)
    assert [intent.name for intent in again.create] == ["clean-basic-r1"]


def test_a_failed_clean_says_when_the_next_one_follows_and_the_last_one_that_none_does() -> None:
    jobs = [job(names.retry("clean-basic", n), state="failed", ended=at(n), said=REFUSED) for n in range(3)]
    first = finalize(backup(status=COMPLETE), *jobs[:1])
    assert first.status["cleanStatus"]["nextAttemptAt"] == at(60)
    assert f"another attempt follows at {at(60)}" in first.status["cleanStatus"]["message"]
    last = finalize(backup(status=COMPLETE), *jobs, after=10**6)
    assert "nextAttemptAt" not in last.status["cleanStatus"]
    message = last.status["cleanStatus"]["message"]
    assert "no other follows by itself" in message
    assert "delete Job clean-basic-r2 to try again" in message
    assert f'force-delete="true": the data stays at {PATH}' in message


def test_the_attempts_are_bounded_and_a_human_can_ask_for_one_more() -> None:
    jobs = [job(names.retry("clean-basic", n), state="failed", ended=at(n), said=REFUSED) for n in range(3)]
    decision = finalize(backup(status=COMPLETE), *jobs, after=10**6)
    assert (list(decision.create), decision.finalized, decision.resync_after) == ([], False, None)
    assert decision.status["phase"] == "CleanFailed"
    assert "after 3 attempts" in condition(decision, "CleanFailed")["message"]
    assert decision.warnings
    assert decision.status["cleanStatus"]["attempt"] == 3
    more = finalize(then(backup(), decision), *jobs[:2], after=10**6)
    assert [intent.name for intent in more.create] == ["clean-basic-r3"]


def test_a_clean_job_that_vanished_gets_another_name() -> None:
    """An orphaned Job keeps its name and is never observed again."""
    seen = finalize(backup(status=COMPLETE), job("clean-basic"))
    assert finalize(then(backup(), seen)).create[0].name == "clean-basic-r1"


def test_locked_objects_are_waited_for_and_do_not_use_up_attempts() -> None:
    locked = report("Failed", error={"reason": "ObjectsLocked"}, result={"left": 3, "deferredUntil": at(90_000)})
    jobs = [job(names.retry("clean-basic", n), state="failed", ended=at(n), said=locked) for n in range(5)]
    decision = finalize(backup(status=COMPLETE), *jobs)
    assert not decision.create
    assert decision.resync_after == 86_400
    assert decision.status["cleanStatus"]["deferredUntil"] == at(90_000)
    assert condition(decision, "CleanFailed")["reason"] == "ObjectsLocked"
    assert finalize(then(backup(), decision), *jobs, after=90_000).create[0].name == "clean-basic-r5"
    gone = finalize(then(backup(), decision), after=100)
    assert not gone.create
    assert finalize(then(backup(), decision), after=90_000).create[0].name == "clean-basic-r5"


def test_a_clean_pod_that_cannot_start_says_how_to_let_go() -> None:
    decision = finalize(backup(status=COMPLETE), job("clean-basic", state="pending"), after=3_600)
    assert FORCE_ANNOTATION in condition(decision, "Stalled")["message"]


def test_an_edit_of_the_policy_acts() -> None:
    jobs = [job(names.retry("clean-basic", n), state="failed", ended=at(n), said=REFUSED) for n in range(3)]
    stuck = finalize(backup(status=COMPLETE), *jobs, after=10**6)
    assert finalize(then(backup("Retain"), stuck), *jobs, after=10**6).finalized


def test_force_lets_go_and_says_what_is_left() -> None:
    decision = finalize(backup(status=RUNNING, annotations={FORCE_ANNOTATION: "true"}), job("backup-basic"))
    assert decision.finalized
    assert PATH in decision.warnings[0]
    assert not finalize(backup(status=RUNNING, annotations={FORCE_ANNOTATION: "yes"})).finalized


def test_a_namespace_that_ends_keeps_the_data_and_lets_go() -> None:
    decision = finalize(backup(status=COMPLETE), related=[namespace(ending=True)])
    assert decision.finalized
    assert condition(decision, "CleanFailed")["reason"] == "NamespaceTerminating"
    assert PATH in condition(decision, "CleanFailed")["message"]
    assert PATH in decision.warnings[0]
    assert not finalize(backup(status=COMPLETE), related=[namespace()]).finalized


def test_deletion_never_needs_the_cluster() -> None:
    cr = parent("Backup", {"br": {"cluster": "gone"}, "s3": S3, "cleanPolicy": "Delete"}, status=COMPLETE)
    assert finalize(cr).create[0].name == "clean-basic"


def test_an_unreadable_spec_can_still_be_deleted() -> None:
    cr = parent("Backup", {"s3": {"bucket": "../x"}, "backoffRetryPolicy": {"retryTimeout": "soon"}, "cleanPolicy": "Delete"})
    assert finalize(cr).finalized


STARTED = {
    "phase": "Running",
    "commitTs": "450",
    "backupPath": "s3://bucket/daily",
    "conditions": [{**RAN, "command": "log-start"}],
    "logSubCommandStatuses": {"log-start": {"command": "log-start", "phase": "Complete", "timeCompleted": at(0)}},
}


def log(policy: str, status: Any = None) -> dict[str, Any]:
    return parent("Backup", {**LOG_SPEC, "cleanPolicy": policy}, status=status)


@pytest.mark.parametrize("policy", ["Retain", "OnFailure", "Delete"])
def test_a_started_log_backup_is_stopped_whatever_the_policy(policy: str) -> None:
    decision = finalize(log(policy, STARTED), related=[tidb_cluster(ready=False)])
    (intent,) = decision.create
    assert (intent.name, intent.command) == ("stop-basic", "log-stop")
    assert not decision.finalized
    stopped = job("stop-basic", state="complete", said=report("Complete"))
    after = finalize(log(policy, STARTED), stopped, related=[tidb_cluster()])
    assert after.finalized is (policy != "Delete")
    assert condition(after, "Stopped")
    if policy == "Delete":
        assert after.create[0].path == "s3://bucket/daily"
        # The stop Job may be gone by the time the clean Job has ended.
        cleaned = job("clean-basic", state="complete", said=CLEANED)
        assert finalize(then(log(policy), after), cleaned, related=[tidb_cluster()]).finalized


def test_a_log_backup_whose_cluster_is_gone_has_nothing_to_stop() -> None:
    assert finalize(log("Retain", STARTED)).finalized


def test_a_log_backup_that_never_started_needs_no_stop() -> None:
    assert finalize(log("Retain", {"phase": "Waiting"}), related=[tidb_cluster()]).finalized


def test_a_log_command_under_way_ends_before_the_stop() -> None:
    decision = finalize(log("Retain", STARTED), job("backup-basic-log-pause"), related=[tidb_cluster()])
    assert [drop.name for drop in decision.drop] == ["backup-basic-log-pause"]
    assert not decision.create


def test_a_start_that_the_status_does_not_know_of_yet_is_stopped_and_cleaned_all_the_same() -> None:
    """Deleted right after its first pass: with its Job goes the only sign that a task may be in the cluster."""
    path = "s3://bucket/daily"
    first = finalize(log("Delete"), job("backup-basic-log-start", path=path), related=[tidb_cluster()])
    assert [drop.name for drop in first.drop] == ["backup-basic-log-start"]
    second = finalize(then(log("Delete"), first), related=[tidb_cluster()])
    assert [intent.name for intent in second.create] == ["stop-basic"]
    stopped = job("stop-basic", state="complete", said=report("Complete"))
    third = finalize(then(log("Delete"), second), stopped, related=[tidb_cluster()])
    assert [(intent.purpose, intent.path) for intent in third.create] == [(Purpose.CLEAN, path)]


DEAD = [job(names.retry("stop-basic", n), state="failed", ended=at(n)) for n in range(3)]


def test_a_stop_that_keeps_failing_is_given_up_with_a_warning() -> None:
    assert finalize(log("Retain", STARTED), *DEAD[:2], after=10**6, related=[tidb_cluster()]).create[0].name == "stop-basic-r2"
    decision = finalize(log("Retain", STARTED), *DEAD, after=10**6, related=[tidb_cluster()])
    assert decision.finalized
    assert "may still run" in decision.warnings[0]


def test_the_latest_attempt_is_found_when_the_status_is_behind_and_those_before_it_are_gone() -> None:
    """A second clean beside the one under way would be the alternative."""
    decision = finalize(backup(status=COMPLETE), job("clean-basic-r1"))
    assert (list(decision.create), decision.status["cleanStatus"]["attempt"]) == ([], 2)
    assert finalize(log("Retain", STARTED), DEAD[2], after=10**6, related=[tidb_cluster()]).finalized


def test_an_attempt_to_stop_says_when_the_next_one_follows_and_takes_it_back_when_that_is_there() -> None:
    cr = log("Delete", STARTED)
    failed = finalize(cr, DEAD[0], related=[tidb_cluster()])
    assert failed.status["cleanStatus"]["nextAttemptAt"] == at(60)
    again = finalize(then(cr, failed), DEAD[0], job("stop-basic-r1"), related=[tidb_cluster()])
    assert "cleanStatus" not in again.status


def test_a_stop_whose_pod_cannot_start_says_that_the_task_runs_on_when_it_is_not_waited_for() -> None:
    stalled = finalize(log("Delete", STARTED), job("stop-basic", state="pending"), after=10**4, related=[tidb_cluster()])
    message = condition(stalled, "Stalled")["message"]
    assert "its task runs on in the cluster (end it: br log stop --task-name=basic)" in message
    assert "cleanPolicy: Retain" not in message, "a task is stopped whatever the policy"


def test_a_stop_that_keeps_failing_keeps_the_data_until_a_human_decides() -> None:
    decision = finalize(log("Delete", STARTED), *DEAD, after=10**6, related=[tidb_cluster()])
    assert not decision.finalized
    assert not decision.create
    found = condition(decision, "CleanFailed")
    assert (decision.status["phase"], found["reason"]) == ("CleanFailed", "StopLogBackupJobFailed")
    assert "data is kept" in found["message"]
    again = finalize(then(log("Delete"), decision), *DEAD[:-1], after=10**6, related=[tidb_cluster()])
    assert [intent.name for intent in again.create] == ["stop-basic-r2"]
    assert finalize(then(log("Retain"), decision), *DEAD, after=10**6, related=[tidb_cluster()]).finalized
    forced = then(log("Delete"), decision)
    forced["metadata"]["annotations"] = {FORCE_ANNOTATION: "true"}
    assert finalize(forced, *DEAD, after=10**6, related=[tidb_cluster()]).finalized


def test_a_task_that_was_seen_to_be_gone_needs_no_stop() -> None:
    gone = {
        **STARTED,
        "phase": "Failed",
        "conditions": [RAN, {"type": "Failed", "status": "True", "reason": "LogBackupTaskNotFound"}],
    }
    assert finalize(log("Retain", gone), related=[tidb_cluster()]).finalized
    cleaning = finalize(log("OnFailure", gone), related=[tidb_cluster()])
    assert [intent.purpose for intent in cleaning.create] == [Purpose.CLEAN]


@pytest.mark.parametrize(
    ("phase", "commit", "jobs", "stops"),
    [
        ("Running", "450", (), True),
        ("Paused", "450", (), True),
        ("RetryFailed", "450", (), True),
        ("Scheduled", "", (job("backup-basic-log-start", state="failed"),), True),
        ("Stopped", "450", (), False),
        ("Waiting", "", (), False),
        ("", "", (), False),
    ],
)
def test_whether_a_stop_is_needed_depends_on_what_may_be_in_the_cluster(
    phase: str, commit: str, jobs: tuple[Any, ...], stops: bool
) -> None:
    status: dict[str, Any] = {"phase": phase, "commitTs": commit}
    if phase == "Stopped":
        status["conditions"] = [{"type": "Stopped", "status": "True"}]
    cr = log("Retain", {key: value for key, value in status.items() if value})
    decision = finalize(cr, *jobs, after=10**6, related=[tidb_cluster()])
    assert ([intent.name for intent in decision.create], decision.finalized) == (["stop-basic"] if stops else [], not stops)


def test_the_watch_goes_before_the_stop() -> None:
    decision = finalize(log("Retain", STARTED), job("backup-basic-log-watch"), related=[tidb_cluster()])
    assert ([drop.name for drop in decision.drop], list(decision.create)) == (["backup-basic-log-watch"], [])


def reader_active(name: str = "clean-basic", ended: str | None = None) -> dict[str, Any]:
    error = {"reason": "ReaderActive", "message": "waiting for Restore db/yesterday, which reads it", "retryable": True}
    return job(name, state="failed", ended=ended or at(0), said=report("Failed", error=error))


def test_a_clean_that_waited_for_a_restore_is_tried_again_and_names_it() -> None:
    decision = finalize(backup(status=COMPLETE), reader_active(), after=1)
    failed = condition(decision, "CleanFailed")
    assert failed["reason"] == "ReaderActive"
    assert "Restore db/yesterday" in failed["message"]
    assert f"tried again at {at(600)}" in failed["message"]
    assert decision.status["cleanStatus"] | {"message": ""} == {
        "attempt": 1,
        "deferrals": 1,
        "deferredUntil": at(600),
        "nextAttemptAt": at(600),
        "message": "",
    }
    assert (list(decision.create), decision.resync_after, decision.finalized) == ([], 599, False)
    again = finalize(backup(status=COMPLETE), reader_active(), after=600)
    assert [intent.name for intent in again.create] == ["clean-basic-r1"]


def test_waiting_for_a_restore_uses_up_no_attempt() -> None:
    cr, after, jobs = backup(status=COMPLETE), 0.0, list[dict[str, Any]]()
    for number in range(2 * CONFIG.clean_attempts):
        name = names.retry("clean-basic", number)
        jobs.append(reader_active(name, ended=at(after)))
        for seconds in (1, 2, 600):
            decision = finalize(cr, *jobs, after=after + seconds)
            cr = then(cr, decision)
        assert [intent.name for intent in decision.create] == [names.retry("clean-basic", number + 1)], "always another one"
        after += 700
    assert cr["status"]["cleanStatus"]["deferrals"] == 2 * CONFIG.clean_attempts
    refused = [job(names.retry("clean-basic", 6), state="failed", ended=at(after), said=REFUSED)]
    decision = finalize(cr, *jobs, *refused, after=after + 10_000)
    assert [intent.name for intent in decision.create] == ["clean-basic-r7"], "the first failure of its own is not the last"


def test_a_clean_that_waits_says_for_whom_while_it_does() -> None:
    error = {"reason": "ReaderActive", "message": "waiting for Restore db/yesterday, which reads it"}
    waiting = finalize(backup(status=COMPLETE), job("clean-basic", said=report("Waiting", error=error, timeStarted=at(3))))
    assert condition(waiting, "Waiting") == {
        "type": "Waiting",
        "status": "True",
        "reason": "ReaderActive",
        "message": "Job clean-basic: waiting for Restore db/yesterday, which reads it",
        "lastTransitionTime": at(3),
    }
    running = finalize(then(backup(), waiting), job("clean-basic", said=report("Running")))
    assert condition(running, "Waiting") == {}


@pytest.mark.parametrize("number", [2**31 - 1, 10**7])
def test_an_attempt_that_no_deletion_comes_to_counts_as_none(number: int) -> None:
    """Somebody edited the status: the webhook neither counts for minutes nor writes a number that the API server refuses."""
    decision = finalize(backup(status={**COMPLETE, "cleanStatus": {"attempt": number}}))
    assert [intent.name for intent in decision.create] == ["clean-basic"]
    vanished = finalize(backup(status={**COMPLETE, "cleanStatus": {"attempt": 1}}))
    assert [intent.name for intent in vanished.create] == ["clean-basic-r1"]
