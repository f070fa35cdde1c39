"""The GC life time of a CR whose run cannot restore it: the table of app/domain/job/gc_life_time.py, row by row."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.builders.jobs import build
from app.domain.backup import reconcile as backup
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.ending import FORCE_ANNOTATION
from app.domain.job.observed import JobIntent, Purpose
from app.domain.observed import Observed
from app.domain.restore import reconcile as restore
from crds.v1alpha1 import KINDS
from tests.support.objects import BR_SPEC, EXPORT_SPEC, NOW, S3, at, job, namespace, observed, parent, report, tidb_cluster

CONFIG = Config()
NO_RETRY = {"backoffRetryPolicy": {"maxRetryTimes": 0}}
RAISED = {"gcLifeTimeState": "Raised", "gcLifeTimeBefore": "10m0s"}
RELEASED = {"gcLifeTimeState": "Released", "gcLifeTimeBefore": "10m0s", "gcLifeTime": "restored to 10m0s"}
HOLDS = {
    "type": "GcLifeTimeRaised",
    "status": "True",
    "reason": "RunNeedsIt",
    "message": "Job backup-basic needs it. By hand: set global tidb_gc_life_time = '10m0s'",
    "lastTransitionTime": at(0),
}
DECIDE: dict[str, Callable[[Observed, Any, Config], Decision[JobIntent]]] = {
    "Backup": backup.decide,
    "Restore": restore.decide,
}
SPECS: dict[str, dict[str, Any]] = {
    "Backup": {**EXPORT_SPEC, **NO_RETRY},
    "Restore": {**BR_SPEC, "to": {"host": "tidb", "secretName": "s"}, **NO_RETRY},
}
FIRST = {"Backup": "backup-basic", "Restore": "restore-basic"}
GC_JOB = {"Backup": "gc-life-time-backup-basic", "Restore": "gc-life-time-restore-basic"}
BOTH = pytest.mark.parametrize("kind", ["Backup", "Restore"])


def cr(kind: str, status: Any = None, **meta: Any) -> dict[str, Any]:
    return parent(kind, SPECS[kind], status=status, **meta)


def ask(
    of: dict[str, Any], *jobs: dict[str, Any], after: float = 100, finalizing: bool = False, related: Any = ()
) -> Decision[JobIntent]:
    """One pass; its status is one that the CRD keeps, and the same pass on its own status changes nothing."""
    kind = of["kind"]
    objects = (tidb_cluster(), *related)
    now = NOW + timedelta(seconds=after)
    decision = DECIDE[kind](observed(of, *jobs, related=objects, finalizing=finalizing), now, CONFIG)
    model = KINDS[kind].model_fields["status"].annotation
    next(part for part in model.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
    if decision.create:
        return decision
    again = {**of, "status": decision.status}
    once_more = DECIDE[kind](observed(again, *jobs, related=objects, finalizing=finalizing), now, CONFIG)
    if once_more.create:
        return decision
    third = {**of, "status": once_more.status}
    assert DECIDE[kind](observed(third, *jobs, related=objects, finalizing=finalizing), now, CONFIG).status == once_more.status
    return decision


def condition(decision: Decision[JobIntent]) -> dict[str, Any]:
    return next((item for item in decision.status.get("conditions", []) if item["type"] == "GcLifeTimeRaised"), {})


def killed(kind: str) -> dict[str, Any]:
    return job(FIRST[kind], state="failed", said=report("Running", result=RAISED))


def ended(kind: str) -> dict[str, Any]:
    """The CR after its run was killed and not repeated."""
    failed = ask(cr(kind), killed(kind))
    assert failed.status["phase"] == "Failed"
    assert condition(failed)["status"] == "True"
    return cr(kind, failed.status)


@BOTH
def test_the_condition_stands_while_a_run_needs_it_and_goes_with_it(kind: str) -> None:
    running = ask(cr(kind), job(FIRST[kind], said=report("Running", result=RAISED)))
    assert condition(running)["reason"] == "RunNeedsIt"
    assert "set global tidb_gc_life_time = '10m0s'" in condition(running)["message"]
    done = job(FIRST[kind], state="complete", said=report("Complete", result=RELEASED))
    after = ask(cr(kind, running.status), done)
    assert (after.status["phase"], condition(after), list(after.create)) == ("Complete", {}, [])


@BOTH
def test_a_run_that_never_touched_it_has_no_condition(kind: str) -> None:
    assert condition(ask(cr(kind), job(FIRST[kind], said=report("Running")))) == {}


@BOTH
def test_a_killed_run_without_another_attempt_is_followed_by_a_job_that_restores_it(kind: str) -> None:
    decision = ask(ended(kind), killed(kind))
    assert [(intent.name, intent.purpose) for intent in decision.create] == [(GC_JOB[kind], Purpose.GC_LIFE_TIME)]


@BOTH
def test_the_job_comes_also_when_the_killed_one_has_vanished(kind: str) -> None:
    assert [intent.name for intent in ask(ended(kind)).create] == [GC_JOB[kind]]


@BOTH
def test_it_waits_for_the_last_pod(kind: str) -> None:
    decision = ask(ended(kind), job(FIRST[kind], state="failed", terminating=1, said=report("Running", result=RAISED)))
    assert (list(decision.create), decision.resync_after) == ([], 10)


def test_another_attempt_takes_it_over_and_no_job_comes_between() -> None:
    spec = parent("Backup", EXPORT_SPEC)
    decision = ask(spec, killed("Backup"), after=70)
    assert (decision.status["phase"], list(decision.create)) == ("RetryFailed", [])
    assert condition(decision)["status"] == "True"
    second = job("backup-basic-r1", created=at(400), said=report("Prepare"))
    following = ask({**spec, "status": decision.status}, killed("Backup"), second, after=500)
    assert condition(following)["status"] == "True"
    over = job("backup-basic-r1", created=at(400), state="complete", said=report("Complete", result=RELEASED))
    assert condition(ask({**spec, "status": following.status}, killed("Backup"), over, after=900)) == {}


@BOTH
def test_the_condition_goes_when_the_job_has_restored_it(kind: str) -> None:
    running = ask(ended(kind), killed(kind), job(GC_JOB[kind], created=at(100)))
    assert condition(running)["reason"] == "Restoring"
    restored = job(GC_JOB[kind], created=at(100), state="complete", said=report("Complete", result=RELEASED))
    after = ask(cr(kind, running.status), killed(kind), restored)
    assert (condition(after), list(after.create), after.status["phase"]) == ({}, [], "Failed")
    assert list(ask(cr(kind, after.status)).create) == []


@BOTH
def test_a_job_that_fails_leaves_the_statement_and_is_repeated_after_an_hour(kind: str) -> None:
    said = report("Failed", error={"reason": "DatabaseUnreachable", "message": "no answer"})
    failed = job(GC_JOB[kind], created=at(100), state="failed", ended=at(200), said=said)
    early = ask(ended(kind), failed, after=300)
    assert condition(early)["reason"] == "NotRestored"
    assert "DatabaseUnreachable; no answer" in condition(early)["message"]
    assert condition(early)["message"].endswith("By hand: set global tidb_gc_life_time = '10m0s'")
    assert (list(early.create), list(early.drop), early.resync_after) == ([], [], 3500)
    late = ask(cr(kind, early.status), failed, after=200 + 3600)
    assert [drop.name for drop in late.drop] == [GC_JOB[kind]]
    assert [intent.name for intent in ask(cr(kind, late.status), after=4000).create] == [GC_JOB[kind]]


@BOTH
def test_a_deleted_cr_waits_until_it_is_restored_whatever_its_policy(kind: str) -> None:
    """SIGKILL of the manager and the CR deleted at once: the Backup has cleanPolicy Retain."""
    first = ask(cr(kind), killed(kind), finalizing=True)
    assert [intent.name for intent in first.create] == [GC_JOB[kind]]
    assert not first.finalized
    waiting = ask(cr(kind, first.status), killed(kind), job(GC_JOB[kind], created=at(10)), finalizing=True)
    assert (waiting.finalized, list(waiting.create)) == (False, [])
    restored = job(GC_JOB[kind], created=at(10), state="complete", said=report("Complete", result=RELEASED))
    last = ask(cr(kind, waiting.status), killed(kind), restored, finalizing=True)
    assert (last.finalized, list(last.warnings)) == (True, [])


@BOTH
def test_a_deleted_cr_whose_run_goes_on_ends_it_first(kind: str) -> None:
    running = job(FIRST[kind], said=report("Running", result=RAISED))
    stopping = ask(cr(kind), running, finalizing=True)
    assert ([drop.name for drop in stopping.drop], list(stopping.create)) == ([FIRST[kind]], [])
    assert not stopping.finalized
    gone = ask(cr(kind, stopping.status), finalizing=True)
    assert [intent.name for intent in gone.create] == [GC_JOB[kind]]


@BOTH
def test_a_deletion_is_never_stuck_on_a_database_that_is_gone(kind: str) -> None:
    failed = job(GC_JOB[kind], created=at(10), state="failed", said=report("Failed", error={"reason": "DatabaseUnreachable"}))
    decision = ask(cr(kind, ended(kind)["status"]), failed, finalizing=True)
    assert decision.finalized
    assert ["set global tidb_gc_life_time = '10m0s'" in text for text in decision.warnings] == [True]


@BOTH
def test_a_deletion_does_not_wait_for_a_run_that_lost_its_owner(kind: str) -> None:
    """--cascade=orphan: the Job is not the CR's child any more, its Pod goes on and restores the value itself."""
    said = report("Complete", result={"gcLifeTime": "Pod p of this CR still runs, and restores it when it ends"})
    left_alone = job(GC_JOB[kind], created=at(10), state="complete", said=said)
    decision = ask(cr(kind, ended(kind)["status"]), left_alone, finalizing=True)
    assert decision.finalized
    assert (condition(decision)["reason"], "Pod p" in condition(decision)["message"]) == ("RunNeedsIt", True)


@pytest.mark.parametrize("state", ["failed", "complete"])
def test_a_clean_that_runs_is_not_ended_for_a_life_time_that_could_not_be_restored(state: str) -> None:
    spec = {**EXPORT_SPEC, **NO_RETRY, "cleanPolicy": "Delete"}
    backup_ = parent("Backup", spec, status={**ended("Backup")["status"], "backupPath": "s3://bucket/daily/basic-0f5e9c1a"})
    tried = job("gc-life-time-backup-basic", created=at(10), state=state, said=report("Complete"))
    assert [intent.name for intent in ask(backup_, tried, finalizing=True).create] == ["clean-basic"]
    running = ask(backup_, tried, job("clean-basic", created=at(20)), finalizing=True)
    assert (list(running.drop), running.finalized) == ([], False)


@BOTH
def test_a_deletion_tries_once_more_what_had_failed_before(kind: str) -> None:
    before = job(GC_JOB[kind], created=at(-100), state="failed", ended=at(-50))
    decision = ask(cr(kind, ended(kind)["status"]), before, finalizing=True)
    assert [drop.name for drop in decision.drop] == [GC_JOB[kind]]
    assert not decision.finalized


@BOTH
def test_no_job_is_asked_for_in_a_namespace_that_ends(kind: str) -> None:
    decision = ask(cr(kind, ended(kind)["status"]), finalizing=True, related=(namespace(ending=True),))
    assert (decision.finalized, list(decision.create)) == (True, [])
    assert len(decision.warnings) == 1


def test_the_annotation_lets_a_backup_go_at_once_and_says_what_is_left() -> None:
    backup_ = cr("Backup", ended("Backup")["status"], annotations={FORCE_ANNOTATION: "true"})
    decision = ask(backup_, finalizing=True)
    assert decision.finalized
    assert any("GC life time may still be raised" in text for text in decision.warnings)


def test_the_data_is_cleaned_after_it_is_restored() -> None:
    spec = {**EXPORT_SPEC, **NO_RETRY, "cleanPolicy": "Delete"}
    backup_ = parent("Backup", spec, status={**ended("Backup")["status"], "backupPath": "s3://bucket/daily/basic-0f5e9c1a"})
    assert [intent.name for intent in ask(backup_, finalizing=True).create] == ["gc-life-time-backup-basic"]
    restored = job("gc-life-time-backup-basic", created=at(10), state="complete", said=report("Complete", result=RELEASED))
    assert [intent.name for intent in ask(backup_, restored, finalizing=True).create] == ["clean-basic"]


def test_a_pruned_restore_is_restored_after_its_prune() -> None:
    spec = {**SPECS["Restore"], "prune": "afterFailed"}
    status = {**ended("Restore")["status"]}
    assert [intent.purpose for intent in ask(parent("Restore", spec, status=status)).create] == [Purpose.PRUNE]
    pruned = {**status, "conditions": [*status["conditions"], {"type": "PruneComplete", "status": "True"}]}
    assert [intent.purpose for intent in ask(parent("Restore", spec, status=pruned)).create] == [Purpose.GC_LIFE_TIME]


@pytest.mark.parametrize("said", ["Lowered", 7, None, ["Raised"], {"Raised": 1}])
def test_a_state_that_nobody_knows_changes_nothing(said: Any) -> None:
    strange = job("backup-basic", said=report("Running", result={"gcLifeTimeState": said}))
    assert condition(ask(cr("Backup"), strange)) == {}
    assert condition(ask(cr("Backup", {"phase": "Running", "conditions": [HOLDS]}), strange)) == HOLDS


@pytest.mark.parametrize("before", ["'; drop table x; --", 5, None, ["10m"], ""])
def test_a_value_that_is_no_duration_is_not_put_into_a_statement(before: Any) -> None:
    said = report("Running", result={"gcLifeTimeState": "Raised", "gcLifeTimeBefore": before})
    found = condition(ask(cr("Backup"), job("backup-basic", said=said)))
    assert (found["status"], found["message"]) == ("True", "Job backup-basic needs it.")


def test_the_newest_report_counts_and_not_the_last_in_the_list() -> None:
    older = job("backup-basic", created=at(0), state="failed", said=report("Running", result=RAISED))
    newer = job("backup-basic-r1", created=at(400), state="complete", said=report("Complete", result=RELEASED))
    for jobs in ((older, newer), (newer, older)):
        assert condition(ask(parent("Backup", EXPORT_SPEC), *jobs, after=900)) == {}


@BOTH
def test_the_job_has_the_password_and_no_key_of_the_storage(kind: str) -> None:
    seen = observed(cr(kind), related=(tidb_cluster(),))
    made = build(seen, JobIntent(name=GC_JOB[kind], purpose=Purpose.GC_LIFE_TIME), CONFIG)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["gc-life-time", "--namespace=db", "--resourceName=basic", f"--kind={kind}"]
    env = {entry["name"] for entry in container["env"]}
    assert "BACKUP_MANAGER_PASSWORD" in env
    assert not env & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "BACKUP_PATH"}
    assert (made["spec"]["backoffLimit"], made["spec"]["activeDeadlineSeconds"]) == (3, 900)


def test_the_job_speaks_tls_as_the_run_did() -> None:
    spec = {**BR_SPEC, "from": {"host": "tidb", "secretName": "s"}, "s3": S3}
    secure = tidb_cluster(tidb={"tlsClient": {"enabled": True, "skipInternalClientCA": True}}, tlsCluster={"enabled": True})
    # What the run itself recorded was an export's.
    status = {field: value for field, value in ended("Backup")["status"].items() if field != "recorded"}
    decision = ask(parent("Backup", {**spec, **NO_RETRY}, status=status), related=(secure,))
    made = build(observed(parent("Backup", spec), related=(secure,)), decision.create[0], CONFIG)
    pod = made["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][-2:] == ["--client-tls=true", "--skipClientCA=true"]
    assert [volume["name"] for volume in pod["volumes"] if "secret" in volume] == ["tidb-client-tls"]
    plain = {**EXPORT_SPEC, "from": {**EXPORT_SPEC["from"], "tlsClientSecretName": "mine"}}
    intent = JobIntent(name="x", purpose=Purpose.GC_LIFE_TIME)
    pod = build(observed(parent("Backup", plain)), intent, CONFIG)["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume] == ["mine"]
