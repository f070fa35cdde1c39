"""Watches Pods: binds the unassigned ones, and gives every Pod of ours a :class:`~sandbox.standins.kubelet.pod.PodRunner`."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sandbox.api import PODS, Api, ApiError, Object, deleting, name_of, namespace_of, uid_of
from sandbox.informer import Informer
from sandbox.layout import TOOLS, VENV_BIN
from sandbox.processes import Recorded, stop
from sandbox.standins.kubelet.node import LABELS, NODE_NAME, Node
from sandbox.standins.kubelet.pod import PodRunner
from sandbox.standins.kubelet.status import conditions

_ENDED: Final = {"Succeeded", "Failed"}
_log = logging.getLogger(__name__)


class Agent:
    """The whole agent. *folder* holds one folder per Pod; claimed volumes are kept beside it."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._claims = folder.parent / "claims"
        self._node = Node(api)
        self._pods = Informer(api, PODS)
        self._runners: dict[str, PodRunner] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="pods")
        self._fresh = False
        self._base = _base_environment(api.server)

    def start(self) -> None:
        """Clear up after an earlier agent, register, and serve. Raises ApiError."""
        leftovers = [Recorded.load(path) for path in self._folder.glob("*/*/*.process.json")]
        stop([record for record in leftovers if record], grace=1.0)
        self._node.start()
        self._pods.add_handler(self._on_pod)
        self._pods.start()

    def stop(self) -> None:
        """SIGKILL every container and end."""
        self._node.stop()
        self._pods.stop()
        with self._lock:
            for runner in self._runners.values():
                runner.kill()

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old:
                self._forget(old)
        elif not new["spec"].get("nodeName"):
            if not deleting(new):
                self._pool.submit(self._bind, new)
        elif new["spec"]["nodeName"] == NODE_NAME:
            self._serve(new)

    def _forget(self, pod: Object) -> None:
        with self._lock:
            runner = self._runners.pop(uid_of(pod), None)
        if runner:
            runner.kill()

    def _serve(self, pod: Object) -> None:
        with self._lock:
            runner = self._runners.get(uid_of(pod))
            if runner is None and (pod.get("status") or {}).get("phase") not in _ENDED:
                self._runners[uid_of(pod)] = runner = self._runner(pod)
                fresh = True
            else:
                fresh = False
        if runner is None:
            if deleting(pod):
                self._pool.submit(self._let_go, pod)
            return
        runner.update(pod)
        if not fresh:
            return
        if _had_started(pod):
            self._pool.submit(runner.adopt_lost)
            with self._lock:
                self._runners.pop(uid_of(pod), None)
        else:
            runner.start()

    def _runner(self, pod: Object) -> PodRunner:
        folder = self._folder / namespace_of(pod) / f"{name_of(pod)}_{uid_of(pod)[:8]}"
        return PodRunner(self._api, pod, folder, self._claims, self._base)

    def _let_go(self, pod: Object) -> None:
        """Delete a Pod that ended before this agent came, or that ended and was cleared from memory."""
        try:
            self._api.delete(PODS, namespace_of(pod), name_of(pod), uid=uid_of(pod), grace=0)
        except ApiError as error:
            if error.status not in {404, 409}:
                _log.warning("%s: cannot be deleted: %s", name_of(pod), error)

    def _bind(self, pod: Object) -> None:
        spec = pod["spec"]
        if spec.get("schedulingGates"):
            return
        misses = sorted(f"{key}={value}" for key, value in (spec.get("nodeSelector") or {}).items() if LABELS.get(key) != value)
        try:
            if misses:
                self._unschedulable(pod, f"0/1 nodes are available: the only one lacks the label {', '.join(misses)}.")
                return
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE_NAME}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name_of(pod)}, "target": target}
            self._api.request("POST", PODS.path(namespace_of(pod), name_of(pod), "binding"), binding)
        except ApiError as error:
            if error.status not in {404, 409}:
                _log.warning("%s: cannot be bound: %s", name_of(pod), error)

    def _unschedulable(self, pod: Object, message: str) -> None:
        known = conditions(pod, {"PodScheduled": (False, "Unschedulable")})
        if known == ((pod.get("status") or {}).get("conditions") or []):
            return
        known[0]["message"] = message
        patch = {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": known}}
        if message not in str((pod.get("status") or {}).get("conditions")):
            self._api.patch(PODS, namespace_of(pod), name_of(pod), patch, subresource="status")


def _had_started(pod: Object) -> bool:
    status = pod.get("status") or {}
    states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return any("waiting" not in (item.get("state") or {"waiting": {}}) for item in states)


def _base_environment(server: str) -> dict[str, str]:
    """What an image and the cluster bring: a PATH with our tools, and where the API server is."""
    address = urlsplit(server)
    path = [str(VENV_BIN), str(TOOLS), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    return {
        "PATH": os.pathsep.join(path),
        "HOME": "/",
        "LANG": "C.UTF-8",
        "KUBERNETES_SERVICE_HOST": str(address.hostname),
        "KUBERNETES_SERVICE_PORT": str(address.port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(address.port),
    }
