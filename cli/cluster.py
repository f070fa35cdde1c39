"""The cluster of a kubeconfig, through the ``kubernetes`` client. Imported by commands only when they ask a cluster."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import orjson
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from backup_manager.errors import AccessDeniedError, NotFoundError, PermanentError, UnreachableError, UsageError
from cli.documents import DEFAULT_NAMESPACE, Object, key_of
from crds.contract import names
from crds.v1alpha1 import KINDS

_TIMEOUT: Final = (5, 60)
_PAGE: Final = 500
_OTHERS: Final[Mapping[str, tuple[str, str]]] = {
    "TidbCluster": ("pingcap.com/v1alpha1", "tidbclusters"),
    "Cluster": ("core.pingcap.com/v1alpha1", "clusters"),
}


class ConflictError(PermanentError):
    """The object exists already, or was changed meanwhile."""

    reason = "Conflict"


class Cluster:
    """One cluster and namespace. Raises only :mod:`backup_manager.errors`."""

    def __init__(self, *, kubeconfig: str = "", context: str = "", namespace: str = "") -> None:
        settings = client.Configuration()
        settings.retries = False
        self._chosen = namespace
        self._of_context = ""
        try:
            self._load(settings, kubeconfig, context)
        except (ConfigException, OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"no cluster to ask: {' '.join(str(error).split())}",
                hint="Give --kubeconfig and --context as to kubectl, or -f FILE to work on files without a cluster.",
            ) from None
        api = client.ApiClient(settings)
        # The published stubs know neither raw answers nor the result of a creation.
        self._resources: Any = client.CustomObjectsApi(api)
        self._core: Any = client.CoreV1Api(api)
        self._batch: Any = client.BatchV1Api(api)

    def _load(self, settings: Any, kubeconfig: str, context: str) -> None:
        """From the kubeconfig, which the client by itself looks for only when imported; in a Pod without one its account."""
        path = kubeconfig or os.environ.get("KUBECONFIG") or None
        try:
            config.load_kube_config(path, context or None, client_configuration=settings)
        except ConfigException:
            if kubeconfig or context or "KUBERNETES_SERVICE_HOST" not in os.environ:
                raise
            config.load_incluster_config(client_configuration=settings)
            return
        contexts, current = config.list_kube_config_contexts(path)
        chosen = next((item for item in contexts if item["name"] == context), current)
        self._of_context = (chosen.get("context") or {}).get("namespace") or ""

    @property
    def namespace(self) -> str:
        """The one asked for, else the context's."""
        return self._chosen or self._of_context or DEFAULT_NAMESPACE

    def list(self, kind: str, *, everywhere: bool = False) -> list[Object]:
        """Every object of *kind*, page by page."""
        found = list(self._pages(kind, "" if everywhere else self.namespace))
        return sorted(found, key=key_of)

    def _pages(self, kind: str, namespace: str) -> Iterator[Object]:
        following = ""
        while True:
            with _told(f"{kind} of {namespace or 'all namespaces'}"):
                try:
                    page = self._page(kind, namespace, following)
                except ApiException as error:
                    if error.status == 404:
                        return
                    raise
            version = page.get("apiVersion")
            for item in page.get("items") or ():
                yield {"apiVersion": version, "kind": kind, **item}
            following = (page.get("metadata") or {}).get("continue") or ""
            if not following:
                return

    def _page(self, kind: str, namespace: str, following: str) -> dict[str, Any]:
        options: dict[str, Any] = {"limit": _PAGE, "_request_timeout": _TIMEOUT}
        if following:
            options["_continue"] = following
        if kind in KINDS or kind in _OTHERS:
            version, plural = _OTHERS.get(kind) or (names.API_VERSION, KINDS[kind].PLURAL)
            group, _, version = version.partition("/")
            if namespace:
                return dict(self._resources.list_namespaced_custom_object(group, version, namespace, plural, **options))
            return dict(self._resources.list_cluster_custom_object(group, version, plural, **options))
        calls = {
            "Job": (self._batch, "job"),
            "Pod": (self._core, "pod"),
            "Event": (self._core, "event"),
            "ServiceAccount": (self._core, "service_account"),
        }
        api, name = calls[kind]
        raw = {**options, "_preload_content": False}
        if namespace:
            answer = getattr(api, f"list_namespaced_{name}")(namespace, **raw)
        else:
            answer = getattr(api, f"list_{name}_for_all_namespaces")(**raw)
        found: dict[str, Any] = orjson.loads(answer.data)
        return found

    def get(self, kind: str, name: str) -> Object:
        """One CR of the namespace."""
        with _told(f"{kind} {self.namespace}/{name}"):
            found = self._resources.get_namespaced_custom_object(
                names.GROUP, names.VERSION, self.namespace, KINDS[kind].PLURAL, name, _request_timeout=_TIMEOUT
            )
        return dict(found)

    def create(self, obj: Mapping[str, Any]) -> Object:
        """Create a CR. Raises ConflictError when the name is taken."""
        kind, namespace, name = key_of(obj)
        with _told(f"{kind} {namespace}/{name}"):
            made = self._resources.create_namespaced_custom_object(
                names.GROUP, names.VERSION, namespace, KINDS[kind].PLURAL, dict(obj), _request_timeout=_TIMEOUT
            )
        return dict(made)

    def set_status(self, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Write the whole status of the CR *obj*, which must not have changed since."""
        kind, namespace, name = key_of(obj)
        with _told(f"status of {kind} {namespace}/{name}"):
            self._resources.replace_namespaced_custom_object_status(
                names.GROUP,
                names.VERSION,
                namespace,
                KINDS[kind].PLURAL,
                name,
                {**obj, "status": dict(status)},
                _request_timeout=_TIMEOUT,
            )

    def log_tail(self, pod: str, lines: int) -> str:
        """The last lines of a Pod's log; empty when there is none (any more)."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, tail_lines=lines, _request_timeout=_TIMEOUT, _preload_content=False
            )
        except (ApiException, HTTPError):
            return ""
        text: str = answer.data.decode(errors="replace")
        return text


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what the client raises into our errors."""
    try:
        yield
    except ApiException as error:
        raise _refusal(what, error) from None
    except (HTTPError, OSError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise UnreachableError(
            f"the API server does not answer: {reason[:300]}", hint="Is the context the right one?"
        ) from None


def _refusal(what: str, error: ApiException) -> Exception:
    try:
        said = str(orjson.loads(error.body or b"").get("message") or error.reason)
    except (orjson.JSONDecodeError, AttributeError):
        said = str(error.reason)
    match error.status:
        case 404:
            return NotFoundError(f"{what} not found", hint="Look with: tidb-backup status -A", reason="ObjectNotFound")
        case 401 | 403:
            return AccessDeniedError(
                f"{what}: {said}", hint="Your account needs this right in the cluster.", reason="Forbidden"
            )
        case 409:
            return ConflictError(f"{what}: {said}")
        case 429 | 500 | 502 | 503 | 504:
            return UnreachableError(f"{what}: {said}", hint="Try again; the API server is busy or starting.")
        case _:
            return PermanentError(f"{what}: {said}", reason="ApiServerRefused")
