"""The small API client, against a server that remembers what it was asked."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backup_manager.errors import UnreachableError, UsageError
from backup_manager.kubernetes_api import ApiForbiddenError, ApiNotFoundError, ConflictError, KubernetesApi, Server


class ApiServer(ThreadingHTTPServer):
    """Answers everything with *status* and *body*."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body: Any = {"items": []}
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        data = self.server.body if isinstance(self.server.body, bytes) else json.dumps(self.server.body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_report_is_patched_with_the_uid(server: ApiServer) -> None:
    KubernetesApi(Server(url=server.url, token="t0")).annotate_job("ns", "backup-x", "u-1", {"k": "v"})
    method, path, headers, body = server.seen[0]
    assert (method, path) == ("PATCH", "/apis/batch/v1/namespaces/ns/jobs/backup-x")
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert headers["Authorization"] == "Bearer t0"
    assert body == {"metadata": {"annotations": {"k": "v"}, "uid": "u-1"}}


def test_a_rotated_token_is_used_at_once(server: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    api = KubernetesApi(Server(url=server.url, token_file=token))
    for text in ("first", "second"):
        token.write_text(text + "\n")
        api.resource("Backup", "ns", "x")
    assert [headers["Authorization"] for _, _, headers, _ in server.seen] == ["Bearer first", "Bearer second"]
    assert server.seen[0][1] == "/apis/pingcap.com/v1alpha1/namespaces/ns/backups/x"


def test_pods_are_listed_by_label(server: ApiServer) -> None:
    server.body = {"items": [{"metadata": {"name": "p"}}]}
    assert KubernetesApi(Server(url=server.url)).pods("ns", {"b/c": "1", "a": "2"})[0]["metadata"]["name"] == "p"
    assert server.seen[0][1] == "/api/v1/namespaces/ns/pods?labelSelector=a%3D2%2Cb%2Fc%3D1"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, ApiForbiddenError),
        (403, ApiForbiddenError),
        (404, ApiNotFoundError),
        (409, ConflictError),
        (422, ConflictError),
        (503, UnreachableError),
    ],
)
def test_refusals(server: ApiServer, status: int, error: type[Exception]) -> None:
    server.status, server.body = status, {"message": "because"}
    with pytest.raises(error) as caught:
        KubernetesApi(Server(url=server.url)).job("ns", "x")
    assert "because" in str(caught.value)


def test_an_answer_that_is_no_json_is_no_crash(server: ApiServer) -> None:
    server.status, server.body = 502, b"<html>bad gateway</html>"
    with pytest.raises(UnreachableError):
        KubernetesApi(Server(url=server.url)).job("ns", "x")


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError) as caught:
        KubernetesApi(Server(url="http://127.0.0.1:1")).job("ns", "x")
    assert caught.value.exit_code == 3


def test_in_cluster(tmp_path: Path) -> None:
    server = Server.in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert (server.url, server.token_file) == ("https://[fd00::1]:6443", tmp_path / "token")
    with pytest.raises(UsageError):
        Server.in_cluster({}, tmp_path)


def test_a_kubeconfig_with_files_and_inline_data(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://h:1", "certificate-authority": "ca.crt"}}],
                "users": [{"name": "u", "user": {"client-certificate-data": "QUJD", "client-key-data": "REVG", "token": "t"}}],
            }
        )
    )
    server = Server.from_kubeconfig(config)
    assert (server.url, server.ca_file, server.token) == ("https://h:1", str(tmp_path / "ca.crt"), "t")
    assert server.client_cert is not None
    assert [Path(name).read_text() for name in server.client_cert] == ["ABC", "DEF"]
    assert "QUJD" not in repr(server)
    for name in server.client_cert:
        assert Path(name).stat().st_mode & 0o777 == 0o600
        Path(name).unlink()


@pytest.mark.parametrize("text", ["", "{}", "a: [", "current-context: x\ncontexts: []\n"])
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(text)
    with pytest.raises(UsageError):
        Server.from_kubeconfig(config)
