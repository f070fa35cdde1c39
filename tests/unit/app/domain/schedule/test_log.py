"""The log backup of a schedule, its compaction (``TestSyncWithCompact...`` of TiDB Operator, restated) and what is built."""

from datetime import timedelta
from typing import Any

import pytest

from app.builders.scheduled_backup import build
from app.domain.config import Config
from app.domain.observed import Object
from app.domain.schedule.reconcile import decide
from app.hooks.backupschedule import KIND
from crds.contract import names, tso
from crds.v1alpha1 import spec_problems
from tests.support.schedules import (
    BR,
    CREATED,
    DAILY,
    DAY,
    EXPORT,
    HOUR,
    LOG,
    NOW,
    S3,
    backup,
    compaction,
    dropped,
    log_backup,
    made,
    observed,
    schedule,
    sync,
)

KNOWN = {"lastScheduleTime": "2026-01-31T02:00:00Z"}
WITH_LOG: dict[str, Any] = {**DAILY, "logBackupTemplate": LOG}
MINUTE = timedelta(minutes=1)


def built(
    spec: dict[str, Any], *children: Object, now: Any = NOW, status: Any = KNOWN, **meta: Any
) -> dict[str, dict[str, Any]]:
    """What one pass makes, by name."""
    seen = observed(schedule(spec, status=status, **meta), children)
    return {intent.name: build(seen, intent, Config()) for intent in decide(seen, now, Config()).create}


class TestLogBackup:
    def test_is_made_once_beside_the_snapshots(self) -> None:
        log = built(WITH_LOG)["log-nightly"]
        assert log["spec"]["s3"]["prefix"] == "daily/log-2026-01-31t02-00-00"
        assert "annotations" not in log["metadata"]
        assert made(sync(WITH_LOG, log_backup(CREATED), status=KNOWN)) == []

    def test_snapshots_do_not_wait_for_it(self) -> None:
        """Upstream stops making snapshots when it cannot look at the log backup."""
        assert made(sync(WITH_LOG)) == ["log-nightly", "nightly-2026-01-31t02-00-00"]

    def test_one_on_its_way_out_is_waited_for(self) -> None:
        going = log_backup(CREATED)
        going["metadata"]["deletionTimestamp"] = "2026-01-31T11:00:00Z"
        assert made(sync(WITH_LOG, going, status=KNOWN)) == []

    def test_stays_when_its_template_goes(self) -> None:
        assert dropped(sync({**DAILY, "maxBackups": 1}, log_backup(CREATED), status=KNOWN)) == {}

    def test_is_no_candidate_of_any_limit(self) -> None:
        """Under maxBackups it is the oldest, and upstream deletes it."""
        children = [log_backup(CREATED), *[backup(NOW - age * DAY) for age in range(1, 6)]]
        assert "log-nightly" not in dropped(sync({**WITH_LOG, "maxBackups": 2}, *children, status=KNOWN))

    def test_start_is_told(self) -> None:
        status = sync(WITH_LOG, log_backup(CREATED + HOUR), status=KNOWN).status
        assert (status["logBackup"], status["logBackupStartTs"]) == ("log-nightly", "2026-01-01T13:00:00Z")


class TestTruncation:
    def until(self, spec: dict[str, Any], *children: Object, **status: Any) -> Any:
        text = sync(spec, *children, status={**KNOWN, **status}).status.get("logTruncateUntil")
        return tso.to_datetime(int(text)) if text else None

    @pytest.mark.parametrize("policy", [{"maxBackups": 3}, {"maxReservedTime": "72h"}, {"retention": {"keepDaily": 3}}])
    def test_up_to_the_oldest_that_is_left_under_every_policy(self, policy: dict[str, Any]) -> None:
        """Upstream truncates under maxReservedTime alone."""
        children = [log_backup(CREATED, NOW), *[backup(NOW - age * DAY) for age in (1, 2, 3)]]
        assert self.until({**WITH_LOG, **policy}, *children) == NOW - 3 * DAY

    def test_not_past_one_that_goes_in_this_very_pass(self) -> None:
        children = [log_backup(CREATED, NOW), *[backup(NOW - age * DAY) for age in (1, 2, 3)]]
        assert self.until({**WITH_LOG, "maxBackups": 1}, *children) == NOW - 3 * DAY

    def test_not_before_the_log_begins(self) -> None:
        assert self.until({**WITH_LOG, "maxBackups": 3}, log_backup(NOW - DAY, NOW), backup(NOW - 2 * DAY)) is None

    def test_not_past_the_checkpoint(self) -> None:
        assert self.until({**WITH_LOG, "maxBackups": 3}, log_backup(CREATED, NOW - 2 * DAY), backup(NOW - DAY)) is None

    def test_not_without_a_policy(self) -> None:
        assert self.until(WITH_LOG, log_backup(CREATED, NOW), backup(NOW - DAY)) is None

    def test_not_past_a_complete_one_of_unknown_commit(self) -> None:
        unknown = backup(NOW - 2 * DAY - HOUR, commitTs="")
        assert self.until({**WITH_LOG, "maxBackups": 3}, log_backup(CREATED, NOW), unknown, backup(NOW - DAY)) == (
            NOW - 2 * DAY - HOUR
        )

    def test_never_goes_back(self) -> None:
        before = str(tso.from_datetime(NOW - DAY))
        children = [log_backup(CREATED, NOW), backup(NOW - 2 * DAY)]
        assert self.until({**WITH_LOG, "maxBackups": 3}, *children, logTruncateUntil=before) == NOW - DAY

    def test_stands_still_while_something_is_unreadable(self) -> None:
        children = [log_backup(CREATED, NOW), backup(NOW - DAY), backup(NOW - 2 * DAY, commitTs="?")]
        assert self.until({**WITH_LOG, "maxBackups": 3}, *children) is None

    def test_not_past_what_is_compacted(self) -> None:
        spec = {**WITH_LOG, "maxBackups": 3, "compactBackupTemplate": BR, "compactInterval": "24h"}
        children = [log_backup(CREATED, NOW), backup(NOW - DAY)]
        assert self.until(spec, *children) is None
        assert self.until(spec, *children, lastCompactProgress="2026-01-20T00:00:00Z") == NOW - timedelta(days=11.5)


class TestRecoveryWindow:
    def window(self, *children: Object) -> Any:
        return sync(WITH_LOG, *children, status=KNOWN).status.get("recoveryWindow")

    def test_from_the_oldest_snapshot_to_the_checkpoint(self) -> None:
        children = [log_backup(CREATED, NOW - MINUTE), backup(NOW - DAY), backup(NOW - 2 * DAY)]
        assert self.window(*children) == {"from": "2026-01-29T12:00:00Z", "to": "2026-01-31T11:59:00Z"}

    def test_snapshots_from_before_the_log_are_single_points(self) -> None:
        children = [log_backup(NOW - 36 * HOUR, NOW), *[backup(NOW - age * DAY) for age in (1, 2, 3)]]
        assert self.window(*children) == {
            "from": "2026-01-28T12:00:00Z",
            "to": "2026-01-31T12:00:00Z",
            "gaps": [
                {"from": "2026-01-28T12:00:00Z", "to": "2026-01-29T12:00:00Z"},
                {"from": "2026-01-29T12:00:00Z", "to": "2026-01-30T12:00:00Z"},
            ],
        }

    def test_what_was_truncated_is_gone(self) -> None:
        log = log_backup(CREATED, NOW, logSuccessTruncateUntil=str(tso.from_datetime(NOW - 36 * HOUR)))
        assert self.window(log, backup(NOW - DAY), backup(NOW - 2 * DAY))["gaps"] == [
            {"from": "2026-01-29T12:00:00Z", "to": "2026-01-30T12:00:00Z"}
        ]

    def test_nothing_is_promised_without_both(self) -> None:
        assert self.window(backup(NOW - DAY)) is None
        assert self.window(log_backup(CREATED, NOW)) is None
        assert self.window(log_backup(CREATED), backup(NOW - DAY)) is None
        assert self.window(log_backup(CREATED, NOW), backup(NOW - DAY, "Failed")) is None


class TestCompaction:
    """An hour of log, an interval of five minutes."""

    spec = {**WITH_LOG, "compactBackupTemplate": BR, "compactInterval": "5m"}  # noqa: RUF012
    log = log_backup(NOW - HOUR, NOW)

    def stretch(self, *children: Object, spec: dict[str, Any] = spec, status: Any = KNOWN) -> tuple[str, str, str] | None:
        made_now = built(spec, self.log, *children, status=status)
        found = [(name, item["spec"]["startTs"][11:], item["spec"]["endTs"][11:]) for name, item in made_now.items()]
        return found[0] if found else None

    def test_takes_three_intervals_at_most(self) -> None:
        assert self.stretch() == ("compact-nightly-2026-01-31t11-00-00", "11:00:00", "11:15:00")

    def test_goes_on_where_the_last_ended(self) -> None:
        last = compaction(NOW - HOUR, NOW - 45 * MINUTE, made=NOW - 6 * MINUTE)
        assert self.stretch(last) == ("compact-nightly-2026-01-31t11-15-00", "11:15:00", "11:30:00")

    def test_rests_for_an_interval(self) -> None:
        last = compaction(NOW - HOUR, NOW - 45 * MINUTE, made=NOW - 4 * MINUTE)
        assert self.stretch(last) is None
        decision = sync(self.spec, self.log, last, status=KNOWN)
        assert decision.resync_after == 60
        assert decision.status["lastCompactProgress"] == "2026-01-31T11:15:00Z"
        assert decision.status["lastCompactExecutionTs"] == "2026-01-31T11:56:00Z"

    @pytest.mark.parametrize("state", ["", "Scheduled", "Running", "RetryFailed"])
    def test_waits_for_one_under_way(self, state: str) -> None:
        assert self.stretch(compaction(NOW - HOUR, NOW - 45 * MINUTE, state, made=NOW - 30 * MINUTE)) is None

    def test_a_failed_stretch_is_repeated_under_another_name(self) -> None:
        failed = compaction(NOW - HOUR, NOW - 45 * MINUTE, "Failed", made=NOW - 30 * MINUTE)
        assert self.stretch(failed) == ("compact-nightly-2026-01-31t11-00-00-r1", "11:00:00", "11:15:00")

    def test_the_end_that_was_reached_counts(self) -> None:
        last = compaction(NOW - HOUR, NOW - 45 * MINUTE, made=NOW - 6 * MINUTE)
        last["status"]["endTs"] = "2026-01-31 11:20:00"
        assert (self.stretch(last) or ("", "", ""))[1] == "11:20:00"

    def test_progress_never_goes_back_and_survives_its_compaction(self) -> None:
        status = {**KNOWN, "lastCompactProgress": "2026-01-31T11:30:00Z", "lastCompact": "gone"}
        assert (self.stretch(status=status) or ("", "", ""))[1:] == ("11:30:00", "11:45:00")

    def test_takes_the_rest_when_that_is_less(self) -> None:
        status = {**KNOWN, "lastCompactProgress": "2026-01-31T11:50:00Z"}
        assert (self.stretch(status=status) or ("", "", ""))[1:] == ("11:50:00", "12:00:00")

    @pytest.mark.parametrize(
        ("bound", "start"), [("2026-01-31 11:30:00", "11:30:00"), ("2026-01-01 00:00:00", "11:00:00"), ("", "11:00:00")]
    )
    def test_nothing_before_the_lower_bound(self, bound: str, start: str) -> None:
        assert (self.stretch(spec={**self.spec, "minCompactStartTs": bound}) or ("", "", ""))[1] == start

    def test_nothing_without_a_checkpoint_or_before_an_interval_has_passed(self) -> None:
        assert built(self.spec, log_backup(NOW - HOUR)) == {}
        assert built(self.spec, log_backup(NOW - 4 * MINUTE, NOW)) == {}

    def test_works_in_the_folder_of_the_log(self) -> None:
        item = built(self.spec, self.log)["compact-nightly-2026-01-31t11-00-00"]
        assert item["spec"]["s3"]["prefix"] == "logs/log-2026-01-01t12-00-00"
        assert spec_problems("CompactBackup", item["spec"]) == []


class TestBuildBackup:
    """TestBuildBackup: labels, name, prefix, fallbacks."""

    def test_br_gets_a_folder_of_its_own_for_each_run(self) -> None:
        item = built(DAILY, status={})["nightly-2026-01-31t02-00-00"]
        assert item["spec"]["s3"]["prefix"] == "daily/basic-pd.db-2379-2026-01-31t02-00-00"
        other = {**DAILY, "backupTemplate": {"br": {"cluster": "a", "clusterNamespace": "b"}, "s3": {**S3, "prefix": ""}}}
        assert (
            built(other, status={})["nightly-2026-01-31t02-00-00"]["spec"]["s3"]["prefix"] == "a-pd.b-2379-2026-01-31t02-00-00"
        )
        assert spec_problems("Backup", item["spec"]) == []

    def test_the_template_is_not_touched(self) -> None:
        spec = {**DAILY, "backupTemplate": {**BR, "s3": dict(S3)}}
        built(spec, status={})
        assert spec["backupTemplate"]["s3"]["prefix"] == "daily"

    def test_an_export_takes_what_its_template_leaves_open(self) -> None:
        """But no storageSize of 100Gi as a last resort: an export needs no volume here."""
        spec = {**DAILY, "backupTemplate": {**EXPORT, "storageSize": "5Gi"}, "storageSize": "9Gi", "storageClassName": "fast"}
        item = built(spec, status={})["nightly-2026-01-31t02-00-00"]
        assert (item["spec"]["storageSize"], item["spec"]["storageClassName"]) == ("5Gi", "fast")
        assert item["spec"]["s3"] == S3
        assert "storageSize" not in built({**DAILY, "storageSize": "9Gi"}, status={})["nightly-2026-01-31t02-00-00"]["spec"]

    def test_pull_secrets_replace_those_of_every_template(self) -> None:
        spec = {
            **WITH_LOG,
            "imagePullSecrets": [{"name": "ours"}],
            "backupTemplate": {**BR, "imagePullSecrets": [{"name": "x"}]},
        }
        assert [item["spec"]["imagePullSecrets"] for item in built(spec, status={}).values()] == [[{"name": "ours"}]] * 2

    def test_labels_and_annotations_are_inherited_without_bookkeeping(self) -> None:
        item = built(
            DAILY,
            status={},
            labels={"team": "shop", "controller-uid": "other", "app.kubernetes.io/managed-by": "Helm"},
            annotations={"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}", names.SLOT_ANNOTATION: "no"},
        )["nightly-2026-01-31t02-00-00"]
        assert item["metadata"]["labels"] == {
            "team": "shop",
            "app.kubernetes.io/name": "backup-schedule",
            "app.kubernetes.io/managed-by": "backup-schedule-operator",
            "app.kubernetes.io/instance": "nightly",
            "tidb.pingcap.com/backup-schedule": "nightly",
        }
        assert item["metadata"]["annotations"] == {"note": "x", names.SLOT_ANNOTATION: "2026-01-31T02:00:00Z"}

    def test_names_and_labels_fit_whatever_the_schedule_is_called(self) -> None:
        for name, item in built(WITH_LOG, name="n" * 200, status={}).items():
            assert all(len(value) <= 63 for value in item["metadata"]["labels"].values())
            assert len(names.retry(names.backup_job(name), 99)) <= 63


def test_compactions_go_with_the_policy() -> None:
    spec = {**WITH_LOG, "compactBackupTemplate": BR, "compactInterval": "24h", "maxReservedTime": "48h"}
    children = [compaction(NOW - (age + 1) * DAY, NOW - age * DAY, made=NOW - age * DAY) for age in (1, 2, 3, 4)]
    decision = sync(spec, log_backup(CREATED, NOW), *children, status=KNOWN)
    assert dropped(decision) == {
        "compact-nightly-2026-01-27t12-00-00": "maxReservedTime",
        "compact-nightly-2026-01-26t12-00-00": "maxReservedTime",
    }
    assert {drop.kind for drop in decision.drop} == {"CompactBackup.pingcap.com/v1alpha1"}


def test_related_only_for_a_group() -> None:

    assert KIND.related(schedule(), Config()) == []
    rules = KIND.related(schedule(labels={names.SCHEDULE_GROUP_LABEL: "shop"}), Config())
    assert [(rule["resource"], rule["namespace"]) for rule in rules] == [("backups", "db")]
