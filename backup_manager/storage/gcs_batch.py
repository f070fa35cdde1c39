"""One request with many deletions, in the form that Google takes: ``multipart/mixed``, an HTTP request in each part.

Google's own client makes such requests too, but without names on the parts, and matches answers by their order, which Google
does not promise. Here each part has a ``Content-ID``, and its answer is found by that.
"""

import json
import secrets
from collections.abc import Sequence
from email import message_from_bytes
from typing import NamedTuple
from urllib.parse import quote

from backup_manager.storage.base import Target


class Answer(NamedTuple):
    """What one deletion was answered; *status* is 0 when no answer came."""

    status: int
    reason: str = ""
    message: str = ""


def request(bucket: str, base: str, batch: Sequence[Target]) -> tuple[str, bytes]:
    """Content type and body of the request that deletes *batch*."""
    boundary = f"batch_{secrets.token_hex(12)}"
    parts = []
    for number, target in enumerate(batch):
        path = f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(base + target.key, safe='')}"
        query = f"?generation={target.version}" if target.version else ""
        parts.append(
            f"--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
            f"Content-ID: <item+{number}>\r\n\r\nDELETE {path}{query} HTTP/1.1\r\nContent-Length: 0\r\n\r\n\r\n"
        )
    return f"multipart/mixed; boundary={boundary}", f"{''.join(parts)}--{boundary}--\r\n".encode()


def answers(content_type: str, body: bytes, count: int) -> list[Answer]:
    """The answers to *count* deletions, in the order of the request."""
    found = [Answer(0, "NoAnswer", "the batch's answer has no part for this object")] * count
    message = message_from_bytes(b"Content-Type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n" + body)
    for part in message.walk():
        number = (part.get("Content-ID") or "").strip("<> ").rpartition("+")[2]
        if number.isdigit() and int(number) < count:
            payload = part.get_payload(decode=True)
            found[int(number)] = _answer(payload if isinstance(payload, bytes) else b"")
    return found


def _answer(payload: bytes) -> Answer:
    head, _, body = payload.lstrip().partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return Answer(0, "BadAnswer", "a part of the batch's answer is no HTTP answer")
    status = int(words[1])
    return Answer(status) if status < 300 else Answer(status, *_reason(body))


def _reason(body: bytes) -> tuple[str, str]:
    try:
        error = json.loads(body)["error"]
        return str((error.get("errors") or [{}])[0].get("reason") or ""), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
