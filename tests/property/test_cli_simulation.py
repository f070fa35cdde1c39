"""The simulated world of ``tidb-backup simulate`` under random policies: no run twice, never fewer than ``minKeep``."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.config import Config
from cli.models.simulate import Assumption, SimulationResult, Simulator
from crds.contract import names

START = datetime(2026, 1, 1, tzinfo=UTC)
S3 = {"provider": "aws", "region": "r", "bucket": "b", "prefix": "p", "secretName": "s"}


def story(days: int, **spec: Any) -> SimulationResult:
    template = {"br": {"cluster": "basic"}, "s3": S3}
    meta = {"name": "s", "namespace": "db"}
    parent = {"apiVersion": names.API_VERSION, "kind": "BackupSchedule", "metadata": meta}
    return Simulator({**parent, "spec": {"backupTemplate": template, **spec}}, [], Config(), START, Assumption()).run(days)


@settings(max_examples=10, deadline=None)
@given(
    keep=st.dictionaries(
        st.sampled_from(["keepLast", "keepDaily", "keepWeekly", "keepMonthly"]), st.integers(1, 5), min_size=1
    ),
    min_keep=st.integers(1, 4),
    hour=st.sampled_from(["*/6", "2", "1,13"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
)
def test_no_run_twice_and_never_below_the_floor(keep: dict[str, int], min_keep: int, hour: str, zone: str) -> None:
    found = story(45, schedule=f"0 {hour} * * *", timeZone=zone, retention={**keep, "minKeep": min_keep})
    assert len({run.name for run in found.runs}) == len(found.runs)
    complete = [(run.completed, run.deleted) for run in found.runs if run.completed]
    for moment in {deleted for _, deleted in complete if deleted}:
        done = [item for item in complete if item[0] and item[0] <= moment]
        left = [item for item in done if item[1] is None or item[1] > moment]
        assert len(left) >= min(min_keep, len(done))
    most = sum(keep.values()) + min_keep + 2
    assert found.days[-1].kept <= most
