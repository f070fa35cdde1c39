"""``backoffRetryPolicy`` through CRs: attempts of the real br that die in each way, and when it is enough.

minikv makes the runs slow enough to be caught. A br that dies leaves a lock in the bucket, which the next one would wait five
minutes for; br says itself that it may be removed when no br runs any more, and so the tests do.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sandbox import Cluster
from sandbox.api import Object
from sandbox.minikv import Faults
from sandbox.patience import until
from sandbox.processes import Recorded
from tests.support.br_world import Tikv, World, tikv

pytestmark = pytest.mark.e2e

SEED = (
    "create database shop",
    "create table shop.t(id bigint primary key auto_increment, name varchar(64))",
    "insert into shop.t(name) values ('a'),('b'),('ünï')",
    *["insert into shop.t(name) select concat(name,id) from shop.t"] * 4,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tikv]:
    with tikv(tmp_path_factory.mktemp("source"), *SEED) as made:
        yield made


@pytest.fixture
def slow(source: Tikv) -> Iterator[None]:
    source.kv.set_faults(Faults(slow_ms=400))
    yield
    source.kv.set_faults(Faults())


class RetriedWorld(World):
    """A namespace in which Pods and processes die."""

    def pods_of(self, job: str) -> list[Object]:
        return self.cluster.pods(self.namespace, labels=f"job-name={job}")

    def running(self, job: str) -> str:
        """Wait until the one Pod of *job* runs; its name."""

        def found() -> list[str]:
            return [item["metadata"]["name"] for item in self.pods_of(job) if item.get("status", {}).get("phase") == "Running"]

        names: list[str] = until(found, lambda: f"no Pod of {job} runs; Jobs: {self.jobs()}")
        return names[0]

    def processes(self, pod: str) -> dict[int, str]:
        """Pids and names of what runs in a Pod."""
        parents: dict[int, int] = {}
        names: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                pid, _, rest = entry.read_text().partition(" (")
                name, _, fields = rest.rpartition(") ")
                parents[int(pid)], names[int(pid)] = int(fields.split()[1]), name
        folder = self.cluster.layout.pods / self.namespace
        records = [Recorded.load(path) for path in folder.glob(f"{pod}_*/*.process.json")]
        found = {record.pid for record in records if record and record.alive}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid: names[pid] for pid in found if pid in names}

    def br_of(self, pod: str) -> int:
        """Wait until br works in *pod*; its pid."""
        found: list[int] = until(
            lambda: [pid for pid, name in self.processes(pod).items() if name == "br"], lambda: f"no br in {pod}"
        )
        return found[0]

    def unlock(self, prefix: str) -> None:
        """Remove the lock of a br that is dead."""
        for key in self.objects(prefix):
            if key.endswith("checkpoint.lock"):
                self.remove(key)

    def locked(self, prefix: str) -> bool:
        return any(key.endswith("checkpoint.lock") for key in self.objects(prefix))

    def records(self, name: str, kind: str = "Backup") -> list[tuple[int, str]]:
        found: list[Any] = self.status(name, kind).get("backoffRetryStatus") or []
        return [(record["retryNum"], record["originalReason"]) for record in found]


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> RetriedWorld:
    return RetriedWorld(cluster=cluster, namespace=namespace)


def test_a_pod_deleted_then_a_tool_killed_then_whole(world: RetriedWorld, source: Tikv, slow: None) -> None:
    policy = {"minRetryDuration": "1s", "maxRetryTimes": 2, "retryTimeout": "10m"}
    world.apply("Backup", "twice", source, world.s3("twice"), backoffRetryPolicy=policy)
    pod = world.running("backup-twice")
    world.br_of(pod)
    until(lambda: world.locked("twice"), lambda: world.told("twice", "Backup"))
    # It hangs, so that its end takes as long as its grace period: nothing may follow it before it is gone.
    for pid in world.processes(pod):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    world.cluster.kubectl("delete", "pod", pod, "-n", world.namespace, "--grace-period=4", "--wait=false")

    def gone() -> bool:
        jobs = world.jobs()  # looked at before the processes
        running = world.processes(pod)
        assert not running or jobs == ["backup-twice"], "it was followed while it still ran"
        return not running

    until(gone, lambda: f"{pod} still runs")
    world.unlock("twice")

    pod = world.running("backup-twice-r1")
    assert world.records("twice") == [(1, "BackoffLimitExceeded")]
    br = world.br_of(pod)
    until(lambda: world.locked("twice"), lambda: world.told("twice", "Backup"))
    os.kill(br, signal.SIGKILL)
    until(lambda: len(world.records("twice")) == 2, lambda: world.told("twice", "Backup"))
    world.unlock("twice")
    source.kv.set_faults(Faults())
    world.reaches("Complete", "twice")
    assert world.records("twice") == [(1, "BackoffLimitExceeded"), (2, "ToolKilled")]
    assert world.jobs() == ["backup-twice", "backup-twice-r1", "backup-twice-r2"]


def test_the_third_failure_is_final(world: RetriedWorld, source: Tikv, slow: None) -> None:
    policy = {"minRetryDuration": "1s", "maxRetryTimes": 2, "retryTimeout": "10m"}
    world.apply("Backup", "thrice", source, world.s3("thrice"), backoffRetryPolicy=policy)
    for job in ("backup-thrice", "backup-thrice-r1", "backup-thrice-r2"):
        world.cluster.kill_pod(world.running(job), world.namespace)
    told = world.failed("thrice")
    assert told["reason"] == "AlreadyFailed"
    assert told["message"].startswith("exceed retry times, max is 2; Job backup-thrice-r2 has failed; BackoffLimitExceeded")
    assert [number for number, _ in world.records("thrice")] == [1, 2, 3]
    assert world.jobs() == ["backup-thrice", "backup-thrice-r1", "backup-thrice-r2"]


def test_the_timeout_ends_it_before_the_attempts_are_used_up(world: RetriedWorld, source: Tikv, slow: None) -> None:
    policy = {"minRetryDuration": "3s", "maxRetryTimes": 9, "retryTimeout": "20s"}
    source.kv.set_faults(Faults(slow_ms=3000))  # none of its attempts ends by itself before that
    world.apply("Backup", "late", source, world.s3("late"), backoffRetryPolicy=policy)
    world.cluster.kill_pod(world.running("backup-late"), world.namespace)
    second = world.running("backup-late-r1")
    failed = datetime.fromisoformat(world.status("late")["backoffRetryStatus"][0]["detectFailedAt"])
    time.sleep(max(0.0, (failed + timedelta(seconds=21) - datetime.now(UTC)).total_seconds()))
    world.cluster.kill_pod(second, world.namespace)
    told = world.failed("late")
    assert (told["reason"], told["message"].partition(";")[0]) == ("AlreadyFailed", "retry timeout, max is 20s")
    assert world.jobs() == ["backup-late", "backup-late-r1"]
