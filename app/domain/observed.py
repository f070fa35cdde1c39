"""What a hook is called with, as the decisions see it: plain dicts behind a few names, nothing copied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object as it came over the wire."""


def metadata(obj: Object) -> Mapping[str, Any]:
    """``metadata`` of *obj*, never None."""
    return obj.get("metadata") or {}


def name_of(obj: Object) -> str:
    """``metadata.name``."""
    return str(metadata(obj).get("name") or "")


def part(obj: Object, name: str) -> Mapping[str, Any]:
    """The object in field *name* of *obj*; empty when the field is absent or holds something else."""
    value = obj.get(name)
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """The objects in the list *value*; anything that is not a list, or not an object in it, is left out.

    >>> items([{"a": 1}, None, "x"]), items("x")
    ([{'a': 1}], [])
    """
    return [item for item in value if isinstance(item, dict)] if isinstance(value, (list, tuple)) else []


def condition(obj: Object, kind: str) -> Object | None:
    """The condition *kind* in ``status.conditions`` of *obj* when its status is ``True``."""
    for item in items(part(obj, "status").get("conditions")):
        if item.get("type") == kind and item.get("status") == "True":
            return item
    return None


def controller_of(meta: Mapping[str, Any]) -> str:
    """Uid of the owner that controls the object with metadata *meta*; empty without one. Kubernetes allows one at most."""
    owners = meta.get("ownerReferences")
    if isinstance(owners, list):
        for owner in owners:
            if isinstance(owner, dict) and owner.get("controller") is True and isinstance(uid := owner.get("uid"), str):
                return uid
    return ""


def controlled_by(meta: Mapping[str, Any], uid: str) -> bool:
    """Whether the owner that controls the object with metadata *meta* is *uid*."""
    return bool(uid) and controller_of(meta) == uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One sync or finalize request of a CompositeController, hook version v2.

    *children* and *related* map ``Kind.group/version`` to ``namespace/name`` (or ``name``) to object.
    """

    parent: Object
    children: Mapping[str, Mapping[str, Object]]
    related: Mapping[str, Mapping[str, Object]] = field(default_factory=dict)
    finalizing: bool = False
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What several places of one pass derive from the request, kept by the function that derives it. A copy made by ``replace``
    starts empty."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The parent's spec."""
        return self.parent.get("spec") or {}

    @property
    def status(self) -> Mapping[str, Any]:
        """The parent's status as received: it may be one write behind."""
        return self.parent.get("status") or {}

    @property
    def namespace(self) -> str:
        """The parent's namespace."""
        return str(metadata(self.parent).get("namespace") or "")

    @property
    def name(self) -> str:
        """The parent's name."""
        return name_of(self.parent)

    @property
    def uid(self) -> str:
        """The parent's uid."""
        return str(metadata(self.parent).get("uid") or "")

    def of_kind(self, kind: str) -> Mapping[str, Object]:
        """Observed children of one kind (``Job.batch/v1``), by *name*."""
        return {name_of(child): child for child in (self.children.get(kind) or {}).values()}

    def all_children(self) -> Iterator[Object]:
        """Every observed child of every kind."""
        for group in self.children.values():
            yield from group.values()
