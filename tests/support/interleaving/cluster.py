"""Kubernetes as the manager sees it: Pods, Leases and reports. Every call is a point of the scheduler."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backup_manager.kubernetes.client import ApiNotFoundError, ApiUnavailableError, ConflictError
from backup_manager.storage.retry import with_retries
from crds.contract.report import Report
from tests.support.interleaving.scheduler import Process, Scheduler, State

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Pod:
    """One Pod. *process* is its manager's; *gone* says that Kubernetes has forgotten it."""

    name: str
    uid: str
    labels: Mapping[str, str]
    process: Process
    phase: str = "Running"
    gone: bool = False

    def document(self) -> dict[str, Any]:
        """As the API server tells it."""
        container = {"running": {}} if self.phase == "Running" else {"terminated": {"exitCode": int(self.phase == "Failed")}}
        return {
            "metadata": {"name": self.name, "uid": self.uid, "namespace": "ns", "labels": dict(self.labels)},
            "spec": {"nodeName": "node", "containers": [{"name": "manager"}]},
            "status": {"phase": self.phase, "containerStatuses": [{"name": "manager", "state": container}]},
        }


@dataclass(slots=True, eq=False)
class Cluster:
    """The API server."""

    scheduler: Scheduler
    pods: list[Pod] = field(default_factory=list)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def pod_of(self, process: Process | None) -> Pod | None:
        """The Pod of a process."""
        return next((pod for pod in self.pods if pod.process is process), None)

    def renews(self, holder: str) -> bool:
        """Whether *holder* (the uid of a Pod) is another process than the one that asks, and runs."""
        pod = next((pod for pod in self.pods if pod.uid == holder), None)
        if pod is None or pod.process is self.scheduler.current:
            return False
        return pod.process.alive and pod.process.state is not State.FROZEN

    def lost(self, holder: str) -> None:
        """The entry of *holder* is another's now. If it runs, it notices at its next renewal."""
        pod = next((pod for pod in self.pods if pod.uid == holder), None)
        if pod is not None and pod.process is not self.scheduler.current and pod.process.alive:
            for renewal in pod.process.renewals:
                renewal.taken_over()
            if pod.process.state is not State.FROZEN:
                pod.process.stop_after = 2

    @staticmethod
    def thawed(process: Process, seconds: float) -> None:
        """A process that could not renew for too long is told to stop at once: its tool makes the call that was under way."""
        for renewal in process.renewals:
            renewal.thawed(seconds)
            if renewal.why:
                process.stop_after = 0


class Api:
    """In place of :class:`backup_manager.kubernetes.client.KubernetesApi`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[dict[str, Any]]:
        def do() -> Sequence[dict[str, Any]]:
            wanted = labels.items()
            return [pod.document() for pod in self._cluster.pods if not pod.gone and wanted <= pod.labels.items()]

        return self._patiently("asks for Pods", do)

    def resource(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return self._patiently(f"asks for {kind} {name}", lambda: self._found((kind, name)))

    def resources(self, kind: str, _namespace: str) -> Iterator[dict[str, Any]]:
        def do() -> list[dict[str, Any]]:
            return [dict(document) for (of, _), document in self._cluster.documents.items() if of == kind]

        yield from self._patiently(f"asks for {kind}s", do)

    def lease(self, namespace: str, name: str) -> dict[str, Any]:
        def do() -> dict[str, Any]:
            if name not in self._cluster.leases:
                raise ApiNotFoundError(name)
            lease = self._cluster.leases[name]
            if self._cluster.renews(lease["spec"]["holderIdentity"]):
                lease["metadata"]["resourceVersion"] = f"{int(lease['metadata']['resourceVersion']) + 1}"
            return _copied(lease)

        return self._once("asks for the Lease", do)

    def put_lease(self, namespace: str, name: str, lease: Mapping[str, Any], *, create: bool) -> dict[str, Any]:
        def do() -> dict[str, Any]:
            there = self._cluster.leases.get(name)
            version = there["metadata"]["resourceVersion"] if there else "0"
            if create == (there is not None) or (there and lease["metadata"]["resourceVersion"] != version):
                raise ConflictError(name)
            holder = there["spec"]["holderIdentity"] if there else ""
            if holder and lease["spec"]["holderIdentity"] not in {holder, ""}:
                self._cluster.lost(holder)
            made = _copied(lease)
            made["metadata"]["resourceVersion"] = f"{int(version) + 1}"
            self._cluster.leases[name] = made
            return _copied(made)

        return self._once(f"writes the Lease{'' if lease['spec']['holderIdentity'] else ' (free)'}", do)

    def _once(self, text: str, do: Callable[[], T]) -> T:
        return self._cluster.scheduler.call(text, do, error=ApiUnavailableError)

    def _patiently(self, text: str, do: Callable[[], T]) -> T:
        return with_retries(lambda: self._once(text, do), sleep=self._cluster.scheduler.wait)

    def _found(self, key: tuple[str, str]) -> dict[str, Any]:
        if key not in self._cluster.documents:
            raise ApiNotFoundError(f"{key[0]} {key[1]}")
        return dict(self._cluster.documents[key])


def _copied(lease: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in lease.items()}


class Reports:
    """Carries reports to the Job; what must be stored is retried, as the real one does for minutes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.last: Report | None = None
        self._scheduler = scheduler

    def offer(self, report: Report) -> None:
        self.last = report

    def store(self, report: Report) -> None:
        def do() -> None:
            self.last = report

        text = f"reports {report.phase}" + (f" {report.error.reason}" if report.error else "")
        with_retries(lambda: self._scheduler.call(text, do), sleep=self._scheduler.wait)

    def close(self) -> None:
        pass
