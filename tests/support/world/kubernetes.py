"""The API server with deletion by propagation policy, faults, and the controllers that look after what lies in it: garbage
collector, namespaces, TTL of finished Jobs, and the Job controller with coarse Pods."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from app.domain.times import moment, stamp
from cli.simulator.metacontroller import JOBS
from cli.simulator.store import (
    NAMESPACES,
    ApiError,
    Object,
    Store,
    controller_of,
    deleting,
    key_of,
    kind_of,
    owner_reference,
    owners,
    uid_of,
)

PODS: Final = "Pod.v1"
Propagation = Literal["Background", "Foreground", "Orphan"]
_FOREGROUND: Final = "foregroundDeletion"
_ORPHAN: Final = "orphan"
_ENDED: Final = frozenset({"Succeeded", "Failed"})


class Died(Exception):
    """The process that was writing has died: what it wrote stays, the rest is not written."""


class Faults:
    """What happens to the writes of Metacontroller while it settles a pass."""

    def __init__(self, *, dies_after: int | None = None, status_conflict: bool = False, refused: int | None = None) -> None:
        self.dies_after, self.status_conflict, self.refused = dies_after, status_conflict, refused
        self.writes = 0

    def strike(self, *, status: bool) -> None:
        """Called before each write. Raises Died or ApiError."""
        number = self.writes
        self.writes += 1
        if self.dies_after is not None and number >= self.dies_after:
            raise Died
        if status and self.status_conflict:
            raise ApiError(409, "Conflict", "the object has been modified")
        if self.refused == number:
            raise ApiError(500, "InternalError", "etcdserver: request timed out")


class Kubernetes(Store):
    """The store and its controllers; *faults* strikes every write while it is set."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(clock)
        self.faults: Faults | None = None
        self._garbage = False
        self._jobs: set[str] = set()
        self._ttls: list[tuple[datetime, str, str]] = []
        self.watchers.append(self._on_write)

    def _on_write(self, kind: str, key: str, before: Object | None, after: Object | None) -> None:
        if after is None or (before is not None and deleting(after)):
            self._garbage = True
        if kind == JOBS and after is not None and before is None:
            self._jobs.add(key)
        elif kind == PODS:
            owner = (after or before or {})["metadata"]
            self._jobs.add(f"{owner['namespace']}/{owner['labels']['job-name']}")

    def _strike(self, *, status: bool = False) -> None:
        if self.faults:
            self.faults.strike(status=status)

    # Requests

    def create(self, obj: Mapping[str, Any]) -> Object:
        """As in the store, unless a fault strikes."""
        self._strike()
        return super().create(obj)

    def write(self, obj: Object, *, uid: str = "", **parts: Any) -> Object:
        """As in the store, unless a fault strikes."""
        self._strike(status="status" in parts)
        return super().write(obj, uid=uid, **parts)

    def delete(self, kind: str, key: str, *, uid: str = "", propagation: Propagation = "Background") -> None:
        """Delete *propagation*: dependents afterwards, dependents first, or not at all. A running Pod ends gracefully."""
        self._strike()
        live = self.get(kind, key, uid=uid)
        if propagation != "Background" and not deleting(live):
            policy = _FOREGROUND if propagation == "Foreground" else _ORPHAN
            live = super().write(live, metadata=_with_finalizer(live, policy))
        if kind == PODS and live["status"].get("phase") not in _ENDED and not deleting(live):
            super().annotate(live, finalizers=["kubelet"])
        super().delete(kind, key, uid=uid)

    # Controllers

    def run_controllers(self) -> None:
        """Let every controller of Kubernetes do what there is to do."""
        for _ in range(20):
            if not (self._jobs or self._garbage):
                break
            due, self._jobs = self._jobs, set()
            for key in sorted(due):
                self._run_job(key)
            if self._garbage:
                self._garbage = False
                self._collect_garbage()
        self._expire()

    def _collect_garbage(self) -> None:
        alive = {uid_of(obj): obj for group in self.kinds.values() for obj in group.values()}
        for obj in [obj for obj in alive.values() if deleting(obj)]:
            self._propagate(obj, alive)
        for obj in list(alive.values()):
            references = owners(obj)
            if references and not any(reference["uid"] in alive for reference in references):
                self._delete_quietly(obj)
        for namespace in [item for item in self.kinds[NAMESPACES].values() if deleting(item)]:
            self._empty(namespace)

    def _propagate(self, obj: Object, alive: Mapping[str, Object]) -> None:
        """What a deletion with ``orphan`` or ``foregroundDeletion`` does to the dependents of *obj*."""
        finalizers = obj["metadata"].get("finalizers") or ()
        dependents = [item for item in alive.values() if any(ref["uid"] == uid_of(obj) for ref in owners(item))]
        if _ORPHAN in finalizers:
            for item in dependents:
                left = [reference for reference in owners(item) if reference["uid"] != uid_of(obj)]
                self.annotate(item, ownerReferences=left or None)
            self.annotate(obj, finalizers=[item for item in finalizers if item != _ORPHAN] or None)
        elif _FOREGROUND in finalizers:
            for item in dependents:
                self._delete_quietly(item)
            if not any(self.find(kind_of(item), key_of(item)) for item in dependents):
                self.annotate(obj, finalizers=[item for item in finalizers if item != _FOREGROUND] or None)

    def _delete_quietly(self, obj: Object) -> None:
        try:
            self.delete(kind_of(obj), key_of(obj), uid=uid_of(obj))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    def _empty(self, namespace: Object) -> None:
        """The namespace controller: everything in it is deleted, then the namespace goes."""
        name = namespace["metadata"]["name"]
        inside = [
            obj for group in self.kinds.values() for obj in list(group.values()) if obj["metadata"].get("namespace") == name
        ]
        for obj in inside:
            self._delete_quietly(obj)
        if inside:
            self._garbage = any(not deleting(obj) for obj in inside)
        else:
            self.annotate(namespace, finalizers=None)

    def end_namespace(self, name: str) -> None:
        """Somebody deletes the namespace."""
        namespace = self.get(NAMESPACES, name)
        self.annotate(namespace, finalizers=["kubernetes"], deletionTimestamp=stamp(self.clock()))
        self._garbage = True

    def _expire(self) -> None:
        """The TTL controller: finished Jobs go when their time is up."""
        if not self._ttls or min(self._ttls)[0] > self.clock():
            return
        due = [entry for entry in self._ttls if entry[0] <= self.clock()]
        self._ttls = [entry for entry in self._ttls if entry[0] > self.clock()]
        for _, key, uid in due:
            job = self.find(JOBS, key)
            if job and uid_of(job) == uid:
                self._delete_quietly(job)
        self.run_controllers()

    # Jobs and their Pods

    def pods_of(self, job: Object) -> list[Object]:
        """The Pods that *job* controls."""
        return [pod for pod in self.kinds[PODS].values() if controller_of(pod) == uid_of(job)]

    def _run_job(self, key: str) -> None:
        job = self.find(JOBS, key)
        if job is None or "template" not in (job.get("spec") or {}):
            return
        status = self._status_of(job)
        if finished(job):
            # The conditions stand; only Pods that were still ending go.
            status = {**job["status"], "terminating": status["terminating"], "active": 0}
        elif status.get("conditions"):
            ttl = job["spec"].get("ttlSecondsAfterFinished")
            if ttl is not None:
                self._ttls.append((self.clock() + timedelta(seconds=ttl), key, uid_of(job)))
        elif not status["active"] and not status["terminating"] and not deleting(job):
            self._create_pod(job, status["failed"])
            status = {**status, "active": 1}
        if status != job.get("status"):
            self.write(job, status=status)

    def _status_of(self, job: Object) -> dict[str, Any]:
        pods = self.pods_of(job)
        phases = [(str(pod["status"].get("phase")), deleting(pod), bool(pod["status"].get("ready"))) for pod in pods]
        before = job.get("status") or {}
        failed = before.get("failed", 0) if not pods else sum(phase == "Failed" for phase, _, _ in phases)
        status: dict[str, Any] = {
            "startTime": before.get("startTime") or stamp(self.clock()),
            "active": sum(phase not in _ENDED and not ending for phase, ending, _ in phases),
            "terminating": sum(phase not in _ENDED and ending for phase, ending, _ in phases),
            "ready": sum(phase == "Running" and ready and not ending for phase, ending, ready in phases),
            "failed": max(failed, before.get("failed", 0)),
        }
        if any(phase == "Succeeded" for phase, _, _ in phases):
            shards = job["spec"].get("completions")
            done = {"completedIndexes": f"0-{shards - 1}"} if shards and shards > 1 else {}
            return {**status, **done, "succeeded": 1, "completionTime": stamp(self.clock())} | self._condition("Complete", "")
        if status["failed"] > job["spec"].get("backoffLimit", 0) and not status["active"]:
            return {**status} | self._condition("Failed", "BackoffLimitExceeded")
        return status

    def _condition(self, kind: str, reason: str) -> dict[str, Any]:
        words = {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": stamp(self.clock())}
        return {"conditions": [{key: value for key, value in words.items() if value}]}

    def _create_pod(self, job: Object, number: int) -> None:
        meta = job["metadata"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-{uid_of(job)[:8]}-{number}",
                "namespace": meta["namespace"],
                "labels": {"job-name": meta["name"]},
                "ownerReferences": [owner_reference(job)],
            },
            "status": {"phase": "Pending"},
        }
        try:
            self.create(pod)
        except ApiError as error:
            if error.status not in {403, 409}:
                raise

    def end_pod(self, pod: Object, phase: str) -> None:
        """The container of *pod* has ended; a Pod that is being deleted goes."""
        live = self.find(PODS, key_of(pod))
        if live is None or uid_of(live) != uid_of(pod):
            return
        if deleting(live):
            # A Pod that is deleted while its Job lives counts as a failed one.
            self._count_failed(live)
            self.annotate(live, finalizers=None)
        else:
            self.write(live, status={**live["status"], "phase": phase, "ready": False})

    def _count_failed(self, pod: Object) -> None:
        job = self.find(JOBS, f"{pod['metadata']['namespace']}/{pod['metadata']['labels']['job-name']}")
        if job and uid_of(job) == controller_of(pod):
            status = job.get("status") or {}
            self.write(job, status={**status, "failed": status.get("failed", 0) + 1})


def _with_finalizer(obj: Object, name: str) -> dict[str, Any]:
    meta: dict[str, Any] = obj["metadata"]
    return {**meta, "finalizers": [*(meta.get("finalizers") or ()), name]}


def finished(job: Object) -> bool:
    """Whether *job* has ended."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item["type"] in {"Complete", "Failed"} and item["status"] == "True" for item in conditions)


def ended_at(job: Object) -> datetime | None:
    """When *job* ended."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((moment(item.get("lastTransitionTime")) for item in conditions if item["status"] == "True"), None)
