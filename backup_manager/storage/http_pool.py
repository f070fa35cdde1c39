"""One HTTP connection pool to one store: TLS with the user's CA, proxies from the environment, failures in plain words."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import urllib3

from backup_manager.errors import ManagerError, StorageError, UnreachableError, UsageError

_TIMEOUT: Final = urllib3.Timeout(connect=10, read=120)
CONNECTIONS: Final = 128


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; *headers* by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """How a request travels. Tests put their own in."""

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send and read the whole answer. *target* is the encoded path and query. Raises ManagerError."""

    def stream(self, method: str, target: str, headers: Mapping[str, str]) -> Any:
        """Send and return the open answer (``status``, ``headers``, ``read``, ``close``). Raises ManagerError."""

    def close(self) -> None:
        """Close what is open."""


class HttpPool:
    """A :class:`Transport` on urllib3. The path is sent as given: nothing in it is normalised."""

    def __init__(self, endpoint: str, *, ca_bundle: str = "", field: str = "s3.endpoint") -> None:
        self.endpoint = endpoint
        self._field = field
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._pool = _manager(parts.scheme, host, ca_bundle).connection_from_host(host, port, scheme=parts.scheme)
        # Through a proxy without a tunnel, the whole address is the target.
        self._start = endpoint if parts.scheme == "http" and self._pool.proxy is not None else ""

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request; see :class:`Transport`."""
        try:
            answer = self._request(method, target, headers, body, preload=True)
            return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.data)
        except (urllib3.exceptions.HTTPError, ssl.SSLError) as error:
            raise unreachable(error, self.endpoint, self._field) from None

    def stream(self, method: str, target: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Send one request and leave the answer open; see :class:`Transport`."""
        try:
            return self._request(method, target, headers, b"", preload=False)
        except (urllib3.exceptions.HTTPError, ssl.SSLError) as error:
            raise unreachable(error, self.endpoint, self._field) from None

    def _request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, preload: bool
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.urlopen(
            method,
            self._start + target,
            body=body or (b"" if method in {"PUT", "POST"} else None),
            headers=dict(headers),
            retries=False,
            redirect=False,
            preload_content=preload,
            decode_content=False,
            timeout=_TIMEOUT,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _manager(scheme: str, host: str, ca_bundle: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": CONNECTIONS, "block": True}
    if scheme == "https":
        options["ssl_context"] = tls_context(ca_bundle)
    proxies = getproxies_environment()
    if (proxy := proxies.get(scheme)) and not proxy_bypass(host, proxies):
        return urllib3.ProxyManager(proxy, **options)
    return urllib3.PoolManager(**options)


def tls_context(ca_bundle: str) -> ssl.SSLContext:
    """Verifies against *ca_bundle* (a file) when given, else against the system's authorities. Raises UsageError."""
    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ssl.SSLError):
        raise UsageError(
            f"the CA bundle {ca_bundle} cannot be read as PEM certificates",
            hint="Mount a PEM file and name it in AWS_CA_BUNDLE or SSL_CERT_FILE (spec.env).",
            reason="InvalidCABundle",
        ) from None


def unreachable(error: Exception, endpoint: str, field: str) -> ManagerError:
    """The error for a connection that failed. TLS trust is permanent, the rest may pass."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return StorageError(
            f"{endpoint}: its certificate is not trusted ({_short(text)})",
            reason="UntrustedCertificate",
            hint="Mount the authority's PEM file and name it in AWS_CA_BUNDLE (spec.env), which the tools read too.",
        )
    if isinstance(error, urllib3.exceptions.SSLError | ssl.SSLError):
        return StorageError(
            f"{endpoint}: no TLS connection ({_short(text)})",
            reason="TLSFailed",
            hint=f"Does {field} speak TLS on that port? Write http:// when it does not.",
        )
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return UnreachableError(
            f"{endpoint}: its name does not resolve",
            reason="StorageUnreachable",
            hint=f"Correct {field}, or the cluster's DNS.",
        )
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return UnreachableError(
            f"{endpoint}: no answer in time",
            reason="StorageUnreachable",
            hint=f"Check {field}, network policies and firewalls.",
        )
    return UnreachableError(
        f"{endpoint}: {_short(text)}", reason="StorageUnreachable", hint=f"Is the store up, and {field} its address?"
    )


def _short(text: str) -> str:
    """The last part of urllib3's nested messages, where the cause is, without object addresses."""
    tail = text.rpartition("object at 0x")[2].split(": ", 1)[-1]
    return tail.strip("()'\" ")[:200]
