"""What a report says never decides where data is deleted, nor how far a log is cut: the hook's own record does."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.backup.reconcile import decide
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.observed import Job, JobIntent
from crds.contract import names, tso
from tests.support.objects import EXPORT_SPEC, NOW, at, job, observed, parent, report

GIVEN = "s3://bucket/daily/basic-0f5e9c1a"
FOREIGN = "s3://bucket/of-somebody-else"
DELETE = {**EXPORT_SPEC, "cleanPolicy": "Delete"}


def sync(*jobs: dict[str, Any], status: Mapping[str, Any] | None = None, finalizing: bool = False) -> Decision[JobIntent]:
    meta = {"deletionTimestamp": at(100)} if finalizing else {}
    backup = parent("Backup", DELETE, status=status, **meta)
    return decide(observed(backup, *jobs, finalizing=finalizing), NOW, Config())


def conditions(decision: Decision[JobIntent]) -> dict[str, Any]:
    return {item["type"]: item.get("reason") for item in decision.status["conditions"]}


def test_a_reported_path_never_overrides_the_one_the_hook_decided() -> None:
    running = sync(job("backup-basic", path=GIVEN, said=report("Running", backupPath=FOREIGN)))
    assert running.status["backupPath"] == GIVEN
    assert conditions(running)["ReportRefused"] == "ReportedPathDiffers"


def test_a_report_on_another_path_proves_no_backup() -> None:
    said = report("Complete", backupPath=FOREIGN)
    done = sync(job("backup-basic", state="complete", path=GIVEN, said=said))
    assert (done.status["phase"], done.status["backupPath"]) == ("Failed", GIVEN)
    assert conditions(done)["Failed"] == "ReportedPathDiffers"


def test_the_environment_of_a_job_counts_more_than_its_annotations() -> None:
    forged = job("backup-basic", path=FOREIGN, said=report("Running", backupPath=FOREIGN))
    forged["spec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": names.ENV_BACKUP_PATH, "value": FOREIGN},  # the CR's own: the webhook's comes last
        {"name": names.ENV_BACKUP_PATH, "value": GIVEN},
    ]
    assert Job(obj=forged).path == GIVEN
    assert sync(forged).status["backupPath"] == GIVEN


@given(said=st.sampled_from(["Prepare", "Waiting", "Running", "Complete", "Failed"]), path=st.text(max_size=40))
@pytest.mark.parametrize("state", ["active", "complete", "failed"])
def test_whatever_is_reported_a_clean_works_on_the_path_that_was_given(state: str, said: str, path: str) -> None:
    made = job("backup-basic", state=state, path=GIVEN, said=report(said, backupPath=path))
    status = sync(made).status
    assert status["backupPath"] == GIVEN
    for jobs, known in (((made,), status), ((made,), None), ((), status)):
        cleans = [intent for intent in sync(*jobs, status=known, finalizing=True).create if intent.name.startswith("clean-")]
        assert {intent.path for intent in cleans} <= {GIVEN}


@pytest.mark.parametrize(("late", "believed"), [(0, True), (1800, True), (7200, False), (10**8, False)])
def test_a_tso_from_after_the_end_of_its_job_is_not_believed(late: int, *, believed: bool) -> None:
    ended = job("backup-basic", state="complete", path=GIVEN, ended=at(60))
    end = Job(obj=ended).ended
    assert end is not None
    commit = str(tso.from_datetime(end) + (late * 1000 << 18))
    ended["metadata"]["annotations"][names.REPORT_ANNOTATION] = report("Complete", commitTs=commit)
    done = sync(ended, status={"commitTs": commit, "phase": "Running"})
    assert done.status.get("commitTs") == (commit if believed else None)
    assert ("ReportRefused" in conditions(done)) is not believed


def test_a_job_named_like_the_pods_of_an_indexed_one_gets_another_name() -> None:
    plain = [names.backup_job, names.clean_job, names.restore_job, names.stop_job, names.compact_job]
    assert not [name for name in plain if name("x-shards-0").endswith("-shards-0")]
    assert names.compact_job("x", sharded=True) == "x-shards"
    assert len(names.compact_job("x" * 200, sharded=True)) <= 47
