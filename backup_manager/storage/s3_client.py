"""Signed requests to one bucket: addressing, signing, retries, errors. What the requests mean is :mod:`.s3`'s business."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from backup_manager.errors import ManagerError, TransientError
from backup_manager.storage import s3_errors
from backup_manager.storage.http_pool import Answer, HttpPool, Transport
from backup_manager.storage.retry import ATTEMPTS, pause
from backup_manager.storage.s3_credentials import KeySource, key_source
from backup_manager.storage.settings import S3Settings
from backup_manager.storage.sigv4 import encode_path, encode_query, signed_headers

DEFAULT_REGION: Final = "us-east-1"
Query = Sequence[tuple[str, str]]


class S3Client:
    """One bucket, one set of keys, one connection pool; safe to use from several threads."""

    def __init__(
        self,
        bucket: str,
        settings: S3Settings,
        *,
        transport: Transport | None = None,
        keys: KeySource | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bucket = bucket
        self.settings = settings
        self.region = settings.region or DEFAULT_REGION
        endpoint = address(bucket, settings, self.region)
        parts = urlsplit(endpoint)
        self._host = parts.netloc.rpartition("@")[2]
        self._root = parts.path + (f"/{bucket}" if settings.path_style else "")
        self._keys = keys or key_source(settings)
        self._transport = transport or HttpPool(endpoint, ca_bundle=settings.ca_bundle)
        self.sleep = sleep
        self.skew: float | None = None
        """The server's clock minus ours in seconds, as its first answer had it."""

    def call(
        self,
        method: str,
        key: str = "",
        query: Query = (),
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        attempts: int = ATTEMPTS,
    ) -> Answer:
        """Send until it is answered; temporary failures are repeated *attempts* - 1 times. Raises ManagerError."""
        for attempt in range(attempts):
            try:
                return self._once(method, key, query, headers or {}, body)
            except TransientError:
                if attempt + 1 == attempts:
                    raise
                self.rest(attempt)
        raise AssertionError("attempts is at least 1")

    def _once(self, method: str, key: str, query: Query, headers: Mapping[str, str], body: bytes) -> Answer:
        path, target, signed = self._sign(method, key, query, headers, body)
        answer = self._transport.send(method, target, signed, body)
        if self.skew is None:
            self.skew = clock_skew(answer)
        if answer.status >= 300:
            text = answer.body.decode("utf-8", "replace")
            raise self._error(answer.status, answer.headers, text, _what(method, path), s3_errors.action(method, key, query))
        return answer

    def rest(self, attempt: int) -> None:
        """Wait before the try after the *attempt*-th failure."""
        self.sleep(pause(attempt))

    def stream(self, key: str, headers: Mapping[str, str]) -> Any:
        """An open answer to a GET; the caller closes it. Raises ManagerError."""
        path, target, signed = self._sign("GET", key, (), headers, b"")
        answer = self._transport.stream("GET", target, signed)
        if answer.status >= 300:
            text = answer.read().decode("utf-8", "replace")
            answer.close()
            raise self._error(
                answer.status,
                {k.lower(): v for k, v in answer.headers.items()},
                text,
                _what("GET", path),
                s3_errors.action("GET", key, ()),
            )
        return answer

    def _sign(
        self, method: str, key: str, query: Query, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, str, dict[str, str]]:
        path = f"{self._root}/{key}" if key else (self._root or "/")
        encoded, asked = encode_path(path), encode_query(query)
        signed = signed_headers(
            self._keys(),
            method=method,
            host=self._host,
            path=encoded,
            query=asked,
            headers=headers,
            body=body,
            region=self.region,
            now=datetime.now(UTC),
        )
        return path, f"{encoded}?{asked}" if asked else encoded, signed

    def _error(self, status: int, headers: Mapping[str, str], text: str, what: str, action: str) -> ManagerError:
        return s3_errors.of_answer(status, headers, text, what=what, action=action, bucket=self.bucket, region=self.region)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def _what(method: str, path: str) -> str:
    """The call, for messages; keys may have 1024 bytes."""
    return f"{method} {path if len(path) <= 160 else f'{path[:100]}...{path[-50:]}'}"


def address(bucket: str, settings: S3Settings, region: str) -> str:
    """Scheme and host to connect to.

    >>> address("b", S3Settings(), "eu-west-1")
    'https://s3.eu-west-1.amazonaws.com'
    >>> address("b", S3Settings(endpoint="https://oss.example.com", path_style=False), "x")
    'https://b.oss.example.com'
    """
    suffix = ".cn" if region.startswith("cn-") else ""
    endpoint = settings.endpoint or f"https://s3.{region}.amazonaws.com{suffix}"
    if settings.path_style:
        return endpoint
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{bucket}.{rest}"


def clock_skew(answer: Answer) -> float | None:
    """The server's clock minus ours, in seconds, from the ``Date`` of an answer."""
    try:
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return None
    return (theirs - datetime.now(UTC)).total_seconds()
