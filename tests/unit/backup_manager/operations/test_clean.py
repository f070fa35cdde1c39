"""Clean as an operation: whose data, from where, beside whom, and what is told."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_manager.catalog.record import Cleaned, Owner, State
from backup_manager.catalog.records import Records
from backup_manager.context import Context, Result
from backup_manager.errors import ClaimedError, ManagerError, PartialError, StorageError, TransientError, UsageError
from backup_manager.kubernetes.pods import live_writers
from backup_manager.locking import writers
from backup_manager.operations import clean
from backup_manager.signals import StopSignal
from backup_manager.storage.s3 import S3Storage
from crds.contract import names
from crds.contract.paths import Location
from crds.contract.report import Phase
from tests.support.fake_s3 import FakeS3
from tests.support.manager import UID, World, world

MINE = Owner(kind="Backup", namespace="ns", name="cr", uid=UID)
OTHER = Owner(kind="Backup", namespace="ns", name="other", uid="uid-other")
PATH = "s3://bucket/p/cr-0f5e9c1a"


class Quick(StopSignal):
    """Waits take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def wait(self, seconds: float) -> None:
        self.check()
        self.waited += seconds

    def monotonic(self) -> float:
        return self.waited


@dataclass
class Pods:
    """Answers the listing of Pods, each time the next one; the last for ever."""

    answers: Sequence[Sequence[Mapping[str, Any]]]
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    restores: Sequence[Mapping[str, Any]] = ()

    def resources(self, _kind: str, _namespace: str) -> Iterator[Mapping[str, Any]]:
        return iter(self.restores)

    def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        self.asked.append((namespace, labels))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def pod(name: str, phase: str = "Running", component: str = "backup", uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid, "labels": {names.COMPONENT_LABEL: component}}, "status": {"phase": phase}}


@dataclass
class Scene:
    """A bucket, and a clean that works on it."""

    server: FakeS3
    tmp_path: Path
    stop: Quick = field(default_factory=Quick)
    last: World | None = None

    def context(
        self,
        *,
        path: str = PATH,
        status: Mapping[str, Any] | None = None,
        spec: Mapping[str, Any] | None = None,
        annotations: Mapping[str, str] | None = None,
        pods: Any = None,
    ) -> Context:
        base = {"s3": {"provider": "x", "bucket": "edited", "prefix": "elsewhere"}, "cleanPolicy": "Delete", **(spec or {})}
        self.last = world(
            self.tmp_path,
            base,
            env={names.ENV_BACKUP_PATH: path, names.ENV_POD_NAME: "clean-cr-x"},
            annotations=annotations,
            stop=self.stop,
        )
        resource = replace(self.last.context.resource, status=status or {})
        return replace(self.last.context, kubernetes=pods, resource=resource)

    def run(self, **more: Any) -> Result:
        return clean.run(self.context(**more))

    @property
    def result(self) -> dict[str, Any]:
        assert self.last is not None
        return self.last.report.result

    def records(self, path: str = PATH) -> Records:
        return Records(self.server.storage(Location.parse(path).prefix), now=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def claim(self, owner: Owner = MINE, path: str = PATH) -> None:
        self.records(path).claim(owner, operation="export", spec={})

    def complete(self) -> None:
        records = self.records()
        records.complete(records.claim(MINE, operation="export", spec={}))

    def state(self, path: str = PATH) -> State | None:
        record = self.records(path).load()
        return record.state if record else None

    def data(self) -> set[str]:
        return {name for name in self.server.names() if ".history/" not in name and ".record.json" not in name}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    server = FakeS3()

    def opened(_spec: Mapping[str, Any], *, location: Location, env: Mapping[str, str]) -> S3Storage:
        return server.storage(location.prefix)

    monkeypatch.setattr(clean, "open_storage", opened)
    for number in range(3):
        server.put(f"p/cr-0f5e9c1a/{number}", b"12345")
    server.put("p/cr-0f5e9c1a-b/sibling")
    return Scene(server, tmp_path)


SIBLING = {"p/cr-0f5e9c1a-b/sibling"}


def test_own_data_goes_and_a_tombstone_stays(scene: Scene) -> None:
    scene.complete()
    result = scene.run()
    assert scene.data() == SIBLING
    assert result.details["deleted"] == 3
    assert result.details["left"] == 0
    record = scene.records().load()
    assert record is not None
    assert record.state is State.CLEANED
    assert record.cleaned is not None
    assert (record.cleaned.by, record.cleaned.deleted, record.cleaned.bytes) == ("clean-cr-x", 3, 15)
    assert "cleanPolicy Delete of Backup ns/cr" in record.cleaned.why


def test_data_of_tidb_operator_has_no_record(scene: Scene) -> None:
    scene.run()
    assert scene.data() == SIBLING
    assert scene.state() is State.CLEANED


def test_the_recorded_path_decides_and_not_the_spec(scene: Scene) -> None:
    scene.server.put("elsewhere/precious")
    scene.run()
    assert scene.data() == {*SIBLING, "elsewhere/precious"}


def test_status_holds_the_path_when_the_environment_does_not(scene: Scene) -> None:
    context = scene.context(status={"backupPath": PATH})
    clean.run(replace(context, env={}))
    assert scene.data() == SIBLING


def test_cleaning_twice_is_fine(scene: Scene) -> None:
    scene.claim()
    scene.run()
    assert scene.run().details["deleted"] == 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", UsageError),
        ("s3://bucket", StorageError),
        ("s3://bucket/", StorageError),
        ("s3://bucket//", StorageError),
        ("s3://bucket/p/../..", UsageError),
        ("s3://bucket/p/.", UsageError),
        ("s3://", UsageError),
        ("ftp://bucket/p", UsageError),
        ("/p", UsageError),
    ],
)
def test_paths_that_are_refused(scene: Scene, path: str, kind: type[ManagerError]) -> None:
    before = scene.server.names()
    with pytest.raises(kind):
        scene.run(path=path)
    assert scene.server.names() == before


def test_another_backups_path_is_refused(scene: Scene) -> None:
    scene.claim(OTHER)
    before = scene.data()
    with pytest.raises(StorageError) as caught:
        scene.run()
    problem = caught.value.problem()
    assert problem.reason == "BackupPathClaimed"
    assert "Backup ns/other (uid uid-other)" in problem.message
    assert f"{names.CONFIRM_CLEAN_ANNOTATION}: uid-other" in problem.hint
    assert scene.data() == before
    assert scene.state() is State.CLAIMED


def test_confirmed_by_annotation(scene: Scene) -> None:
    scene.claim(OTHER)
    scene.run(annotations={names.CONFIRM_CLEAN_ANNOTATION: "uid-other"})
    assert scene.data() == SIBLING
    assert scene.state() is State.CLEANED


@pytest.mark.parametrize("annotation", ["", "uid-third", "true", "*"])
def test_the_annotation_names_one_uid(scene: Scene, annotation: str) -> None:
    scene.claim(OTHER)
    with pytest.raises(StorageError):
        scene.run(annotations={names.CONFIRM_CLEAN_ANNOTATION: annotation})


@pytest.mark.parametrize("path", ["s3://bucket/p", "s3://bucket/p/cr-0f5e9c1a/inner/one"])
def test_a_foreign_path_around_or_inside_is_refused(scene: Scene, path: str) -> None:
    scene.claim(OTHER, path)
    before = scene.data()
    with pytest.raises(ClaimedError):
        scene.run()
    assert scene.data() == before


def test_an_unreadable_record_is_refused(scene: Scene) -> None:
    scene.server.put("p/cr-0f5e9c1a.record.json", b"{}")
    before = scene.data()
    with pytest.raises(StorageError, match="not a record that this version can read"):
        scene.run()
    assert scene.data() == before


@pytest.mark.parametrize("reason", ["BackupPathInUse", "BackupPathClaimed"])
def test_a_backup_that_was_refused_its_path_has_nothing_there(scene: Scene, reason: str) -> None:
    """The folder held somebody's data, so its run was refused; its deletion must not take that data."""
    before = scene.server.names()
    status = {"backupPath": PATH, "conditions": [{"type": "Failed", "status": "True", "reason": reason}]}
    assert scene.run(status=status).details["deleted"] == 0
    assert scene.server.names() == before


def test_but_one_that_completed_after_all_has(scene: Scene) -> None:
    conditions = [
        {"type": "Failed", "status": "True", "reason": "BackupPathInUse"},
        {"type": "Complete", "status": "True", "reason": ""},
    ]
    scene.claim()
    scene.run(status={"backupPath": PATH, "conditions": conditions})
    assert scene.data() == SIBLING


def test_a_running_writer_is_waited_for(scene: Scene) -> None:
    pods = Pods([[pod("backup-cr-abc")], [pod("backup-cr-abc")], [pod("backup-cr-abc", "Succeeded")]])
    scene.server.faults.append(lambda r: None if len(pods.asked) >= 3 or "delete" not in r.query else pytest.fail("too early"))
    scene.run(pods=pods)
    assert scene.data() == SIBLING
    assert scene.last is not None
    waiting = [report for report in scene.last.reporter.offered if report.phase is Phase.WAITING]
    assert waiting
    assert waiting[0].error is not None
    assert "backup-cr-abc" in waiting[0].error.message
    assert pods.asked[0] == ("ns", {names.OWNER_UID_LABEL: UID})
    assert scene.stop.waited == 10


def test_a_writer_that_appears_meanwhile_is_cleaned_after(scene: Scene) -> None:
    pods = Pods([[], [pod("backup-cr-late")], []])
    original = pods.pods

    def listing(namespace: str, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        answer = original(namespace, labels)
        if len(pods.asked) == 2:
            scene.server.put("p/cr-0f5e9c1a/late")
        return answer

    pods.pods = listing  # type: ignore[method-assign]
    result = scene.run(pods=pods)
    assert scene.data() == SIBLING
    assert result.details["deleted"] == 4


def test_a_writer_that_never_ends_is_named(scene: Scene) -> None:
    before = scene.data()
    with pytest.raises(TransientError, match="backup-cr-x") as caught:
        scene.run(pods=Pods([[pod("backup-cr-x", "Unknown")]]))
    assert caught.value.problem().reason == "WriterActive"
    assert scene.data() == before
    assert scene.stop.waited == writers.LIMIT_SECONDS


class Reads(Pods):
    """A namespace with a Restore of the path, which ends after some looks; *seen* is the state of the record meanwhile."""

    def __init__(self, scene: "Scene", looks: int) -> None:
        super().__init__([[]])
        self.scene, self.looks = scene, looks
        self.seen: list[tuple[State | None, set[str]]] = []

    def resources(self, kind: str, _namespace: str) -> Iterator[Mapping[str, Any]]:
        if kind != "Restore":
            return
        self.looks -= 1
        self.seen.append((self.scene.state(), self.scene.data()))
        meta = {"namespace": "ns", "name": "yesterday"}
        spec = {"s3": {"bucket": "bucket", "prefix": "p/cr-0f5e9c1a"}}
        yield {"metadata": meta, "spec": spec, "status": {"phase": "Running" if self.looks > 0 else "Complete"}}


def test_a_clean_waits_while_a_restore_reads_the_path_and_says_which_one(scene: Scene) -> None:
    """Until then the path is not even claimed: the Restore may need another attempt, which a claim would refuse."""
    scene.complete()
    before, pods = scene.data(), Reads(scene, looks=3)
    result = scene.run(pods=pods)
    assert result.details["left"] == 0
    assert scene.state() is State.CLEANED
    assert pods.seen[:3] == [(State.COMPLETE, before)] * 3
    assert scene.last is not None
    told = [report.error for report in scene.last.reporter.offered if report.error]
    assert {problem.reason for problem in told} == {"ReaderActive"}
    assert "Restore ns/yesterday" in told[0].message


def test_a_restore_that_never_ends_is_named_and_nothing_is_deleted(scene: Scene) -> None:
    scene.complete()
    before = scene.data()
    with pytest.raises(TransientError, match="Restore ns/yesterday") as caught:
        scene.run(pods=Reads(scene, looks=10**6))
    assert caught.value.problem().reason == "ReaderActive"
    assert (scene.state(), scene.data()) == (State.COMPLETE, before)


class ReadsLate(Reads):
    """The Restore is seen first when the path has been claimed already."""

    def resources(self, kind: str, namespace: str) -> Iterator[Mapping[str, Any]]:
        if kind == "Restore" and not self.seen and self.scene.state() is not State.CLEANING:
            return iter(())
        return super().resources(kind, namespace)


def test_a_reader_that_came_before_the_claim_is_waited_for_after_it_too(scene: Scene) -> None:
    scene.complete()
    before, pods = scene.data(), ReadsLate(scene, looks=3)
    scene.run(pods=pods)
    assert pods.seen == [(State.CLEANING, before)] * 3
    assert scene.state() is State.CLEANED


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([pod("a"), pod("b", "Pending"), pod("c", "Unknown")], ["a", "b", "c"]),
        ([pod("a", "Succeeded"), pod("b", "Failed")], []),
        ([pod("a", component="clean")], []),
        ([pod("a", uid="me")], []),
        ([{"metadata": {"name": "fresh"}}], ["fresh"]),
    ],
)
def test_who_counts_as_a_writer(pods: list[dict[str, Any]], expected: list[str]) -> None:
    assert live_writers(pods, own_uid="me") == expected


def test_locked_objects_are_told_with_their_date(scene: Scene) -> None:
    until = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    scene.server.versioning, scene.server.lock = "Enabled", True
    scene.server.put("p/cr-0f5e9c1a/locked", until=until)
    scene.claim()
    with pytest.raises(PartialError) as caught:
        scene.run()
    assert caught.value.problem().reason == "ObjectsLocked"
    assert scene.result["deferredUntil"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert scene.result["left"] == 1
    assert scene.result["locked"] == 1
    assert scene.result["deleted"] == 3
    assert scene.state() is State.CLEANING
    assert "p/cr-0f5e9c1a/locked" in scene.data()


def test_what_could_not_be_deleted_is_listed(scene: Scene) -> None:
    scene.server.key_errors = lambda key: ("InvalidObjectState", "frozen") if key.endswith("1") else None
    with pytest.raises(PartialError):
        scene.run()
    assert scene.result["failed"] == 1
    assert scene.result["examples"] == [{"key": "1", "code": "InvalidObjectState", "message": "frozen"}]
    assert "deferredUntil" not in scene.result


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_archive_of_tidb_operator(scene: Scene, versioning: str) -> None:
    """Its export is one object whose name is the path, with siblings that must stay."""
    scene.server.versioning = versioning
    stays = {"p/backup-1.tgz.sha256", "p/backup-1.tgzz", "p/backup-10.tgz", "p/backup-1.tg"}
    for name in ("p/backup-1.tgz", "p/backup-1.tgz", "p/backup-1.tgz.tmp", *stays):
        scene.server.put(name)
    before = scene.data()
    result = scene.run(path="s3://bucket/p/backup-1.tgz")
    assert scene.data() == before - {"p/backup-1.tgz", "p/backup-1.tgz.tmp"}
    assert result.details["deleted"] == (3 if versioning else 2)


def test_crash_in_the_middle_and_again(scene: Scene) -> None:
    scene.claim()

    def die(request: Any) -> None:
        if "delete" in request.query:
            raise KeyboardInterrupt

    scene.server.faults.append(die)
    with pytest.raises(KeyboardInterrupt):
        scene.run()
    assert scene.state() is State.CLEANING
    scene.server.faults.clear()
    scene.run()
    assert scene.data() == SIBLING
    assert scene.state() is State.CLEANED


def test_a_path_reused_after_its_clean_belongs_to_the_next(scene: Scene) -> None:
    scene.claim()
    records = scene.records()
    ended = {attempt.id for attempt in (records.load() or pytest.fail("no record")).open}
    records.finish_clean(records.begin_clean(MINE, ended=ended), Cleaned(at=datetime(2026, 1, 1, tzinfo=UTC)))
    scene.claim(OTHER)
    before = scene.data()
    with pytest.raises(StorageError):
        scene.run()
    assert scene.data() == before


def test_progress_is_known_from_the_record(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.complete()
    seen: list[tuple[int, float]] = []
    original: Callable[..., None] = clean._show

    def show(context: Context, state: clean.Clean, tally: Any) -> None:
        original(context, state, tally)
        part = context.journal.report.progress[-1]
        seen.append((tally.deleted, part.progress))

    monkeypatch.setattr(clean, "_show", show)
    scene.run()
    assert seen[-1] == (3, 99.0)
