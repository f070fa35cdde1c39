"""The files of ``examples/`` made to run in a sandbox: the table of what is put in place of what a reader would put there.

===================================== ===================================================================
in the file                           in the sandbox
===================================== ===================================================================
``host: basic-tidb`` in ``from``      the TiDB ``source``, and its port
``host: basic-tidb`` in ``to``        the TiDB ``target``, and its port: an import wants empty tables
``endpoint: http://minio:9000``       the S3 server
an ``nfs`` volume                     a ``hostPath`` in the sandbox's folder: there is no NFS server
``tidb-secret``, ``s3-secret``        the passwords and keys of these servers
===================================== ===================================================================

All else stays as it is written.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pymysql
import yaml

from sandbox import Cluster
from sandbox.api import Object

ROOT: Final = Path(__file__).resolve().parent.parent.parent
EXAMPLES: Final = ROOT / "examples"
_TIDB: Final = "basic-tidb"
_S3: Final = "http://minio:9000"
_SERVERS: Final = {"from": "source", "to": "target"}


def settled(path: Path, cluster: Cluster) -> list[Object]:
    """The objects of the example *path*, with the servers of *cluster*."""
    found: list[Object] = [item for item in yaml.safe_load_all(path.read_text()) if item]
    for item in found:
        if item["kind"] == "Secret":
            item["stringData"] |= _secrets(cluster).get(item["metadata"]["name"], {})
        else:
            _settle(item, cluster)
    return found


def settled_text(path: Path, cluster: Cluster) -> str:
    """The same as YAML."""
    return yaml.safe_dump_all(settled(path, cluster), sort_keys=False)


def _secrets(cluster: Cluster) -> dict[str, dict[str, str]]:
    bucket = cluster.bucket
    return {
        "tidb-secret": {"password": cluster.tidb().password},
        "s3-secret": {"access_key": bucket.access_key, "secret_key": bucket.secret_key},
    }


def _settle(value: Any, cluster: Cluster) -> None:
    if isinstance(value, list):
        for item in value:
            _settle(item, cluster)
    if not isinstance(value, dict):
        return
    for field, server in _SERVERS.items():
        if isinstance(value.get(field), dict) and value[field].get("host") == _TIDB:
            database = cluster.tidb(server)
            value[field] |= {"host": database.host, "port": database.port}
    if value.get("endpoint") == _S3:
        value["endpoint"] = cluster.bucket.endpoint
    if value.pop("nfs", None):
        value["hostPath"] = {"path": str(volume(cluster)), "type": "DirectoryOrCreate"}
    for item in value.values():
        _settle(item, cluster)


def volume(cluster: Cluster) -> Path:
    """What is mounted in place of the NFS share."""
    return cluster.layout.folder / "nfs-share"


@contextmanager
def connected(cluster: Cluster, server: str = "source") -> Iterator[pymysql.cursors.Cursor]:
    """A cursor on one of the TiDBs."""
    database = cluster.tidb(server)
    connection = pymysql.connect(
        host=database.host, port=database.port, user=database.user, password=database.password, autocommit=True
    )
    with closing(connection), connection.cursor() as cursor:
        yield cursor


def fill_shop(cluster: Cluster, rows: int = 500) -> None:
    """The database ``shop`` that the examples export, in the TiDB ``source``."""
    with connected(cluster) as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS shop")
        cursor.execute("CREATE TABLE IF NOT EXISTS shop.orders (id INT PRIMARY KEY, customer VARCHAR(40), cents INT)")
        values = [(number, f"customer {number % 97}", number * 31 % 9973) for number in range(rows)]
        cursor.executemany("REPLACE INTO shop.orders VALUES (%s, %s, %s)", values)


def orders(cluster: Cluster, server: str) -> list[tuple[Any, ...]]:
    """Every row of ``shop.orders``."""
    with connected(cluster, server) as cursor:
        cursor.execute("SELECT id, customer, cents FROM shop.orders ORDER BY id")
        return list(cursor.fetchall())


def drop_shop(cluster: Cluster, server: str) -> None:
    """Lose the database, so that there is something to bring back."""
    with connected(cluster, server) as cursor:
        cursor.execute("DROP DATABASE IF EXISTS shop")
