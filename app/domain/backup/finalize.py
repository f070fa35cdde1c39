"""Deletion of a Backup: what happens to its data, in the order in which it is asked.

=========================================== ==========================================================
observed                                    answer
=========================================== ==========================================================
annotation ``force-delete: "true"``         finalizer removed; the data is left, reported
its namespace ends                          finalizer removed, since no Job can be made there; data kept, reported
a log backup that was started               its running commands go, then ``stop-<backup>``, a few times
it cannot be stopped, its data is to go     ``CleanFailed``: the data is kept, and waits for a human
its run left the GC life time raised        :mod:`~app.domain.job.gc_life_time`: its Jobs end, then a Job restores it
policy ``Retain``; ``OnFailure``, not failed finalizer removed, data kept
a Job that may still write                  it goes; wait until it has gone
no path known                               finalizer removed: nothing was written
last clean Job kept a complete backup       finalizer removed, data kept (``OnFailure``, the record says Complete), reported
last clean Job ended well                   finalizer removed: nothing is left
it found locked objects                     wait for their date, then the next one
a Restore reads the data                    wait ten minutes, then the next one
it failed, and the last allowed one too     ``CleanFailed`` says what is left, and waits for a human
it failed, or vanished                      the next one, ``clean-<backup>-r<n>``, each after a longer wait
=========================================== ==========================================================

The policy is read at every pass, so an edit acts. Nothing here needs the TiDB cluster. Clean works on the recorded path and
never on an edited spec.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain import cluster as clusters
from app.domain.backup import log as log_backup
from app.domain.backup import log_watch
from app.domain.config import DAY, Config
from app.domain.decision import Decision
from app.domain.job import ending, gc_life_time, progress
from app.domain.job.ending import FORCE_ANNOTATION
from app.domain.job.observed import Job, JobIntent, Purpose, observed_jobs
from app.domain.job.run import Run, show, stall_cause, stall_time
from app.domain.observed import Observed, metadata
from app.domain.status import Phase, StatusBuilder, holds, outcome_of
from app.domain.times import moment, stamp
from crds.contract import names
from crds.contract.paths import PathError, export_location
from crds.contract.report import Phase as ReportPhase

_PODS_LEFT: Final = 10
_AHEAD: Final = 20
_DOUBLINGS: Final = 12
_LAST_NUMBER: Final = 10_000
"""No deletion comes to so many attempts: a status that names more was not written by us."""
READER_ACTIVE: Final = "ReaderActive"
"""Reason of a clean that gave up waiting for a Restore which reads the data."""
_READER_DELAY: Final = timedelta(minutes=10)


def finalize(observed: Observed, now: datetime, config: Config) -> Decision[JobIntent]:
    """The answer for a Backup that is being deleted."""
    deletion = _Deletion(observed, now, config)
    for step in (
        deletion.forced,
        deletion.namespace_ends,
        deletion.stop_log,
        deletion.restore_gc_life_time,
        deletion.retained,
        deletion.stop_writers,
        deletion.nothing_written,
        deletion.clean,
    ):
        if (decision := step()) is not None:
            return decision
    raise AssertionError("the last step always answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The latest of several Jobs for one purpose, counted from 1. *gone*: it was seen and is no more."""

    number: int
    job: Job | None
    gone: bool = False

    @classmethod
    def latest(cls, first: str, jobs: Mapping[str, Job], seen: int = 0) -> "Attempt":
        """The latest attempt of *first* among *jobs*; *seen* is the highest number that the status knows of. The status may be
        behind and the attempts before the latest may be gone, so it is looked for some way ahead. A number that no attempt has
        counts as none."""
        seen = seen if 0 <= seen <= _LAST_NUMBER else 0
        observed = (number for number in range(1, seen + _AHEAD + 1) if names.retry(first, number - 1) in jobs)
        number = max([seen, 1, *observed])
        job = jobs.get(names.retry(first, number - 1))
        return cls(number=number, job=job, gone=job is None and seen >= number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a clean Job says it found: *shown* goes to ``status.cleanStatus``, *deferred* is when another try is worth
    it: locked objects have their date, and a Restore that reads the data ends some time."""

    shown: dict[str, Any]
    deferred: datetime | None
    nothing_left: bool
    kept: bool
    reason: str
    cause: str

    @classmethod
    def of(cls, job: Job) -> "Finding":
        """Read the report of *job*."""
        report = job.report
        result = report.result if report else {}
        shown = {key: result[key] for key in ("deleted", "failed", "left") if isinstance(result.get(key), int)}
        error = report.error if report else None
        deferred = moment(result.get("deferredUntil"))
        if error and error.reason == READER_ACTIVE and job.failed and job.ended:
            deferred = job.ended + _READER_DELAY
        if deferred:
            shown["deferredUntil"] = stamp(deferred)
        cause = (error.message, error.hint) if error else job.failed_because
        return cls(
            shown=shown,
            deferred=deferred,
            kept=job.succeeded and result.get("kept") is True,
            nothing_left=job.succeeded and not shown.get("left") and not deferred,
            reason=error.reason if error else "CleanBackupDataFailed",
            cause="; ".join(text for text in cause if text),
        )


def _at(due: datetime | None) -> str:
    return f" at {stamp(due)}" if due else ""


class _Deletion:
    def __init__(self, observed: Observed, now: datetime, config: Config) -> None:
        self.observed, self.now, self.config = observed, now, config
        self.spec = observed.spec
        self.jobs = observed_jobs(observed)
        self.builder = StatusBuilder(observed.status)
        self._show_run()
        self.path = self._known_path()
        self.warnings: list[str] = []

    def _show_run(self) -> None:
        """Note how the run ended if the received status does not know yet: ``OnFailure`` depends on it."""
        observed = self.observed
        if log_backup.is_log(self.spec) or outcome_of(observed.status):
            return
        outcome = Run.of(names.backup_job(observed.name), observed).evaluate(self.now, self.config)
        if outcome.job:
            show(self.builder, outcome)
            progress.show_data(self.builder, outcome.job)

    def _known_path(self) -> str:
        recorded = str(self.builder.get("backupPath") or "")
        if recorded:
            return recorded
        if on_jobs := sorted(job.path for job in self.jobs.values() if job.path):
            return on_jobs[-1]
        # No phase at all: the status was lost, or there never was a run. An export's folder is its own either way.
        if not self.builder.phase and not self.spec.get("br"):
            try:
                return export_location(self.spec, self.observed.name, self.observed.uid).url
            except PathError:
                return ""
        return ""

    def _let_go(self) -> Decision[JobIntent]:
        status = self.builder.done()
        left = gc_life_time.left_raised(status)
        return Decision(status=status, finalized=True, warnings=[*self.warnings, *([left] if left else [])])

    @property
    def _keeps_data(self) -> bool:
        policy = self.spec.get("cleanPolicy") or "Retain"
        if policy == "OnFailure":
            outcome = outcome_of(self.builder.done())
            # A snapshot that was cut short is no backup; a log backup is one until it fails.
            return outcome is not Phase.FAILED if log_backup.is_log(self.spec) else outcome is Phase.COMPLETE
        return bool(policy == "Retain")

    def forced(self) -> Decision[JobIntent] | None:
        if not ending.forced(self.observed):
            return None
        if self.path:
            self.warnings.append(f"let go by annotation {FORCE_ANNOTATION}: data left at {self.path}")
        return self._let_go()

    def namespace_ends(self) -> Decision[JobIntent] | None:
        at = ending.namespace_end(self.observed)
        if at is None:
            return None
        if self._keeps_data or not self.path:
            return self._let_go()
        message = f"namespace {self.observed.namespace} is being deleted, so no Job can clean; data left at {self.path}"
        self.builder.enter(Phase.CLEAN_FAILED, at=at, reason="NamespaceTerminating", message=message)
        self.warnings.append(message)
        return self._let_go()

    def stop_log(self) -> Decision[JobIntent] | None:
        """A log task lives in the TiDB cluster, so it has to be stopped whatever becomes of its data."""
        name = self.observed.name
        if not log_backup.is_log(self.spec) or not log_backup.is_started(self.observed.status, self.jobs, name):
            return None
        if log_watch.is_gone(self.observed.status):
            return None
        cluster = clusters.find(self.observed, self.config)
        if holds(self.builder.done(), Phase.STOPPED) or cluster is None:
            return None
        self._remember_start()
        if waiting := self.stop_writers():
            return waiting
        return self._stop(names.stop_job(name), cluster)

    def _remember_start(self) -> None:
        """The start's Job may be all that tells of it, and it goes now."""
        entries: Mapping[str, Any] = self.builder.get("logSubCommandStatuses") or {}
        if log_backup.START not in entries:
            tried = {"command": log_backup.START, "phase": str(Phase.SCHEDULED)}
            self.builder.put(logSubCommandStatuses={**entries, log_backup.START: tried}, backupPath=self.path)

    def _stop(self, first: str, cluster: clusters.Cluster) -> Decision[JobIntent] | None:
        attempt = Attempt.latest(first, self.jobs)
        job = attempt.job
        if "attempt" not in (self.builder.get("cleanStatus") or {}):
            self.builder.put(cleanStatus=None)  # what was said of an earlier attempt to stop
        if job and job.succeeded:
            self.builder.enter(Phase.STOPPED, at=job.ended, command=log_backup.STOP)
            return None
        if job and not job.finished:
            return self._wait_for(job, self._way_out(stopped=False))
        if job and attempt.number >= self.config.clean_attempts:
            return self._not_stopped(job)
        if job:
            due = self._retry_time(attempt)
            cause = Finding.of(job).cause
            message = f"Job {job.name} could not stop the log backup: {cause}; another attempt follows{_at(due)}"
            self.builder.put(cleanStatus={"message": message, **({"nextAttemptAt": stamp(due)} if due else {})})
        wanted = JobIntent(name=first, purpose=Purpose.LOG, path=self.path, command=log_backup.STOP, cluster=cluster)
        return self._next(wanted, attempt)

    def _not_stopped(self, job: Job) -> Decision[JobIntent] | None:
        """A task that may still run writes on, so its data cannot go; a Backup that keeps its data may."""
        why = Finding.of(job).cause
        task = f"Job {job.name} failed too{f' ({why})' if why else ''}: the log backup's task may still run in the cluster"
        if self._keeps_data:
            self.warnings.append(task)
            return None
        message = (
            f"{task}, so its data is kept. Fix the cause and delete Job {job.name} to try again; or stop the task yourself "
            f"(br log stop --task-name={self.observed.name}). {self._way_out()}"
        )
        self.builder.enter(Phase.CLEAN_FAILED, at=job.ended, reason="StopLogBackupJobFailed", message=message)
        return Decision(status=self.builder.done(), warnings=[message])

    def restore_gc_life_time(self) -> Decision[JobIntent] | None:
        return gc_life_time.finalize(self.observed, self.builder, self.config)

    def retained(self) -> Decision[JobIntent] | None:
        return self._let_go() if self._keeps_data else None

    def stop_writers(self) -> Decision[JobIntent] | None:
        own = (
            names.clean_job(self.observed.name),
            names.stop_job(self.observed.name),
            names.gc_life_time_job("Backup", self.observed.name),
        )
        writers = ending.busy_jobs(self.observed, but=lambda name: name.startswith(own))
        if not writers:
            return None
        drops = ending.stopping(writers, "deleting: a run ends before its data is cleaned")
        return Decision(status=self.builder.done(), drop=drops, resync_after=_PODS_LEFT)

    def _way_out(self, *, stopped: bool = True) -> str:
        """How to have the CR gone without a clean, and what that means."""
        where = f" at {self.path}" if self.path else ""
        force = f'annotate it {FORCE_ANNOTATION}="true"'
        how = f"set cleanPolicy: Retain or {force}" if stopped else force
        stop = f"br log stop --task-name={self.observed.name}"
        task = "" if stopped else f", and its task runs on in the cluster (end it: {stop})"
        return f"To delete this Backup without its data, {how}: the data stays{where} and is yours to delete{task}"

    def nothing_written(self) -> Decision[JobIntent] | None:
        if self.path:
            return None
        self.builder.enter(Phase.CLEAN, at=self._deleted_at, message="nothing was written")
        return self._let_go()

    @property
    def _deleted_at(self) -> datetime | None:
        return moment(metadata(self.observed.parent).get("deletionTimestamp"))

    def clean(self) -> Decision[JobIntent]:
        before = self.observed.status.get("cleanStatus") or {}
        wanted = JobIntent(name=names.clean_job(self.observed.name), purpose=Purpose.CLEAN, path=self.path)
        attempt = Attempt.latest(wanted.name, self.jobs, int(before.get("attempt") or 0))
        job = attempt.job
        if job is None:
            return self._next(wanted, attempt, deferred=moment(before.get("deferredUntil")))
        finding = Finding.of(job)
        self._show_attempt(attempt, finding)
        if not job.finished:
            self.builder.enter(Phase.CLEAN, at=job.created, message=f"Job {job.name}", status=False)
            self._show_wait(job)
            return self._wait_for(job, self._way_out())
        if finding.kept:
            self.warnings.append(f"data kept at {self.path}: the record says Complete, and cleanPolicy is OnFailure")
            return self._let_go()
        if finding.nothing_left:
            self.builder.enter(Phase.CLEAN, at=job.ended)
            return self._let_go()
        return self._clean_failed(wanted, attempt, job, finding)

    def _show_attempt(self, attempt: Attempt, finding: "Finding", **words: str) -> None:
        before = self.observed.status.get("cleanStatus") or {}
        deferrals = int(before.get("deferrals") or 0)
        if finding.deferred and not (before.get("attempt") == attempt.number and before.get("deferredUntil")):
            deferrals += 1
        said: dict[str, Any] = {"deferrals": deferrals} if deferrals else {}
        said |= {name: word for name, word in words.items() if word}
        self.builder.put(cleanStatus={"attempt": attempt.number, **finding.shown, **said})

    def _show_wait(self, job: Job) -> None:
        """What the clean waits for, in its manager's words: a writer, or a Restore that reads the data."""
        report = job.report
        if report and report.phase is ReportPhase.WAITING and report.error:
            at, error = report.time_started or job.started, report.error
            self.builder.mark(Phase.WAITING, at=at, reason=error.reason, message=f"Job {job.name}: {error.message}")

    def _clean_failed(self, wanted: JobIntent, attempt: Attempt, job: Job, finding: "Finding") -> Decision[JobIntent]:
        count = finding.shown.get("left")
        left = f"{count} objects left at {self.path}" if count else f"data left at {self.path}"
        deferrals = int((self.builder.get("cleanStatus") or {}).get("deferrals") or 0)
        last = not finding.deferred and attempt.number - deferrals >= self.config.clean_attempts
        due = finding.deferred or self._retry_time(attempt)
        reason, message = finding.reason, f"{finding.cause}; {left}; another attempt follows{_at(due)}"
        if finding.deferred and reason == READER_ACTIVE:
            message = f"{finding.cause}; {left}; tried again at {stamp(finding.deferred)}"
        elif finding.deferred:
            reason, message = "ObjectsLocked", f"{left}, locked until {stamp(finding.deferred)}; tried again then"
        elif last:
            message = (
                f"{finding.cause}; {left} after {attempt.number} attempts, no other follows by itself. Fix the cause and "
                f"delete Job {job.name} to try again. {self._way_out()}"
            )
        self._show_attempt(attempt, finding, message=message, nextAttemptAt=stamp(due) if due and not last else "")
        self.builder.enter(Phase.CLEAN_FAILED, at=job.ended, reason=reason, message=message)
        if last:
            return Decision(status=self.builder.done(), warnings=[message])
        return self._next(wanted, attempt, deferred=finding.deferred)

    def _next(self, wanted: JobIntent, attempt: Attempt, *, deferred: datetime | None = None) -> Decision[JobIntent]:
        """The next Job like *wanted*, unless it has to wait for its time."""
        due = deferred or self._retry_time(attempt)
        if due and due > self.now:
            return Decision(status=self.builder.done(), resync_after=min((due - self.now).total_seconds(), DAY))
        if attempt.job and attempt.job.busy:
            return Decision(status=self.builder.done(), resync_after=_PODS_LEFT)
        number = attempt.number + 1 if attempt.job or attempt.gone else attempt.number
        return Decision(status=self.builder.done(), create=[replace(wanted, name=names.retry(wanted.name, number - 1))])

    def _retry_time(self, attempt: Attempt) -> datetime | None:
        if attempt.job is None or attempt.job.ended is None:
            return None
        delay = self.config.clean_retry_delay * 2 ** min(attempt.number - 1, _DOUBLINGS)
        return attempt.job.ended + timedelta(seconds=delay)

    def _wait_for(self, job: Job, way_out: str) -> Decision[JobIntent]:
        late = stall_time(job, self.config)
        if late is None:
            return Decision(status=self.builder.done())
        if self.now < late:
            return Decision(status=self.builder.done(), resync_after=(late - self.now).total_seconds())
        reason, message = stall_cause(job, self.config)
        self.builder.mark(Phase.STALLED, at=late, reason=reason, message=f"{message}. {way_out}")
        return Decision(status=self.builder.done())
