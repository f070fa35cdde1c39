"""The real br and tidb-server on minikv: round trips compared by SQL, and what br refuses.

The runs are also the source of ``tests/golden/br_logs`` (see ``tests/support/br.py``). What they prove, and what not, is in
``docs/minikv.md``.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.br_cluster import SEED, TABLES, Cluster, cluster, same
from tests.support.servers import S3

pytestmark = pytest.mark.integration


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
