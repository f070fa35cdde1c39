"""The agent's Node object and its heartbeat, without which Kubernetes' own controllers would take its Pods away."""

import logging
import threading
from datetime import UTC, datetime
from typing import Final

from sandbox.api import LEASES, NODES, Api, ApiError, Object
from sandbox.standins.kubelet.container import now
from sandbox.standins.kubelet.environment import POD_ADDRESS

NODE_NAME: Final = "laptop"
LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_SECONDS: Final = 40
HEARTBEAT_SECONDS: Final = 10.0
LABELS: Final = {"kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": "linux", "sandbox": "true"}
_CAPACITY: Final = {"cpu": "16", "memory": "64Gi", "pods": "500", "ephemeral-storage": "500Gi"}
_log = logging.getLogger(__name__)


class Node:
    """One Node, kept Ready."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()

    def start(self) -> None:
        """Register, and keep the lease. Raises ApiError when registering fails."""
        self._api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME, "labels": dict(LABELS)}})
        self._api.patch(NODES, "", NODE_NAME, {"status": self._status()}, subresource="status")
        self._beat()
        threading.Thread(target=self._keep, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End the heartbeat."""
        self._stop.set()

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self._beat()
            except ApiError as error:
                _log.warning("heartbeat lost: %s", error)

    def _beat(self) -> None:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": NODE_NAME, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed}
        metadata = {"name": NODE_NAME, "namespace": LEASE_NAMESPACE}
        lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        try:
            self._api.patch(LEASES, LEASE_NAMESPACE, NODE_NAME, {"spec": spec})
        except ApiError as error:
            if error.status != 404:
                raise
            self._create(lease)

    def _create(self, lease: Object) -> None:
        try:
            self._api.create(LEASES, lease)
        except ApiError as error:
            # The namespace is made by the API server some moments after its start; the next beat comes soon enough.
            _log.info("no lease yet: %s", error)

    @staticmethod
    def _status() -> Object:
        moment = now()
        ready = {"type": "Ready", "status": "True", "reason": "AgentReady", "message": "the sandbox's node agent"}
        return {
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "addresses": [{"type": "InternalIP", "address": POD_ADDRESS}, {"type": "Hostname", "address": NODE_NAME}],
            "conditions": [{**ready, "lastHeartbeatTime": moment, "lastTransitionTime": moment}],
            "nodeInfo": {
                "architecture": "",
                "bootID": "",
                "containerRuntimeVersion": "sandbox://1",
                "kernelVersion": "",
                "kubeProxyVersion": "",
                "kubeletVersion": "v0.0.0-sandbox",
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "",
                "systemUUID": "",
            },
        }
