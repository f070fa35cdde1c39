"""The small API client, against a server that remembers what it was asked."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backup_manager.backoff import Backoff
from backup_manager.errors import ManagerError, RunInterruptedError, UnreachableError, UsageError
from backup_manager.kubernetes.client import (
    ApiForbiddenError,
    ApiInvalidError,
    ApiNotFoundError,
    ApiUnavailableError,
    ConflictError,
    KubernetesApi,
    Server,
)
from backup_manager.signals import StopSignal


class ApiServer(ThreadingHTTPServer):
    """Answers everything with *status* and *body*, after the first *unavailable* requests, which get 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body: Any = {"items": []}
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.unavailable = 0
        self.headers: dict[str, str] = {}

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
        unavailable = len(self.server.seen) <= self.server.unavailable
        self.send_response(503 if unavailable else self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
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
        (422, ApiInvalidError),
        (429, ApiUnavailableError),
        (500, ApiUnavailableError),
        (504, ApiUnavailableError),
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


class Time:
    """A clock that only the pauses move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def backoff(self, seconds: float = 120.0) -> Backoff:
        return Backoff(seconds=seconds, clock=lambda: self.now, sleep=self.sleep)


def test_an_api_server_that_answers_503_for_a_while_fails_no_read(server: ApiServer) -> None:
    time, server.unavailable = Time(), 9
    api = KubernetesApi(Server(url=server.url), backoff=time.backoff())
    assert api.resource("Backup", "ns", "x") == {"items": []}
    assert len(server.seen) == 10
    assert sum(time.pauses) > 20, "an API server that restarts is away for that long"
    assert len(set(time.pauses)) == len(time.pauses), "jitter: not all Jobs ask again at once"


def test_a_server_that_stays_away_is_given_up_at_the_deadline(server: ApiServer) -> None:
    time, server.unavailable = Time(), 10**6
    with pytest.raises(ApiUnavailableError):
        KubernetesApi(Server(url=server.url), backoff=time.backoff(30)).pods("ns", {"a": "b"})
    assert time.now == pytest.approx(30)


def test_the_pause_that_the_server_asks_for_is_kept(server: ApiServer) -> None:
    time, server.unavailable, server.headers = Time(), 1, {"Retry-After": "17"}
    KubernetesApi(Server(url=server.url), backoff=time.backoff()).resource("Backup", "ns", "x")
    assert time.pauses == [17]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_refusal_is_an_answer_and_is_not_repeated(server: ApiServer, status: int) -> None:
    time, server.status = Time(), status
    with pytest.raises(ManagerError):
        KubernetesApi(Server(url=server.url), backoff=time.backoff()).resource("Backup", "ns", "x")
    assert (len(server.seen), time.pauses) == (1, [])


def test_writes_are_repeated_by_those_who_know_that_they_may_be(server: ApiServer) -> None:
    time, server.unavailable = Time(), 1
    api = KubernetesApi(Server(url=server.url), backoff=time.backoff())
    with pytest.raises(ApiUnavailableError):
        api.annotate_job("ns", "x", "u", {"k": "v"})
    assert (len(server.seen), time.pauses) == (1, [])
    server.unavailable = 2
    api.with_retries(lambda: api.annotate_job("ns", "x", "u", {"k": "v"}))
    assert len(server.seen) == 3


def test_a_read_ends_when_the_run_is_asked_to_end(server: ApiServer) -> None:
    server.unavailable = 10**6
    stop = StopSignal()
    stop.request()
    api = KubernetesApi(Server(url=server.url), backoff=Backoff(seconds=120, sleep=stop.wait))
    with pytest.raises(RunInterruptedError):
        api.resource("Backup", "ns", "x")
    assert len(server.seen) == 1


def test_no_answer_is_waited_for_beyond_the_life_of_the_process() -> None:
    api = KubernetesApi(Server(url="http://127.0.0.1:1"), left=lambda: 3.0)
    assert (api._timeout().connect_timeout, api._timeout()._read) == (3.0, 3.0)
