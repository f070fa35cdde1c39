"""CompactBackup: its one Job and the status copied from it."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.compact import decide
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.jobs import JobIntent
from crds.v1alpha1 import KINDS
from tests.support.objects import BR_SPEC, NOW, job, observed, parent, report, tidb_cluster

SPEC: dict[str, Any] = {**BR_SPEC, "startTs": "100", "endTs": "200"}
SHARDED: dict[str, Any] = {**BR_SPEC, "startTs": "100", "mode": "sharded", "shardCount": 3}


def sync(spec: dict[str, Any], *jobs: Any, status: Any = None, after: float = 0) -> Decision[JobIntent]:
    cr = parent("CompactBackup", spec, status=status)
    decision = decide(observed(cr, *jobs, related=(tidb_cluster(),)), NOW + timedelta(seconds=after), Config())
    model = KINDS["CompactBackup"].model_fields["status"].annotation
    next(part for part in model.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
    return decision


@pytest.mark.parametrize("spec", [SPEC, SHARDED])
def test_the_job_is_named_after_the_cr(spec: dict[str, Any]) -> None:
    assert [intent.name for intent in sync(spec).create] == ["basic"]


@pytest.mark.parametrize("spec", [{**SPEC, "startTs": ""}, {**SPEC, "endTs": ""}, {**SHARDED, "shardCount": None}])
def test_a_wrong_spec_is_named_in_message_and_condition(spec: dict[str, Any]) -> None:
    decision = sync(spec)
    assert decision.status["state"] == "Invalid"
    assert decision.status["message"]
    assert not decision.create
    assert sync(SPEC, status=decision.status).status == {}


def test_progress_and_end() -> None:
    running = sync(SPEC, job("basic", said=report("Running", result={"progress": "[READ_META(1/2),COMPACT_WORK(0/3)]"})))
    assert running.status["state"] == "Running"
    assert running.status["progress"] == "[READ_META(1/2),COMPACT_WORK(0/3)]"
    done = sync(SPEC, job("basic", state="complete", said=report("Complete")), status=running.status)
    assert (done.status["state"], done.status["endTs"]) == ("Complete", "200")
    again = sync(SPEC, status=done.status)
    assert (again.status, list(again.create)) == (done.status, [])


def test_complete_needs_proof_a_sharded_job_has_it_in_its_indexes() -> None:
    assert sync(SPEC, job("basic", state="complete")).status["state"] == "Failed"
    sharded = sync(SHARDED, job("basic", state="complete", completedIndexes="0-2"))
    assert (sharded.status["state"], sharded.status["completedIndexes"]) == ("Complete", "0-2")


def test_a_failed_or_vanished_job_is_the_end() -> None:
    failed = sync(SPEC, job("basic", state="failed"))
    assert failed.status["state"] == "Failed"
    running = sync(SPEC, job("basic", said=report("Running")))
    gone = sync(SPEC, status=running.status)
    assert (gone.status["state"], list(gone.create)) == ("Failed", [])


def test_a_stall_is_said() -> None:
    decision = sync(SPEC, job("basic", state="pending"), after=3_600)
    assert "Stalled" in {item["type"] for item in decision.status["conditions"]}
