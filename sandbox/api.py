"""A small Kubernetes client on urllib3: plain dicts in and out, discovery, watches.

The official client takes seconds to import on a small machine and its models drop fields they do not know; the parts of the
sandbox must hand on objects byte for byte.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import orjson
import urllib3
import yaml
from urllib3.exceptions import HTTPError

from sandbox.errors import SandboxError

Object = dict[str, Any]
"""A Kubernetes object, as the API server wrote it."""

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=30.0)
_WATCH_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=330.0)
_WATCH_SECONDS: Final = 300
UNREACHABLE: Final = 0
"""Status of an :class:`ApiError` when no answer came at all."""


class ApiError(SandboxError):
    """The API server said no, or said nothing."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed in a moment: no answer, too many requests, a server that is not ready."""
        return self.status in {UNREACHABLE, 429} or self.status >= 500


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API server serves it."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, or of one object."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        parts = [root + self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace)]
        parts += [part for part in (self.plural, quote(name), subresource) if part]
        return "/".join(parts)


NAMESPACES: Final = Resource("v1", "namespaces", "Namespace", namespaced=False)
PODS: Final = Resource("v1", "pods", "Pod", namespaced=True)
SECRETS: Final = Resource("v1", "secrets", "Secret", namespaced=True)
CONFIG_MAPS: Final = Resource("v1", "configmaps", "ConfigMap", namespaced=True)
SERVICE_ACCOUNTS: Final = Resource("v1", "serviceaccounts", "ServiceAccount", namespaced=True)
NODES: Final = Resource("v1", "nodes", "Node", namespaced=False)
EVENTS: Final = Resource("v1", "events", "Event", namespaced=True)
JOBS: Final = Resource("batch/v1", "jobs", "Job", namespaced=True)
LEASES: Final = Resource("coordination.k8s.io/v1", "leases", "Lease", namespaced=True)
CRDS: Final = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


class Api:
    """One API server. Safe for use from several threads."""

    def __init__(self, server: str, *, token: str = "", ca_file: Path | None = None) -> None:
        self.server = server
        self._pool = urllib3.PoolManager(
            maxsize=64,
            block=False,
            retries=False,
            timeout=_TIMEOUT,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            ca_certs=str(ca_file) if ca_file else None,
        )
        self._headers = dict(self._pool.headers)
        self._discovered: dict[str, dict[str, Resource]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """Read the one cluster and user of a kubeconfig that the sandbox wrote."""
        config = yaml.safe_load(path.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        return cls(cluster["server"], token=user.get("token", ""), ca_file=Path(cluster["certificate-authority"]))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Object:
        """One exchange. Raises ApiError for any status but 2xx."""
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {**self._headers, "Accept": "application/json"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = orjson.dumps(body), content
        try:
            answer = self._pool.request(method, url, body=data, headers=headers)
        except HTTPError as error:
            raise ApiError(UNREACHABLE, f"{method} {path}: {error}") from error
        if answer.status >= 300:
            raise _refusal(method, path, answer.status, answer.data)
        try:
            parsed = orjson.loads(answer.data)
        except orjson.JSONDecodeError:
            return {"text": answer.data.decode(errors="replace")}
        return parsed if isinstance(parsed, dict) else {"items": parsed}

    def ready(self) -> bool:
        """Whether ``/readyz`` says ok."""
        try:
            return self.request("GET", "/readyz").get("text") == "ok"
        except ApiError:
            return False

    def resource(self, api_version: str, plural: str) -> Resource:
        """Look a resource up by its plural name. Raises ApiError 404 when the server does not (yet) serve it."""
        return self._find(api_version, lambda found: found.plural == plural, plural)

    def resource_of(self, api_version: str, kind: str) -> Resource:
        """Look a resource up by its kind. Raises ApiError 404 when the server does not (yet) serve it."""
        return self._find(api_version, lambda found: found.kind == kind, kind)

    def _find(self, api_version: str, matches: Any, wanted: str) -> Resource:
        for fresh in (False, True):
            for found in self._resources(api_version, fresh=fresh).values():
                if matches(found):
                    return found
        raise ApiError(
            404, f"can't find resource {wanted} in {api_version}; is its CustomResourceDefinition applied?", "NotFound"
        )

    def _resources(self, api_version: str, *, fresh: bool) -> dict[str, Resource]:
        with self._lock:
            known = self._discovered.get(api_version)
        if known is not None and not fresh:
            return known
        root = "/apis/" if "/" in api_version else "/api/"
        answer = self.request("GET", root + api_version)
        known = {
            item["name"]: Resource(api_version, item["name"], item["kind"], item["namespaced"])
            for item in answer.get("resources", ())
            if "/" not in item["name"]
        }
        with self._lock:
            self._discovered[api_version] = known
        return known

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object."""
        return self.request("GET", resource.path(namespace, name))

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, or None when it is not there."""
        try:
            return self.get(resource, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, resource: Resource, namespace: str = "", *, labels: str = "") -> Object:
        """The collection: ``items`` (each with kind and apiVersion) and ``metadata.resourceVersion``."""
        answer = self.request("GET", resource.path(namespace), query={"labelSelector": labels} if labels else None)
        for item in answer.get("items") or ():
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return answer

    def create(self, resource: Resource, obj: Object) -> Object:
        """POST an object into its namespace."""
        return self.request("POST", resource.path(namespace_of(obj)), obj)

    def replace(self, resource: Resource, obj: Object, subresource: str = "") -> Object:
        """PUT an object; its resourceVersion guards the write."""
        return self.request("PUT", resource.path(namespace_of(obj), name_of(obj), subresource), obj)

    def patch(
        self, resource: Resource, namespace: str, name: str, patch: Any, *, subresource: str = "", content: str = MERGE_PATCH
    ) -> Object:
        """PATCH an object, by default as a JSON merge patch."""
        return self.request("PATCH", resource.path(namespace, name, subresource), patch, content=content)

    def apply(self, obj: Object, *, manager: str = "sandbox") -> Object:
        """Server-side apply, taking over fields that others hold."""
        resource = self.resource_of(obj["apiVersion"], obj["kind"])
        query = {"fieldManager": manager, "force": "true"}
        return self.request("PATCH", resource.path(namespace_of(obj), name_of(obj)), obj, query=query, content=APPLY_PATCH)

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", grace: int | None = None, propagation: str = ""
    ) -> Object:
        """DELETE an object; with *uid* only that very one."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if propagation:
            options["propagationPolicy"] = propagation
        return self.request("DELETE", resource.path(namespace, name), options)

    def watch(self, resource: Resource, version: str, stop: threading.Event) -> Iterator[Object]:
        """Events after *version* until the server ends the stream. Raises ApiError (410 when *version* is too old)."""
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        url = f"{self.server}{resource.path()}?{urlencode(query)}"
        try:
            answer = self._pool.request("GET", url, headers=self._headers, preload_content=False, timeout=_WATCH_TIMEOUT)
            if answer.status >= 300:
                raise _refusal("WATCH", resource.path(), answer.status, answer.data)
            yield from _events(answer, stop)
        except HTTPError as error:
            raise ApiError(UNREACHABLE, f"WATCH {resource.path()}: {error}") from error


def _events(answer: urllib3.BaseHTTPResponse, stop: threading.Event) -> Iterator[Object]:
    rest = b""
    try:
        for chunk in answer.read_chunked():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if stop.is_set():
                    return
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(int(status.get("code", 500)), str(status.get("message")), str(status.get("reason")))
                yield event
    finally:
        answer.close()


def _refusal(method: str, path: str, status: int, data: bytes) -> ApiError:
    try:
        said = orjson.loads(data)
        return ApiError(status, f"{method} {path}: {said.get('message')}", str(said.get("reason") or ""))
    except (orjson.JSONDecodeError, AttributeError):
        return ApiError(status, f"{method} {path}: {status} {data[:300].decode(errors='replace')}")


def metadata_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """``metadata``, never None."""
    return obj.get("metadata") or {}


def name_of(obj: Mapping[str, Any]) -> str:
    """``metadata.name``."""
    return str(metadata_of(obj).get("name") or "")


def namespace_of(obj: Mapping[str, Any]) -> str:
    """``metadata.namespace``, empty for a cluster-scoped object."""
    return str(metadata_of(obj).get("namespace") or "")


def uid_of(obj: Mapping[str, Any]) -> str:
    """``metadata.uid``."""
    return str(metadata_of(obj).get("uid") or "")


def deleting(obj: Mapping[str, Any]) -> bool:
    """Whether the object is marked for deletion."""
    return bool(metadata_of(obj).get("deletionTimestamp"))
