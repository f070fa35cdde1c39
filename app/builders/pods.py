"""The Pod of a Job: init containers that bring the tool, the manager's container, and how little both may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.builders.env import environment
from app.builders.labels import annotations, labels
from app.builders.volumes import volumes_of
from app.domain.config import Config
from app.domain.job.observed import JobIntent, Purpose
from app.domain.observed import Observed
from crds.contract import names
from crds.contract.versions import split_image

USER: Final = 65532
WATCH_RESOURCES: Final = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
"""Of a Pod that only asks PD or TiDB something: the CR's own are those of real work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A binary that an init container copies from its image into a folder both containers see."""

    name: str
    binary: str
    directory: str
    volume: str
    default_repository: str = ""


_BR: Final = Tool(name="br", binary="br", directory=names.BR_BIN_DIR, volume="br-bin", default_repository="pingcap/br")
_DUMPLING: Final = Tool(name="dumpling", binary="dumpling", directory=names.DUMPLING_BIN_DIR, volume="dumpling-bin")
_LIGHTNING: Final = Tool(name="lightning", binary="tidb-lightning", directory=names.LIGHTNING_BIN_DIR, volume="lightning-bin")
_COMPACT_BR: Final = Tool(
    name="br", binary="br", directory=names.BR_BIN_DIR, volume="tool-bin", default_repository="pingcap/br"
)
_TIKV_CTL: Final = Tool(
    name="tikv-ctl", binary="tikv-ctl", directory=names.KVCTL_BIN_DIR, volume="tool-bin", default_repository="pingcap/tikv"
)
_CONTAINERS: Final = {
    Purpose.IMPORT: "restore",
    Purpose.RESTORE: "restore",
    Purpose.PRUNE: "restoreprune-manager",
    Purpose.COMPACT: "backup-manager",
}


def tools_of(spec: Mapping[str, Any], intent: JobIntent) -> list[tuple[Tool, str]]:
    """The tools that *intent* needs, each with its image. Dumpling and lightning are bundled with the manager; a clean, the
    watch of a log backup and the restoring of a GC life time do all by themselves."""
    given = str(spec.get("toolImage") or "")
    if intent.purpose in {Purpose.CLEAN, Purpose.WATCH, Purpose.GC_LIFE_TIME}:
        return []
    if intent.purpose in {Purpose.EXPORT, Purpose.IMPORT}:
        tool = _DUMPLING if intent.purpose is Purpose.EXPORT else _LIGHTNING
        return [(tool, given)] if given else []
    version = intent.cluster.version if intent.cluster else ""
    if intent.purpose is Purpose.COMPACT:
        chosen = [(_COMPACT_BR, given), (_TIKV_CTL, str(spec.get("tikvImage") or ""))]
    else:
        chosen = [(_BR, given)]
    return [(tool, split_image(image or tool.default_repository).with_tag(version)) for tool, image in chosen]


def pod_template(observed: Observed, intent: JobIntent, args: list[str], config: Config) -> dict[str, Any]:
    """``spec.template`` of the Job."""
    spec = observed.spec
    tools = tools_of(spec, intent)
    mounted = volumes_of(spec, intent, {tool.directory: tool.volume for tool, _ in tools})
    security = pod_security(spec.get("podSecurityContext") or {})
    restricted = container_security(security)
    resources = WATCH_RESOURCES if intent.purpose in {Purpose.WATCH, Purpose.GC_LIFE_TIME} else spec.get("resources")
    main = {
        "name": _CONTAINERS.get(intent.purpose, "backup"),
        "image": config.manager_image,
        "imagePullPolicy": config.image_pull_policy,
        "args": args,
        "env": environment(observed, intent, config),
        "volumeMounts": mounted.mounts,
        "resources": resources,
        "securityContext": restricted,
    }
    pod = {
        "serviceAccountName": spec.get("serviceAccount") or config.service_account,
        "automountServiceAccountToken": spec.get("automountServiceAccountToken"),
        "securityContext": security,
        "initContainers": [_init_container(tool, image, resources, restricted) for tool, image in tools],
        "containers": [_given(main)],
        "restartPolicy": _restart_policy(spec, intent),
        "terminationGracePeriodSeconds": names.GRACE_SECONDS,
        "tolerations": spec.get("tolerations"),
        "affinity": spec.get("affinity"),
        "imagePullSecrets": spec.get("imagePullSecrets"),
        "priorityClassName": spec.get("priorityClassName"),
        "volumes": mounted.volumes,
    }
    meta = {"labels": labels(observed, intent), "annotations": annotations(observed, intent)}
    return {"metadata": _given(meta), "spec": _given(pod)}


def _restart_policy(spec: Mapping[str, Any], intent: JobIntent) -> str:
    """Who repeats a failed container: the Pod itself only where nothing has to be decided in between."""
    in_place = intent.purpose is Purpose.WATCH or (intent.purpose is Purpose.COMPACT and spec.get("mode") != "sharded")
    return "OnFailure" if in_place else "Never"


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """*fields* without those that say nothing."""
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}


def _init_container(tool: Tool, image: str, resources: Any, security: Mapping[str, Any]) -> dict[str, Any]:
    target = f"{tool.directory}/{tool.binary}"
    return _given(
        {
            "name": tool.name,
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", f"cp /{tool.binary} {target}; echo {tool.binary} copied to {tool.directory}"],
            "volumeMounts": [{"name": tool.volume, "mountPath": tool.directory}],
            "resources": resources,
            "securityContext": dict(security),
        }
    )


def pod_security(given: Mapping[str, Any]) -> dict[str, Any]:
    """The Pod's security context: an unprivileged user, unless the CR says otherwise field by field."""
    defaults: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if given.get("runAsUser") == 0:
        defaults.pop("runAsNonRoot")
    return {**defaults, **given}


def container_security(pod: Mapping[str, Any]) -> dict[str, Any]:
    """A container's: nothing beyond its own files. Who asks for root keeps root's way to files of others."""
    drops = {} if pod.get("runAsUser") == 0 else {"capabilities": {"drop": ["ALL"]}}
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, **drops}
