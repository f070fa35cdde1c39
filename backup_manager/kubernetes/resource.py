"""The CR a run works for, read from the API server or from a file."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from backup_manager.errors import UsageError
from crds.contract import identity, names


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One Backup, Restore or CompactBackup. *spec* keeps the user's words; it is hidden from ``repr`` since a SAS token may
    be in it. *deleting*: the CR was deleted and waits for its finalizers."""

    kind: str
    namespace: str
    name: str
    uid: str
    spec: Mapping[str, Any] = field(repr=False)
    status: Mapping[str, Any] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)
    deleting: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any], *, namespace: str = "") -> Self:
        """From a Kubernetes object. Raises UsageError when it is none."""
        metadata = document.get("metadata") or {}
        name, spec = metadata.get("name"), document.get("spec")
        if not isinstance(name, str) or not name:
            raise UsageError("metadata.name is missing", hint="Give the object a name.")
        if not isinstance(spec, Mapping):
            raise UsageError(f"{name}: spec is missing", hint="Write the object as in the examples.")
        return cls(
            kind=str(document.get("kind") or ""),
            namespace=str(metadata.get("namespace") or namespace or "default"),
            name=name,
            uid=str(metadata.get("uid") or ""),
            spec=spec,
            status=document.get("status") or {},
            annotations=metadata.get("annotations") or {},
            deleting=bool(metadata.get("deletionTimestamp")),
        )

    def with_uid(self, uid: str) -> Self:
        """The same with *uid*."""
        return replace(self, uid=uid)

    def as_recorded(self, text: str) -> Self:
        """The same as its Job was made for: *text* is what the hook recorded of the spec at the start. Raises UsageError."""
        try:
            recorded = identity.from_text(text)
            spec, annotations = identity.apply(self.spec, recorded), identity.apply_annotations(self.annotations, recorded)
        except ValueError as error:
            raise UsageError(
                f"{names.ENV_RECORDED} cannot be read: {error}", hint="The webhook sets it; leave it out of spec.env."
            ) from None
        return replace(self, spec=spec, annotations=annotations)

    def access(self, key: str) -> Mapping[str, Any]:
        """``spec.from`` or ``spec.to`` (*key*); empty when it is not set."""
        return self.spec.get(key) or {}


def choose(documents: Iterable[Any], *, kinds: Collection[str], name: str = "", namespace: str = "") -> Resource:
    """The one document of *kinds* (and *name*, when given) among several. Raises UsageError naming what is there."""
    found = [d for d in documents if isinstance(d, Mapping)]
    resources = [Resource.of(d, namespace=namespace) for d in found if d.get("kind") in kinds]
    named = [r for r in resources if not name or r.name == name]
    if len(named) == 1:
        return named[0]
    seen = ", ".join(f"{d.get('kind')}/{(d.get('metadata') or {}).get('name')}" for d in found) or "nothing"
    wanted = f"{' or '.join(kinds)} {name}".strip()
    if named:
        raise UsageError(f"the file holds several objects of kind {wanted}: {seen}", hint="Name one with its flag.")
    raise UsageError(f"the file holds no {wanted}: {seen}", hint=f"Give a file with one {wanted}.")
