"""Readers of a path and its cleaner: marks, Restores of the namespace, and who waits for whom."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backup_manager.catalog.readers import (
    LIMIT_SECONDS,
    PACE,
    MarkLostError,
    MarkPlace,
    ReaderActiveError,
    SourceBeingCleanedError,
    Watch,
    may_read,
    reading,
    wait_for_readers,
)
from backup_manager.catalog.record import Cleaned, Owner
from backup_manager.catalog.records import Records
from backup_manager.context import Context
from backup_manager.errors import AccessDeniedError, RunInterruptedError, StorageError, TransientError
from backup_manager.kubernetes.client import ApiForbiddenError
from backup_manager.locking.lock import Lock, Note, Pace
from backup_manager.signals import StopSignal
from backup_manager.storage.memory import Bucket, MemoryStorage
from crds.contract import names
from crds.contract.paths import Location, Provider
from crds.contract.report import Phase
from sandbox.patience import PATIENCE, until
from tests.support.manager import NOW, World, world

BACKUP = Owner(kind="Backup", namespace="ns", name="daily", uid="uid-of-daily")
QUICK = Pace(duration=60.0, renew=0.05, retry=5.0, fence=30.0, poll=0.02, grace=0.0)
SPEC = {"s3": {"provider": "aws", "bucket": "b", "prefix": "p/daily"}}


class Moving(StopSignal):
    """Waiting moves the clock and takes no time; *meanwhile* happens while it does."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.meanwhile: Callable[[], None] = lambda: None

    def wait(self, seconds: float) -> None:
        self.check()
        self.seconds += seconds
        self.meanwhile()

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Api:
    """The Restores and CompactBackups of a namespace."""

    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    forbidden: bool = False

    def resources(self, kind: str, namespace: str) -> Iterator[dict[str, Any]]:
        assert namespace == "ns"
        if self.forbidden:
            raise ApiForbiddenError(f"list {kind}: 403", hint="Bind the Role.")
        yield from self.found.get(kind, ())

    def pods(self, _namespace: str, _labels: Mapping[str, str]) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


def at(bucket: Bucket, prefix: str = "p/daily") -> MemoryStorage:
    return MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=prefix), bucket)


def reader(tmp_path: Path, name: str = "r", stop: StopSignal | None = None) -> World:
    made = world(tmp_path, SPEC, kind="Restore", env={names.ENV_POD_UID: f"pod-of-{name}"}, stop=stop)
    resource = replace(made.context.resource, name=name, uid=f"uid-of-{name}")
    return World(context=replace(made.context, resource=resource), reporter=made.reporter, lines=made.lines)


def cleaner(tmp_path: Path, api: Api | None = None, spec: Any = None) -> tuple[World, Context, Moving]:
    stop = Moving()
    made = world(tmp_path, spec or SPEC, stop=stop)
    context: Any = replace(made.context, kubernetes=api)  # type: ignore[arg-type]
    return made, context, stop


def restore(
    name: str = "r", *, phase: str = "Running", conditions: Any = (), spec: Any = None, **status: Any
) -> dict[str, Any]:
    held = [{"type": kind, "status": "True"} for kind in conditions]
    return {
        "metadata": {"namespace": "ns", "name": name},
        "spec": spec or SPEC,
        "status": {"phase": phase, "conditions": held, **status},
    }


def marks(bucket: Bucket, prefix: str = "p/daily") -> list[str]:
    return [key for key in bucket.objects if key.startswith(f"{prefix}.readers/")]


# The reader


def test_a_reader_leaves_a_mark_renews_it_and_removes_it(tmp_path: Path, bucket: Bucket) -> None:
    with reading(reader(tmp_path).context, at(bucket), pace=QUICK):
        (key,) = marks(bucket)
        assert key == "p/daily.readers/uid-of-r-pod-of-r.json"
        before = bucket.objects[key]
        assert b"Restore ns/r" in before
        until(lambda: bucket.objects[key] != before, "it is renewed")
    assert marks(bucket) == []


def test_of_a_versioned_bucket_every_version_of_the_mark_goes(tmp_path: Path, bucket: Bucket) -> None:
    bucket.versioned = True
    with reading(reader(tmp_path).context, at(bucket), pace=QUICK):
        until(lambda: len(bucket.history) > 2, "it is renewed")
    assert not [key for key, _ in bucket.history if ".readers/" in key]


def test_keys_that_may_only_read_leave_no_mark_and_the_log_says_so(tmp_path: Path, bucket: Bucket) -> None:
    class ReadOnly(MemoryStorage):
        def at(self, location: Location) -> MemoryStorage:
            return ReadOnly(location, self.bucket)

        def write(self, *_args: Any, **_conditions: Any) -> str:
            raise AccessDeniedError("PutObject: 403")

    here = reader(tmp_path)
    with reading(here.context, ReadOnly(at(bucket).location, bucket), pace=QUICK):
        assert marks(bucket) == []
    assert "sees this run only as a Restore of its own namespace" in "".join(here.lines)


def clean_claim(bucket: Bucket, prefix: str = "p/daily") -> Records:
    records = Records(at(bucket, prefix), now=lambda: NOW)
    claimed = records.claim(BACKUP, operation="export", spec={})
    records.complete(claimed)
    return records


def test_a_source_that_is_being_cleaned_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    clean_claim(bucket).begin_clean(BACKUP)
    with (
        pytest.raises(SourceBeingCleanedError, match="is being deleted") as caught,
        reading(reader(tmp_path).context, at(bucket)),
    ):
        raise AssertionError("it reads")
    assert not caught.value.problem().retryable
    assert "daily" in caught.value.message
    assert marks(bucket) == []


def test_a_source_that_was_cleaned_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    records = clean_claim(bucket)
    records.finish_clean(records.begin_clean(BACKUP), Cleaned(at=NOW))
    with pytest.raises(SourceBeingCleanedError, match="was deleted"), reading(reader(tmp_path).context, at(bucket)):
        raise AssertionError("it reads")


def test_a_source_inside_a_path_that_is_being_cleaned_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    clean_claim(bucket).begin_clean(BACKUP)
    with pytest.raises(SourceBeingCleanedError), reading(reader(tmp_path).context, at(bucket, "p/daily/attempt-2")):
        raise AssertionError("it reads")


def test_a_tombstone_around_the_source_says_nothing(tmp_path: Path, bucket: Bucket) -> None:
    records = clean_claim(bucket)
    records.finish_clean(records.begin_clean(BACKUP), Cleaned(at=NOW))
    with reading(reader(tmp_path).context, at(bucket, "p/daily/younger"), pace=QUICK):
        pass


def test_a_reader_inside_somebodys_path_leaves_a_mark_beside_that_path_too(tmp_path: Path, bucket: Bucket) -> None:
    clean_claim(bucket)
    with reading(reader(tmp_path).context, at(bucket, "p/daily/attempt-2"), pace=QUICK):
        assert len(marks(bucket)) == 1
        assert len(marks(bucket, "p/daily/attempt-2")) == 1
    assert marks(bucket) == []


def test_a_record_that_cannot_be_read_does_not_stop_a_restore(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put("p/daily.record.json", b'{"v": 99}')
    here = reader(tmp_path)
    with reading(here.context, at(bucket), pace=QUICK):
        pass
    assert "is not known" in "".join(here.lines)


def test_a_mark_that_somebody_removed_stops_the_tool(tmp_path: Path, bucket: Bucket) -> None:
    stop = StopSignal()
    with (  # noqa: PT012 (the body is the run)
        pytest.raises(MarkLostError) as caught,
        reading(reader(tmp_path, stop=stop).context, at(bucket), pace=QUICK),
    ):
        bucket.objects.pop(marks(bucket)[0])
        stop.wait(20)
    assert caught.value.problem().retryable


def test_a_mark_that_cannot_be_renewed_stops_the_tool(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> str:
        raise TransientError("the storage does not answer", reason="StorageUnreachable")

    stop = StopSignal()
    with (  # noqa: PT012 (the body is the run)
        pytest.raises(MarkLostError, match="could not be renewed") as caught,
        reading(reader(tmp_path, stop=stop).context, at(bucket), pace=replace(QUICK, fence=0.4)),
    ):
        monkeypatch.setattr(MemoryStorage, "write", away)
        stop.wait(PATIENCE)
    assert caught.value.problem().reason == "ReaderMarkLost"
    assert caught.value.problem().retryable


def test_a_whole_bucket_has_no_marks(tmp_path: Path, bucket: Bucket) -> None:
    with reading(reader(tmp_path).context, at(bucket, "")):
        assert bucket.objects == {}


# The cleaner


def test_a_clean_waits_for_a_reader_elsewhere_and_names_it(tmp_path: Path, bucket: Bucket) -> None:
    """Another namespace, another cluster or no Kubernetes at all: the mark beside the data tells of it."""
    made, context, stop = cleaner(tmp_path)
    running = threading.Event()

    def work() -> None:
        with reading(reader(tmp_path, "far").context, at(bucket), pace=QUICK):
            running.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: marks(bucket), "the mark is there")

    def meanwhile() -> None:
        if stop.seconds > 100:
            running.set()
            thread.join(20)

    stop.meanwhile = meanwhile
    assert wait_for_readers(context, at(bucket))
    problem = made.reporter.offered[0].error
    assert problem is not None
    assert problem.reason == "ReaderActive"
    assert "Restore ns/far" in problem.message
    assert "s3://b/p/daily" in problem.message
    assert made.report.phase is Phase.RUNNING
    assert stop.seconds > 100


def test_a_reader_of_25_hours_is_waited_for_by_every_clean(tmp_path: Path, bucket: Bucket) -> None:
    """It renews once in a minute; each attempt of the clean ends after an hour, with nothing deleted."""
    place = MarkPlace.beside(at(bucket), at(bucket).location, Note(holder="pod", owner="Restore ns/long", owner_uid="long"))
    assert place is not None
    _, context, stop = cleaner(tmp_path)
    mark = Lock(place=place, we=place.reader, pace=PACE, clock=stop.monotonic)
    assert mark.try_acquire()

    def renew() -> None:
        if stop.seconds - mark.renewed_at >= PACE.renew:
            mark.renew()

    stop.meanwhile = renew
    for hour in range(1, 26):
        with pytest.raises(ReaderActiveError, match="Restore ns/long"):
            wait_for_readers(context, at(bucket))
        assert stop.seconds >= hour * LIMIT_SECONDS
    stop.meanwhile = lambda: None
    assert wait_for_readers(context, at(bucket)), "one that stopped renewing is dead, and the clean goes on"


def test_a_mark_that_does_not_change_for_all_of_its_time_is_of_a_dead_reader(tmp_path: Path, bucket: Bucket) -> None:
    with reading(reader(tmp_path, "dead").context, at(bucket)):
        (key,) = marks(bucket)
        left = bucket.objects[key]
    bucket.put(key, left)
    made, context, stop = cleaner(tmp_path)
    assert wait_for_readers(context, at(bucket))
    assert PACE.duration < stop.seconds <= PACE.duration + 30
    assert marks(bucket) == []
    assert "counts as dead" in "".join(made.lines)


def test_a_mark_of_a_dead_reader_that_cannot_be_removed_is_waited_for_once(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean waits before its claim and again after it, with what it saw the first time."""
    with reading(reader(tmp_path, "dead").context, at(bucket)):
        (key,) = marks(bucket)
        left = bucket.objects[key]
    bucket.put(key, left)

    def denied(_self: MemoryStorage, _batch: Any) -> Any:
        raise AccessDeniedError("403 to delete a mark")

    monkeypatch.setattr(MemoryStorage, "delete_batch", denied)
    _, context, stop = cleaner(tmp_path)
    watch = Watch(context=context, storage=at(bucket))
    assert wait_for_readers(context, at(bucket), watch=watch)
    waited = stop.seconds
    assert waited > PACE.duration
    assert not wait_for_readers(context, at(bucket), watch=watch)
    assert stop.seconds == waited
    assert marks(bucket) == [key]


@pytest.mark.parametrize("text", [b"no JSON", b"{}", b'{"token":"x","seconds":1e300}', b'{"token":"x","seconds":-5}'])
def test_a_mark_that_says_nonsense_is_waited_for_and_not_for_ever(tmp_path: Path, bucket: Bucket, text: bytes) -> None:
    bucket.put("p/daily.readers/x.json", text)
    _, context, stop = cleaner(tmp_path)
    if b"1e300" in text:
        with pytest.raises(ReaderActiveError):
            wait_for_readers(context, at(bucket))
        return
    assert wait_for_readers(context, at(bucket))
    assert stop.seconds > PACE.duration


def test_the_mark_of_a_reader_of_a_path_around_it_counts_and_that_of_a_neighbour_does_not(
    tmp_path: Path, bucket: Bucket
) -> None:
    bucket.put("p/daily-2.readers/x.json", b"{}")
    _, context, _ = cleaner(tmp_path)
    assert not wait_for_readers(context, at(bucket))
    bucket.put("p.readers/x.json", b"{}")
    assert wait_for_readers(context, at(bucket))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        {"s3": {"bucket": "b/p", "prefix": "daily/"}},
        {"s3": {"bucket": "b", "prefix": "p/daily/attempt-2"}},
        {"s3": {"bucket": "b", "prefix": "p"}},
        {"s3": {"bucket": "b", "path": "s3://b/p/daily"}},
        {"s3": {"path": "b/p/daily/x.tgz"}},
        {"s3": {"bucket": "log", "prefix": "l"}, "pitrFullBackupStorageProvider": SPEC},
    ],
)
def test_a_clean_waits_for_a_restore_of_its_namespace_that_names_the_path(tmp_path: Path, bucket: Bucket, spec: Any) -> None:
    api = Api({"Restore": [restore(spec=spec)]})
    made, context, stop = cleaner(tmp_path, api)
    stop.meanwhile = lambda: (
        api.found.update({"Restore": [restore(spec=spec, phase="Complete")]}) if stop.seconds > 50 else None
    )
    assert wait_for_readers(context, at(bucket))
    assert "Restore ns/r" in str(made.reporter.offered[0].error)


@pytest.mark.parametrize(
    "spec",
    [
        {"s3": {"bucket": "b", "prefix": "p/daily-2"}},
        {"s3": {"bucket": "other", "prefix": "p/daily"}},
        {"gcs": {"bucket": "b", "prefix": "p/daily", "projectId": "x"}},
        {"s3": {"bucket": "b", "prefix": "../x"}},
        {"s3": {"bucket": 5}},
        {"s3": "nonsense"},
    ],
)
def test_a_restore_of_something_else_is_not_waited_for(tmp_path: Path, bucket: Bucket, spec: Any) -> None:
    _, context, _ = cleaner(tmp_path, Api({"Restore": [restore(spec=spec)]}))
    assert not wait_for_readers(context, at(bucket))


def test_what_a_restore_recorded_at_its_start_counts_and_not_only_an_edited_spec(tmp_path: Path, bucket: Bucket) -> None:
    recorded = {"s3.provider": "aws", "s3.bucket": "b", "s3.prefix": "p/daily"}
    recorded |= {"local.volume": "scribble"}  # one value that cannot be read hides none of the others
    edited = restore(spec={"s3": {"provider": "aws", "bucket": "b", "prefix": "elsewhere"}}, recorded=recorded)
    _, context, _ = cleaner(tmp_path, Api({"Restore": [edited]}))
    with pytest.raises(ReaderActiveError):
        wait_for_readers(context, at(bucket))


def test_a_compaction_of_the_log_is_waited_for_too(tmp_path: Path, bucket: Bucket) -> None:
    compaction = {"metadata": {"namespace": "ns", "name": "c"}, "spec": SPEC, "status": {"state": "Running"}}
    _, context, _ = cleaner(tmp_path, Api({"CompactBackup": [compaction]}))
    with pytest.raises(ReaderActiveError, match="CompactBackup ns/c"):
        wait_for_readers(context, at(bucket))


def test_local_volumes_are_told_apart_by_what_is_mounted(tmp_path: Path, bucket: Bucket) -> None:
    def volume(claim: str, mount: str, prefix: str) -> dict[str, Any]:
        source = {"name": "v", "persistentVolumeClaim": {"claimName": claim}}
        return {"local": {"volume": source, "volumeMount": {"name": "v", "mountPath": mount}, "prefix": prefix}}

    path = MemoryStorage(Location(provider=Provider.LOCAL, bucket="/nfs", prefix="daily"), bucket)
    ours = volume("one", "/nfs", "daily")
    same, other = restore(spec=volume("one", "/mnt", "daily")), restore(spec=volume("two", "/nfs", "daily"))
    _, context, _ = cleaner(tmp_path, Api({"Restore": [other]}), spec=ours)
    assert not wait_for_readers(context, path)
    _, context, _ = cleaner(tmp_path, Api({"Restore": [same]}), spec=ours)
    with pytest.raises(ReaderActiveError):
        wait_for_readers(context, path)


def test_the_wait_ends_and_says_which_restore_and_what_to_do(tmp_path: Path, bucket: Bucket) -> None:
    _, context, stop = cleaner(tmp_path, Api({"Restore": [restore("slow")]}))
    with pytest.raises(ReaderActiveError) as caught:
        wait_for_readers(context, at(bucket))
    problem = caught.value.problem()
    assert (problem.reason, problem.retryable) == ("ReaderActive", True)
    assert "Restore ns/slow" in problem.message
    assert "was deleted" in problem.hint
    assert LIMIT_SECONDS <= stop.seconds <= LIMIT_SECONDS + 30


def test_a_wait_can_be_stopped(tmp_path: Path, bucket: Bucket) -> None:
    _, context, stop = cleaner(tmp_path, Api({"Restore": [restore()]}))
    stop.meanwhile = stop.request
    with pytest.raises(RunInterruptedError):
        wait_for_readers(context, at(bucket))


def test_without_the_right_to_list_the_marks_remain_and_the_log_says_so(tmp_path: Path, bucket: Bucket) -> None:
    made, context, _ = cleaner(tmp_path, Api(forbidden=True))
    assert not wait_for_readers(context, at(bucket))
    assert "Restores that read the path are not looked for" in "".join(made.lines)


@pytest.mark.parametrize(
    ("phase", "conditions", "reads"),
    [
        ("", (), True),
        ("Waiting", ("Waiting",), True),
        ("Scheduled", ("Scheduled",), True),
        ("Running", ("Scheduled", "Running"), True),
        ("RetryFailed", ("Scheduled", "RetryFailed"), True),
        ("SnapshotRestore", ("Scheduled",), True),
        ("Complete", ("Scheduled", "Complete"), False),
        ("Failed", ("Scheduled", "Failed"), False),
        ("Invalid", ("Invalid",), False),
        ("Invalid", ("Scheduled", "Invalid"), True),
        ("Failed", ("Failed", "PruneScheduled"), False),
        ("PruneRunning", ("Failed", "PruneRunning"), True),
        ("PruneComplete", ("Failed", "PruneComplete"), False),
    ],
)
def test_which_restores_may_still_read(phase: str, conditions: tuple[str, ...], reads: bool) -> None:
    assert may_read(restore(phase=phase, conditions=conditions)) is reads


def test_a_storage_that_fails_while_marks_are_looked_for_is_an_error(tmp_path: Path, bucket: Bucket) -> None:
    class Broken(MemoryStorage):
        def at(self, location: Location) -> MemoryStorage:
            return Broken(location, self.bucket)

        def list(self, prefix: str = "") -> Any:
            raise StorageError("ListObjects: 500")

    _, context, _ = cleaner(tmp_path)
    with pytest.raises(StorageError):
        wait_for_readers(context, Broken(at(bucket).location, bucket))


# Both at once


class Interrupting(MemoryStorage):
    """At its call number *when*, counted over all folders, something else happens in between, once."""

    def __init__(self, location: Location, bucket: Bucket, calls: list[int], meanwhile: Callable[[], None], when: int) -> None:
        super().__init__(location, bucket)
        self.calls, self.meanwhile, self.when = calls, meanwhile, when

    def at(self, location: Location) -> MemoryStorage:
        return Interrupting(location, self.bucket, self.calls, self.meanwhile, self.when)

    def _call(self) -> None:
        self.calls[0] += 1
        if self.calls[0] == self.when:
            self.meanwhile()

    def list(self, prefix: str = "") -> Any:
        self._call()
        return super().list(prefix)

    def fetch(self, key: str) -> tuple[bytes, str]:
        self._call()
        return super().fetch(key)

    def write(self, key: str, data: bytes, **conditions: Any) -> str:
        self._call()
        return super().write(key, data, **conditions)


@pytest.mark.parametrize("first", ["reader", "cleaner"])
def test_of_a_reader_and_a_cleaner_that_begin_together_one_sees_the_other(tmp_path: Path, first: str) -> None:
    """At every call of the one, the other goes all the way; never does the one read what the other deletes."""
    ended = False
    outcomes = set()
    for when in range(1, 40):
        bucket, calls, said = Bucket(), [0], dict[str, str]()
        clean_claim(bucket)
        with ExitStack() as stack:

            def read(storage: MemoryStorage, said: dict[str, str] = said, stack: ExitStack = stack) -> None:
                try:
                    stack.enter_context(reading(reader(tmp_path).context, storage))
                    said["reader"] = "reads"
                except SourceBeingCleanedError:
                    said["reader"] = "refused"

            def clean(storage: MemoryStorage, said: dict[str, str] = said) -> None:
                Records(storage, now=lambda: NOW).begin_clean(BACKUP)
                _, context, stop = cleaner(tmp_path)
                stop.meanwhile = stop.request
                try:
                    wait_for_readers(context, storage)
                    said["cleaner"] = "deletes"
                except RunInterruptedError:
                    said["cleaner"] = "waits"

            one, other = (read, clean) if first == "reader" else (clean, read)
            there = at(bucket)
            one(Interrupting(there.location, bucket, calls, lambda there=there, other=other: other(there), when))  # type: ignore[misc]
            ended = calls[0] < when
            if ended:
                break
            assert (said["reader"], said["cleaner"]) != ("reads", "deletes"), when
            outcomes.add((said["reader"], said["cleaner"]))
    assert ended, "every call was tried"
    assert ("refused", "deletes") in outcomes
    assert ("reads", "waits") in outcomes


def test_a_deletion_that_fails_for_a_moment_leaves_no_mark_behind(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryStorage.delete_batch
    refused: list[Any] = []

    def once_unavailable(self: MemoryStorage, batch: Any) -> Any:
        if not refused:
            refused.append(batch)
            raise TransientError("503", reason="StorageUnavailable")
        return real(self, batch)

    monkeypatch.setattr("backup_manager.storage.retry.time.sleep", lambda _seconds: None)
    monkeypatch.setattr(MemoryStorage, "delete_batch", once_unavailable)
    with reading(reader(tmp_path).context, at(bucket)):
        assert marks(bucket)
    assert refused
    assert not marks(bucket)
