"""A Backup deleted under a Restore, and a Restore deleted under its Job: real API server, hooks, lightning, TiDB and S3."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pymysql
import pytest

from backup_manager.locking.lock import Note
from backup_manager.tidb.connection import Access, Database
from backup_manager.tidb.target_lock import ROW, RowPlace
from sandbox import Cluster
from sandbox.patience import until
from tests.support.export_world import World

pytestmark = pytest.mark.e2e

SCHEMA = "read_and_clean"
ROWS = 700
RESTORE = """
apiVersion: pingcap.com/v1alpha1
kind: Restore
metadata: {name: reads}
spec:
  to: {host: "${TIDB_TARGET_HOST}", port: ${TIDB_TARGET_PORT}, user: root, secretName: tidb-secret}
  tableFilter: ["@SCHEMA@.*"]
  s3:
    {provider: aws, region: us-east-1, endpoint: "${S3_ENDPOINT}", bucket: "${S3_BUCKET}", secretName: s3-secret,
     prefix: "@PREFIX@"}
"""
BACKUP = """
apiVersion: pingcap.com/v1alpha1
kind: Backup
metadata: {name: it}
spec:
  cleanPolicy: Delete
  from: {host: "${TIDB_SOURCE_HOST}", port: ${TIDB_SOURCE_PORT}, user: root, secretName: tidb-secret}
  tableFilter: ["@SCHEMA@.*"]
  s3:
    {provider: aws, region: us-east-1, endpoint: "${S3_ENDPOINT}", bucket: "${S3_BUCKET}", secretName: s3-secret,
     prefix: "@PREFIX@"}
"""


def execute(cluster: Cluster, name: str, *statements: str) -> Any:
    database = cluster.tidb(name)
    connection = pymysql.connect(
        host=database.host, port=database.port, user=database.user, password=database.password, autocommit=True
    )
    with closing(connection), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> Iterator[World]:
    """A complete export of a table without a key, and a target that has not got it."""
    drop = f"drop database if exists {SCHEMA}"
    execute(
        cluster,
        "source",
        drop,
        f"create database {SCHEMA}",
        f"create table {SCHEMA}.t (n int, v varchar(40))",
        f"insert into {SCHEMA}.t with recursive n(i) as (select 1 union all select i+1 from n where i < {ROWS}) "
        "select i, concat('row ', i) from n",
    )
    execute(cluster, "target", drop)
    made = World(cluster, namespace)
    cluster.apply(BACKUP.replace("@SCHEMA@", SCHEMA).replace("@PREFIX@", namespace), namespace=namespace)
    made.reaches("Complete")
    yield made
    execute(cluster, "target", drop)


@contextmanager
def somebody_restores_into(cluster: Cluster, name: str) -> Iterator[None]:
    """The lock of the target is held by a run elsewhere, so that every import stands still before it loads."""
    tidb = cluster.tidb(name)
    place = RowPlace(database=Database(Access(host=tidb.host, port=tidb.port, user=tidb.user, password=tidb.password)))
    note = Note(holder="pod-elsewhere", owner="Restore elsewhere/other", seconds=3600)
    held = until(lambda: place.write(note, None), "the target is free")
    try:
        yield
    finally:
        place.write(Note(), held.version)


def restore(world: World) -> None:
    path = world.status()["backupPath"].removeprefix(f"s3://{world.bucket}/")
    world.cluster.apply(RESTORE.replace("@SCHEMA@", SCHEMA).replace("@PREFIX@", path), namespace=world.namespace)


def status(world: World, kind: str = "Restore", name: str = "reads") -> dict[str, Any]:
    found: dict[str, Any] = (world.cluster.get(kind, name, world.namespace) or {}).get("status") or {}
    return found


def condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((item for item in found.get("conditions") or () if item["type"] == kind), {})


def test_a_backup_deleted_while_an_import_reads_it_is_cleaned_after_the_import(world: World) -> None:
    before = world.objects()
    assert before
    with somebody_restores_into(world.cluster, "target"):
        restore(world)
        until(lambda: condition(status(world), "Waiting").get("reason") == "TargetInUse", lambda: f"it waits; {status(world)}")
        assert "Restore elsewhere/other" in condition(status(world), "Waiting")["message"]
        world.delete()
        until(
            lambda: condition(world.status(), "Waiting").get("reason") == "ReaderActive",
            lambda: f"the clean waits; it is {world.status()}",
        )
        assert f"Restore {world.namespace}/reads" in condition(world.status(), "Waiting")["message"]
        assert set(before) <= set(world.objects())
    until(lambda: status(world).get("phase") == "Complete", lambda: f"the import is complete; it is {status(world)}")
    assert execute(world.cluster, "target", f"select count(*) from {SCHEMA}.t") == ((ROWS,),)
    world.gone()
    assert not set(before) & set(world.objects())
    assert execute(world.cluster, "target", f"select count(*) from mysql.tidb where variable_name = '{ROW}'") == ((0,),)
    world.neighbours_stand()


def test_a_deleted_restore_goes_after_its_job_and_leaves_the_target_free(world: World) -> None:
    with somebody_restores_into(world.cluster, "target"):
        restore(world)
        until(lambda: condition(status(world), "Waiting").get("reason") == "TargetInUse", lambda: f"it waits; {status(world)}")
        world.cluster.kubectl("delete", "restore", "reads", "-n", world.namespace, "--wait=false")
        until(lambda: world.cluster.get("Restore", "reads", world.namespace) is None, lambda: f"gone; it is {status(world)}")
        assert "restore-reads" not in world.jobs()
    until(lambda: not world.cluster.pods(world.namespace) or not _running(world), "its Pod has ended")
    assert not [key for key in world.objects() if ".readers/" in key]


def _running(world: World) -> list[str]:
    pods = world.cluster.pods(world.namespace)
    return [pod["metadata"]["name"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
