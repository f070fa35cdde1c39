"""What a sandbox remembers, its manifests and its fill-in names."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import manifests
from sandbox.cluster import Cluster, fill
from sandbox.errors import SandboxError
from sandbox.layout import Layout, State, all_layouts
from sandbox.ports import free_ports


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_HOME", str(tmp_path / "home"))


def test_state_round_trip_and_secrecy() -> None:
    layout, state = Layout("one"), State.fresh(tidbs=("source", "target"), owner=os.getpid())
    layout.create(state)
    assert Layout("one").state == state
    assert (layout.folder / "state.json").stat().st_mode & 0o077 == 0
    assert {"tidb-source", "tidb-target-status", "apiserver", "s3-s3-grpc"} <= set(state.ports)
    assert len(set(state.ports.values())) == len(state.ports)
    assert [found.name for found in all_layouts()] == ["one"]
    layout.remove()
    assert not layout.exists()
    with pytest.raises(SandboxError, match="python -m sandbox up --name one"):
        _ = layout.state


def test_a_tidb_that_br_reaches_has_a_pd() -> None:
    layout = Layout("one")
    layout.create(State.fresh(tidbs=("plain",), tikvs=("br-source",)))
    cluster, ports = Cluster("one"), layout.state.ports
    assert layout.state.servers == ("plain", "br-source")
    assert cluster.environment()["PD_BR_SOURCE"] == f"127.0.0.1:{ports['minikv-br-source-pd']}"
    assert cluster.tidb("br-source").port == ports["tidb-br-source"]
    with pytest.raises(SandboxError, match=r"no PD of 'plain'.*br-source"):
        cluster.pd("plain")
    with pytest.raises(SandboxError, match="both: a TiDB is either"):
        State.fresh(tidbs=("both",), tikvs=("both",))


def test_only_logs_are_kept() -> None:
    layout = Layout("one")
    layout.create(State.fresh(tidbs=()))
    for name in ("logs/etcd.log", "pods/n/p_1/main.log", "pods/n/p_1/volumes/s/password", "data/tidb/slow.log", "kubeconfig"):
        (layout.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (layout.folder / name).touch()
    layout.keep_logs()
    kept = [path.relative_to(layout.folder) for path in layout.folder.rglob("*") if path.is_file()]
    assert sorted(map(str, kept)) == ["logs/etcd.log", "pods/n/p_1/main.log"]
    assert not layout.exists()
    assert all_layouts() == []


def test_an_owner_that_is_gone_abandons_it() -> None:
    state = State.fresh(tidbs=(), owner=os.getpid())
    assert not state.abandoned
    assert replace(state, owner=(os.getpid(), 1)).abandoned
    assert not State.fresh(tidbs=()).abandoned


@pytest.mark.parametrize("name", ["", "Upper", "-a", "a-", "../up", "a" * 41, "a/b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(SandboxError, match="--name"):
        Layout(name)


def test_a_running_name_is_not_started_twice() -> None:
    Layout("one").create(State.fresh(tidbs=()))
    with pytest.raises(SandboxError, match="already up; stop it with: python -m sandbox down --name one"):
        Cluster("one").start()


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SandboxError, match="unknown parts: nonsense"):
        Cluster("one", parts=frozenset({"nonsense"}))


def test_ports_are_free_and_different() -> None:
    assert len(set(free_ports(50))) == 50


@pytest.mark.parametrize(
    "webhook",
    [
        {"url": "http://hooks.ns.svc:8080/backup/sync?v=1"},
        {"service": {"name": "hooks", "namespace": "ns"}, "path": "/backup/sync?v=1"},
    ],
)
def test_hooks_are_pointed_at_the_local_webhook(webhook: dict[str, object]) -> None:
    controller = {"kind": "CompositeController", "spec": {"hooks": {"sync": {"version": "v2", "webhook": webhook}}}}
    local = manifests.local_hooks(controller, 1234, "PEM")
    assert local["spec"]["hooks"]["sync"]["webhook"] == {
        "url": "https://127.0.0.1:1234/backup/sync?v=1",
        "caBundle": {"inline": "PEM"},
    }


def test_fill_leaves_other_dollars_alone() -> None:
    assert fill("a: ${A}\nb: $(A) ${B} $A", {"A": "1"}) == "a: 1\nb: $(A) ${B} $A"
