"""One minikv with its tidb-server, an S3 server beside it, and a br that talks to both: no Kubernetes, no manager."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox.minikv import MiniKV, minikv_with_tidb
from tests.support.br import Br, BrRun, keep
from tests.support.servers import S3, Tidb

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


@contextmanager
def cluster(folder: Path, s3: S3) -> Iterator[Cluster]:
    """A new, empty cluster."""
    with minikv_with_tidb(folder) as (kv, tidb):
        br = Br(pd=kv.pd, folder=folder / "br", env=s3.env)
        yield Cluster(kv=kv, db=Tidb(port=tidb.port), br=br, s3=s3, folder=folder)


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
