"""What is read from and written to the API server: the Secret, and the CA bundle in the hooks of our controllers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from rotator.plan import Credentials, Step
from rotator.secret import RENEW, from_secret, to_secret

CONTROLLERS: Final[Mapping[str, tuple[str, ...]]] = {
    "compositecontrollers": ("tidb-backup", "tidb-restore", "tidb-backupschedule", "tidb-compactbackup"),
    "decoratorcontrollers": ("tidb-backup-namespaces",),
}
_GROUP: Final = "metacontroller.k8s.io"
_VERSION: Final = "v1alpha1"
_MANAGER: Final = "tidb-backup-rotator"
_NOT_FOUND: Final = 404
_TIMEOUT: Final = (5, 20)
"""Seconds to connect, and to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The Secret as it is. *version* is its resourceVersion, "" when there is none; *wanted*: a renewal is asked for."""

    credentials: Credentials | None = None
    version: str = ""
    wanted: bool = False


class Cluster:
    """The API server, as the Pod's account or as *kubeconfig* says. Every method raises ApiException."""

    def __init__(self, *, namespace: str, secret: str, kubeconfig: str = "") -> None:
        if kubeconfig:
            config.load_kube_config(kubeconfig)
        else:
            config.load_incluster_config()
        self._namespace, self._secret = namespace, secret
        # The stubs know no objects as plain dicts, which the library takes as well.
        self._core: Any = client.CoreV1Api()
        self._custom: Any = client.CustomObjectsApi()

    def read(self) -> Found:
        """The Secret."""
        try:
            found = self._core.read_namespaced_secret(self._secret, self._namespace, _request_timeout=_TIMEOUT)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return Found()
            raise
        annotations = found.metadata.annotations or {}
        current = from_secret(found.data or {}, annotations)
        return Found(credentials=current, version=found.metadata.resource_version, wanted=RENEW in annotations)

    def write(self, credentials: Credentials, found: Found) -> None:
        """Create the Secret, or replace the one that was *found*: a change by anybody in between is a conflict."""
        # A request that came during a renewal is for the next one.
        wanted = found.wanted and credentials.step is not Step.PREPARED
        body, version = to_secret(credentials, self._secret, self._namespace, wanted=wanted), found.version
        given = {"body": body, "field_manager": _MANAGER, "_request_timeout": _TIMEOUT}
        if version:
            body["metadata"]["resourceVersion"] = version
            self._core.replace_namespaced_secret(self._secret, self._namespace, **given)
        else:
            self._core.create_namespaced_secret(self._namespace, **given)

    def trust(self, certificates: str) -> Iterator[str]:
        """Put *certificates* into the hooks of each controller that presents our token; names of those that were changed. A
        controller that is missing comes later, with the one who applies it.

        It is this change that makes Metacontroller read the token again: it reads Secrets only when the spec of a controller
        is another one than before.
        """
        for plural, names in CONTROLLERS.items():
            for name in names:
                where = {"group": _GROUP, "version": _VERSION, "plural": plural, "name": name}
                try:
                    found = self._custom.get_cluster_custom_object(**where, _request_timeout=_TIMEOUT)
                except ApiException as error:
                    if error.status == _NOT_FOUND:
                        continue
                    raise
                if patch := self._bundle_patch(found, certificates):
                    self._custom.patch_cluster_custom_object(
                        **where, body=patch, field_manager=_MANAGER, _request_timeout=_TIMEOUT
                    )
                    yield name

    def _bundle_patch(self, controller: Mapping[str, Any], certificates: str) -> dict[str, Any] | None:
        hooks = {}
        for name, hook in ((controller.get("spec") or {}).get("hooks") or {}).items():
            webhook = hook.get("webhook") or {}
            reference = (webhook.get("authorization") or {}).get("secretRef") or {}
            ours = (reference.get("namespace"), reference.get("name")) == (self._namespace, self._secret)
            if ours and (webhook.get("caBundle") or {}) != {"inline": certificates}:
                # null removes a reference to something else: Metacontroller takes exactly one.
                bundle = {"inline": certificates, "secretRef": None, "configMapRef": None}
                hooks[name] = {"webhook": {"caBundle": bundle}}
        version = {"resourceVersion": controller["metadata"]["resourceVersion"]}
        return {"metadata": version, "spec": {"hooks": hooks}} if hooks else None
