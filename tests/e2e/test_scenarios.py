"""What happens to Backups when the world around them does not hold still: real API server, hooks, dumpling, TiDB and S3."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pymysql
import pytest
import yaml

from crds import names
from sandbox import Cluster
from sandbox.api import JOBS, NAMESPACES, Object
from sandbox.components import METACONTROLLER_BIN
from tests.support.gate import Gate, gate

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BACKUP = """
apiVersion: pingcap.com/v1alpha1
kind: Backup
metadata: {name: "@NAME@"}
spec:
  cleanPolicy: Delete
  backoffRetryPolicy: {minRetryDuration: 1s, maxRetryTimes: 2, retryTimeout: 10m}
  from: {host: "${TIDB_SOURCE_HOST}", port: ${TIDB_SOURCE_PORT}, user: root, secretName: tidb-secret}
  tableFilter: ["scenario.*"]
  s3:
    provider: aws
    region: us-east-1
    endpoint: "@ENDPOINT@"
    bucket: ${S3_BUCKET}
    secretName: "@SECRET@"
    prefix: "@PREFIX@"
"""


def filled(name: str, *, endpoint: str, secret: str, prefix: str) -> str:
    """The Backup as YAML."""
    text = BACKUP
    for key, value in {"@NAME@": name, "@ENDPOINT@": endpoint, "@SECRET@": secret, "@PREFIX@": prefix}.items():
        text = text.replace(key, value)
    return text


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """Poll *condition* until it is true, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not in {seconds:g} s"
        time.sleep(0.1)
    return found


class World:
    """One namespace with its own folder in the bucket, and a neighbour that nobody may touch."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        bucket = cluster.bucket
        self.bucket = bucket.name
        self.s3 = boto3.client(
            "s3",
            endpoint_url=bucket.endpoint,
            aws_access_key_id=bucket.access_key,
            aws_secret_access_key=bucket.secret_key,
            region_name="us-east-1",
        )
        self.neighbours = [f"{namespace}/keep.txt", f"{namespace}-other/keep.txt"]
        for key in self.neighbours:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"mine")

    def back_up(self, name: str = "it", *, endpoint: str = "${S3_ENDPOINT}", secret: str = "s3-secret") -> None:
        """Apply a Backup."""
        self.cluster.apply(filled(name, endpoint=endpoint, secret=secret, prefix=self.namespace), namespace=self.namespace)

    def backup(self, name: str = "it") -> Object | None:
        return self.cluster.get("Backup", name, self.namespace)

    def status(self, name: str = "it") -> Object:
        found: Object = (self.backup(name) or {}).get("status") or {}
        return found

    def reaches(self, phase: str, name: str = "it") -> Object:
        """Wait for a phase and return the status."""
        until(lambda: self.status(name).get("phase") == phase, f"{name} is {phase}; it is {self.status(name)}")
        return self.status(name)

    def delete(self, name: str = "it", *flags: str) -> None:
        self.cluster.kubectl("delete", "backup", name, "-n", self.namespace, "--wait=false", *flags)

    def gone(self, name: str = "it", seconds: float = 90.0) -> None:
        until(lambda: self.backup(name) is None, f"{name} is gone", seconds)

    def jobs(self) -> dict[str, str]:
        """Names and uids of the Jobs."""
        items = self.cluster.api.list(JOBS, self.namespace)["items"]
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def running_pod(self) -> str:
        """Name of the Pod that runs now."""

        def found() -> list[str]:
            pods = self.cluster.pods(self.namespace)
            return [pod["metadata"]["name"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]

        running: list[str] = until(found, "a Pod runs")
        return running[0]

    def objects(self) -> list[str]:
        """Everything in the folder but the neighbours, and what the records keep after a clean."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.namespace)
        found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        kept = (".record.json", "/.history/")
        return [key for key in found if key not in self.neighbours and not any(mark in key for mark in kept)]

    def neighbours_stand(self) -> None:
        for key in self.neighbours:
            self.s3.head_object(Bucket=self.bucket, Key=key)


@pytest.fixture(scope="module")
def rows(cluster: Cluster) -> None:
    """A small table."""
    database = cluster.tidb("source")
    connection = pymysql.connect(
        host=database.host, port=database.port, user=database.user, password=database.password, autocommit=True
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS scenario")
        cursor.execute("CREATE TABLE IF NOT EXISTS scenario.t (id INT PRIMARY KEY, v VARCHAR(100))")
        cursor.executemany("REPLACE INTO scenario.t VALUES (%s, %s)", [(number, f"row {number}") for number in range(500)])


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
    assert held.reached.wait(120), world.status()
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
    world.cluster.wait_for("Pod", pod, lambda obj: obj is None, namespace=world.namespace, seconds=60)
    held.open()
    world.gone()
    assert world.objects() == []
    world.neighbours_stand()


def test_orphaned_while_it_runs_the_clean_waits_for_the_writer(world: World, held: Gate) -> None:
    start_held(world, held)
    world.delete("it", "--cascade=orphan")
    until(lambda: "clean-it" in world.jobs(), "the clean Job is there")
    time.sleep(4)
    assert not job_done(world, "backup-it")
    assert world.backup() is not None
    held.open()
    until(lambda: job_done(world, "backup-it"), "the writer ends in peace")
    world.gone(seconds=120)
    assert world.objects() == []
    world.neighbours_stand()


def test_foreground_deletion_while_it_runs(world: World, held: Gate) -> None:
    start_held(world, held)
    world.delete("it", "--cascade=foreground")
    held.open()
    world.gone(seconds=120)
    assert world.objects() == []
    assert "backup-it" not in world.jobs()
    world.neighbours_stand()


def test_a_namespace_goes_with_its_backup_and_the_data_stays(world: World) -> None:
    world.back_up()
    world.reaches("Complete")
    kept = world.objects()
    assert kept
    world.cluster.api.delete(NAMESPACES, "", world.namespace)
    until(lambda: world.cluster.api.find(NAMESPACES, "", world.namespace) is None, "the namespace is gone", 120)
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
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

    good = filled("good", endpoint="${S3_ENDPOINT}", secret="s3-secret", prefix=world.namespace)
    done = run(good)
    assert done.returncode == 0, done.stderr
    assert "Backup good: Complete" in done.stdout
    other = good.replace('name: "good"', "name: other").replace("secretName: tidb-secret", "secretName: s3-secret")
    blocked = run(other, "--timeout", "15")
    assert blocked.returncode == 1
    assert "couldn't find key password in Secret" in blocked.stderr
    assert "Traceback" not in blocked.stderr


def each_minute(namespace: str) -> str:
    """A BackupSchedule whose template is the Backup above."""
    backup = yaml.safe_load(
        filled("x", endpoint="${S3_ENDPOINT}", secret="s3-secret", prefix=namespace).replace("${TIDB_SOURCE_PORT}", "0")
    )
    schedule = {
        "apiVersion": backup["apiVersion"],
        "kind": "BackupSchedule",
        "metadata": {"name": "minutely"},
        "spec": {"schedule": "* * * * *", "maxBackups": 5, "backupTemplate": backup["spec"]},
    }
    return str(yaml.safe_dump(schedule)).replace("port: 0", "port: ${TIDB_SOURCE_PORT}")


def test_a_schedule_makes_one_backup_a_slot_also_when_nobody_answered_during_one(world: World) -> None:
    def names_there() -> set[str]:
        resource = world.cluster.api.resource_of(names.API_VERSION, "Backup")
        return {item["metadata"]["name"] for item in world.cluster.api.list(resource, world.namespace)["items"]}

    def sleep_until(moment: datetime) -> None:
        time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))

    world.cluster.apply(each_minute(world.namespace), namespace=world.namespace)
    first = until(lambda: sorted(names_there()), "the first slot's Backup", 80)[0]
    slot = names.slot_time(first)
    assert slot is not None
    expected = [names.slot_backup("minutely", slot + timedelta(minutes=n)) for n in range(3)]
    sleep_until(slot + timedelta(seconds=50))
    world.cluster.stop_component("webhook", kill=True)
    try:
        sleep_until(slot + timedelta(seconds=68))
        assert names_there() == {first}
    finally:
        world.cluster.start_component("webhook")
    until(lambda: expected[1] in names_there(), "the Backup of the slot in which nobody answered", 40)
    until(lambda: expected[2] in names_there(), "the next slot's Backup", 80)
    assert names_there() == set(expected)
    for name in expected:
        world.reaches("Complete", name)
    world.cluster.kubectl("delete", "bks", "minutely", "-n", world.namespace)
    for name in expected:
        world.gone(name)
    assert not world.objects()
    world.neighbours_stand()
