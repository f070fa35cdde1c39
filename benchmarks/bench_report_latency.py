"""How long a report takes from its Job to the status of its CR, through Metacontroller (or its stand-in) and the hook.

A sandbox without a node agent, so the Job's Pod never runs and the only reports are those patched here: one annotation on the
Job, as a manager's account would. The end is the watch event that shows the CR's new status. Beside it, what no design can
avoid: the same patch until the API server's own watch shows it.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from crds.contract import names
from crds.contract.report import ANNOTATION, Phase, Report, StepProgress
from sandbox import Cluster
from sandbox.api import JOBS, Api, ApiError, Object, Resource, name_of
from sandbox.components import METACONTROLLER_BIN

REPORTS: Final = 200
LIMIT_SECONDS: Final = 60.0
"""No more reports are begun after this time; fewer are said so."""
TARGET: Final = 0.1
_NAMESPACE: Final = "latency"
_BACKUP: Final = {
    "apiVersion": names.API_VERSION,
    "kind": "Backup",
    "metadata": {"name": "it"},
    "spec": {
        "from": {"host": "127.0.0.1", "secretName": "tidb-secret"},
        "s3": {"provider": "aws", "bucket": "backups", "prefix": "latency", "secretName": "s3-secret"},
    },
}
_JOB: Final = names.backup_job("it")


class Watched:
    """The newest value of one number in a watched object, with the moment at which it was seen."""

    def __init__(self, api: Api, resource: Resource, name: str, value: Callable[[Object], float | None]) -> None:
        self._seen: SimpleQueue[tuple[float, float]] = SimpleQueue()
        self._stop = threading.Event()
        version = str(api.list(resource, _NAMESPACE)["metadata"]["resourceVersion"])

        def follow() -> None:
            try:
                for event in api.watch(resource, version, self._stop):
                    obj = event["object"]
                    if name_of(obj) == name and (found := value(obj)) is not None:
                        self._seen.put((found, time.monotonic()))
            except ApiError:
                if not self._stop.is_set():  # the API server goes before the last event comes
                    raise

        threading.Thread(target=follow, daemon=True).start()

    def when(self, wanted: float, *, seconds: float = 15.0) -> float:
        """The moment at which *wanted* was first seen. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found, moment = self._seen.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"{wanted:g} % was not seen in {seconds:g} s") from None
            if found == wanted:
                return moment

    def stop(self) -> None:
        """Follow no longer; the thread ends with the next event or the process."""
        self._stop.set()


def of_backup(backup: Object) -> float | None:
    """The percentage that the status of *backup* shows."""
    progresses = (backup.get("status") or {}).get("progresses") or ()
    return float(progresses[-1]["progress"]) if progresses else None


def of_job(job: Object) -> float | None:
    """The percentage that the report on *job* says."""
    report = Report.of_job(job)
    return report.progress[-1].progress if report and report.progress else None


def report(number: int) -> str:
    """The *number*-th report as JSON; its percentage tells it apart."""
    step = StepProgress(step="Export", progress=number * 100 / REPORTS)
    return Report(seq=number, attempt="bench", phase=Phase.RUNNING, progress=(step,)).to_json()


def measure(cluster: Cluster) -> tuple[list[float], list[float]]:
    """Seconds from the patch to the CR's status, and to the Job's own watch event, one pair for each report."""
    api = cluster.api
    cluster.make_namespace(_NAMESPACE)
    backups = api.resource_of(names.API_VERSION, "Backup")
    watched = [Watched(api, backups, "it", of_backup), Watched(api, JOBS, _JOB, of_job)]
    api.create(backups, {**_BACKUP, "metadata": {"name": "it", "namespace": _NAMESPACE}})
    cluster.wait_for("Job", _JOB, lambda obj: obj is not None, namespace=_NAMESPACE, what="made")
    times: tuple[list[float], list[float]] = ([], [])
    begun = time.monotonic()
    try:
        for number in range(1, REPORTS + 1):
            if time.monotonic() - begun > LIMIT_SECONDS:
                break
            sent = time.monotonic()
            api.patch(JOBS, _NAMESPACE, _JOB, {"metadata": {"annotations": {ANNOTATION: report(number)}}})
            for found, watch in zip(times, watched, strict=True):
                found.append(watch.when(number * 100 / REPORTS) - sent)
    finally:
        for watch in watched:
            watch.stop()
    return times


def quantile(values: list[float], share: float) -> float:
    """The value that *share* of *values* do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def main() -> None:
    """Start a sandbox, measure, print."""
    parts = frozenset({"controllers", "metacontroller", "webhook"})
    with Cluster(f"latency-{os.getpid()}", tidbs=(), parts=parts) as cluster:
        status, floor = measure(cluster)
    which = "Metacontroller" if METACONTROLLER_BIN in os.environ else "the stand-in for Metacontroller"
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"{len(status)} of {REPORTS} reports through {which}, one after the other; load {load:.1f} per core")
    for what, values in (("report to CR status", status), ("report to the API server's watch", floor)):
        print(f"  {what:34} p50 {1000 * quantile(values, 0.5):5.0f} ms   p95 {1000 * quantile(values, 0.95):5.0f} ms")
    met = quantile(status, 0.5) <= TARGET
    print(f"  target: p50 to CR status <= {1000 * TARGET:.0f} ms  {'ok' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
