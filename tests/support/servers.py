"""Real servers for integration tests: TiDB on unistore, SeaweedFS as S3. Loopback only, free ports, each stopped by pid."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pymysql

from sandbox.certificates import write_certificates
from sandbox.ports import free_port
from sandbox.processes import start_ready, stop

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / ".tools" / "bin"
ACCESS_KEY: Final = "test-access"
SECRET_KEY: Final = "test-secret-key"
READER_KEY: Final = "test-reader"
WRITER_KEY: Final = "test-writer"
NEIGHBOUR_KEY: Final = "test-neighbour"
_STOP_SECONDS: Final = 10.0


def tool(name: str) -> str:
    """The binary *name*; a clear failure when it was not built."""
    found = shutil.which(name, path=tool_path())
    if found is None:
        raise RuntimeError(f"{name} is missing; build the tools with `make tools`")
    return found


def tool_path() -> str:
    """A PATH that finds the tools."""
    return os.pathsep.join([str(TOOLS), str(ROOT / ".venv" / "bin"), os.environ.get("PATH", "")])


@dataclass(frozen=True, kw_only=True)
class Tidb:
    """A TiDB server with an empty password for ``root``."""

    port: int
    host: str = "127.0.0.1"

    def execute(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run *statements*; the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with (
            closing(
                pymysql.connect(
                    host=self.host, port=self.port, user="root", database=database, autocommit=True, charset="utf8mb4"
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
        return rows

    def checksum(self, table: str) -> tuple[int, int]:
        """Row count and an order-independent sum over every column of *table*, made by the server."""
        schema, _, name = table.partition(".")
        columns = [
            row[0]
            for row in self.execute(
                "select column_name from information_schema.columns "
                f"where table_schema='{schema}' and table_name='{name}' order by ordinal_position"
            )
        ]
        joined = ",".join(f"ifnull(hex(cast(`{column}` as binary)),'null')" for column in columns)
        row = self.execute(f"select count(*), ifnull(sum(crc32(concat_ws('#',{joined}))),0) from `{schema}`.`{name}`")[0]
        return int(row[0]), int(row[1])

    def variable(self, name: str) -> str | None:
        """A row of ``mysql.tidb``."""
        rows = self.execute(f"select variable_value from mysql.tidb where variable_name='{name}'")
        return str(rows[0][0]) if rows else None


@dataclass(frozen=True, kw_only=True)
class S3:
    """An S3 server that knows one key pair."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    https: str = ""
    """The same server behind TLS, with a certificate of the authority in the file *authority*."""
    authority: str = ""

    @property
    def reader(self) -> dict[str, str]:
        """Credentials in the environment that may list and read but not write."""
        return {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @property
    def writer(self) -> dict[str, str]:
        """The same for keys that may write and neither list nor read."""
        return {"AWS_ACCESS_KEY_ID": WRITER_KEY, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @property
    def neighbour(self) -> dict[str, str]:
        """The same for keys that own the bucket ``theirs`` and no other."""
        return {"AWS_ACCESS_KEY_ID": NEIGHBOUR_KEY, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @property
    def env(self) -> dict[str, str]:
        """The credentials as a Job's environment has them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def client(self) -> Any:
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Every key under *prefix*."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]


@contextmanager
def tidb(folder: Path, *, store: str = "unistore") -> Iterator[Tidb]:
    """A TiDB server in *folder*, ready, with its GC row present."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Tidb(port=free_port())
    argv = [
        tool("tidb-server"),
        f"--store={store}",
        f"--path={folder / 'data'}",
        "--host=127.0.0.1",
        f"-P={server.port}",
        f"--status={free_port()}",
        "--status-host=127.0.0.1",
        f"--temp-dir={folder / 'tmp'}",
        f"--socket={folder / 'tidb.sock'}",
    ]
    with running(argv, folder, "tidb", lambda: server.execute("select 1")):
        server.execute("set global tidb_gc_life_time='10m0s'")
        yield server


def _identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, Any]:
    return {
        "name": name,
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": list(actions),
    }


@contextmanager
def seaweed(folder: Path, *, tls: bool = False, secret_key: str = SECRET_KEY, neighbours_key: str = SECRET_KEY) -> Iterator[S3]:
    """An S3 server in *folder*; with *tls* it listens on a second port too, behind TLS. All accounts have one secret key, but
    for that of ``theirs``, which may have another."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    grpc = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    identities = [
        _identity("test", ACCESS_KEY, secret_key, "Admin", "Read", "List", "Tagging", "Write"),
        _identity("reader", READER_KEY, secret_key, "Read", "List"),
        _identity("writer", WRITER_KEY, secret_key, "Write"),
        _identity(
            "neighbour", NEIGHBOUR_KEY, neighbours_key, *(f"{action}:theirs" for action in ("Admin", "Read", "List", "Write"))
        ),
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    secure = {}
    if tls:
        write_certificates(folder / "tls")
        secure = {
            "port.https": free_port(),
            "cert.file": folder / "tls/apiserver.crt",
            "key.file": folder / "tls/apiserver.key",
        }
    argv = [
        tool("weed"),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=200",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={port}" for name, port in grpc.items()),
        *(f"-s3.{name}={value}" for name, value in secure.items()),
    ]
    https = {"https": f"https://127.0.0.1:{secure['port.https']}", "authority": str(folder / "tls/ca.crt")} if tls else {}
    server = S3(endpoint=f"http://127.0.0.1:{ports['s3']}", secret_key=secret_key, **https)
    # It does not end by itself while clients are connected.
    with running(argv, folder, "weed", server.client().list_buckets, grace=0.5):
        yield server


@contextmanager
def running(
    argv: list[str],
    folder: Path,
    name: str,
    ready: Callable[[], object],
    *,
    grace: float = _STOP_SECONDS,
) -> Iterator[None]:
    """The server *argv* in *folder*, ready as soon as *ready* raises nothing; at the end it has *grace* seconds to stop."""

    def answers() -> bool:
        try:
            ready()
        except Exception:  # noqa: BLE001 - whatever a client raises of a server that is not there yet
            return False
        return True

    process = start_ready(name, argv, answers, what="it answers", log=folder / f"{name}.log", cwd=folder, env=dict(os.environ))
    try:
        yield
    finally:
        stop([process], grace=grace)
