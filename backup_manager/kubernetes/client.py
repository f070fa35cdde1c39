"""The few calls to the API server that a manager needs, on urllib3 alone.

The ``kubernetes`` package costs more time and memory to import than the whole start of a manager may take. The token file is
read again at every call, since Kubernetes rotates it.

An API server that restarts or is overloaded answers again soon, so reads are repeated with a :class:`Backoff`; a refusal
(401, 403, 404, 409, 422) is an answer and is not. Writes are made once here: each caller knows whether it may repeat its own
(a report carries the Job's uid, a Lease its resourceVersion).
"""

import atexit
import base64
import math
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import orjson
import urllib3

from backup_manager.backoff import Backoff
from backup_manager.errors import AccessDeniedError, ManagerError, NotFoundError, PermanentError, UnreachableError, UsageError
from crds.contract import names

SERVICE_ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
READ_SECONDS: Final = 120.0
"""How long a read is tried for while the API server does not answer."""
T = TypeVar("T")

_CONNECT_TIMEOUT: Final = 5.0
_READ_TIMEOUT: Final = 15.0
_PASSING: Final = frozenset({429, 500, 502, 503, 504})
_PAGE: Final = 200
_PLURALS: Final = {
    "Backup": "backups",
    "Restore": "restores",
    "BackupSchedule": "backupschedules",
    "CompactBackup": "compactbackups",
}


class ApiForbiddenError(AccessDeniedError):
    """The account may not do this."""

    reason = "Forbidden"


class ApiNotFoundError(NotFoundError):
    """The object is not there."""

    reason = "ObjectNotFound"


class ConflictError(PermanentError):
    """The object changed, or is another one than meant (its uid differs)."""

    reason = "Conflict"


class ApiInvalidError(PermanentError):
    """The API server understood the request and refuses what is in it (422): it would refuse it again."""

    reason = "ApiServerRefused"


class ApiUnavailableError(UnreachableError):
    """The API server does not answer, or says that it cannot now. *retry_after* is the pause that it asks for, in seconds."""

    reason = "ApiServerUnavailable"

    def __init__(self, message: str, *, hint: str = "", reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.retry_after = retry_after


def retry_after(error: BaseException) -> float:
    """The pause in seconds that *error* asks for; 0 when it asks for none."""
    return error.retry_after if isinstance(error, ApiUnavailableError) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the API server is and how to speak to it."""

    url: str
    ca_file: str | None = None
    insecure: bool = False
    token_file: Path | None = None
    token: str = field(default="", repr=False)
    client_cert: tuple[str, str] | None = None

    @classmethod
    def in_cluster(cls, env: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT_DIR) -> Self:
        """From a Pod's environment. Raises UsageError outside of one."""
        host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise UsageError("not in a cluster and no kubeconfig given", hint="Use --kubeconfig FILE, or --from-file CR.yaml.")
        shown = f"[{host}]" if ":" in host else host
        return cls(url=f"https://{shown}:{port}", ca_file=str(folder / "ca.crt"), token_file=folder / "token")

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """From the current context of a kubeconfig: certificates or a token, in files or inline. Raises UsageError."""
        import yaml  # noqa: PLC0415  (a Job never needs it)

        try:
            config = yaml.safe_load(path.read_text())
            context = _named(config, "contexts", config["current-context"])["context"]
            cluster = _named(config, "clusters", context["cluster"])["cluster"]
            user = _named(config, "users", context["user"])["user"]
            url = cluster["server"]
        except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
            raise UsageError(
                f"kubeconfig {path} cannot be used: {error!r}", hint="Check the file and its current-context."
            ) from None
        cert = _file(user, "client-certificate", path), _file(user, "client-key", path)
        token_file = user.get("tokenFile")
        return cls(
            url=url,
            ca_file=_file(cluster, "certificate-authority", path),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            token_file=path.parent / token_file if token_file else None,
            token=user.get("token", ""),
            client_cert=(cert[0], cert[1]) if cert[0] and cert[1] else None,
        )


def _named(config: Mapping[str, Any], section: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(item for item in config[section] if item["name"] == name)
    return found


def _file(entry: Mapping[str, Any], key: str, kubeconfig: Path) -> str | None:
    """A file of a kubeconfig entry: named, or given inline (then written to a private temporary file)."""
    if inline := entry.get(f"{key}-data"):
        handle, name = tempfile.mkstemp(prefix="kubeconfig-")
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64decode(inline))
        atexit.register(Path(name).unlink, missing_ok=True)
        return name
    return str(kubeconfig.parent / entry[key]) if entry.get(key) else None


class KubernetesApi:
    """A client of one API server. Raises only :mod:`backup_manager.errors`.

    *backoff* is how :meth:`with_retries` repeats (without one, nothing is repeated); *left* are the seconds until this process
    is killed: no call waits longer for its answer.
    """

    def __init__(self, server: Server, *, backoff: Backoff | None = None, left: Callable[[], float] = lambda: math.inf) -> None:
        self._server = server
        self._backoff = backoff
        self._left = left
        tls: dict[str, Any] = {}
        if server.url.startswith("https"):
            tls["cert_reqs"] = ssl.CERT_NONE if server.insecure else ssl.CERT_REQUIRED
            tls["ca_certs"] = server.ca_file
            if server.client_cert:
                tls["cert_file"], tls["key_file"] = server.client_cert
        self._pool = urllib3.PoolManager(retries=False, maxsize=2, **tls)

    def with_retries(self, work: Callable[[], T]) -> T:
        """What *work* returns; it is made again while the API server is unavailable, so it must be safe to repeat."""
        if self._backoff is None:
            return work()
        return self._backoff.call(work, passing=lambda error: isinstance(error, ApiUnavailableError), asked=retry_after)

    def resource(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """The CR *namespace*/*name* of one of our kinds."""
        group = f"/apis/{names.API_VERSION}/namespaces/{quote(namespace)}"
        return self.with_retries(lambda: self._call("GET", f"{group}/{_PLURALS[kind]}/{quote(name)}"))

    def resources(self, kind: str, namespace: str) -> Iterator[dict[str, Any]]:
        """Every CR of one of our kinds in *namespace*, page by page."""
        path = f"/apis/{names.API_VERSION}/namespaces/{quote(namespace)}/{_PLURALS[kind]}"
        token = ""
        while True:
            query = urlencode({"limit": _PAGE, **({"continue": token} if token else {})})
            page = self.with_retries(partial(self._call, "GET", f"{path}?{query}"))
            yield from page["items"]
            token = str((page.get("metadata") or {}).get("continue") or "")
            if not token:
                return

    def job(self, namespace: str, name: str) -> dict[str, Any]:
        """A Job."""
        return self._call("GET", _job_path(namespace, name))

    def annotate_job(self, namespace: str, name: str, uid: str, annotations: Mapping[str, str | None]) -> None:
        """Set *annotations* on the Job with exactly this *uid*: a namesake created meanwhile answers with a conflict."""
        metadata: dict[str, Any] = {"annotations": dict(annotations)}
        if uid:
            metadata["uid"] = uid
        self._call("PATCH", _job_path(namespace, name), {"metadata": metadata}, content_type="application/merge-patch+json")

    def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[dict[str, Any]]:
        """The Pods that carry *labels*."""
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        query = urlencode({"labelSelector": selector})
        path = f"/api/v1/namespaces/{quote(namespace)}/pods?{query}"
        items: list[dict[str, Any]] = self.with_retries(lambda: self._call("GET", path))["items"]
        return items

    def lease(self, namespace: str, name: str) -> dict[str, Any]:
        """A Lease."""
        return self._call("GET", _lease_path(namespace, name))

    def put_lease(self, namespace: str, name: str, lease: Mapping[str, Any], *, create: bool) -> dict[str, Any]:
        """Write a Lease as a whole. Raises ConflictError when it exists already, or is not at *lease*'s resourceVersion."""
        if create:
            return self._call("POST", _lease_path(namespace, ""), dict(lease))
        return self._call("PUT", _lease_path(namespace, name), dict(lease))

    def _call(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> dict[str, Any]:
        headers = {"Accept": "application/json", "User-Agent": "backup-manager"}
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = content_type
        data = None if body is None else orjson.dumps(body)
        try:
            answer = self._pool.request(method, self._server.url + path, body=data, headers=headers, timeout=self._timeout())
        except urllib3.exceptions.HTTPError as error:
            # A certificate that is not trusted is not so in a minute either; a connection cut in the handshake may be.
            untrusted = isinstance(error, urllib3.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)
            raise (UnreachableError if untrusted else ApiUnavailableError)(
                f"the API server {self._server.url} cannot be reached: {type(error).__name__}",
                hint="Check network policies, and the kubeconfig when one is used.",
                reason="ApiServerUnreachable",
            ) from None
        if answer.status >= 300:
            what = f"{method} {path.partition('?')[0]}"
            raise _refusal(answer.status, what, answer.data, answer.headers.get("Retry-After", ""))
        decoded: dict[str, Any] = orjson.loads(answer.data)
        return decoded

    def _timeout(self) -> urllib3.Timeout:
        left = max(0.1, self._left())
        return urllib3.Timeout(connect=min(_CONNECT_TIMEOUT, left), read=min(_READ_TIMEOUT, left))

    def _token(self) -> str:
        if self._server.token_file:
            with suppress(OSError):
                return self._server.token_file.read_text().strip()
        return self._server.token


def _job_path(namespace: str, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs/{quote(name)}"


def _lease_path(namespace: str, name: str) -> str:
    group = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases"
    return f"{group}/{quote(name)}" if name else group


def _refusal(status: int, what: str, body: bytes, asked: str) -> ManagerError:
    try:
        said = str(orjson.loads(body).get("message") or "")
    except (orjson.JSONDecodeError, AttributeError):
        said = ""
    message = f"{what}: {status} {said}".strip()[:500]
    match status:
        case 401 | 403:
            return ApiForbiddenError(message, hint="Bind the manager's Role to the ServiceAccount of this Pod.")
        case 404:
            return ApiNotFoundError(message)
        case 409:
            return ConflictError(message)
        case 422:
            return ApiInvalidError(message)
        case _ if status in _PASSING:
            # Seconds; the other form of the header, a date, is not one that Kubernetes uses.
            return ApiUnavailableError(message, retry_after=float(asked) if asked.isdecimal() else 0.0)
        case _:
            return PermanentError(message, reason="ApiServerRefused")
