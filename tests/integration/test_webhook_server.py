"""``python -m app`` as the manifests run it: for its caller only, over TLS, within bounds, whatever strangers do."""

import itertools
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import pytest

from app import openapi
from sandbox.patience import CONNECT, PATIENCE, until
from sandbox.ports import free_ports
from tests.support.certificates import self_signed

TOKEN = "0123456789abcdef0123456789abcdef"
BODY = orjson.dumps(openapi.example("backup", "sync"))
BIG = 50_000_000
LIMITS = {
    "TIDB_BACKUP_HEADER_TIMEOUT": "2",
    "TIDB_BACKUP_BODY_TIMEOUT": "3",
    "TIDB_BACKUP_MAX_CONNECTIONS": "16",
    "TIDB_BACKUP_MAX_BODIES": "4000000",
    "TIDB_BACKUP_LOG_FORMAT": "json",
}


@dataclass(kw_only=True)
class Webhook:
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    port: int = 0
    status_port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    opened: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        self.port, self.status_port = free_ports(2)
        own = {"TIDB_BACKUP_PORT": str(self.port), "TIDB_BACKUP_STATUS_PORT": str(self.status_port)}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDB_BACKUP_")}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app"], env={**clean, **own, **self.env}, stdout=log, stderr=log
            )
        until(self._ready, what=self.log)

    def _ready(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.status_port}/readyz").status_code == 200
        return False

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        assert self.process
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.close()

    def close(self) -> None:
        """Close every connection that a test opened."""
        while self.opened:
            self.opened.pop().close()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def metric(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.status_port}/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"tidb_backup_{name}"))

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "hooks.crt"))

    def client(self, token: str = TOKEN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        kept = httpx.Limits(keepalive_expiry=None)
        address = f"https://127.0.0.1:{self.port}"
        return httpx.Client(base_url=address, verify=self.trust, headers=headers, timeout=CONNECT, limits=kept)

    def raw(self) -> socket.socket:
        self.opened.append(socket.create_connection(("127.0.0.1", self.port), timeout=CONNECT))
        return self.opened[-1]

    def secure(self) -> ssl.SSLSocket:
        secured = self.trust.wrap_socket(self.raw(), server_hostname="127.0.0.1")
        self.opened[-1] = secured  # which took the socket over
        return secured

    def half_sent(self, count: int, token: str = TOKEN, *, total: int = BIG) -> ssl.SSLSocket:
        """A connection that announced *total* bytes for a schedule and sent *count*."""
        connection = self.secure()
        head = (
            f"POST /backupschedule/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {total}\r\n\r\n"
        )
        connection.sendall(head.encode())
        with suppress(OSError):  # closed while it is sent
            connection.sendall(b" " * count)
        return connection


def with_files(folder: Path) -> dict[str, str]:
    self_signed(folder, "hooks")
    (folder / "tokens").write_text(TOKEN + "\n")
    return {
        "TIDB_BACKUP_TOKEN_FILE": str(folder / "tokens"),
        "TIDB_BACKUP_TLS_CERT_FILE": str(folder / "hooks.crt"),
        "TIDB_BACKUP_TLS_KEY_FILE": str(folder / "hooks.key"),
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    folder = tmp_path_factory.mktemp("hooks")
    running = Webhook(folder=folder, env={**with_files(folder), **LIMITS})
    running.start()
    yield running
    running.stop()


@pytest.fixture
def webhook(shared: Webhook) -> Iterator[Webhook]:
    """One for all tests; what a test opens is closed after it."""
    yield shared
    shared.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Webhook]:
    """One that a test may renew and stop."""
    running = Webhook(folder=tmp_path, env={**with_files(tmp_path), **LIMITS})
    running.start()
    yield running
    running.stop()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes *connection*, whatever it says before."""
    connection.settimeout(PATIENCE)
    with suppress(ConnectionError, ssl.SSLError):
        try:
            while connection.recv(65536):
                pass
        except TimeoutError:
            return False
    return True


def is_refused(connection: socket.socket, pieces: Iterable[bytes], *, pause: float) -> bool:
    """Whether the other side has enough before it was sent all *pieces*."""
    with suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        return False
    return True


def test_only_the_caller_with_the_token_is_answered(webhook: Webhook) -> None:
    strangers = 'hook_requests_total{code="401",kind="backup"'
    before = webhook.metric(strangers)
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
    for token in ("", TOKEN[:-1], TOKEN + "0"):
        with webhook.client(token) as stranger:
            for path in ("/backup/sync", "/backupschedule/finalize", "/namespace/sync"):
                refused = stranger.post(path, content=BODY)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert "Authorization" in refused.json()["error"]
                assert not token or token not in refused.text
            for path in ("/metrics", "/healthz", "/readyz", "/docs", "/openapi.json", "/"):
                assert stranger.get(path).status_code == 404
    assert webhook.metric(strangers) - before == 3
    assert "401" not in webhook.log()
    # Plain HTTP to the port of TLS gets nothing.
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{webhook.port}/backup/sync", content=BODY)


def test_token_and_certificate_are_renewed_under_way(own: Webhook) -> None:
    with own.client() as connected:
        assert connected.post("/backup/sync", content=BODY).status_code == 200
        before = ssl.get_server_certificate(("127.0.0.1", own.port))
        self_signed(own.folder, "fresh")
        for name in ("crt", "key"):
            (own.folder / f"fresh.{name}").replace(own.folder / f"hooks.{name}")
        (own.folder / "fresh").write_text("f" * 32)
        (own.folder / "fresh").replace(own.folder / "tokens")
        until(
            lambda: ssl.get_server_certificate(("127.0.0.1", own.port)) != before and own.log().count("read again") >= 2,
            what=own.log,
        )
        with own.client("f" * 32) as renewed:
            assert renewed.post("/backup/sync", content=BODY).status_code == 200
        # A connection from before is none of the caller's any more.
        assert connected.post("/backup/sync", content=BODY).status_code == 401


def test_idle_connections_neither_pile_up_nor_keep_the_caller_out(webhook: Webhook) -> None:
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
        idle = [webhook.raw() for _ in range(200)]
        assert caller.post("/backup/sync", content=BODY).status_code == 200, "the caller's own connection was closed"
        with webhook.client() as other:
            assert other.post("/backup/sync", content=BODY).status_code == 200
        assert all(is_closed(connection) for connection in idle)
    assert webhook.metric('connections_dropped_total{reason="too_many"') >= 180
    assert webhook.metric('connections_dropped_total{reason="handshake"') >= 10


def test_the_head_of_a_request_has_a_time_and_a_size(webhook: Webhook) -> None:
    for first in (b"", b"POST /backup/sync HTTP/1.1\r\nX: y"):
        connection = webhook.secure()
        connection.sendall(first)
        assert is_closed(connection)
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
    assert is_refused(webhook.secure(), itertools.repeat(b"X", 10_000), pause=0.1)
    heads = (b"X-%d: " % number + b"y" * 1000 + b"\r\n" for number in range(10_000))
    assert is_refused(webhook.secure(), itertools.chain([b"POST /backup/sync HTTP/1.1\r\n"], heads), pause=0)
    assert webhook.metric('connections_dropped_total{reason="head_too_long"') == 1
    assert webhook.metric('connections_dropped_total{reason="head_timeout"') >= 2


PIPELINED = b"POST /backup/sync HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def test_requests_that_do_not_wait_for_their_answers_are_not_queued(webhook: Webhook) -> None:
    before = rss(webhook)
    for _ in range(20):
        connection = webhook.secure()
        with suppress(OSError):  # closed while it is sent
            connection.sendall(PIPELINED * 20_000)
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
    assert webhook.metric('connections_dropped_total{reason="pipelined"') >= 20
    assert rss(webhook) - before < 30_000_000


def test_trailers_without_end_are_not_read(webhook: Webhook) -> None:
    connection = webhook.secure()
    head = f"POST /backup/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head.encode() + b"1\r\n{\r\n0\r\n")
    trailers = (b"X-%d: " % number + b"y" * 100_000 + b"\r\n" for number in range(1000))
    assert is_refused(connection, trailers, pause=0)


def test_silent_connections_to_the_status_port_do_not_fail_the_probes(webhook: Webhook) -> None:
    silent = [socket.create_connection(("127.0.0.1", webhook.status_port), timeout=CONNECT) for _ in range(100)]
    for path in ("healthz", "readyz", "metrics"):
        assert httpx.get(f"http://127.0.0.1:{webhook.status_port}/{path}", timeout=CONNECT).status_code == 200
    for connection in silent:
        connection.close()


def test_strangers_cannot_fill_the_log(webhook: Webhook) -> None:
    before = webhook.log()
    for text in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"):
        for _ in range(20):
            webhook.secure().sendall(text)
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
    added = webhook.log().removeprefix(before).splitlines()
    assert len([line for line in added if '"sync"' not in line]) == 0, added


def test_a_body_that_never_begins_is_not_waited_for(webhook: Webhook) -> None:
    before = webhook.metric('connections_dropped_total{reason="body_timeout"')
    assert is_closed(webhook.half_sent(0))
    assert webhook.metric('connections_dropped_total{reason="body_timeout"') == before + 1


def test_half_sent_bodies_of_strangers_hold_nothing(webhook: Webhook) -> None:
    before = rss(webhook)
    half = [webhook.half_sent(2_000_000, "0" * 32) for _ in range(12)]
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
    assert rss(webhook) - before < 30_000_000
    assert all(is_closed(connection) for connection in half)


def test_half_sent_bodies_with_a_token_give_way(webhook: Webhook) -> None:
    """They may fill the room for bodies; who then comes with a small one is answered, and who comes with a big one gets the
    room of those that stalled."""
    before = rss(webhook)
    half = [webhook.half_sent(1_900_000) for _ in range(6)]
    time.sleep(1.2)
    with webhook.client() as caller:
        assert caller.post("/backup/sync", content=BODY).status_code == 200
        big = orjson.dumps({**openapi.example("backupschedule", "sync"), "pad": "x" * 2_000_000})
        assert caller.post("/backupschedule/sync", content=big).status_code == 200
    assert rss(webhook) - before < 40_000_000
    told = b""
    for connection in half:
        connection.settimeout(PATIENCE)
        with suppress(OSError):
            told += connection.recv(65536)
    assert b"503 Service Unavailable" in told
    assert b"retry-after: 1" in told.lower()
    assert b"408 Request Timeout" in told


def test_the_end_is_not_held_up_by_those_who_idle(own: Webhook) -> None:
    held = [own.raw(), own.secure(), own.half_sent(1000), own.half_sent(100_000, "0" * 32)]
    until(lambda: own.metric("connections ") == len(held), what="they are accepted")
    assert own.process
    own.process.terminate()
    assert own.process.wait(PATIENCE) == 0


def rss(webhook: Webhook) -> int:
    """Bytes."""
    assert webhook.process
    text = Path(f"/proc/{webhook.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


def test_without_token_and_certificate_curl_is_answered_and_the_log_warns(tmp_path: Path) -> None:
    webhook = Webhook(folder=tmp_path, env={"TIDB_BACKUP_LOG_FORMAT": "json"})
    webhook.start()
    answered = httpx.post(f"http://127.0.0.1:{webhook.port}/backup/sync", content=BODY)
    document = httpx.get(f"http://127.0.0.1:{webhook.port}/docs")
    webhook.stop()
    assert (answered.status_code, document.status_code) == (200, 200)
    assert "TIDB_BACKUP_TOKEN_FILE" in webhook.log()


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"TIDB_BACKUP_TOKEN_FILE": "/nowhere"}, "TIDB_BACKUP_TOKEN_FILE=/nowhere: No such file"),
        ({"TIDB_BACKUP_TOKEN_FILE": "/dev/null"}, "is empty"),
        ({"TIDB_BACKUP_TLS_CERT_FILE": "/dev/null"}, "TIDB_BACKUP_TLS_KEY_FILE is not set"),
        ({"TIDB_BACKUP_TLS_CERT_FILE": "/dev/null", "TIDB_BACKUP_TLS_KEY_FILE": "/dev/null"}, "no certificate with its key"),
        ({"TIDB_BACKUP_PORT": "70000"}, "TIDB_BACKUP_PORT: "),
        ({"TIDB_BACKUP_CLUSTER_KINDS": "notjson"}, "cluster_kinds"),
        ({"TIDB_BACKUP_HOST": "203.0.113.1"}, "cannot listen on 203.0.113.1"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_served(env: dict[str, str], says: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDB_BACKUP_")}
    port, status = free_ports(2)
    ports = {"TIDB_BACKUP_PORT": str(port), "TIDB_BACKUP_STATUS_PORT": str(status)}
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        env={**clean, **ports, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("taken", ["TIDB_BACKUP_PORT", "TIDB_BACKUP_STATUS_PORT"])
def test_a_port_that_is_taken_is_one_line(taken: str) -> None:
    other = free_ports(1)[0]
    names = {"TIDB_BACKUP_PORT": str(other), "TIDB_BACKUP_STATUS_PORT": str(other)}
    with socket.create_server(("127.0.0.1", 0)) as holder:
        env = {**os.environ, **names, taken: str(holder.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-m", "app"], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot listen on 127.0.0.1")
    assert "Traceback" not in done.stderr
