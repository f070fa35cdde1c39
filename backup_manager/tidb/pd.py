"""PD's etcd, over its JSON gateway: what br, TiKV and TiDB leave there of a log backup, and the key of a restore's lock.

``br log status --json`` does not tell whether a task is paused or why, costs a process each minute, and needs the tool's image;
these few keys are what it reads itself. All reads of one look are one transaction, so they belong together.

=============================================  ==============================================================
``/tidb/br-stream/info/<task>``                ``StreamBackupTaskInfo``; the task exists
``/tidb/br-stream/checkpoint/<task>/...``      ``central_global``, ``store/<id>``: 8 bytes, big-endian
``/tidb/br-stream/storage-checkpoint/<task>/`` the same, as far as the storage has it
``/tidb/br-stream/pause/<task>``               there: paused. Empty, or JSON that says by whom and why
``/tidb/br-stream/last-error/<task>/<store>``  ``StreamBackupError``
=============================================  ==============================================================
"""

import base64
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson
import urllib3

from backup_manager.errors import PermanentError, UnreachableError
from backup_manager.protobuf import walk
from backup_manager.tidb.cluster import Cluster
from crds.contract import names

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=15)
_PREFIX: Final = "/tidb/br-stream"
_GLOBAL: Final = "central_global"
_START_TS: Final = 2
_ERROR_CODE, _ERROR_MESSAGE, _ERROR_STORE = 2, 3, 4
_MESSAGE_LIMIT: Final = 300

Pairs = Sequence[tuple[bytes, bytes]]


class TaskState(StrEnum):
    """What a log backup's task is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    ERROR_PAUSED = "errorPaused"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTask:
    """One look at a task. *checkpoint_ts* is a TSO: everything up to it is in the storage. 0: not known."""

    state: TaskState
    start_ts: int = 0
    checkpoint_ts: int = 0
    pause_reason: str = ""
    last_error: str = ""


class Pd:
    """The etcd of one PD. Raises UnreachableError, or PermanentError when it refuses."""

    def __init__(self, cluster: Cluster) -> None:
        scheme, tls = "http", dict[str, Any]()
        if cluster.tls:
            folder, scheme = names.CLUSTER_TLS_DIR, "https"
            tls = {
                "cert_reqs": ssl.CERT_REQUIRED,
                "ca_certs": f"{folder}/ca.crt",
                "cert_file": f"{folder}/tls.crt",
                "key_file": f"{folder}/tls.key",
            }
        addresses = [address.strip().rpartition("://")[2].rstrip("/") for address in cluster.pd.split(",")]
        self.urls = [f"{scheme}://{address}" for address in addresses if address]
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=1, **tls)

    def log_task(self, name: str) -> LogTask:
        """How the log backup *name* stands."""
        info, pause, points, stored, errors = self._read(
            (f"{_PREFIX}/info/{name}", False),
            (f"{_PREFIX}/pause/{name}", False),
            # The slash matters: without it a task `a` would see the keys of `ab`.
            (f"{_PREFIX}/checkpoint/{name}/", True),
            (f"{_PREFIX}/storage-checkpoint/{name}/", True),
            (f"{_PREFIX}/last-error/{name}/", True),
        )
        if not info:
            return LogTask(state=TaskState.ABSENT)
        told = _last_error(errors)
        state, reason = _paused(pause[0][1], told) if pause else (TaskState.RUNNING, "")
        start = _start(info[0][1])
        point = _checkpoint(start, points, stored)
        return LogTask(state=state, start_ts=start, checkpoint_ts=point, pause_reason=reason, last_error=told)

    def value(self, key: str) -> tuple[bytes, int] | None:
        """The value of *key* and the revision that last changed it; None when there is none."""
        answer = self._post("/v3/kv/range", _range(key, prefix=False))
        return next(
            ((base64.b64decode(kv.get("value") or ""), int(kv["mod_revision"])) for kv in answer.get("kvs") or ()), None
        )

    def swap(self, key: str, value: bytes | None, revision: int) -> int:
        """Set *key* (None: delete it) if *revision* was the last to change it; 0 stands for "there is none". The new revision,
        or 0 when another one was faster."""
        name = _range(key, prefix=False)["key"]
        change: dict[str, Any] = {"requestDeleteRange": {"key": name}}
        if value is not None:
            change = {"requestPut": {"key": name, "value": base64.b64encode(value).decode()}}
        compare = {"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        answer = self._post("/v3/kv/txn", {"compare": [compare], "success": [change]})
        return int((answer.get("header") or {}).get("revision") or 0) if answer.get("succeeded") else 0

    def _read(self, *keys: tuple[str, bool]) -> list[Pairs]:
        """Each key, or (True) all that begin with it, as they stood at one moment."""
        wanted = [{"requestRange": _range(key, prefix=prefix)} for key, prefix in keys]
        answer = self._post("/v3/kv/txn", {"success": wanted})
        parts = [part.get("response_range") or {} for part in answer.get("responses") or ()]
        if len(parts) != len(keys):
            raise PermanentError("PD gave half an answer", reason="PDRefused", hint="Is this address really PD's?")
        return [
            [(base64.b64decode(kv["key"]), base64.b64decode(kv.get("value") or "")) for kv in part.get("kvs") or ()]
            for part in parts
        ]

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """From the first member that answers."""
        for url in self.urls:
            try:
                answer = self._pool.request("POST", url + path, body=orjson.dumps(body))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem = type(error).__name__
                continue
            if answer.status >= 500:
                problem = f"status {answer.status}"
                continue
            if answer.status != 200:
                raise PermanentError(
                    f"PD at {url} refused: status {answer.status}", reason="PDRefused", hint="Is it really PD?"
                )
            return _decoded(answer.data, url)
        raise UnreachableError(
            f"PD at {', '.join(self.urls)} cannot be reached: {problem}",
            reason="PDUnreachable",
            hint="Check that the cluster runs and that its PD service can be reached from this namespace.",
        )


def _decoded(data: bytes, url: str) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise PermanentError(f"{url} does not answer as PD does", reason="PDRefused", hint="Is it really PD's client address?")
    return found


def _range(key: str, *, prefix: bool) -> dict[str, str]:
    raw = key.encode()
    found = {"key": base64.b64encode(raw).decode()}
    if prefix:
        found["range_end"] = base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()
    return found


def _checkpoint(start: int, points: Pairs, stored: Pairs) -> int:
    """As br reckons: the global one, else the slowest store's, else the start; the storage may know of a later one."""
    globally, stores = 0, list[int]()
    for key, value in points:
        kind = key.split(b"/checkpoint/", 1)[-1].partition(b"/")[2]
        if len(value) != 8 or kind.startswith(b"region"):
            continue
        ts = int.from_bytes(value, "big")
        if kind == _GLOBAL.encode():
            globally = ts
        else:
            stores.append(ts)
    if globally:
        return globally
    reached = min(stores) if stores else start
    return max([reached, *(int.from_bytes(value, "big") for _, value in stored if len(value) == 8)])


def _start(info: bytes) -> int:
    try:
        return next((value for number, value in walk(info) if number == _START_TS and isinstance(value, int)), 0)
    except ValueError:
        return 0


def _paused(value: bytes, last_error: str) -> tuple[TaskState, str]:
    """Whether a person or an error paused the task. Before TiKV wrote the reason down, br took any error for it; so do we."""
    if not value:
        return (TaskState.ERROR_PAUSED, last_error) if last_error else (TaskState.PAUSED, "paused by hand")
    try:
        note = orjson.loads(value)
        by_error = str(note.get("severity") or "").upper() == "ERROR"
        payload = base64.b64decode(note.get("payload") or "")
        is_error = "StreamBackupError" in str(note.get("payload_type") or "")
        said = _error(payload) if is_error else payload.decode("utf-8", "replace")[:_MESSAGE_LIMIT]
        host = str(note.get("operation_hostname") or "")
    except (orjson.JSONDecodeError, AttributeError, ValueError):
        # Somebody paused it and wrote what we do not understand: that may be an error, which must not be slept through.
        return TaskState.ERROR_PAUSED, last_error or "the reason could not be read"
    if by_error:
        return TaskState.ERROR_PAUSED, said or last_error or "an error"
    return TaskState.PAUSED, said or (f"paused from {host}" if host else "paused by hand")


def _last_error(errors: Pairs) -> str:
    return "; ".join(filter(None, (_error(value) for _, value in errors)))[:_MESSAGE_LIMIT]


def _error(message: bytes) -> str:
    """``StreamBackupError`` in words."""
    try:
        found = dict(walk(message))
    except ValueError:
        return ""
    parts = (found.get(_ERROR_CODE), found.get(_ERROR_MESSAGE))
    texts = [bytes(part).decode("utf-8", "replace") for part in parts if isinstance(part, memoryview) and part]
    store = found.get(_ERROR_STORE)
    return f"{f'store {store}: ' if isinstance(store, int) else ''}{' '.join(texts)}"[:_MESSAGE_LIMIT] if texts else ""
