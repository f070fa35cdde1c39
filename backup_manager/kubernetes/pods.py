"""Pods of a CR's Jobs: which of them may still write, and which have ended for certain."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from backup_manager.kubernetes.client import KubernetesApi
from crds.contract import names

_ACTIVE: Final = frozenset({"Pending", "Running", "Unknown"})
_NOT_WRITING: Final = frozenset({names.Component.CLEAN.value})
_ENDED: Final = frozenset({"Succeeded", "Failed"})


def live_writers(pods: Sequence[Mapping[str, Any]], *, own_uid: str = "") -> list[str]:
    """Names of the Pods among *pods* that may still write.

    A clean of the same CR writes nothing; counting it, two cleans would wait for each other for ever. A Pod whose node was
    lost (``Unknown``) may well be writing.
    """
    return sorted(
        str(pod["metadata"]["name"])
        for pod in pods
        if (pod.get("status") or {}).get("phase", "Pending") in _ACTIVE
        and (pod["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL) not in _NOT_WRITING
        and not (own_uid and pod["metadata"].get("uid") == own_uid)
    )


def ended_pods(api: KubernetesApi | None, namespace: str, owner_uid: str) -> set[str]:
    """Uids of the Pods of the CR *owner_uid* in *namespace* that Kubernetes shows ended; empty without Kubernetes. Raises what
    the API server answers."""
    if api is None:
        return set()
    pods = api.pods(namespace, {names.OWNER_UID_LABEL: owner_uid})
    return {str(pod["metadata"].get("uid") or "") for pod in pods if has_ended(pod)}


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether no process of *pod* can run any more: it ended and the kubelet saw each container terminate, or it never had a
    node."""
    status = pod.get("status") or {}
    if status.get("phase") not in _ENDED:
        return False
    if not (pod.get("spec") or {}).get("nodeName"):
        return True
    states = [container.get("state") or {} for container in status.get("containerStatuses") or ()]
    return bool(states) and all("terminated" in state for state in states)
