"""The CRs of a history, and the Jobs that the hook makes for them.

The hook is modelled by its rules (:mod:`app.domain.job.run`, :mod:`app.domain.backup.finalize`) and acts at once: what it does
late is a process that the scheduler starts late. One Pod an attempt; the next attempt only when Kubernetes has no Pod of the
last one any more, which says nothing about its process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from backup_manager.context import Context, Operation
from backup_manager.errors import ManagerError
from backup_manager.kubernetes.resource import Resource
from backup_manager.operations import br_backup, br_restore, clean, export, import_
from backup_manager.reporting.journal import Journal
from backup_manager.storage.memory import Bucket
from crds.contract import identity, names
from crds.contract.paths import Location
from crds.contract.report import Phase
from tests.support.interleaving.cluster import Api, Cluster, Pod, Reports
from tests.support.interleaving.plan import Act, Wanted
from tests.support.interleaving.scheduler import Process, Scheduler
from tests.support.interleaving.store import ScheduledStorage
from tests.support.interleaving.target import Targets
from tests.support.interleaving.tools import Tools
from tests.support.interleaving.watch import Watch
from tests.support.manager import NOW

RETRIES: Final = 2
CLEANS: Final = 4
BUCKET: Final = "b"
_OPERATIONS: Final[Mapping[str, Operation]] = {
    "export": export.run,
    "br": br_backup.run,
    "br-old": br_backup.run,
    "restore": import_.run,
    "br-restore": br_restore.run,
    "clean": clean.run,
}


@dataclass(slots=True, eq=False)
class Job:
    """One attempt. *outcome* is ``Complete``, ``Failed`` or empty; *lost* says that its Pod was deleted by force."""

    cr: "Cr"
    component: str
    pod: Pod
    reports: Reports
    outcome: str = ""
    lost: bool = False
    error: ManagerError | None = None


@dataclass(slots=True, eq=False)
class Cr:
    """One Backup or Restore."""

    name: str
    uid: str
    wanted: Wanted
    spec: dict[str, Any]
    status: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    applied: bool = False
    deleted: bool = False
    gone: bool = False
    jobs: list[Job] = field(default_factory=list)
    cleans: list[Job] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "Restore" if "restore" in self.wanted.kind else "Backup"

    @property
    def reason(self) -> str:
        """The reason of the newest condition."""
        conditions = self.status.get("conditions") or [{}]
        return str(conditions[-1].get("reason") or "")

    def has(self, condition: str) -> bool:
        """Whether the condition holds."""
        return any(item["type"] == condition for item in self.status.get("conditions") or ())

    def enter(self, phase: str, reason: str = "") -> None:
        """The hook writes a phase and its condition."""
        self.status["phase"] = phase
        kept = [item for item in self.status.get("conditions") or () if item["type"] != phase]
        self.status["conditions"] = [*kept, {"type": phase, "status": "True", "reason": reason}]

    def document(self) -> dict[str, Any]:
        """As the API server has it."""
        meta = {"name": self.name, "namespace": "ns", "uid": self.uid, "annotations": dict(self.annotations)}
        return {"kind": self.kind, "metadata": meta, "spec": self.spec, "status": self.status}


class World:
    """Everything that one history is played in."""

    def __init__(self, scheduler: Scheduler, wanted: tuple[Wanted, ...], scratch: Path) -> None:
        self.scheduler = scheduler
        self.bucket = Bucket()
        self._root, self._folders = scratch, 0
        self.cluster = Cluster(scheduler)
        self.api = Api(self.cluster)
        self.crs = [self._cr(number, cr, wanted) for number, cr in enumerate(wanted)]
        self.by_uid = {cr.uid: cr for cr in self.crs}
        self.watch = Watch(objects=self.bucket.objects, may_clean=self._may_clean, fail=scheduler.fail)
        cluster = self.cluster
        self.targets = Targets(scheduler=scheduler, renews=cluster.renews, lost=cluster.lost, fail=scheduler.fail)
        self.tools = Tools(
            scheduler,
            storage=self.storage,
            owner=self._owner,
            load=self._load,
            loaded=self.targets.end,
            is_readable=self.watch.is_readable,
        )
        self._jobs: dict[Process, Job] = {}
        scheduler.ended = self._ended
        scheduler.thawed = self.cluster.thawed

    def storage(self, location: Location) -> ScheduledStorage:
        """A folder of the bucket, for whoever runs."""
        return ScheduledStorage(location, self.bucket, self.scheduler, self.watch.changed, self.cluster.renews)

    def now(self) -> datetime:
        """Virtual time."""
        return NOW + timedelta(seconds=self.scheduler.clock)

    # What users do.

    def act(self, act: Act) -> None:
        """Carry one act out."""
        cr = self.crs[act.cr]
        if act.verb == "apply" and not cr.applied:
            self.scheduler.say(f"user applies {cr.name}: {cr.wanted.kind} at {cr.wanted.path}")
            cr.applied = True
            if cr.kind == "Backup":
                cr.status["recorded"] = identity.record(cr.spec, namespace="ns", annotations=cr.annotations)
            self.reconcile(cr)
        elif act.verb == "adopt" and not cr.applied:
            path = cr.wanted.path
            if not any(key.startswith(f"{path}/") or key == f"{path}.record.json" for key in self.bucket.objects):
                self.adopt(cr, {f"{path}/{key}": f"@@snapshot {cr.name}@1@@".encode() for key in ("1.sst", "backupmeta")})
                self.scheduler.say(f"{cr.name} is there with data at {path}")
        elif act.verb == "confirm":
            others = [other.uid for other in self.crs if other is not cr and other.spec["s3"] == cr.spec["s3"]]
            if others and cr.deleted:
                self.scheduler.say(f"user confirms that {cr.name} cleans what is of {others[0]}")
                cr.annotations[names.CONFIRM_CLEAN_ANNOTATION] = others[0]
                self.reconcile(cr)
        elif act.verb == "delete" and cr.applied and not cr.deleted:
            self.scheduler.say(f"user deletes {cr.name}")
            cr.deleted = True
            for job in cr.jobs:
                if job.pod.process.alive and not job.pod.gone:
                    self.scheduler.interrupt(job.pod.process)
            self.reconcile(cr)

    def force_delete(self, process: Process) -> None:
        """``kubectl delete pod --force``: Kubernetes forgets the Pod, whatever its process does."""
        job = self._jobs[process]
        if not job.pod.gone and not job.outcome:
            self.scheduler.say(f"user deletes the Pod of {process.name} by force")
            job.pod.gone = job.lost = True
            job.outcome = "Failed"
            self.reconcile(job.cr)

    def forget_pods(self) -> None:
        """Kubernetes forgets the Pods that have ended: ``ttlSecondsAfterFinished``, or somebody deletes the Jobs."""
        self.scheduler.say("Kubernetes forgets the Pods that have ended")
        for pod in self.cluster.pods:
            pod.gone = pod.gone or not pod.process.alive

    def adopt(self, cr: Cr, objects: Mapping[str, bytes], path: str = "") -> None:
        """The CR is there with the data of an earlier run, which left no record of its own."""
        for key, data in objects.items():
            self.bucket.put(key, data)
        cr.applied = True
        cr.status = {"backupPath": f"s3://{BUCKET}/{path or cr.wanted.path}"}
        cr.enter("Complete" if objects else "Failed", "" if objects else "PodFailed")
        self.watch.keep(cr.uid, objects)

    # What the hook does.

    def reconcile(self, cr: Cr) -> None:
        """What the hook answers to the CR as it is."""
        self._show(cr)
        if cr.gone:
            return
        if cr.deleted:
            self._finalize(cr)
        elif (not cr.jobs and not cr.has("Complete") and not cr.has("Failed")) or (
            cr.jobs and cr.jobs[-1].outcome == "Failed" and self._retries(cr)
        ):
            self._start(cr, cr.wanted.kind, cr.jobs)
        self.cluster.documents[cr.kind, cr.name] = cr.document()

    def _show(self, cr: Cr) -> None:
        for job in cr.jobs:
            report = job.reports.last
            if report and report.backup_path:
                cr.status["backupPath"] = report.backup_path
        last = cr.jobs[-1] if cr.jobs else None
        if last is None or cr.has("Complete") or cr.has("Failed"):
            return
        if last.outcome == "Complete":
            cr.enter("Complete")
        elif last.outcome == "Failed":
            problem = last.reports.last.error if last.reports.last else None
            cr.enter("RetryFailed" if self._retries(cr) else "Failed", problem.reason if problem else "PodFailed")
        else:
            cr.status["phase"] = "Running"

    def _retries(self, cr: Cr) -> bool:
        report = cr.jobs[-1].reports.last
        retryable = report is None or report.phase is not Phase.FAILED or (report.error is not None and report.error.retryable)
        return retryable and len(cr.jobs) <= RETRIES

    def _finalize(self, cr: Cr) -> None:
        last = cr.cleans[-1] if cr.cleans else None
        if cr.kind == "Restore":
            cr.gone = all(not job.pod.process.alive or job.pod.gone for job in cr.jobs)
        elif self._keeps_data(cr) or not cr.status.get("backupPath"):
            cr.gone = True
        elif last is None:
            self._start(cr, "clean", cr.cleans)
        elif last.outcome:
            report = last.reports.last
            cr.gone = last.outcome == "Complete" and report is not None and not report.result.get("left")
            if not cr.gone:
                cr.enter("CleanFailed", report.error.reason if report and report.error else "PodFailed")
                if len(cr.cleans) < CLEANS:
                    self._start(cr, "clean", cr.cleans)
        if cr.gone:
            self.scheduler.say(f"the hook lets {cr.name} go")
            self.cluster.documents.pop((cr.kind, cr.name), None)

    def _may_clean(self, uid: str) -> bool:
        if any(cr.deleted and cr.annotations.get(names.CONFIRM_CLEAN_ANNOTATION) == uid for cr in self.crs):
            return True
        cr = self.by_uid.get(uid)
        return cr is not None and self._asks_for_clean(cr)

    def _asks_for_clean(self, cr: Cr) -> bool:
        if not cr.deleted:
            return False
        policy = cr.wanted.policy
        return policy == "Delete" or (policy == "OnFailure" and cr.uid not in self.watch.complete.values())

    @staticmethod
    def _keeps_data(cr: Cr) -> bool:
        return cr.wanted.policy == "Retain" or (cr.wanted.policy == "OnFailure" and cr.has("Complete"))

    def _start(self, cr: Cr, component: str, jobs: list[Job]) -> None:
        first = f"clean-{cr.name}" if component == "clean" else cr.name
        name, reports = f"{first}#{len(jobs) + 1}", Reports(self.scheduler)
        process = self.scheduler.spawn(name, lambda: self._manage(job))
        labels = {
            names.OWNER_UID_LABEL: cr.uid,
            names.COMPONENT_LABEL: component if component == "clean" else cr.kind.lower(),
        }
        pod = Pod(name=name, uid=f"pod-{name}", labels=labels, process=process)
        job = Job(cr=cr, component=component, pod=pod, reports=reports)
        self._jobs[process] = job
        self.cluster.pods.append(pod)
        jobs.append(job)

    def _ended(self, process: Process) -> None:
        """The kubelet and the Job controller notice."""
        job = self._jobs[process]
        report = job.reports.last
        done = not process.doomed and job.error is None and report is not None and report.phase is Phase.COMPLETE
        self.scheduler.say(f"{process.name} is dead" if process.doomed else f"{process.name} ends: {job.error or 'ok'}")
        job.pod.phase = "Succeeded" if done else "Failed"
        if not job.outcome:
            job.outcome = "Complete" if done else "Failed"
            self.reconcile(job.cr)

    # What runs in a Pod.

    def _manage(self, job: Job) -> None:
        """As :mod:`backup_manager.runner` does it: one final report, one exit code."""
        cr = job.cr
        resource = Resource.of(self.cluster.documents.get((cr.kind, cr.name)) or cr.document())
        journal = Journal(job.reports, attempt=job.pod.uid, clock=self.now)
        env = {names.ENV_POD_UID: job.pod.uid, names.ENV_POD_NAME: job.pod.name, names.ENV_JOB_NAME: job.pod.name}
        if job.component == "clean":
            env[names.ENV_BACKUP_PATH] = cr.status["backupPath"]
        context = Context(
            resource=resource,
            journal=journal,
            scratch=self._scratch(job),
            stop=job.pod.process.stop,
            env=env,
            flags={"tikvVersion": "v6.1.0" if cr.wanted.kind == "br-old" else "v8.5.0"},
            kubernetes=self.api,  # type: ignore[arg-type]
            now=self.now,
        )
        try:
            try:
                result = _OPERATIONS[job.component](context)
            except ManagerError as error:
                job.error = error
                journal.fail(error.problem())
            else:
                journal.complete(commit_ts=result.commit_ts, backup_size=result.backup_size, **dict(result.details))
        except ManagerError as error:
            job.error = error

    def _scratch(self, job: Job) -> Path:
        """A folder for lightning's configuration; nobody else needs one."""
        if job.component != "restore":
            return Path("/nonexistent")
        self._folders += 1
        folder = self._root / f"{self._folders}"
        folder.mkdir(parents=True)
        return folder

    def _owner(self) -> str:
        current = self.scheduler.current
        assert current is not None
        return self._jobs[current].cr.name

    def _load(self, what: str) -> None:
        current = self.scheduler.current
        assert current is not None
        cr = self._jobs[current].cr
        self.targets.load(self.targets.find(cr.wanted.cluster), current, cr.name, what)

    def _cr(self, number: int, wanted: Wanted, every: tuple[Wanted, ...]) -> Cr:
        letter = chr(ord("A") + number)
        uid = f"{letter.lower() * 8}-0000-4000-8000-000000000000"
        prefix = wanted.path
        if wanted.kind.endswith("restore"):
            source, origin = every[int(wanted.path)], chr(ord("A") + int(wanted.path))
            prefix = f"{source.path}/{origin}-{origin.lower() * 8}" if wanted.kind == "restore" else source.path
        spec: dict[str, Any] = {"s3": {"provider": "aws", "bucket": BUCKET, "prefix": prefix}, "cleanPolicy": wanted.policy}
        if wanted.kind.startswith("br"):
            spec["br"] = {"cluster": wanted.cluster}
        else:
            spec["to" if wanted.kind == "restore" else "from"] = {"host": wanted.cluster, "secretName": "db"}
        if wanted.kind == "br-old":
            spec["br"]["options"] = ["--use-checkpoint=false"]
        annotations = {} if wanted.preflight else {names.SKIP_PREFLIGHT_ANNOTATION: "true"}
        return Cr(name=letter, uid=uid, wanted=wanted, spec=spec, annotations=annotations)

    # At the end.

    def _doubled(self) -> list[str]:
        """Targets in which an import that is Complete is not alone. An import that failed may have left rows, and said so."""
        imports = {cr.name: cr for cr in self.crs if cr.wanted.kind == "restore" and cr.has("Complete")}
        found = []
        for target in self.targets.by_name.values():
            for cr in imports.values():
                files = [what for owner, what in target.loaded if owner == cr.name]
                if files and len(cr.jobs) == 1 and len(files) != len(set(files)):
                    found.append(f"{cr.name} is Complete and loaded {files} into {target.name}")
                others = {owner for owner, _ in target.loaded if owner != cr.name and owner in imports}
                found += [f"{cr.name} and {other} are both Complete in {target.name}" for other in others if files]
        return found

    def _unfinished(self) -> list[str]:
        """CRs that neither are final nor wait with a reason."""
        found = []
        for cr in self.crs:
            final = not cr.applied or cr.gone or cr.has("Complete") or (cr.has("Failed") and cr.reason)
            waits = cr.has("CleanFailed") and cr.reason
            if not (waits or cr.gone if cr.deleted else final):
                found.append(f"{cr.name} ends as {cr.status}")
        return found

    def wrong(self) -> list[str]:
        """What does not hold when everybody has ended."""
        complete = [cr.uid for cr in self.crs if cr.kind == "Backup" and cr.has("Complete") and not self._may_clean(cr.uid)]
        complete = [uid for uid in complete if self.by_uid[uid].jobs]
        return [*self._unfinished(), *self._leftovers(), *self._doubled(), *self.watch.unrecorded(complete)]

    def _leftovers(self) -> list[str]:
        """Data of CRs that are gone because a clean said that nothing is left. A Pod that was deleted by force may write on."""
        found = []
        for cr in self.crs:
            cleaned = cr.gone and cr.cleans and cr.cleans[-1].outcome == "Complete"
            if cleaned and self._asks_for_clean(cr) and not any(job.lost for job in cr.jobs):
                mark = f"@@snapshot {cr.name}@".encode()
                found += [f"{cr.name} was cleaned and left {key}" for key, data in self.bucket.objects.items() if mark in data]
        return found
