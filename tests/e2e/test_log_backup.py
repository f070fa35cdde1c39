"""A log backup's life through CRs: the real br and TiDB, the real API server, hooks and Jobs, and minikv in the place of TiKV.

br keeps its books in PD, and nothing writes a log: what TiKV would say there (checkpoints, errors), the tests say. The hooks
look up cluster objects of TiDB Operator v2, and give up a clean after two attempts instead of five.
"""

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from backup_manager.operations.watch_log import ENV_INTERVAL
from crds.contract import tso
from sandbox import Cluster
from sandbox.api import Object
from sandbox.components import tool
from sandbox.manifests import create_crds
from sandbox.minikv import Faults
from sandbox.patience import CONNECT, PATIENCE, until
from tests.support import etcd
from tests.support.br_world import Tikv, World, tikv
from tests.support.sandboxes import own_sandbox

pytestmark = pytest.mark.e2e

LOG: Final = "log"
STREAM: Final = "/tidb/br-stream"
CORE: Final = "core.pingcap.com"
SETTINGS: Final = {
    "TIDB_BACKUP_CLUSTER_KINDS": f'["clusters.{CORE}/v1alpha1"]',
    "TIDB_BACKUP_CLEAN_ATTEMPTS": "2",
    "TIDB_BACKUP_CLEAN_RETRY_DELAY": "1",
}
LOOK_OFTEN: Final = [{"name": ENV_INTERVAL, "value": "1s"}]


def crd(kind: str, plural: str) -> Object:
    """A CustomResourceDefinition of TiDB Operator v2 in a form that takes everything."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    named = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    spec = {"group": CORE, "scope": "Namespaced", "names": named, "versions": [version]}
    meta = {"name": f"{plural}.{CORE}"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta, "spec": spec}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of its own, because of the settings."""
    with own_sandbox("log", settings=SETTINGS) as running:
        create_crds(running.api, [crd("Cluster", "clusters"), crd("TiKVGroup", "tikvgroups")])
        yield running


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tikv]:
    with tikv(tmp_path_factory.mktemp("source"), log_backup=True) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_task_left(source: Tikv) -> Iterator[None]:
    """br keeps one task a cluster: none may be left for the next test."""
    yield
    for key in (f"info/{LOG}", f"pause/{LOG}", f"checkpoint/{LOG}/central_global"):
        etcd.delete(source.kv.pd, f"{STREAM}/{key}")


class LogWorld(World):
    """A namespace with one log backup."""

    def start(self, source: Tikv, **spec: Any) -> Object:
        """Apply it, wait until the cluster says that it runs; the status."""
        self.apply("Backup", LOG, source, self.s3("log"), backupMode="log", **{"env": LOOK_OFTEN, **spec})
        self.reaches("Running", LOG)
        return self.seen("running")

    def seen(self, state: str) -> Object:
        """Wait until the watch has told that the task is in *state*; the status."""
        until(lambda: (self.status(LOG).get("logTask") or {}).get("state") == state, lambda: f"{state}: {self.shown()}")
        return self.status(LOG)

    def says(self, kind: str, reason: str = "") -> Object:
        """Wait for a condition; with its reason."""

        def found() -> Object | None:
            conditions: list[Object] = self.status(LOG).get("conditions") or []
            return next((item for item in conditions if item["type"] == kind and item.get("reason", "") == reason), None)

        condition: Object = until(found, lambda: f"{kind} {reason}: {self.shown()}")
        return condition

    def shown(self) -> str:
        status = self.status(LOG)
        return json.dumps({key: status.get(key) for key in ("phase", "logTask", "conditions", "logSubCommandStatuses")})

    def ran(self, command: str) -> str:
        """When the last run of *command* ended."""
        entry = (self.status(LOG).get("logSubCommandStatuses") or {}).get(command) or {}
        return str(entry.get("timeCompleted") or "")


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> LogWorld:
    return LogWorld(cluster=cluster, namespace=namespace)


def br(source: Tikv, command: str) -> None:
    """What somebody types elsewhere."""
    argv = [tool("br"), "log", command, f"--task-name={LOG}", f"--pd={source.kv.pd}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def task_in_pd(source: Tikv) -> bool:
    return etcd.get(source.kv.pd, f"{STREAM}/info/{LOG}") is not None


def exposed(world: LogWorld) -> float:
    """What ``/metrics`` of the webhook says of the checkpoint."""
    with urllib.request.urlopen(f"{world.cluster.webhook_status_url}/metrics", timeout=CONNECT) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    wanted = f'tidb_backup_log_checkpoint_timestamp_seconds{{kind="backup",name="{LOG}",namespace="{world.namespace}"'
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted))


def test_its_whole_life(world: LogWorld, source: Tikv) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    status = world.start(source)
    begun = int(status["commitTs"])
    assert before <= tso.to_datetime(begun) <= datetime.now(UTC)
    assert status["backupPath"] == f"s3://{world.cluster.bucket.name}/{world.namespace}/log"
    reached = tso.from_datetime(datetime.now(UTC))
    etcd.put_number(source.kv.pd, f"{STREAM}/checkpoint/{LOG}/central_global", reached)
    until(lambda: world.status(LOG).get("logCheckpointTs") == str(reached), world.shown)
    lag = world.status(LOG)["logTask"]["lagSeconds"]
    assert 0 <= lag <= (datetime.now(UTC) - tso.to_datetime(reached)).total_seconds() + 1
    assert exposed(world) == tso.to_datetime(reached).timestamp()

    world.edit(LOG, logTruncateUntil="2099-01-31 00:00:00")  # a slip of the pen
    world.says("Waiting", "LogTruncateAhead")
    world.edit(LOG, logTruncateUntil=str(begun + 1000))
    until(lambda: world.status(LOG).get("logSuccessTruncateUntil") == str(begun + 1000), world.shown)
    assert world.status(LOG)["phase"] == "Running"
    truncated = world.ran("log-truncate")
    world.edit(LOG, logTruncateUntil=str(begun + 500))  # nothing lies there any more

    for command, phase, state in (("log-pause", "Paused", "paused"), ("log-start", "Running", "running")):
        world.edit(LOG, logSubcommand=command)
        world.reaches(phase, LOG)
        world.seen(state)
    assert world.ran("log-truncate") == truncated
    assert world.status(LOG)["logSuccessTruncateUntil"] == str(begun + 1000)

    world.edit(LOG, logSubcommand="log-stop")
    world.reaches("Stopped", LOG)
    assert not task_in_pd(source)
    until(lambda: "backup-log-log-watch" not in world.jobs(), lambda: f"no watch is left: {world.jobs()}")
    world.edit(LOG, logTruncateUntil=str(begun + 2000))
    until(lambda: world.status(LOG).get("logSuccessTruncateUntil") == str(begun + 2000), world.shown)
    assert world.status(LOG)["phase"] == "Stopped"
    assert world.objects("log")
    world.delete(LOG)
    assert world.objects("log") == []


def test_what_somebody_else_does_to_the_task_is_seen_and_said(world: LogWorld, source: Tikv) -> None:
    world.start(source)
    # Somebody pauses it by hand: the spec still says that it should run.
    br(source, "pause")
    told = world.says("Paused", "LogBackupKernelSync")
    assert told["message"] == "task log was seen paused twice while the status said Running"
    until(lambda: world.ran("log-resume"), world.shown)
    world.reaches("Running", LOG)
    world.seen("running")
    # An error pauses it: that is told at once, and mended by hand.
    note = {"severity": "ERROR", "payload_type": "text/plain", "payload": base64.b64encode(b"disk is full").decode()}
    etcd.put(source.kv.pd, f"{STREAM}/pause/{LOG}", json.dumps(note).encode())
    told = world.says("RetryFailed", "LogBackupErrorPaused")
    assert "disk is full" in told["message"]
    assert world.status(LOG)["phase"] == "RetryFailed"
    for command, phase in (("log-pause", "Paused"), ("log-start", "Running")):
        world.edit(LOG, logSubcommand=command)
        world.reaches(phase, LOG)
    world.seen("running")
    # Somebody stops it for good: what is there stays until the Backup goes.
    br(source, "stop")
    told = world.says("Failed", "LogBackupTaskNotFound")
    assert "make a new log Backup" in told["message"]
    assert world.objects("log")
    world.delete(LOG)
    assert world.objects("log") == []


def test_created_before_its_cluster_and_left_by_it(world: LogWorld, tmp_path: Path) -> None:
    grace = {"tidb.pingcap.com/log-backup-state-query-failure-grace-period": "2s"}
    cr = {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "Backup",
        "metadata": {"name": LOG, "annotations": grace},
        "spec": {"backupMode": "log", "br": {"cluster": "late"}, "env": LOOK_OFTEN, **world.s3("log")},
    }
    world.cluster.apply(json.dumps(cr), namespace=world.namespace)
    assert "late" in world.says("Waiting", "ClusterNotFound")["message"]
    of_late = {"version": "v8.5.0"}
    objects = [
        {"kind": "Cluster", "metadata": {"name": "late"}, "spec": {}},
        {"kind": "TiKVGroup", "metadata": {"name": "kv"}, "spec": {"cluster": {"name": "late"}, "template": {"spec": of_late}}},
    ]
    for item in objects:
        world.cluster.apply(json.dumps({"apiVersion": f"{CORE}/v1alpha1", **item}), namespace=world.namespace)
    world.says("Waiting", "ClusterNotReady")
    assert world.jobs() == []
    with tikv(tmp_path, log_backup=True) as late:
        clusters = world.cluster.api.resource_of(f"{CORE}/v1alpha1", "Cluster")
        ready = {"status": {"pd": f"http://{late.kv.pd}"}}
        world.cluster.api.patch(clusters, world.namespace, "late", ready, subresource="status")
        world.reaches("Running", LOG)
        world.seen("running")
        assert world.cluster.get("Backup", LOG, world.namespace)
    world.seen("unknown")
    told = world.says("Failed", "LogBackupStateQueryFailed")
    assert "has been unknown for" in told["message"]
    assert "PD at" in told["message"]


def test_its_start_waits_for_another_run_on_the_cluster(world: LogWorld, source: Tikv) -> None:
    source.kv.set_faults(Faults(slow_ms=300))
    world.apply("Backup", "snapshot", source, world.s3("snapshot"))
    world.reaches("Running", "snapshot")
    world.apply("Backup", LOG, source, world.s3("log"), backupMode="log")
    assert f"Backup {world.namespace}/snapshot" in world.says("Waiting", "ClusterInUse")["message"]
    assert not task_in_pd(source)
    source.kv.set_faults(Faults())
    taken = world.reaches("Complete", "snapshot")
    world.reaches("Running", LOG)
    until(lambda: world.status(LOG).get("commitTs"), world.shown)
    assert int(taken["commitTs"]) < int(world.status(LOG)["commitTs"])


def test_deleted_right_after_it_was_made(world: LogWorld, source: Tikv) -> None:
    world.apply("Backup", LOG, source, world.s3("log"), backupMode="log")
    until(lambda: "backup-log-log-start" in world.jobs(), world.shown)
    world.delete(LOG)
    assert not task_in_pd(source)
    assert world.objects("log") == []


def test_a_stop_that_fails_keeps_the_data(world: LogWorld, source: Tikv) -> None:
    world.start(source)
    options = [f"--pd={source.kv.pd}"]
    world.edit(LOG, br={"cluster": "basic", "options": [*options, "--no-such-flag"]})
    world.cluster.kubectl("delete", "backup", LOG, "-n", world.namespace, "--wait=false")
    told = world.says("CleanFailed", "StopLogBackupJobFailed")
    assert "br log stop --task-name=log" in told["message"]
    assert world.objects("log")
    assert task_in_pd(source)
    assert not [name for name in world.jobs() if name.startswith("clean-")]
    # As the message says: mend it, and delete the last Job.
    world.edit(LOG, br={"cluster": "basic", "options": options})
    world.cluster.kubectl("delete", "job", "stop-log-r1", "-n", world.namespace)
    until(lambda: world.cluster.get("Backup", LOG, world.namespace) is None, world.shown)
    assert not task_in_pd(source)
    assert world.objects("log") == []
