"""A container's environment and command line, resolved as a kubelet does: literals, references, ``$(NAME)``."""

import base64
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from crds.contract import sizes
from sandbox.api import Object, metadata_of

Lookup = Callable[[str, str], Object | None]
"""(``Secret`` or ``ConfigMap``, name) in the Pod's namespace."""
_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z0-9_.-]+)\)")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_NODE_LIMITS: Final = {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi"}
"""Told to a container that asks for a limit it has not set."""
POD_ADDRESS: Final = "127.0.0.1"


class ConfigError(Exception):
    """A reference that cannot be resolved now: the container waits with ``CreateContainerConfigError``."""


def resolve(container: Object, pod: Object, lookup: Lookup, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of *container*: *base*, then ``envFrom``, then ``env`` in order. Raises ConfigError."""
    found = dict(base)
    for source in container.get("envFrom") or ():
        found |= _env_from(source, lookup)
    for entry in container.get("env") or ():
        if "valueFrom" in entry:
            value = _value_from(entry["valueFrom"], container, pod, lookup)
            if value is None:
                continue
        else:
            value = expand(entry.get("value") or "", found)
        found[entry["name"]] = value
    return found


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by variables known so far; unknown ones stay, ``$$`` is a dollar sign.

    >>> expand("$(A)-$(B)-$$(A)", {"A": "1"})
    '1-$(B)-$(A)'
    """
    return _REFERENCE.sub(lambda match: "$" if match[0] == "$$" else env.get(match[1], match[0]), text)


def command_line(container: Object, entrypoint: tuple[str, ...], env: Mapping[str, str]) -> list[str]:
    """``command`` takes the place of the image's entrypoint; ``args`` follow. Raises ConfigError when nothing is left."""
    command = [expand(part, env) for part in container.get("command") or entrypoint]
    argv = command + [expand(part, env) for part in container.get("args") or ()]
    if not argv:
        raise ConfigError("no command specified")
    return argv


def _env_from(source: Mapping[str, Any], lookup: Lookup) -> dict[str, str]:
    kind, reference = ("Secret", source["secretRef"]) if "secretRef" in source else ("ConfigMap", source["configMapRef"])
    obj = lookup(kind, reference["name"])
    if obj is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{kind.lower()} "{reference["name"]}" not found')
    prefix = source.get("prefix", "")
    return {prefix + key: value.decode(errors="replace") for key, value in contents(obj).items()}


def _value_from(source: Mapping[str, Any], container: Object, pod: Object, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_field(container, source["resourceFieldRef"])
    kind, reference = (
        ("Secret", source["secretKeyRef"]) if "secretKeyRef" in source else ("ConfigMap", source["configMapKeyRef"])
    )
    obj = lookup(kind, reference["name"])
    value = contents(obj).get(reference["key"]) if obj else None
    if value is not None:
        return value.decode(errors="replace")
    if reference.get("optional"):
        return None
    if obj is None:
        raise ConfigError(f'{kind.lower()} "{reference["name"]}" not found')
    raise ConfigError(f"couldn't find key {reference['key']} in {kind} {metadata_of(pod)['namespace']}/{reference['name']}")


def contents(obj: Object) -> dict[str, bytes]:
    """The keys of a Secret or ConfigMap, decoded."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def field(pod: Object, path: str) -> str:
    """A field of the Pod by its downward-API path; a missing label or annotation is empty. Raises ConfigError."""
    metadata, spec = metadata_of(pod), pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    plain = {
        "metadata.name": metadata.get("name"),
        "metadata.namespace": metadata.get("namespace"),
        "metadata.uid": metadata.get("uid"),
        "metadata.labels": _lines(metadata.get("labels") or {}),
        "metadata.annotations": _lines(metadata.get("annotations") or {}),
        "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName"),
        "status.hostIP": POD_ADDRESS,
        "status.podIP": POD_ADDRESS,
        "status.podIPs": POD_ADDRESS,
    }
    if path not in plain:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return str(plain[path] or "")


def _lines(values: Mapping[str, str]) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))


def resource_field(container: Object, reference: Mapping[str, Any]) -> str:
    """A limit or request of the container in whole *divisor* units, rounded up; the node's where none is set."""
    section, _, name = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    text = (resources.get(section) or {}).get(name) or ("0" if section == "requests" else _NODE_LIMITS.get(name, "0"))
    divisor = sizes.parse(str(reference.get("divisor") or "1")) or Decimal(1)
    return str(int((sizes.parse(str(text)) / divisor).to_integral_value(rounding=ROUND_CEILING)))
