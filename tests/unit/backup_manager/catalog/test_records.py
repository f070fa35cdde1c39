"""Records: the claim before the first byte, the account at the end, the tombstone after the clean; nothing is lost."""

import gzip
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from backup_manager.catalog.record import Cleaned, Owner, Record, State, find, pack_objects, safe_spec, unpack_objects
from backup_manager.catalog.records import Records
from backup_manager.errors import AccessDeniedError, ClaimedError, NotFoundError, StorageError, SupersededError
from backup_manager.kubernetes.resource import Resource
from backup_manager.masking import Masker
from backup_manager.storage.base import ObjectInfo
from backup_manager.storage.memory import Bucket, MemoryStorage
from crds.contract.paths import Location, Provider
from crds.contract.report import Problem
from tests.support.fake_s3 import FakeS3, error

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE, TWO = Owner(namespace="ns", name="one", uid="uid-1"), Owner(namespace="ns", name="two", uid="uid-2")
SPEC = {"s3": {"bucket": "b"}}


def at(prefix: str, bucket: Bucket) -> Records:
    return Records(MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=prefix), bucket), now=lambda: NOW)


def data(keys: Iterable[str]) -> set[str]:
    """Without the folder's history, which has its own tests."""
    return {key for key in keys if ".history/" not in key}


def claim(records: Records, owner: Owner = ONE) -> Record:
    return records.claim(owner, operation="export", spec=SPEC)


def test_claim_complete_bury() -> None:
    bucket = Bucket()
    records = at("p/q", bucket)
    mine = claim(records)
    assert data(bucket.objects) == {"p/q.record.json"}
    bucket.put("p/q/a", b"123")
    bucket.put("p/q/b", b"4567")
    bucket.put("p/q-b/c", b"not ours")
    done = records.complete(mine, tool="dumpling", tool_version="v8", argv=["--x"], commit_ts="42")
    assert (done.state, done.object_count, done.size, done.commit_ts) == (State.COMPLETE, 2, 7, "42")
    assert {key: size for key, (size, _) in records.objects(done).items()} == {"a": 3, "b": 4}
    cleaning = records.begin_clean(ONE)
    loaded = records.load()
    assert loaded is not None
    assert loaded.state is State.CLEANING
    buried = records.finish_clean(cleaning, Cleaned(by="pod", why="cleanPolicy Delete", at=NOW, deleted=2, bytes=7))
    assert (buried.state, buried.live, buried.object_count) == (State.CLEANED, False, 2)
    assert data(bucket.objects) == {"p/q.record.json", "p/q/a", "p/q/b", "p/q-b/c"}
    again = records.load()
    assert again is not None
    assert again.cleaned is not None
    assert again.cleaned.deleted == 2


def test_second_backup_on_a_path_is_refused() -> None:
    records = at("p/q", Bucket())
    claim(records)
    with pytest.raises(ClaimedError, match=r"s3://b/p/q belongs to Backup ns/one \(uid uid-1\) \(Claimed\)") as caught:
        claim(records, TWO)
    assert "prefix of its own" in caught.value.hint
    assert caught.value.problem().reason == "BackupPathClaimed"


@pytest.mark.parametrize(("first", "second"), [("p", "p/q"), ("p/q/r", "p"), ("p/q/r/s", "p/q"), ("", "p")])
def test_a_path_around_or_inside_another_is_refused(first: str, second: str) -> None:
    bucket = Bucket()
    claim(at(first, bucket))
    before = dict(bucket.objects)
    with pytest.raises(ClaimedError):
        claim(at(second, bucket), TWO)
    key = f"{second}.record.json"
    withdrawn = Record.parse(bucket.objects[key], key)
    assert (withdrawn.state, withdrawn.withdrawn, withdrawn.open) == (State.CLEANED, True, ())
    assert data(bucket.objects.keys() - before.keys()) == {key}
    assert all(bucket.objects[name] == before[name] for name in before)


@pytest.mark.parametrize(("first", "second"), [("p", "p-b"), ("p/q", "p/qr"), ("a/b", "a/c"), ("a", "b/a")])
def test_siblings_do_not_disturb_each_other(first: str, second: str) -> None:
    bucket = Bucket()
    claim(at(first, bucket))
    claim(at(second, bucket), TWO)


def test_repeated_claim_of_the_same_backup_counts() -> None:
    records = at("p", Bucket())
    records.fail(claim(records), Problem(reason="DumpFailed", message="no"))
    again = claim(records)
    assert (again.attempts, again.state, again.problem) == (2, State.CLAIMED, None)


def test_a_complete_backup_stays_complete() -> None:
    records = at("p", Bucket())
    records.complete(claim(records))
    assert claim(records).state is State.COMPLETE


def test_no_claim_on_what_is_being_deleted() -> None:
    records = at("p", Bucket())
    claim(records)
    records.begin_clean(ONE)
    with pytest.raises(ClaimedError, match="Cleaning"):
        claim(records)


def test_a_cleaned_path_can_be_used_again_and_remembers() -> None:
    records = at("p", Bucket())
    records.complete(claim(records))
    records.finish_clean(records.begin_clean(ONE), Cleaned(at=NOW, deleted=3))
    fresh = claim(records, TWO)
    assert fresh.owner == TWO
    assert [(past.owner.uid, past.cleaned.deleted) for past in fresh.past if past.cleaned] == [("uid-1", 3)]


def test_a_refused_claim_on_a_cleaned_path_is_withdrawn_and_remembers() -> None:
    bucket = Bucket()
    inner = at("p/q", bucket)
    inner.complete(claim(inner))
    inner.finish_clean(inner.begin_clean(ONE), Cleaned(at=NOW))
    claim(at("p", bucket), ONE)
    with pytest.raises(ClaimedError):
        claim(at("p/q", bucket), TWO)
    left = at("p/q", bucket).load()
    assert left is not None
    assert (left.owner.uid, left.state, left.withdrawn) == ("uid-2", State.CLEANED, True)
    assert [past.owner.uid for past in left.past] == ["uid-1"]


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"v": 3}'])
def test_a_record_that_cannot_be_read_is_no_invitation(data: bytes) -> None:
    bucket = Bucket(objects={"p.record.json": data})
    with pytest.raises(StorageError) as caught:
        claim(at("p", bucket))
    assert caught.value.problem().reason == "UnreadableRecord"
    assert bucket.objects == {"p.record.json": data}


def test_newer_fields_survive_an_older_manager() -> None:
    bucket = Bucket()
    records = at("p", bucket)
    mine = claim(records)
    text = bucket.objects["p.record.json"].decode().replace('"operation"', '"invented": {"x": 1}, "operation"')
    bucket.objects["p.record.json"] = text.encode()
    records.complete(mine)
    assert b'"invented"' in bucket.objects["p.record.json"]


def test_of_many_claims_one_wins() -> None:
    bucket = Bucket()
    owners = [Owner(namespace="ns", name=str(number), uid=f"uid-{number}") for number in range(20)]
    gate, won = threading.Barrier(len(owners)), list[str]()

    def run(owner: Owner) -> None:
        gate.wait()
        try:
            claim(at("p", bucket), owner)
        except ClaimedError:
            return
        won.append(owner.uid)

    in_parallel(run, owners)
    assert len(won) == 1
    record = at("p", bucket).load()
    assert record is not None
    assert record.owner.uid == won[0]


def test_of_a_folder_and_a_folder_in_it_never_both() -> None:
    for _ in range(30):
        bucket, won = Bucket(), list[str]()
        gate = threading.Barrier(2)

        def run(work: tuple[str, Owner], bucket: Bucket = bucket, won: list[str] = won, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                claim(at(work[0], bucket), work[1])
            except ClaimedError:
                return
            won.append(work[0])

        in_parallel(run, [("p", ONE), ("p/q", TWO)])
        assert len(won) <= 1
        left = find(MemoryStorage(Location(provider=Provider.S3, bucket="b"), bucket))
        assert {record.backup_path.removeprefix("s3://b/") for record in left if record.live} == set(won)


def test_no_update_is_lost() -> None:
    bucket = Bucket()
    claim(at("p", bucket))

    def again(_number: int) -> None:
        with suppress(SupersededError):  # a later attempt of the same Backup has the path
            claim(at("p", bucket))

    in_parallel(again, list(range(7)))
    record = at("p", bucket).load()
    assert record is not None
    assert record.attempts == 8


def in_parallel(work: Callable[[Any], None], items: list[Any]) -> None:
    threads = [threading.Thread(target=work, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_another_backups_record_is_not_written() -> None:
    records = at("p", Bucket())
    mine = claim(records)
    theirs = mine.but(owner=TWO)
    with pytest.raises(SupersededError):
        records.complete(theirs)
    with pytest.raises(SupersededError):
        records.fail(theirs, Problem(reason="x"))


def test_a_record_that_vanished_is_told() -> None:
    with pytest.raises(NotFoundError) as caught:
        at("p", Bucket()).complete(claim(at("p", Bucket())))
    assert caught.value.problem().reason == "RecordLost"


def test_tombstone_without_a_record() -> None:
    """Data of TiDB Operator has none."""
    bucket = Bucket()
    records = at("p", bucket)
    cleaning = records.begin_clean(ONE)
    assert [record.state for record in find(MemoryStorage(Location(provider=Provider.S3, bucket="b"), bucket))] == [
        State.CLEANING
    ]
    records.finish_clean(cleaning, Cleaned(at=NOW, deleted=5))
    assert [record.state for record in find(MemoryStorage(Location(provider=Provider.S3, bucket="b"), bucket))] == [
        State.CLEANED
    ]


def test_keys_confined_to_a_folder_do_not_see_above_it() -> None:
    server = FakeS3(faults=[lambda r: error(403, "AccessDenied") if r.key == "team.record.json" else None])
    records = Records(server.storage("team/daily"), now=lambda: NOW)
    records.claim(ONE, operation="export", spec=SPEC)
    assert data(server.names()) == {"team/daily.record.json"}


def test_a_record_that_may_not_be_written_says_which_right_is_missing() -> None:
    server = FakeS3(faults=[lambda r: error(403, "AccessDenied") if r.method == "PUT" else None])
    with pytest.raises(AccessDeniedError) as caught:
        Records(server.storage("p/q")).claim(ONE, operation="export", spec=SPEC)
    assert "s3://bucket/p/q.record.json" in caught.value.hint


def test_record_of_a_bucket_root_lies_in_it() -> None:
    bucket = Bucket()
    claim(at("", bucket))
    assert data(bucket.objects) == {".record.json"}


def test_secrets_do_not_enter() -> None:
    spec = {
        "azblob": {"container": "c", "sasToken": "sv=1&sig=TOPSECRET"},
        "pitrFullBackupStorageProvider": {"azblob": {"sasToken": "sv=2&sig=TOPSECRET"}},
        "env": [{"name": "X", "value": "TOPSECRET"}, {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
        "br": {"options": ["--crypter.key=TOPSECRET"]},
        "dumpling": {"options": ["--password=TOPSECRET", "TOPSECRET"]},
        "from": {"host": "h", "secretName": "db"},
    }
    bucket = Bucket()
    records = at("p", bucket)
    mine = records.claim(ONE, operation="export", spec=spec, mask=Masker(["TOPSECRET"]))
    records.complete(mine, argv=["--s3.x", "--password=TOPSECRET"], mask=Masker())
    assert b"TOPSECRET" not in bucket.objects["p.record.json"]
    kept = safe_spec(spec, Masker(["TOPSECRET"]))
    assert kept["from"] == {"host": "h", "secretName": "db"}
    assert kept["env"][1] == spec["env"][1]  # type: ignore[index]


def test_owner_of_a_resource_without_uid() -> None:
    resource = Resource(kind="Backup", namespace="ns", name="x", uid="", spec={})
    assert Owner.of(resource).uid == "file:ns/x"


def test_object_list_survives_packing() -> None:
    objects = [ObjectInfo(key=f"ü/{number}\x01", size=number, etag=f"e{number}") for number in range(1000)]
    packed, count, size = pack_objects(objects)
    assert (count, size) == (1000, sum(range(1000)))
    assert unpack_objects(packed) == {info.key: (info.size, info.etag) for info in objects}
    assert pack_objects(objects)[0] == packed


DAMAGED = {
    "empty": b"",
    "no gzip": b"no gzip",
    "cut off": pack_objects([])[0][:-4],
    "other lines": gzip.compress(b"[1]\n"),
    "no JSON": gzip.compress(b"{\n"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_list_of_objects_is_an_error_with_a_next_step(what: str) -> None:
    bucket = Bucket()
    of = at("p/q", bucket)
    mine = of.complete(claim(of))
    bucket.put(f"p/{mine.objects}", DAMAGED[what])
    with pytest.raises(StorageError) as caught:
        of.objects(mine)
    assert caught.value.problem().reason == "UnreadableObjectList"
    assert caught.value.hint
