"""Plain Jobs in the sandbox: what the tests of the node agent have in common."""

import json
from typing import Any

from sandbox import Cluster
from sandbox.api import Object
from sandbox.patience import until


def job(name: str, script: str = "", *, container: Object | None = None, spec: Object | None = None, **pod: Any) -> str:
    """A Job as YAML (JSON is YAML)."""
    main = {"name": "main", "image": "busybox", **({"command": ["sh", "-c", script]} if script else {}), **(container or {})}
    template = {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [main], **pod}}
    body = {"backoffLimit": 0, "template": template, **(spec or {})}
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": body})


def condition(obj: Object | None, kind: str) -> bool:
    conditions = ((obj or {}).get("status") or {}).get("conditions") or ()
    return any(item["type"] == kind and item["status"] == "True" for item in conditions)


def finished(cluster: Cluster, name: str, namespace: str, kind: str = "Complete") -> Object:
    return cluster.wait_for("Job", name, lambda obj: condition(obj, kind), namespace=namespace, what=kind)


def pod_of(cluster: Cluster, name: str, namespace: str) -> Object:
    """The only Pod of a Job, once it is there."""

    def found() -> list[Object]:
        return cluster.pods(namespace, labels=f"batch.kubernetes.io/job-name={name}")

    pods: list[Object] = until(found, f"a Pod of {name}")
    [pod] = pods
    return pod


def state_of(cluster: Cluster, name: str, namespace: str, container: str = "main") -> Object:
    """The state of a container of a Job's Pod."""
    status = pod_of(cluster, name, namespace).get("status") or {}
    items = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return next((item["state"] for item in items if item["name"] == container), {})


def wait_state(cluster: Cluster, name: str, namespace: str, kind: str, reason: str = "") -> Object:
    def found() -> Object | None:
        state = state_of(cluster, name, namespace)
        return state[kind] if kind in state and (not reason or state[kind].get("reason") == reason) else None

    state: Object = until(found, lambda: f"{kind} {reason}: {state_of(cluster, name, namespace)}")
    return state
