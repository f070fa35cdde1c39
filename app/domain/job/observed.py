"""Jobs: those observed, seen through the few facts that decide, and those wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from app.domain.cluster import Cluster
from app.domain.observed import Object, Observed, metadata
from app.domain.times import moment
from crds.contract import names
from crds.contract.identity import Recorded, from_text
from crds.contract.report import Phase as ReportPhase
from crds.contract.report import Report

JOB: Final = "Job.batch/v1"
"""Key of Jobs among the children."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An observed Job. Its ``Complete`` or ``Failed`` condition is the terminal truth; the report has the details."""

    obj: Object

    @property
    def _status(self) -> Mapping[str, Any]:
        return self.obj.get("status") or {}

    @property
    def _pod(self) -> Mapping[str, Any]:
        return ((self.obj.get("spec") or {}).get("template") or {}).get("spec") or {}

    @property
    def name(self) -> str:
        """Its name."""
        return str(metadata(self.obj).get("name") or "")

    @cached_property
    def path(self) -> str:
        """Where its data goes, decided before it existed; empty for Jobs that write none. The environment counts first: of a
        Job it cannot be edited."""
        annotations = metadata(self.obj).get("annotations") or {}
        return self._told(names.ENV_BACKUP_PATH) or str(annotations.get(names.PATH_ANNOTATION) or "")

    @property
    def owner_uid(self) -> str:
        """Uid of the CR it works for."""
        return str((metadata(self.obj).get("labels") or {}).get(names.OWNER_UID_LABEL) or "")

    @property
    def owner(self) -> str:
        """Kind and name of the CR it works for, as its labels tell; empty when they do not."""
        labels = metadata(self.obj).get("labels") or {}
        found = ((kind, labels.get(label)) for label, kind in names.OWNER_LABELS.items())
        return next((f"{kind} {name}" for kind, name in found if name), "")

    def belongs_to(self, uid: str) -> bool:
        """Whether it works for the CR *uid*: a name, and even a selector's label with which Metacontroller adopts it, may be
        another one's. Every Job of ours has had this label from the first version on."""
        return self.owner_uid == uid

    @property
    def recorded(self) -> Recorded | None:
        """What was recorded of the CR when it was made; None where it does not say."""
        return _recorded_in(self._told(names.ENV_RECORDED))

    def _told(self, variable: str) -> str:
        """The value of *variable* in the environment of its main container; empty when it has none."""
        for container in (self._pod.get("containers") or ())[:1]:
            # The webhook appends its own, and of two with one name the last counts.
            for entry in reversed(container.get("env") or ()):
                if entry.get("name") == variable:
                    return str(entry.get("value") or "")
        return ""

    @property
    def reported_elsewhere(self) -> str:
        """The path in its report when that is not the one it was given: no proof of the work that was asked for. A clean has
        nothing to name: it says what is left."""
        said = (self.report.backup_path if self.report else None) or ""
        if not said or not self.path or said.rstrip("/") == self.path.rstrip("/") or self.args[:1] == ["clean"]:
            return ""
        return said

    @property
    def args(self) -> list[str]:
        """Arguments of its main container."""
        return [str(arg) for container in (self._pod.get("containers") or ())[:1] for arg in container.get("args") or ()]

    @cached_property
    def report(self) -> Report | None:
        """What its manager reported last."""
        return Report.of_job(self.obj)

    def _condition(self, kind: str) -> Object | None:
        for item in self._status.get("conditions") or ():
            if item.get("type") == kind and item.get("status") == "True":
                return item  # type: ignore[no-any-return]
        return None

    @property
    def complete(self) -> bool:
        """Whether Kubernetes calls it complete."""
        return self._condition("Complete") is not None

    @property
    def failed(self) -> bool:
        """Whether Kubernetes calls it failed."""
        return self._condition("Failed") is not None

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.complete or self.failed

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well: exit 0 *and* the final report says so, of the path that it was given."""
        said = self.report
        return self.complete and said is not None and said.phase is ReportPhase.COMPLETE and not self.reported_elsewhere

    @property
    def failed_because(self) -> tuple[str, str]:
        """Reason and message of the ``Failed`` condition."""
        found = self._condition("Failed") or {}
        return str(found.get("reason") or "JobFailed"), str(found.get("message") or "")

    @property
    def created(self) -> datetime | None:
        """When it was created."""
        return moment(metadata(self.obj).get("creationTimestamp"))

    @property
    def started(self) -> datetime | None:
        """When the Job controller took it up, else when it was created."""
        return moment(self._status.get("startTime")) or self.created

    @property
    def ended(self) -> datetime | None:
        """When it ended; None while it has not."""
        found = self._condition("Complete") or self._condition("Failed")
        if found is None:
            return None
        return moment(self._status.get("completionTime")) or moment(found.get("lastTransitionTime")) or self.started

    @property
    def busy(self) -> bool:
        """Whether a Pod of it may still be running."""
        return not self.finished or bool(self._status.get("active")) or bool(self._status.get("terminating"))

    @property
    def has_pods(self) -> bool:
        """Whether a Pod of it was ever made. A Job without its account, or beyond a quota, exists and has none."""
        counted = ("active", "ready", "terminating", "succeeded", "failed")
        uncounted: Mapping[str, Any] = self._status.get("uncountedTerminatedPods") or {}
        return any(self._status.get(count) for count in counted) or any(uncounted.values())

    @property
    def account(self) -> str:
        """ServiceAccount of its Pods."""
        return str(self._pod.get("serviceAccountName") or "")

    @property
    def unready(self) -> bool:
        """Whether no Pod of it has become ready, and none has reported."""
        return not self.finished and not self._status.get("ready") and self.report is None


def _recorded_in(text: str | None) -> Recorded | None:
    try:
        return from_text(text) if text else None
    except ValueError:
        return None


def observed_jobs(observed: Observed) -> Mapping[str, Job]:
    """The observed Jobs of the CR itself, by name. Whose is not, though it has one of our names, is left alone."""
    known: Mapping[str, Job] | None = observed.derived.get(JOB)
    if known is None:
        uid = observed.uid
        found = (Job(obj=child) for child in (observed.children.get(JOB) or {}).values())
        known = observed.derived[JOB] = {job.name: job for job in found if job.belongs_to(uid)}
    return known


class Purpose(StrEnum):
    """What a wanted Job is for; the builders have one row for each."""

    EXPORT = "export"
    BACKUP = "backup"
    LOG = "log"
    WATCH = "watch"
    CLEAN = "clean"
    IMPORT = "import"
    RESTORE = "restore"
    PRUNE = "prune"
    COMPACT = "compact"
    GC_LIFE_TIME = "gc-life-time"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIntent:
    """A Job that is wanted.

    *command* is a log backup's, or the step of a replication restore; *truncate_until* belongs to log backups. *path* is the
    URL the Job writes to or deletes. *cluster* is the one it talks to, None where it needs none (export, import, clean).
    *recorded* is what the CR recorded at its start: the Job works on that, whatever the spec says since.
    """

    name: str
    purpose: Purpose
    path: str = ""
    command: str = ""
    truncate_until: str = ""
    cluster: Cluster | None = None
    recorded: Recorded = field(default_factory=dict)
