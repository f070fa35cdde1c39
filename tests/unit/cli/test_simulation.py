"""The movable clock: the hook decides, the world only carries out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.config import Config
from backup_manager.errors import UsageError
from cli.models.simulate import Assumption, SimulationResult, Simulator
from crds.contract import names

START = datetime(2026, 1, 1, tzinfo=UTC)
S3 = {"provider": "aws", "region": "r", "bucket": "b", "prefix": "p", "secretName": "s"}
TEMPLATE: dict[str, Any] = {"br": {"cluster": "basic"}, "s3": S3, "cleanPolicy": "Delete"}


def story(days: int, *, existing: list[dict[str, Any]] | None = None, size: int = 10, **spec: Any) -> SimulationResult:
    parent = {
        "apiVersion": names.API_VERSION,
        "kind": "BackupSchedule",
        "metadata": {"name": "s", "namespace": "db"},
        "spec": {"schedule": "0 2 * * *", "backupTemplate": TEMPLATE, **spec},
    }
    assume = Assumption(size=size, duration=timedelta(minutes=30))
    return Simulator(parent, existing or [], Config(), START, assume).run(days)


def test_a_count_keeps_so_many_and_the_one_under_way() -> None:
    found = story(30, maxBackups=5)
    assert len(found.runs) == 30
    assert [run.created for run in found.runs] == [START + timedelta(days=day, hours=2) for day in range(30)]
    left = [run.name for run in found.runs if run.deleted is None]
    assert left == [run.name for run in found.runs[-5:]]
    # The sixth runs before the oldest goes.
    assert found.most is not None
    assert found.most.kept == 6
    assert found.largest is not None
    assert found.largest.stored == 50
    assert [day.kept for day in found.days] == [*range(1, 6), *[5] * 25]
    assert {run.rule for run in found.runs[:-5]} == {"maxBackups"}
    assert {verdict.name for verdict in found.verdicts if verdict.keep} == set(left)


@pytest.mark.parametrize("cron", ["0 0 * * *", "0 6,18 * * *"])
def test_the_last_row_is_the_end_of_the_story(cron: str) -> None:
    """Also when something happens at that very moment."""
    found = story(12, schedule=cron, maxBackups=3)
    last = found.days[-1]
    assert last.time == found.end
    assert (last.made, last.gone) == (len(found.runs), sum(run.deleted is not None for run in found.runs))
    assert [day.made for day in found.days] == [round(len(found.runs) / 12 * number) for number in range(1, 13)]


def test_retain_leaves_the_bytes() -> None:
    found = story(10, maxBackups=2, backupTemplate={**TEMPLATE, "cleanPolicy": "Retain"})
    last = found.days[-1]
    assert (last.kept, last.size, last.stored) == (2, 20, 100)


def test_a_schedule_that_waits_runs_every_other_time() -> None:
    found = story(1, schedule="*/20 * * * *")
    # Half an hour each: the slot that comes meanwhile is made up for when the run has ended.
    assert all(run.completed for run in found.runs[:-1])
    gaps = {later.created - earlier.created for earlier, later in zip(found.runs, found.runs[1:], strict=False)}
    assert gaps == {timedelta(minutes=30)}


def test_pause_makes_nothing() -> None:
    assert story(5, pause=True).runs == []


def test_a_log_is_started_truncated_and_compacted() -> None:
    log = {"backupMode": "log", "br": {"cluster": "basic"}, "s3": S3}
    compact = {"br": {"cluster": "basic"}, "s3": S3, "startTs": "1", "endTs": "2"}
    found = story(10, maxBackups=3, logBackupTemplate=log, compactBackupTemplate=compact, compactInterval="24h")
    assert len(found.runs) == 10
    assert 8 <= found.compactions <= 10


def test_backups_that_are_there_count_from_the_start() -> None:
    slot = START - timedelta(hours=22)
    text = slot.strftime("%Y-%m-%dT%H:%M:%SZ")
    old = {
        "apiVersion": names.API_VERSION,
        "kind": "Backup",
        "metadata": {
            "name": names.slot_backup("s", slot),
            "namespace": "db",
            "creationTimestamp": text,
            "labels": {names.SCHEDULE_LABEL: "s"},
        },
        "spec": {"cleanPolicy": "Retain"},
        "status": {"phase": "Complete", "timeCompleted": text, "backupSize": 7},
    }
    found = story(2, existing=[old], maxBackups=1)
    assert [run.size for run in found.runs] == [7, 10, 10]
    assert [bool(run.deleted) for run in found.runs] == [True, True, False]
    assert found.days[-1].stored == 17


def test_too_many_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 10000 runs"):
        story(30, schedule="* * * * *")
