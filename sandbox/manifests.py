"""What ``up`` applies: the CRDs, the controllers that an administrator would apply, and one namespace ready for use."""

import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import yaml

from crds import names
from sandbox.api import CRDS, Api, ApiError, Object, name_of
from sandbox.components import base_environment, tool
from sandbox.errors import SandboxError
from sandbox.layout import ROOT
from sandbox.ports import HOST

CONTROLLER_KINDS: Final = ("CompositeController", "DecoratorController")
OVERLAY: Final = ROOT / "metacontroller" / "overlays" / "standalone"
"""No TidbCluster CRDs here: Metacontroller fails on a related kind that is not installed."""
NAMESPACE_LABEL: Final = {"tidb.pingcap.com/backup": "enabled"}
_SKIPPED: Final = ("Deployment", "Service", "PodDisruptionBudget", "StatefulSet", "ServiceMonitor", "PrometheusRule")
"""Parts of the installation that the sandbox runs as processes, or has no use for."""


def load(path: Path) -> list[Object]:
    """The objects of a YAML file."""
    return [document for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if document]


def crds() -> list[Object]:
    """Metacontroller's CRDs (our short form) and the product's."""
    return [
        obj
        for path in (Path(__file__).with_name("metacontroller_crds.yaml"), *sorted((ROOT / "crds").glob("*.yaml")))
        for obj in load(path)
    ]


def installation(webhook_port: int) -> list[Object]:
    """The rendered installation, its hooks pointed at the local webhook; without CRDs and without what runs as a process."""
    if not OVERLAY.exists():
        return []
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(OVERLAY)], capture_output=True, text=True, check=False, env=base_environment()
    )
    if done.returncode != 0:
        raise SandboxError(f"kubectl kustomize {OVERLAY} failed:\n{done.stderr[-1000:]}")
    objects = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
    wanted = [obj for obj in objects if obj and obj["kind"] not in (*_SKIPPED, "CustomResourceDefinition")]
    return [local_hooks(obj, webhook_port) if obj["kind"] in CONTROLLER_KINDS else obj for obj in wanted]


def local_hooks(controller: Object, port: int) -> Object:
    """A controller with every webhook at ``http://127.0.0.1:<port>`` and the path that it had: Service names do not
    resolve outside a cluster."""
    for hook in controller["spec"]["hooks"].values():
        webhook: dict[str, Any] = hook["webhook"]
        if url := webhook.get("url"):
            path = "/" + url.split("://", 1)[-1].partition("/")[2]
        else:
            webhook.pop("service", None)
            path = webhook.pop("path", "/")
        webhook["url"] = f"http://{HOST}:{port}{path}"
    return controller


def create_crds(api: Api, objects: Sequence[Object], *, seconds: float = 60.0) -> None:
    """Create CRDs and wait until each is served. Plain creation: server-side apply takes seconds for schemas of this size."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda crd: api.create(CRDS, crd), objects))
    deadline = time.monotonic() + seconds
    for name in (name_of(obj) for obj in objects):
        while not _established(api.get(CRDS, "", name)):
            if time.monotonic() > deadline:
                raise SandboxError(f"CRD {name} is not established after {seconds:g} s; see: kubectl describe crd {name}")
            time.sleep(0.05)


def _established(crd: Object) -> bool:
    conditions = {item["type"]: item["status"] for item in (crd.get("status") or {}).get("conditions") or ()}
    if conditions.get("NamesAccepted") == "False":
        raise SandboxError(f"CRD {name_of(crd)}: its names are taken")
    return conditions.get("Established") == "True"


def apply_all(api: Api, objects: Iterable[Object]) -> None:
    """Apply objects, several at a time, namespaces first."""
    todo = list(objects)
    first = [obj for obj in todo if obj["kind"] == "Namespace"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda obj: _apply(api, obj), first))
        list(pool.map(lambda obj: _apply(api, obj), [obj for obj in todo if obj["kind"] != "Namespace"]))


def _apply(api: Api, obj: Object, *, seconds: float = 10.0) -> None:
    # A kind whose CRD has just been established may need a moment more in discovery.
    deadline = time.monotonic() + seconds
    while True:
        try:
            api.apply(obj)
            return
        except ApiError as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise SandboxError(f"cannot apply {obj['kind']} {name_of(obj)}: {error.message}") from error
            time.sleep(0.1)


def workspace(namespace: str, *, tidb_password: str, access_key: str, secret_key: str) -> list[Object]:
    """A namespace in which a Backup can run: its label, and the Secrets ``tidb-secret`` and ``s3-secret``."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": dict(NAMESPACE_LABEL)}},
        _secret(namespace, "tidb-secret", {"password": tidb_password}),
        _secret(namespace, "s3-secret", {"access_key": access_key, "secret_key": secret_key}),
    ]


def manager_account(namespace: str) -> list[Object]:
    """The manager's account and rights, for a sandbox without the controller that makes them for labelled namespaces."""
    rules = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "patch"]},
        {"apiGroups": [names.GROUP], "resources": ["backups", "restores", "compactbackups"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    ]
    metadata = {"name": names.SERVICE_ACCOUNT, "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": names.SERVICE_ACCOUNT}
    subject = {"kind": "ServiceAccount", "name": names.SERVICE_ACCOUNT, "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [subject],
        },
    ]


def _secret(namespace: str, name: str, values: dict[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": values}
