"""Backups from records: complete, never run (the real hook says so), no secret, no name taken twice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.config import Config
from backup_manager.catalog.audit_log import digest
from backup_manager.catalog.record import Owner, Record, State
from backup_manager.masking import MASK
from cli.documents import key_of
from cli.models.import_records import rebuild
from cli.requests import ask, observe, request
from cli.storage_scan import StoredRecord
from crds.contract import names
from crds.contract.paths import Location
from crds.v1alpha1 import Backup

NOW = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "from": {"host": "h", "secretName": "t"},
    "s3": {"provider": "aws", "region": "r", "bucket": "b", "prefix": "p", "secretName": "s"},
}


def stored(name: str = "a", uid: str = "11111111-2222", path: str = "", days: int = 0, **fields: Any) -> StoredRecord:
    path = path or f"s3://b/p/{name}-{uid[:8]}"
    wanted: dict[str, Any] = {
        "state": State.COMPLETE,
        "owner": Owner(namespace="db", name=name, uid=uid),
        "backup_path": path,
        "operation": "export",
        "spec": SPEC,
        "time_claimed": NOW + timedelta(days=days),
        "time_completed": NOW + timedelta(days=days, minutes=4),
        "size": 5024,
        "commit_ts": "449",
    }
    record = Record(**{**wanted, **fields})
    return StoredRecord(
        record=record, url=f"{path}.record.json", folder=Location.parse("s3://b/p"), digest=digest(record.to_json())
    )


def test_the_real_hook_finds_them_complete_and_latches_them() -> None:
    (made,) = rebuild([stored()], [])
    assert made.backup is not None
    Backup.model_validate(made.backup)
    # As created, before anybody wrote a status; then as somebody wrote it; then without the annotation.
    first = ask(observe(request(made.backup, [], Config())), NOW, Config()).body
    assert first["children"] == []
    recorded = first["status"]["recorded"]
    assert first["status"] == {**(made.status or {}), "observedGeneration": 1, "recorded": recorded}
    written = {**made.backup, "status": first["status"]}
    again = ask(observe(request(written, [], Config())), NOW + timedelta(days=999), Config()).body
    assert again == first
    bare = {**written, "metadata": {**written["metadata"], "annotations": {}}}
    assert ask(observe(request(bare, [], Config())), NOW, Config()).body["children"] == []
    assert first["status"]["backupPath"] == "s3://b/p/a-11111111"
    assert first["status"]["timeTaken"] == "4m0s"


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_data_is_kept_unless_told_otherwise(policy: str) -> None:
    (made,) = rebuild([stored()], [], clean_policy=policy)
    assert made.backup is not None
    assert made.backup["spec"]["cleanPolicy"] == policy
    confirmed = made.backup["metadata"]["annotations"].get(names.CONFIRM_CLEAN_ANNOTATION)
    assert confirmed == (None if policy == "Retain" else "11111111-2222")


def test_what_was_blanked_is_left_out_and_told() -> None:
    spec = {
        **SPEC,
        "env": [{"name": "TOKEN", "value": MASK}, {"name": "REF", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "dumpling": {"options": ["--threads=4", f"--password={MASK}"]},
    }
    (made,) = rebuild([stored(spec=spec)], [])
    assert made.backup is not None
    assert [entry["name"] for entry in made.backup["spec"]["env"]] == ["REF"]
    assert made.backup["spec"]["dumpling"] == {"options": ["--threads=4"]}
    assert [note.partition(" ")[0] for note in made.notes] == ["spec.env[0]", "spec.dumpling.options[1]"]
    assert MASK not in str(made.backup)


def test_namesakes_get_names_of_their_own_and_the_newest_keeps_its() -> None:
    found = rebuild([stored(uid="aaaaaaaa-1"), stored(uid="bbbbbbbb-1", days=1)], [])
    made = {item.record.owner.uid: item.name for item in found}
    assert made == {"aaaaaaaa-1": "db/a-aaaaaaaa", "bbbbbbbb-1": "db/a"}


def test_what_is_there_stays_as_it_is() -> None:
    there = {
        "apiVersion": names.API_VERSION,
        "kind": "Backup",
        "metadata": {"name": "a", "namespace": "db"},
        "status": {"backupPath": "s3://b/p/a-11111111"},
    }
    (same,) = rebuild([stored()], [there])
    assert same.skipped == "is there already, as db/a"
    (other,) = rebuild([stored(uid="99999999-1")], [there])
    assert other.backup is not None
    assert key_of(other.backup)[2] == "a-99999999"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"state": State.FAILED}, "is Failed, not Complete"),
        ({"state": State.CLEANED}, "is Cleaned, not Complete"),
        ({"spec": {**SPEC, "backupMode": "log"}}, "is a log backup"),
        ({"spec": {}}, "keeps no spec"),
        ({"spec": {**SPEC, "nonsense": 1}}, "spec that cannot be applied"),
        ({"owner": Owner(kind="CompactBackup", name="c", uid="u")}, "belongs to a CompactBackup"),
    ],
)
def test_what_is_not_rebuilt(fields: dict[str, Any], why: str) -> None:
    (found,) = rebuild([stored(**fields)], [])
    assert found.backup is None
    assert why in found.skipped


def test_a_namespace_of_ones_own() -> None:
    (made,) = rebuild([stored()], [], namespace="elsewhere")
    assert made.name == "elsewhere/a"
