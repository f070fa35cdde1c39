"""One BR task per TiDB cluster at a time: a ``coordination.k8s.io`` Lease that a run holds and renews while its tool works.

Two snapshots at once slow each other down, a restore under a backup spoils it, and a log backup started in the middle of a
restore misses data without a word. The Lease is named after the cluster (:func:`crds.names.cluster_lease`) and lies in its
namespace, so that CRs of all namespaces are kept apart. Where the Job's account has no right to Leases there, it lies in the
CR's own namespace and keeps apart the CRs of that one; the log says so.

A holder that died is known by its silence, measured with our own clock from when we first saw the Lease as it is: clocks of two
nodes may differ. A holder that cannot renew any more stops its tool well before anybody may take over (fencing).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from backup_manager.errors import InterruptedError_, ManagerError, TransientError
from backup_manager.kubernetes_api import ApiForbiddenError, ApiNotFoundError, ConflictError, KubernetesApi
from backup_manager.tools.process import GRACE_SECONDS
from crds import names
from crds.report import Problem

if TYPE_CHECKING:
    from backup_manager.operations.steps import Context

HELD_BY_ANNOTATION: Final = "tidb.pingcap.com/held-by"
"""Who the holder is, for people: ``Backup ns/name``. ``spec.holderIdentity`` is the uid of its Pod."""
HELD_BY_UID_ANNOTATION: Final = "tidb.pingcap.com/held-by-uid"
"""The uid of the holder's CR."""


class ClusterLeaseLostError(TransientError):
    """The Lease could not be renewed, or somebody else holds it: the tool was stopped."""

    reason = "ClusterLeaseLost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often is asked and renewed, in seconds. *fence* and the tool's grace period must end before *duration* has."""

    duration: float = 60.0
    renew: float = 10.0
    retry: float = 2.0
    fence: float = 35.0
    poll: float = 5.0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.fence + GRACE_SECONDS >= self.duration or self.renew >= self.fence:
            raise ValueError("a tool must be stopped before its lease runs out")


@contextmanager
def held(context: "Context", cluster_namespace: str, cluster: str, *, pace: Pace | None = None) -> Iterator[None]:
    """Hold the cluster's Lease while the body runs; wait for it first, telling ``Waiting`` and the holder.

    Raises ClusterLeaseLostError when it was lost meanwhile (the run is then asked to stop). Without Kubernetes there is no
    Lease: nothing is held, and the log says so.
    """
    if context.kubernetes is None:
        context.log("no Kubernetes to ask: that no other BR task works on the cluster is not looked at")
        yield
        return
    lease = _Lease(
        api=context.kubernetes,
        namespace=cluster_namespace or context.resource.namespace,
        home=context.resource.namespace,
        name=names.cluster_lease(cluster_namespace, cluster),
        holder=context.env.get(names.ENV_POD_UID) or f"{context.resource.uid}-{context.journal.report.attempt}",
        owner=f"{context.resource.kind} {context.resource.namespace}/{context.resource.name}",
        owner_uid=context.resource.uid,
        pace=pace or Pace(),
    )
    try:
        _acquire(context, lease)
    except (ApiForbiddenError, ApiNotFoundError) as error:  # no right there, or no such namespace
        if lease.namespace == lease.home:
            raise
        context.log(f"{error.message}: only the CRs of namespace {lease.home} are kept apart on this cluster")
        lease.namespace, lease.seen = lease.home, _Seen()
        _acquire(context, lease)
    renewal = _Renewal(lease=lease, lost=context.stop.request, log=context.log)
    renewal.start()
    try:
        yield
    except InterruptedError_:  # of our own asking; any other error says more than the lost lease
        if not renewal.why:
            raise
    finally:
        renewal.end()
    if renewal.why:
        raise ClusterLeaseLostError(
            f"Lease {lease.name} was lost, so the tool was stopped: {renewal.why}",
            hint="The run is repeated when the retry policy allows.",
        )


def _acquire(context: "Context", lease: "_Lease") -> None:
    told = ""
    while not lease.take():
        problem = Problem(
            reason="ClusterInUse",
            message=f"waiting for {lease.seen.owner or 'an unknown run'}, which works on the same TiDB cluster",
            hint=f"It starts by itself. The holder is noted in Lease {lease.namespace}/{lease.name}.",
            retryable=True,
        )
        context.journal.waiting(problem)
        if problem.message != told:
            context.log(problem.message)
            told = problem.message
        context.stop.wait(lease.pace.poll)
    context.log(f"holds Lease {lease.namespace}/{lease.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A Lease as it was read; *at* is our own monotonic clock when this version of it was first seen."""

    version: str = ""
    holder: str = ""
    owner: str = ""
    owner_uid: str = ""
    transitions: int = 0
    seconds: float = 0.0
    at: float = 0.0

    @classmethod
    def of(cls, obj: Mapping[str, Any], before: "_Seen", now: float) -> "_Seen":
        meta, spec = obj["metadata"], obj.get("spec") or {}
        notes = meta.get("annotations") or {}
        version = str(meta["resourceVersion"])
        return cls(
            version=version,
            holder=str(spec.get("holderIdentity") or ""),
            owner=str(notes.get(HELD_BY_ANNOTATION) or ""),
            owner_uid=str(notes.get(HELD_BY_UID_ANNOTATION) or ""),
            transitions=int(spec.get("leaseTransitions") or 0),
            seconds=float(spec.get("leaseDurationSeconds") or 0),
            at=before.at if version == before.version else now,
        )


@dataclass(slots=True, kw_only=True)
class _Lease:
    """The Lease of one cluster as one run sees it; *home* is the namespace of the run's CR and Pods."""

    api: KubernetesApi
    namespace: str
    home: str
    name: str
    holder: str
    owner: str
    owner_uid: str
    pace: Pace
    seen: _Seen = field(default_factory=_Seen)
    clock: Callable[[], float] = time.monotonic

    def take(self) -> bool:
        """Try to become the holder. A write that loses against another one's is a no."""
        try:
            self._look()
        except ApiNotFoundError:
            return self._write(create=True)
        free = not self.seen.holder or self.seen.holder == self.holder
        return self._write() if free or self._silent() or self._our_dead_sister() else False

    def renew(self) -> None:
        """Say that we are alive. Raises ClusterLeaseLostError when another holds it, ManagerError when that cannot be known."""
        if self._write():
            return
        self._look()
        if self.seen.holder != self.holder:
            raise ClusterLeaseLostError(f"{self.seen.owner or 'somebody'} holds it")
        if not self._write():
            raise TransientError("it changes all the time", reason="Conflict")

    def release(self) -> None:
        """Let go; a Lease that is no longer ours stays as it is."""
        self._write(holder="")

    def _look(self) -> None:
        self.seen = _Seen.of(self.api.lease(self.namespace, self.name), self.seen, self.clock())

    def _silent(self) -> bool:
        """Whether the holder has said nothing for as long as its Lease lasts, by our clock."""
        return self.clock() - self.seen.at > (self.seen.seconds or self.pace.duration)

    def _our_dead_sister(self) -> bool:
        """Whether the holder is an earlier attempt of our own CR of which no Pod is left: nobody need wait for a dead one."""
        if not self.owner_uid or self.seen.owner_uid != self.owner_uid:
            return False
        pods = self.api.pods(self.home, {names.OWNER_UID_LABEL: self.owner_uid})
        ended = {"Succeeded", "Failed"}
        return not any(
            pod["metadata"].get("uid") == self.seen.holder and (pod.get("status") or {}).get("phase") not in ended
            for pod in pods
        )

    def _write(self, *, create: bool = False, holder: str | None = None) -> bool:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        holder = self.holder if holder is None else holder
        changed = holder != self.seen.holder
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self.pace.duration)),
            "renewTime": now,
            "leaseTransitions": self.seen.transitions + (1 if changed and holder else 0),
        }
        notes = {HELD_BY_ANNOTATION: self.owner, HELD_BY_UID_ANNOTATION: self.owner_uid} if holder else {}
        meta: dict[str, Any] = {"name": self.name, "namespace": self.namespace, "annotations": notes}
        if not create:
            meta["resourceVersion"] = self.seen.version
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        try:
            self.seen = _Seen.of(self.api.put_lease(self.namespace, self.name, body, create=create), self.seen, self.clock())
        except ConflictError:
            return False
        return True


@dataclass(kw_only=True)
class _Renewal:
    """Renews in one thread, and watches from another one that it did: a renewal that hangs must not keep the tool running."""

    lease: _Lease
    lost: Callable[[], None]
    log: Callable[[str], None]
    why: str = ""
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin; the Lease has just been written."""
        self._renewed = self.lease.clock()
        self._threads = [
            threading.Thread(target=work, name=f"lease-{work.__name__}", daemon=True) for work in (self._renew, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop renewing and let go of a Lease that is still ours."""
        self._ended.set()
        self._threads[0].join(self.lease.pace.retry)
        if not self.why and not self._threads[0].is_alive():
            with suppress(ManagerError):
                self.lease.release()

    def _renew(self) -> None:
        wait = self.lease.pace.renew
        while not self._ended.wait(wait):
            asked = self.lease.clock()
            try:
                self.lease.renew()
            except ClusterLeaseLostError as error:
                self._give_up(error.message)
                return
            except ManagerError as error:
                self.log(f"Lease {self.lease.name} could not be renewed: {error.message}")
                wait = self.lease.pace.retry
            else:
                self._renewed, wait = asked, self.lease.pace.renew

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._renewed + self.lease.pace.fence - self.lease.clock())):
            if self.lease.clock() - self._renewed >= self.lease.pace.fence:
                self._give_up(f"it could not be renewed for {self.lease.pace.fence:g} s")
                return

    def _give_up(self, why: str) -> None:
        if self._ended.is_set() or self.why:
            return
        self.why = why
        self.log(f"[ERROR] Lease {self.lease.name} is lost ({why}): stopping the tool")
        self.lost()
