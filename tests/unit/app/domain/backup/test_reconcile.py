"""The table of app/domain/backup/reconcile.py and run.py, row by row, with the rows of TiDB Operator's own tests."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.backup.reconcile import decide, related
from app.domain.config import ClusterKind, Config
from app.domain.decision import Decision
from app.domain.job.observed import JobIntent, Purpose
from crds.contract import names
from crds.v1alpha1 import KINDS
from tests.support.objects import BR_SPEC, EXPORT_SPEC, NOW, S3, UID, at, job, observed, parent, report, tidb_cluster

CONFIG = Config()
PATH = "s3://bucket/daily/basic-0f5e9c1a"


def sync(cr: dict[str, Any], *jobs: dict[str, Any], after: float = 0, cluster: Any = None) -> Decision[JobIntent]:
    related_objects = (cluster,) if cluster else ()
    decision = decide(observed(cr, *jobs, related=related_objects), NOW + timedelta(seconds=after), CONFIG)
    _schema_knows(cr["kind"], decision)
    return decision


def _schema_knows(kind: str, decision: Decision[JobIntent]) -> None:
    """A status field that the schema does not know would be pruned, and written again at every sync."""
    model = KINDS[kind].model_fields["status"].annotation
    next(part for part in model.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]


def conditions(decision: Decision[JobIntent]) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in decision.status.get("conditions", [])}


def export(**changes: Any) -> dict[str, Any]:
    return parent("Backup", EXPORT_SPEC, **changes)


def test_an_export_gets_its_job_at_once_and_needs_no_cluster() -> None:
    decision = sync(export())
    assert [intent.name for intent in decision.create] == ["backup-basic"]
    assert decision.create[0].purpose is Purpose.EXPORT
    assert decision.create[0].path == PATH
    assert decision.status == {"awaitedJobs": ["backup-basic"], "recorded": decision.create[0].recorded}


def test_a_snapshot_waits_for_its_cluster_and_says_which() -> None:
    decision = sync(parent("Backup", BR_SPEC))
    assert not decision.create
    assert decision.status["phase"] == "Waiting"
    assert conditions(decision)["Waiting"]["reason"] == "ClusterNotFound"
    assert "TidbCluster db/basic" in conditions(decision)["Waiting"]["message"]


def test_a_snapshot_waits_until_its_cluster_is_ready_then_starts() -> None:
    cr = parent("Backup", BR_SPEC)
    waiting = sync(cr, cluster=tidb_cluster(ready=False))
    assert conditions(waiting)["Waiting"]["reason"] == "ClusterNotReady"
    started = sync({**cr, "status": waiting.status}, cluster=tidb_cluster())
    assert [intent.purpose for intent in started.create] == [Purpose.BACKUP]
    assert started.create[0].path == "s3://bucket/daily"
    assert set(started.status) == {"awaitedJobs", "recorded"}


def test_an_invalid_spec_is_named_and_judged_anew_once_edited() -> None:
    cr = parent("Backup", {**EXPORT_SPEC, "s3": {**S3, "bucket": ""}})
    invalid = sync(cr)
    assert invalid.status["phase"] == "Invalid"
    assert not invalid.create
    found = conditions(invalid)["Invalid"]
    assert found["reason"] == "InvalidSpec"
    assert found["observedGeneration"] == 1
    assert "bucket should be configured" in found["message"]
    fixed = sync({**export(generation=2), "status": invalid.status})
    assert [intent.name for intent in fixed.create] == ["backup-basic"]
    assert set(fixed.status) == {"awaitedJobs", "recorded"}


def test_a_condition_that_still_holds_keeps_its_time_and_learns_the_generation() -> None:
    invalid = sync(parent("Backup", {**EXPORT_SPEC, "s3": {**S3, "bucket": ""}}))
    edits = [{"time": at(500), "operation": "Update"}]
    again = sync(
        parent("Backup", {**EXPORT_SPEC, "s3": {**S3, "bucket": ""}}, generation=2, managedFields=edits, status=invalid.status)
    )
    before, after = conditions(invalid)["Invalid"], conditions(again)["Invalid"]
    assert after == {**before, "observedGeneration": 2}


def test_the_path_is_in_the_status_as_soon_as_the_job_is_seen() -> None:
    decision = sync(export(), job("backup-basic", state="pending", path=PATH))
    assert decision.status["phase"] == "Scheduled"
    assert decision.status["backupPath"] == PATH
    assert decision.status["timeStarted"] == at(0)
    assert not decision.create


def test_progress_is_copied_from_the_report() -> None:
    said = report(
        "Running",
        timeStarted=at(2),
        eta=at(100),
        progress=[{"step": "Dump", "progress": 42.0, "lastTransitionTime": at(30)}],
        backupPath=PATH,
        backupSize=638000,
    )
    decision = sync(export(), job("backup-basic", said=said))
    assert decision.status["phase"] == "Running"
    assert decision.status["progress"] == "42%"
    assert decision.status["progresses"] == [{"step": "Dump", "progress": 42, "lastTransitionTime": at(30)}]
    assert decision.status["eta"] == at(100)
    assert decision.status["backupSizeReadable"] == "638 kB"
    assert conditions(decision)["Running"]["lastTransitionTime"] == at(2)


def test_complete_with_a_final_report_is_complete() -> None:
    said = report(
        "Complete", timeStarted=at(2), timeCompleted=at(58), commitTs="450", backupPath=PATH, backupSize=5024, eta=at(70)
    )
    decision = sync(export(), job("backup-basic", state="complete", ended=at(60), said=said))
    status = decision.status
    assert (status["phase"], status["commitTs"], status["timeTaken"], status["progress"]) == ("Complete", "450", "56s", "100%")
    assert "eta" not in status
    assert conditions(decision)["Complete"]["lastTransitionTime"] == at(60)


def test_what_an_export_left_out_is_in_the_status_and_bounded() -> None:
    said = report("Complete", backupPath=PATH, result={"leftOut": ["SQL bindings: 2", "x" * 500, *(["more"] * 50)]})
    decision = sync(export(), job("backup-basic", state="complete", ended=at(60), said=said))
    assert decision.status["leftOut"][0] == "SQL bindings: 2"
    assert (len(decision.status["leftOut"]), len(decision.status["leftOut"][1])) == (16, 200)


@pytest.mark.parametrize("said", [None, report("Running"), "not json"])
def test_complete_without_a_final_report_is_a_failure(said: str | None) -> None:
    decision = sync(export(), job("backup-basic", state="complete", said=said))
    assert decision.status["phase"] == "Failed"
    assert conditions(decision)["Failed"]["reason"] == "ReportMissing"
    assert not decision.create


def test_a_final_report_alone_ends_nothing() -> None:
    decision = sync(export(), job("backup-basic", said=report("Complete")))
    assert decision.status["phase"] == "Running"


def test_a_manager_that_waits_for_another_task_says_whose() -> None:
    said = report("Waiting", error={"reason": "ClusterBusy", "message": "Backup other runs on cluster db/basic"})
    decision = sync(export(), job("backup-basic", said=said))
    assert decision.status["phase"] == "Waiting"
    assert conditions(decision)["Waiting"]["message"] == "Backup other runs on cluster db/basic"
    running = sync({**export(), "status": decision.status}, job("backup-basic", said=report("Running")))
    assert "Waiting" not in conditions(running)


def test_no_ready_pod_within_the_deadline_is_said_at_a_time_of_the_job() -> None:
    pending = job("backup-basic", state="pending")
    early = sync(export(), pending, after=599)
    assert "Stalled" not in conditions(early)
    assert early.resync_after == 1
    late, later = sync(export(), pending, after=600), sync(export(), pending, after=6000)
    assert late.status == later.status
    assert conditions(late)["Stalled"]["lastTransitionTime"] == at(600)
    assert "kubectl describe pod -l job-name=backup-basic" in conditions(late)["Stalled"]["message"]
    alive = sync({**export(), "status": late.status}, job("backup-basic", said=report("Prepare")), after=6000)
    assert "Stalled" not in conditions(alive)


@pytest.mark.parametrize("count", ["active", "ready", "terminating", "succeeded", "failed"])
def test_a_job_that_never_had_a_pod_is_told_apart_from_one_whose_pod_is_not_ready(count: str) -> None:
    without = job("backup-basic", state="pending", active=0)
    without["spec"]["template"]["spec"]["serviceAccountName"] = "tidb-backup-manager"
    told = conditions(sync(export(), without, after=600))["Stalled"]
    assert told["reason"] == "NoPodCreated"
    assert "kubectl label namespace db tidb.pingcap.com/backup=enabled" in told["message"]
    assert "kubectl describe job backup-basic -n db" in told["message"]
    assert "describe pod" not in told["message"]
    if count != "ready":
        counts: dict[str, Any] = {"active": 0, count: 1}
        some = job("backup-basic", state="pending", **counts)
        assert conditions(sync(export(), some, after=600))["Stalled"]["reason"] == "NoPodReady"


PERMANENT = report("Failed", error={"reason": "StorageAccessDenied", "message": "403", "hint": "check the key"})
TRANSIENT = report("Failed", error={"reason": "Unreachable", "message": "no route", "retryable": True})


def test_a_permanent_error_fails_at_once_under_its_own_name() -> None:
    decision = sync(export(), job("backup-basic", state="failed", said=PERMANENT), after=10_000)
    assert decision.status["phase"] == "Failed"
    assert conditions(decision)["Failed"]["reason"] == "StorageAccessDenied"
    assert conditions(decision)["Failed"]["message"] == "403; check the key"
    assert "backoffRetryStatus" not in decision.status
    assert not decision.create


@pytest.mark.parametrize("said", [None, TRANSIENT, report("Running")])
def test_unexpected_death_and_transient_errors_are_retried_when_due(said: str | None) -> None:
    dead = job("backup-basic", state="failed", ended=at(60), said=said)
    early = sync(export(), dead, after=359)
    assert early.status["phase"] == "RetryFailed"
    assert not early.create
    assert early.resync_after == 1
    (record,) = early.status["backoffRetryStatus"]
    assert record["retryNum"] == 1
    assert record["detectFailedAt"] == at(60)
    assert record["expectedRetryAt"] == at(360)
    assert record["originalReason"] == ("Unreachable" if said == TRANSIENT else "BackoffLimitExceeded")
    due = sync({**export(), "status": early.status}, dead, after=360)
    assert [intent.name for intent in due.create] == ["backup-basic-r1"]
    assert due.create[0].path == PATH
    assert due.status == {**early.status, "awaitedJobs": ["backup-basic-r1"]}


@pytest.mark.parametrize("left", [{"active": 1}, {"terminating": 1}])
def test_a_retry_waits_until_the_failed_job_has_no_pod_left(left: dict[str, Any]) -> None:
    decision = sync(export(), job("backup-basic", state="failed", ended=at(60), **left), after=5_000)
    assert not decision.create
    assert decision.resync_after == 10


def test_the_retry_that_runs_is_recorded_by_its_own_creation_and_may_succeed() -> None:
    first = job("backup-basic", state="failed", ended=at(60))
    running = sync(export(), first, job("backup-basic-r1", created=at(365)), after=370)
    assert running.status["phase"] == "Scheduled"
    assert running.status["backoffRetryStatus"][0]["realRetryAt"] == at(365)
    assert not running.create
    second = job("backup-basic-r1", state="complete", created=at(365), ended=at(400), said=report("Complete"))
    done = sync({**export(), "status": running.status}, first, second, after=500)
    assert done.status["phase"] == "Complete"


def test_two_retries_by_default_then_failed_naming_the_cause() -> None:
    jobs = [
        job("backup-basic", state="failed", ended=at(60)),
        job("backup-basic-r1", state="failed", created=at(361), ended=at(400)),
        job("backup-basic-r2", state="failed", created=at(1001), ended=at(1100)),
    ]
    assert sync(export(), *jobs[:2], after=1000).create[0].name == "backup-basic-r2"
    decision = sync(export(), *jobs, after=1200)
    assert decision.status["phase"] == "Failed"
    found = conditions(decision)["Failed"]
    assert found["reason"] == "AlreadyFailed"
    assert found["message"].startswith("exceed retry times, max is 2; Job backup-basic-r2 has failed; BackoffLimitExceeded")
    assert [record["retryNum"] for record in decision.status["backoffRetryStatus"]] == [1, 2, 3]


def test_the_timeout_counts_from_the_first_failure_and_wins() -> None:
    cr = parent("Backup", {**EXPORT_SPEC, "backoffRetryPolicy": {"minRetryDuration": "70s", "retryTimeout": "2m"}})
    jobs = [job("backup-basic", state="failed", ended=at(0)), job("backup-basic-r1", state="failed", ended=at(90))]
    decision = sync(cr, *jobs, after=91)
    assert conditions(decision)["Failed"]["message"].startswith("retry timeout, max is 2m0s")


def test_no_retry_when_the_policy_says_none() -> None:
    cr = parent("Backup", {**EXPORT_SPEC, "backoffRetryPolicy": {"maxRetryTimes": 0}})
    decision = sync(cr, job("backup-basic", state="failed"), after=5_000)
    assert decision.status["phase"] == "Failed"


def test_a_retry_to_another_place_is_refused() -> None:
    dead = job("backup-basic", state="failed", ended=at(60), path=PATH)
    status = sync(export(), dead).status
    edited = parent("Backup", {**EXPORT_SPEC, "s3": {**S3, "prefix": "other"}}, status=status)
    decision = sync(edited, dead, after=5_000)
    assert not decision.create
    assert decision.status["phase"] == "Invalid"
    assert PATH in conditions(decision)["Invalid"]["message"]
    back = sync({**export(), "status": decision.status}, dead, after=5_000)
    assert back.create[0].name == "backup-basic-r1"
    assert back.status["phase"] == "RetryFailed"


def test_a_job_that_vanished_while_running_is_a_failed_attempt() -> None:
    status = sync(export(), job("backup-basic", said=report("Running", timeStarted=at(5)))).status
    decision = sync({**export(), "status": status}, after=10)
    (record,) = decision.status["backoffRetryStatus"]
    assert record["originalReason"] == "JobVanished"
    assert record["detectFailedAt"] == at(5)
    assert not decision.create
    assert sync({**export(), "status": decision.status}, after=305).create[0].name == "backup-basic-r1"


@pytest.mark.parametrize("phase", ["Complete", "Failed"])
@pytest.mark.parametrize("after", [0, 10**8])
def test_a_finished_backup_never_runs_again(phase: str, after: float) -> None:
    status = {"phase": phase, "backupPath": PATH, "conditions": [{"type": phase, "status": "True"}]}
    for jobs in ((), (job("backup-basic", state="failed"),), (job("backup-basic"),)):
        decision = sync(export(status=status, generation=7), *jobs, after=after)
        assert (decision.status, list(decision.create), list(decision.drop)) == (status, [], [])


def test_the_received_status_may_be_behind_its_jobs() -> None:
    done = job("backup-basic", state="complete", said=report("Complete"))
    fresh, behind = sync(export(), done), sync(export(status={"phase": "Running"}), done)
    assert fresh.status["phase"] == behind.status["phase"] == "Complete"


def test_customize_names_the_cluster_in_its_namespace() -> None:
    cr = parent("Backup", {**BR_SPEC, "br": {"cluster": "c", "clusterNamespace": "elsewhere"}})
    assert {
        "apiVersion": "pingcap.com/v1alpha1",
        "resource": "tidbclusters",
        "namespace": "elsewhere",
        "names": ["c"],
    } in related(cr, CONFIG)
    both = Config(cluster_kinds=tuple(ClusterKind))
    assert {rule["resource"] for rule in related(cr, both)} == {"tidbclusters", "clusters", "tikvgroups", "namespaces"}
    assert [rule["resource"] for rule in related(export(), CONFIG)] == ["namespaces"]


def test_customize_of_a_scheduled_log_backup_asks_for_its_schedule() -> None:
    cr = parent("Backup", {**BR_SPEC, "backupMode": "log"}, labels={names.SCHEDULE_LABEL: "nightly"})
    assert related(cr, CONFIG)[-1]["names"] == ["nightly"]


def test_an_imported_path_counts_only_for_a_backup_without_a_job() -> None:
    """Else a clean would delete a path of somebody's choice."""
    annotations = {names.IMPORTED_ANNOTATION: '{"path": "s3://somebody/else"}'}
    cr = parent("Backup", BR_SPEC, annotations=annotations)
    found = decide(observed(cr, job("backup-basic"), related=(tidb_cluster(),)), NOW, CONFIG)
    assert found.status["phase"] == "Scheduled"
    assert found.status.get("backupPath") != "s3://somebody/else"


def test_a_job_that_was_adopted_under_the_name_of_a_retry_is_no_attempt() -> None:
    """Metacontroller adopts whatever carries our controller-uid; taken for an attempt, it would let a run begin beside ours."""
    owner = [{"controller": True, "uid": UID, "kind": "Backup", "name": "basic", "apiVersion": names.API_VERSION}]
    foreign = job("backup-basic-r1", labels={"controller-uid": UID})
    foreign["metadata"]["ownerReferences"] = owner
    decision = sync(parent("Backup", BR_SPEC), job("backup-basic"), foreign, cluster=tidb_cluster())
    assert decision.status["phase"] == "Scheduled"
    assert not decision.create
    assert not decision.status.get("backoffRetryStatus")
