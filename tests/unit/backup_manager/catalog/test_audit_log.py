"""The chain of events beside the records: nothing can be cut or edited unseen, and no race loses an entry."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_manager.catalog import audit_log
from backup_manager.catalog.audit_log import Audit, AuditLog, Kind, against_records
from backup_manager.catalog.record import Cleaned, Owner, Record, State
from backup_manager.catalog.records import Records
from backup_manager.content import Content
from backup_manager.context import Context
from backup_manager.errors import AccessDeniedError, ClaimedError, NotFoundError
from backup_manager.kubernetes.resource import Resource
from backup_manager.reporting.journal import Journal, NullReporter
from backup_manager.storage.base import ObjectInfo
from backup_manager.storage.memory import Bucket, MemoryStorage
from crds.contract.paths import Location, Provider
from crds.contract.report import Problem

NOW = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
FOLDER = Location(provider=Provider.S3, bucket="b", prefix="shop")
OWNER = Owner(namespace="db", name="nightly", uid="uid-1")


def storage(bucket: Bucket, path: str = "shop/nightly-1") -> MemoryStorage:
    return MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=path), bucket)


def records(bucket: Bucket, path: str = "shop/nightly-1", clock: Callable[[], datetime] = lambda: NOW) -> Records:
    return Records(storage(bucket, path), now=clock)


def account(bucket: Bucket) -> Audit:
    return AuditLog(storage(bucket), FOLDER).read()


def stored(bucket: Bucket) -> list[tuple[str, str]]:
    """Path and digest of every record."""
    found = [(key, data) for key, data in bucket.objects.items() if key.endswith(".record.json")]
    return [(Record.parse(data, key).backup_path, audit_log.digest(data)) for key, data in found]


def live(bucket: Bucket) -> None:
    """The whole life of one backup, and the start of another."""
    of = records(bucket)
    claim = of.claim(OWNER, operation="export", spec={})
    bucket.put("shop/nightly-1/metadata", b"x")
    of.complete(claim, tool="dumpling", commit_ts="7")
    of.finish_clean(of.begin_clean(OWNER), Cleaned(by="clean-nightly", why="cleanPolicy Delete", at=NOW, deleted=1))
    other = Owner(namespace="db", name="other", uid="uid-2")
    another = records(bucket, "shop/other-1")
    another.fail(another.claim(other, operation="export", spec={}), Problem(reason="DumpFailed"))


def test_every_change_of_a_record_is_told_and_chained() -> None:
    bucket = Bucket()
    live(bucket)
    found = account(bucket)
    assert [(entry.seq, entry.event, entry.name) for entry in found.entries] == [
        (1, "Claimed", "nightly"),
        (2, "Complete", "nightly"),
        (3, "Cleaning", "nightly"),
        (4, "Cleaned", "nightly"),
        (5, "Claimed", "other"),
        (6, "Failed", "other"),
    ]
    assert found.entries[1].size == 1
    assert (found.entries[3].by, found.entries[3].deleted) == ("clean-nightly", 1)
    assert found.entries[5].reason == "DumpFailed"
    assert (found.findings, found.length) == ([], 6)
    assert found.head == audit_log.digest(bucket.objects["shop/.history/00000006.json"])
    assert against_records(found, stored(bucket)) == []


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_missing_entry_is_a_cut(number: int) -> None:
    bucket = Bucket()
    live(bucket)
    del bucket.objects[f"shop/.history/{number:08d}.json"]
    found = account(bucket)
    assert [(finding.kind, finding.seq) for finding in found.findings] == [(Kind.CUT, number)]
    assert f"entry {number} is missing" in found.findings[0].message


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_an_edit_before_the_end_breaks_the_chain(number: int) -> None:
    bucket = Bucket()
    live(bucket)
    key = f"shop/.history/{number:08d}.json"
    bucket.objects[key] = bucket.objects[key].replace(b'"db"', b'"xx"')
    assert [(finding.kind, finding.seq) for finding in account(bucket).findings] == [(Kind.EDITED, number + 1)]


def test_an_edited_or_cut_end_contradicts_the_record() -> None:
    bucket = Bucket()
    live(bucket)
    key = "shop/.history/00000006.json"
    kept = bucket.objects[key]
    entry = json.loads(kept)
    bucket.objects[key] = json.dumps({**entry, "record": "0" * 64}).encode()
    assert [finding.seq for finding in against_records(account(bucket), stored(bucket))] == [6]
    del bucket.objects[key]
    cut = account(bucket)
    assert cut.findings == []
    (finding,) = against_records(cut, stored(bucket))
    assert "later entries were cut off" in finding.message
    del bucket.objects["shop/.history/00000005.json"]
    (finding,) = against_records(account(bucket), stored(bucket))
    assert "no entry tells" in finding.message


def test_an_edited_or_removed_record_contradicts_the_chain() -> None:
    bucket = Bucket()
    live(bucket)
    key = "shop/nightly-1.record.json"
    bucket.objects[key] = bucket.objects[key].replace(b"cleanPolicy Delete", b"cleanPolicy Retain")
    (finding,) = against_records(account(bucket), stored(bucket))
    assert finding.kind is Kind.RECORD
    assert "s3://b/shop/nightly-1" in finding.message
    del bucket.objects[key]
    (finding,) = against_records(account(bucket), stored(bucket))
    assert "is gone" in finding.message


def test_what_is_no_entry_is_named() -> None:
    bucket = Bucket()
    live(bucket)
    bucket.objects["shop/.history/00000003.json"] = b"{}"
    bucket.objects["shop/.history/notes.txt"] = b"hello"
    messages = [finding.message for finding in account(bucket).findings]
    assert messages == [
        "entry 3 cannot be read",
        "entry 4 does not carry the digest of entry 3: one of the two was edited",
        ".history/notes.txt is no entry; nothing of ours wrote it",
    ]


def test_many_writers_lose_no_entry() -> None:
    bucket = Bucket()

    def one(number: int) -> None:
        AuditLog(storage(bucket), FOLDER).append(
            event="Claimed", path=f"s3://b/shop/{number}", kind="Backup", name=f"n{number}"
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(60)))
    found = account(bucket)
    assert (found.length, found.findings) == (60, [])
    assert {entry.name for entry in found.entries} == {f"n{number}" for number in range(60)}


class _Counting(MemoryStorage):
    """Counts the looks: requests, each of them a page of a listing at most."""

    looks = 0

    def stat(self, key: str) -> ObjectInfo:
        type(self).looks += 1
        return super().stat(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix)):
            type(self).looks += number % 1000 == 0
            yield info

    def at(self, location: Location) -> "_Counting":
        return _Counting(location, self.bucket)


def test_the_end_of_a_long_history_is_found_in_a_few_looks() -> None:
    bucket = Bucket()
    chain = AuditLog(storage(bucket), FOLDER)
    chain.append(event="Claimed", path="p", kind="Backup", name="first")
    for number in range(2, 5001):
        bucket.put(f"shop/.history/{number:08d}.json", b"{}")
    entry = AuditLog(_Counting(FOLDER, bucket), FOLDER).append(event="Claimed", path="p", kind="Backup", name="last")
    assert entry.seq == 5001
    assert _Counting.looks < 30


class _NoHistory(MemoryStorage):
    """Refuses whatever is written to the history."""

    def at(self, location: Location) -> "_NoHistory":
        return _NoHistory(location, self.bucket)

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        if self.location.prefix.endswith(audit_log.FOLDER):
            raise AccessDeniedError("no")
        return super().write(key, data, if_absent=if_absent, if_match=if_match)


def test_a_claim_needs_its_entry_and_a_finished_backup_does_not() -> None:
    bucket = Bucket()
    with pytest.raises(AccessDeniedError):
        Records(_NoHistory(storage(bucket).location, bucket)).claim(OWNER, operation="export", spec={})
    claim = records(bucket).claim(OWNER, operation="export", spec={})
    done = Records(_NoHistory(storage(bucket).location, bucket)).complete(claim)
    assert done.state is State.COMPLETE
    (finding,) = against_records(account(bucket), stored(bucket))
    assert "killed between the two" in finding.message


def test_a_claim_that_is_given_back_says_so() -> None:
    bucket = Bucket()
    records(bucket, "shop/a/b").claim(OWNER, operation="export", spec={})
    with pytest.raises(ClaimedError):
        records(bucket, "shop/a").claim(Owner(name="x", uid="uid-9"), operation="export", spec={})
    (entry,) = audit_log.AuditLog(storage(bucket), Location(provider=Provider.S3, bucket="b", prefix="shop")).read().entries
    assert (entry.event, entry.path, entry.reason) == ("Withdrawn", "s3://b/shop/a", "BackupPathClaimed")


def test_a_chain_goes_on_from_where_it_was_seen() -> None:
    bucket = Bucket()
    live(bucket)
    seen = account(bucket)
    records(bucket, "shop/third").claim(Owner(name="third", uid="uid-3"), operation="export", spec={})
    later = account(bucket)
    assert later.still_has(seen.length, seen.head) is None
    assert later.still_has(0, "") is None
    assert (later.still_has(6, "0" * 64) or seen.findings[0]).kind is Kind.EDITED
    del bucket.objects["shop/.history/00000007.json"]
    assert (account(bucket).still_has(later.length, later.head) or seen.findings[0]).kind is Kind.CUT


def test_restores_are_told_beside_the_data() -> None:
    bucket = Bucket()
    live(bucket)
    resource = Resource(kind="Restore", namespace="db", name="back", uid="uid-r", spec={})
    lines: list[str] = []
    context = Context(
        resource=resource, journal=Journal(NullReporter()), scratch=Path("/nowhere"), now=lambda: NOW, log=lines.append
    )
    with audit_log.restoring(context, storage(bucket), "import") as restoring:
        restoring.content, restoring.commit_ts = Content(schemas=1, tables=2, rows=3), "400"
    with pytest.raises(NotFoundError), audit_log.restoring(context, storage(bucket), "import"):
        raise NotFoundError("no data", reason="SourceNotFound")
    told = account(bucket).entries[-2:]
    assert [(entry.event, entry.kind, entry.name, entry.reason) for entry in told] == [
        ("Restored", "Restore", "back", ""),
        ("RestoreFailed", "Restore", "back", "SourceNotFound"),
    ]
    assert [(entry.content, entry.commit_ts) for entry in told] == [(Content(schemas=1, tables=2, rows=3), "400"), (None, None)]
    assert against_records(account(bucket), stored(bucket)) == []
    with audit_log.restoring(context, _NoHistory(storage(bucket).location, bucket), "import"):
        pass
    assert lines == ["the history beside s3://b/shop/nightly-1 was not told: no"]


def test_times_are_the_clocks() -> None:
    bucket = Bucket()
    records(bucket, clock=lambda: NOW + timedelta(hours=1)).claim(OWNER, operation="export", spec={})
    assert account(bucket).entries[0].at == NOW + timedelta(hours=1)


def entries(bucket: Bucket, numbers: Iterable[int]) -> None:
    """Entries as a chain of ours has them, of which only *numbers* are left."""
    left = set(numbers)
    chain = AuditLog(storage(bucket), FOLDER)
    for _ in range(max(left)):
        chain.append(now=lambda: NOW, event="Claimed", path="p", kind="Backup", name="n")
    for key in [key for key in bucket.objects if int(key[-13:-5]) not in left]:
        del bucket.objects[key]


@pytest.mark.parametrize("left", [[2, 3, 4], [4], [1, 3, 4], [1, 4], [2, 4]])
def test_numbers_go_on_after_entries_that_a_lifecycle_rule_removed(left: list[int]) -> None:
    bucket = Bucket()
    entries(bucket, left)
    before = account(bucket)
    for number in (5, 6):
        entry = AuditLog(storage(bucket), FOLDER).append(now=lambda: NOW, event="Claimed", path="p", kind="Backup", name="n")
        assert entry.seq == number
    after = account(bucket)
    assert after.entries[-2].previous == before.head
    # The gaps stay what they were, each said once, and nothing after them counts as edited.
    assert after.findings == before.findings
    assert {finding.kind for finding in after.findings} == {Kind.CUT}


@pytest.mark.parametrize(("first", "last"), [(1, 999), (1, 1000), (1, 1001), (700, 2500), (1999, 2000), (1500, 12345)])
def test_the_end_is_found_whatever_is_left_of_a_long_history(first: int, last: int) -> None:
    bucket = Bucket()
    for number in range(first, last + 1):
        bucket.put(f"shop/.history/{number:08d}.json", b"{}")
    bucket.put("shop/.history/notes.txt", b"x")
    entry = AuditLog(storage(bucket), FOLDER).append(now=lambda: NOW, event="Claimed", path="p", kind="Backup", name="n")
    assert entry.seq == last + 1
