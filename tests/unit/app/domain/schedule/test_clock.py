"""A clock that jumps makes nothing and deletes nothing, is reported, and recovers by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.schedule.clock import TOLERANCE, judge
from app.domain.schedule.reconcile import clock_hold
from app.domain.schedule.retention import Rule
from tests.support.schedules import (
    CREATED,
    DAILY,
    DAY,
    HOUR,
    NOW,
    backup,
    condition,
    dropped,
    made,
    sync,
    written,
)

TODAY = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
KNOWN = {"lastScheduleTime": "2026-01-31T02:00:00Z", "lastBackup": "nightly-2026-01-31t02-00-00"}
AGED = {**DAILY, "maxReservedTime": "720h"}
MINUTE = timedelta(minutes=1)
YEAR = timedelta(days=365)


class Cluster:
    """A schedule with thirty Backups: each pass is answered, and what changes the status moves the API server's time on."""

    def __init__(self, spec: dict[str, Any] = AGED, status: Any = KNOWN) -> None:
        self.spec, self.status, self.now = spec, dict(status), NOW
        self.fields = [written(CREATED, status=False), written(TODAY)]
        self.children = [backup(TODAY - age * DAY) for age in range(30)]
        self.writes = 0
        self.log: list[tuple[list[str], list[str]]] = []

    def sync(self, skew: timedelta = timedelta(0)) -> Any:
        decision = sync(self.spec, *self.children, status=self.status, now=self.now + skew, managedFields=self.fields)
        self.log.append((made(decision), list(dropped(decision))))
        if dict(decision.status) != self.status:
            self.writes += 1
            self.status = dict(decision.status)
            self.fields = [written(CREATED, status=False), written(self.now)]
        return decision


@pytest.mark.parametrize("passes", [1, 2, 5, 60])
@pytest.mark.parametrize("jump", [YEAR, DAY, HOUR, timedelta(days=400), -HOUR, -DAY, -YEAR])
@pytest.mark.parametrize("spec", [AGED, {**DAILY, "maxBackups": 30}, {**DAILY, "pause": True, "maxReservedTime": "720h"}])
def test_a_jump_makes_nothing_and_deletes_nothing(spec: dict[str, Any], jump: timedelta, passes: int) -> None:
    cluster = Cluster(spec)
    for _ in range(passes):
        cluster.sync(jump)
        cluster.now += MINUTE
    assert cluster.log == [([], [])] * passes
    assert cluster.status["lastScheduleTime"] == KNOWN["lastScheduleTime"]
    # One status in ten minutes at most, with what each one brings.
    assert cluster.writes <= 3 + 2 * (passes // 10)


@pytest.mark.parametrize(("jump", "reason"), [(YEAR, "ClockAhead"), (-YEAR, "ClockBehind")])
def test_a_jump_is_reported(jump: timedelta, reason: str) -> None:
    cluster = Cluster()
    cluster.sync(jump)
    decision = cluster.sync(jump)
    stalled = condition(decision, "ScheduleStalled") or {}
    assert stalled["reason"] == reason
    assert stalled["message"].startswith("the webhook's clock showed ")
    assert clock_hold(decision.status) == (Rule.CLOCK, stalled["message"])
    # While it lasts the condition stands, also while the API server is asked again.
    for _ in range(30):
        cluster.now += MINUTE
        assert (condition(cluster.sync(jump), "ScheduleStalled") or {})["reason"] == reason


def test_a_deletion_that_waits_for_the_clock_is_held() -> None:
    cluster = Cluster()
    cluster.sync(YEAR)
    held = condition(cluster.sync(YEAR), "RetentionHeld") or {}
    assert held["reason"] == "ClockAhead"


@pytest.mark.parametrize("passes", [1, 3, 20])
@pytest.mark.parametrize("jump", [YEAR, HOUR, -HOUR, -YEAR])
def test_recovers_by_itself(jump: timedelta, passes: int) -> None:
    cluster = Cluster()
    for _ in range(passes):
        cluster.sync(jump)
    cluster.now = TODAY + DAY + MINUTE
    cluster.children = cluster.children[:29]
    for _ in range(2):
        decision = cluster.sync()
    assert made(decision) == ["nightly-2026-02-01t02-00-00"]
    assert condition(decision, "ScheduleStalled") is None
    assert decision.status["nextBackupTime"] == "2026-02-02T02:00:00Z"


def test_a_quiet_schedule_asks_once_and_goes_on() -> None:
    """A week without a write looks like a jump of a week: the API server's answer tells."""
    cluster = Cluster(status={**KNOWN, "timetable": {"schedule": AGED["schedule"]}})
    cluster.now = TODAY + 7 * DAY
    asking = cluster.sync()
    assert asking.create == []
    assert asking.status["clockCheck"] == {"shown": "2026-02-07T02:00:00Z"}
    assert (condition(asking, "ScheduleStalled"), asking.resync_after) == (None, 5)
    assert made(cluster.sync()) == ["nightly-2026-02-07t02-00-00"]


class OldCrd(Cluster):
    """The CRD is that of an earlier version: the API server drops what this one added to the status."""

    KEPT = frozenset({*KNOWN, "lastBackupTime", "nextBackupTime", "lastSuccessTime", "retention", "conditions"})

    def sync(self, skew: timedelta = timedelta(0)) -> Any:
        decision = sync(self.spec, *self.children, status=self.status, now=self.now + skew, managedFields=self.fields)
        self.log.append((made(decision), list(dropped(decision))))
        kept = {field: value for field, value in decision.status.items() if field in self.KEPT}
        if kept != self.status:
            self.status, self.fields = kept, [written(CREATED, status=False), written(self.now)]
        return decision


def test_with_the_crd_of_an_earlier_version_every_run_is_made() -> None:
    cluster = OldCrd({**DAILY, "maxBackups": 30})
    for day in range(1, 8):
        cluster.now = TODAY + day * DAY + MINUTE
        asking = condition(cluster.sync(), "ScheduleStalled") or {}
        assert asking["reason"] == "ClockUnconfirmed"
        assert "apply its CRDs" in asking["message"]
        decision = cluster.sync()
        assert made(decision) == [f"nightly-{cluster.now:%Y-%m-%dt}02-00-00"]
        assert condition(decision, "ScheduleStalled") is None
        cluster.children.append(backup(TODAY + day * DAY))
        cluster.sync()


@pytest.mark.parametrize("jump", [YEAR, DAY, -DAY, -YEAR])
def test_with_the_crd_of_an_earlier_version_a_jump_does_nothing_and_ends_too(jump: timedelta) -> None:
    cluster = OldCrd()
    for _ in range(60):
        cluster.sync(jump)
        cluster.now += MINUTE
    assert cluster.log == [([], [])] * 60
    cluster.now = TODAY + DAY + MINUTE
    cluster.sync()
    assert made(cluster.sync()) == ["nightly-2026-02-01t02-00-00"]


def test_a_time_in_the_future_that_another_wrote_into_the_status_does_not_stop_the_schedule() -> None:
    """As of a controller before a takeover, when the API server's clock was wrong: nobody renews it."""
    cluster = Cluster()
    other = {**written(TODAY + YEAR), "manager": "tidb-controller-manager"}
    for day in range(1, 4):
        cluster.now = TODAY + day * DAY + MINUTE
        runs = []
        for _ in range(4):
            owned: dict[str, Any] = (
                {"fieldsV1": {"f:status": {"f:clockCheck": {"f:shown": {}}}}} if "clockCheck" in cluster.status else {}
            )
            cluster.fields = [{**entry, **owned} for entry in cluster.fields[:2]] + [other]
            decision = cluster.sync()
            runs += made(decision)
        assert set(runs) == {f"nightly-{cluster.now:%Y-%m-%dt}02-00-00"}
        cluster.children.append(backup(TODAY + day * DAY))
        assert condition(cluster.sync(), "ScheduleStalled") is None


def test_a_clock_that_is_behind_by_minutes_delays_a_deletion_by_minutes() -> None:
    cluster = Cluster({**DAILY, "maxBackups": 30}, status={**KNOWN, "lastScheduleTime": "2026-02-01T02:00:00Z"})
    cluster.children.append(backup(TODAY + DAY, name="nightly-2026-02-01t02-00-00"))
    cluster.now = TODAY + DAY + MINUTE
    cluster.fields = [written(cluster.now)]
    assert dropped(cluster.sync(-2 * MINUTE)) == {}
    decision = cluster.sync(-2 * MINUTE)
    assert (condition(decision, "RetentionHeld") or {})["reason"] == "ClockBehind"
    assert decision.resync_after == 60
    cluster.now += 2 * MINUTE
    assert list(dropped(cluster.sync(-2 * MINUTE))) == ["nightly-2026-01-02t02-00-00"]


@pytest.mark.parametrize(("answer", "begins"), [(1, True), (5, True), (59, True), (61, False), (7200, False)])
def test_asking_for_the_time_makes_no_run_late(answer: int, begins: bool) -> None:
    cluster = Cluster({**DAILY, "maxBackups": 30, "startingDeadlineSeconds": 1})
    cluster.now = TODAY + DAY + timedelta(seconds=1)
    assert made(cluster.sync()) == []
    cluster.now += timedelta(seconds=answer)
    cluster.fields = [written(cluster.now)]
    assert made(cluster.sync()) == (["nightly-2026-02-01t02-00-00"] if begins else [])


def run_for(cluster: Cluster, days: int) -> list[str]:
    """What is made when it is synced an hour apart, twice each."""
    found: list[str] = []
    for _ in range(24 * days):
        cluster.now += HOUR
        for _ in range(2):
            new = [name for name in made(cluster.sync()) if name not in found]
            found += new
            cluster.children += [backup(cluster.now.replace(hour=1, minute=30), name=name) for name in new]
    return found


@pytest.mark.parametrize("fields", [True, False])
def test_an_edit_of_the_times_under_a_wrong_clock_does_not_stop_the_schedule(fields: bool) -> None:
    edited = {**DAILY, "schedule": "30 1 * * *", "maxBackups": 30}
    cluster = Cluster(edited, status={**KNOWN, "timetable": {"schedule": DAILY["schedule"]}})
    if fields:  # the API server's clock was wrong
        cluster.fields = [written(TODAY + YEAR, status=False), written(TODAY)]
        cluster.sync()
    else:  # ours was, and no managed field tells
        decision = sync(edited, *cluster.children, status=cluster.status, now=TODAY + YEAR, managedFields=[])
        cluster.status = dict(decision.status)
    assert cluster.status["timetable"]["since"].startswith("2027-01-31T02")
    cluster.now = TODAY + HOUR
    assert run_for(cluster, 3) == [f"nightly-2026-02-0{day}t01-30-00" for day in (1, 2, 3)]


@pytest.mark.parametrize("spec", [DAILY, {**DAILY, "schedule": "@every 24h"}])
def test_a_creation_in_the_future_does_not_stop_the_schedule(spec: dict[str, Any]) -> None:
    """The API server's clock was wrong when the schedule was created."""
    status: dict[str, Any] = {}
    future = TODAY + YEAR
    fields, now = [written(future, status=False)], TODAY + HOUR
    found: set[str] = set()
    for _ in range(24 * 3):
        now += HOUR
        for _ in range(3):
            children = [backup(now, name=name) for name in sorted(found)]
            meta: dict[str, Any] = {"creationTimestamp": f"{future:%Y-%m-%dT%H:%M:%SZ}", "managedFields": fields}
            decision = sync(spec, *children, status=status, now=now, **meta)
            found |= set(made(decision))
            if dict(decision.status) != status:
                status, fields = dict(decision.status), [written(future, status=False), written(now)]
    assert len(found) in {2, 3}


def test_nothing_is_asked_while_nothing_is_due() -> None:
    cluster = Cluster()
    cluster.sync()
    writes = cluster.writes
    for _ in range(10):
        cluster.now += HOUR
        cluster.sync()
    assert cluster.writes == writes


def test_a_backup_from_the_future_does_not_stop_the_schedule() -> None:
    """As an older version made it: neither its slot nor the status that it left behind counts."""
    far = backup(TODAY + YEAR)
    far["metadata"]["creationTimestamp"] = "2026-01-31T03:00:00Z"
    far["status"] = {"phase": "Complete", "timeCompleted": "2026-01-31T03:10:00Z"}
    status = {"lastScheduleTime": "2027-01-31T02:00:00Z", "lastBackup": far["metadata"]["name"]}
    cluster = Cluster({**DAILY, "maxBackups": 29}, {**status, "lastBackupTime": "2027-01-31T02:00:00Z"})
    cluster.children.append(far)
    for _ in range(3):
        cluster.sync()
    assert cluster.status["lastScheduleTime"] == cluster.status["lastBackupTime"] == "2026-01-31T02:00:00Z"
    assert cluster.status["lastBackup"] == "nightly-2026-01-31t02-00-00"
    assert cluster.log[-1] == ([], ["nightly-2026-01-02t02-00-00"])
    cluster.now = TODAY + DAY
    for _ in range(2):
        decision = cluster.sync()
    assert made(decision) == ["nightly-2026-02-01t02-00-00"]


def test_without_managed_fields_two_passes_have_to_agree() -> None:
    first = sync(AGED, backup(TODAY - DAY), now=NOW + YEAR, managedFields=None)
    assert (made(first), dropped(first)) == ([], {})
    right = sync(AGED, backup(TODAY - DAY), now=NOW, status=first.status, managedFields=None)
    assert made(right) == []
    again = sync(AGED, backup(TODAY - DAY), now=NOW + MINUTE, status=right.status, managedFields=None)
    assert made(again) == ["nightly-2026-01-31t02-00-00"]


@pytest.mark.parametrize("skew", [timedelta(0), TOLERANCE, -TOLERANCE, TOLERANCE / 2 + MINUTE])
def test_clocks_that_differ_a_little_are_no_matter(skew: timedelta) -> None:
    cluster = Cluster()
    cluster.now = TODAY + 3 * DAY + HOUR
    decision = [cluster.sync(skew) for _ in range(2)][-1]
    assert made(decision) == ["nightly-2026-02-03t02-00-00"]


@pytest.mark.parametrize(
    "check", [{"shown": 5}, {"shown": "soon"}, {"answer": "x"}, "x", ["x"], {"shown": "0001-01-01T00:00:00Z"}]
)
def test_a_check_that_cannot_be_read_is_none(check: Any) -> None:
    parent = {"metadata": {"managedFields": [written(NOW)]}}
    assert judge(parent, {"clockCheck": check}, NOW).trusted
    assert not judge(parent, {"clockCheck": check}, NOW + DAY).trusted


def test_a_run_that_was_seen_is_put_down_also_while_the_clock_is_wrong() -> None:
    """Else it would be made again when its Backup is deleted by hand before the clock is right."""
    cluster = Cluster(status={"lastScheduleTime": "2026-01-30T02:00:00Z"})
    for _ in range(3):
        cluster.sync(-YEAR)
    assert cluster.status["lastScheduleTime"] == "2026-01-31T02:00:00Z"
    cluster.children = cluster.children[1:]
    for _ in range(3):
        cluster.sync()
    assert [run for runs, _ in cluster.log for run in runs] == []
