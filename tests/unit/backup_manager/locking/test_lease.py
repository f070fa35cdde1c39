"""The cluster's Lease: who waits, who takes over, who must stop. Against an API server in memory that knows conflicts."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backup_manager.context import Context
from backup_manager.errors import RunInterruptedError, ToolError, UnreachableError
from backup_manager.kubernetes.client import (
    ApiForbiddenError,
    ApiNotFoundError,
    ApiUnavailableError,
    ConflictError,
    KubernetesApi,
    Server,
)
from backup_manager.locking import lease
from backup_manager.locking.lease import ClusterLeaseLostError, held
from backup_manager.locking.lock import Pace
from backup_manager.signals import StopSignal
from crds.contract import names
from crds.contract.report import Phase
from sandbox.patience import PATIENCE, until
from tests.support.manager import World, world

NAME = "tidb-br.ns.basic"


@dataclass
class Api(KubernetesApi):
    """Leases by name; every write gives a new resourceVersion."""

    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    live: list[dict[str, Any]] = field(default_factory=list)
    broken: bool = False
    forbidden: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    writes: int = 0
    looks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        super().__init__(Server(url="http://127.0.0.1:9"))

    def lease(self, namespace: str, name: str) -> dict[str, Any]:
        self._reach(namespace)
        self.looks += 1
        if name not in self.leases:
            raise ApiNotFoundError(name)
        return self.leases[name]

    def put_lease(self, namespace: str, name: str, lease: Mapping[str, Any], *, create: bool) -> dict[str, Any]:
        self._reach(namespace)
        if namespace in self.absent:
            raise ApiNotFoundError(f"namespaces {namespace} not found")
        with self.lock:
            old = self.leases.get(name)
            if create != (old is None) or (old and old["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]):
                raise ConflictError(name)
            self.writes += 1
            meta = {**lease["metadata"], "resourceVersion": str(self.writes)}
            self.leases[name] = {**lease, "metadata": meta}
            return self.leases[name]

    def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[dict[str, Any]]:
        return self.live

    def _reach(self, namespace: str) -> None:
        if self.broken:
            raise UnreachableError("no API server")
        if namespace in self.forbidden:
            raise ApiForbiddenError(f"leases of {namespace}: forbidden")

    @property
    def holder(self) -> str:
        return str(self.leases[NAME]["spec"]["holderIdentity"])


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def quick() -> Pace:
    """Renewed and asked for many times a second, and lost only after minutes: a thread that gets no processor for a while is no
    reason to lose it. The tool's grace period counts nothing here."""
    return Pace(duration=2 * PATIENCE, renew=0.05, retry=0.5, fence=PATIENCE, poll=0.05, grace=0.0)


@pytest.fixture
def hasty(quick: Pace) -> Pace:
    """As :func:`quick`, but given up soon after the last renewal."""
    return replace(quick, fence=0.4)


def somebody(tmp_path: Path, api: Api, *, pod: str, name: str = "cr", uid: str = "", stop: StopSignal | None = None) -> World:
    made = world(tmp_path, {"br": {"cluster": "basic"}}, env={names.ENV_POD_UID: pod}, stop=stop)
    resource = replace(made.context.resource, name=name, uid=uid or f"uid-of-{name}")
    return replace_context(made, replace(made.context, kubernetes=api, resource=resource))


def replace_context(made: World, context: Context) -> World:
    return World(context=context, reporter=made.reporter, lines=made.lines)


def test_it_is_held_renewed_and_let_go(tmp_path: Path, api: Api, quick: Pace) -> None:
    with held(somebody(tmp_path, api, pod="pod-1").context, "ns", "basic", pace=quick):
        assert api.holder == "pod-1"
        assert api.leases[NAME]["metadata"]["annotations"][lease.HELD_BY_ANNOTATION] == "Backup ns/cr"
        before = api.writes
        until(lambda: api.writes >= before + 3, "three renewals")
        assert api.leases[NAME]["spec"]["leaseTransitions"] == 1
    assert api.holder == ""


def test_an_api_server_that_restarts_does_not_fail_the_wait(tmp_path: Path, quick: Pace) -> None:
    class Restarting(Api):
        away = 4

        def _reach(self, namespace: str) -> None:
            if self.away:
                self.away -= 1
                raise ApiUnavailableError("503")

    api = Restarting()
    with held(somebody(tmp_path, api, pod="pod-1").context, "ns", "basic", pace=quick):
        assert (api.holder, api.away) == ("pod-1", 0)


def test_the_second_waits_says_for_whom_and_then_runs(tmp_path: Path, api: Api, quick: Pace) -> None:
    second, ran = somebody(tmp_path, api, pod="pod-2", name="second"), threading.Event()

    def work() -> None:
        with held(second.context, "ns", "basic", pace=quick):
            ran.set()

    thread = threading.Thread(target=work)
    with held(somebody(tmp_path, api, pod="pod-1", name="first").context, "ns", "basic", pace=quick):
        thread.start()
        until(lambda: second.report.phase is Phase.WAITING, "it waits")
        before, looked = api.writes, api.looks
        until(lambda: api.writes >= before + 5 and api.looks >= looked + 5, "renewals that the second one sees")
        assert not ran.is_set()  # a holder that renews is never taken over
    assert ran.wait(PATIENCE)
    thread.join(PATIENCE)
    problem = second.reporter.offered[0].error
    assert problem is not None
    assert problem.reason == "ClusterInUse"
    assert "Backup ns/first" in problem.message
    assert NAME in problem.hint
    assert sum("waiting for" in line for line in second.lines) == 1


def test_other_clusters_are_not_waited_for(tmp_path: Path, api: Api, quick: Pace) -> None:
    with (
        held(somebody(tmp_path, api, pod="pod-1").context, "ns", "basic", pace=quick),
        held(somebody(tmp_path, api, pod="pod-2", name="b").context, "other", "basic", pace=quick),
        held(somebody(tmp_path, api, pod="pod-3", name="c").context, "ns", "advanced", pace=quick),
    ):
        assert len(api.leases) == 3


def test_it_lies_with_the_cluster_so_that_all_namespaces_see_it(tmp_path: Path, api: Api, quick: Pace) -> None:
    with held(somebody(tmp_path, api, pod="pod-1").context, "tidb", "basic", pace=quick):
        assert api.leases["tidb-br.tidb.basic"]["metadata"]["namespace"] == "tidb"


@pytest.mark.parametrize("kept_out", ["forbidden", "absent"])
def test_without_a_right_there_it_lies_with_the_cr_and_the_log_says_so(
    tmp_path: Path, api: Api, quick: Pace, kept_out: str
) -> None:
    setattr(api, kept_out, frozenset({"tidb"}))
    made = somebody(tmp_path, api, pod="pod-1")
    with held(made.context, "tidb", "basic", pace=quick):
        assert api.leases["tidb-br.tidb.basic"]["metadata"]["namespace"] == "ns"
    assert any("only the CRs of namespace ns are kept apart" in line for line in made.lines)


def test_without_any_right_the_run_fails(tmp_path: Path, api: Api, quick: Pace) -> None:
    api.forbidden = frozenset({"tidb", "ns"})
    with pytest.raises(ApiForbiddenError), held(somebody(tmp_path, api, pod="pod-1").context, "tidb", "basic", pace=quick):
        pass


def left_by(api: Api, pod: str, *, uid: str = "uid-of-dead", seconds: int = 1) -> None:
    notes = {lease.HELD_BY_ANNOTATION: "Restore ns/dead", lease.HELD_BY_UID_ANNOTATION: uid}
    api.writes += 1
    api.leases[NAME] = {
        "metadata": {"name": NAME, "resourceVersion": str(api.writes), "annotations": notes},
        # The time it notes is of no account: clocks of nodes differ.
        "spec": {"holderIdentity": pod, "leaseDurationSeconds": seconds, "renewTime": "2199-01-01T00:00:00.000000Z"},
    }


def test_a_holder_that_died_is_taken_over_after_the_lease_ran_out(tmp_path: Path, api: Api, quick: Pace) -> None:
    left_by(api, "pod-dead")
    with held(somebody(tmp_path, api, pod="pod-1").context, "ns", "basic", pace=quick):
        assert api.looks > 1, "it waited"
        assert api.holder == "pod-1"


@pytest.mark.parametrize(("phase", "at_once"), [("Failed", True), ("Running", False), (None, False)])
def test_a_retry_takes_over_from_its_dead_sister_at_once(
    tmp_path: Path, api: Api, quick: Pace, phase: str | None, at_once: bool
) -> None:
    left_by(api, "pod-dead", uid="uid-of-cr", seconds=2)
    api.live = [{"metadata": {"uid": "pod-dead"}, "status": {"phase": phase}}] if phase else []
    with held(somebody(tmp_path, api, pod="pod-1").context, "ns", "basic", pace=quick):
        assert (api.looks == 1) == at_once


def test_of_many_at_once_one_at_a_time_runs(tmp_path: Path, api: Api, quick: Pace) -> None:
    running, most, done = [0], [0], [0]

    def work(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        with held(
            somebody(tmp_path / str(number), api, pod=f"p{number}", name=f"b{number}").context, "ns", "basic", pace=quick
        ):
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.05)
            running[0] -= 1
            done[0] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (most[0], done[0]) == (1, 6)


def work_until_stopped(here: World, pace: Pace, meanwhile: Callable[[], None]) -> None:
    """Hold the lease, let *meanwhile* happen, and work on until asked to stop."""
    with held(here.context, "ns", "basic", pace=pace):
        meanwhile()
        here.context.stop.wait(PATIENCE)
    raise AssertionError("it was not stopped")


def test_a_lease_that_cannot_be_renewed_stops_the_tool_before_it_runs_out(tmp_path: Path, api: Api, hasty: Pace) -> None:
    here = somebody(tmp_path, api, pod="pod-1")
    with pytest.raises(ClusterLeaseLostError, match=r"could not be renewed for 0\.4 s") as caught:
        work_until_stopped(here, hasty, lambda: setattr(api, "broken", True))
    assert caught.value.problem().retryable
    api.broken = False
    assert api.holder == "pod-1", "a lost lease is left to run out: the tool may take its time to die"


def test_a_short_absence_of_the_api_server_is_overcome(tmp_path: Path, api: Api, quick: Pace) -> None:
    stop = StopSignal()
    here = somebody(tmp_path, api, pod="pod-1", stop=stop)
    with held(here.context, "ns", "basic", pace=quick):
        api.broken = True
        until(lambda: sum("could not be renewed" in line for line in here.lines) >= 3, "three tries that failed")
        before, api.broken = api.writes, False
        until(lambda: api.writes >= before + 3, "three renewals")
        assert not stop.requested
    assert api.holder == ""


def test_somebody_who_took_it_stops_us_and_keeps_it(tmp_path: Path, api: Api, quick: Pace) -> None:
    with pytest.raises(ClusterLeaseLostError, match="Restore ns/dead"):
        work_until_stopped(somebody(tmp_path, api, pod="pod-1"), quick, lambda: left_by(api, "pod-9"))
    assert api.holder == "pod-9"


def test_an_error_of_the_work_itself_is_told_and_the_lease_let_go(tmp_path: Path, api: Api, quick: Pace) -> None:
    with (
        pytest.raises(ToolError, match="br said no"),
        held(somebody(tmp_path, api, pod="pod-1").context, "ns", "basic", pace=quick),
    ):
        raise ToolError("br said no")
    assert api.holder == ""


def test_who_waits_can_be_stopped(tmp_path: Path, api: Api, quick: Pace) -> None:
    left_by(api, "pod-dead", seconds=3600)
    stop = StopSignal()
    here = somebody(tmp_path, api, pod="pod-1", stop=stop)

    def give_up() -> None:
        until(lambda: here.report.phase is Phase.WAITING, "it waits")
        stop.request()

    threading.Thread(target=give_up).start()
    with pytest.raises(RunInterruptedError), held(here.context, "ns", "basic", pace=quick):
        raise AssertionError("it does not hold the lease")
    assert api.holder == "pod-dead"


def test_without_kubernetes_nothing_is_held_and_the_log_says_so(tmp_path: Path) -> None:
    alone = world(tmp_path, {})
    with held(alone.context, "ns", "basic"):
        pass
    assert "no Kubernetes" in alone.lines[0]


def test_a_pace_that_would_let_two_tools_run_is_refused() -> None:
    with pytest.raises(ValueError, match="before its lock runs out"):
        Pace(duration=60, fence=45)
    Pace()
