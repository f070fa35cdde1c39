"""The lock of a restore's target: where it lies, who waits for whom, and what is said where it cannot be had."""

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup_manager.context import Context
from backup_manager.errors import RunInterruptedError, UnreachableError
from backup_manager.locking import lock as locks
from backup_manager.locking.lock import Lock, Note, Pace
from backup_manager.signals import StopSignal
from backup_manager.tidb import target_lock
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access, Database, DatabaseError, DatabaseUnreachableError
from backup_manager.tidb.target_lock import KEY, ROW, PdPlace, RowPlace, TargetLockLostError, held, pd_of
from crds.contract import names
from crds.contract.report import Phase
from sandbox.patience import PATIENCE, until
from tests.support.manager import FakeDatabase, World, world
from tests.unit.backup_manager.locking.test_lease import Api

QUICK = Pace(duration=2 * PATIENCE, renew=0.05, retry=5.0, fence=PATIENCE, poll=0.02, grace=0.0)
SHORT = Pace(duration=5.0, renew=0.05, retry=0.05, fence=0.3, poll=0.02, grace=0.0)


@dataclass
class FakePd:
    """One key of etcd with its revision."""

    urls: tuple[str, ...] = ("http://pd:2379",)
    stored: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    revision: int = 0
    broken: bool = False

    def value(self, key: str) -> tuple[bytes, int] | None:
        self._reach()
        return self.stored.get(key)

    def swap(self, key: str, value: bytes | None, revision: int) -> int:
        self._reach()
        if self.stored.get(key, (b"", 0))[1] != revision:
            return 0
        self.revision += 1
        if value is None:
            self.stored.pop(key, None)
        else:
            self.stored[key] = (value, self.revision)
        return self.revision

    def _reach(self) -> None:
        if self.broken:
            raise UnreachableError("PD at http://pd:2379 cannot be reached", reason="PDUnreachable")


@pytest.fixture
def pd(monkeypatch: pytest.MonkeyPatch) -> FakePd:
    made = FakePd()
    monkeypatch.setattr(target_lock, "Pd", lambda _cluster: made)
    return made


CLUSTER = Cluster(pd="pd:2379")


def somebody(
    tmp_path: Path, name: str, *, api: Api | None = None, stop: StopSignal | None = None, namespace: str = "ns"
) -> World:
    made = world(tmp_path, {}, kind="Restore", env={names.ENV_POD_UID: f"pod-of-{name}"}, stop=stop)
    resource = replace(made.context.resource, name=name, uid=f"uid-of-{name}", namespace=namespace)
    context = replace(made.context, kubernetes=api, resource=resource)
    return World(context=context, reporter=made.reporter, lines=made.lines)


def real(database: FakeDatabase) -> Database:
    return cast(Database, database)


def hold(context: Context, database: FakeDatabase | None, pd: Cluster | None = None, pace: Pace = QUICK) -> Any:
    return held(context, database=real(database) if database else None, pd=pd, pace=pace)


def test_the_row_names_the_holder_and_goes_with_it(tmp_path: Path) -> None:
    database = FakeDatabase()
    with hold(somebody(tmp_path, "a").context, database):
        holder, said = database.rows_of_tidb[ROW]
        assert holder == "pod-of-a"
        assert '"owner":"Restore ns/a"' in said
        assert '"ownerUid":"uid-of-a"' in said
    assert ROW not in database.rows_of_tidb


def test_of_two_restores_into_one_target_the_second_waits_and_names_the_first(tmp_path: Path) -> None:
    database, entered = FakeDatabase(), threading.Event()
    second = somebody(tmp_path, "b", namespace="elsewhere")

    def work() -> None:
        with hold(second.context, database):
            entered.set()

    thread = threading.Thread(target=work)
    with hold(somebody(tmp_path, "a").context, database):
        thread.start()
        until(lambda: second.report.phase is Phase.WAITING, "the second one waits")
        before = database.rows_of_tidb[ROW][1]
        until(lambda: database.rows_of_tidb[ROW][1] != before, "the holder renews")
        assert not entered.is_set(), "a holder that renews keeps the lock"
    assert entered.wait(PATIENCE)
    thread.join(PATIENCE)
    problem = next(report.error for report in second.reporter.offered if report.error)
    assert problem is not None
    assert problem.reason == "TargetInUse"
    assert "Restore ns/a" in problem.message
    assert ROW in problem.hint


@pytest.mark.parametrize(("of_import", "of_br"), [("row", "both"), ("key", "key"), ("both", "key")])
def test_an_import_and_a_restore_by_br_meet_in_what_both_can_reach(
    tmp_path: Path, pd: FakePd, of_import: str, of_br: str
) -> None:
    database, entered = FakeDatabase(), threading.Event()
    second = somebody(tmp_path, "by-br")

    def places(which: str) -> tuple[FakeDatabase | None, Cluster | None]:
        return (None if which == "key" else database), (None if which == "row" else CLUSTER)

    def work() -> None:
        with hold(second.context, *places(of_br)):
            entered.set()

    thread = threading.Thread(target=work)
    with hold(somebody(tmp_path, "an-import").context, *places(of_import)):
        thread.start()
        until(lambda: second.report.phase is Phase.WAITING, "the second one waits")
        assert not entered.is_set()
    assert entered.wait(PATIENCE)
    thread.join(PATIENCE)
    assert pd.stored == {}


def test_two_of_the_other_order_do_not_wait_for_each_other_for_ever(tmp_path: Path, pd: FakePd) -> None:
    """Everybody takes PD's key first, so no two can hold one place each."""
    database, done = FakeDatabase(), list[str]()

    def work(name: str) -> None:
        with hold(somebody(tmp_path, name).context, database, CLUSTER):
            done.append(name)

    threads = [threading.Thread(target=work, args=(f"r{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(done) == 5
    assert (pd.stored, ROW in database.rows_of_tidb) == ({}, False)


def left_by(database: FakeDatabase, name: str, *, seconds: float) -> None:
    note = Note(holder=f"pod-of-{name}", owner=f"Restore ns/{name}", owner_uid=f"uid-of-{name}", seconds=seconds)
    RowPlace(database=real(database)).write(note, None)


def test_a_retry_does_not_wait_for_its_dead_predecessor_once_its_pod_is_gone(tmp_path: Path) -> None:
    database, api = FakeDatabase(), Api()
    note = Note(holder="pod-before", owner="Restore ns/a", owner_uid="uid-of-a", seconds=3600)
    RowPlace(database=real(database)).write(note, None)
    api.live = [{"metadata": {"uid": "pod-before"}, "status": {"phase": "Running"}}]
    here = somebody(tmp_path, "a", api=api)
    entered = threading.Event()

    def work() -> None:
        with hold(here.context, database):
            entered.set()

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: here.report.phase is Phase.WAITING, "it waits")
    assert not entered.is_set(), "its Pod is still there"
    api.live = [{"metadata": {"uid": "pod-before"}, "status": {"phase": "Failed"}}]
    assert entered.wait(PATIENCE)
    thread.join(PATIENCE)


@pytest.mark.parametrize("seconds", [1e18, -5.0])
def test_an_entry_that_asks_for_an_absurd_time_neither_blocks_for_ever_nor_counts_for_nothing(seconds: float) -> None:
    now = 0.0
    database = FakeDatabase()
    left_by(database, "odd", seconds=seconds)
    we = Note(holder="we", owner="Restore ns/we", owner_uid="uid-of-we")
    lock = Lock(place=RowPlace(database=real(database)), we=we, pace=Pace(), clock=lambda: now)
    assert not lock.try_acquire()
    now = 59.0
    assert not lock.try_acquire()
    now = 3601.0
    assert lock.try_acquire()


def test_a_predecessor_whose_pod_is_gone_from_a_lost_node_is_waited_for_while_it_renews() -> None:
    """``kubectl delete pod --force`` on a node that is cut off from Kubernetes and not from TiDB: lightning still loads."""
    now = 0.0
    database, api = FakeDatabase(), Api()
    left_by(database, "a", seconds=60.0)
    here: Any = SimpleNamespace(kubernetes=api, resource=SimpleNamespace(namespace="ns", uid="uid-of-a"))
    ended = locks.pod_has_ended(here)
    we = Note(holder="pod-of-a-r1", owner="Restore ns/a", owner_uid="uid-of-a")
    lock = Lock(place=RowPlace(database=real(database)), we=we, pace=Pace(), clock=lambda: now, ended=ended)
    api.live = []
    assert not lock.try_acquire()
    running: dict[str, Any] = {"containerStatuses": [{"state": {"running": {}}}]}
    api.live = [{"metadata": {"uid": "pod-of-a"}, "spec": {"nodeName": "lost"}, "status": {"phase": "Failed", **running}}]
    assert not lock.try_acquire()
    now = 61.0
    assert lock.try_acquire(), "it has not renewed for its time"


def test_somebody_elses_dead_holder_is_taken_over_when_its_time_is_up(tmp_path: Path) -> None:
    database = FakeDatabase()
    left_by(database, "dead", seconds=0.3)
    here = somebody(tmp_path, "a", api=Api())
    with hold(here.context, database):
        assert database.rows_of_tidb[ROW][0] == "pod-of-a"
    assert here.reporter.offered[0].error is not None


def test_a_lock_that_somebody_took_stops_the_tool(tmp_path: Path) -> None:
    database, stop = FakeDatabase(), StopSignal()
    with (  # noqa: PT012 (the body is the run)
        pytest.raises(TargetLockLostError, match="Restore ns/thief") as caught,
        hold(somebody(tmp_path, "a", stop=stop).context, database),
    ):
        del database.rows_of_tidb[ROW]
        left_by(database, "thief", seconds=60)
        stop.wait(PATIENCE)
    assert database.rows_of_tidb[ROW][0] == "pod-of-thief", "what is another one's stays as it is"
    assert caught.value.problem().retryable
    assert caught.value.problem().reason == "TargetLockLost"


def test_a_lock_in_pd_that_cannot_be_renewed_stops_the_tool(tmp_path: Path, pd: FakePd) -> None:
    stop = StopSignal()
    with (  # noqa: PT012 (the body is the run)
        pytest.raises(TargetLockLostError, match="could not be renewed"),
        hold(somebody(tmp_path, "a", stop=stop).context, FakeDatabase(), CLUSTER, SHORT),
    ):
        pd.broken = True
        stop.wait(PATIENCE)


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    database, stop = FakeDatabase(), StopSignal()
    left_by(database, "other", seconds=3600)
    here = somebody(tmp_path, "a", stop=stop)

    def give_up() -> None:
        until(lambda: here.report.phase is Phase.WAITING, "it waits")
        stop.request()

    thread = threading.Thread(target=give_up)
    thread.start()
    with pytest.raises(RunInterruptedError), hold(here.context, database):
        raise AssertionError("it does not hold the lock")
    thread.join(PATIENCE)
    assert database.rows_of_tidb[ROW][0] == "pod-of-other"


@dataclass
class ReadOnly(FakeDatabase):
    """An account without the right to write ``mysql.tidb``."""

    def session(self, *, seconds: int = 1) -> Any:
        raise DatabaseError("INSERT command denied to user 'loader'@'%' for table 'tidb'", reason="DatabaseAccessDenied")


def test_an_account_that_may_not_write_the_row_takes_a_lease_and_the_log_has_the_grant(tmp_path: Path) -> None:
    api, database = Api(), ReadOnly(access=Access(host="TiDB.shop", user="loader"))
    here = somebody(tmp_path, "a", api=api)
    with hold(here.context, database):
        (name,) = api.leases
        assert name.startswith("tidb-restore-target.")
        assert api.leases[name]["spec"]["holderIdentity"] == "pod-of-a"
        assert api.leases[name]["metadata"]["namespace"] == "ns"
    line = next(line for line in here.lines if "no lock in the target" in line)
    assert "only Restores of namespace ns" in line
    assert "grant select, insert, update, delete on mysql.tidb to 'loader'" in line


def test_without_any_place_the_log_says_that_nothing_is_kept_apart(tmp_path: Path, pd: FakePd) -> None:
    pd.broken = True
    here = somebody(tmp_path, "a")
    with hold(here.context, ReadOnly(access=Access(host="db")), CLUSTER):
        pass
    said = "\n".join(here.lines)
    assert "no lock in PD" in said
    assert "other restores into this target are not kept away" in said
    assert "nothing keeps other restores away" in said


def test_a_database_that_does_not_answer_is_an_error_and_no_reason_to_load_without_a_lock(tmp_path: Path) -> None:
    database = FakeDatabase(failures=[DatabaseUnreachableError("db does not answer")])
    with pytest.raises(DatabaseUnreachableError), hold(somebody(tmp_path, "a").context, database):
        raise AssertionError("it does not hold the lock")


def test_an_entry_of_another_version_is_waited_for(tmp_path: Path) -> None:
    database = FakeDatabase()
    database.rows_of_tidb[ROW] = ("pod-9", "written by a newer manager")
    here = somebody(tmp_path, "a")
    with hold(here.context, database, pace=SHORT):
        pass
    problem = here.reporter.offered[0].error
    assert problem is not None
    assert "a run of another version" in problem.message


def test_trying_the_rights_leaves_nothing(tmp_path: Path) -> None:
    database = FakeDatabase()
    before = dict(database.rows_of_tidb)
    RowPlace(database=real(database)).try_rights()
    assert database.rows_of_tidb == before


def test_a_write_that_lost_changes_nothing(pd: FakePd) -> None:
    place = PdPlace(pd=cast(Any, pd))
    first = place.write(Note(holder="a"), None)
    assert first is not None
    assert place.write(Note(holder="b"), None) is None
    assert place.write(Note(holder="b"), "99") is None
    again = place.look()
    assert again is not None
    assert (again.note.holder, again.version) == ("a", first.version)
    assert place.write(Note(), first.version)
    assert KEY not in pd.stored


def test_two_runs_of_one_file_are_two_holders(tmp_path: Path) -> None:
    """Outside of Kubernetes the uid may stand in the file."""
    database, entered = FakeDatabase(), threading.Event()
    first, second = world(tmp_path, {}, kind="Restore"), world(tmp_path, {}, kind="Restore")

    def work() -> None:
        with hold(second.context, database):
            entered.set()

    thread = threading.Thread(target=work)
    with hold(first.context, database):
        thread.start()
        until(lambda: second.report.phase is Phase.WAITING, "the second one waits")
        assert not entered.is_set()
    assert entered.wait(PATIENCE)
    thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("annotation", "told", "host", "wanted"),
    [
        ("outside:2379", ["a:2379"], "basic-tidb.tidb", "outside:2379"),
        ("", ["a:2379", "b:2379"], "basic-tidb.tidb", "a:2379,b:2379"),
        ("", [], "basic-tidb.tidb.svc", "basic-pd.tidb.svc:2379"),
        ("", [], "tidb.example.com", ""),
        ("", [], "127.0.0.1", ""),
    ],
)
def test_where_the_pd_of_an_import_is(tmp_path: Path, annotation: str, told: list[str], host: str, wanted: str) -> None:
    annotations = {names.PD_ADDR_ANNOTATION: annotation} if annotation else {}
    here = world(tmp_path, {}, kind="Restore", annotations=annotations)
    found = pd_of(here.context, real(FakeDatabase(pd=told, access=Access(host=host))))
    assert (found.pd if found else "") == wanted
