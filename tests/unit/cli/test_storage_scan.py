"""Which folders are looked into, and how what they tell becomes one list."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import cli.storage_scan
from backup_manager.catalog.audit_log import AuditLog
from backup_manager.catalog.record import Cleaned, Owner
from backup_manager.catalog.records import Records
from backup_manager.content import Content
from backup_manager.errors import AccessDeniedError, NotFoundError, UsageError
from backup_manager.storage.memory import Bucket, MemoryStorage
from cli.models.history import Timeline, outcome, remark, since
from cli.models.import_records import rebuild
from cli.storage_scan import ScanTarget, StorageScan, read, read_all, spots, spots_of
from crds.contract.paths import Location, Provider

NOW = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
S3 = {"provider": "aws", "bucket": "b", "prefix": "p"}


def storage(bucket: Bucket, prefix: str) -> MemoryStorage:
    return MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=prefix), bucket)


def cr(kind: str, spec: dict[str, Any], name: str = "n", **status: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "db", "uid": f"uid-{name}"}, "spec": spec, "status": status}


def test_folders_of_crs() -> None:
    found = spots_of(
        [
            cr("Backup", {"from": {}, "s3": S3}, backupPath="s3://b/p/a-1"),
            cr("Backup", {"br": {"cluster": "c"}, "s3": {**S3, "prefix": "q/run"}}),
            cr("Backup", {"br": {"cluster": "c"}, "s3": {**S3, "prefix": "p/inner/run"}}),
            cr("BackupSchedule", {"backupTemplate": {"br": {"cluster": "c"}, "s3": {**S3, "prefix": "sched"}}}),
            cr("Backup", {"s3": {"bucket": "x/../y"}}),
            cr("Backup", {}),
            cr("Restore", {"br": {"cluster": "c"}, "s3": {**S3, "prefix": "p"}}),
        ]
    )
    assert [spot.location.url for spot in found] == ["s3://b/p", "s3://b/q", "s3://b/sched"]
    assert found[0].spec == {"from": {}, "s3": S3}


def test_folders_by_url() -> None:
    assert spots(["s3://b/p/"])[0].location.prefix == "p"
    assert [spot.location.url for spot in spots(["gs://b/p", "azblob://b"])] == ["gcs://b/p/", "azure://b/"]
    with pytest.raises(UsageError, match="no storage path"):
        spots(["b/p"])


def test_a_folder_that_is_not_here_is_not_an_empty_one(tmp_path: Path) -> None:
    absent, there = f"local://{tmp_path}/absent", f"local://{tmp_path}"
    assert read_all(spots([there]), env={}) == StorageScan()
    with pytest.raises(NotFoundError, match=r"no folder .*/absent on this machine"):
        read_all(spots([absent]), env={})
    assert read_all(spots([absent, there]), env={}).problems == [f"{absent}: there is no folder {absent} on this machine"]
    assert read_all(spots([absent]), env={}, lenient=True).problems


def test_whoever_has_no_credentials_is_told_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_forbidden(*_args: object, **_more: object) -> None:
        raise AccessDeniedError("no usable S3 credentials", hint="Set s3.secretName.")

    monkeypatch.setattr(cli.storage_scan, "open_storage", open_forbidden)
    with pytest.raises(AccessDeniedError) as refused:
        read_all(spots(["s3://b/p"]), env={})
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint


def filled() -> Bucket:
    bucket = Bucket()
    clock = iter(NOW + timedelta(minutes=minute) for minute in range(99))
    owner = Owner(namespace="db", name="n", uid="uid-n")
    records = Records(storage(bucket, "p/n"), now=lambda: next(clock))
    claim = records.claim(owner, operation="export", spec={"s3": S3})
    bucket.put("p/n/data", b"1234")
    records.complete(claim, commit_ts="7")
    records.finish_clean(records.begin_clean(owner), Cleaned(by="x", why="y", at=NOW + timedelta(days=1), deleted=1))
    records.claim(Owner(namespace="db", name="second", uid="uid-2"), operation="export", spec={"s3": S3})
    bucket.put("p/broken.record.json", b"{")
    return bucket


def test_everything_of_a_folder_is_found_and_what_is_broken_named() -> None:
    bucket = filled()
    scan = read(storage(bucket, ""))
    assert [stored.record.owner.name for stored in scan.stored] == ["second"]
    assert [(account.folder.url, account.length) for account in scan.accounts] == [("s3://b/p", 5)]
    assert [problem for problem in scan.problems if "broken.record.json is not a record" in problem]
    # The record of the folder itself lies beside it.
    assert [stored.url for stored in read(storage(bucket, "p/n")).stored] == ["s3://b/p/n.record.json"]


def test_one_storage_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = filled()

    def open_memory(_spec: Mapping[str, Any], *, location: Location, env: Mapping[str, str]) -> MemoryStorage:
        assert env == {}
        if location.bucket == "forbidden":
            raise AccessDeniedError("no")
        return MemoryStorage(location, bucket)

    monkeypatch.setattr(cli.storage_scan, "open_storage", open_memory)
    scan = read_all([*spots(["s3://b/p", "s3://b/", "s3://forbidden/x"])], env={})
    assert len(scan.stored) == 1
    assert len(scan.accounts) == 1
    assert scan.problems[-1] == "s3://forbidden/x: no"
    with pytest.raises(AccessDeniedError):
        read_all([ScanTarget(location=Location.parse("s3://forbidden/x"))], env={})


def events(scan: StorageScan, *crs: dict[str, Any]) -> list[tuple[str, str, str]]:
    timeline = Timeline()
    timeline.add_shelf(scan)
    timeline.add_crs(crs, NOW)
    return [(event.name, outcome(event), "+".join(event.sources)) for event in timeline.events()]


def test_lives_of_one_path_are_apart() -> None:
    scan = read(storage(filled(), "p"))
    assert events(scan) == [("n", "Cleaned", "history+record"), ("second", "Unfinished", "history+record")]
    # Without the history the record still tells of its earlier life; without the record the history tells of both.
    assert events(StorageScan(stored=scan.stored)) == [("n", "Cleaned", "record"), ("second", "Unfinished", "record")]
    assert events(StorageScan(accounts=scan.accounts)) == [("n", "Cleaned", "history"), ("second", "Unfinished", "history")]


def test_crs_join_what_the_storage_tells() -> None:
    scan = read(storage(filled(), "p"))
    running = cr("Backup", {"s3": S3}, "second", phase="Running", backupPath="s3://b/p/n/", timeStarted="2026-01-31T02:03:00Z")
    running["metadata"]["uid"] = "uid-2"
    cleaned = cr("Backup", {"s3": S3}, phase="Complete", backupPath="s3://b/p/n")
    alone = cr("Restore", {"s3": S3}, "back", phase="Failed", timeStarted="2026-02-01T00:00:00Z")
    assert events(scan, running, cleaned, alone) == [
        ("n", "Cleaned", "history+record+cr"),
        ("second", "Running", "history+record+cr"),
        ("back", "Failed", "cr"),
    ]


def test_an_imported_backup_is_the_one_that_wrote_the_data() -> None:
    bucket = Bucket()
    owner = Owner(namespace="db", name="n", uid="uid-n")
    records = Records(storage(bucket, "p/n"), now=lambda: NOW)
    claim = records.claim(
        owner, operation="export", spec={"from": {"host": "h", "secretName": "s"}, "s3": {**S3, "secretName": "s"}}
    )
    records.complete(claim)
    scan = read(storage(bucket, "p"))
    (made,) = rebuild(scan.stored, [])
    assert made.backup is not None
    made.backup["metadata"]["uid"] = "another"
    assert events(scan, {**made.backup, "status": made.status}) == [("n", "Complete", "history+record+cr")]


def test_since_looks_at_the_last_thing_that_happened() -> None:
    timeline = Timeline()
    timeline.add_shelf(read(storage(filled(), "p")))
    found = timeline.events()
    assert [event.name for event in since(found, NOW + timedelta(hours=1))] == ["n"]
    assert list(since(found, NOW + timedelta(days=2))) == []
    assert remark(found[0]) == "cleaned 2026-02-01 02:00:00Z; CR gone; 1 objects deleted by x (y)"


def test_a_restore_without_its_cr_is_known_by_the_history() -> None:
    bucket = filled()
    AuditLog.beside(storage(bucket, "p/n")).append(
        now=lambda: NOW, event="RestoreFailed", path="s3://b/p/n", kind="Restore", name="back", uid="r", reason="TargetNotEmpty"
    )
    timeline = Timeline()
    timeline.add_shelf(read(storage(bucket, "p")))
    restore = next(event for event in timeline.events() if event.kind == "Restore")
    assert (restore.name, restore.outcome, restore.notes) == ("back", "Failed", ["TargetNotEmpty"])


def test_what_a_restore_brought_back_is_known_by_the_history() -> None:
    bucket, content = filled(), Content(start_ts="300", end_ts="450")
    AuditLog.beside(storage(bucket, "p/n")).append(
        now=lambda: NOW,
        event="Restored",
        path="s3://b/p/n",
        kind="Restore",
        name="back",
        uid="r",
        content=content,
        commit_ts="450",
    )
    timeline = Timeline()
    timeline.add_shelf(read(storage(bucket, "p")))
    restore = next(event for event in timeline.events() if event.kind == "Restore")
    assert (restore.data["content"]["startTs"], restore.data["content"]["endTs"], restore.data["commitTs"]) == (
        "300",
        "450",
        "450",
    )
