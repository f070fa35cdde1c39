"""Edits after the start: reported, and without any other effect. Jobs that do not come, or belong to another CR."""

import json
from datetime import timedelta
from typing import Any

import orjson
import pytest

from app.domain.backup import reconcile as backup
from app.domain.compact import reconcile as compact
from app.domain.config import Config
from app.domain.job.observed import Purpose
from app.domain.restore import reconcile as restore
from app.hooks import backup as backup_hook
from app.hooks import compactbackup as compact_hook
from app.hooks import restore as restore_hook
from app.hooks.response import render
from crds.contract import names
from tests.support.model import OneParent
from tests.support.objects import (
    BR_SPEC,
    EXPORT_SPEC,
    LOG_SPEC,
    NOW,
    S3,
    UID,
    at,
    job,
    namespace,
    observed,
    parent,
    report,
    tidb_cluster,
)

CONFIG = Config()
ELSEWHERE = {**S3, "prefix": "log-of-another"}
RUNNING = report("Complete", commitTs="450", backupPath="s3://bucket/daily")
FAILED = report("Failed", error={"reason": "Away", "retryable": True})


def cluster(name: str = "basic", **meta: Any) -> dict[str, dict[str, Any]]:
    return {
        "TidbCluster.pingcap.com/v1alpha1": {f"db/{name}": tidb_cluster(name=name)},
        "Namespace.v1": {"db": namespace()},
        **meta,
    }


def log_backup(**spec: Any) -> OneParent:
    """A log backup that runs, and is watched."""
    world = OneParent(kind=backup_hook.KIND, parent=parent("Backup", {**LOG_SPEC, **spec}), related=cluster())
    world.settle()
    world.finish("backup-basic-log-start", said=RUNNING, complete=True)
    world.settle()
    assert world.status["phase"] == "Running"
    return world


def condition(world: OneParent, kind: str = "Invalid") -> dict[str, Any]:
    found: list[dict[str, Any]] = world.status.get("conditions", [])
    return next((item for item in found if item["type"] == kind), {})


def env(made: dict[str, Any]) -> dict[str, Any]:
    (container,) = made["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def recorded(made: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = json.loads(env(made)["RECORDED_SPEC"])
    return found


def test_a_truncation_after_an_edit_of_the_prefix_works_on_the_log_that_was_started() -> None:
    world = log_backup()
    world.edit(s3=ELSEWHERE, logTruncateUntil="900")
    world.settle()
    made = world.jobs["backup-basic-log-truncate"]
    assert env(made)["BACKUP_PATH"] == "s3://bucket/daily"
    assert recorded(made)["s3.prefix"] == "daily"
    assert made["metadata"]["annotations"][names.PATH_ANNOTATION] == "s3://bucket/daily"


@pytest.mark.parametrize(
    "edit",
    [
        {"s3": ELSEWHERE},
        {"s3": {**S3, "endpoint": "http://other:9000"}},
        {"s3": {**S3, "bucket": "other"}},
        {"br": {"cluster": "other"}},
        {"br": {"cluster": "basic", "clusterNamespace": "other"}},
        {"br": {"cluster": "basic", "options": ["--pd=other:2379"]}},
        {"backupMode": "snapshot"},
    ],
)
@pytest.mark.parametrize("command", ["log-pause", "log-stop", "log-truncate"])
def test_every_command_after_an_edit_goes_to_what_was_recorded(edit: dict[str, Any], command: str) -> None:
    world = log_backup()
    before = recorded(world.jobs["backup-basic-log-watch"])
    asked = {"logTruncateUntil": "900"} if command == "log-truncate" else {"logSubcommand": command}
    world.edit(**edit)
    world.settle()
    assert condition(world)["reason"] == "IdentityChanged"
    assert world.status["phase"] == "Running"
    assert not world.unfinished() or world.unfinished() == ["backup-basic-log-watch"]
    world.edit(**asked)
    world.settle()
    made = world.jobs[f"backup-basic-{command}"]
    assert recorded(made) == before
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert env(made)["S3_ENDPOINT"] == ""
    assert not [arg for arg in container["args"] if arg.startswith("--pd-addr")]


@pytest.mark.parametrize("command", ["log-pause", "log-stop", "log-truncate"])
def test_an_edit_that_an_earlier_version_answered_has_no_effect_either(command: str) -> None:
    world = log_backup()
    asked = {"logTruncateUntil": "900"} if command == "log-truncate" else {"logSubcommand": command}
    world.edit(s3=ELSEWHERE, **asked)
    # It copies the record, knows no such Invalid, and notes the generation as dealt with.
    world.write_status({**world.status, "observedGeneration": world.parent["metadata"]["generation"]})
    world.settle()
    assert recorded(world.jobs[f"backup-basic-{command}"])["s3.prefix"] == "daily"
    assert env(world.jobs[f"backup-basic-{command}"])["BACKUP_PATH"] == "s3://bucket/daily"
    assert condition(world)["reason"] == "IdentityChanged"


def test_an_edit_is_named_with_both_values_and_the_fix_and_goes_once_it_is_set_back() -> None:
    world = log_backup()
    before = dict(world.status)
    world.edit(s3=ELSEWHERE)
    world.settle()
    message = condition(world)["message"]
    assert "spec.s3.prefix was 'daily' at the start and is 'log-of-another' now" in message
    assert "Set it back, or create a new Backup" in message
    assert condition(world)["observedGeneration"] == 2
    world.edit(s3=S3)
    world.settle()
    assert condition(world) == {}
    assert {**world.status, "observedGeneration": 1} == before


def test_the_deletion_of_an_edited_log_backup_stops_the_task_and_cleans_the_folder_that_were_recorded() -> None:
    world = log_backup(cleanPolicy="Delete")
    world.edit(s3={**ELSEWHERE, "endpoint": "http://other:9000"}, br={"cluster": "other"}, backupMode="snapshot")
    world.settle()
    world.delete()
    seen: dict[str, Any] = {}
    for _ in range(6):
        world.settle()
        seen |= world.jobs
        for name in world.unfinished():
            world.finish(name, said=report("Complete", result={"deleted": 1, "left": 0}), complete=True)
        if world.gone:
            break
    stop, clean = seen["stop-basic"], seen["clean-basic"]
    assert recorded(stop)["br.cluster"] == "basic"
    assert (env(clean)["BACKUP_PATH"], env(clean)["S3_ENDPOINT"]) == ("s3://bucket/daily", "")
    assert world.gone


def test_customize_asks_for_the_recorded_cluster() -> None:
    world = log_backup()
    world.edit(br={"cluster": "other"})
    (rule, *_) = backup.related(world.parent, CONFIG)
    assert rule["names"] == ["basic"]


def test_the_record_survives_a_status_write_that_was_lost() -> None:
    """The Job is there before the status is: its own environment tells what it was made for."""
    world = OneParent(kind=backup_hook.KIND, parent=parent("Backup", LOG_SPEC), related=cluster())
    world.sync(status_lost=True)
    world.edit(s3=ELSEWHERE)
    world.settle()
    assert world.status["recorded"]["s3.prefix"] == "daily"
    assert condition(world)["reason"] == "IdentityChanged"


def test_before_anything_has_started_the_spec_may_be_edited_at_will() -> None:
    waiting = backup.decide(observed(parent("Backup", LOG_SPEC)), NOW, CONFIG)
    assert waiting.status["phase"] == "Waiting"
    assert "recorded" not in waiting.status
    edited = parent("Backup", {**LOG_SPEC, "s3": ELSEWHERE}, status=waiting.status)
    started = backup.decide(observed(edited, related=(tidb_cluster(),)), NOW, CONFIG)
    assert "conditions" not in started.status
    assert started.create[0].recorded["s3.prefix"] == "log-of-another"


@pytest.mark.parametrize("path", ["s3://bucket/daily", "s3://bucket/daily/"])
def test_a_log_backup_that_tidb_operator_started_goes_on_and_is_known_by_its_path(path: str) -> None:
    entries = {"log-start": {"command": "log-start", "phase": "Complete", "timeCompleted": at(-100)}}
    status = {"phase": "Running", "commitTs": "450", "backupPath": path, "logSubCommandStatuses": entries}
    for spec, reason in ((LOG_SPEC, None), ({**LOG_SPEC, "s3": ELSEWHERE}, "IdentityChanged")):
        cr = parent("Backup", {**spec, "logTruncateUntil": "900"}, status=status)
        seen = observed(cr, job("backup-basic-log-watch"), related=(tidb_cluster(),))
        decision = backup.decide(seen, NOW, CONFIG)
        (made,) = [intent for intent in decision.create if intent.purpose is Purpose.LOG]
        assert made.path == "s3://bucket/daily"
        assert decision.status["recorded"]["s3.prefix"] == "daily"
        found = [item["reason"] for item in decision.status.get("conditions", ()) if item["type"] == "Invalid"]
        assert found == ([reason] if reason else [])


RUNS: list[tuple[Any, str, dict[str, Any], list[dict[str, Any]]]] = [
    (backup_hook.KIND, "Backup", EXPORT_SPEC, [{"s3": ELSEWHERE}, {"from": {"host": "other", "secretName": "s"}}]),
    (backup_hook.KIND, "Backup", BR_SPEC, [{"s3": ELSEWHERE}, {"br": {"cluster": "other"}}, {"backupMode": "log"}]),
    (restore_hook.KIND, "Restore", {**BR_SPEC}, [{"s3": ELSEWHERE}, {"br": {"cluster": "other"}}, {"restoreMode": "pitr"}]),
    (
        restore_hook.KIND,
        "Restore",
        {"to": EXPORT_SPEC["from"], "s3": S3},
        [{"to": {"host": "other", "secretName": "s"}}, {"to": {**EXPORT_SPEC["from"], "port": 4001}}, {"s3": ELSEWHERE}],
    ),
]


@pytest.mark.parametrize(("kind", "name", "spec", "edits"), RUNS)
def test_attempts_of_one_run_never_mix_two_places(
    kind: Any, name: str, spec: dict[str, Any], edits: list[dict[str, Any]]
) -> None:
    for edit in edits:
        world = OneParent(kind=kind, parent=parent(name, spec), related=cluster())
        world.settle()
        (first,) = world.created
        world.finish(first, said=FAILED, complete=False)
        world.edit(**edit)
        world.clock += 5_000
        world.settle()
        assert world.created == [first], edit
        assert (world.status["phase"], condition(world)["reason"]) == ("Invalid", "IdentityChanged")
        assert "no further attempt is made until it is set back" in condition(world)["message"]
        world.edit(**{key: spec.get(key) for key in edit})
        world.settle()
        assert world.created == [first, f"{first}-r1"], edit
        assert recorded(world.jobs[f"{first}-r1"]) == recorded(world.jobs[first])


def test_a_compaction_goes_on_with_the_stretch_and_shards_it_was_made_for() -> None:
    spec = {**BR_SPEC, "startTs": "1", "mode": "sharded", "shardCount": 2}
    world = OneParent(kind=compact_hook.KIND, parent=parent("CompactBackup", spec), related=cluster())
    world.settle()
    world.edit(shardCount=3, startTs="5", s3=ELSEWHERE)
    world.settle()
    assert world.created == ["basic-shards"]
    assert {"shardCount": "2", "startTs": "1", "s3.prefix": "daily"}.items() <= recorded(world.jobs["basic-shards"]).items()
    assert condition(world)["reason"] == "IdentityChanged"


def test_the_prune_of_an_edited_restore_works_on_what_was_restored() -> None:
    spec = {**BR_SPEC, "prune": "afterFailed", "backoffRetryPolicy": {"maxRetryTimes": 0}}
    world = OneParent(kind=restore_hook.KIND, parent=parent("Restore", spec), related=cluster())
    world.settle()
    world.finish("restore-basic", said=FAILED, complete=False)
    world.edit(s3=ELSEWHERE, br={"cluster": "other"})
    world.settle()
    made = world.jobs["restore-basic-prune"]
    assert (recorded(made)["br.cluster"], recorded(made)["s3.prefix"]) == ("basic", "daily")


def test_a_backup_that_was_complete_before_records_were_kept_stays_as_it_is() -> None:
    status = {
        "phase": "Complete",
        "backupPath": "s3://bucket/elsewhere",
        "conditions": [{"type": "Complete", "status": "True"}],
    }
    assert backup.decide(observed(parent("Backup", BR_SPEC, status=status)), NOW, CONFIG).status == status


def test_an_edit_of_a_complete_backup_is_reported_too() -> None:
    world = OneParent(kind=backup_hook.KIND, parent=parent("Backup", BR_SPEC), related=cluster())
    world.settle()
    world.finish("backup-basic", said=RUNNING, complete=True)
    world.settle()
    world.edit(s3=ELSEWHERE)
    world.settle()
    assert (world.status["phase"], condition(world)["reason"]) == ("Complete", "IdentityChanged")


def test_a_backup_that_has_begun_cannot_be_turned_into_an_imported_one() -> None:
    """Its clean would delete the path that the annotation names."""
    imported = {names.IMPORTED_ANNOTATION: json.dumps({"path": "s3://bucket/of-another"})}
    status = {"phase": "Running", "backupPath": "s3://bucket/daily", "conditions": [{"type": "Scheduled", "status": "True"}]}
    cr = parent("Backup", {**BR_SPEC, "cleanPolicy": "Delete"}, status=status, annotations=imported)
    decision = backup.decide(observed(cr, job("backup-basic"), related=(tidb_cluster(),)), NOW, CONFIG)
    assert decision.status["backupPath"] == "s3://bucket/daily"
    assert decision.status["phase"] != "Complete"


def test_an_imported_backup_is_recorded_as_it_is_imported() -> None:
    """Its clean must not go to another server because the endpoint was edited since."""
    imported = {names.IMPORTED_ANNOTATION: json.dumps({"path": "s3://bucket/daily"})}
    cr = parent("Backup", {**BR_SPEC, "cleanPolicy": "Delete"}, annotations=imported)
    first = backup.decide(observed(cr), NOW, CONFIG)
    edited = {**BR_SPEC, "cleanPolicy": "Delete", "s3": {**S3, "endpoint": "http://other:9000"}}
    later = parent("Backup", edited, annotations=imported, status=first.status)
    (clean,) = backup.decide(observed(later, finalizing=True), NOW, CONFIG).create
    assert (clean.path, clean.recorded.get("s3.endpoint")) == ("s3://bucket/daily", None)


@pytest.mark.parametrize(
    "broken", ["x", ["x"], {"s3.prefix": 7}, {"shardCount": "x"}, {"local.volume": "{"}, {"from.port": ""}]
)
def test_a_record_that_somebody_broke_is_no_error(broken: Any) -> None:
    status = {"phase": "Running", "recorded": broken, "conditions": [{"type": "Scheduled", "status": "True"}]}
    for spec in (EXPORT_SPEC, BR_SPEC, LOG_SPEC):
        for finalizing in (False, True):
            seen = observed(parent("Backup", spec, status=status), related=(tidb_cluster(),), finalizing=finalizing)
            render(backup_hook.KIND, seen, backup.decide(seen, NOW, CONFIG), CONFIG)
            backup.related(seen.parent, CONFIG)


# Names of Jobs


@pytest.mark.parametrize(
    ("decide", "cr", "spec", "job_name", "other"),
    [
        (backup.decide, "Backup", EXPORT_SPEC, "backup-x-r1", "Backup x"),
        (restore.decide, "Restore", {"to": EXPORT_SPEC["from"], "s3": S3}, "restore-x-prune", "Restore x"),
        (compact.decide, "CompactBackup", {**BR_SPEC, "startTs": "1", "endTs": "2"}, "backup-x", "Backup x"),
        (compact.decide, "CompactBackup", {**BR_SPEC, "startTs": "1", "endTs": "2"}, "clean-x-r1", "Backup x"),
        (compact.decide, "CompactBackup", {**BR_SPEC, "startTs": "1", "endTs": "2"}, "x-log-restore", "Restore x"),
    ],
)
def test_a_job_name_that_another_cr_took_is_a_condition_that_names_it(
    decide: Any, cr: str, spec: dict[str, Any], job_name: str, other: str
) -> None:
    name = job_name.removeprefix({"Backup": "backup-", "Restore": "restore-"}.get(cr, ""))
    kind = {"Backup": backup_hook.KIND, "Restore": restore_hook.KIND, "CompactBackup": compact_hook.KIND}[cr]
    status: dict[str, Any] = {}
    for after in (0, 1, 29, 30, 31, 4_000):
        written = [{"subresource": "status", "time": at(0)}]
        made = parent(cr, spec, name=name, status=status, managedFields=written)
        seen = observed(made, related=(tidb_cluster(),))
        decision = decide(seen, NOW + timedelta(seconds=after), CONFIG)
        assert [intent.name for intent in decision.create] == [job_name], "it is asked for until it is there"
        status = orjson.loads(render(kind, seen, decision, CONFIG))["status"]
        stalled = [item for item in status.get("conditions", ()) if item["type"] == "Stalled"]
        assert bool(stalled) is (after >= 30)
        assert (decision.resync_after or 0) == pytest.approx(max(0, 30 - after) if 0 < after < 30 else 0)
    assert stalled[0]["reason"] == "JobNotCreated"
    assert f"({other}" in stalled[0]["message"] or f" {other}," in stalled[0]["message"]
    assert f"kubectl describe job {job_name} -n db" in stalled[0]["message"]
    there = observed(parent(cr, spec, name=name, status=status), job(job_name), related=(tidb_cluster(),))
    went_on = decide(there, NOW, CONFIG).status
    assert "awaitedJobs" not in went_on
    assert "Stalled" not in {item["type"] for item in went_on["conditions"]}


def test_a_job_of_another_cr_is_never_taken_as_ours() -> None:
    """An earlier Backup of the same name, whose Job was orphaned and kept or given our labels."""
    labels = {names.OWNER_UID_LABEL: "uid-of-the-one-before", names.BACKUP_LABEL: "basic", "controller-uid": UID}
    old = job("backup-basic", state="complete", said=report("Complete", commitTs="1", backupPath="s3://b/old"), labels=labels)
    decision = backup.decide(observed(parent("Backup", EXPORT_SPEC), old), NOW, CONFIG)
    assert "phase" not in decision.status
    assert "commitTs" not in decision.status
    (stalled,) = decision.status["conditions"]
    assert (stalled["type"], stalled["reason"]) == ("Stalled", "JobNameTaken")
    assert "Job backup-basic is there but belongs to Backup basic" in stalled["message"]


def test_names_that_fit_more_than_one_cr_are_known() -> None:
    assert ("Backup", "x") in names.possible_owners("backup-x-log-start-r2")
    assert ("Restore", "x") in names.possible_owners("x-snapshot-restore-r1")
    assert names.possible_owners("basic") == [("CompactBackup", "basic")]
