"""What ``up`` applies: the CRDs, the controllers that an administrator would apply, and one namespace ready for use."""

import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from sandbox.api import CRDS, Api, ApiError, Object, name_of
from sandbox.components import base_environment, tool
from sandbox.errors import SandboxError
from sandbox.layout import ROOT
from sandbox.patience import PATIENCE, Deadline
from sandbox.ports import HOST

CONTROLLER_KINDS: Final = ("CompositeController", "DecoratorController")
OVERLAY: Final = ROOT / "metacontroller" / "overlays" / "standalone"
"""No TidbCluster CRDs here: Metacontroller fails on a related kind that is not installed."""
NAMESPACE_LABEL: Final = {"tidb.pingcap.com/backup": "enabled"}
_SKIPPED: Final = ("Deployment", "Service", "PodDisruptionBudget", "StatefulSet", "ServiceMonitor", "PrometheusRule")
"""Parts of the installation that the sandbox runs as processes, or has no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What an administrator would apply, taken apart: *crds* first, then *objects*; *settings* of the webhook."""

    crds: list[Object]
    objects: list[Object]
    settings: dict[str, str]


def render(webhook_port: int, ca: str) -> Installation:
    """Render :data:`OVERLAY`, its hooks pointed at the local webhook and trusting *ca* (PEM), and add Metacontroller's CRDs in
    our short form."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(OVERLAY)], capture_output=True, text=True, check=False, env=base_environment()
    )
    if done.returncode != 0:
        raise SandboxError(f"kubectl kustomize {OVERLAY} failed:\n{done.stderr[-1000:]}")
    text = done.stdout + "\n---\n" + Path(__file__).with_name("metacontroller_crds.yaml").read_text()
    documents: list[Object] = [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]
    return Installation(
        crds=[item for item in documents if item["kind"] == CRDS.kind],
        objects=[
            local_hooks(item, webhook_port, ca) if item["kind"] in CONTROLLER_KINDS else item
            for item in documents
            if item["kind"] not in (*_SKIPPED, CRDS.kind)
        ],
        settings=next((item["data"] for item in documents if item["kind"] == "ConfigMap" and _holds_settings(item)), {}),
    )


def _holds_settings(config_map: Object) -> bool:
    return any(key.startswith("TIDB_BACKUP_") for key in config_map.get("data") or {})


def local_hooks(controller: Object, port: int, ca: str) -> Object:
    """A controller with every webhook at ``https://127.0.0.1:<port>`` and the path that it had, trusting *ca*: Service names do
    not resolve outside a cluster, and the rotator does not run."""
    for hook in controller["spec"]["hooks"].values():
        webhook: dict[str, Any] = hook["webhook"]
        if url := webhook.get("url"):
            path = "/" + url.split("://", 1)[-1].partition("/")[2]
        else:
            webhook.pop("service", None)
            path = webhook.pop("path", "/")
        webhook["url"] = f"https://{HOST}:{port}{path}"
        webhook["caBundle"] = {"inline": ca}
    return controller


def create_crds(api: Api, objects: Sequence[Object], *, seconds: float = PATIENCE) -> None:
    """Create CRDs and wait until each is served. Plain creation: server-side apply takes seconds for schemas of this size."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda crd: _create_crd(api, crd), objects))
    deadline = Deadline(limit=seconds, stalled=seconds)
    for name in (name_of(obj) for obj in objects):
        while not _established(api, name):
            if over := deadline.over:
                raise SandboxError(f"CRD {name} is not established {over}; see: kubectl describe crd {name}")
            time.sleep(0.05)


def _create_crd(api: Api, crd: Object) -> None:
    """Create it, again where an overloaded server said nothing or not now: then the first try may have succeeded."""
    deadline, tried = Deadline(), False
    while True:
        try:
            api.create(CRDS, crd)
            return
        except ApiError as error:
            if error.status == 409 and tried:
                return
            if not error.passing or deadline.over:
                raise
            tried = True
            time.sleep(0.2)


def _established(api: Api, name: str) -> bool:
    try:
        crd = api.get(CRDS, "", name)
    except ApiError as error:
        if error.passing:
            return False
        raise
    conditions = {item["type"]: item["status"] for item in (crd.get("status") or {}).get("conditions") or ()}
    if conditions.get("NamesAccepted") == "False":
        raise SandboxError(f"CRD {name}: its names are taken")
    return conditions.get("Established") == "True"


def apply_all(api: Api, objects: Iterable[Object]) -> None:
    """Apply objects, several at a time, namespaces first."""
    todo = list(objects)
    first = [obj for obj in todo if obj["kind"] == "Namespace"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda obj: _apply(api, obj), first))
        list(pool.map(lambda obj: _apply(api, obj), [obj for obj in todo if obj["kind"] != "Namespace"]))


def _apply(api: Api, obj: Object, *, seconds: float = PATIENCE) -> None:
    # A kind whose CRD has just been established may need a moment more in discovery.
    deadline = Deadline(limit=seconds, stalled=seconds)
    while True:
        try:
            api.apply(obj)
            return
        except ApiError as error:
            if (error.status != 404 and not error.passing) or deadline.over:
                raise SandboxError(f"cannot apply {obj['kind']} {name_of(obj)}: {error.message}") from error
            time.sleep(0.1)


def workspace(namespace: str, *, tidb_password: str, access_key: str, secret_key: str) -> list[Object]:
    """A namespace in which a Backup can run: its label, and the Secrets ``tidb-secret`` and ``s3-secret``."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": dict(NAMESPACE_LABEL)}},
        _secret(namespace, "tidb-secret", {"password": tidb_password}),
        _secret(namespace, "s3-secret", {"access_key": access_key, "secret_key": secret_key}),
    ]


def _secret(namespace: str, name: str, values: dict[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": values}
