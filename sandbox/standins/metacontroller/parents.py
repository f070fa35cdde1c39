"""Writes to a parent itself: its finalizer, and its whole status."""

import time
from collections.abc import Callable
from typing import Final

from sandbox.api import Api, ApiError, Object, Resource, metadata_of, name_of, namespace_of, uid_of
from sandbox.standins.metacontroller import apply

_TRIES: Final = (0.0, 0.01, 0.05, 0.25)
_FOREIGN_FINALIZERS: Final = {"foregroundDeletion", "orphan"}


class GoneError(Exception):
    """The parent is gone, or another object took its name."""


class ParentWriter:
    """Finalizer and status of the parents of one controller."""

    def __init__(self, api: Api, resource: Resource, finalizer: str) -> None:
        self._api = api
        self._resource = resource
        self.finalizer = finalizer

    def has_finalizer(self, parent: Object) -> bool:
        """Whether our finalizer is on *parent*."""
        return self.finalizer in (metadata_of(parent).get("finalizers") or ())

    def may_finalize(self, parent: Object) -> bool:
        """Whether children of a deleting parent may still be managed: our finalizer is there, and Kubernetes' garbage
        collector has no ``foregroundDeletion`` or ``orphan`` to finish first."""
        finalizers = set(metadata_of(parent).get("finalizers") or ())
        return self.finalizer in finalizers and not finalizers & _FOREIGN_FINALIZERS

    def set_finalizer(self, parent: Object, *, wanted: bool) -> Object:
        """Add or remove our finalizer (live GET, then PUT); the fresh object. Raises GoneError."""

        def change(live: Object) -> bool:
            finalizers = list(metadata_of(live).get("finalizers") or ())
            if wanted == (self.finalizer in finalizers):
                return False
            if wanted and metadata_of(live).get("deletionTimestamp"):
                return False  # an object that is being deleted takes no new finalizer
            changed = [*finalizers, self.finalizer] if wanted else [item for item in finalizers if item != self.finalizer]
            live["metadata"]["finalizers"] = changed
            return True

        return self._write(parent, change, "")

    def write_status(self, parent: Object, status: Object | None) -> bool:
        """Replace the whole status on a fresh copy, unless it is equal. False when the last try met a conflict, or the
        parent is gone: both are ignored."""
        wanted = {**(status or {}), "observedGeneration": metadata_of(parent).get("generation")}

        def change(live: Object) -> bool:
            if apply.same(live.get("status"), wanted):
                return False
            live["status"] = apply.go_json(wanted)
            return True

        try:
            self._write(parent, change, "status")
        except GoneError:
            return False
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True

    def _write(self, parent: Object, change: Callable[[Object], bool], subresource: str) -> Object:
        for wait in _TRIES:
            time.sleep(wait)
            live = self._api.find(self._resource, namespace_of(parent), name_of(parent))
            if live is None or uid_of(live) != uid_of(parent):
                raise GoneError
            if not change(live):
                return live
            try:
                return self._api.replace(self._resource, live, subresource)
            except ApiError as error:
                if error.status == 404:
                    raise GoneError from error
                if error.status != 409:
                    raise
                conflict = error
        raise conflict
