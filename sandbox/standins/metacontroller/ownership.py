"""Whose child an object is: controller references, adoption and release."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sandbox.api import Api, ApiError, Object, Resource, deleting, metadata_of, name_of, namespace_of, uid_of


def controller_of(obj: Object) -> Mapping[str, Any] | None:
    """The owner reference with ``controller: true``."""
    references = metadata_of(obj).get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def owner_reference(parent: Object) -> Object:
    """The reference that a child of *parent* carries."""
    return {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": name_of(parent),
        "uid": uid_of(parent),
        "controller": True,
        "blockOwnerDeletion": True,
    }


class Claims:
    """Claims the children of one parent: owned and matching are listed, owned and not matching are released, free and
    matching are adopted after a live look at the parent."""

    def __init__(self, api: Api, parent_resource: Resource, parent: Object, matches: Callable[[Object], bool]) -> None:
        self._api = api
        self._parent_resource = parent_resource
        self._parent = parent
        self._matches = matches
        self._may_adopt: bool | None = None

    def claim(self, resource: Resource, candidates: Iterable[Object]) -> list[Object]:
        """The children among *candidates* (from the cache)."""
        namespace = namespace_of(self._parent)
        claimed = (self._claim(resource, obj) for obj in candidates if not namespace or namespace_of(obj) == namespace)
        return [obj for obj in claimed if obj]

    def _claim(self, resource: Resource, obj: Object) -> Object | None:
        controller = controller_of(obj)
        if controller:
            if controller.get("uid") != uid_of(self._parent):
                return None
            if self._matches(obj):
                return obj
            if not deleting(self._parent):
                self._release(resource, obj)
            return None
        if deleting(self._parent) or deleting(obj) or not self._matches(obj):
            return None
        return self._adopt(resource, obj)

    def _adopt(self, resource: Resource, obj: Object) -> Object | None:
        if self._may_adopt is None:
            live = self._api.find(self._parent_resource, namespace_of(self._parent), name_of(self._parent))
            self._may_adopt = live is not None and uid_of(live) == uid_of(self._parent) and not deleting(live)
        if not self._may_adopt:
            return None
        references = [*(metadata_of(obj).get("ownerReferences") or ()), owner_reference(self._parent)]
        return self._patch(resource, obj, references)

    def _release(self, resource: Resource, obj: Object) -> None:
        kept = [item for item in metadata_of(obj).get("ownerReferences") or () if item.get("uid") != uid_of(self._parent)]
        self._patch(resource, obj, kept)

    def _patch(self, resource: Resource, obj: Object, references: list[Any]) -> Object | None:
        patch = {"metadata": {"uid": uid_of(obj), "ownerReferences": references or None}}
        try:
            return self._api.patch(resource, namespace_of(obj), name_of(obj), patch)
        except ApiError as error:
            if error.status in {404, 409, 422}:
                return None  # gone, or another object by that name
            raise
