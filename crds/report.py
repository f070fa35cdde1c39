"""What a manager tells the hooks: one JSON document in one annotation of its own Job.

The hook is the only writer of a CR's ``.status`` (Metacontroller replaces it whole at every sync, so a second writer loses
updates). A manager therefore patches :data:`ANNOTATION` on its Job; that patch wakes the parent's sync, and the hook copies
what it needs. The same document is what ``--report=stdout`` prints, one line each.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from crds import names

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


def _utc_seconds(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


Time = Annotated[
    datetime,
    AfterValidator(_utc_seconds),
    PlainSerializer(lambda value: value.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str, when_used="json"),
]
"""RFC3339 in UTC with whole seconds, as Kubernetes writes times."""


class _Part(BaseModel):
    # A newer manager may say more than this hook knows: ignore it rather than lose the whole report.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, defer_build=True)


class StepProgress(_Part):
    """One step of the work; *progress* is percent, 0 to 100, as in ``status.progresses``."""

    step: str
    progress: float = Field(ge=0, le=100)
    last_transition_time: Time | None = Field(default=None, alias="lastTransitionTime")


class Problem(_Part):
    """Why a run failed or waits: *reason* is CamelCase, *message* one or two lines, *hint* the next step."""

    reason: str
    message: str = ""
    hint: str = ""
    retryable: bool = False


class Report(_Part):
    """The document itself.

    *seq* grows by one with every report of an *attempt* (the Pod's uid). *bytes* is the work done so far, *eta* the expected
    end. *commit_ts* is a TSO as text. *result* holds what only one verb has (``objectCount``, ``deleted``, ...).
    """

    v: Literal[1] = 1
    seq: int = Field(ge=0)
    attempt: str = ""
    phase: Phase
    progress: tuple[StepProgress, ...] = ()
    bytes: int | None = Field(default=None, ge=0)
    eta: Time | None = None
    commit_ts: str | None = Field(default=None, alias="commitTs")
    backup_path: str | None = Field(default=None, alias="backupPath")
    backup_size: int | None = Field(default=None, alias="backupSize", ge=0)
    time_started: Time | None = Field(default=None, alias="timeStarted")
    time_completed: Time | None = Field(default=None, alias="timeCompleted")
    error: Problem | None = None
    result: dict[str, Any] = Field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self.phase in {Phase.COMPLETE, Phase.FAILED}

    def to_json(self) -> str:
        """One line of JSON of at most :data:`MAX_BYTES`; what does not fit loses its details first, never its outcome."""
        for candidate in (self, self._short(MAX_MESSAGE), self._short(200, drop_result=True)):
            text = candidate.model_dump_json(by_alias=True, exclude_none=True)
            if len(text.encode()) <= MAX_BYTES:
                return text
        return (
            self._short(200, drop_result=True)
            .model_copy(update={"progress": ()})
            .model_dump_json(by_alias=True, exclude_none=True)
        )

    def _short(self, message: int, *, drop_result: bool = False) -> Self:
        update: dict[str, Any] = {"progress": self.progress[-8:]}
        if self.error:
            update["error"] = self.error.model_copy(
                update={"message": self.error.message[:message], "hint": self.error.hint[:message]}
            )
        if drop_result:
            update["result"] = {}
        return self.model_copy(update=update)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a report; None when *text* is no report that this version understands."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> Self | None:
        """The report on *job* (a Kubernetes dict), or None."""
        annotations = (job.get("metadata") or {}).get("annotations") or {}
        text = annotations.get(ANNOTATION)
        return cls.parse(text) if text else None
