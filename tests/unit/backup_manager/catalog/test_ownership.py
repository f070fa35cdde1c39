"""The protocol of docs/adr/0001-path-ownership.md: a path has one owner, whoever is slow, frozen, killed or unlucky meanwhile.

Two processes are played by two objects whose steps the test orders; a store that fails after it wrote is a subclass in memory.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from backup_manager.catalog.destination import BackupDestination, CompletedError
from backup_manager.catalog.ownership import Fence
from backup_manager.catalog.record import Attempt, Cleaned, Owner, Record, State
from backup_manager.catalog.records import Records
from backup_manager.cleaning.cleaner import Cleaner
from backup_manager.content import Content
from backup_manager.context import Context, Result
from backup_manager.errors import ClaimedError, StorageError, SupersededError, UnreachableError, UsageError
from backup_manager.kubernetes.pods import has_ended
from backup_manager.operations import clean
from backup_manager.signals import StopSignal
from backup_manager.storage.memory import Bucket, MemoryStorage
from crds.contract import names
from crds.contract.paths import Location, Provider
from crds.contract.report import Problem
from tests.support.manager import NOW, world

A, B = (Owner(namespace="ns", name=name, uid=f"uid-{name}") for name in "ab")
PATH = "p/q"
BAD = Problem(reason="DumpFailed", message="no")


def storage(bucket: Bucket, prefix: str = PATH) -> MemoryStorage:
    return MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=prefix), bucket)


def records(bucket: Bucket, who: str = "", prefix: str = PATH, now: datetime = NOW) -> Records:
    return Records(storage(bucket, prefix), now=lambda: now, attempt_id=who)


def claim(of: Records, owner: Owner = A, **more: Any) -> Record:
    return of.claim(owner, operation="export", spec={}, **more)


def loaded(bucket: Bucket, prefix: str = PATH) -> Record:
    record = records(bucket, prefix=prefix).load()
    assert record is not None
    return record


def data(bucket: Bucket) -> set[str]:
    ours = (".record.json", ".objects.gz", ".content.gz")
    return {key for key in bucket.objects if ".history/" not in key and not key.endswith(ours)}


class Pods:
    """Kubernetes as a manager sees it; *on_ask* happens at each listing, before its answer."""

    def __init__(self, on_ask: Callable[[int], None] = lambda _n: None, *answers: list[dict[str, Any]]) -> None:
        self.asked, self.on_ask, self.answers = 0, on_ask, answers or ([],)

    def resources(self, _kind: str, _namespace: str) -> list[dict[str, Any]]:
        return []

    def pods(self, _namespace: str, _labels: Any) -> list[dict[str, Any]]:
        self.asked += 1
        self.on_ask(self.asked)
        return self.answers[min(self.asked, len(self.answers)) - 1]


def pod(uid: str, phase: str, *, terminated: bool = True, node: str = "n") -> dict[str, Any]:
    state = {"terminated": {"exitCode": 137}} if terminated else {"running": {}}
    return {
        "metadata": {"name": f"pod-{uid}", "uid": uid, "labels": {names.COMPONENT_LABEL: "backup"}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "containerStatuses": [{"state": state}]},
    }


class Quick(StopSignal):
    """Waits take no time."""

    def wait(self, seconds: float) -> None:
        self.check()


class Scene:
    """Runs cleans and writers' folders on one bucket in memory."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bucket, self.tmp_path = Bucket(), tmp_path
        monkeypatch.setattr(clean, "open_storage", lambda _spec, *, location, env: MemoryStorage(location, self.bucket))

    def context(
        self,
        owner: Owner = A,
        *,
        pod: str = "",
        spec: dict[str, Any] | None = None,
        status: dict[str, Any] | None = None,
        path: str = PATH,
        annotations: dict[str, str] | None = None,
        pods: Any = None,
    ) -> Context:
        env = {names.ENV_BACKUP_PATH: f"s3://b/{path}", **({names.ENV_POD_UID: pod} if pod else {})}
        here = world(
            self.tmp_path,
            {"cleanPolicy": "Delete", **(spec or {})},
            env=env,
            annotations=annotations,
            uid=owner.uid,
            stop=Quick(),
        )
        resource = replace(here.context.resource, name=owner.name, status=status or {})
        return replace(here.context, resource=resource, kubernetes=pods)

    def clean(self, owner: Owner = A, **more: Any) -> Result:
        return clean.run(self.context(owner, **more))

    def folder(self, owner: Owner = A, *, prefix: str = PATH, **more: Any) -> BackupDestination:
        return BackupDestination(self.context(owner, **more), storage(self.bucket, prefix), operation="export")

    def complete(self, owner: Owner, prefix: str = PATH) -> None:
        of = records(self.bucket, f"pod-{owner.name}", prefix)
        mine = claim(of, owner)
        self.bucket.put(f"{prefix}/data", owner.name.encode())
        of.complete(mine)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


# Cleaners


def test_a_clean_that_waited_for_its_writers_is_refused_what_another_claimed_meanwhile(scene: Scene) -> None:
    """A never claimed its path; while its clean waits for A's Pod, B claims the same path and completes."""
    pods = Pods(lambda n: scene.complete(B) if n == 2 else None, [pod("a", "Running")], [])
    with pytest.raises(ClaimedError, match="Backup ns/b") as caught:
        scene.clean(pods=pods)
    assert caught.value.problem().reason == "BackupPathClaimed"
    assert data(scene.bucket) == {"p/q/data"}
    assert loaded(scene.bucket).state is State.COMPLETE


def test_nobody_claims_a_path_without_a_record_while_it_is_cleaned(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of TiDB Operator has no record; between two passes of its clean another Backup wants the path."""
    scene.bucket.put("p/q/old", b"1")
    refused = list[str]()
    original = MemoryStorage.targets

    def between_passes(self: MemoryStorage, prefix: str = "") -> Any:
        if not data(scene.bucket):
            with pytest.raises(ClaimedError, match="Cleaning"):
                claim(records(scene.bucket, "b"), B)
            refused.append("b")
        return original(self, prefix)

    monkeypatch.setattr(MemoryStorage, "targets", between_passes)
    assert scene.clean().details["deleted"] == 1
    assert refused
    assert (loaded(scene.bucket).state, loaded(scene.bucket).owner.uid) == (State.CLEANED, A.uid)


def test_nothing_is_deleted_before_the_path_is_claimed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.bucket.put("p/q/old", b"1")
    states = list[State]()
    original = MemoryStorage.delete_batch

    def watched(self: MemoryStorage, batch: Any) -> Any:
        states.append(loaded(scene.bucket).state)
        return original(self, batch)

    monkeypatch.setattr(MemoryStorage, "delete_batch", watched)
    scene.clean()
    assert states[0] is State.CLEANING


def test_a_second_clean_takes_over_and_the_first_stops_at_its_next_look(scene: Scene) -> None:
    scene.complete(A)
    first, second = records(scene.bucket, "clean-1"), records(scene.bucket, "clean-2")
    stale = first.begin_clean(A)
    held = second.begin_clean(A)
    with pytest.raises(SupersededError) as caught:
        Cleaner(storage(scene.bucket), confirm=lambda: first.confirm_clean(stale)).run()
    assert (caught.value.problem().reason, caught.value.problem().retryable) == ("AttemptSuperseded", False)
    assert data(scene.bucket) == {"p/q/data"}
    with pytest.raises(SupersededError):
        first.finish_clean(stale, Cleaned(at=NOW))
    assert second.finish_clean(held, Cleaned(at=NOW)).state is State.CLEANED


def test_a_cleaner_looks_at_its_claim_again_while_it_deletes() -> None:
    bucket = Bucket()
    for number in range(5000):
        bucket.put(f"p/q/{number:05d}", b"1")
    seconds, looks = iter(range(100_000)), list[int]()
    cleaner = Cleaner(storage(bucket), confirm=lambda: looks.append(1), clock=lambda: 10.0 * next(seconds))
    cleaner.run()
    assert len(looks) > cleaner.tally.passes


def test_a_complete_backup_is_kept_under_on_failure_whatever_the_hook_missed(scene: Scene) -> None:
    scene.complete(A)
    result = scene.clean(spec={"cleanPolicy": "OnFailure"}, status={"phase": "Running"})
    assert (result.details["kept"], result.details["deleted"], result.details["left"]) == (True, 0, 0)
    assert "says Complete" in result.details["notes"][0]
    assert data(scene.bucket) == {"p/q/data"}
    assert loaded(scene.bucket).state is State.COMPLETE


def test_what_failed_is_cleaned_under_on_failure(scene: Scene) -> None:
    of = records(scene.bucket, "a")
    mine = claim(of)
    scene.bucket.put("p/q/half", b"1")
    of.fail(mine, BAD)
    assert scene.clean(spec={"cleanPolicy": "OnFailure"}).details["deleted"] == 1


def test_the_second_clean_decides_as_the_first_did(scene: Scene) -> None:
    """The refusal of the first one lies in the conditions of the Backup; it says nothing of what the run wrote."""
    scene.complete(B)
    ran = {"type": "Complete", "status": "False", "reason": ""}
    first: dict[str, Any] = {"conditions": [ran]}
    refusal = {"type": "CleanFailed", "status": "True", "reason": "BackupPathClaimed"}
    for status in (first, {"conditions": [ran, refusal]}, {"conditions": [refusal]}):
        with pytest.raises(ClaimedError) as caught:
            scene.clean(status=status)
        assert f"{names.CONFIRM_CLEAN_ANNOTATION}: {B.uid}" in caught.value.hint
    assert data(scene.bucket) == {"p/q/data"}
    confirmed = {names.CONFIRM_CLEAN_ANNOTATION: B.uid}
    assert scene.clean(status={"conditions": [refusal]}, annotations=confirmed).details["deleted"] == 1
    assert loaded(scene.bucket).state is State.CLEANED


def test_a_refused_run_is_remembered_beside_the_data_it_was_refused_for(scene: Scene) -> None:
    """The hook may miss how the run ended; its clean still must not take data that no record explains."""
    scene.bucket.put("p/q/precious", b"1")
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            scene.folder().claim()
        assert caught.value.problem().reason == "BackupPathInUse"
    result = scene.clean()
    assert result.details["deleted"] == 0
    assert "withdrawn" in result.details["notes"][0]
    assert data(scene.bucket) == {"p/q/precious"}
    # Whose data it is can still be cleaned by its own CR.
    assert scene.clean(B).details["deleted"] == 1


def test_a_claim_that_never_got_past_its_neighbours_leaves_nothing_to_clean(scene: Scene) -> None:
    of = records(scene.bucket, "a")
    with pytest.raises(UnreachableError):
        claim(of, trial=_fails)
    assert scene.clean().details["deleted"] == 0
    assert loaded(scene.bucket).withdrawn


def _fails() -> None:
    raise UnreachableError("503")


def test_a_clean_is_refused_when_a_foreign_path_lies_inside_and_leaves_no_trace_of_a_clean(scene: Scene) -> None:
    scene.complete(B, "p/q/inner")
    for _ in range(2):
        with pytest.raises(ClaimedError):
            scene.clean()
    assert "p/q/inner/data" in scene.bucket.objects
    assert (loaded(scene.bucket).withdrawn, loaded(scene.bucket).open) == (True, ())


# Writers


class Flaky(MemoryStorage):
    """Fails as told: *broken* decides by method and absolute key; a write that fails has taken effect when *after*."""

    broken: Callable[[str, str], bool]

    def at(self, location: Location) -> "Flaky":
        other = Flaky(location, self.bucket)
        other.broken = self.broken
        return other

    def fetch(self, key: str) -> tuple[bytes, str]:
        if self.broken("fetch", self._base + key):
            raise UnreachableError("503")
        return super().fetch(key)

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        if self.broken("write", self._base + key):
            raise UnreachableError("503")
        etag = super().write(key, data, if_absent=if_absent, if_match=if_match)
        if self.broken("wrote", self._base + key):
            raise UnreachableError("503 after the write")
        return etag


def flaky(bucket: Bucket, broken: Callable[[str, str], bool], prefix: str = PATH) -> Flaky:
    made = Flaky(Location(provider=Provider.S3, bucket="b", prefix=prefix), bucket)
    made.broken = broken
    return made


def test_every_attempt_checks_its_neighbours_also_after_its_own_live_claim() -> None:
    """The claim is written, then the store is away: it cannot be given back. The retry finds its own claim, and a neighbour."""
    bucket = Bucket()
    claim(records(bucket, "b", "p"), B)
    written = list[str]()

    def away(what: str, key: str) -> bool:
        written.extend([key] if what == "wrote" else [])
        return bool(written) and what != "wrote"

    inner = Records(flaky(bucket, away, "p/x"), now=lambda: NOW, attempt_id="x1")
    with pytest.raises(UnreachableError):
        claim(inner)
    assert loaded(bucket, "p/x").state is State.CLAIMED
    retry = records(bucket, "x2", "p/x")
    with pytest.raises(ClaimedError, match="Backup ns/b"):
        claim(retry)
    assert loaded(bucket, "p/x").withdrawn
    with pytest.raises(ClaimedError):
        claim(records(bucket, "x3", "p/x"))


def test_a_transient_error_among_the_neighbours_leaves_the_claim_and_loses_nobodys_write() -> None:
    """Of two attempts, the one whose store fails must not undo what the other one wrote meanwhile."""
    bucket = Bucket()
    failing = list[bool]()
    first = Records(
        flaky(bucket, lambda what, key: what == "fetch" and key == "p.record.json" and bool(failing)), attempt_id="1"
    )

    def concurrent() -> None:
        claim(records(bucket, "2"))

    failing.append(True)
    with pytest.raises(UnreachableError):
        claim(first)
    assert loaded(bucket).state is State.CLAIMED
    concurrent()
    held = bucket.objects["p/q.record.json"]
    with pytest.raises(SupersededError):
        first.fail(first.last_claim or pytest.fail("no claim"), BAD)
    assert bucket.objects["p/q.record.json"] == held
    assert loaded(bucket).attempt == Attempt(number=2, id="2", owner=A.uid)


def test_a_refused_claim_does_not_undo_a_concurrent_one() -> None:
    """Giving a claim back is a conditional write: whoever claimed in between keeps the path."""
    bucket = Bucket()
    claim(records(bucket, "b", "p"), B)
    later: list[Record] = []

    def overtaken(what: str, key: str) -> bool:
        if what == "fetch" and key == "p.record.json" and not later:
            later.append(loaded(bucket).but(attempts=2, revision=9, attempt=Attempt(number=2, id="x2", owner=A.uid)))
            bucket.put("p/q.record.json", later[0].to_json())
        return False

    with pytest.raises(SupersededError):
        claim(Records(flaky(bucket, overtaken), now=lambda: NOW, attempt_id="x1"))
    assert loaded(bucket) == later[0]


def test_an_owner_that_wrote_keeps_its_path_against_a_newcomer_that_has_not_been_checked() -> None:
    """Otherwise a retry of the first would be refused because of a claim that is about to be given back."""
    bucket = Bucket()
    claim(records(bucket, "a1", "p"), A)
    newcomer = loaded(bucket, "p").but(owner=B, backup_path="s3://b/p/x", neighbours_checked=False)
    bucket.put("p/x.record.json", newcomer.to_json())
    again = claim(records(bucket, "a2", "p"), A)
    assert (again.attempts, again.neighbours_checked) == (2, True)
    with pytest.raises(ClaimedError):
        claim(records(bucket, "b2", "p/x"), B)


def test_a_frozen_export_neither_completes_nor_mixes_its_files_into_its_successors(scene: Scene) -> None:
    first = scene.folder(pod="1")
    first.claim()
    assert first.data.location.prefix == PATH
    scene.bucket.put("p/q/t.1.sql", b"old snapshot")
    second = scene.folder(pod="2")
    second.claim()
    assert second.data.location.prefix == "p/q/attempt-2"
    second.data.write("t.1.sql", b"new")
    second.data.write("metadata", b"Finished dump at")
    done = second.complete(tool="dumpling", version="v8", argv=[], commit_ts="2", held=Content())
    assert (done.data, done.object_count, done.size) == ("attempt-2", 2, 19)
    # The first one thaws: it goes on writing, and means to be done.
    first.data.write("t.2.sql", b"old snapshot")
    first.data.write("metadata", b"Finished dump at")
    with pytest.raises(SupersededError) as caught:
        first.confirm()
    with pytest.raises(SupersededError), first.record_failures():
        first.complete(tool="dumpling", version="v8", argv=[], commit_ts="1", held=Content())
    assert (caught.value.problem().reason, caught.value.problem().retryable) == ("AttemptSuperseded", False)
    record = loaded(scene.bucket)
    assert (record.state, record.commit_ts, record.data, record.problem) == (State.COMPLETE, "2", "attempt-2", None)
    assert record.open == ()
    of = records(scene.bucket)
    assert set(of.objects(record)) == {"t.1.sql", "metadata"} == {info.key for info in of.data_storage(record).list()}
    assert scene.clean().details["deleted"] == 4
    assert not data(scene.bucket)


def test_a_stale_attempt_that_removes_leftovers_spares_the_folders_of_later_ones(scene: Scene) -> None:
    first = scene.folder(pod="1")
    first.claim()
    scene.bucket.put("p/q/half", b"1")
    scene.bucket.put("p/q/attempt-3/metadata", b"later")
    second = scene.folder(pod="2")
    second.claim()
    assert data(scene.bucket) == {"p/q/attempt-3/metadata"}


def test_what_an_earlier_attempt_completed_meanwhile_is_not_touched(scene: Scene) -> None:
    """The second attempt saw a claim; before its own, the first one completed."""
    first, second = scene.folder(pod="1"), scene.folder(pod="2")
    first.claim()
    assert second.finished() is None
    first.data.write("metadata", b"x")
    first.complete(tool="dumpling", version="", argv=[], commit_ts="1", held=Content())
    before = dict(scene.bucket.objects)
    with pytest.raises(CompletedError) as caught, second.record_failures():
        second.claim()
    assert caught.value.record.commit_ts == "1"
    assert scene.bucket.objects == before


def test_an_attempt_number_is_given_once() -> None:
    bucket = Bucket()
    numbers = []
    for number in range(3):
        of = records(bucket, f"pod-{number}")
        numbers.append(claim(of).attempts)
        of.fail(of.last_claim or pytest.fail("no claim"), BAD)
    cleaning = records(bucket, "clean")
    numbers.append(cleaning.begin_clean(A).attempts)
    cleaning.finish_clean(cleaning.last_claim or pytest.fail("no claim"), Cleaned(at=NOW))
    numbers.append(claim(records(bucket, "pod-9"), B).attempts)
    assert numbers == [1, 2, 3, 4, 5]


def test_no_state_of_a_record_has_the_bytes_of_an_earlier_one() -> None:
    """An etag made of the content must not come back, or a conditional write would hit a later state."""
    bucket, seen = Bucket(), set[bytes]()

    def note() -> None:
        assert bucket.objects["p/q.record.json"] not in seen
        seen.add(bucket.objects["p/q.record.json"])

    of = records(bucket, "same")
    for _ in range(3):
        mine = claim(of)
        note()
        of.fail(mine, BAD)
        note()
    of.finish_clean(of.begin_clean(A), Cleaned(at=NOW))
    note()


@pytest.mark.parametrize("years", [-1, 1])
def test_a_clock_that_is_a_year_off_decides_nothing(years: int) -> None:
    bucket = Bucket()
    wrong = NOW.replace(year=NOW.year + years)
    of = records(bucket, "1", now=wrong)
    mine = claim(of)
    with pytest.raises(ClaimedError):
        claim(records(bucket, "b"), B)
    of.complete(mine)
    second = records(bucket, "2", now=NOW)
    second.finish_clean(second.begin_clean(A), Cleaned(at=NOW))
    assert claim(records(bucket, "b", now=datetime(1990, 1, 1, tzinfo=UTC)), B).owner == B


# Processes that may be alive


def test_a_cleaned_path_is_nobody_elses_while_an_attempt_may_still_write(scene: Scene) -> None:
    scene.folder(pod="frozen").claim()
    scene.bucket.put("p/q/half", b"1")
    scene.clean(pod="clean")
    assert [attempt.id for attempt in loaded(scene.bucket).open] == ["frozen"]
    with pytest.raises(ClaimedError) as caught:
        scene.folder(B).claim()
    problem = caught.value.problem()
    assert problem.reason == "BackupPathInUse"
    assert "attempt 1 (writer frozen)" in problem.message
    assert "another prefix" in problem.hint
    # The same CR may clean what the frozen one wrote when it thawed.
    scene.bucket.put("p/q/late", b"1")
    assert scene.clean(pod="clean-again").details["deleted"] == 1


def test_a_frozen_cleaner_keeps_the_path_from_others_too(scene: Scene) -> None:
    scene.complete(A)
    records(scene.bucket, "frozen").begin_clean(A)
    scene.clean(pod="second")
    with pytest.raises(ClaimedError, match="cleaner frozen"):
        scene.folder(B).claim()
    with pytest.raises(ClaimedError, match="cleaner frozen"):
        scene.folder(A).claim()


def test_an_attempt_that_kubernetes_shows_ended_keeps_nothing(scene: Scene) -> None:
    scene.folder(pod="dead").claim()
    scene.clean(pod="clean", pods=Pods(lambda _n: None, [pod("dead", "Failed")]))
    assert loaded(scene.bucket).open == ()
    scene.folder(B).claim()


def test_the_next_owner_may_find_out_that_it_ended(scene: Scene) -> None:
    scene.folder(pod="dead").claim()
    scene.clean(pod="clean")
    with pytest.raises(ClaimedError):
        scene.folder(B, pods=Pods(lambda _n: None, [pod("dead", "Failed", terminated=False)])).claim()
    scene.folder(B, pods=Pods(lambda _n: None, [pod("dead", "Failed")])).claim()


@pytest.mark.parametrize(
    ("found", "ended"),
    [
        (pod("x", "Succeeded"), True),
        (pod("x", "Failed"), True),
        (pod("x", "Failed", terminated=False), False),
        (pod("x", "Running"), False),
        (pod("x", "Unknown"), False),
        (pod("x", "Failed", node=""), True),
        ({**pod("x", "Failed"), "status": {"phase": "Failed"}}, False),
    ],
)
def test_only_the_kubelet_proves_that_a_pod_ended(found: dict[str, Any], ended: bool) -> None:
    assert has_ended(found) is ended


def test_an_orderly_end_is_noted_however_it_comes(scene: Scene) -> None:
    for error in (UnreachableError("x"), RuntimeError("a defect")):
        folder = scene.folder(pod=f"pod-{type(error).__name__}")
        with pytest.raises(type(error)), folder.record_failures():
            _claim_and_raise(folder, error)
        assert loaded(scene.bucket).open == ()


def _claim_and_raise(folder: BackupDestination, error: Exception) -> None:
    folder.claim()
    raise error


def test_a_claim_whose_answer_got_lost_is_closed_at_the_end(scene: Scene) -> None:
    lost = list[int]()

    def after_the_write(what: str, key: str) -> bool:
        hit = what == "wrote" and key == "p/q.record.json" and not lost
        lost.extend([1] if hit else [])
        return hit

    folder = BackupDestination(scene.context(pod="1"), flaky(scene.bucket, after_the_write), operation="export")
    with pytest.raises(UnreachableError), folder.record_failures():
        folder.claim()
    record = loaded(scene.bucket)
    assert (record.state, record.open) == (State.FAILED, ())


def test_an_attempt_without_a_fence_waits_for_the_end_of_earlier_ones() -> None:
    """br before v6.5.1 has no checkpoint, and so no lock."""
    bucket = Bucket()
    claim(records(bucket, "1"), fence=Fence.NONE)
    with pytest.raises(ClaimedError) as caught:
        claim(records(bucket, "2"), fence=Fence.NONE)
    assert caught.value.problem().reason == "BackupPathInUse"
    assert claim(records(bucket, "2"), fence=Fence.NONE, ended={"1"}).attempts == 2
    assert claim(records(bucket, "3"), fence=Fence.TOOL).data == ""


# Records of other versions


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLEANING])
def test_records_of_before_this_protocol_are_read(state: State) -> None:
    old = {
        "v": 1,
        "state": str(state),
        "owner": {"kind": "Backup", "namespace": "ns", "name": "a", "uid": A.uid},
        "backupPath": "s3://b/p/q",
        "timeClaimed": "2026-01-01T00:00:00Z",
        "attempts": 1,
        "spec": {},
    }
    bucket = Bucket()
    bucket.put("p/q.record.json", _json(old))
    record = loaded(bucket)
    assert (record.open, record.data, record.neighbours_checked, record.withdrawn) == ((), "", True, False)
    again = claim(records(bucket, "2"))
    if state is State.COMPLETE:
        assert bucket.objects["p/q.record.json"] == _json(old)
    else:
        assert (again.attempts, again.data) == (2, "" if state is State.CLEANED else "attempt-2")


def version(bucket: Bucket) -> int:
    stored: int = orjson.loads(bucket.objects[f"{PATH}.record.json"])["v"]
    return stored


def test_a_record_that_an_older_manager_would_misread_is_of_version_2() -> None:
    """After a rollback to a release that knows neither the folder of an attempt nor open attempts, that one refuses it."""
    bucket = Bucket()
    claim(records(bucket, "1"))
    assert version(bucket) == 1
    second = records(bucket, "2")
    mine = claim(second)
    assert (mine.data, version(bucket)) == ("attempt-2", 2)
    second.complete(mine)
    assert version(bucket) == 2
    cleaner = records(bucket, "3")
    cleaner.finish_clean(cleaner.begin_clean(A), Cleaned(at=NOW))
    left = loaded(bucket)
    assert (left.state, [attempt.id for attempt in left.open], version(bucket)) == (State.CLEANED, ["1"], 2)


def test_an_export_of_one_attempt_is_read_by_an_older_manager() -> None:
    bucket = Bucket()
    one = records(bucket, "1")
    one.complete(claim(one))
    assert version(bucket) == 1
    one.finish_clean(one.begin_clean(A), Cleaned(at=NOW))
    assert (loaded(bucket).open, version(bucket)) == ((), 1)


@pytest.mark.parametrize("text", [b'{"v": 3, "state": "Claimed"}', b"", b"[]", b'{"v": true}', b'{"v": 1, "data": "../x"}'])
def test_a_record_of_a_newer_version_or_none_at_all_stops_everything(scene: Scene, text: bytes) -> None:
    scene.bucket.put("p/q.record.json", text)
    scene.bucket.put("p/q/data", b"1")
    before = dict(scene.bucket.objects)
    for act in (
        scene.clean,
        scene.folder().claim,
        lambda: claim(records(scene.bucket)),
        lambda: records(scene.bucket).begin_clean(A),
    ):
        with pytest.raises(StorageError) as caught:
            act()
        assert caught.value.problem().reason == "UnreadableRecord"
        assert caught.value.hint
    assert ("version 3" in caught.value.message) is (b'"v": 3' in text)
    assert scene.bucket.objects == before


DEEP = b"[" * 3000 + b"]" * 3000
ODD = {
    "a time before the calendar": (b'"timeClaimed": "', b'"timeClaimed": "0001-01-01T00:00:00+14:00", "x": "'),
    "a number beyond all": (b'"v"', b'"x": 1e400, "v"'),
    "nested too deep": (b'"v"', b'"x": ' + DEEP + b', "v"'),
    "a spec nested too deep": (b'"spec": {}', b'"spec": {"a": ' + DEEP[2100:-2100] + b"}"),
}


@pytest.mark.parametrize("what", ODD)
def test_a_record_that_could_not_be_written_back_is_unreadable_and_stops_everything(scene: Scene, what: str) -> None:
    claim(records(scene.bucket, "1"))
    whole = scene.bucket.objects["p/q.record.json"]
    assert ODD[what][0] in whole
    scene.bucket.put("p/q.record.json", whole.replace(*ODD[what]))
    before = dict(scene.bucket.objects)
    for act in (scene.clean, scene.folder().claim, lambda: claim(records(scene.bucket))):
        with pytest.raises(StorageError) as caught:
            act()
        assert caught.value.problem().reason == "UnreadableRecord"
    assert scene.bucket.objects == before


def test_data_without_a_record_that_came_while_a_lease_was_waited_for_is_not_gone_on_with(scene: Scene) -> None:
    """The path was ours, then cleaned and filled by others: what :meth:`finished` had seen counts no more."""
    scene.folder(pod="1").claim(fence=Fence.TOOL)
    folder = scene.folder(pod="2")
    assert folder.finished() is None
    scene.clean()
    scene.bucket.put("p/q/backupmeta", b"another's")
    with pytest.raises(StorageError) as caught:
        folder.claim(fence=Fence.TOOL)
    assert caught.value.problem().reason == "BackupPathInUse"


def test_data_of_a_record_lies_inside_its_path() -> None:
    bucket = Bucket()
    mine = claim(records(bucket, "1"))
    for name in ("..", "/etc", "other", "attempt-", "attempt-2/../..", "attempt-x"):
        with pytest.raises(StorageError):
            Record.parse(mine.but(data=name).to_json(), "x")


# Reserved names


@pytest.mark.parametrize(
    "prefix", ["p/a.record.json", "p/.history", "p/.history/x", "p/a.objects.gz/b", "p/a.readers", "p/backup.tgz"]
)
def test_a_prefix_that_collides_with_records_is_refused_by_the_manager(scene: Scene, prefix: str) -> None:
    with pytest.raises(UsageError, match="reserved"):
        scene.folder(prefix=prefix).claim()
    assert not scene.bucket.objects


@pytest.mark.parametrize("path", ["p/.history", "p/q.record.json", "p/.history/x"])
def test_records_and_history_are_never_cleaned(scene: Scene, path: str) -> None:
    scene.complete(A)
    before = dict(scene.bucket.objects)
    with pytest.raises(StorageError) as caught:
        scene.clean(path=path)
    assert caught.value.problem().reason == "UnsafePath"
    assert scene.bucket.objects == before


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
