"""A Pod's volumes as local directories: emptyDir, hostPath, secret, configMap, downwardAPI, projected, and a claim, which
becomes a directory of the sandbox that outlives the Pod."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sandbox.api import Object
from sandbox.standins.kubelet.environment import Lookup, contents, field, resource_field

Token = Callable[[Mapping[str, Any]], str]
"""A service account token for a ``serviceAccountToken`` source."""


class VolumeError(Exception):
    """A volume that cannot be set up now: the containers stay in ``ContainerCreating``."""


class Volumes:
    """The volumes of one Pod, made under *folder*; claims live under *claims*."""

    def __init__(self, pod: Object, folder: Path, claims: Path, lookup: Lookup, token: Token) -> None:
        self._pod = pod
        self._folder = folder
        self._claims = claims
        self._lookup = lookup
        self._token = token

    def prepare(self) -> dict[str, Path]:
        """Make every volume; name -> directory or file. Raises VolumeError."""
        return {volume["name"]: self._prepare(volume) for volume in self._pod["spec"].get("volumes") or ()}

    def _prepare(self, volume: Mapping[str, Any]) -> Path:
        target: Path = self._folder / volume["name"]
        kind = next((key for key in volume if key != "name"), "emptyDir")
        source: Mapping[str, Any] = volume.get(kind) or {}
        match kind:
            case "emptyDir":
                target.mkdir(parents=True, exist_ok=True)
                target.chmod(0o777)
                return target
            case "hostPath":
                return _host_path(source)
            case "persistentVolumeClaim":
                claim = self._claims / str(self._pod["metadata"]["namespace"]) / str(source["claimName"])
                claim.mkdir(parents=True, exist_ok=True)
                return claim
            case "projected":
                return self._write(target, self._projected(source), source.get("defaultMode"))
            case "secret" | "configMap" | "downwardAPI":
                return self._write(target, self._files(kind, source), source.get("defaultMode"))
        raise VolumeError(f"volume {volume['name']!r}: {kind} is no volume that the sandbox knows")

    def _projected(self, source: Mapping[str, Any]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for part in source.get("sources") or ():
            for kind, inner in part.items():
                if kind == "serviceAccountToken":
                    files[inner["path"]] = self._token(inner).encode()
                else:
                    files |= self._files(kind, inner)
        return files

    def _files(self, kind: str, source: Mapping[str, Any]) -> dict[str, bytes]:
        if kind == "downwardAPI":
            return {item["path"]: self._downward(item).encode() for item in source.get("items") or ()}
        if kind not in {"secret", "configMap"}:
            raise VolumeError(f"projected source {kind} is none that the sandbox knows")
        name = source.get("secretName") or source.get("name") or ""
        obj = self._lookup("Secret" if kind == "secret" else "ConfigMap", name)
        if obj is None:
            if source.get("optional"):
                return {}
            raise VolumeError(f'{kind.lower()} "{name}" not found')
        values = contents(obj)
        if not source.get("items"):
            return values
        return _items(source["items"], values, f"{kind} {name}", optional=bool(source.get("optional")))

    def _downward(self, item: Mapping[str, Any]) -> str:
        if "fieldRef" in item:
            return field(self._pod, item["fieldRef"]["fieldPath"])
        reference = item["resourceFieldRef"]
        containers = {container["name"]: container for container in self._pod["spec"]["containers"]}
        return resource_field(containers[reference["containerName"]], reference)

    @staticmethod
    def _write(target: Path, files: Mapping[str, bytes], mode: int | None) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, data in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(data)
            os.chmod(path, 0o644 if mode is None else mode)
        return target


def _items(items: Iterable[Mapping[str, Any]], values: Mapping[str, bytes], where: str, *, optional: bool) -> dict[str, bytes]:
    files = {}
    for item in items:
        if item["key"] in values:
            files[str(item["path"])] = values[item["key"]]
        elif not optional:
            raise VolumeError(f"{where}: references non-existent key {item['key']}")
    return files


def _host_path(source: Mapping[str, Any]) -> Path:
    path = Path(source["path"])
    if source.get("type") == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        raise VolumeError(f"hostPath {path} does not exist")
    return path
