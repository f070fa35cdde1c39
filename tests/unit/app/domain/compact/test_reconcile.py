"""CompactBackup: its one Job and the status copied from it."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.compact.reconcile import decide
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.observed import JobIntent
from crds.v1alpha1 import KINDS
from crds.v1alpha1.compact_backup import CompactState
from tests.support.objects import BR_SPEC, NOW, at, job, observed, parent, report, tidb_cluster

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
    named = "basic-shards" if spec.get("mode") == "sharded" else "basic"
    assert [intent.name for intent in sync(spec).create] == [named]


def test_a_sharded_job_of_an_earlier_release_that_is_called_like_its_cr_is_followed() -> None:
    seen = sync(SHARDED, job("basic", completedIndexes="0"))
    assert (seen.status["state"], list(seen.create)) == ("Scheduled", [])


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ({**SPEC, "startTs": ""}, "spec.startTs: startTs is missing"),
        ({**SPEC, "startTs": "yesterday"}, "spec.startTs: 'yesterday' is no timestamp"),
        ({**SPEC, "endTs": ""}, "spec.endTs: endTs is missing"),
        ({**SPEC, "concurrency": 0}, "spec.concurrency: must be at least 1"),
        ({**SPEC, "maxRetryTimes": -1}, "spec.maxRetryTimes: must be at least 0"),
        ({**SPEC, "shardCount": 2}, "shardCount belongs to mode sharded"),
        ({**SPEC, "br": None}, "missing spec.br in db/basic"),
        ({**SPEC, "s3": None}, "no storage in spec of db/basic"),
        ({**SHARDED, "shardCount": None}, "shardCount belongs to mode sharded"),
        ({**SHARDED, "shardCount": 0}, "spec.shardCount: must be at least 1"),
        ({**SHARDED, "mode": "split"}, "spec.mode: must be one of"),
        ({**SHARDED, "physicalFileCacheCapacity": "150GB"}, "spec.physicalFileCacheCapacity"),
        ({**SHARDED, "physicalFileCacheCapacity": "-1Gi"}, "physicalFileCacheCapacity is negative"),
    ],
)
def test_a_wrong_spec_is_named_in_message_and_condition(spec: dict[str, Any], rule: str) -> None:
    decision = sync(spec)
    assert decision.status["state"] == "Invalid"
    assert CompactState(decision.status["state"]) is CompactState.INVALID
    assert rule in decision.status["message"]
    assert not decision.create
    assert set(sync(SPEC, status=decision.status).status) == {"awaitedJobs", "recorded"}


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


def failed(second: int) -> str:
    """A report of a Pod that failed *second* seconds after now."""
    error = {"reason": "CompactBackupFailed", "message": "store is away", "retryable": True}
    return report("Failed", timeCompleted=at(second), error=error)


def test_a_pod_that_failed_is_told_with_every_retry_and_the_next_one_goes_on() -> None:
    status: dict[str, Any] | None = None
    for number, second in enumerate((60, 200), start=1):
        decision = sync(SPEC, job("basic", said=failed(second)), status=status)
        assert decision.status["state"] == "RetryFailed"
        assert decision.status["message"] == "CompactBackupFailed; store is away"
        records = decision.status["backoffRetryStatus"]
        last = {"retryNum": number, "detectFailedAt": at(second), "retryReason": "CompactBackupFailed; store is away"}
        assert (len(records), records[-1]) == (number, last)
        assert sync(SPEC, job("basic", said=failed(second)), status=decision.status).status == decision.status
        running = sync(SPEC, job("basic", said=report("Running")), status=decision.status)
        assert (running.status["state"], "message" in running.status) == ("Running", False)
        assert running.status["backoffRetryStatus"] == records
        status = dict(running.status)
    end = sync(SPEC, job("basic", state="failed", ended=at(500), said=failed(400)), status=status)
    assert (end.status["state"], end.status["message"]) == ("Failed", "CompactBackupFailed; store is away")


@pytest.mark.parametrize(
    "said",
    [
        report("Failed", timeCompleted=at(70), error={"reason": "Interrupted", "message": "stopped", "retryable": True}),
        report("Running"),
        None,
    ],
    ids=["stopped and said so", "killed", "without a word"],
)
def test_the_run_that_kubernetes_stops_at_the_limit_is_not_the_cause(said: str | None) -> None:
    before = sync(SPEC, job("basic", said=failed(60))).status
    before = sync(SPEC, job("basic", said=said), status=before).status  # its end may be seen before that of the Job
    end = sync(SPEC, job("basic", state="failed", ended=at(80), said=said), status=before).status
    assert (end["state"], end["message"]) == ("Failed", "CompactBackupFailed; store is away; maxRetryTimes is used up")
    reasons = {item["type"]: item.get("reason") for item in end["conditions"]}
    assert reasons["Failed"] == "CompactBackupFailed"
    assert end["backoffRetryStatus"] == before["backoffRetryStatus"]


def sharded(state: str = "active", said: str | None = None, **status: Any) -> dict[str, Any]:
    found = job("basic", state=state, said=said, **status)
    found["spec"]["completions"] = 3
    return found


def test_shards_are_counted_as_kubernetes_does() -> None:
    running = sync(SHARDED, sharded(said=report("Running"), completedIndexes="0,2", failed=2))
    assert running.status["state"] == "Running"
    assert running.status["progress"] == "[SHARDS(2/3)]"
    assert running.status["completedIndexes"] == "0,2"
    assert running.status["message"] == "2 Pods failed so far, and their shards were tried again"


@pytest.mark.parametrize("said", [failed(10), report("Complete"), report("Waiting", error={"reason": "x", "message": "y"})])
def test_one_shard_does_not_speak_for_all(said: str) -> None:
    running = sync(SHARDED, sharded(said=said))
    assert (running.status["state"], running.status.get("backoffRetryStatus")) == ("Running", None)


def test_shards_that_were_given_up_are_named() -> None:
    end = sync(SHARDED, sharded("failed", said=failed(9), completedIndexes="0", failedIndexes="1-2", failed=8))
    assert end.status["state"] == "Failed"
    told = "CompactBackupFailed; 2 shards were given up: 1-2; the rest is compacted; store is away"
    assert end.status["message"] == told
    assert (end.status["failedIndexes"], end.status["progress"]) == ("1-2", "[SHARDS(1/3)]")


def test_what_the_tool_says_of_the_end_counts_for_more_than_the_spec() -> None:
    done = sync(SPEC, job("basic", state="complete", said=report("Complete", result={"endTs": "180"})))
    assert done.status["endTs"] == "180"
    assert "endTs" not in sync(SHARDED, sharded("complete", completedIndexes="0-2")).status


def test_a_compaction_waits_for_its_cluster_by_name() -> None:
    decision = decide(observed(parent("CompactBackup", SPEC)), NOW, Config())
    assert (decision.status["state"], list(decision.create)) == ("Waiting", [])
    assert "TidbCluster db/basic" in decision.status["message"]
