"""Gauges follow the CRs that were seen, and go with them."""

import re
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from app.domain.observed import Observed
from app.metrics import Metrics
from crds.contract import tso
from tests.support.schedules import DAILY, DAY, NOW, backup, observed, schedule

STATUS = {
    "lastBackup": "nightly-2026-01-31t02-00-00",
    "lastSuccessTime": "2026-01-31T02:05:00Z",
    "nextBackupTime": "2026-02-01T02:00:00Z",
    "retention": {"kept": 3, "oldest": "2026-01-29T02:00:00Z"},
    "recoveryWindow": {
        "from": "2026-01-28T12:00:00Z",
        "to": "2026-01-31T12:00:00Z",
        "gaps": [{"from": "2026-01-28T12:00:00Z", "to": "2026-01-30T12:00:00Z"}],
    },
    "conditions": [{"type": "ScheduleStalled", "status": "True"}],
}


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(series_ttl=600, monotonic=clock, now=lambda: NOW)


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    return {re.sub(r"^tidb_backup_", "", name): value for name, value in found.items()}


def run(**status: Any) -> tuple[Observed, Mapping[str, Any]]:
    parent = {"metadata": {"name": "x", "namespace": "db", "labels": {"tidb.pingcap.com/backup-schedule": "nightly"}}}
    return Observed(parent=parent, children={}), status


RUN = '{kind="backup",name="x",namespace="db",schedule="nightly"}'
BKS = '{namespace="db",schedule="nightly"}'


def test_a_run(metrics: Metrics) -> None:
    seen, status = run(
        phase="Complete",
        backupSize=4096,
        timeStarted="2026-01-31T02:00:00Z",
        timeCompleted="2026-01-31T02:05:00Z",
        cleanStatus={"deleted": 7, "failed": 1},
    )
    metrics.note("backup", seen, status, gone=False)
    found = samples(metrics)
    assert found['phase{kind="backup",name="x",namespace="db",phase="Complete",schedule="nightly"}'] == 1
    assert found[f"run_duration_seconds{RUN}"] == 300
    assert found[f"run_bytes{RUN}"] == 4096
    assert found[f"clean_objects_deleted{RUN}"] == 7
    assert found[f"clean_objects_failed{RUN}"] == 1
    assert found[f"run_completed_timestamp_seconds{RUN}"] == datetime(2026, 1, 31, 2, 5, tzinfo=UTC).timestamp()


LOG = {"logSubCommandStatuses": {"log-start": {}}, "commitTs": "470668947067502592", "phase": "Running"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"logCheckpointTs": str(tso.from_datetime(NOW))}, NOW.timestamp()),
        ({}, tso.to_datetime(470668947067502592).timestamp()),
        ({"phase": "Paused"}, tso.to_datetime(470668947067502592).timestamp()),
        ({"phase": "Failed", "logCheckpointTs": str(tso.from_datetime(NOW))}, NOW.timestamp()),
        ({"phase": "Stopped"}, None),
        ({"phase": "CleanFailed"}, None),
        ({"commitTs": ""}, None),
        ({"logSubCommandStatuses": None}, None),
    ],
)
def test_how_far_a_log_backup_is(metrics: Metrics, status: dict[str, Any], expected: float | None) -> None:
    seen, _ = run()
    metrics.note("backup", seen, {**LOG, **status}, gone=False)
    assert samples(metrics).get(f"log_checkpoint_timestamp_seconds{RUN}") == expected


def test_a_schedule(metrics: Metrics) -> None:
    newest = backup(datetime(2026, 1, 31, 2, tzinfo=UTC), "Failed")
    metrics.note("backupschedule", observed(schedule(DAILY), [newest]), STATUS, gone=False)
    found = samples(metrics)
    assert found[f"schedule_last_success_timestamp_seconds{BKS}"] == datetime(2026, 1, 31, 2, 5, tzinfo=UTC).timestamp()
    assert found[f"schedule_next_run_timestamp_seconds{BKS}"] == datetime(2026, 2, 1, 2, tzinfo=UTC).timestamp()
    assert found[f"schedule_oldest_kept_timestamp_seconds{BKS}"] == datetime(2026, 1, 29, 2, tzinfo=UTC).timestamp()
    assert found[f"schedule_expected_interval_seconds{BKS}"] == DAY.total_seconds()
    assert found[f"schedule_kept_backups{BKS}"] == 3
    assert found[f"schedule_last_status{BKS}"] == 0
    assert found[f"schedule_recovery_window_seconds{BKS}"] == DAY.total_seconds()  # up to the last gap only
    assert found[f"schedule_stalled{BKS}"] == 1
    assert found[f"schedule_paused{BKS}"] == 0


def test_a_wrong_schedule_has_no_interval_and_breaks_nothing(metrics: Metrics) -> None:
    metrics.note("backupschedule", observed(schedule({"schedule": "nonsense"})), {}, gone=False)
    assert not any("expected_interval" in name for name in samples(metrics))


@pytest.mark.parametrize("junk", ["x", [], ["x"], {}, {"x": 1}, True])
@pytest.mark.parametrize("field", ["retention", "kept", "cleanStatus", "recoveryWindow", "conditions", "backupSize"])
def test_a_status_of_any_type_never_costs_the_series_of_others(metrics: Metrics, field: str, junk: Any) -> None:
    status = {"retention": {"kept": junk}} if field == "kept" else {field: junk}
    metrics.note("backupschedule", observed(schedule(DAILY), []), status, gone=False)
    metrics.note("backup", *run(phase="Complete", backupSize=4096), gone=False)
    assert samples(metrics)[f"run_bytes{RUN}"] == 4096


def test_series_go_with_their_cr(metrics: Metrics) -> None:
    seen, status = run(phase="Running")
    metrics.note("backup", seen, status, gone=False)
    metrics.note("backup", seen, status, gone=True)
    assert not any(name.startswith("phase{") for name in samples(metrics))


def test_series_of_a_cr_that_nobody_speaks_of_go_too(metrics: Metrics, clock: Clock) -> None:
    seen, status = run(phase="Running")
    metrics.note("backup", seen, status, gone=False)
    clock.seconds += 599
    assert any(name.startswith("phase{") for name in samples(metrics))
    clock.seconds += 2
    assert not any(name.startswith("phase{") for name in samples(metrics))


def test_the_newer_word_counts(metrics: Metrics) -> None:
    for phase in ("Running", "Complete"):
        seen, status = run(phase=phase)
        metrics.note("backup", seen, status, gone=False)
    assert [name for name in samples(metrics) if name.startswith("phase{")] == [
        'phase{kind="backup",name="x",namespace="db",phase="Complete",schedule="nightly"}'
    ]


def test_requests_and_drops_are_counted(metrics: Metrics) -> None:
    metrics.answered("backup", "sync", 200, 0.01)
    metrics.answered("backup", "sync", 200, 0.01)
    metrics.dropped("Backup.pingcap.com/v1alpha1", "maxBackups")
    found = samples(metrics)
    assert found['hook_requests_total{code="200",kind="backup",operation="sync"}'] == 2
    assert found['children_dropped_total{kind="Backup.pingcap.com/v1alpha1",rule="maxBackups"}'] == 1


@pytest.mark.parametrize(
    ("status", "metric"),
    [
        ({"cleanStatus": "x"}, "clean_objects_deleted"),
        ({"backupSize": True}, "run_bytes"),
        ({"backupSize": "9 GB"}, "run_bytes"),
        ({"timeCompleted": "soon"}, "run_completed_timestamp_seconds"),
        ({"phase": "x" * 65}, "phase"),
        ({**LOG, "logCheckpointTs": "tomorrow"}, "log_checkpoint_timestamp_seconds"),
    ],
)
def test_a_value_without_sense_costs_its_own_series_and_is_counted(
    metrics: Metrics, status: dict[str, Any], metric: str
) -> None:
    good = {"phase": "Complete", "timeStarted": "2026-01-31T02:00:00Z", "cleanStatus": {}}
    seen, _ = run()
    metrics.note("backup", seen, {**good, **status}, gone=False)
    metrics.exposition()
    found = samples(metrics)
    assert found[f'metric_errors_total{{metric="{metric}"}}'] >= 1
    assert not any(name.startswith(f"{metric}{{") for name in found)
    assert metric == "phase" or any(name.startswith("phase{") for name in found)


def named(number: int) -> Observed:
    return Observed(parent={"metadata": {"name": f"x{number}", "namespace": "db"}}, children={})


def test_a_flood_of_new_crs_leaves_those_that_were_there_in_sight(clock: Clock) -> None:
    metrics = Metrics(series_ttl=600, max_crs=3, monotonic=clock, now=lambda: NOW)
    for number in range(10):
        metrics.note("backup", named(number), {"phase": "Running"}, gone=False)
    metrics.note("backup", named(0), {"phase": "Complete"}, gone=False)
    metrics.note("restore", named(0), {"phase": "Running"}, gone=False)
    found = samples(metrics)
    assert sum(name.startswith("phase{") for name in found) == 4
    assert any('name="x0"' in name and 'phase="Complete"' in name for name in found)
    assert found['crs_left_out_total{kind="backup"}'] == 7


def test_those_that_nobody_speaks_of_make_room(clock: Clock) -> None:
    metrics = Metrics(series_ttl=600, max_crs=2, monotonic=clock, now=lambda: NOW)
    for number in range(2):
        metrics.note("backup", named(number), {"phase": "Running"}, gone=False)
        clock.seconds += 400
    metrics.note("backup", named(7), {"phase": "Running"}, gone=False)
    names = {name for name in samples(metrics) if name.startswith("phase{")}
    assert {part for part in ("x0", "x1", "x7") if any(f'"{part}"' in name for name in names)} == {"x1", "x7"}


def test_what_is_kept_of_a_cr_is_small_whatever_its_status(metrics: Metrics) -> None:
    seen, _ = run()
    huge = {"phase": "y" * 10_000_000, "backupSize": {"x": "y" * 10_000_000}, "more": ["z"] * 100_000}
    tracemalloc.start()
    for number in range(10):
        status = {**{key: (value + str(number) if isinstance(value, str) else value) for key, value in huge.items()}}
        metrics.note("backup", named(number), status, gone=False)
    del status
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.name == "x"
    assert kept < 100_000
