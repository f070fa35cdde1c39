"""Backups rebuilt from records: complete from the first look on, never run, whatever happens around them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from app.builders.labels import own
from app.domain.backup.imported import Imported
from app.domain.config import Config
from app.domain.observed import Observed
from app.hooks import response as answer
from app.hooks.backup import KIND
from crds.contract import names
from crds.v1alpha1 import Backup
from tests.support.objects import BR_SPEC, EXPORT_SPEC, NOW, job, observed, parent

FACTS = Imported(
    record="s3://bucket/daily/basic-0f5e9c1a.record.json",
    path="s3://bucket/daily/basic-0f5e9c1a",
    uid="the-uid-before",
    commit_ts="449000000000000001",
    size=5024,
    started=datetime(2026, 1, 30, 2, 0, tzinfo=UTC),
    completed=datetime(2026, 1, 30, 2, 4, tzinfo=UTC),
)


def backup(spec: dict[str, Any] = EXPORT_SPEC, *, text: str | None = None, **fields: Any) -> dict[str, Any]:
    annotations = {names.IMPORTED_ANNOTATION: FACTS.to_text() if text is None else text}
    return parent("Backup", spec, annotations=annotations, **fields)


def body(request: Observed, now: datetime = NOW) -> dict[str, Any]:
    """What the hook answers."""
    found: dict[str, Any] = orjson.loads(answer.render(KIND, request, KIND.decide(request, now, Config()), Config()))
    return found


@pytest.mark.parametrize("spec", [EXPORT_SPEC, BR_SPEC], ids=["export", "br"])
def test_it_is_complete_at_once_and_runs_nothing(spec: dict[str, Any]) -> None:
    found = body(observed(backup(spec)))
    assert found["children"] == []
    assert found["status"].pop("recorded")
    assert found["status"] == {
        "backupPath": FACTS.path,
        "backupSize": 5024,
        "backupSizeReadable": "5.0 kB",
        "commitTs": "449000000000000001",
        "conditions": [
            {
                "type": "Complete",
                "status": "True",
                "reason": "Imported",
                "message": f"rebuilt from {FACTS.record}",
                "lastTransitionTime": "2026-01-30T02:04:00Z",
            }
        ],
        "observedGeneration": 1,
        "phase": "Complete",
        "progress": "100%",
        "timeCompleted": "2026-01-30T02:04:00Z",
        "timeStarted": "2026-01-30T02:00:00Z",
        "timeTaken": "4m0s",
    }
    Backup.model_validate({**backup(spec), "status": found["status"]})


def test_it_stays_as_it_is_for_ever() -> None:
    first = body(observed(backup()))
    later = backup(status=first["status"])
    for days in (0, 1, 4000):
        assert body(observed(later), NOW + timedelta(days=days))["status"] == first["status"]
    # Without its annotation too: it has latched.
    del later["metadata"]["annotations"]
    assert body(observed(later))["children"] == []
    # And somebody else's Job is only kept.
    kept = body(observed(backup(), job("backup-basic", labels={})))
    assert [child["metadata"]["name"] for child in kept["children"]] == ["backup-basic"]
    assert kept["status"]["phase"] == "Complete"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("true", "names no path"),
        ("{", "is no JSON"),
        (json.dumps({"path": ""}), "names no path"),
        (json.dumps({"path": "s3://b/p", "size": "big"}), "no size"),
        (json.dumps({"path": "s3://b/p", "completed": "yesterday"}), "no time in completed"),
    ],
)
def test_a_broken_annotation_is_invalid_and_runs_nothing(text: str, says: str) -> None:
    found = body(observed(backup(text=text)))
    assert found["children"] == []
    assert found["status"]["phase"] == "Invalid"
    assert says in found["status"]["conditions"][0]["message"]


def test_its_text_reads_back() -> None:
    assert Imported.of(backup()) == FACTS
    assert Imported.of(parent("Backup", EXPORT_SPEC)) is None
    few = Imported(record="", path="s3://b/p")
    assert Imported.of(backup(text=few.to_text())) == few


def test_deleting_one_keeps_the_data_unless_told_otherwise() -> None:
    status = body(observed(backup()))["status"]
    assert body(observed(backup(status=status), finalizing=True))["finalized"] is True
    spec = {**EXPORT_SPEC, "cleanPolicy": "Delete"}
    found = body(observed(backup(spec, status=status), finalizing=True))
    (child,) = found["children"]
    (container,) = child["spec"]["template"]["spec"]["containers"]
    assert {"name": "BACKUP_PATH", "value": FACTS.path} in container["env"]
    # Deleted before the first look: nothing is known, so nothing is cleaned but the folder that this uid would have had.
    fresh = body(observed(backup({**BR_SPEC, "cleanPolicy": "Delete"}), finalizing=True))
    assert fresh["finalized"] is True


def test_it_is_not_copied_to_what_a_schedule_makes() -> None:
    assert not own(names.IMPORTED_ANNOTATION)
