"""What is kept of a schedule's children."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.schedule.children import lean
from tests.support.schedules import BR, CREATED, UID, backup, compaction, log_backup

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("phase", ["Complete", "Failed", "Running", ""])
@pytest.mark.parametrize("deleting", [False, True])
def test_of_a_snapshot_nine_fields_are_kept(phase: str, deleting: bool) -> None:
    item = backup(CREATED, phase, deleting=deleting, backupSize=7, conditions=[{"type": "Complete"}])
    kept = lean(item)
    metadata = {key: value for key, value in item["metadata"].items() if key != "labels"}
    metadata["ownerReferences"] = [{"controller": True, "uid": UID}]
    status = {key: item["status"][key] for key in ("phase", "commitTs", "timeCompleted") if key in item["status"]}
    assert kept == {"metadata": metadata, "status": status}


def test_annotations_of_others_are_not_kept() -> None:
    item = backup(CREATED)
    item["metadata"]["annotations"] = {"team": "a"}
    assert "annotations" not in lean(item)["metadata"]


@pytest.mark.parametrize(
    "child",
    [
        log_backup(CREATED, CREATED + HOUR),
        compaction(CREATED, CREATED + HOUR, made=CREATED + HOUR),
        {},
        {"kind": "Backup"},
        {"kind": "Backup", "metadata": []},
        {"kind": "Backup", "metadata": {"annotations": ["x"]}},
        {"kind": "Backup", "metadata": {}, "spec": "x"},
        {"kind": "Backup", "metadata": {}, "spec": BR, "status": 1},
    ],
)
def test_what_else_there_is_stays_whole(child: dict[str, Any]) -> None:
    assert lean(child) is child
