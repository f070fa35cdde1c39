"""Calling a hook: POST, what each answer means, and strict decoding.

Only 200 counts. 429 is a wish to come back later, everything else an error whose body ends up in a Kubernetes Event.
"""

import base64
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson
import urllib3
from urllib3.exceptions import HTTPError

from sandbox.api import Object

DEFAULT_TIMEOUT: Final = 10.0
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class HookError(Exception):
    """An ordinary failure: nothing is written, an event is, and the key is retried with backoff."""


class TooManyRequests(Exception):
    """The hook answered 429; *after* is in seconds, 0 when it did not say."""

    def __init__(self, after: float) -> None:
        super().__init__(f"retry after {after:g} s")
        self.after = after


class HookPanic(Exception):
    """An answer on which the real Metacontroller dies."""


FindSecret = Callable[[str, str], Object | None]
"""Namespace and name to the Secret, None when there is none."""


def _no_secret(_namespace: str, _name: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One hook of a controller. *strict* refuses unknown and duplicate fields; *authorization* is the header of that name, *ca*
    the PEM of the only certificates that are trusted, "" for those of the system."""

    url: str
    timeout: float = DEFAULT_TIMEOUT
    strict: bool = True
    authorization: str = ""
    ca: str = ""

    @classmethod
    def parse(cls, spec: Mapping[str, Any] | None, name: str, find_secret: FindSecret = _no_secret) -> "Hook | None":
        """Read one entry of ``spec.hooks``; None when it is absent. Secrets are read here, once, as the real one does.

        Raises HookError for a Secret that is not there, and for what the stand-in cannot do.
        """
        if not spec:
            return None
        if spec.get("version", "v1") != "v2":
            raise HookError(f"hooks.{name}: this stand-in speaks hook version v2 alone; set version: v2")
        webhook = spec.get("webhook") or {}
        for unsupported in ("etag", "clientTLS", "basicAuth"):
            if webhook.get(unsupported):
                raise HookError(f"hooks.{name}.webhook.{unsupported} is not in this stand-in; use the real Metacontroller")
        seconds = duration(webhook["timeout"]) if webhook.get("timeout") else DEFAULT_TIMEOUT
        strict = webhook.get("responseUnMarshallMode", "strict") != "loose"
        return cls(
            url=_url(webhook, name),
            timeout=seconds if seconds > 0 else DEFAULT_TIMEOUT,
            strict=strict,
            authorization=_authorization(webhook.get("authorization"), find_secret),
            ca=_ca_bundle(webhook.get("caBundle"), find_secret),
        )


def _authorization(spec: Mapping[str, Any] | None, find_secret: FindSecret) -> str:
    if not spec:
        return ""
    kind = str(spec.get("type") or "Bearer")
    if kind.strip().lower() == "basic":
        raise HookError(f'can\'t resolve authorization: authorization type "{kind}" is not supported; use the basicAuth field')
    return f"{kind} {_secret_value(spec['secretRef'], 'authorization', find_secret).strip()}"


def _ca_bundle(spec: Mapping[str, Any] | None, find_secret: FindSecret) -> str:
    if spec is None:
        return ""
    if len(spec) != 1:
        raise HookError("can't resolve caBundle: exactly one of inline, secretRef, or configMapRef must be specified")
    if "configMapRef" in spec:
        raise HookError("caBundle.configMapRef is not in this stand-in; use the real Metacontroller")
    reference = spec.get("secretRef")
    text = _secret_value({"key": "ca.crt", **reference}, "caBundle", find_secret) if reference else str(spec["inline"])
    if "BEGIN CERTIFICATE" not in text:
        raise HookError("caBundle: no valid PEM-encoded certificates found in the provided CA bundle")
    return text


def _secret_value(reference: Mapping[str, Any], field: str, find_secret: FindSecret) -> str:
    where = f"{reference['namespace']}/{reference['name']}"
    secret = find_secret(reference["namespace"], reference["name"])
    if secret is None:
        raise HookError(f"can't resolve {field}: can't get secret {where}: not found")
    if not (value := (secret.get("data") or {}).get(reference["key"])):
        raise HookError(f"can't resolve {field}: secret {where} does not contain key {reference['key']!r}")
    return base64.b64decode(value).decode()


def _url(webhook: Mapping[str, Any], name: str) -> str:
    if webhook.get("url"):
        return str(webhook["url"])
    service, path = webhook.get("service"), webhook.get("path")
    if not service or not path:
        raise HookError(f"hooks.{name}.webhook: url, or service and path, must be set")
    host = f"{service['name']}.{service['namespace']}:{service.get('port', 80)}"
    return f"{service.get('protocol', 'http')}://{host}{path}"


def duration(text: str) -> float:
    """A Go duration in seconds.

    >>> duration("1m30s"), duration("500ms")
    (90.0, 0.5)
    """
    parts = re.findall(r"(\d+(?:\.\d*)?)(h|ms|m|s|us|µs|ns)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise HookError(f"time: invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class HookClient:
    """Calls hooks; as Go's client, it keeps two idle connections per host."""

    def __init__(self) -> None:
        self._pools: dict[str, urllib3.PoolManager] = {}

    def _pool(self, ca: str) -> urllib3.PoolManager:
        """Connections that trust *ca*."""
        if ca not in self._pools:
            context = ssl.create_default_context(cadata=ca) if ca else None
            self._pools[ca] = urllib3.PoolManager(maxsize=2, block=False, retries=False, ssl_context=context)
        return self._pools[ca]

    def call(self, hook: Hook, request: Object) -> Object:
        """POST *request* and return the decoded answer. Keys are sorted, so equal state gives equal bytes."""
        body = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
        headers = {"Content-Type": "application/json"}
        if hook.authorization:
            headers["Authorization"] = hook.authorization
        timeout = urllib3.Timeout(total=hook.timeout)
        try:
            answer = self._pool(hook.ca).request("POST", hook.url, body=body, headers=headers, timeout=timeout)
        except HTTPError as error:
            raise HookError(f"http error: {error}") from error
        if answer.status == 429:
            raise TooManyRequests(retry_after(answer.headers.get("Retry-After")))
        if answer.status != 200:
            raise HookError(f"unsupported status code: {answer.status} body: {answer.data.decode(errors='replace')}")
        return decode(answer.data, strict=hook.strict)


def retry_after(text: str | None) -> float:
    """Seconds of a ``Retry-After`` header (a number or a date); 0 when missing or unreadable, which means at once.

    >>> retry_after("3"), retry_after(None), retry_after("soon")
    (3.0, 0.0, 0.0)
    """
    try:
        return float(int(text or ""))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text or "").timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def decode(data: bytes, *, strict: bool) -> Object:
    """The answer as a dict; ``null`` is an empty one, as in Go. Raises HookError."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if strict and len(found) != len(pairs):
            names = [key for key, _ in pairs]
            raise HookError(f"can't unmarshal response: duplicate field {next(n for n in names if names.count(n) > 1)!r}")
        return found

    def no_constants(text: str) -> Any:
        raise HookError(f"can't unmarshal response: invalid character in {text!r}")

    try:
        answer = json.loads(data, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except ValueError as error:
        raise HookError(f"can't unmarshal response: {error}") from error
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise HookError(f"can't unmarshal response: cannot unmarshal {type(answer).__name__} into an object")
    return answer
