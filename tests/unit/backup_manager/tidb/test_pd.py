"""What PD's keys of a log backup mean; the real etcd is asked in tests/integration/test_br_log_on_minikv.py."""

import base64
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from backup_manager.errors import ManagerError, UnreachableError
from backup_manager.operations.watch_log import look, told
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.pd import LogTask, Pd, TaskState
from crds.contract import tso

INFO = b"\x10\x07\x22\x01a"  # start_ts 7, name a
ERROR = b"\x08\x01\x12\x04KV:X\x1a\x09disk full\x20\x05"
PREFIX = "/tidb/br-stream"


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


class Etcd(ThreadingHTTPServer):
    """Answers transactions of ranges from *keys*."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys: dict[str, bytes] = {}
        self.status, self.garbage = 200, b""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def found(self, wanted: dict[str, str]) -> dict[str, Any]:
        start = base64.b64decode(wanted["key"]).decode()
        end = base64.b64decode(wanted["range_end"]).decode() if "range_end" in wanted else start + "\0"
        kvs = [
            {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()}
            for key, value in sorted(self.keys.items())
            if start <= key < end
        ]
        return {"response_range": {"kvs": kvs} if kvs else {}}


class _Handler(BaseHTTPRequestHandler):
    server: Etcd

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = [self.server.found(part["requestRange"]) for part in body["success"]]
        data = self.server.garbage or json.dumps({"succeeded": True, "responses": parts}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    with Etcd() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def task(etcd: Etcd, keys: dict[str, bytes]) -> LogTask:
    etcd.keys = {f"{PREFIX}/{key}": value for key, value in ({"info/a": INFO} | keys).items()}
    return Pd(Cluster(pd=etcd.address)).log_task("a")


def test_no_info_is_no_task(etcd: Etcd) -> None:
    etcd.keys = {f"{PREFIX}/info/ab": INFO, f"{PREFIX}/pause/a": b"", f"{PREFIX}/checkpoint/a/central_global": number(9)}
    assert Pd(Cluster(pd=etcd.address)).log_task("a") == LogTask(state=TaskState.ABSENT)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 7),
        ({"checkpoint/a/store/1": number(50), "checkpoint/a/store/2": number(40)}, 40),
        ({"checkpoint/a/store/1": number(50), "checkpoint/a/central_global": number(45)}, 45),
        ({"checkpoint/a/region/1/2": number(3)}, 7),
        ({"checkpoint/a/\x00\x00\x00\x00\x00\x00\x00\x01": number(33)}, 33),
        ({"checkpoint/a/store/1": number(50), "storage-checkpoint/a/1": number(60)}, 60),
        ({"checkpoint/ab/central_global": number(99)}, 7),
        ({"checkpoint/a/central_global": b"short"}, 7),
    ],
)
def test_the_checkpoint_is_reckoned_as_br_does(etcd: Etcd, keys: dict[str, bytes], expected: int) -> None:
    assert task(etcd, keys).checkpoint_ts == expected
    assert task(etcd, keys).state is TaskState.RUNNING


def note(**fields: str) -> bytes:
    return json.dumps(fields).encode()


PROTOBUF = "application/x-protobuf; messagetype=brpb.StreamBackupError"


@pytest.mark.parametrize(
    ("keys", "state", "reason"),
    [
        ({"pause/a": b""}, "paused", "paused by hand"),
        ({"pause/a": b"", "last-error/a/5": ERROR}, "errorPaused", "store 5: KV:X disk full"),
        ({"pause/a": b"", "last-error/ab/5": ERROR}, "paused", "paused by hand"),
        ({"pause/a": note(severity="MANUAL", operation_hostname="desk")}, "paused", "paused from desk"),
        ({"pause/a": note(severity="MANUAL"), "last-error/a/5": ERROR}, "paused", "paused by hand"),
        (
            {"pause/a": note(severity="ERROR", payload_type=PROTOBUF, payload=base64.b64encode(ERROR).decode())},
            "errorPaused",
            "store 5: KV:X disk full",
        ),
        ({"pause/a": note(severity="ERROR", payload_type="text/plain", payload="b29wcw==")}, "errorPaused", "oops"),
        ({"pause/a": note(severity="ERROR")}, "errorPaused", "an error"),
        ({"pause/a": b"\xff\x00"}, "errorPaused", "the reason could not be read"),
        ({"pause/a": b"[1]"}, "errorPaused", "the reason could not be read"),
        ({"pause/a": note(payload="%%%")}, "paused", "paused by hand"),
    ],
)
def test_who_paused_it_and_why(etcd: Etcd, keys: dict[str, bytes], state: str, reason: str) -> None:
    found = task(etcd, keys)
    assert (found.state.value, found.pause_reason) == (state, reason)


def test_a_running_task_may_have_met_an_error(etcd: Etcd) -> None:
    found = task(etcd, {"last-error/a/5": ERROR, "last-error/a/6": b"\xff\xff"})
    assert (found.state, found.last_error) == (TaskState.RUNNING, "store 5: KV:X disk full")


def test_the_next_member_is_asked_when_one_is_down(etcd: Etcd) -> None:
    etcd.keys = {f"{PREFIX}/info/a": INFO}
    assert Pd(Cluster(pd=f"127.0.0.1:1,http://{etcd.address}/")).log_task("a").start_ts == 7


def test_no_pd_is_unknown_with_the_reason() -> None:
    found = look(Pd(Cluster(pd="127.0.0.1:1")), "a")
    assert found.state is TaskState.UNKNOWN
    assert "127.0.0.1:1 cannot be reached" in found.last_error


@pytest.mark.parametrize(("status", "garbage"), [(404, b"{}"), (200, b"<html>"), (200, b"[]"), (200, b"{}")])
def test_what_is_no_pd_is_told_so(etcd: Etcd, status: int, garbage: bytes) -> None:
    etcd.status, etcd.garbage = status, garbage
    with pytest.raises(ManagerError) as caught:
        Pd(Cluster(pd=etcd.address)).log_task("a")
    assert caught.value.problem().reason == "PDRefused"
    assert not isinstance(caught.value, UnreachableError)


def test_the_report_keeps_the_last_known_checkpoint() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    point = tso.from_datetime(datetime(2026, 1, 2, 3, 0, 5, tzinfo=UTC))
    found = told(LogTask(state=TaskState.UNKNOWN, last_error="gone"), point, now)
    assert found == {
        "taskState": "unknown",
        "pauseReason": "",
        "lastError": "gone",
        "observedAt": "2026-01-02T03:04:05Z",
        "checkpointTs": str(point),
        "lagSeconds": 240,
    }
    assert "checkpointTs" not in told(LogTask(state=TaskState.ABSENT), 0, now)
