"""A log task as the cluster reports it: the table of app/domain/backup/log_watch.py, row by row, and the watch's own Job."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.backup.log_watch import GRACE_ANNOTATION
from app.domain.backup.reconcile import decide
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.job.observed import JobIntent
from crds.v1alpha1 import KINDS
from tests.support.objects import LOG_SPEC, NOW, at, job, observed, parent, report, tidb_cluster

CONFIG = Config()
WATCH = "backup-basic-log-watch"
STARTED = at(-600)
"""When the last command ended."""


def status(phase: str = "Running", **fields: Any) -> dict[str, Any]:
    entry = {"command": "log-start", "phase": "Complete", "timeCompleted": STARTED}
    return {"phase": phase, "commitTs": "450", "logSubCommandStatuses": {"log-start": entry}, **fields}


class Cluster:
    """A log Backup and what its watch says, report by report."""

    def __init__(self, received: dict[str, Any], spec: Any = None, **meta: Any) -> None:
        self.status, self.spec, self.meta = received, {**LOG_SPEC, **(spec or {})}, meta
        self.jobs: dict[str, dict[str, Any]] = {WATCH: job(WATCH, created=at(-500))}
        self.seq = 0
        self.related: tuple[dict[str, Any], ...] = (tidb_cluster(),)

    def sync(self, after: float = 0) -> Decision[JobIntent]:
        cr = parent("Backup", self.spec, status=self.status, **self.meta)
        seen = observed(cr, *self.jobs.values(), related=self.related)
        decision = decide(seen, NOW + timedelta(seconds=after), CONFIG)
        model = KINDS["Backup"].model_fields["status"].annotation
        next(part for part in model.__args__ if part is not type(None)).model_validate(decision.status)  # type: ignore[union-attr]
        self.status = dict(decision.status)
        again = decide(
            observed(parent("Backup", self.spec, status=self.status, **self.meta), *self.jobs.values(), related=self.related),
            NOW + timedelta(seconds=after),
            CONFIG,
        )
        if not (decision.create or decision.drop or again.create or again.drop):
            assert again.status == self.status, "fed back, nothing changes"
        return decision

    def says(self, state: str, when: float, **result: Any) -> Decision[JobIntent]:
        """The watch reports, *when* seconds after now."""
        self.seq += 1
        result = {"taskState": state, "observedAt": at(when), **result}
        self.jobs[WATCH] = job(WATCH, created=at(-500), said=report("Running", seq=self.seq, result=result))
        return self.sync()

    @property
    def phase(self) -> str:
        return str(self.status["phase"])

    def condition(self, kind: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.status.get("conditions", [])
        return next((item for item in found if item["type"] == kind), {})


def test_the_facts_are_copied() -> None:
    cluster = Cluster(status())
    cluster.says("running", 0, checkpointTs=460, lagSeconds=7.9)
    assert cluster.status["logCheckpointTs"] == "460"
    assert cluster.status["timeSynced"] == at(0)
    assert cluster.status["logTask"] == {"state": "running", "since": at(0), "observedAt": at(0), "lagSeconds": 7}
    cluster.says("running", 60, checkpointTs="470", lagSeconds=3, lastError="store 4: disk is full")
    assert cluster.status["logTask"] == {
        "state": "running",
        "since": at(0),
        "observedAt": at(60),
        "lagSeconds": 3,
        "lastError": "store 4: disk is full",
    }
    assert (cluster.phase, cluster.status["logCheckpointTs"]) == ("Running", "470")


@pytest.mark.parametrize(
    "said",
    [
        {"taskState": "running"},
        {"taskState": "dancing", "observedAt": at(5)},
        {"taskState": "absent", "observedAt": "soon"},
        {"observedAt": at(5), "checkpointTs": 9},
        {},
    ],
)
def test_a_report_that_is_not_understood_changes_nothing(said: dict[str, Any]) -> None:
    cluster = Cluster(status())
    before = dict(cluster.sync().status)
    cluster.jobs[WATCH] = job(WATCH, created=at(-500), said=report("Running", result=said))
    assert cluster.sync().status == before


@pytest.mark.parametrize("value", ["0", 0, "", "x", None, -3])
def test_no_checkpoint_yet_keeps_the_one_known(value: Any) -> None:
    cluster = Cluster(status(logCheckpointTs="455"))
    cluster.says("running", 0, checkpointTs=value)
    assert cluster.status["logCheckpointTs"] == "455"


def test_an_older_report_changes_nothing() -> None:
    cluster = Cluster(status())
    cluster.says("running", 60, checkpointTs="470")
    before = dict(cluster.status)
    assert cluster.says("paused", 30, checkpointTs="460").status == before


@pytest.mark.parametrize(
    ("phase", "seen", "asked", "corrected", "follows"),
    [
        ("Running", "paused", "", "Paused", ["backup-basic-log-resume"]),
        ("Running", "paused", "log-start", "Paused", ["backup-basic-log-resume"]),
        ("Paused", "running", "log-pause", "Running", ["backup-basic-log-pause"]),
        ("RetryFailed", "running", "", "Running", []),
        ("RetryFailed", "paused", "", "Paused", ["backup-basic-log-resume"]),
    ],
)
def test_the_second_look_corrects_and_the_spec_goes_on_from_there(
    phase: str, seen: str, asked: str, corrected: str, follows: list[str]
) -> None:
    cluster = Cluster(status(phase), {"logSubcommand": asked} if asked else None)
    assert not cluster.says(seen, 0).create
    assert cluster.phase == phase
    # The same report again is no second look.
    assert not cluster.sync(after=3_000).create
    assert cluster.phase == phase
    decision = cluster.says(seen, 60)
    assert (cluster.phase, cluster.condition(corrected)["reason"]) == (corrected, "LogBackupKernelSync")
    # Acted upon once it stands in the status: a pass that is behind could not come to it again.
    assert (list(decision.create), decision.resync_after) == ([], 1)
    assert [intent.name for intent in cluster.sync().create] == follows


def test_a_state_that_heals_starts_the_count_anew() -> None:
    cluster = Cluster(status())
    for when, seen in enumerate(["paused", "running", "paused", "unknown", "paused"]):
        cluster.says(seen, 60 * when)
    assert cluster.phase == "Running"
    cluster.says("paused", 300)
    assert cluster.phase == "Paused"


def test_looks_from_before_the_last_command_ended_do_not_count() -> None:
    cluster = Cluster(status("Paused", logTask={"state": "paused", "since": at(-900), "observedAt": at(-60)}))
    cluster.spec["logSubcommand"] = "log-start"
    assert [intent.name for intent in cluster.sync().create] == ["backup-basic-log-resume"]
    cluster.jobs["backup-basic-log-resume"] = job(
        "backup-basic-log-resume", state="complete", created=at(1), ended=at(30), said=report("Complete")
    )
    cluster.says("paused", 20)
    assert cluster.phase == "Running"
    cluster.says("paused", 29)
    assert cluster.phase == "Running"
    cluster.says("running", 40)
    assert (cluster.phase, cluster.status["logTask"]["since"]) == ("Running", at(40))


def test_a_command_under_way_is_not_corrected() -> None:
    cluster = Cluster(status(), {"logSubcommand": "log-pause"})
    cluster.jobs["backup-basic-log-pause"] = job("backup-basic-log-pause", said=report("Running"))
    for when in (0, 60, 120):
        cluster.says("paused", when)
    assert cluster.phase == "Running"


def test_a_task_that_vanished_fails_the_backup_at_the_second_look() -> None:
    cluster = Cluster(status())
    cluster.says("absent", 0)
    assert cluster.phase == "Running"
    cluster.says("absent", 60)
    assert (cluster.phase, cluster.condition("Failed")["reason"]) == ("Failed", "LogBackupTaskNotFound")
    assert cluster.condition("Failed")["lastTransitionTime"] == at(60)
    assert cluster.status["timeCompleted"] == at(60)
    dropped = cluster.sync().drop
    assert [(drop.name, bool(drop.rule)) for drop in dropped] == [(WATCH, True)]
    del cluster.jobs[WATCH]
    for asked in ("log-start", "log-pause", "log-stop"):
        cluster.spec["logSubcommand"] = asked
        decision = cluster.sync()
        assert (cluster.phase, list(decision.create)) == ("Failed", [])


def test_what_was_backed_up_of_a_vanished_task_can_still_be_truncated() -> None:
    failed = [{"type": "Failed", "status": "True", "reason": "LogBackupTaskNotFound"}]
    cluster = Cluster(status("Failed", conditions=failed, logCheckpointTs="900"), {"logTruncateUntil": "800"})
    cluster.jobs.clear()
    assert [intent.truncate_until for intent in cluster.sync().create] == ["800"]


def test_a_task_that_is_gone_when_it_is_to_be_stopped_is_stopped() -> None:
    cluster = Cluster(status(), {"logSubcommand": "log-stop"})
    given_up = {"command": "log-stop", "phase": "Failed", "timeCompleted": at(-100)}
    cluster.status["logSubCommandStatuses"]["log-stop"] = given_up
    for when in (0, 60):
        assert not cluster.says("absent", when).create
    assert (cluster.phase, cluster.status["timeCompleted"]) == ("Stopped", at(60))
    assert [drop.name for drop in cluster.sync().drop] == [WATCH]
    assert "logTask" not in cluster.status


def test_a_pause_by_an_error_is_told_at_once_with_its_reason() -> None:
    cluster = Cluster(status())
    decision = cluster.says("errorPaused", 0, pauseReason="store 4 cannot upload", lastError="AccessDenied")
    found = cluster.condition("RetryFailed")
    assert (cluster.phase, found["reason"]) == ("RetryFailed", "LogBackupErrorPaused")
    assert "store 4 cannot upload; AccessDenied" in found["message"]
    assert not decision.create, "an error is not resumed by itself"
    for when in (60, 120):
        cluster.says("running", when)
    assert cluster.phase == "Running"


def test_a_pause_by_an_error_is_mended_through_the_spec() -> None:
    cluster = Cluster(status())
    cluster.says("errorPaused", 0)
    cluster.spec["logSubcommand"] = "log-pause"
    assert [intent.name for intent in cluster.sync().create] == ["backup-basic-log-pause"]
    cluster.jobs["backup-basic-log-pause"] = job(
        "backup-basic-log-pause", state="complete", created=at(1), ended=at(30), said=report("Complete")
    )
    cluster.sync()
    cluster.says("errorPaused", 40)
    assert (cluster.phase, list(cluster.sync().create)) == ("Paused", [])
    cluster.spec["logSubcommand"] = "log-start"
    assert [intent.name for intent in cluster.sync().create] == ["backup-basic-log-resume"]


@pytest.mark.parametrize(
    ("annotation", "hours", "fails"),
    [
        (None, 167, False),
        (None, 168, True),
        ("2h", 1, False),
        ("2h", 2, True),
        ("-1h", 100, False),
        ("0", 100, False),
        ("soon", 100, False),
    ],
)
def test_an_unknown_state_fails_the_backup_after_its_grace_period(annotation: str | None, hours: int, fails: bool) -> None:
    meta = {"annotations": {GRACE_ANNOTATION: annotation}} if annotation else {}
    cluster = Cluster(status(), **meta)
    cluster.says("unknown", 0, lastError="PD does not answer")
    assert "timeSynced" not in cluster.status
    cluster.says("unknown", 3600 * hours, lastError="PD does not answer")
    assert (cluster.phase == "Failed") is fails
    if fails:
        assert cluster.condition("Failed")["reason"] == "LogBackupStateQueryFailed"
        assert f"for {hours}h0m0s: PD does not answer" in cluster.condition("Failed")["message"]


def test_one_answer_ends_the_grace_period() -> None:
    cluster = Cluster(status())
    cluster.says("unknown", 0)
    cluster.says("running", 3600 * 100)
    cluster.says("unknown", 3600 * 101)
    cluster.says("unknown", 3600 * 200)
    assert cluster.phase == "Running"


@pytest.mark.parametrize("phase", ["Running", "Paused", "RetryFailed"])
def test_a_task_is_watched_while_it_should_be_there(phase: str) -> None:
    cluster = Cluster(status(phase), {"logSubcommand": "log-pause"} if phase == "Paused" else None)
    cluster.jobs.clear()
    assert [intent.name for intent in cluster.sync().create] == [WATCH]


@pytest.mark.parametrize(
    "received",
    [
        status("Stopped"),
        status("Failed"),
        {"phase": "Running", "logSubCommandStatuses": {"log-start": {"phase": "Failed"}}},
        {},
    ],
)
def test_a_task_that_is_not_there_is_not_watched(received: dict[str, Any]) -> None:
    cluster = Cluster(received)
    cluster.jobs.clear()
    assert WATCH not in [intent.name for intent in cluster.sync().create]


def test_without_its_cluster_no_watch_is_made_and_nothing_waits() -> None:
    cluster = Cluster(status())
    cluster.jobs.clear()
    cluster.related = ()
    decision = cluster.sync()
    assert (cluster.phase, list(decision.create)) == ("Running", [])
    assert not cluster.condition("Waiting")


@pytest.mark.parametrize("state", ["complete", "failed"])
def test_a_watch_that_ended_by_itself_is_replaced_after_a_while(state: str) -> None:
    cluster = Cluster(status())
    cluster.jobs[WATCH] = job(WATCH, state=state, created=at(-500), ended=at(0))
    waiting = cluster.sync(after=10)
    assert (waiting.resync_after, list(waiting.drop), list(waiting.create)) == (50, [], [])
    dropped = cluster.sync(after=60)
    assert [drop.name for drop in dropped.drop] == [WATCH]
    del cluster.jobs[WATCH]
    assert [intent.name for intent in cluster.sync(after=61).create] == [WATCH]


def test_a_watch_whose_pod_does_not_come_up_is_told() -> None:
    cluster = Cluster(status())
    cluster.jobs[WATCH] = job(WATCH, state="pending", created=at(0))
    assert cluster.sync(after=30).resync_after == CONFIG.start_deadline - 30
    cluster.sync(after=CONFIG.start_deadline)
    assert WATCH in cluster.condition("Stalled")["message"]
    assert cluster.phase == "Running"


def test_a_watch_that_cannot_look_says_why() -> None:
    cluster = Cluster(status())
    error = {"reason": "UsageError", "message": "BACKUP_MANAGER_LOG_INTERVAL: 0s is less than a second"}
    cluster.jobs[WATCH] = job(WATCH, created=at(-500), said=report("Failed", timeCompleted=at(-490), error=error))
    assert not cluster.sync().drop
    told = cluster.condition("Stalled")
    assert (cluster.phase, told["reason"], told["lastTransitionTime"]) == ("Running", "UsageError", at(-490))
    assert "not watched: BACKUP_MANAGER_LOG_INTERVAL" in told["message"]
    cluster.says("running", 0)
    assert cluster.condition("Stalled") == {}


def test_a_running_backup_whose_next_command_must_wait_keeps_its_watch() -> None:
    cluster = Cluster(status("RetryFailed"), {"logSubcommand": "log-pause"})
    cluster.related = (tidb_cluster(ready=False),)
    decision = cluster.sync()
    assert (cluster.phase, list(decision.drop)) == ("RetryFailed", [])
    assert cluster.condition("Waiting")
