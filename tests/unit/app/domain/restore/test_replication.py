"""Restores in two steps beside a compaction: the table of app/domain/restore/replication.py, row by row."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.observed import JobIntent
from app.domain.restore.reconcile import decide
from crds.v1alpha1 import KINDS
from tests.support.objects import BR_SPEC, NOW, S3, at, job, observed, parent, report, tidb_cluster

SPEC: dict[str, Any] = {
    **BR_SPEC,
    "restoreMode": "pitr",
    "pitrFullBackupStorageProvider": {"s3": {**S3, "prefix": "full"}},
    "replicationConfig": {"compactBackupName": "c"},
}
OFF = tidb_cluster(tikv={"baseImage": "pingcap/tikv", "config": "[gc]\nratio-threshold = -1"})
SNAPSHOT, LOG = "basic-snapshot-restore", "basic-log-restore"
OTHER_S3 = {**S3, "secretName": "other", "storageClass": "GLACIER", "acl": "private"}


def compaction(state: str = "", **spec: Any) -> dict[str, Any]:
    found = parent("CompactBackup", {**BR_SPEC, "s3": OTHER_S3, "startTs": "1", "endTs": "2", **spec}, name="c")
    ended = [{"type": state, "status": "True", "lastTransitionTime": at(50)}]
    return {**found, "status": {"state": state, "conditions": ended}} if state else found


class Story:
    """A Restore in two steps, pass by pass."""

    def __init__(self, **spec: Any) -> None:
        self.spec = {**SPEC, **spec}
        self.status: dict[str, Any] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.compaction: dict[str, Any] | None = compaction("Running")
        self.clock: float = 0

    def sync(self) -> Decision[JobIntent]:
        self.clock += 1
        decision = self._decide()
        model = KINDS["Restore"].model_fields["status"].annotation
        next(part for part in model.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
        self.status = dict(decision.status)
        if not decision.create:
            assert self._decide().status == self.status, "fed back, nothing changes"
        return decision

    def _decide(self) -> Decision[JobIntent]:
        cr = parent("Restore", self.spec, status=self.status)
        related = (OFF, self.compaction) if self.compaction else (OFF,)
        return decide(observed(cr, *self.jobs.values(), related=related), NOW + timedelta(seconds=self.clock), Config())

    def wanted(self) -> list[str]:
        return [intent.name for intent in self.sync().create]

    def ends(self, name: str, *, complete: bool = True, **said: Any) -> None:
        self.clock += 10
        phase, state = ("Complete", "complete") if complete else ("Failed", "failed")
        self.jobs[name] = job(
            name, state=state, created=at(self.clock - 9), ended=at(self.clock), said=report(phase, **said) if said else None
        )
        if complete and not said:
            self.jobs[name] = job(name, state=state, created=at(self.clock - 9), ended=at(self.clock), said=report("Complete"))

    def condition(self, kind: str) -> dict[str, Any]:
        return next((item for item in self.status.get("conditions", []) if item["type"] == kind), {})


def restored() -> Story:
    """The snapshot is restored, the compaction runs."""
    story = Story()
    assert story.wanted() == [SNAPSHOT]
    story.jobs[SNAPSHOT] = job(SNAPSHOT, created=at(1), said=report("Running"))
    story.sync()
    story.ends(SNAPSHOT)
    assert story.wanted() == []
    return story


def test_the_whole_story() -> None:
    story = Story()
    (intent,) = story.sync().create
    assert (intent.name, intent.command) == (SNAPSHOT, "snapshot-restore")
    story.jobs[SNAPSHOT] = job(
        SNAPSHOT, created=at(1), said=report("Running", progress=[{"step": "Full Restore", "progress": 40}])
    )
    story.sync()
    assert (story.status["phase"], story.status["replicationStep"]) == ("SnapshotRestore", "snapshot-restore")
    assert (story.status["progress"], story.status["timeStarted"]) == ("40%", at(1))
    story.ends(SNAPSHOT)
    assert story.wanted() == []
    assert (story.status["phase"], story.condition("SnapshotRestored")["status"]) == ("SnapshotRestore", "True")
    assert story.condition("Waiting")["message"] == "the log waits for CompactBackup c: it is Running"
    assert "timeCompleted" not in story.status
    story.compaction = compaction("Complete")
    (intent,) = story.sync().create
    assert (intent.name, intent.command) == (LOG, "log-restore")
    assert story.condition("CompactSettled")["reason"] == "AllShardsComplete"
    assert story.condition("CompactSettled")["lastTransitionTime"] == at(50)
    assert not story.condition("Waiting")
    story.jobs[LOG] = job(LOG, created=at(100), said=report("Running"))
    story.sync()
    assert (story.status["phase"], story.status["replicationStep"]) == ("LogRestore", "log-restore")
    story.clock = 400
    story.ends(LOG, commitTs="460")
    assert story.wanted() == []
    assert (story.status["phase"], story.status["commitTs"]) == ("Complete", "460")
    assert (story.status["timeStarted"], story.status["timeTaken"]) == (at(3), "6m47s"), "from the first step on"
    story.jobs.clear()
    story.compaction = None
    before = dict(story.status)
    assert (story.wanted(), story.status) == ([], before)


def test_a_compaction_that_settled_first_lets_the_log_follow_at_once() -> None:
    story = Story()
    story.compaction = compaction("Complete")
    assert story.wanted() == [SNAPSHOT]
    story.ends(SNAPSHOT)
    assert story.wanted() == [LOG]


def test_a_failed_compaction_never_fails_the_restore() -> None:
    story = restored()
    story.compaction = compaction("Failed")
    assert story.wanted() == [LOG]
    assert story.condition("CompactSettled")["reason"] == "ShardsPartialFailed"


def test_what_was_settled_stays_settled() -> None:
    story = restored()
    story.compaction = compaction("Complete")
    story.sync()
    story.compaction = None
    assert story.wanted() == [LOG]


@pytest.mark.parametrize("found", [None, compaction(), compaction("Running"), compaction("Invalid")])
def test_without_a_timeout_the_log_waits_for_ever(found: Any) -> None:
    story = restored()
    story.compaction, story.clock = found, 10**8
    decision = story.sync()
    assert (list(decision.create), decision.resync_after) == ([], None)
    assert story.condition("Waiting")["reason"] == ("CompactBackupPending" if found else "CompactBackupNotFound")


@pytest.mark.parametrize("timeout", ["0s", "-1h", ""])
def test_no_time_is_for_ever(timeout: str) -> None:
    story = Story(replicationConfig={"compactBackupName": "c", "waitTimeout": timeout})
    story.ends(SNAPSHOT)
    story.sync()
    story.clock = 10**8
    assert story.wanted() == []


@pytest.mark.parametrize("found", [None, compaction("Running"), compaction("Running", br={"cluster": "another"})])
def test_after_its_timeout_the_log_is_restored_as_it_is(found: Any) -> None:
    """The Restore was created an hour before the first pass."""
    story = Story(replicationConfig={"compactBackupName": "c", "waitTimeout": "2h"})
    story.wanted()
    story.jobs[SNAPSHOT] = job(SNAPSHOT, created=at(1), said=report("Running"))
    story.sync()
    story.compaction = found
    story.ends(SNAPSHOT)
    story.clock = 3_598
    decision = story.sync()
    assert (list(decision.create), decision.resync_after) == ([], 1)
    assert story.wanted() == [LOG]
    assert story.condition("CompactSettled")["reason"] == "CompactBackupWaitTimeout"
    assert story.condition("CompactSettled")["lastTransitionTime"] == at(3_600)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"br": {"cluster": "another"}}, "its br.cluster is another, here it is basic"),
        ({"br": {"cluster": "basic", "clusterNamespace": "x"}}, "its br.clusterNamespace is x, here it is db"),
        ({"s3": {**S3, "prefix": "other"}}, "its storage is s3://bucket/other, here it is s3://bucket/daily"),
    ],
)
def test_a_compaction_of_another_log_is_refused_before_anything_runs(spec: dict[str, Any], told: str) -> None:
    story = Story()
    story.compaction = compaction("Complete", **spec)
    assert story.wanted() == []
    assert (story.status["phase"], told in story.condition("Invalid")["message"]) == ("Invalid", True)
    story.compaction = compaction("Complete", br={"cluster": "basic", "clusterNamespace": "db"})
    assert story.wanted() == [SNAPSHOT]


def test_a_compaction_of_another_log_is_told_while_the_snapshot_is_there() -> None:
    story = restored()
    story.compaction = compaction("Complete", br={"cluster": "another"})
    assert story.wanted() == []
    assert story.condition("Waiting")["reason"] == "CompactBackupMismatch"
    assert story.status["phase"] == "SnapshotRestore"


@pytest.mark.parametrize("step", [SNAPSHOT, LOG])
def test_a_step_that_fails_for_good_fails_the_restore(step: str) -> None:
    story = Story()
    story.compaction = compaction("Complete")
    story.sync()
    if step == LOG:
        story.ends(SNAPSHOT)
        story.sync()
    story.ends(step, complete=False, error={"reason": "AccessDenied", "message": "no"})
    assert story.wanted() == []
    found = story.condition("Failed")
    reason = "SnapshotRestoreFailed" if step == SNAPSHOT else "LogRestoreFailed"
    assert (story.status["phase"], found["reason"], found["message"]) == ("Failed", reason, "AccessDenied; no")


@pytest.mark.parametrize("step", [SNAPSHOT, LOG])
def test_each_step_has_its_own_retries(step: str) -> None:
    story = Story()
    story.compaction = compaction("Complete")
    for name in (SNAPSHOT, LOG)[: 1 if step == SNAPSHOT else 2]:
        assert story.wanted() == [name]
        story.ends(name, complete=False, error={"reason": "Away", "retryable": True})
        story.sync()
        assert (story.status["phase"], len(story.status["backoffRetryStatus"])) == ("RetryFailed", 1)
        story.clock += 400
        assert story.wanted() == [f"{name}-r1"]
        story.ends(f"{name}-r1")
    story.sync()
    assert story.status["phase"] == ("SnapshotRestore" if step == SNAPSHOT else "Complete")


@pytest.mark.parametrize("step", [SNAPSHOT, LOG])
def test_a_job_that_vanished_is_not_repeated(step: str) -> None:
    story = Story()
    story.compaction = compaction("Complete")
    for name in (SNAPSHOT, LOG)[: 1 if step == SNAPSHOT else 2]:
        story.sync()
        story.jobs[name] = job(name, created=at(story.clock), said=report("Running"))
        story.sync()
        if name != step:
            story.ends(name)
    del story.jobs[step]
    assert story.wanted() == []
    assert (story.status["phase"], "JobVanished" in story.condition("Failed")["message"]) == ("Failed", True)


def test_the_finished_snapshot_may_be_removed_while_the_log_waits() -> None:
    story = restored()
    story.jobs.clear()
    story.clock += 10**6
    assert story.wanted() == []
    assert story.status["phase"] == "SnapshotRestore"
    story.compaction = compaction("Complete")
    assert story.wanted() == [LOG]


def test_removing_the_wish_lets_the_log_follow() -> None:
    story = restored()
    del story.spec["replicationConfig"]
    assert story.wanted() == [LOG]


def test_a_cluster_that_is_not_ready_holds_the_second_step_visibly() -> None:
    story = restored()
    story.compaction = compaction("Complete")
    cr = parent("Restore", story.spec, status=story.status)
    seen = observed(cr, *story.jobs.values(), related=(tidb_cluster(ready=False), story.compaction))
    decision = decide(seen, NOW, Config())
    assert (decision.status["phase"], list(decision.create)) == ("SnapshotRestore", [])
    assert decision.status["conditions"][-1]["reason"] == "ClusterNotReady"


def test_a_lease_that_another_holds_is_waited_for() -> None:
    story = Story()
    story.sync()
    story.jobs[SNAPSHOT] = job(
        SNAPSHOT, created=at(1), said=report("Waiting", error={"reason": "ClusterBusy", "message": "held by Backup db/x"})
    )
    story.sync()
    assert (story.status["phase"], story.condition("Waiting")["message"]) == ("Waiting", "held by Backup db/x")
    story.jobs[SNAPSHOT] = job(SNAPSHOT, created=at(1), said=report("Running"))
    story.sync()
    assert (story.status["phase"], story.condition("Waiting")) == ("SnapshotRestore", {})


def test_an_edit_before_the_status_tells_of_a_step_begins_no_second_restore() -> None:
    """The first Job is there, the status is a write behind, and ``replicationConfig`` is taken out."""
    single = {key: value for key, value in SPEC.items() if key != "replicationConfig"}
    cr = parent("Restore", single, status={"observedGeneration": 1})
    decision = decide(observed(cr, job(SNAPSHOT), related=(OFF,)), NOW + timedelta(seconds=1), Config())
    assert not decision.create
    assert decision.status["replicationStep"] == "snapshot-restore"
