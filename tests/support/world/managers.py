"""Managers at work in Pods: what they report, how they end, and what lies in the storage and in the cluster because of them.

They keep the rules of ``backup_manager`` that others rely on: no run begins for a CR that is being deleted, a path is claimed
before the first byte, one that is complete is reported again instead of written again, a clean touches no path of somebody else
and waits for every Pod of its CR.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.domain.times import stamp
from cli.simulator.metacontroller import JOBS
from cli.simulator.store import ApiError, Object, controller_of, deleting, key_of, uid_of
from crds.contract import names, tso
from tests.support.world.kubernetes import PODS, Kubernetes

RUNS: Final = frozenset({"backup", "export", "restore", "import", "compact"})
"""Purposes of which one CR has one run."""
_CRS: Final = tuple(f"{kind}.{names.API_VERSION}" for kind in ("Backup", "Restore", "CompactBackup"))


def purpose_of(job: Object) -> str:
    """What *job* is for: the manager's subcommand, ``log-...`` of a log backup, ``prune``; empty for a foreign Job."""
    args = _args(job)
    if "--abort=true" in args:
        return "prune"
    return argument(job, "subcommand") or (args[0] if args else "")


def path_of(job: Object) -> str:
    """Where *job* writes, or what it cleans."""
    if path := (job["metadata"].get("annotations") or {}).get(names.PATH_ANNOTATION):
        return str(path)
    env = _container(job).get("env") or ()
    return next((str(item.get("value")) for item in env if item["name"] == names.ENV_BACKUP_PATH), "")


def owner_of(job: Object) -> str:
    """Uid of the CR that *job* works for."""
    return str((job["metadata"].get("labels") or {}).get(names.OWNER_UID_LABEL) or "")


def argument(job: Object, flag: str) -> str:
    """The value of ``--flag=`` among the arguments of *job*."""
    return next((arg.partition("=")[2] for arg in _args(job) if arg.startswith(f"--{flag}=")), "")


def _container(job: Object) -> Mapping[str, Any]:
    containers: Sequence[Mapping[str, Any]] = job["spec"]["template"]["spec"].get("containers") or ()
    return containers[0] if containers else {}


def _args(job: Object) -> list[str]:
    return [str(arg) for arg in _container(job).get("args") or ()]


@dataclass(slots=True)
class Data:
    """What lies at one path: whose it is, and whether it is complete."""

    owner: str
    complete: bool = False


@dataclass(slots=True)
class Managers:
    """The running managers of a cluster, the storage by path, and the log tasks by name."""

    store: Kubernetes
    tell: Callable[..., None]
    storage: dict[str, Data] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    worked: dict[str, int] = field(default_factory=dict)
    """How often the work of a CR was done to its end, by uid and purpose."""
    cleaned: list[tuple[str, str]] = field(default_factory=list)
    """Uid and path of everything that was cleaned."""
    _seq: int = 0

    def pods(self, phase: str = "") -> list[Object]:
        """The Pods that have not ended, in a fixed order."""
        wanted = {phase} if phase else {"Pending", "Running"}
        return [pod for _, pod in sorted(self.store.of(PODS).items()) if pod["status"].get("phase") in wanted]

    def job_of(self, pod: Object) -> Object | None:
        """The Job of *pod*, unless it is gone."""
        job = self.store.find(JOBS, f"{pod['metadata']['namespace']}/{pod['metadata']['labels']['job-name']}")
        return job if job and uid_of(job) == controller_of(pod) else None

    def live(self, owner: str) -> Iterator[Object]:
        """Jobs of the CR *owner* with a Pod that has not ended."""
        for pod in self.pods():
            job = self.job_of(pod)
            if job and owner_of(job) == owner:
                yield job

    def start(self, pod: Object) -> None:
        """The container of *pod* begins: it claims its path, and reports."""
        if deleting(pod) or pod["status"]["phase"] != "Pending":
            return
        self.store.write(pod, status={"phase": "Running", "ready": True})
        if job := self.job_of(pod):
            self.tell("  Pod of {} starts", job["metadata"]["name"])
            purpose, path = purpose_of(job), path_of(job)
            if purpose in RUNS and not self._is_wanted(owner_of(job)):
                self._give_up(pod, job, "DeletionRequested", retryable=False)
                return
            if purpose in {"backup", "export", "log-start"} and path:
                self.storage.setdefault(path, Data(owner_of(job)))
            self.report(job, "Prepare")

    def _is_wanted(self, owner: str) -> bool:
        """Whether the CR *owner* is there and is not being deleted, as the API server knows it and a cache may not."""
        found = next((cr for kind in _CRS for cr in self.store.of(kind).values() if uid_of(cr) == owner), None)
        return found is not None and not deleting(found)

    def _has_ended(self, pod: Object) -> bool:
        """Whether its manager refused to begin, or the Pod is gone."""
        live = self.store.find(PODS, key_of(pod))
        return live is None or live["status"]["phase"] == "Failed"

    def report(self, job: Object, phase: str, **fields: Any) -> bool:
        """Patch the report of *job*, with its uid as a precondition; False when the Job is another or gone."""
        self._seq += 1
        text = json.dumps({"v": 1, "seq": self._seq, "phase": phase, **fields})
        return self.say(job, text)

    def say(self, job: Object, text: str) -> bool:
        """Put *text* where reports are."""
        live = self.store.find(JOBS, key_of(job))
        if live is None or uid_of(live) != uid_of(job):
            return False
        annotations = {**(live["metadata"].get("annotations") or {}), names.REPORT_ANNOTATION: text}
        self.store.annotate(live, annotations=annotations)
        return True

    def progress(self, pod: Object, percent: int) -> None:
        """The manager in *pod* is somewhere in the middle; a watch looks at its task."""
        job = self.job_of(pod)
        if job is None or pod["status"]["phase"] != "Running":
            return
        if purpose_of(job) == "log-watch":
            name = argument(job, "backupName")
            seen = self.tasks.get(name, "absent")
            self.watch(job, seen)
            return
        steps = [{"step": "Work", "progress": percent}]
        self.report(job, "Running", progress=steps, **self._place(job))

    def watch(self, job: Object, state: str) -> None:
        """The watch *job* reports *state*."""
        now = self.store.clock()
        checkpoint = {"checkpointTs": tso.from_datetime(now)} if state == "running" else {}
        result = {"taskState": state, "observedAt": stamp(now), **checkpoint}
        self.report(job, "Running", result=result)

    def _place(self, job: Object) -> dict[str, Any]:
        path = path_of(job)
        return {"backupPath": path} if path and purpose_of(job) != "clean" else {}

    def finish(self, pod: Object) -> None:
        """The manager in *pod* does its work to the end and reports it, or says why it cannot."""
        job = self.job_of(pod)
        self.start(pod)
        if job is None:
            self.store.end_pod(pod, "Succeeded")
            return
        if self._has_ended(pod):
            return
        purpose = purpose_of(job)
        if purpose == "log-watch":
            self.progress(self.store.get(PODS, key_of(pod)), 0)
            return
        if refusal := self._refusal(job, purpose):
            self.fail(pod, refusal, retryable=refusal == "WriterActive")
            return
        result = self._work(job, purpose)
        done = {"timeCompleted": stamp(self.store.clock()), **result}
        self.tell("  {} does its work", job["metadata"]["name"])
        if self.report(job, "Complete", **self._place(job), **done):
            self.store.end_pod(pod, "Succeeded")
        else:
            self.store.end_pod(pod, "Failed")

    def _refusal(self, job: Object, purpose: str) -> str:
        """Why the manager does not do what it is asked for."""
        path, owner = path_of(job), owner_of(job)
        data = self.storage.get(path)
        if purpose in {"backup", "export", "log-start"} and data and data.owner != owner:
            return "BackupPathClaimed"
        if purpose == "clean":
            if data and data.owner != owner:
                return "BackupPathClaimed"
            if any(uid_of(other) != uid_of(job) for other in self.live(owner)):
                return "WriterActive"
        return ""

    def _work(self, job: Object, purpose: str) -> dict[str, Any]:
        owner, path, now = owner_of(job), path_of(job), self.store.clock()
        commit = str(tso.from_datetime(now))
        name = argument(job, "backupName")
        match purpose:
            case "backup" | "export":
                data = self.storage.setdefault(path, Data(owner))
                if not data.complete:
                    data.complete = True
                    self._count(owner, purpose)
                return {"commitTs": commit, "backupSize": 10}
            case "clean":
                self.storage.pop(path, None)
                self.cleaned.append((owner, path))
                return {"result": {"deleted": 3, "left": 0}}
            case "log-start":
                self.tasks[name] = "running"
                return {"commitTs": commit}
            case "log-stop":
                self.tasks.pop(name, None)
            case "log-pause":
                self.tasks[name] = "paused"
            case "log-resume":
                self.tasks[name] = "running"
            case "log-truncate":
                return {"result": {"logSuccessTruncateUntil": argument(job, "truncate-until")}}
            case "restore" | "import":
                self._count(owner, argument(job, "replicationPhase") or purpose)
        return {}

    def _count(self, owner: str, purpose: str) -> None:
        key = f"{owner}/{purpose}"
        self.worked[key] = self.worked.get(key, 0) + 1

    def fail(self, pod: Object, reason: str, *, retryable: bool, **result: Any) -> None:
        """The manager in *pod* gives up and says why."""
        job = self.job_of(pod)
        self.start(pod)
        if job is None:
            self.store.end_pod(pod, "Failed")
        elif not self._has_ended(pod):
            self._give_up(pod, job, reason, retryable=retryable, **self._place(job), **result)

    def _give_up(self, pod: Object, job: Object, reason: str, *, retryable: bool, **result: Any) -> None:
        self.tell("  {} fails: {}", job["metadata"]["name"], reason)
        error = {"reason": reason, "message": "it does not work", "retryable": retryable}
        self.report(job, "Failed", error=error, timeCompleted=stamp(self.store.clock()), **result)
        self.store.end_pod(pod, "Failed")

    def kill(self, pod: Object, phase: str = "Failed") -> None:
        """The container of *pod* ends without a word: killed, or (Succeeded) with exit 0 and no report."""
        self.tell("  Pod {} is {}", pod["metadata"]["name"], "killed" if phase == "Failed" else "done without a report")
        self.store.end_pod(pod, phase)

    def quietly(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """*call*, whose refusal by the API server is nobody's harm."""
        try:
            call(*arguments, **options)
        except ApiError as error:
            self.tell("    refused: {}", error)
