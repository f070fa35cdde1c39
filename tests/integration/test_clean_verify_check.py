"""Claim, write, verify, clean, on every real store: each operation as a Job would run it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_manager.catalog.record import Cleaned, Owner, State, record_location
from backup_manager.catalog.records import Records
from backup_manager.errors import CheckError, ClaimedError, PartialError, StorageError, SupersededError
from backup_manager.operations import check, clean, verify
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from crds.contract import names
from tests.support import servers
from tests.support.manager import UID, World, world
from tests.support.object_stores import Store, azure, fresh, gcs, local, s3

pytestmark = pytest.mark.integration

STORES = ("s3-plain", "s3-versioned", "gcs", "azblob", "local")
OWNER = Owner(kind="Backup", namespace="ns", name="cr", uid=UID)
OTHER = Owner(kind="Backup", namespace="ns", name="other", uid="uid-other")
NAMES = ("metadata", "shop.we%2Eird t-schema.sql", "shop.t.000000001.sql", "ü/ñ+x", "deep/er/file", "a b")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    folder = tmp_path_factory.mktemp("stores")
    with s3(folder / "s3") as (plain, versioned), gcs(folder / "gcs") as google, azure(folder / "azure") as microsoft:
        found = (plain, versioned, google, microsoft, local(folder / "volume"))
        yield {store.name: store for store in found}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Store:
    return stores[request.param]


def job(tmp_path: Path, store: Store, storage: Storage, spec: Mapping[str, Any] | None = None) -> World:
    """A Job of our CR for the path of *storage*."""
    env = {**store.env, names.ENV_BACKUP_PATH: storage.location.url}
    return world(tmp_path, {**store.spec, "cleanPolicy": "Delete", **(spec or {})}, env=env)


def written(storage: Storage) -> Records:
    records = Records(storage)
    claim = records.claim(OWNER, operation="export", spec={})
    for name in NAMES:
        storage.write(name, name.encode())
    records.complete(claim, tool="dumpling")
    return records


def left(storage: Storage) -> list[str]:
    return [target.key for page in storage.targets() for target in page]


def test_whole_life(tmp_path: Path, store: Store) -> None:
    prefix = fresh()
    storage, sibling = store.open(f"{prefix}/cr-1"), store.open(f"{prefix}/cr-1-b")
    records = written(storage)
    sibling.write("theirs", b"1")

    verify.run(job(tmp_path, store, storage).context)

    result = clean.run(job(tmp_path, store, storage).context)
    assert result.details["deleted"] >= len(NAMES)
    assert not left(storage)
    assert sibling.read("theirs") == b"1"
    record = records.load()
    assert record is not None
    assert record.state is State.CLEANED
    assert record.cleaned is not None
    assert clean.run(job(tmp_path, store, storage).context).details["deleted"] == 0


def test_verify_finds_what_changed(tmp_path: Path, store: Store) -> None:
    storage = store.open(fresh())
    written(storage)
    storage.delete(["metadata"])
    storage.write("a b", b"A B")
    storage.write("extra", b"")
    scene = job(tmp_path, store, storage)
    with pytest.raises(CheckError, match="1 missing, 1 extra, 1 changed"):
        verify.run(scene.context)
    assert scene.report.result["missingKeys"] == ["metadata"]
    assert scene.report.result["extraKeys"] == ["extra"]
    assert scene.report.result["changedKeys"][0].startswith("a b: content mark")


def test_another_backups_data_is_safe(tmp_path: Path, store: Store) -> None:
    storage = store.open(fresh())
    Records(storage).claim(OTHER, operation="export", spec={})
    storage.write("precious", b"1")
    with pytest.raises(StorageError) as caught:
        clean.run(job(tmp_path, store, storage).context)
    assert caught.value.problem().reason == "BackupPathClaimed"
    with pytest.raises(ClaimedError):
        Records(storage).claim(OWNER, operation="export", spec={})
    assert storage.read("precious") == b"1"


def test_a_stale_writer_and_a_stale_cleaner_lose_the_path(store: Store) -> None:
    """Each transition is a conditional write on the real store, so whoever stood still finds its path taken."""
    storage = store.open(fresh())
    frozen, writer = Records(storage, attempt_id="1"), Records(storage, attempt_id="2")
    stale = frozen.claim(OWNER, operation="export", spec={})
    storage.write("metadata", b"old snapshot")
    claim = writer.claim(OWNER, operation="export", spec={})
    writer.data_storage(claim).write("metadata", b"new")
    done = writer.complete(claim)
    assert (done.data, done.object_count, done.size) == ("attempt-2", 1, 3)
    for late in (lambda: frozen.confirm(stale), lambda: frozen.complete(stale)):
        with pytest.raises(SupersededError):
            late()
    frozen.close()
    first, second = Records(storage, attempt_id="3"), Records(storage, attempt_id="4")
    lost, held = first.begin_clean(OWNER), second.begin_clean(OWNER)
    with pytest.raises(SupersededError):
        first.finish_clean(lost, Cleaned(at=datetime.now(UTC)))
    with pytest.raises(ClaimedError):
        Records(storage).claim(OTHER, operation="export", spec={})
    first.close()
    second.finish_clean(held, Cleaned(at=datetime.now(UTC)))
    assert Records(storage).claim(OTHER, operation="export", spec={}).attempts == 5


def test_real_stores_enforce_conditional_writes(store: Store) -> None:
    storage = store.open(fresh())
    storage.write("probe", b"1")
    assert storage.enforces_conditions("probe")


def test_of_many_claims_one_wins(store: Store) -> None:
    location = store.open(fresh()).location
    gate, won, lost = threading.Barrier(6), list[str](), list[str]()

    def claim(number: int) -> None:
        owner = Owner(namespace="ns", name=str(number), uid=f"uid-{number}")
        records = Records(open_storage(store.spec, location=location, env=store.env))
        gate.wait()
        try:
            records.claim(owner, operation="export", spec={})
        except ClaimedError:
            lost.append(owner.uid)
        else:
            won.append(owner.uid)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)


def test_hundreds_of_objects(tmp_path: Path, store: Store) -> None:
    count = {"azblob": 300, "gcs": 250}.get(store.name, 1100)  # more than one batch
    storage = store.open(fresh())
    workers = [
        threading.Thread(target=lambda n=n: [storage.write(f"d{i % 7}/{i:05d}", b"x") for i in range(n, count, 8)])
        for n in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    scene = job(tmp_path, store, storage, {"cleanOption": {"pageSize": 2000}})
    result = clean.run(scene.context)
    assert result.details["deleted"] >= count
    assert result.details["left"] == 0
    assert not left(storage)


@pytest.mark.parametrize("br", [{}, {"br": {"cluster": "basic"}}], ids=["export", "br"])
def test_check_is_all_ok_and_leaves_nothing(tmp_path: Path, store: Store, br: dict[str, Any]) -> None:
    storage = store.open(fresh())
    beside, _ = record_location(storage.location)
    before = left(storage.at(beside))
    scene = world(tmp_path, {**store.at(storage.location.prefix), **br}, env=store.env)
    check.run(scene.context)
    told = {c["name"]: c["status"] for c in scene.report.result["checks"]}
    wanted = ("reach", "list", "write", "read", "delete", "record")
    assert {name: told[name] for name in wanted} == dict.fromkeys(wanted, "OK")
    assert left(storage.at(beside)) == before
    assert not left(storage)


BAD_LOGIN = {
    "s3-plain": {"AWS_ACCESS_KEY_ID": "nobody"},
    "s3-versioned": {"AWS_SECRET_ACCESS_KEY": "wrong"},
    "azblob": {"AZURE_STORAGE_KEY": "d3Jvbmc="},
}


@pytest.mark.parametrize("name", BAD_LOGIN)
def test_check_with_a_wrong_key_fails_in_seconds(tmp_path: Path, stores: dict[str, Store], name: str) -> None:
    store = stores[name]
    scene = world(tmp_path, store.at(fresh()), env={**store.env, **BAD_LOGIN[name]})
    began = datetime.now(UTC)
    with pytest.raises(CheckError, match=r"InvalidCredentials|StorageAccessDenied"):
        check.run(scene.context)
    assert datetime.now(UTC) - began < timedelta(seconds=30)
    failed = next(item for item in scene.report.result["checks"] if item["status"] == "FAILED")
    # Azure lets a SAS list objects without letting it see the container, so there the first look proves nothing.
    assert failed["name"] == ("list" if name == "azblob" else "reach")
    assert failed["hint"]


def test_check_of_a_missing_bucket(tmp_path: Path, stores: dict[str, Store]) -> None:
    store = stores["s3-plain"]
    spec = {"s3": {**store.spec["s3"], "bucket": "absent-bucket"}}
    scene = world(tmp_path, spec, env=store.env)
    with pytest.raises(CheckError, match="absent-bucket does not exist"):
        check.run(scene.context)


def test_all_versions_and_markers_go(tmp_path: Path, stores: dict[str, Store]) -> None:
    store = stores["s3-versioned"]
    storage = store.open(fresh())
    for number in range(5):
        for _ in range(3):
            storage.write(f"k{number}", b"x")
    storage.delete([f"k{number}" for number in range(3)])
    assert len(left(storage)) == 18
    assert clean.run(job(tmp_path, store, storage).context).details["deleted"] == 18
    assert not left(storage)


def client_of(store: Store) -> Any:
    """boto3 at a store's server."""
    return servers.S3(endpoint=store.spec["s3"]["endpoint"]).client()


def test_unfinished_uploads_go(tmp_path: Path, stores: dict[str, Store]) -> None:
    store = stores["s3-plain"]
    storage, client = store.open(fresh()), client_of(store)
    for key in ("a", "deep/b c+ü"):
        begun = client.create_multipart_upload(Bucket="plain", Key=f"{storage.location.prefix}/{key}")
        client.upload_part(Bucket="plain", Key=begun["Key"], UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 100)
    client.create_multipart_upload(Bucket="plain", Key=f"{storage.location.prefix}-sibling/a")
    assert {upload.key for upload in storage.uploads()} == {"a", "deep/b c+ü"}
    assert clean.run(job(tmp_path, store, storage).context).details["uploadsAborted"] == 2
    assert not list(storage.uploads())
    assert list(store.open(f"{storage.location.prefix}-sibling").uploads())


def test_killed_in_the_middle_and_again(tmp_path: Path, stores: dict[str, Store]) -> None:
    """The process is gone between two deletions, as with a lost node; the next one finishes."""
    store, count = stores["s3-plain"], 400
    storage = store.open(fresh())
    for number in range(count):
        storage.write(f"{number:03d}", b"x")
    document = {
        "kind": "Backup",
        "metadata": {"name": "cr", "namespace": "ns", "uid": UID},
        "spec": {**store.spec, "cleanOption": {"disableBatchConcurrency": True, "routineConcurrency": 1}},
        "status": {"backupPath": storage.location.url},
    }
    argv = [sys.executable, "-m", "backup_manager.cli", "clean", "--from-file=-", "--report=stdout"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=dict(store.env), cwd=servers.ROOT)
    assert process.stdin is not None
    process.stdin.write(json.dumps(document).encode())
    process.stdin.close()
    while (now := len(left(storage))) == count:
        assert process.poll() is None, "the clean ended before anything was seen to go"
    process.kill()
    process.wait()
    assert now > 0, "killed too late: nothing was left for the second run"
    record = Records(storage).load()
    assert record is None or record.state is State.CLEANING
    assert clean.run(job(tmp_path, store, storage).context).details["deleted"] > 0
    assert not left(storage)


@pytest.fixture(scope="module")
def locked(stores: dict[str, Store]) -> Store:
    """A bucket with object lock."""
    store = stores["s3-plain"]
    client = client_of(store)
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    return replace(store, name="s3-locked", spec={"s3": {**store.spec["s3"], "bucket": "locked"}})


def test_locked_objects_are_deferred(tmp_path: Path, locked: Store) -> None:
    storage, client = locked.open(fresh()), client_of(locked)
    until = (datetime.now(UTC) + timedelta(seconds=6)).replace(microsecond=0)
    for number in range(6):
        lock: dict[str, Any] = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until} if number < 2 else {}
        client.put_object(Bucket="locked", Key=f"{storage.location.prefix}/k{number}", Body=b"x", **lock)
    scene = job(tmp_path, locked, storage)
    with pytest.raises(PartialError) as caught:
        clean.run(scene.context)
    assert caught.value.problem().reason == "ObjectsLocked"
    assert scene.report.result["deferredUntil"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert sorted(left(storage)) == ["k0", "k1"]
    threading.Event().wait(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 1)
    clean.run(job(tmp_path, locked, storage).context)
    assert not left(storage)
