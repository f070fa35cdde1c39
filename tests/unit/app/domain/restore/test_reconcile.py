"""Restore: the table of app/domain/restore/reconcile.py, row by row."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.ending import FORCE_ANNOTATION
from app.domain.job.observed import JobIntent, Purpose
from app.domain.restore.reconcile import decide, related
from crds.v1alpha1 import KINDS
from tests.support.objects import NOW, S3, at, job, namespace, observed, parent, report, tidb_cluster

CONFIG = Config()
IMPORT: dict[str, Any] = {"to": {"host": "tidb", "secretName": "s"}, "s3": S3}
BR: dict[str, Any] = {"br": {"cluster": "basic"}, "s3": S3}
GC_OFF = tidb_cluster(tikv={"baseImage": "pingcap/tikv", "config": "[gc]\nratio-threshold = -1.0"})
PITR: dict[str, Any] = {**BR, "restoreMode": "pitr", "pitrFullBackupStorageProvider": {"s3": S3}}
FAILED = {"phase": "Failed", "conditions": [{"type": "Failed", "status": "True"}]}


def sync(spec: dict[str, Any], *jobs: Any, status: Any = None, after: float = 0, extra: Any = ()) -> Decision[JobIntent]:
    cr = parent("Restore", spec, status=status)
    decision = decide(observed(cr, *jobs, related=(GC_OFF, *extra)), NOW + timedelta(seconds=after), CONFIG)
    model = KINDS["Restore"].model_fields["status"].annotation
    next(part for part in model.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
    return decision


def condition(decision: Decision[JobIntent], kind: str) -> dict[str, Any]:
    return next((item for item in decision.status.get("conditions", []) if item["type"] == kind), {})


@pytest.mark.parametrize(("spec", "purpose"), [(IMPORT, Purpose.IMPORT), (BR, Purpose.RESTORE), (PITR, Purpose.RESTORE)])
def test_a_sound_restore_gets_its_job(spec: dict[str, Any], purpose: Purpose) -> None:
    assert [(intent.name, intent.purpose) for intent in sync(spec).create] == [("restore-basic", purpose)]


def test_a_restore_waits_for_a_ready_cluster() -> None:
    cr = parent("Restore", BR)
    decision = decide(observed(cr, related=(tidb_cluster(ready=False),)), NOW, CONFIG)
    assert (decision.status["phase"], list(decision.create)) == ("Waiting", [])


def test_preparing_is_running_for_a_restore() -> None:
    assert sync(IMPORT, job("restore-basic", said=report("Prepare"))).status["phase"] == "Running"


def test_what_a_restore_did_not_bring_is_in_the_status() -> None:
    line = "user 'a'@'%': the target has it with another password"
    said = report("Complete", result={"leftOut": [line]})
    assert sync(IMPORT, job("restore-basic", state="complete", said=said)).status["leftOut"] == [line]


def test_a_complete_restore_shows_what_it_read() -> None:
    said = report("Complete", commitTs="450", backupPath="s3://bucket/daily")
    status = sync(IMPORT, job("restore-basic", state="complete", said=said)).status
    assert (status["phase"], status["commitTs"]) == ("Complete", "450")
    assert "backupPath" not in status, "no manager of a Restore reports one, so whoever does is none"


@pytest.mark.parametrize("phase", ["Complete", "Failed"])
def test_a_restore_that_ended_never_runs_again(phase: str) -> None:
    status = {"phase": phase, "conditions": [{"type": phase, "status": "True"}]}
    for jobs in ((), (job("restore-basic", state="failed"),)):
        decision = sync(IMPORT, *jobs, status=status, after=10**7)
        assert (decision.status, list(decision.create)) == (status, [])


def test_a_restore_whose_job_vanished_may_be_done_and_is_not_repeated() -> None:
    status = sync(IMPORT, job("restore-basic", said=report("Running"))).status
    decision = sync(IMPORT, status=status, after=10**6)
    assert decision.status["phase"] == "Failed"
    assert condition(decision, "Failed")["reason"] == "JobVanished"
    assert not decision.create


def test_an_unexpected_death_is_retried() -> None:
    decision = sync(BR, job("restore-basic", state="failed", ended=at(0)), after=300)
    assert [intent.name for intent in decision.create] == ["restore-basic-r1"]


def test_a_failed_restore_with_prune_is_pruned_once() -> None:
    spec = {**BR, "prune": "afterFailed"}
    decision = sync(spec, status=FAILED)
    assert [(intent.name, intent.purpose) for intent in decision.create] == [("restore-basic-prune", Purpose.PRUNE)]
    assert decision.status == {**FAILED, "awaitedJobs": ["restore-basic-prune"], "recorded": decision.create[0].recorded}
    scheduled = sync(spec, job("restore-basic-prune", state="pending"), status=FAILED)
    assert scheduled.status["phase"] == "PruneScheduled"
    running = sync(spec, job("restore-basic-prune", said=report("Running")), status=scheduled.status)
    assert running.status["phase"] == "PruneRunning"
    done = sync(spec, job("restore-basic-prune", state="complete", said=report("Complete")), status=running.status)
    assert done.status["phase"] == "PruneComplete"
    after = sync(spec, status=done.status)
    assert (after.status, list(after.create)) == (done.status, [])


@pytest.mark.parametrize(("state", "said"), [("failed", None), ("complete", None)])
def test_a_prune_that_dies_silently_is_noticed(state: str, said: str | None) -> None:
    spec = {**BR, "prune": "afterFailed"}
    assert sync(spec, job("restore-basic-prune", state=state, said=said), status=FAILED).status["phase"] == "PruneFailed"


def test_a_prune_job_that_vanished_is_not_repeated() -> None:
    spec = {**BR, "prune": "afterFailed"}
    scheduled = sync(spec, job("restore-basic-prune", state="pending"), status=FAILED)
    gone = sync(spec, status=scheduled.status)
    assert (gone.status["phase"], list(gone.create)) == ("PruneFailed", [])
    assert sync(spec, status=gone.status).status == gone.status


def test_customize_asks_for_the_compaction() -> None:
    cr = parent("Restore", {**PITR, "replicationConfig": {"compactBackupName": "c"}})
    assert related(cr, CONFIG)[-1]["resource"] == "compactbackups"


def test_customize_asks_for_the_namespace_whose_end_lets_everything_go() -> None:
    assert {"apiVersion": "v1", "resource": "namespaces", "names": ["db"]} in related(parent("Restore", BR), CONFIG)


RUNNING = {"phase": "Running", "conditions": [{"type": "Scheduled", "status": "True"}]}


def finalize(*jobs: Any, status: Any = None, extra: Any = (), spec: Any = None, **meta: Any) -> Decision[JobIntent]:
    cr = parent("Restore", spec or BR, status=status, deletionTimestamp=at(0), **meta)
    decision = decide(observed(cr, *jobs, related=(GC_OFF, *extra), finalizing=True), NOW, CONFIG)
    assert not decision.create
    return decision


def test_a_deleted_restore_goes_at_once_when_nothing_of_it_runs() -> None:
    assert finalize().finalized
    assert finalize(job("restore-basic", state="complete"), status=RUNNING).finalized
    assert finalize(job("restore-basic", state="failed")).finalized


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("restore-basic", IMPORT),
        ("restore-basic-r1", BR),
        ("restore-basic-prune", {**BR, "prune": "afterFailed"}),
        ("basic-snapshot-restore", {**PITR, "replicationConfig": {"compactBackupName": "c"}}),
        ("basic-log-restore", {**PITR, "replicationConfig": {"compactBackupName": "c"}}),
    ],
)
def test_a_deleted_restore_waits_for_its_job_to_end_and_says_so(name: str, spec: dict[str, Any]) -> None:
    stopping = finalize(job(name, said=report("Running")), status=RUNNING, spec=spec)
    assert [(drop.kind, drop.name, bool(drop.rule)) for drop in stopping.drop] == [("Job.batch/v1", name, True)]
    assert (stopping.finalized, stopping.resync_after) == (False, 10)
    waits = condition(stopping, "Waiting")
    assert (waits["reason"], waits["lastTransitionTime"]) == ("RunEnding", at(0))
    assert f"Job {name}" in waits["message"]
    assert stopping.status["phase"] == "Running"
    assert finalize(status=stopping.status, spec=spec).finalized


@pytest.mark.parametrize("state", ["failed", "complete"])
def test_pods_that_are_still_terminating_are_waited_for(state: str) -> None:
    ending = finalize(job("restore-basic", state=state, terminating=1), status=RUNNING)
    assert (ending.finalized, list(ending.drop), ending.resync_after) == (False, [], 10)
    assert "kubectl delete pod --force" in condition(ending, "Waiting")["message"]


def test_the_job_of_somebody_else_is_neither_stopped_nor_waited_for() -> None:
    decision = finalize(job("restore-basic", labels={"controller-uid": "x"}))
    assert (decision.finalized, list(decision.drop)) == (True, [])


def test_by_force_or_with_its_namespace_a_restore_goes_without_waiting() -> None:
    running = job("restore-basic", said=report("Running"))
    forced = finalize(running, status=RUNNING, annotations={FORCE_ANNOTATION: "true"})
    ended = finalize(running, status=RUNNING, extra=(namespace(ending=True),))
    assert (forced.finalized, ended.finalized) == (True, True)
    assert "restore-basic" in "".join(forced.warnings)
    assert not finalize(running, annotations={FORCE_ANNOTATION: "false"}).finalized
    assert not finalize(running, extra=(namespace(),)).finalized


def test_runs_of_br_are_kept_newest_first_each_once_and_no_more_than_ten() -> None:
    before = [{"operationID": str(number), "command": "restore full"} for number in range(9, -1, -1)]
    said = [
        {"operationID": "new", "startedAt": at(5), "command": "restore point", "observedAt": at(6), "pid": 7},
        {"operationID": "4", "startedAt": "soon"},
        {"command": "nameless"},
        "nothing",
    ]
    running = job("restore-basic", said=report("Running", result={"brOperations": said}))
    shown = sync(BR, running, status={"brOperations": before}).status["brOperations"]
    assert shown[0] == {"operationID": "new", "startedAt": at(5), "command": "restore point", "observedAt": at(6)}
    assert [item["operationID"] for item in shown] == ["new", "4", "9", "8", "7", "6", "5", "3", "2", "1"]
    assert sync(BR, running, status={"brOperations": shown}).status["brOperations"] == shown


def test_a_restore_that_began_in_one_step_goes_on_so() -> None:
    spec = {**PITR, "replicationConfig": {"compactBackupName": "c"}}
    assert not sync(spec, job("restore-basic")).create
    failed = sync(spec, job("restore-basic", state="failed", ended=at(0)), after=300)
    assert [intent.name for intent in failed.create] == ["restore-basic-r1"]


def test_a_restore_that_ended_while_the_webhook_was_down_is_not_repeated() -> None:
    """Its Job has no TTL, so it is still there, however long that was; only then the hook deletes it."""
    done = job("restore-basic", state="complete", said=report("Complete"))
    late = 10 * CONFIG.job_ttl
    decision = sync(BR, done, after=late)
    assert decision.status["phase"] == "Complete"
    assert not decision.drop
    assert [drop.name for drop in sync(BR, done, status=decision.status, after=late).drop] == ["restore-basic"]
    assert not sync(BR, done, status=decision.status, after=CONFIG.job_ttl / 2).drop


def test_a_job_of_somebody_else_is_not_deleted_with_those_of_a_restore() -> None:
    foreign = job("restore-basic", state="complete", said=report("Complete"), labels={})
    assert not sync(BR, foreign, status={"phase": "Complete"}, after=10 * CONFIG.job_ttl).drop


def test_a_replication_without_a_name_is_invalid_and_no_error() -> None:
    assert sync({**PITR, "replicationConfig": {}}).status["phase"] == "Invalid"
