"""One pass of a BackupSchedule: slots, overlap, pause, groups, retention in context, and what a wrong spec does.

``TestManager``, ``TestMultiSchedules`` and ``TestGetLastScheduledTime`` of TiDB Operator, restated; differences are marked.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from app.domain.config import Config
from app.domain.schedule.reconcile import decide
from crds.contract import names
from tests.support.schedules import (
    BR,
    CREATED,
    DAILY,
    DAY,
    EXPORT,
    HOUR,
    LOG,
    NOW,
    backup,
    condition,
    dropped,
    log_backup,
    made,
    observed,
    schedule,
    sync,
    written,
)

TODAY = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
KNOWN = {"lastScheduleTime": "2026-01-31T02:00:00Z", "lastBackup": "nightly-2026-01-31t02-00-00"}


class TestSlots:
    def test_names_the_backup_by_its_slot(self) -> None:
        decision = sync()
        assert made(decision) == ["nightly-2026-01-31t02-00-00"]
        assert decision.status["nextBackupTime"] == "2026-02-01T02:00:00Z"

    def test_the_mark_moves_only_once_the_backup_is_seen(self) -> None:
        """Upstream writes the time first, and loses the run when the creation fails."""
        decision = sync()
        assert "lastScheduleTime" not in decision.status
        assert made(sync(status=decision.status, now=NOW + HOUR)) == ["nightly-2026-01-31t02-00-00"]
        seen = sync(DAILY, backup(TODAY, "Running"), status=decision.status)
        assert made(seen) == []
        assert seen.status["lastScheduleTime"] == seen.status["lastBackupTime"] == "2026-01-31T02:00:00Z"
        assert seen.status["lastBackup"] == "nightly-2026-01-31t02-00-00"

    def test_a_new_schedule_waits_for_its_first_slot(self) -> None:
        assert made(sync(now=CREATED + HOUR)) == []

    def test_missed_days_make_one_run(self) -> None:
        assert made(sync(DAILY, backup(TODAY - 9 * DAY), status={"lastBackupTime": "2026-01-22T02:00:00Z"})) == [
            "nightly-2026-01-31t02-00-00"
        ]

    def test_ten_missed_years_make_one_run_at_once(self) -> None:
        """Upstream skips a round after 1000 missed slots."""
        status = {"lastBackupTime": "2016-01-31T02:00:00Z"}
        spec = {**DAILY, "schedule": "* * * * *"}
        assert made(sync(spec, status=status, creationTimestamp="2016-01-01T00:00:00Z")) == ["nightly-2026-01-31t12-00-00"]

    def test_a_mark_in_the_future_is_corrected_once_the_clock_is_borne_out(self) -> None:
        """A clock that was ahead had put it down: it would stop the schedule until then."""
        poisoned = {"lastScheduleTime": "2027-01-31T02:00:00Z", "lastBackupTime": "2027-01-31T02:00:00Z"}
        decision = sync(status={**poisoned, "lastBackup": "nightly-2027-01-31t02-00-00"})
        assert made(decision) == []
        assert decision.status["lastScheduleTime"] == "2026-01-31T02:00:00Z"
        assert condition(decision, "ScheduleStalled") is None
        assert made(sync(status=decision.status, now=NOW + DAY)) == ["nightly-2026-02-01t02-00-00"]

    def test_a_mark_in_the_future_that_may_be_right_waits(self) -> None:
        status = {"lastBackupTime": "2026-02-05T02:00:00Z"}
        decision = sync(status=status, managedFields=[written(NOW - DAY)])
        assert made(decision) == []
        assert decision.status["clockCheck"] == {"shown": "2026-01-31T12:00:00Z"}

    def test_children_count_when_the_status_is_lost(self) -> None:
        assert made(sync(DAILY, backup(TODAY), status={})) == []

    def test_the_status_counts_when_the_children_are_gone(self) -> None:
        assert made(sync(status=KNOWN)) == []

    @pytest.mark.parametrize("field", ["lastBackupTime", "allBackupCleanTime", "lastScheduleTime"])
    def test_fields_of_tidb_operator_are_taken_over(self, field: str) -> None:
        assert made(sync(status={field: "2026-01-31T02:00:07Z"})) == []

    def test_a_backup_by_tidb_operator_is_known_by_its_name(self) -> None:
        legacy = backup(TODAY, name="nightly-2026-01-31t02-00-09")
        del legacy["metadata"]["annotations"]
        assert made(sync(DAILY, legacy)) == []

    def test_zone_and_every(self) -> None:
        assert made(sync({**DAILY, "timeZone": "Asia/Tokyo"})) == ["nightly-2026-01-30t17-00-00"]
        assert made(sync({**DAILY, "schedule": "@every 7h"})) == ["nightly-2026-01-31t06-00-00"]

    def test_resync_comes_with_the_next_slot(self) -> None:
        assert sync(DAILY, backup(TODAY)).resync_after == 14 * 3600


class TestRunImmediately:
    spec: ClassVar[dict[str, Any]] = {**DAILY, "runImmediately": True}

    def test_the_creation_is_the_first_slot(self) -> None:
        assert made(sync(self.spec, now=CREATED + timedelta(seconds=5))) == ["nightly-2026-01-01t12-00-00"]

    def test_is_retried_under_the_same_name_never_doubled(self) -> None:
        assert made(sync(self.spec, now=CREATED + HOUR)) == ["nightly-2026-01-01t12-00-00"]
        first = backup(CREATED, "Failed")
        assert made(sync(self.spec, first, now=CREATED + HOUR)) == []
        assert made(sync(self.spec, status={"lastScheduleTime": "2026-01-01T12:00:00Z"}, now=CREATED + HOUR)) == []

    def test_gives_way_to_a_newer_slot(self) -> None:
        assert made(sync(self.spec)) == ["nightly-2026-01-31t02-00-00"]


class TestOverlap:
    """TestManager: not found, Complete or Invalid lets the next one begin."""

    @pytest.mark.parametrize("phase", ["Complete", "Invalid", "Failed"])
    def test_an_ended_run_does_not_block(self, phase: str) -> None:
        """A failed one that was never scheduled blocks upstream for ever."""
        assert made(sync(DAILY, backup(TODAY - DAY, phase))) == ["nightly-2026-01-31t02-00-00"]

    @pytest.mark.parametrize("phase", ["", "Scheduled", "Running", "Waiting", "RetryFailed"])
    def test_a_run_under_way_blocks_and_is_named(self, phase: str) -> None:
        decision = sync(DAILY, backup(TODAY - DAY, phase))
        stalled = condition(decision, "ScheduleStalled") or {}
        assert made(decision) == []
        assert stalled["reason"] == "PreviousRunning"
        assert "nightly-2026-01-30t02-00-00" in stalled["message"]
        assert decision.status["nextBackupTime"] == "2026-01-31T02:00:00Z"

    def test_one_that_is_being_deleted_does_not_block(self) -> None:
        assert made(sync(DAILY, backup(TODAY - DAY, "Running", deleting=True))) == ["nightly-2026-01-31t02-00-00"]

    def test_the_log_backup_does_not_block(self) -> None:
        spec = {**DAILY, "logBackupTemplate": LOG}
        assert made(sync(spec, log_backup(CREATED))) == ["nightly-2026-01-31t02-00-00"]

    def test_allow(self) -> None:
        spec = {**DAILY, "concurrencyPolicy": "Allow"}
        assert made(sync(spec, backup(TODAY - DAY, "Running"))) == ["nightly-2026-01-31t02-00-00"]


class TestDeadline:
    spec: ClassVar[dict[str, Any]] = {**DAILY, "startingDeadlineSeconds": 3600}

    def test_in_time(self) -> None:
        assert made(sync(self.spec, now=TODAY + HOUR)) == ["nightly-2026-01-31t02-00-00"]

    def test_too_late_is_left_out_and_said(self) -> None:
        decision = sync(self.spec, now=TODAY + HOUR + timedelta(seconds=1))
        assert made(decision) == []
        assert (condition(decision, "ScheduleStalled") or {})["reason"] == "DeadlineMissed"
        assert decision.status["nextBackupTime"] == "2026-02-01T02:00:00Z"

    def test_a_backup_that_does_not_appear_is_asked_for_and_said(self) -> None:
        first = sync(now=TODAY)
        assert condition(first, "ScheduleStalled") is None
        again = sync(status=first.status, now=TODAY + timedelta(seconds=1))
        assert made(again) == made(first)
        stalled = condition(again, "ScheduleStalled") or {}
        assert stalled["reason"] == "NotCreated"
        assert "kubectl get backup nightly-2026-01-31t02-00-00" in stalled["message"]
        seen = sync(DAILY, backup(TODAY, "Running"), status=again.status)
        assert condition(seen, "ScheduleStalled") is None
        assert "requested" not in seen.status


class TestPause:
    spec: ClassVar[dict[str, Any]] = {**DAILY, "pause": True}

    def test_makes_nothing_and_keeps_deleting(self) -> None:
        old = [backup(TODAY - age * DAY) for age in range(1, 4)]
        decision = sync({**self.spec, "maxBackups": 1}, *old, status=KNOWN)
        assert made(decision) == []
        assert dropped(decision) == {"nightly-2026-01-29t02-00-00": "maxBackups", "nightly-2026-01-28t02-00-00": "maxBackups"}
        assert "nextBackupTime" not in decision.status
        assert condition(decision, "Paused")

    def test_resume_never_backfills(self) -> None:
        paused = sync(self.spec, now=TODAY + HOUR)
        resumed = sync(status=paused.status, now=TODAY + 2 * HOUR)
        assert made(resumed) == []
        # Not even what fell due between the last look at the paused schedule and its resumption.
        missed = sync(status=paused.status, now=TODAY + 3 * DAY)
        assert made(missed) == []
        assert missed.status["lastScheduleTime"] == "2026-02-03T02:00:00Z"
        assert condition(missed, "Paused") is None
        assert made(sync(status=missed.status, now=TODAY + 4 * DAY)) == ["nightly-2026-02-04t02-00-00"]

    def test_a_first_run_at_once_is_left_out_too(self) -> None:
        paused = sync({**self.spec, "runImmediately": True}, now=CREATED + HOUR)
        assert made(sync({**DAILY, "runImmediately": True}, status=paused.status, now=CREATED + 2 * HOUR)) == []

    def test_no_log_backup_either(self) -> None:
        assert made(sync({**self.spec, "logBackupTemplate": LOG})) == []


class TestGroup:
    """TestMultiSchedules."""

    labels: ClassVar[dict[str, Any]] = {names.SCHEDULE_GROUP_LABEL: "shop"}

    def decide(self, other: dict[str, Any], labels: dict[str, str]) -> Any:
        other["metadata"]["labels"] = dict(self.labels)
        return decide(observed(schedule(labels=labels), [], [other]), NOW, Config())

    def test_a_run_of_the_group_blocks_and_is_named(self) -> None:
        decision = self.decide(backup(TODAY, "Running", name="weekly-2026-01-31t01-00-00"), self.labels)
        assert made(decision) == []
        assert "weekly-2026-01-31t01-00-00" in (condition(decision, "ScheduleStalled") or {})["message"]

    @pytest.mark.parametrize("phase", ["Complete", "Failed", "Invalid"])
    def test_an_ended_one_does_not(self, phase: str) -> None:
        assert made(self.decide(backup(TODAY, phase, name="weekly-x"), self.labels))

    def test_without_the_label_nobody_else_matters(self) -> None:
        assert made(self.decide(backup(TODAY, "Running", name="weekly-x"), {}))


class TestRetentionInContext:
    def test_the_newest_stays_until_the_status_knows_its_slot(self) -> None:
        """It alone tells that its slot was dealt with: should the status be lost, a second one would be made."""
        spec = {**DAILY, "failedHistoryLimit": 0}
        failed = backup(TODAY, "Failed")
        first = sync(spec, failed)
        assert dropped(first) == {}
        assert dropped(sync(spec, failed, status=first.status)) == {"nightly-2026-01-31t02-00-00": "failedHistoryLimit"}

    def test_what_stays_and_what_goes_next_is_told(self) -> None:
        children = [backup(TODAY - age * DAY) for age in range(3)]
        decision = sync({**DAILY, "maxReservedTime": "72h"}, *children, status=KNOWN)
        assert decision.status["retention"] == {
            "kept": 3,
            "oldest": "2026-01-29T02:00:00Z",
            "expiring": [
                {"name": "nightly-2026-01-29t02-00-00", "rule": "maxReservedTime", "until": "2026-02-01T02:00:00Z"},
                {"name": "nightly-2026-01-30t02-00-00", "rule": "maxReservedTime", "until": "2026-02-02T02:00:00Z"},
                {"name": "nightly-2026-01-31t02-00-00", "rule": "maxReservedTime", "until": "2026-02-03T02:00:00Z"},
            ],
        }
        assert decision.resync_after == 14 * 3600

    @pytest.mark.parametrize(
        ("policy", "expected"), [({"maxBackups": 5}, 5), ({"maxReservedTime": "71h"}, 3), ({"maxReservedTime": "23h"}, 1)]
    )
    def test_ten_daily_runs(self, policy: dict[str, Any], expected: int) -> None:
        """TestManager: maxBackups 5 keeps 5, 71h keeps 3; 23h keeps 1 (the floor)."""
        children = [backup(TODAY - age * DAY) for age in range(10)]
        decision = sync({**DAILY, **policy}, *children, status=KNOWN, now=TODAY + HOUR)
        assert 10 - len(dropped(decision)) == expected

    @pytest.mark.parametrize(("behind", "expected"), [(timedelta(0), 1), (DAY, 2)])
    def test_ten_daily_runs_beside_a_log_backup(self, behind: timedelta, expected: int) -> None:
        """TestManager: 23h with a log backup keeps 2, the second as the base of the window, which ends where the log does. Once
        the log is 23h past the newest, that one is the base."""
        children = [log_backup(CREATED, TODAY - behind + 24 * HOUR), *[backup(TODAY - age * DAY) for age in range(10)]]
        spec = {**DAILY, "logBackupTemplate": LOG, "maxReservedTime": "23h"}
        decision = sync(spec, *children, status=KNOWN, now=TODAY + 24 * HOUR)
        assert 10 - len(dropped(decision)) == expected
        assert "log-nightly" not in dropped(decision)

    def test_an_unreadable_one_holds_everything_and_is_named(self) -> None:
        children = [backup(TODAY), backup(TODAY - DAY, commitTs="soon"), backup(TODAY - 2 * DAY)]
        decision = sync({**DAILY, "maxBackups": 1}, *children, status=KNOWN)
        held = condition(decision, "RetentionHeld") or {}
        assert dropped(decision) == {}
        assert "nightly-2026-01-30t02-00-00: status.commitTs 'soon'" in held["message"]

    def test_a_stranger_is_left_alone(self) -> None:
        stranger = backup(TODAY - 9 * DAY, name="by-hand")
        del stranger["metadata"]["annotations"]
        assert dropped(sync({**DAILY, "maxBackups": 1}, stranger, backup(TODAY), status=KNOWN)) == {}

    def test_at_most_so_many_in_one_pass(self) -> None:
        children = [backup(TODAY - age * DAY) for age in range(20)]
        decision = sync({**DAILY, "maxBackups": 1}, *children, status=KNOWN, config=Config(max_deletions=4))
        assert sorted(dropped(decision))[0] == "nightly-2026-01-12t02-00-00"
        assert len(decision.drop) == 4

    def test_once_all_are_gone_the_time_is_kept(self) -> None:
        decision = sync(status=KNOWN)
        assert decision.status["allBackupCleanTime"] == "2026-01-31T02:00:00Z"
        assert "lastBackup" not in decision.status
        assert made(sync(status=decision.status)) == []

    def test_the_last_success_outlives_its_backup(self) -> None:
        seen = sync(DAILY, backup(TODAY))
        assert seen.status["lastSuccessTime"] == "2026-01-31T02:05:00Z"
        assert sync(status=seen.status).status["lastSuccessTime"] == "2026-01-31T02:05:00Z"


def keep(**rules: Any) -> dict[str, Any]:
    return {"retention": rules}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": "0 0 30 2 *"}, "spec.schedule: '0 0 30 2 *' never runs"),
        ({"schedule": "every day"}, "spec.schedule"),
        ({"schedule": "@every 0s"}, "spec.schedule"),
        ({"timeZone": "Mars/Phobos"}, "spec.timeZone: time zone 'Mars/Phobos' is unknown"),
        ({"maxBackups": -1}, "spec.maxBackups"),
        ({"maxReservedTime": "0s"}, "spec.maxReservedTime: '0s' is no positive duration"),
        ({"maxReservedTime": "-1h"}, "spec.maxReservedTime"),
        ({"maxReservedTime": ""}, "spec.maxReservedTime"),
        ({"maxReservedTime": "3d"}, "spec.maxReservedTime"),
        ({"startingDeadlineSeconds": 0}, "spec.startingDeadlineSeconds"),
        ({"failedHistoryLimit": -1}, "spec.failedHistoryLimit"),
        (keep(keepDaily=0), "spec.retention.keepDaily"),
        (keep(keepDaily=1, minKeep=0), "spec.retention.minKeep"),
        (keep(keepWithin="0d"), "spec.retention.keepWithin"),
        (keep(), "spec.retention"),
        ({**keep(keepLast=3), "maxBackups": 3}, "spec.retention"),
        ({**keep(keepLast=3), "maxReservedTime": "72h"}, "spec.retention"),
        (keep(keepLast=-1), "spec.retention.keepLast"),
        (keep(keepWithin="-3d"), "spec.retention.keepWithin"),
        (keep(minKeep=2), "spec.retention"),
        ({"maxBackups": "three"}, "spec.maxBackups"),
        ({"startingDeadlineSeconds": -1}, "spec.startingDeadlineSeconds"),
        ({"schedule": "0 0 31 4,6,9,11 *"}, "spec.schedule: '0 0 31 4,6,9,11 *' never runs"),
        ({"schedule": None}, "spec.schedule"),
        ({"concurrencyPolicy": "Replace"}, "spec.concurrencyPolicy"),
        ({"backupTemplate": {"br": {"cluster": "basic"}}}, "spec.backupTemplate: no storage"),
        ({"backupTemplate": None}, "spec.backupTemplate"),
        ({"backupTemplate": {**BR, "s3": {"provider": "aws", "bucket": ""}}}, "spec.backupTemplate"),
        ({"backupTemplate": {**BR, "s3": {**BR["s3"], "prefix": "a/../b"}}}, "spec.backupTemplate: s3.prefix"),
        ({"backupTemplate": {**BR, "s3": {**BR["s3"], "prefix": "a/.history"}}}, "spec.backupTemplate.s3.prefix: the part"),
        ({"logBackupTemplate": {"backupMode": "log", "br": {"cluster": "basic"}}}, "spec.logBackupTemplate: no storage"),
        (
            {"logBackupTemplate": LOG, "compactBackupTemplate": {"br": {"cluster": "basic"}}, "compactInterval": "1h"},
            "spec.compactBackupTemplate: no storage",
        ),
        ({"logBackupTemplate": {**BR, "backupMode": "snapshot"}}, "spec.logBackupTemplate"),
        ({"logBackupTemplate": {**EXPORT, "backupMode": "log"}}, "spec.logBackupTemplate.br"),
        ({"compactBackupTemplate": BR, "logBackupTemplate": LOG}, "spec.compactInterval: is missing"),
        ({"compactBackupTemplate": BR, "compactInterval": "1h"}, "spec.compactBackupTemplate: there is no log"),
        ({"logBackupTemplate": LOG, "compactBackupTemplate": BR, "compactInterval": "0s"}, "spec.compactInterval"),
        ({"minCompactStartTs": "yesterday"}, "spec.minCompactStartTs"),
        ({"pauze": True}, "spec.pauze: unknown field"),
    ],
)
def test_a_wrong_spec_is_invalid_makes_nothing_and_deletes_nothing(changes: dict[str, Any], says: str) -> None:
    children = [backup(TODAY - age * DAY) for age in range(1, 9)]
    decision = sync({**DAILY, "maxBackups": 1, **changes}, *children, status=KNOWN)
    if "retention" in changes and "maxBackups" not in changes:
        decision = sync({**DAILY, **changes}, *children, status=KNOWN)
    assert says in (condition(decision, "Invalid") or {})["message"]
    assert (made(decision), dropped(decision)) == ([], {})
    assert decision.status["lastScheduleTime"] == KNOWN["lastScheduleTime"]


def test_a_corrected_spec_is_no_longer_invalid() -> None:
    wrong = sync({**DAILY, "timeZone": "Mars/Phobos"})
    assert condition(sync(status=wrong.status), "Invalid") is None


def test_max_backups_0_keeps_all_as_upstream() -> None:
    assert dropped(sync({**DAILY, "maxBackups": 0}, *[backup(TODAY - age * DAY) for age in range(9)], status=KNOWN)) == {}


def test_finalize_lets_go_and_keeps_the_status() -> None:
    seen = observed(schedule(status=KNOWN), [backup(TODAY)])
    decision = decide(type(seen)(parent=seen.parent, children=seen.children, finalizing=True), NOW, Config())
    assert (decision.finalized, dict(decision.status), decision.drop, decision.create) == (True, KNOWN, (), ())
