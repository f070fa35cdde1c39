"""Keys of a PD's etcd, read and written as TiKV and TiDB would: their part of a log backup, which minikv has not."""

import base64
import json
import urllib.request
from typing import Any

from sandbox.patience import CONNECT


def put(pd: str, key: str, value: bytes) -> None:
    """Write one key; *pd* is ``host:port``."""
    _post(pd, "put", {"key": _text(key.encode()), "value": _text(value)})


def put_number(pd: str, key: str, value: int) -> None:
    """Write eight bytes, as checkpoints are."""
    put(pd, key, value.to_bytes(8, "big"))


def get(pd: str, key: str) -> bytes | None:
    """Read one key; None when it is not there."""
    found = _post(pd, "range", {"key": _text(key.encode())}).get("kvs")
    return base64.b64decode(found[0].get("value") or "") if found else None


def delete(pd: str, key: str) -> None:
    """Remove one key."""
    _post(pd, "deleterange", {"key": _text(key.encode())})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _post(pd: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{pd}/v3/kv/{verb}", data=json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=CONNECT) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found
