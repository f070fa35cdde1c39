"""The clean engine: paces itself, repeats what may pass, reports what stays, and holds little in memory."""

import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backup_manager.cleaning.adaptive_limit import AdaptiveLimit
from backup_manager.cleaning.cleaner import ATTEMPTS, Cleaner, CleanOptions, Tally
from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    PartialError,
    RunInterruptedError,
    StorageError,
    ThrottledError,
)
from backup_manager.signals import StopSignal
from backup_manager.storage.base import DeleteFailure, Target
from backup_manager.storage.http_pool import Answer
from backup_manager.storage.memory import Bucket, MemoryStorage
from backup_manager.storage.s3 import CLEAN_BATCH
from crds.contract.paths import Location, Provider
from tests.support.fake_s3 import FakeS3, Request, error, sometimes


class Rushing(StopSignal):
    """Waits take no time; they move the clock, which the cleaner reads."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.check()
        self.waits.append(seconds)
        self.now += seconds


def filled(count: int, **fields: Any) -> FakeS3:
    server = FakeS3(**fields)
    for number in range(count):
        server.put(f"p/q/{number:05d}", b"12345")
    server.put("p/q-sibling")
    return server


def cleaner(server: FakeS3, options: CleanOptions | None = None, **more: Any) -> tuple[Cleaner, Rushing]:
    rush = Rushing()
    return Cleaner(server.storage(), options, stop=rush, clock=lambda: rush.now, **more), rush


def test_everything_goes_and_is_counted() -> None:
    server = filled(2500)
    server.multipart["u1"] = "p/q/unfinished"
    server.multipart["u2"] = "p/q-sibling/unfinished"
    tally = cleaner(server)[0].run()
    assert (tally.deleted, tally.bytes, tally.uploads, tally.passes) == (2500, 12500, 1, 2)
    assert server.names() == {"p/q-sibling"}
    assert server.multipart == {"u2": "p/q-sibling/unfinished"}
    assert server.count("POST") == 2500 / CLEAN_BATCH


def test_nothing_there_is_clean() -> None:
    tally = cleaner(FakeS3())[0].run()
    assert (tally.deleted, tally.passes) == (0, 1)


@pytest.mark.parametrize("prefix", ["", "/"])
def test_a_whole_bucket_is_refused(prefix: str) -> None:
    bucket = Bucket(objects={"a": b""})
    storage = MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=prefix.strip("/")), bucket)
    with pytest.raises(StorageError, match="whole bucket"):
        Cleaner(storage)
    assert bucket.objects


def test_versions_and_markers_go() -> None:
    server = FakeS3(versioning="Enabled", page=7)
    for number in range(20):
        server.put(f"p/q/{number}")
        server.put(f"p/q/{number}")
        server.storage().delete([str(number)])
    assert not list(server.storage().list())
    assert cleaner(server)[0].run().deleted == 60
    assert not server.names()


def test_versions_that_may_not_be_listed_are_said() -> None:
    def denied(request: Request) -> Answer | None:
        return error(403, "AccessDenied") if "versioning" in request.query or "versions" in request.query else None

    server = filled(3)
    server.faults.append(denied)
    tally = cleaner(server)[0].run()
    assert tally.deleted == 3
    assert "older versions" in tally.notes[0]


def test_key_errors_inside_a_success_are_repeated() -> None:
    server = filled(50)
    bad = {f"p/q/{number:05d}": 3 for number in range(0, 50, 7)}

    def sometimes_busy(key: str) -> tuple[str, str] | None:
        if bad.get(key, 0) > 0:
            bad[key] -= 1
            return "InternalError", "try again"
        return None

    server.key_errors = sometimes_busy
    tally = cleaner(server)[0].run()
    assert tally.deleted == 50
    assert tally.bytes == 250
    assert tally.retried == 8 * 3
    assert server.names() == {"p/q-sibling"}


def test_key_errors_for_good_are_listed() -> None:
    server = filled(50)
    server.key_errors = lambda key: ("AccessDenied", "no") if key.endswith("7") else None
    job, _ = cleaner(server)
    with pytest.raises(AccessDeniedError, match="5 objects could not be deleted, first '00007': AccessDenied") as caught:
        job.run()
    assert not caught.value.problem().retryable
    assert (job.tally.deleted, job.tally.failed) == (45, 5)
    assert {failure.key for failure in job.tally.examples} == {"00007", "00017", "00027", "00037", "00047"}


def test_a_store_that_lies_is_found_out() -> None:
    server = filled(5)
    server.drop = lambda key: key.endswith("3")
    with pytest.raises(PartialError, match="still listed") as caught:
        cleaner(server, CleanOptions(rounds=2))[0].run()
    assert caught.value.problem().reason == "ObjectsRemain"
    assert server.names() == {"p/q/00003", "p/q-sibling"}


def test_rounds_are_bounded_and_a_late_writer_is_met() -> None:
    server = filled(5)
    late = iter(range(3))

    def write(request: Request) -> None:
        if "list-type" in request.query and (number := next(late, None)) is not None:
            server.put(f"p/q/late-{number}")

    server.faults.append(write)
    assert cleaner(server)[0].run().deleted == 8


def test_locked_objects_are_deferred_and_not_hammered() -> None:
    until = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    server = FakeS3(versioning="Enabled", lock=True)
    for number in range(300):
        server.put(f"p/q/{number}", until=until if number % 10 == 0 else None)
    job, _ = cleaner(server)
    with pytest.raises(PartialError) as caught:
        job.run()
    assert caught.value.problem().reason == "ObjectsLocked"
    assert caught.value.problem().retryable
    assert (job.tally.deleted, job.tally.locked, job.tally.locked_until) == (270, 30, until)
    assert job.tally.passes == 2
    assert server.count("POST") == 3  # two batches, then the locked ones once more
    assert len(server.names()) == 30


def test_dates_of_many_locked_objects_are_sampled() -> None:
    until = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    server = FakeS3(versioning="Enabled", lock=True)
    for number in range(1500):
        server.put(f"p/q/{number}", until=until)
    job, _ = cleaner(server)
    with pytest.raises(PartialError):
        job.run()
    assert (job.tally.locked, job.tally.locked_until) == (1500, until)
    assert server.count("GET", "retention") == 200


def test_legal_hold_has_no_date() -> None:
    server = FakeS3(versioning="Enabled", lock=True)
    server.put("p/q/a", hold=True)
    job, _ = cleaner(server)
    with pytest.raises(PartialError, match="legal hold"):
        job.run()
    assert job.tally.locked_until is None


def test_a_lock_that_ran_out_is_only_a_denial() -> None:
    server = FakeS3(versioning="Enabled", lock=True)
    server.put("p/q/a", until=datetime.now(UTC) - timedelta(days=1))
    server.key_errors = lambda _key: ("AccessDenied", "policy says no")
    with pytest.raises(AccessDeniedError):
        cleaner(server)[0].run()


def test_throttled_one_time_in_twenty() -> None:
    server = filled(3000, faults=[sometimes(0.05, seed=3)])
    job, rush = cleaner(server, CleanOptions(batches=False))
    job.run()
    assert job.tally.deleted == 3000
    assert job.tally.throttled > 50
    assert server.names() == {"p/q-sibling"}
    assert max(rush.waits, default=0) <= 5


def test_a_store_that_never_recovers_ends_the_run() -> None:
    server = filled(5, faults=[lambda r: error(503, "SlowDown") if "delete" in r.query else None])
    job, _ = cleaner(server)
    with pytest.raises(ThrottledError) as caught:
        job.run()
    assert caught.value.problem().retryable
    assert server.count("POST") == ATTEMPTS
    assert len(server.names()) == 6


def test_a_refusal_of_the_whole_request_ends_the_run_at_once() -> None:
    server = filled(5, faults=[lambda r: error(403, "InvalidAccessKeyId") if "delete" in r.query else None])
    with pytest.raises(AccessDeniedError):
        cleaner(server)[0].run()
    assert server.count("POST") == 1


def test_stop_ends_it_between_batches() -> None:
    server = filled(50)
    job, rush = cleaner(server, CleanOptions(page_size=5, batch_concurrency=1))
    server.faults.append(lambda r: rush.request() if "delete" in r.query else None)
    with pytest.raises(RunInterruptedError):
        job.run()
    assert 0 < len(server.names()) - 1 < 50
    Cleaner(server.storage()).run()
    assert server.names() == {"p/q-sibling"}


def test_progress_is_told_every_few_seconds() -> None:
    server = filled(10)
    told: list[int] = []
    rush = Rushing()

    def tick(_request: Request) -> None:
        rush.now += 1.1

    server.faults.append(tick)
    options = CleanOptions(page_size=1, batch_concurrency=1)
    Cleaner(server.storage(), options, stop=rush, clock=lambda: rush.now, on_progress=lambda t: told.append(t.deleted)).run()
    assert told == sorted(told)
    assert told[-1] == 10
    assert 4 <= len(told) <= 12


def test_uploads_that_cannot_be_listed_are_said() -> None:
    server = filled(2, faults=[lambda r: error(501, "NotImplemented") if "uploads" in r.query else None])
    assert "multipart" in cleaner(server)[0].run().notes[0]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, CleanOptions()),
        ({}, CleanOptions()),
        (
            {"pageSize": 0, "retryCount": -1, "batchConcurrency": 0, "routineConcurrency": 0},
            CleanOptions(),
        ),
        (
            {"pageSize": 7, "retryCount": 2, "backoffEnabled": True, "disableBatchConcurrency": True, "batchConcurrency": 3},
            CleanOptions(page_size=7, rounds=2, backoff=True, batches=False, batch_concurrency=3),
        ),
        ({"routineConcurrency": 9}, CleanOptions(single_concurrency=9)),
    ],
)
def test_clean_option(spec: dict[str, Any] | None, expected: CleanOptions) -> None:
    assert CleanOptions.of(spec) == expected


def test_batches_can_be_switched_off() -> None:
    server = filled(5)
    cleaner(server, CleanOptions.of({"disableBatchConcurrency": True}))[0].run()
    assert server.count("POST") == 0
    assert server.count("DELETE") == 5


def test_backoff_rests_between_passes_that_met_trouble() -> None:
    server = filled(5)
    server.drop = lambda key: key.endswith("3")
    failing = iter([("InternalError", "x")] * 3)
    server.key_errors = lambda _key: next(failing, None)
    job, rush = cleaner(server, CleanOptions(rounds=1, backoff=True))
    with pytest.raises(PartialError):
        job.run()
    assert rush.waits


class Endless(MemoryStorage):
    """Lists *count* targets without holding them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.lists = 0
        self.flying = 0
        self.most = 0
        self.lock = threading.Lock()

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        self.lists += 1
        if self.lists > 1:
            return
        for start in range(0, self.count, 1000):
            yield [Target(f"folder/{number:012d}.sst", None, 1) for number in range(start, start + 1000)]

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        with self.lock:
            self.flying += len(batch)
            self.most = max(self.most, self.flying)
        with self.lock:
            self.flying -= len(batch)
        return []


class Slow(MemoryStorage):
    """Answers after a while; the first batch has to be repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        yield [Target(str(number)) for number in range(4)] if self.batches == 0 else []

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        self.batches += 1
        first = self.batches == 1
        threading.Event().wait(0.0 if first else 0.3)
        return [DeleteFailure(key=target.key, code="SlowDown", message="", retryable=True) for target in batch if first]


class Counting(StopSignal):
    """Counts how often it is looked at: once a round of the main thread."""

    looks = 0

    def check(self) -> None:
        self.looks += 1
        super().check()


def test_a_retry_that_is_due_waits_for_room_without_spinning() -> None:
    """On a busy node a spinning main thread takes the time that the deletions need."""
    stop = Counting()
    tally = Cleaner(Slow(), CleanOptions(page_size=1, batch_concurrency=1), stop=stop).run()
    assert tally.deleted == 4
    assert stop.looks < 100, f"{stop.looks} rounds for 5 batches"


def peak(count: int) -> float:
    tracemalloc.start()
    Cleaner(Endless(count)).run()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def test_memory_does_not_grow_with_the_number_of_keys() -> None:
    small, large = peak(20_000), peak(200_000)
    assert large < small * 1.5 + 1, (small, large)


def test_no_more_than_a_page_is_under_way() -> None:
    storage = Endless(50_000)
    Cleaner(storage, CleanOptions(page_size=3000, batch_concurrency=50)).run()
    assert storage.most <= 3000


def test_window() -> None:
    now = [0.0]
    window = AdaptiveLimit(16, clock=lambda: now[0])
    for _ in range(40):
        window.on_success()
    assert window.size == 16
    window.throttled()
    window.throttled()  # of the same burst
    assert (window.size, window.throttle_count) == (8, 2)
    for _ in range(8):
        window.on_success()
    assert window.size == 8  # one round later: 8 * 1/8.x
    window.on_success()
    assert window.size == 9
    for _ in range(10):
        now[0] += 1
        window.throttled()
    assert window.size == 1


def test_options_of_a_tally_start_empty() -> None:
    assert Tally().rate == 0
    assert isinstance(cleaner(FakeS3())[0].tally, Tally)
    with pytest.raises(ManagerError):
        Cleaner(MemoryStorage(Location(provider=Provider.S3, bucket="b")))
