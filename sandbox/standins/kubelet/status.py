"""A Pod's status from the states of its containers: phase and conditions, as a kubelet computes them."""

from collections.abc import Sequence
from typing import Any, Final

from sandbox.api import Object
from sandbox.standins.kubelet.container import Container, now
from sandbox.standins.kubelet.environment import POD_ADDRESS

OWN_CONDITIONS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def phase(init: Sequence[Container], main: Sequence[Container], restart_policy: str) -> str:
    """The Pod's phase. While a container will be restarted the Pod counts as running."""
    failed_init = [item for item in init if item.exit_code not in {None, 0}]
    if failed_init and restart_policy == "Never":
        return "Failed"
    codes = [item.exit_code for item in main]
    if all(code is not None for code in codes):
        if restart_policy == "Never" or (restart_policy == "OnFailure" and not any(codes)):
            return "Failed" if any(codes) else "Succeeded"
        return "Running"
    if any(item.running or item.exit_code is not None or item.last_state for item in main):
        return "Running"
    return "Pending"


def build(
    pod: Object, init: Sequence[Container], main: Sequence[Container], *, final: str = "", started: str, volumes_ready: bool
) -> Object:
    """The whole status that the agent writes; *final* overrides the phase of a Pod that was stopped."""
    current = final or phase(init, main, pod["spec"].get("restartPolicy", "Always"))
    initialized = all(item.exit_code == 0 for item in init) and (volumes_ready or current in {"Succeeded", "Failed"})
    ready = bool(main) and all(item.running for item in main) and not final
    done = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(current, "")
    truths = {
        "PodReadyToStartContainers": (volumes_ready and not done, done),
        "Initialized": (initialized, "" if initialized else "ContainersNotInitialized"),
        "Ready": (ready, done or ("" if ready else "ContainersNotReady")),
        "ContainersReady": (ready, done or ("" if ready else "ContainersNotReady")),
        "PodScheduled": (True, ""),
    }
    return {
        "phase": current,
        "hostIP": POD_ADDRESS,
        "hostIPs": [{"ip": POD_ADDRESS}],
        "podIP": POD_ADDRESS,
        "podIPs": [{"ip": POD_ADDRESS}],
        "startTime": started,
        "conditions": conditions(pod, truths),
        "initContainerStatuses": [item.status(init=True) for item in init],
        "containerStatuses": [item.status() for item in main],
        "qosClass": (pod.get("status") or {}).get("qosClass", "BestEffort"),
    }


def conditions(pod: Object, truths: dict[str, tuple[bool, str]]) -> list[Any]:
    """Our conditions with their transition times kept where nothing changed, and those that others wrote."""
    known = {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or ()}
    result = []
    for kind, (truth, reason) in truths.items():
        before, text = known.get(kind) or {}, "True" if truth else "False"
        since = before["lastTransitionTime"] if before.get("status") == text and before.get("lastTransitionTime") else now()
        result.append({"type": kind, "status": text, "lastTransitionTime": since, **({"reason": reason} if reason else {})})
    return result + [item for kind, item in known.items() if kind not in OWN_CONDITIONS]
