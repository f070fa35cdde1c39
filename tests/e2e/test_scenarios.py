"""What happens to Backups when the world around them does not hold still: real API server, hooks, dumpling, TiDB and S3."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from backup_manager.tidb import gc_life_time
from sandbox import Cluster
from sandbox.api import JOBS, NAMESPACES, PODS
from sandbox.components import METACONTROLLER_BIN
from sandbox.patience import PATIENCE, until
from tests.support.export_world import World, filled, seed
from tests.support.gate import Gate, gate
from tests.support.jobs import finished, job, state_of, wait_state
from tests.support.sandboxes import own_sandbox

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of its own: hooks and node agent die here, and caches are late."""
    with own_sandbox("scenarios", "source") as running:
        yield running


@pytest.fixture(scope="module")
def rows(cluster: Cluster) -> None:
    seed(cluster)


@pytest.fixture
def world(cluster: Cluster, namespace: str, rows: None) -> World:
    return World(cluster, namespace)


@pytest.fixture
def held(cluster: Cluster) -> Iterator[Gate]:
    """A gate before the S3 server, closed."""
    with gate(int(str(urlsplit(cluster.bucket.endpoint).port))) as made:
        yield made


def start_held(world: World, held: Gate) -> None:
    """A Backup whose dumpling waits at the gate."""
    world.back_up(endpoint=held.url)
    assert held.reached.wait(PATIENCE), world.status()
    world.reaches("Running")


def test_the_webhook_dies_and_comes_back_in_the_middle(world: World, held: Gate) -> None:
    start_held(world, held)
    jobs = world.jobs()
    world.cluster.stop_component("webhook", kill=True)
    try:
        held.open()
        until(lambda: job_done(world, "backup-it"), "the Job ends while nobody answers")
        assert world.status()["phase"] == "Running"
    finally:
        world.cluster.start_component("webhook")
    status = world.reaches("Complete")
    assert status["backupPath"].startswith("s3://")
    assert world.jobs() == jobs


def job_done(world: World, name: str) -> bool:
    job = world.cluster.get("Job", name, world.namespace) or {}
    return any(item["type"] == "Complete" and item["status"] == "True" for item in job.get("status", {}).get("conditions", ()))


def test_a_killed_manager_is_retried_under_a_new_name(world: World, held: Gate) -> None:
    start_held(world, held)
    world.cluster.kill_pod(world.running_pod(), world.namespace)
    held.open()
    status = world.reaches("Complete")
    assert sorted(world.jobs()) == ["backup-it", "backup-it-r1"]
    [record] = status["backoffRetryStatus"]
    assert record["retryNum"] == 1
    assert world.objects()


@pytest.mark.parametrize("how", ["by hand", "by its TTL"])
def test_a_finished_job_that_vanishes_does_not_run_again(world: World, how: str) -> None:
    world.back_up()
    before = world.reaches("Complete")
    if how == "by hand":
        world.cluster.kubectl("delete", "job", "backup-it", "-n", world.namespace)
    else:
        world.cluster.api.patch(JOBS, world.namespace, "backup-it", {"spec": {"ttlSecondsAfterFinished": 1}})
    until(lambda: not world.jobs(), "the Job is gone")
    patch = {"metadata": {"annotations": {"touched": "1"}}}
    resource = world.cluster.api.resource_of("pingcap.com/v1alpha1", "Backup")
    world.cluster.api.patch(resource, world.namespace, "it", patch)
    time.sleep(3)
    assert world.jobs() == {}
    assert world.status() == before


def test_a_backup_deleted_while_it_runs_is_stopped_and_cleaned(world: World, held: Gate) -> None:
    start_held(world, held)
    pod = world.running_pod()
    world.delete()
    world.cluster.wait_for("Pod", pod, lambda obj: obj is None, namespace=world.namespace)
    held.open()
    world.gone()
    assert world.objects() == []
    world.neighbours_stand()


def gc_rows(world: World) -> dict[str, str]:
    """The GC life time of the source, and the rows that runs leave there."""
    database = world.cluster.tidb("source")
    connection = pymysql.connect(host=database.host, port=database.port, user=database.user, password=database.password)
    statement = "select variable_name, variable_value from mysql.tidb where variable_name = %s or variable_name like %s"
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(statement, (gc_life_time.VARIABLE, "tidb_backup_gc%"))
        return {str(name): str(value) for name, value in cursor.fetchall()}


def without_retry(world: World, held: Gate) -> None:
    """A Backup that keeps its data and is not repeated, caught while it dumps with the GC life time raised."""
    text = filled("it", endpoint=held.url, secret="s3-secret", prefix=world.namespace)
    text = text.replace("cleanPolicy: Delete", "cleanPolicy: Retain").replace("maxRetryTimes: 2", "maxRetryTimes: 0")
    world.cluster.apply(text, namespace=world.namespace)
    assert held.reached.wait(PATIENCE), world.status()
    world.reaches("Running")
    until(lambda: raised(world), "the condition says that the GC life time is raised")


def raised(world: World) -> dict[str, Any]:
    conditions = world.status().get("conditions", ())
    return next((item for item in conditions if item["type"] == "GcLifeTimeRaised" and item["status"] == "True"), {})


def test_a_backup_deleted_right_after_the_kill_of_its_run_restores_the_gc_life_time(world: World, held: Gate) -> None:
    before = gc_rows(world)[gc_life_time.VARIABLE]
    without_retry(world, held)
    assert gc_rows(world)[gc_life_time.VARIABLE] == "72h"
    world.cluster.kill_pod(world.running_pod(), world.namespace)
    world.delete()
    world.gone()
    assert gc_rows(world) == {gc_life_time.VARIABLE: before}


def test_a_killed_run_that_nothing_follows_restores_the_gc_life_time(world: World, held: Gate) -> None:
    before = gc_rows(world)[gc_life_time.VARIABLE]
    without_retry(world, held)
    assert before in raised(world)["message"]
    world.cluster.kill_pod(world.running_pod(), world.namespace)
    world.reaches("Failed")
    until(lambda: not raised(world), lambda: f"the condition goes; it is {world.status()}")
    assert gc_rows(world) == {gc_life_time.VARIABLE: before}
    assert set(world.jobs()) == {"backup-it", "gc-life-time-backup-it"}


def test_orphaned_while_it_runs_the_clean_waits_for_the_writer(world: World, held: Gate) -> None:
    start_held(world, held)
    world.delete("it", "--cascade=orphan")
    until(lambda: "clean-it" in world.jobs(), "the clean Job is there")
    time.sleep(4)
    assert not job_done(world, "backup-it")
    assert world.backup() is not None
    held.open()
    until(lambda: job_done(world, "backup-it"), "the writer ends in peace")
    world.gone()
    assert world.objects() == []
    world.neighbours_stand()


def test_foreground_deletion_while_it_runs(world: World, held: Gate) -> None:
    start_held(world, held)
    world.delete("it", "--cascade=foreground")
    held.open()
    world.gone()
    assert world.objects() == []
    assert "backup-it" not in world.jobs()
    world.neighbours_stand()


def test_a_namespace_goes_with_its_backup_and_the_data_stays(world: World) -> None:
    world.back_up()
    world.reaches("Complete")
    kept = world.objects()
    assert kept
    world.cluster.api.delete(NAMESPACES, "", world.namespace)
    until(lambda: world.cluster.api.find(NAMESPACES, "", world.namespace) is None, "the namespace is gone")
    assert world.objects() == kept


def test_a_clean_succeeds_when_the_data_is_gone_already(world: World) -> None:
    world.back_up()
    world.reaches("Complete")
    for key in world.objects():
        world.s3.delete_object(Bucket=world.bucket, Key=key)
    world.delete()
    world.gone()
    world.neighbours_stand()


def test_two_backups_at_once(world: World) -> None:
    world.back_up("one")
    world.back_up("two")
    paths = {world.reaches("Complete", name)["backupPath"] for name in ("one", "two")}
    assert len(paths) == 2
    world.delete("one")
    world.gone("one")
    assert world.objects()
    assert all("/two-" in key for key in world.objects())
    world.neighbours_stand()


def test_a_backup_waits_for_its_secret(world: World) -> None:
    world.back_up(secret="late-secret")
    until(world.jobs, "the Job is there")
    time.sleep(2)
    assert world.status()["phase"] == "Scheduled"
    bucket = world.cluster.bucket
    secret = {"access_key": bucket.access_key, "secret_key": bucket.secret_key}
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late-secret"}, "stringData": secret}
    world.cluster.apply(json.dumps(manifest), namespace=world.namespace)
    world.reaches("Complete")
    assert len(world.jobs()) == 1


@pytest.mark.skipif(METACONTROLLER_BIN in os.environ, reason="the real one has no such knob")
def test_late_caches_change_nothing(world: World) -> None:
    """Parents and Jobs reach the hook late, each by its own delay; still one Job runs, and its end is seen."""
    world.cluster.lag_caches(backups=2.0, jobs=1.0)
    try:
        seen: set[str] = set()
        world.back_up()

        def complete() -> bool:
            seen.update(world.jobs().values())
            return bool(world.status().get("phase") == "Complete")

        until(complete, "the Backup is complete")
        world.delete()
        world.gone()
    finally:
        world.cluster.lag_caches()
    assert len(seen) == 1
    assert world.objects() == []
    world.neighbours_stand()


def test_run_follows_a_file_to_its_end(world: World, tmp_path: Path) -> None:
    def run(text: str, *more: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "cr.yaml").write_text(text)
        argv = [sys.executable, "-m", "sandbox", "run", str(tmp_path / "cr.yaml"), "-n", world.namespace]
        argv += ["--name", world.cluster.layout.name, *more]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)

    good = filled("good", endpoint="${S3_ENDPOINT}", secret="s3-secret", prefix=world.namespace)
    done = run(good)
    assert done.returncode == 0, done.stderr
    assert "Backup good: Complete" in done.stdout
    other = good.replace('name: "good"', "name: other").replace("secretName: tidb-secret", "secretName: s3-secret")
    world.cluster.apply(other, namespace=world.namespace)
    until(lambda: "couldn't find key" in json.dumps(world.cluster.pods(world.namespace)), "its Pod says what it lacks")
    blocked = run(other, "--timeout", "5")
    assert blocked.returncode == 1
    assert "couldn't find key password in Secret" in blocked.stderr
    assert "Traceback" not in blocked.stderr


def test_a_restarted_agent_reports_what_was_lost(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("lost", "sleep 300"), namespace=namespace)
    wait_state(cluster, "lost", namespace, "running")
    cluster.stop_component("agent", kill=True)
    cluster.start_component("agent")
    finished(cluster, "lost", namespace, "Failed")
    ended = state_of(cluster, "lost", namespace)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")
    cluster.apply(job("next", "true"), namespace=namespace)
    finished(cluster, "next", namespace)
    cluster.kubectl("delete", "job", "lost", "-n", namespace, "--wait=false")
    cluster.wait_for("Pod", name_of_lost(cluster, namespace), lambda obj: obj is None, namespace=namespace)


def name_of_lost(cluster: Cluster, namespace: str) -> str:
    pods = cluster.api.list(PODS, namespace)["items"]
    return next((pod["metadata"]["name"] for pod in pods if pod["metadata"]["name"].startswith("lost-")), "gone")
