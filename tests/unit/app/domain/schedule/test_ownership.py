"""Retention and slots act on what the schedule made, and on nothing that only looks like it."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from app.domain.observed import Object
from app.domain.schedule.children import read
from app.domain.schedule.reconcile import decide
from app.hooks.backupschedule import KIND
from app.hooks.response import build_response
from crds.contract import names, tso
from tests.support.schedules import (
    BR,
    CONFIG,
    CREATED,
    DAILY,
    DAY,
    HOUR,
    LOG,
    NOW,
    UID,
    backup,
    compaction,
    condition,
    dropped,
    log_backup,
    made,
    observed,
    schedule,
    sync,
)

TODAY = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
KNOWN = {"lastScheduleTime": "2026-01-31T02:00:00Z"}
COUNTED = {**DAILY, "maxBackups": 1}
WITH_LOG: dict[str, Any] = {**DAILY, "logBackupTemplate": LOG}


def copied(original: Object, name: str, **meta: Any) -> dict[str, Any]:
    """*original* as ``kubectl get -o yaml``, renamed and applied."""
    found = copy.deepcopy(dict(original))
    found["metadata"] |= {"name": name, **meta}
    return found


def rules(spec: dict[str, Any], *children: Object) -> dict[str, str]:
    """The rule on each Backup."""
    return {item.name: str(item.state) for item in read(observed(schedule(spec), children), epoch=CREATED).items}


class TestCopies:
    @pytest.mark.parametrize(
        "meta",
        [
            {},
            {"ownerReferences": None},
            {"annotations": {}},
            {"annotations": {names.SLOT_ANNOTATION: "2026-01-20T02:00:00Z"}},
            {"labels": {names.CONTROLLER_UID_LABEL: UID}},
        ],
    )
    def test_a_renamed_copy_is_never_dropped(self, meta: dict[str, Any]) -> None:
        old = copied(backup(TODAY - 9 * DAY), "before-upgrade", **meta)
        children = [old, backup(TODAY), backup(TODAY - DAY)]
        decision = sync(COUNTED, *children, status=KNOWN)
        assert dropped(decision) == {"nightly-2026-01-30t02-00-00": "maxBackups"}
        assert rules(COUNTED, old)["before-upgrade"] == "foreign"
        body = build_response(KIND, observed(schedule(COUNTED), children), decision, CONFIG).body
        assert "before-upgrade" in {child["metadata"]["name"] for child in body["children"]}

    @pytest.mark.parametrize("name", ["xnightly-2026-01-22t02-00-00", "nightly-x-2026-01-22t02-00-00", "nightly-2026-01-22"])
    def test_the_look_of_a_name_is_not_enough(self, name: str) -> None:
        old = copied(backup(TODAY - 9 * DAY), name)
        assert dropped(sync(COUNTED, old, backup(TODAY), status=KNOWN)) == {}

    def test_a_backup_of_another_schedule_is_not_dropped(self) -> None:
        other = [{"kind": "BackupSchedule", "name": "nightly", "uid": "0000", "controller": True}]
        old = copied(backup(TODAY - 9 * DAY), "nightly-2026-01-22t02-00-00", ownerReferences=other)
        assert dropped(sync(COUNTED, old, backup(TODAY), status=KNOWN)) == {}

    def test_an_owner_that_does_not_control_is_none(self) -> None:
        owners = [{"kind": "BackupSchedule", "name": "nightly", "uid": UID, "controller": False}]
        old = copied(backup(TODAY - 9 * DAY), "nightly-2026-01-22t02-00-00", ownerReferences=owners)
        assert dropped(sync(COUNTED, old, backup(TODAY), status=KNOWN)) == {}

    def test_an_edited_slot_that_is_not_the_name_s_is_not_believed(self) -> None:
        moved = backup(TODAY - DAY)
        moved["metadata"]["annotations"] = {names.SLOT_ANNOTATION: "2026-01-31T02:00:00Z"}
        decision = sync(DAILY, moved, status={"lastScheduleTime": "2026-01-30T02:00:00Z"})
        assert made(decision) == ["nightly-2026-01-31t02-00-00"]

    @pytest.mark.parametrize("phase", ["Complete", "Running", "Failed"])
    def test_a_copy_counts_for_nothing(self, phase: str) -> None:
        """Not as a run, a success, a failure, or one under way, and not for what the log is kept for."""
        copy_of_it = copied(backup(TODAY, phase), "before-upgrade", creationTimestamp="2026-01-31T11:00:00Z")
        children = [log_backup(CREATED, NOW), copy_of_it, backup(TODAY - DAY)]
        decision = sync({**WITH_LOG, "maxBackups": 3, "failedHistoryLimit": 0}, *children)
        assert made(decision) == ["nightly-2026-01-31t02-00-00"]
        assert dropped(decision) == {}
        assert decision.status["lastBackup"] == "nightly-2026-01-30t02-00-00"
        assert decision.status["retention"]["kept"] == 1
        assert decision.status["lastSuccessTime"] == "2026-01-30T02:05:00Z"
        assert decision.status["recoveryWindow"]["from"] == "2026-01-30T02:00:00Z"
        assert decision.status["logTruncateUntil"] == str(tso.from_datetime(TODAY - DAY))

    def test_an_unreadable_copy_holds_nothing(self) -> None:
        odd = copied(backup(TODAY - 9 * DAY, commitTs="soon"), "before-upgrade")
        decision = sync(COUNTED, odd, backup(TODAY), backup(TODAY - DAY), status=KNOWN)
        assert dropped(decision) == {"nightly-2026-01-30t02-00-00": "maxBackups"}
        assert condition(decision, "RetentionHeld") is None

    def test_a_backup_by_tidb_operator_is_dropped_in_its_turn(self) -> None:
        legacy = backup(TODAY - DAY, name="nightly-2026-01-30t02-00-09")
        del legacy["metadata"]["annotations"]
        legacy["metadata"]["creationTimestamp"] = "2026-01-30T02:00:09Z"
        assert dropped(sync(COUNTED, legacy, backup(TODAY), status=KNOWN)) == {"nightly-2026-01-30t02-00-09": "maxBackups"}

    def test_a_long_name_by_tidb_operator_is_known(self) -> None:
        name = "n" * 100
        legacy = backup(TODAY, name=f"{name}-2026-01-31t02-00-00")
        del legacy["metadata"]["annotations"]
        assert made(sync(DAILY, legacy, name=name)) == []


class TestTakenNames:
    early = "2026-01-30T12:00:00Z"

    def test_a_copy_named_as_a_coming_run_does_not_stand_for_it(self) -> None:
        early = backup(TODAY)
        early["metadata"]["creationTimestamp"] = self.early
        decision = sync(DAILY, early, status={"lastScheduleTime": "2026-01-30T02:00:00Z"})
        stalled = condition(decision, "ScheduleStalled") or {}
        assert made(decision) == []
        assert stalled["reason"] == "NameTaken"
        assert "Backup nightly-2026-01-31t02-00-00 is there" in stalled["message"]
        assert decision.status["lastScheduleTime"] == "2026-01-30T02:00:00Z"
        # The next one has a name of its own.
        after = sync(DAILY, early, status=decision.status, now=NOW + DAY)
        assert made(after) == ["nightly-2026-02-01t02-00-00"]
        assert condition(after, "ScheduleStalled") is None

    def foreign_log(self, **meta: Any) -> dict[str, Any]:
        found = log_backup(CREATED, NOW)
        found["metadata"] = {"name": "log-nightly", "namespace": "db", "creationTimestamp": self.early, **meta}
        return found

    def test_a_log_backup_that_is_there_already_is_named_at_once(self) -> None:
        parent = schedule(WITH_LOG, status=KNOWN)
        decision = decide(observed(parent, [backup(TODAY)], [self.foreign_log()]), NOW, CONFIG)
        stalled = condition(decision, "ScheduleStalled") or {}
        assert stalled["reason"] == "NameTaken"
        assert "Backup log-nightly is there" in stalled["message"]
        assert "kubectl label backup log-nightly -n db controller-uid=b7e1" in stalled["message"]
        assert made(decision) == []

    def test_the_snapshots_go_on_without_the_log(self) -> None:
        decision = decide(observed(schedule(WITH_LOG), [], [self.foreign_log()]), NOW, CONFIG)
        assert made(decision) == ["nightly-2026-01-31t02-00-00"]

    def test_the_log_backup_of_another_owner_cannot_be_handed_over(self) -> None:
        theirs = self.foreign_log(ownerReferences=[{"kind": "BackupSchedule", "name": "x", "uid": "1", "controller": True}])
        decision = decide(observed(schedule(WITH_LOG, status=KNOWN), [], [theirs]), NOW, CONFIG)
        assert "kubectl label" not in (condition(decision, "ScheduleStalled") or {})["message"]

    def test_the_customize_answer_asks_for_that_name(self) -> None:
        rule = {"apiVersion": "pingcap.com/v1alpha1", "resource": "backups", "namespace": "db", "names": ["log-nightly"]}
        assert KIND.related(schedule(WITH_LOG), CONFIG) == [rule]

    def test_ours_in_the_cache_of_related_objects_alone_is_waited_for(self) -> None:
        decision = decide(observed(schedule(WITH_LOG, status=KNOWN), [], [log_backup(CREATED)]), NOW, CONFIG)
        assert made(decision) == []
        assert condition(decision, "ScheduleStalled") is None

    def test_a_log_backup_under_another_name_is_not_taken_for_ours(self) -> None:
        other = log_backup(CREATED, NOW, logTruncateUntil="1")
        other["metadata"] = {**other["metadata"], "name": "log-other"}
        decision = sync(WITH_LOG, other, status=KNOWN)
        assert made(decision) == ["log-nightly"]
        assert "logBackup" not in decision.status
        assert made(sync(WITH_LOG, other, status={**KNOWN, "logBackup": "log-other"})) == []

    @pytest.mark.parametrize("spec", [DAILY, WITH_LOG])
    def test_what_never_appears_is_named_at_the_second_asking(self, spec: dict[str, Any]) -> None:
        """Metacontroller says nothing where the name is taken by an object that it does not show."""
        first = sync(spec)
        again = sync(spec, status=first.status)
        stalled = condition(again, "ScheduleStalled") or {}
        assert condition(first, "ScheduleStalled") is None
        assert stalled["reason"] == "NotCreated"
        assert all(name in stalled["message"] for name in made(again))
        assert sync(spec, status=again.status).status == again.status


class TestCompactions:
    spec: ClassVar[dict[str, Any]] = {**WITH_LOG, "compactBackupTemplate": BR, "compactInterval": "5m", "maxBackups": 1}

    @pytest.mark.parametrize(
        "name", ["compact-now", "compact-other-2026-01-31t11-00-00", "xcompact-nightly-2026-01-31t11-00-00"]
    )
    def test_one_by_hand_is_kept_and_moves_nothing(self, name: str) -> None:
        theirs = compaction(NOW - HOUR, NOW, made=NOW - 30 * DAY, name=name)
        own = [compaction(NOW - (n + 2) * HOUR, NOW - (n + 1) * HOUR, made=NOW - n * HOUR) for n in (1, 2)]
        decision = sync(self.spec, log_backup(NOW - 9 * HOUR, NOW), theirs, *own, status=KNOWN)
        assert list(dropped(decision)) == [own[1]["metadata"]["name"]]
        assert decision.status["lastCompactProgress"] == "2026-01-31T10:00:00Z"

    def test_a_name_that_is_taken_is_not_asked_for(self) -> None:
        theirs = compaction(NOW - HOUR, NOW, made=NOW - HOUR, name="compact-nightly-2026-01-31t11-00-00")
        theirs["metadata"] |= {"ownerReferences": []}
        decision = sync(self.spec, log_backup(NOW - HOUR, NOW), theirs, status=KNOWN)
        assert made(decision) == ["compact-nightly-2026-01-31t11-00-00-r1"]


class TestEditedTimes:
    """``schedule: "0 2 * * *"`` becomes ``"30 13 * * *"`` at 01:59."""

    at = datetime(2026, 1, 31, 1, 59, tzinfo=UTC)
    new: ClassVar[dict[str, Any]] = {**DAILY, "schedule": "30 13 * * *"}
    before: ClassVar[dict[str, Any]] = {
        "lastScheduleTime": "2026-01-30T02:00:00Z",
        "timetable": {"schedule": "0 2 * * *"},
    }

    def after(self, spec: dict[str, Any], now: datetime, status: Any = None) -> Any:
        fields = [{"manager": "kubectl-edit", "time": "2026-01-31T01:59:00Z"}]
        stamped = {"manager": "metacontroller", "subresource": "status", "time": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
        return sync(spec, status=status or self.before, now=now, managedFields=[*fields, stamped])

    @pytest.mark.parametrize("later", [timedelta(seconds=1), HOUR, 11 * HOUR])
    def test_a_slot_from_before_the_edit_is_not_missed(self, later: timedelta) -> None:
        decision = self.after(self.new, self.at + later)
        assert made(decision) == []
        assert condition(decision, "ScheduleStalled") is None
        assert decision.status["nextBackupTime"] == "2026-01-31T13:30:00Z"
        assert decision.status["timetable"] == {"schedule": "30 13 * * *", "since": "2026-01-31T01:59:00Z"}

    def test_the_first_slot_after_it_is_run(self) -> None:
        first = self.after(self.new, self.at + HOUR)
        assert made(self.after(self.new, self.at + 12 * HOUR, first.status)) == ["nightly-2026-01-31t13-30-00"]

    def test_also_when_nobody_looked_in_between(self) -> None:
        assert made(self.after(self.new, self.at + 36 * HOUR)) == ["nightly-2026-02-01t13-30-00"]

    def test_another_zone_is_another_timetable(self) -> None:
        assert made(self.after({**DAILY, "timeZone": "Asia/Tokyo"}, self.at + timedelta(seconds=1))) == []

    @pytest.mark.parametrize("change", [{"maxBackups": 3}, {"startingDeadlineSeconds": 86400}, {"concurrencyPolicy": "Allow"}])
    def test_other_edits_leave_the_slots_alone(self, change: dict[str, Any]) -> None:
        assert made(self.after({**DAILY, **change}, self.at + HOUR)) == ["nightly-2026-01-31t02-00-00"]

    def test_an_old_status_goes_on_as_before(self) -> None:
        assert made(self.after(DAILY, self.at + HOUR, {"lastScheduleTime": "2026-01-30T02:00:00Z"})) == [
            "nightly-2026-01-31t02-00-00"
        ]

    def test_without_managed_fields_the_edit_is_now(self) -> None:
        now = self.at + HOUR
        status = {**self.before, "clockCheck": {"shown": f"{now:%Y-%m-%dT%H:%M:%SZ}"}}
        decision = sync(self.new, status=status, now=now, managedFields=None)
        assert made(decision) == []
        assert decision.status["timetable"]["since"] == "2026-01-31T02:59:00Z"
