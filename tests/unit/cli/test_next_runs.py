"""The coming runs: what the clock does to them, what they meet, what waits already."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.domain.config import Config
from app.domain.schedule import cron
from cli.models.next_runs import Run, coming, duration
from cli.schedules import ScheduleView, cluster_of, load_schedule
from crds.contract import names

S3 = {"provider": "aws", "region": "r", "bucket": "b", "prefix": "p", "secretName": "s"}
BR: dict[str, Any] = {"br": {"cluster": "basic"}, "s3": S3}


def schedule(name: str, cron_text: str, template: Mapping[str, Any] = BR, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "BackupSchedule",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": "2025-01-01T00:00:00Z"},
        "spec": {"schedule": cron_text, "backupTemplate": dict(template), **spec},
        "status": {"lastScheduleTime": "2027-01-01T00:00:00Z"},
    }


def backup(of: str, slot: datetime, minutes: int | None) -> dict[str, Any]:
    """A complete Backup of schedule *of* that took *minutes*; one under way with None."""
    text = slot.strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = (slot + timedelta(minutes=minutes or 0)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"phase": "Complete", "timeStarted": text, "timeCompleted": ended, "backupSize": 1} if minutes else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Backup",
        "metadata": {
            "name": names.slot_backup(of, slot),
            "namespace": "shop",
            "uid": f"{of}-{text}",
            "creationTimestamp": text,
            "labels": {names.SCHEDULE_LABEL: of},
        },
        "spec": {},
        "status": status,
    }


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def subject(parent: Mapping[str, Any], now: str, *children: Mapping[str, Any]) -> ScheduleView:
    return load_schedule(parent, children, Config(), at(now))


def runs(parent: Mapping[str, Any], now: str, count: int) -> list[Run]:
    """The coming runs, with the status as if nothing was missed."""
    fresh = {**parent, "status": {"lastScheduleTime": f"{now}:00Z" if now.count(":") == 1 else f"{now}Z"}}
    return coming([subject(fresh, now)], count, neighbours=[])


def test_the_gap_is_skipped_and_shown() -> None:
    found = runs(schedule("n", "30 2 * * *", timeZone="Europe/Berlin"), "2026-03-28T12:00", 2)
    assert [(str(run.time), f"{run.wall:%d %H:%M}") for run in found] == [
        ("None", "29 02:30"),
        ("2026-03-30 00:30:00+00:00", "30 02:30"),
        ("2026-03-31 00:30:00+00:00", "31 02:30"),
    ]
    assert found[0].notes == ("skipped: the clock is put forward over this time",)
    assert "1h earlier in UTC" in found[1].notes[0]


def test_the_fold_runs_once() -> None:
    found = runs(schedule("n", "30 2 * * *", timeZone="Europe/Berlin"), "2026-10-24T12:00", 2)
    assert [str(run.time) for run in found] == ["2026-10-25 00:30:00+00:00", "2026-10-26 01:30:00+00:00"]
    assert found[0].notes == ("this time comes twice on the clock; it runs once, the first time",)
    assert "1h later in UTC" in found[1].notes[0]


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago"])
@pytest.mark.parametrize("year", [2025, 2026])
def test_shown_and_skipped_together_are_the_timetable_of_a_clock_without_jumps(zone: str, year: int) -> None:
    parent = schedule("n", "*/30 * * * *", timeZone=zone)
    start = datetime(year, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=day) for day in range(365)]
    jumps = [day for day in days if day.astimezone(ZoneInfo(zone)).utcoffset() != _next(day, zone)]
    assert jumps
    for day in jumps:
        found = coming(
            [load_schedule({**parent, "status": {"lastScheduleTime": "2027-01-01T00:00:00Z"}}, [], Config(), day)],
            60,
            neighbours=[],
        )
        walls = [run.wall.replace(tzinfo=None) for run in found]
        even = cron.parse("*/30 * * * *", anchor=start, tz=ZoneInfo("UTC"))
        face = day.astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
        expected = [
            time.replace(tzinfo=None)
            for time in islice(cron.upcoming(even, face), 80)
            if time.replace(tzinfo=None) <= max(walls)
        ]
        assert sorted(walls) == expected


def _next(day: datetime, zone: str) -> timedelta | None:
    return (day + timedelta(days=1)).astimezone(ZoneInfo(zone)).utcoffset()


def test_collisions_on_the_same_cluster() -> None:
    now = "2026-01-10T00:00"
    slot = at("2026-01-09T02:00")
    nightly = subject(schedule("nightly", "0 2 * * *"), now, backup("nightly", slot, 90))
    assert duration(nightly) == timedelta(minutes=90)
    orders = subject(schedule("orders", "0 3 * * *"), now)
    other = subject(schedule("other", "0 2 * * *", {**BR, "br": {"cluster": "else"}}), now)
    paused = subject(schedule("paused", "0 2 * * *", pause=True), now)
    everyone = [nightly, orders, other, paused]
    found = coming([nightly, orders], 2, neighbours=everyone)
    assert [(run.subject.observed.name, run.notes) for run in found] == [
        ("nightly", ("collides on shop/basic: orders begins at 03:00Z, while it runs (1h30m)",)),
        ("orders", ("collides on shop/basic: begins while nightly of 02:00Z still runs (takes 1h30m)",)),
    ]
    assert coming([other], 1, neighbours=everyone)[0].notes == ()


def test_what_waits_already_comes_first() -> None:
    parent = {**schedule("n", "0 * * * *"), "status": {"lastScheduleTime": "2026-01-10T00:00:00Z"}}
    running = backup("n", at("2026-01-10T00:00"), None)
    first, second = coming([subject(parent, "2026-01-10T01:05", running)], 2, neighbours=[])
    assert str(first.time) == "2026-01-10 01:00:00+00:00"
    assert "waits for n-2026-01-10t00-00-00" in first.notes[0]
    assert str(second.time) == "2026-01-10 02:00:00+00:00"
    due = coming([subject(parent, "2026-01-10T01:05", backup("n", at("2026-01-10T00:00"), 5))], 1, neighbours=[])
    assert due[0].notes == ("due now",)


def test_every_counts_from_creation() -> None:
    found = runs(schedule("n", "@every 36h"), "2026-01-10T00:00", 2)
    assert [str(run.time) for run in found] == ["2026-01-11 00:00:00+00:00", "2026-01-12 12:00:00+00:00"]


@pytest.mark.parametrize(
    ("template", "cluster"),
    [
        (BR, "shop/basic"),
        ({"br": {"cluster": "basic", "clusterNamespace": "db"}}, "db/basic"),
        ({"from": {"host": "basic-tidb"}}, "shop/basic"),
        ({"from": {"host": "basic-tidb.db.svc"}}, "db/basic"),
        ({"from": {"host": "10.0.0.1"}}, "10.0.0.1:4000"),
        ({}, ""),
    ],
)
def test_the_cluster_behind_a_template(template: Mapping[str, Any], cluster: str) -> None:
    assert cluster_of(schedule("n", "@daily", template)) == cluster
