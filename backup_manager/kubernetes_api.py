"""The few calls to the API server that a manager needs, on urllib3 alone.

The ``kubernetes`` package costs more time and memory to import than the whole start of a manager may take. The token file is
read again at every call, since Kubernetes rotates it.
"""

import atexit
import base64
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import orjson
import urllib3

from backup_manager.errors import AccessDeniedError, ManagerError, NotFoundError, PermanentError, UnreachableError, UsageError
from crds import names

SERVICE_ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=15)
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
    """A client of one API server. Raises only :mod:`backup_manager.errors`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        tls: dict[str, Any] = {}
        if server.url.startswith("https"):
            tls["cert_reqs"] = ssl.CERT_NONE if server.insecure else ssl.CERT_REQUIRED
            tls["ca_certs"] = server.ca_file
            if server.client_cert:
                tls["cert_file"], tls["key_file"] = server.client_cert
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=2, **tls)

    def resource(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """The CR *namespace*/*name* of one of our kinds."""
        group = f"/apis/{names.API_VERSION}/namespaces/{quote(namespace)}"
        return self._call("GET", f"{group}/{_PLURALS[kind]}/{quote(name)}")

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
        items: list[dict[str, Any]] = self._call("GET", f"/api/v1/namespaces/{quote(namespace)}/pods?{query}")["items"]
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
            answer = self._pool.request(method, self._server.url + path, body=data, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(
                f"the API server {self._server.url} cannot be reached: {type(error).__name__}",
                hint="Check network policies, and the kubeconfig when one is used.",
                reason="ApiServerUnreachable",
            ) from None
        if answer.status >= 300:
            raise _refusal(answer.status, f"{method} {path.partition('?')[0]}", answer.data)
        decoded: dict[str, Any] = orjson.loads(answer.data)
        return decoded

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


def _refusal(status: int, what: str, body: bytes) -> ManagerError:
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
        case 409 | 422:
            return ConflictError(message)
        case 429 | 500 | 502 | 503 | 504:
            return UnreachableError(message, reason="ApiServerUnavailable")
        case _:
            return PermanentError(message, reason="ApiServerRefused")
