"""One BR task per TiDB cluster at a time: a ``coordination.k8s.io`` Lease that a run holds and renews while its tool works.

Two snapshots at once slow each other down, a restore under a backup spoils it, and a log backup started in the middle of a
restore misses data without a word. The Lease is named after the cluster (:func:`crds.contract.names.cluster_lease`) and lies in
its namespace, so that CRs of all namespaces are kept apart. Where the Job's account has no right to Leases there, it lies in
the CR's own namespace and keeps apart the CRs of that one; the log says so.

How it is waited for, renewed and taken over is the same for every lock: :mod:`backup_manager.locking.lock`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from backup_manager.context import Context
from backup_manager.kubernetes.client import ApiForbiddenError, ApiNotFoundError, ConflictError, KubernetesApi
from backup_manager.locking import lock as locks
from backup_manager.locking.lock import Entry, Lock, LockLostError, Note, Pace
from crds.contract import names
from crds.contract.report import Problem

HELD_BY_ANNOTATION: Final = "tidb.pingcap.com/held-by"
"""Who the holder is, for people: ``Backup ns/name``. ``spec.holderIdentity`` is the uid of its Pod."""
HELD_BY_UID_ANNOTATION: Final = "tidb.pingcap.com/held-by-uid"
"""The uid of the holder's CR."""


class ClusterLeaseLostError(LockLostError):
    """The Lease could not be renewed, or somebody else holds it: the tool was stopped."""

    reason = "ClusterLeaseLost"


@contextmanager
def held(context: Context, cluster_namespace: str, cluster: str, *, pace: Pace | None = None) -> Iterator[None]:
    """Hold the cluster's Lease while the body runs; wait for it first, telling ``Waiting`` and the holder.

    Raises ClusterLeaseLostError when it was lost meanwhile (the run is then asked to stop). Without Kubernetes there is no
    Lease: nothing is held, and the log says so.
    """
    if context.kubernetes is None:
        context.log("no Kubernetes to ask: that no other BR task works on the cluster is not looked at")
        yield
        return
    home, name = context.resource.namespace, names.cluster_lease(cluster_namespace, cluster)
    place = LeasePlace(api=context.kubernetes, namespace=cluster_namespace or home, name=name)
    try:
        lock = _acquired(context, place, pace)
    except (ApiForbiddenError, ApiNotFoundError) as error:  # no right there, or no such namespace
        if place.namespace == home:
            raise
        context.log(f"{error.message}: only the CRs of namespace {home} are kept apart on this cluster")
        lock = _acquired(context, LeasePlace(api=context.kubernetes, namespace=home, name=name), pace)
    with locks.renewing(context, lock, lost=lambda why: _lost(name, why)):
        yield


def _acquired(context: Context, place: "LeasePlace", pace: Pace | None) -> Lock:
    ended = locks.pod_has_ended(context)
    lock = Lock(place=place, we=locks.identity(context), pace=pace or Pace(), ended=ended)
    locks.acquire(context, lock, lambda holder: _waiting(holder, place))
    return lock


def _waiting(holder: Note, place: "LeasePlace") -> Problem:
    return Problem(
        reason="ClusterInUse",
        message=f"waiting for {holder.owner or 'an unknown run'}, which works on the same TiDB cluster",
        hint=f"It starts by itself. The holder is noted in {place.shown}.",
        retryable=True,
    )


def _lost(name: str, why: str) -> ClusterLeaseLostError:
    return ClusterLeaseLostError(
        f"Lease {name} was lost, so the tool was stopped: {why}",
        hint="The run is repeated only if backoffRetryPolicy has a retry left.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePlace:
    """A lock that is a Lease; its version is the ``resourceVersion``. Raises ApiForbiddenError where the account may not."""

    api: KubernetesApi
    namespace: str
    name: str

    @property
    def shown(self) -> str:
        """For messages."""
        return f"Lease {self.namespace}/{self.name}"

    def look(self) -> Entry | None:
        """The Lease."""
        try:
            return _entry(self.api.lease(self.namespace, self.name))
        except ApiNotFoundError:
            return None

    def write(self, note: Note, version: str | None) -> Entry | None:
        """Create or replace it. Raises ApiNotFoundError when its namespace does not exist."""
        meta: dict[str, Any] = {"name": self.name, "namespace": self.namespace, "annotations": {}}
        if note.holder:
            meta["annotations"] = {HELD_BY_ANNOTATION: note.owner, HELD_BY_UID_ANNOTATION: note.owner_uid}
        if version is not None:
            meta["resourceVersion"] = version
        spec = {
            "holderIdentity": note.holder,
            "leaseDurationSeconds": max(1, round(note.seconds)),
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "leaseTransitions": note.transitions,
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        try:
            return _entry(self.api.put_lease(self.namespace, self.name, body, create=version is None))
        except ConflictError:
            return None


def _entry(obj: Mapping[str, Any]) -> Entry:
    meta, spec = obj["metadata"], obj.get("spec") or {}
    notes = meta.get("annotations") or {}
    note = Note(
        holder=str(spec.get("holderIdentity") or ""),
        owner=str(notes.get(HELD_BY_ANNOTATION) or ""),
        owner_uid=str(notes.get(HELD_BY_UID_ANNOTATION) or ""),
        seconds=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
    )
    return Entry(version=str(meta["resourceVersion"]), note=note)
