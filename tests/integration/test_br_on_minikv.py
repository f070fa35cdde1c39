"""The real br and tidb-server on minikv: round trips compared by SQL, and what br says and does when something is wrong.

The runs are also the source of ``tests/golden/br_logs`` (see ``tests/support/br.py``). What they prove, and what not, is in
``docs/minikv.md``.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.minikv import Faults, MiniKV, minikv_with_tidb
from tests.support.br import RECORDING, Br, BrRun, keep
from tests.support.servers import S3, Tidb, seaweed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TABLES = ("shop.t", "shop.other", "shop.p", "hr.people")
SEED = (
    "create database shop",
    "create table shop.t(id bigint primary key auto_increment, name varchar(64), note text, amt decimal(10,2), key k(name))",
    "insert into shop.t(name,note,amt) values ('a','short',1.5),('b',repeat('long ',200),2.5),('ünï','',null)",
    *["insert into shop.t(name,note,amt) select concat(name,id),note,id from shop.t"] * 8,
    "create table shop.p(a int, b varchar(20), c json, primary key(a,b) clustered) partition by range(a) "
    "(partition p0 values less than (10), partition p1 values less than (maxvalue))",
    """insert into shop.p values (1,'x','{"k":1}'),(11,'y','[1,2]'),(12,'z',null)""",
    "create table shop.other(a varchar(10) primary key nonclustered, b int)",
    "insert into shop.other values ('q',1),('r',2)",
    "create database hr",
    "create table hr.people(id int primary key, n varchar(20))",
    "insert into hr.people values (1,'x')",
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One minikv with its tidb-server and a br that talks to it."""

    kv: MiniKV
    db: Tidb
    br: Br
    s3: S3
    folder: Path

    def at(self, path: str) -> tuple[str, ...]:
        """The storage arguments of br for *path* in the bucket."""
        return "-s", f"s3://bkt/{path}", "--s3.endpoint", self.s3.endpoint

    def keep(self, name: str, run: BrRun) -> BrRun:
        """Record the run's log without this machine's addresses and paths."""
        places = {self.kv.pd: "127.0.0.1:2379", self.kv.store: "127.0.0.1:20160", self.kv.status: "127.0.0.1:20180"}
        places |= {self.s3.endpoint: "http://127.0.0.1:8333", str(self.folder): "/backups"}
        return keep(name, run, places=places)

    def user_databases(self) -> set[str]:
        """Databases that are not the server's own, br's leftovers included."""
        own = {"information_schema", "metrics_schema", "performance_schema", "mysql", "sys", "test"}
        return {str(row[0]) for row in self.db.execute("show databases")} - own - {name.upper() for name in own}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with seaweed(tmp_path_factory.mktemp("weed")) as server:
        server.client().create_bucket(Bucket="bkt")
        yield server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Iterator[Cluster]:
    """A cluster with data; backed up, never restored into."""
    with cluster(tmp_path_factory.mktemp("source"), s3) as made:
        made.db.execute(*SEED)
        yield made


@pytest.fixture(scope="module")
def backup(source: Cluster) -> str:
    """The path of a full backup, made once."""
    run = source.keep("backup-full", source.br("backup", "full", *source.at("full"), "--checksum=true"))
    assert run.succeeded, run.error
    assert len(re.findall(r'\[progress\] \[step="Full Backup"\] \[progress=100\.00%\]', run.stdout)) == 1
    assert len(re.findall(r"\[progress\] \[step=Checksum\] \[progress=100\.00%\]", run.stdout)) == 1
    return "full"


@pytest.fixture(autouse=True)
def _no_faults_left(source: Cluster) -> Iterator[None]:
    yield
    source.kv.set_faults(Faults())


@contextmanager
def cluster(folder: Path, s3: S3) -> Iterator[Cluster]:
    """A new, empty cluster."""
    with minikv_with_tidb(folder) as (kv, tidb):
        br = Br(pd=kv.pd, folder=folder / "br", env=s3.env)
        yield Cluster(kv=kv, db=Tidb(port=tidb.port), br=br, s3=s3, folder=folder)


@pytest.fixture
def target(tmp_path: Path, s3: S3) -> Iterator[Cluster]:
    """An empty cluster to restore into."""
    with cluster(tmp_path, s3) as made:
        yield made


def same(source: Cluster, target: Cluster, *tables: str, same_ids: bool = False) -> None:
    """Compare tables by sums over every column and by the server's own count and size of keys, and indexes with rows.

    The sum of ``admin checksum table`` covers keys, and so the table's id: comparable only where the restore kept the ids.
    """
    for table in tables:
        assert source.db.checksum(table) == target.db.checksum(table), table
        first = 2 if same_ids else 3
        sums = [one.db.execute(f"admin checksum table {table}")[0][first:] for one in (source, target)]
        assert sums[0] == sums[1], table
        target.db.execute(f"admin check table {table}")


def test_full_backup_to_s3_restores_into_a_second_cluster(source: Cluster, backup: str, target: Cluster) -> None:
    run = target.keep("restore-full", target.br("restore", "full", *target.at(backup)))
    assert run.succeeded, run.error
    assert '[step="Full Restore"] [progress=100.00%]' in run.stdout
    same(source, target, *TABLES, same_ids=True)
    target.db.execute("insert into shop.t(name) values ('after')")  # the auto-increment id goes on behind the restored rows
    assert target.kv.calls()["store /import_sstpb.ImportSST/Download"] > 0
    assert not [name for name in target.kv.calls() if name.startswith("unsupported store")]


def test_full_backup_to_a_folder_restores_into_a_second_cluster(source: Cluster, target: Cluster) -> None:
    place = f"local://{source.folder}/local"
    run = source.keep("backup-full-local", source.br("backup", "full", "-s", place, "--compression", "snappy"))
    assert run.succeeded, run.error
    assert "Checksum" in run.stdout
    assert target.br("restore", "full", "-s", place).succeeded
    same(source, target, *TABLES)


def test_database_table_and_filter(source: Cluster, target: Cluster) -> None:
    made = source.keep("backup-db", source.br("backup", "db", "--db", "shop", *source.at("db")))
    assert made.succeeded
    assert '[step="Database Backup"] [progress=100.00%]' in made.stdout
    restored = target.keep("restore-db", target.br("restore", "db", "--db", "shop", *target.at("db")))
    assert restored.succeeded
    assert '[step="DataBase Restore"] [progress=100.00%]' in restored.stdout
    assert target.user_databases() == {"shop"}
    same(source, target, "shop.t", "shop.other", "shop.p")

    target.db.execute("drop database shop")
    made = source.keep("backup-table", source.br("backup", "table", "--db", "shop", "--table", "t", *source.at("table")))
    assert made.succeeded
    assert '[step="Table Backup"] [progress=100.00%]' in made.stdout
    restored = target.keep("restore-table", target.br("restore", "table", "--db", "shop", "--table", "t", *target.at("table")))
    assert restored.succeeded
    assert '[step="Table Restore"] [progress=100.00%]' in restored.stdout
    assert target.db.execute("show tables from shop") == [("t",)]
    same(source, target, "shop.t")

    target.db.execute("drop database shop")
    made = source.keep("backup-filter", source.br("backup", "full", "-f", "shop.*", "-f", "!shop.p", *source.at("filter")))
    assert made.succeeded
    assert target.br("restore", "full", *target.at("filter")).succeeded
    assert {row[0] for row in target.db.execute("show tables from shop")} == {"t", "other"}
    same(source, target, "shop.t", "shop.other")


def test_incremental_backup_follows_changes(tmp_path: Path, s3: S3) -> None:
    with cluster(tmp_path / "changing", s3) as source, cluster(tmp_path / "target", s3) as target:
        source.db.execute(*SEED)
        assert source.br("backup", "full", *source.at("inc0")).succeeded
        decoded = source.br("validate", "decode", "--field=end-version", *source.at("inc0"))
        since = re.findall(r"^\d{15,}$", decoded.stdout, re.MULTILINE)[-1]
        source.db.execute(
            "delete from shop.t where id % 3 = 0",
            "update shop.t set note = 'changed' where id % 5 = 0",
            "create table shop.late(a int primary key)",
            "insert into shop.late values (7)",
        )
        run = source.keep("backup-incremental", source.br("backup", "full", "--lastbackupts", since, *source.at("inc1")))
        assert run.succeeded, run.error
        assert target.br("restore", "full", *target.at("inc0")).succeeded
        restored = target.br("restore", "full", *target.at("inc1"))
        assert restored.succeeded, restored.error
        same(source, target, *TABLES, "shop.late")


Args = Callable[[Cluster], tuple[str, ...]]
ENCRYPTION = ("--crypter.method", "aes128-ctr", "--crypter.key", "0123456789abcdef0123456789abcdef")
REFUSALS: dict[str, tuple[Args, str]] = {
    "path-in-use": (lambda c: ("backup", "full", *c.at("full")), r"backup meta file exists in s3://bkt/full//backupmeta, .*"),
    "no-such-bucket": (
        lambda c: ("backup", "full", "-s", "s3://absent/x", "--s3.endpoint", c.s3.endpoint),
        r"failed to get region of bucket absent: NotFound: Not Found\s+status code: 404.*",
    ),
    "encryption-refused-by-the-store": (
        lambda c: ("backup", "full", *ENCRYPTION, *c.at("encrypted")),
        r"error happen in store \d+: unknown error, retried too many times, give up: \[BR:KV:ErrKVStorage\].*",
    ),
    "restore-into-data": (
        lambda c: ("restore", "full", *c.at("full")),
        r"user db/tables: [\w., ]+: \[BR:Restore:ErrRestoreNotFreshCluster\]cluster is not fresh",
    ),
    "restore-without-backupmeta": (
        lambda c: ("restore", "full", *c.at("nothing-here")),
        r"load backupmeta failed: failed to read s3 file, file info: .* NoSuchKey: .*",
    ),
    "restore-of-an-absent-table": (
        lambda c: ("restore", "table", "--db", "shop", "--table", "absent", *c.at("full")),
        r"\[table: `shop`.`absent`\] has not been backup, .*: \[BR:Common:ErrUndefinedDbOrTable\].*",
    ),
    "log-start": (
        lambda c: ("log", "start", "--task-name", "x", *c.at("log")),
        r"Unable to create task about log-backup. please set TiKV config `log-backup.enable` to true and restart TiKVs.",
    ),
    "unknown-flag": (lambda c: ("backup", "full", "--nonsense", *c.at("x")), r"unknown flag: --nonsense"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(source: Cluster, backup: str, name: str) -> None:
    args, message = REFUSALS[name]
    run = source.keep(name, source.br(*args(source)))
    assert run.code == 1
    assert not run.succeeded
    assert re.fullmatch(message, run.error, re.DOTALL), run.error
    assert "0123456789abcdef" not in run.stdout + run.stderr


def test_the_store_says_why_it_refuses_encryption(source: Cluster) -> None:
    source.br("backup", "table", "--db", "hr", "--table", "people", *ENCRYPTION, *source.at("encrypted-table"))
    assert "encryption (--crypter.method, here AES128_CTR) is not supported" in source.kv.log.read_text()
    assert not [key for key in source.s3.keys("bkt", "encrypted-table") if key.endswith(".sst")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong-secret-key", r"failed to get region of bucket bkt: Forbidden: Forbidden\s+status code: 403.*"),
        ("access-denied", r".*AccessDenied: Access Denied\.?\s+status code: 403.*"),
    ],
)
def test_bad_credentials(source: Cluster, s3: S3, name: str, message: str) -> None:
    keys = {**s3.env, "AWS_SECRET_ACCESS_KEY": "not-the-secret"} if name == "wrong-secret-key" else s3.reader
    run = source.keep(name, source.br("backup", "full", *source.at(name), env=keys))
    assert run.code == 1
    assert re.fullmatch(message, run.error, re.DOTALL), run.error
    assert keys["AWS_SECRET_ACCESS_KEY"] not in run.stdout + run.stderr
    assert source.s3.keys("bkt", name) == []


def test_a_backup_of_nothing_succeeds(source: Cluster) -> None:
    """So the exit code says nothing about whether anything was backed up: look at the key count."""
    for name, args in {
        "backup-of-an-absent-db": ("backup", "db", "--db", "absent"),
        "backup-filter-matches-nothing": ("backup", "full", "-f", "absent.*"),
    }.items():
        run = source.keep(name, source.br(*args, *source.at(name)))
        assert run.succeeded
        assert "total-kv=" not in run.summary


def test_restore_of_a_database_onto_itself_is_not_refused(source: Cluster, target: Cluster, backup: str) -> None:
    """Only a full restore asks for an empty cluster; here the same rows are written once more."""
    assert target.br("restore", "full", *target.at(backup)).succeeded
    again = target.keep("restore-db-onto-itself", target.br("restore", "db", "--db", "shop", *target.at(backup)))
    assert again.succeeded
    same(source, target, *TABLES)


def test_region_errors_are_overcome(source: Cluster, target: Cluster) -> None:
    source.kv.set_faults(Faults(region_errors=3))
    run = source.keep("region-errors-overcome", source.br("backup", "full", *source.at("regions")))
    assert run.succeeded
    target.kv.set_faults(Faults(region_errors=2))
    assert target.br("restore", "full", *target.at("regions")).succeeded
    assert (source.kv.calls()["fault region error"], target.kv.calls()["fault region error"]) == (3, 2)
    same(source, target, *TABLES)


def test_a_lock_in_the_way_is_resolved(source: Cluster, target: Cluster) -> None:
    source.kv.set_faults(Faults(locks=2, lock_ttl_ms=500))
    run = source.keep("lock-resolved", source.br("backup", "db", "--db", "shop", *source.at("locks"), "--checksum=true"))
    assert run.succeeded
    assert source.kv.calls()["fault lock"] == 2
    assert target.br("restore", "db", "--db", "shop", *target.at("locks")).succeeded
    same(source, target, "shop.t", "shop.other", "shop.p")


def test_lost_data_is_noticed_by_checksums(source: Cluster, target: Cluster, backup: str) -> None:
    source.kv.set_faults(Faults(lose_pairs=1))
    table = ("--db", "shop", "--table", "t")
    made = source.br("backup", "table", *table, "--checksum=true", *source.at("lossy"))
    source.keep("backup-checksum-mismatch", made)
    assert (made.code, made.error) == (1, "[BR:Backup:ErrBackupChecksumMismatch]backup checksum mismatch")

    target.kv.set_faults(Faults(lose_pairs=1))
    restored = target.keep("restore-checksum-mismatch", target.br("restore", "table", *table, *target.at(backup)))
    assert restored.code == 1
    assert restored.error.endswith("[BR:Restore:ErrRestoreChecksumMismatch]restore checksum mismatch")
    assert '["failed in validate checksum"]' in restored.stdout


def test_a_damaged_file_is_not_restored(source: Cluster, target: Cluster) -> None:
    """br tries a damaged file again for minutes, so this run is stopped; the offline check answers at once."""
    assert source.br("backup", "table", "--db", "hr", "--table", "people", *source.at("damaged")).succeeded
    client = source.s3.client()
    (key,) = (key for key in source.s3.keys("bkt", "damaged") if key.endswith("write.sst"))
    content = bytearray(client.get_object(Bucket="bkt", Key=key)["Body"].read())
    content[20] ^= 1
    client.put_object(Bucket="bkt", Key=key, Body=bytes(content))

    checked = source.keep("debug-checksum-damaged", source.br("debug", "checksum", *source.at("damaged")))
    assert checked.code == 1
    assert "may be changed" in checked.error
    assert checked.error.endswith("[BR:Backup:ErrBackupChecksumMismatch]backup checksum mismatch")
    restored = target.br("restore", "table", "--db", "hr", "--table", "people", *target.at("damaged"), stop_after=15)
    target.keep("restore-damaged-stopped", restored)
    assert restored.code == 1
    assert "[BR:KV:ErrKVDownloadFailed]download sst failed" in restored.stdout
    assert target.db.execute("select count(*) from hr.people") == [(0,)]


@pytest.mark.parametrize(("name", "how"), [("killed", signal.SIGKILL), ("terminated", signal.SIGTERM)])
def test_the_checkpoint_lock_of_a_dead_backup_keeps_the_next_one_out(source: Cluster, name: str, how: signal.Signals) -> None:
    """Even SIGTERM leaves the lock behind; it counts for five minutes from when it was last written."""
    source.kv.set_faults(Faults(slow_ms=300))
    dead = source.keep(f"backup-{name}", source.br("backup", "full", *source.at(name), stop_after=5, how=how))
    assert dead.code == (1 if how is signal.SIGTERM else -signal.SIGKILL)
    assert dead.error.endswith("context canceled" if how is signal.SIGTERM else "")
    lock = f"{name}/checkpoints/backup/checkpoint.lock"
    assert lock in source.s3.keys("bkt", name)

    again = source.keep(f"backup-again-after-{name}", source.br("backup", "full", *source.at(name)))
    assert again.code == 1
    assert re.match(
        r"The existing lock will expire in (29\d|300) seconds\. There may be another BR\(\d+\) running", again.error
    )
    other = source.keep("checkpoint-of-another-config", source.br("backup", "full", "-f", "shop.*", *source.at(name)))
    assert other.code == 1
    assert "because the checkpoint mode is used, but the hashs of the configs are not the same" in other.error

    source.kv.set_faults(Faults())
    source.s3.client().delete_object(Bucket="bkt", Key=lock)
    assert source.br("backup", "full", *source.at(name)).succeeded


def test_a_killed_backup_resumes_from_its_checkpoint(source: Cluster, target: Cluster) -> None:
    """br saves its checkpoint every 30 s; the first run is killed once one is there."""

    def saved() -> bool:
        return any(key.endswith(".cpt") for key in source.s3.keys("bkt", "resumed"))

    source.kv.set_faults(Faults(slow_ms=1000))
    before = source.kv.calls()["backup region"]
    killed = source.br("backup", "full", *source.at("resumed"), stop_after=100, stop_when=saved, how=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    assert saved()
    first = source.kv.calls()["backup region"] - before

    source.kv.set_faults(Faults())
    source.s3.client().delete_object(Bucket="bkt", Key="resumed/checkpoints/backup/checkpoint.lock")
    run = source.keep("backup-resumed", source.br("backup", "full", *source.at("resumed")))
    assert run.succeeded
    regions = re.search(r"\[backup-total-regions=(\d+)\]", run.summary)
    assert regions
    second = source.kv.calls()["backup region"] - before - first
    assert second < int(regions[1])
    assert not [key for key in source.s3.keys("bkt", "resumed") if "checkpoint" in key]
    assert target.br("restore", "full", *target.at("resumed")).succeeded
    same(source, target, *TABLES)


def test_a_killed_restore_resumes(source: Cluster, target: Cluster, backup: str) -> None:
    """Its checkpoint is in a database of the target cluster, without a lock; the same command again finishes the work."""
    target.kv.set_faults(Faults(slow_ms=3000))
    killed = target.br("restore", "full", *target.at(backup), stop_after=10, how=signal.SIGKILL)
    target.keep("restore-killed", killed)
    assert killed.code == -signal.SIGKILL
    assert "__TiDB_BR_Temporary_Snapshot_Restore_Checkpoint" in target.user_databases()

    target.kv.set_faults(Faults())
    again = target.keep("restore-resumed", target.br("restore", "full", *target.at(backup)))
    assert again.succeeded, again.error
    assert target.user_databases() == {"shop", "hr"}
    same(source, target, *TABLES)


def test_pd_out_of_reach(source: Cluster, tmp_path: Path) -> None:
    """On its own br gives up after some 100 s; the recording waits for that, the daily run stops it."""
    br = Br(pd="127.0.0.1:1", folder=tmp_path, env={})
    patience = 150.0 if RECORDING else 3.0
    run = br("backup", "full", "-s", f"local://{tmp_path}/x", stop_after=patience)
    keep("pd-unreachable", run, places={str(tmp_path): "/backups"})
    assert (run.code, run.error.splitlines()[-1]) == (1, "[pd] failed to get cluster id")
