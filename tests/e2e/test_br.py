"""Backup and Restore by the real br through CRs: API server, hooks, Jobs, S3 or a volume, and minikv in the place of TiKV.

What minikv can prove and what not is in docs/minikv.md. The clusters are outside of Kubernetes: their PD is in ``br.options``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crds.contract import names
from sandbox import Cluster
from sandbox.api import LEASES
from sandbox.minikv import Faults
from sandbox.patience import until
from tests.support.br_world import Tikv, World, tikv

pytestmark = pytest.mark.e2e

DOWNLOAD = "store /import_sstpb.ImportSST/Download"
TABLES = ("shop.t", "shop.other", "hr.people")
SEED = (
    "create database shop",
    "create table shop.t(id bigint primary key auto_increment, name varchar(64), amt decimal(10,2), key k(name))",
    "insert into shop.t(name,amt) values ('a',1.5),('b',2.5),('ünï',null)",
    *["insert into shop.t(name,amt) select concat(name,id),id from shop.t"] * 6,
    "create table shop.other(a varchar(10) primary key nonclustered, b int)",
    "insert into shop.other values ('q',1),('r',2)",
    "create database hr",
    "create table hr.people(id int primary key, n varchar(20))",
    "insert into hr.people values (1,'x')",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tikv]:
    with tikv(tmp_path_factory.mktemp("source"), *SEED) as made:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Tikv]:
    with tikv(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_faults_left(source: Tikv) -> Iterator[None]:
    yield
    source.kv.set_faults(Faults())


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> World:
    return World(cluster=cluster, namespace=namespace)


def same(source: Tikv, target: Tikv, *tables: str) -> None:
    """By SQL over every column, and by the server's own count and size of keys."""
    for table in tables:
        assert source.db.checksum(table) == target.db.checksum(table), table
        target.db.execute(f"admin check table {table}")


def tables_of(tikv: Tikv) -> set[str]:
    rows = tikv.db.execute("select concat(table_schema, '.', table_name) from information_schema.tables")
    return {str(row[0]) for row in rows} & set(TABLES)


def test_full_to_s3_and_back_then_again_then_clean(world: World, source: Tikv, target: Tikv) -> None:
    world.apply("Backup", "full", source, world.s3("full"), br_checksum=True)
    status = world.reaches("Complete", "full")
    assert int(status["commitTs"]) > 0
    assert status["backupSize"] > 0
    assert {part["step"] for part in status["progresses"]} >= {"Prepare", "Full Backup", "Checksum", "Verify"}
    assert all(part["progress"] == 100 for part in status["progresses"])
    world.apply("Restore", "back", target, world.s3("full"))
    restored = world.reaches("Complete", "back", "Restore")
    assert restored["commitTs"] == status["commitTs"]
    same(source, target, *TABLES)
    # The same once more is refused, and harms nothing.
    world.apply("Restore", "again", target, world.s3("full"))
    assert world.failed("again", "Restore")["reason"] == "TargetNotEmpty"
    same(source, target, *TABLES)
    before = world.objects("full")
    world.apply("Backup", "squatter", source, world.s3("full"))
    assert world.failed("squatter")["reason"] in {"BackupPathClaimed", "BackupPathInUse"}
    assert world.objects("full") == before
    world.delete("squatter")
    assert world.objects("full") == before
    world.delete("full")
    assert world.objects("full") == []


def test_full_to_a_volume_and_back(world: World, source: Tikv, target: Tikv, tmp_path: Path) -> None:
    """TiKV writes the files itself, so a volume is mounted at the same path here and there."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    volume = {"name": "v", "hostPath": {"path": str(shared)}}
    storage = {"local": {"prefix": "full", "volume": volume, "volumeMount": {"name": "v", "mountPath": str(shared)}}}
    world.apply("Backup", "full", source, storage)
    assert world.reaches("Complete", "full")["backupPath"] == f"local://{shared}/full"
    assert (shared / "full" / "backupmeta").exists()
    world.apply("Restore", "back", target, storage)
    world.reaches("Complete", "back", "Restore")
    same(source, target, *TABLES)
    world.delete("full")
    assert not list((shared / "full").glob("**/*.sst"))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"backupType": "db", "br_db": "shop"}, {"shop.t", "shop.other"}),
        ({"backupType": "table", "br_db": "shop", "br_table": "t"}, {"shop.t"}),
        ({"tableFilter": ["*.*", "!shop.t", "!mysql.*"]}, {"shop.other", "hr.people"}),
    ],
    ids=["db", "table", "filter"],
)
def test_a_part_and_back(world: World, source: Tikv, target: Tikv, spec: dict[str, Any], expected: set[str]) -> None:
    world.apply("Backup", "part", source, world.s3("part"), **spec)
    world.reaches("Complete", "part")
    world.apply("Restore", "back", target, world.s3("part"), **spec)
    world.reaches("Complete", "back", "Restore")
    assert tables_of(target) == expected
    same(source, target, *expected)


def test_wrong_credentials_are_named_and_not_repeated(world: World, source: Tikv) -> None:
    keys = {"access_key": world.cluster.bucket.access_key, "secret_key": "not-the-secret"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}, "stringData": keys}
    world.cluster.apply(json.dumps(secret), namespace=world.namespace)
    world.apply("Backup", "no", source, world.s3("no", secret="wrong"))
    assert world.failed("no")["reason"] in {"InvalidCredentials", "StorageAccessDenied"}
    assert world.jobs() == ["backup-no"]
    assert "not-the-secret" not in json.dumps(world.cluster.get("Backup", "no", world.namespace))


def test_killed_in_the_middle_it_goes_on_and_is_whole(world: World, source: Tikv, target: Tikv) -> None:
    source.kv.set_faults(Faults(slow_ms=400))
    world.apply("Backup", "killed", source, world.s3("killed"))
    until(lambda: [key for key in world.objects("killed") if key.endswith(".sst")], lambda: world.told("killed", "Backup"))
    world.cluster.kill_pod(world.running_pod(), world.namespace)
    # br would wait five minutes for the dead one's lock; it says itself that one may remove it when no br runs.
    locks = [key for key in world.objects("killed") if key.endswith("checkpoint.lock")]
    assert locks
    for key in locks:
        world.remove(key)
    source.kv.set_faults(Faults())
    status = world.reaches("Complete", "killed")
    assert world.jobs() == ["backup-killed", "backup-killed-r1"]
    assert [record["retryNum"] for record in status["backoffRetryStatus"]] == [1]
    # The same happens to its restore, whose checkpoint is in the target.
    target.kv.set_faults(Faults(slow_ms=300))
    world.apply("Restore", "back", target, world.s3("killed"))
    until(lambda: target.kv.calls().get(DOWNLOAD), lambda: world.told("back", "Restore"))
    world.cluster.kill_pod(world.running_pod(), world.namespace)
    target.kv.set_faults(Faults())
    restored = world.reaches("Complete", "back", "Restore")
    assert [record["retryNum"] for record in restored["backoffRetryStatus"]] == [1]
    same(source, target, *TABLES)


def test_one_at_a_time_on_a_cluster(world: World, source: Tikv) -> None:
    source.kv.set_faults(Faults(slow_ms=300))
    world.apply("Backup", "first", source, world.s3("first"))
    world.reaches("Running", "first")
    world.apply("Backup", "second", source, world.s3("second"))
    world.apply("Backup", "elsewhere", source, world.s3("elsewhere"), cluster="another")
    waiting = world.reaches("Waiting", "second")
    told = next(item for item in waiting["conditions"] if item["type"] == "Waiting")
    assert told["reason"] == "ClusterInUse"
    assert f"Backup {world.namespace}/first" in told["message"]
    assert world.objects("second") == []
    source.kv.set_faults(Faults())
    ended = [world.reaches("Complete", name) for name in ("first", "second")]
    world.reaches("Complete", "elsewhere")
    assert int(ended[0]["commitTs"]) < int(ended[1]["commitTs"])
    lease = world.cluster.api.find(LEASES, world.namespace, names.cluster_lease(world.namespace, "basic"))
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""
    assert lease["spec"]["leaseTransitions"] == 2


def test_a_holder_that_died_for_good_is_taken_over(world: World, source: Tikv) -> None:
    source.kv.set_faults(Faults(slow_ms=400))
    world.apply("Backup", "dies", source, world.s3("dies"), backoffRetryPolicy={"maxRetryTimes": 0})
    world.reaches("Running", "dies")
    world.cluster.kill_pod(world.running_pod(), world.namespace)
    source.kv.set_faults(Faults())
    world.reaches("Failed", "dies")
    world.apply("Backup", "next", source, world.s3("next"))
    assert f"{world.namespace}/dies" in json.dumps(world.reaches("Waiting", "next")["conditions"])
    world.reaches("Complete", "next")
