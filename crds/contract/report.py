"""What a manager tells the hooks: one JSON document in one annotation of its own Job.

The hook is the only writer of a CR's ``.status`` (Metacontroller replaces it whole at every sync, so a second writer loses
updates). A manager therefore patches :data:`ANNOTATION` on its Job; that patch wakes the parent's sync, and the hook copies
what it needs. The same document is what ``--report=stdout`` prints, one line each.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

import msgspec

from crds.contract import names
from crds.contract.wire import Document, WireError, representable, utc_time

ANNOTATION: Final = names.REPORT_ANNOTATION
MAX_BYTES: Final = 8 * 1024
"""A report never grows past this: annotations share 256 KiB, and every report costs a sync."""
MAX_MESSAGE: Final = 1024
TERMINATION_BYTES: Final = 4096
"""Kubernetes keeps this much of a container's termination message."""


class Phase(StrEnum):
    """How far the run is. ``Complete`` and ``Failed`` end it."""

    PREPARE = "Prepare"
    WAITING = "Waiting"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"


class GcLifeTime(StrEnum):
    """``result.gcLifeTimeState``: whether the run may have left ``tikv_gc_life_time`` raised. Absent: it did not touch it.
    With it come ``gcLifeTimeBefore`` (the value to restore) and ``gcLifeTime`` (in words, what was done)."""

    RAISED = "Raised"
    RELEASED = "Released"


Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What JSON and the API server can hold."""


class StepProgress(Document, frozen=True, kw_only=True):
    """One step of the work; *progress* is percent, 0 to 100, as in ``status.progresses``."""

    step: str
    progress: Percent
    last_transition_time: datetime | None = None


class Problem(Document, frozen=True, kw_only=True):
    """Why a run failed or waits: *reason* is CamelCase, *message* one or two lines, *hint* the next step."""

    reason: str
    message: str = ""
    hint: str = ""
    retryable: bool = False


class Report(Document, frozen=True, kw_only=True):
    """The document itself.

    *seq* grows by one with every report of an *attempt* (the Pod's uid). *bytes* is the work done so far, *eta* the expected
    end. *commit_ts* is a TSO as text. *result* holds what only one verb has (``objectCount``, ``deleted``, ...).
    """

    v: Literal[1] = 1
    seq: Count
    attempt: str = ""
    phase: Phase
    progress: tuple[StepProgress, ...] = ()
    bytes: Count | None = None
    eta: datetime | None = None
    commit_ts: str | None = None
    backup_path: str | None = None
    backup_size: Count | None = None
    time_started: datetime | None = None
    time_completed: datetime | None = None
    error: Problem | None = None
    result: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self.phase in {Phase.COMPLETE, Phase.FAILED}

    def to_json(self) -> str:
        """One line of JSON of at most :data:`MAX_BYTES`; what does not fit loses its details first, never its outcome."""
        for candidate in (self, self._short(MAX_MESSAGE), self._short(200, drop_result=True)):
            text = candidate.to_line()
            if len(text.encode()) <= MAX_BYTES:
                return text
        return self._short(200, drop_result=True).but(progress=()).to_line()

    def _short(self, message: int, *, drop_result: bool = False) -> Self:
        changes: dict[str, Any] = {"progress": self.progress[-8:]}
        if self.error:
            changes["error"] = self.error.but(message=self.error.message[:message], hint=self.error.hint[:message])
        if drop_result:
            changes["result"] = {}
        return self.but(**changes)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a report; None when *text* is no report that this version understands. Of one that is, times without a zone or
        out of the calendar, and a result that no status can hold, are left out."""
        try:
            return cls.read(text)._sound() if isinstance(text, str) else None
        except (WireError, RecursionError):
            return None

    def _sound(self) -> Self:
        changes: dict[str, Any] = {}
        for name, time in (("eta", self.eta), ("time_started", self.time_started), ("time_completed", self.time_completed)):
            if time is not None and utc_time(time) is None:
                changes[name] = None
        for step in self.progress:
            if step.last_transition_time and utc_time(step.last_transition_time) is None:
                changes["progress"] = tuple(step.but(last_transition_time=None) for step in self.progress)
                break
        if self.result and not representable(self.result):
            changes["result"] = {}
        return self.but(**changes) if changes else self

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> Self | None:
        """The report on *job* (a Kubernetes dict), or None."""
        annotations = (job.get("metadata") or {}).get("annotations")
        text = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
        return cls.parse(text) if text else None
