"""The typed form of what a hook answered, checked as Go's decoder checks it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.api import Object, name_of
from sandbox.standins.metacontroller.webhook import HookError, HookPanic

_RULE_FIELDS: Final = {"apiVersion", "resource", "labelSelector", "namespace", "names", "namespaceSelector"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    """Answer to sync and finalize. *children* are attachments for a DecoratorController; *status* is None when absent."""

    status: Object | None = None
    children: list[Object] = field(default_factory=list)
    resync_after: float = 0.0
    finalized: bool = False
    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse_composite(cls, answer: Object, *, strict: bool) -> "SyncAnswer":
        """Of a CompositeController's hook."""
        _known(answer, {"status", "children", "resyncAfterSeconds", "finalized"}, strict=strict)
        return cls(
            status=_typed(answer, "status", dict, None),
            children=_objects(answer, "children"),
            resync_after=_seconds(answer),
            finalized=_typed(answer, "finalized", bool, False),
        )

    @classmethod
    def parse_decorator(cls, answer: Object, *, strict: bool) -> "SyncAnswer":
        """Of a DecoratorController's hook."""
        known = {"labels", "annotations", "status", "attachments", "resyncAfterSeconds", "finalized"}
        _known(answer, known, strict=strict)
        return cls(
            status=_typed(answer, "status", dict, None),
            children=_objects(answer, "attachments"),
            resync_after=_seconds(answer),
            finalized=_typed(answer, "finalized", bool, False),
            labels=_typed(answer, "labels", dict, {}),
            annotations=_typed(answer, "annotations", dict, {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedRule:
    """One rule of a customize answer."""

    api_version: str
    resource: str
    labels: Mapping[str, Any] | None = None
    namespace: str = ""
    names: tuple[str, ...] = ()
    namespaces: Mapping[str, Any] | None = None

    @classmethod
    def parse_all(cls, answer: Object, *, strict: bool) -> "list[RelatedRule]":
        """Of a customize answer. Raises HookError for combinations that Metacontroller refuses."""
        _known(answer, {"relatedResources"}, strict=strict)
        return [cls._parse(rule, strict=strict) for rule in _typed(answer, "relatedResources", list, [])]

    @classmethod
    def _parse(cls, rule: Any, *, strict: bool) -> "RelatedRule":
        if not isinstance(rule, dict):
            raise HookError("can't unmarshal response: relatedResources holds something that is no object")
        _known(rule, _RULE_FIELDS, strict=strict)
        labels, namespaces = _typed(rule, "labelSelector", dict, None), _typed(rule, "namespaceSelector", dict, None)
        names, namespace = tuple(_typed(rule, "names", list, [])), _typed(rule, "namespace", str, "")
        if names and (labels is not None or namespaces is not None):
            raise HookError("related rule: names excludes labelSelector and namespaceSelector")
        if namespace and namespaces is not None:
            raise HookError("related rule: namespace excludes namespaceSelector")
        return cls(
            api_version=_typed(rule, "apiVersion", str, ""),
            resource=_typed(rule, "resource", str, ""),
            labels=labels,
            namespace=namespace,
            names=names,
            namespaces=namespaces,
        )


def _known(answer: Object, fields: set[str], *, strict: bool) -> None:
    unknown = sorted(set(answer) - fields)
    if strict and unknown:
        raise HookError(f"can't unmarshal response: unknown field {unknown[0]!r}")


def _typed(answer: Object, name: str, kind: type, default: Any) -> Any:
    value = answer.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise HookError(f"can't unmarshal response: cannot unmarshal {type(value).__name__} into field {name!r}")
    return value


def _seconds(answer: Object) -> float:
    value = answer.get("resyncAfterSeconds") or 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise HookError("can't unmarshal response: resyncAfterSeconds is no number")
    return float(value)


def _objects(answer: Object, name: str) -> list[Object]:
    found: list[Object] = _typed(answer, name, list, [])
    if any(child is None for child in found):
        raise HookPanic(f"null inside {name}: nil dereference in UniformObjectMap.Insert")
    for child in found:
        if not isinstance(child, dict) or not child.get("kind"):
            raise HookError(f"can't unmarshal response: Object 'Kind' is missing in {str(child)[:200]!r}")
        if not child.get("apiVersion") or not name_of(child):
            raise HookError(f"desired {child['kind']} needs apiVersion and metadata.name")
    return found
