"""Objects as an API server keeps them: uid, resourceVersion, generation, finalizers, and what a deletion does.

An object is a plain dict that is never changed in place: a write replaces it, and the parts that stay are shared. So whoever
holds an object keeps that version of it, a cache costs no copies, and the bytes of a version are encoded once.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from app.domain.observed import metadata
from app.domain.times import stamp

Object = dict[str, Any]
NAMESPACES: Final = "Namespace.v1"
_ENCODED: Final = 20_000
"""Versions whose bytes are remembered at most."""


class ApiError(Exception):
    """A refused request; *status* and *reason* are those of the API server."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason = status, reason


def kind_of(obj: Mapping[str, Any]) -> str:
    """The outer key of the wire format.

    >>> kind_of({"apiVersion": "batch/v1", "kind": "Job"})
    'Job.batch/v1'
    """
    return f"{obj['kind']}.{obj['apiVersion']}"


def key_of(obj: Mapping[str, Any]) -> str:
    """The inner key of the wire format: ``namespace/name``, or ``name`` of what has no namespace."""
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def uid_of(obj: Mapping[str, Any]) -> str:
    """``metadata.uid``."""
    return str(obj["metadata"].get("uid") or "")


def deleting(obj: Mapping[str, Any]) -> bool:
    """Whether *obj* is being deleted."""
    return bool(obj["metadata"].get("deletionTimestamp"))


Watcher = Callable[[str, str, Object | None, Object | None], None]
"""Called with kind, key, the object before and the one after a write; None where there is none."""


class Store:
    """The objects by kind and key; *clock* is the API server's."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.kinds: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self.watchers: list[Watcher] = []
        self.version = 0
        """How many writes there were."""
        self._encoded: dict[str, bytes] = {}

    def of(self, kind: str) -> Mapping[str, Object]:
        """Every object of *kind*, by key."""
        return self.kinds[kind]

    def find(self, kind: str, key: str) -> Object | None:
        """The object, or None."""
        return self.kinds[kind].get(key)

    def get(self, kind: str, key: str, *, uid: str = "") -> Object:
        """The object. Raises ApiError when there is none, or another one than that with *uid*."""
        found = self.kinds[kind].get(key)
        if found is None:
            raise ApiError(404, "NotFound", f"{kind} {key}")
        if uid and uid_of(found) != uid:
            raise ApiError(409, "Conflict", f"{kind} {key} is another object than {uid}")
        return found

    def encoded(self, obj: Object) -> orjson.Fragment:
        """*obj* as JSON; encoded once for each version."""
        version = obj["metadata"]["resourceVersion"]
        found = self._encoded.get(version)
        if found is None:
            if len(self._encoded) >= _ENCODED:
                self._encoded.clear()
            found = self._encoded[version] = orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
        return orjson.Fragment(found)

    # Writes

    def create(self, obj: Mapping[str, Any]) -> Object:
        """Store a new object. Raises ApiError when its name is taken, or its namespace is ending."""
        kind, key, meta = kind_of(obj), key_of(obj), obj["metadata"]
        if key in self.kinds[kind]:
            raise ApiError(409, "AlreadyExists", f"{kind} {key}")
        namespace = self.kinds[NAMESPACES].get(meta.get("namespace") or "")
        if namespace is not None and deleting(namespace):
            raise ApiError(403, "Forbidden", f"namespace {meta['namespace']} is being terminated")
        self.version += 1
        given = {
            "uid": f"{self.version:08x}-0000-4000-8000-000000000000",
            "creationTimestamp": stamp(self.clock()),
            "generation": 1,
        }
        return self._put(kind, key, {**obj, "metadata": self._written({**given, **meta}, status=False)})

    def write(self, obj: Object, *, uid: str = "", **parts: Any) -> Object:
        """Replace top-level *parts* (``spec``, ``status``, ``metadata``) of what is stored under the name of *obj*.

        A changed spec raises the generation, and every change is dated in ``metadata.managedFields``. Once an object that is
        being deleted has no finalizer left it goes. Raises ApiError.
        """
        kind, key = kind_of(obj), key_of(obj)
        live = self.get(kind, key, uid=uid)
        changed = {**live, **parts}
        if "spec" in parts and parts["spec"] != live.get("spec"):
            changed["metadata"] = {**changed["metadata"], "generation": (live["metadata"].get("generation") or 0) + 1}
        if any(part in parts and parts[part] != live.get(part) for part in ("spec", "metadata")):
            changed["metadata"] = self._written(changed["metadata"], status=False)
        if "status" in parts and parts["status"] != live.get("status"):
            changed["metadata"] = self._written(changed["metadata"], status=True)
        if deleting(changed) and not changed["metadata"].get("finalizers"):
            self._remove(kind, key)
            return changed
        return self._put(kind, key, changed)

    def _written(self, meta: Mapping[str, Any], *, status: bool) -> dict[str, Any]:
        """*meta* with the time of a write among the managed fields: one entry for the status, one for all else."""
        entry = {"operation": "Update", "time": stamp(self.clock()), **({"subresource": "status"} if status else {})}
        kept = [item for item in meta.get("managedFields") or () if (item.get("subresource") == "status") is not status]
        return {**meta, "managedFields": [*kept, entry]}

    def annotate(self, obj: Object, *, uid: str = "", **fields: Any) -> Object:
        """Replace *fields* of the metadata; None removes one. Raises ApiError."""
        live = self.get(kind_of(obj), key_of(obj), uid=uid)
        meta = {key: value for key, value in {**live["metadata"], **fields}.items() if value is not None}
        return self.write(live, metadata=meta)

    def delete(self, kind: str, key: str, *, uid: str = "") -> None:
        """Delete: at once, or once the last finalizer has gone. Raises ApiError."""
        live = self.get(kind, key, uid=uid)
        if not live["metadata"].get("finalizers"):
            self._remove(kind, key)
        elif not deleting(live):
            generation = (live["metadata"].get("generation") or 0) + 1
            self.annotate(live, deletionTimestamp=stamp(self.clock()), generation=generation)

    def _put(self, kind: str, key: str, obj: Object) -> Object:
        self.version += 1
        before = self.kinds[kind].get(key)
        stored: Object = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self.kinds[kind][key] = stored
        if before is not None:
            self._encoded.pop(before["metadata"]["resourceVersion"], None)
        self._notify(kind, key, before, stored)
        return stored

    def _remove(self, kind: str, key: str) -> None:
        before = self.kinds[kind].pop(key)
        self._encoded.pop(before["metadata"]["resourceVersion"], None)
        self._notify(kind, key, before, None)

    def _notify(self, kind: str, key: str, before: Object | None, after: Object | None) -> None:
        for watcher in self.watchers:
            watcher(kind, key, before, after)


def owners(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``metadata.ownerReferences``."""
    return list(metadata(obj).get("ownerReferences") or ())


def controller_of(obj: Mapping[str, Any]) -> str:
    """Uid of the owner that controls *obj*; empty for none."""
    return next((str(reference["uid"]) for reference in owners(obj) if reference.get("controller")), "")


def owner_reference(parent: Object) -> dict[str, Any]:
    """The reference that a child of *parent* carries."""
    return {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": parent["metadata"]["name"],
        "uid": uid_of(parent),
        "controller": True,
        "blockOwnerDeletion": True,
    }
