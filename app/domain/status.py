"""A status in the making: what was received, changed field by field, under the condition rules of TiDB Operator 1.6.

A condition once true stays in the list as history, except those that only say why nothing moves at the moment
(:data:`TRANSIENT`): they are there while they hold. A condition whose words did not change keeps its time.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from app.domain.times import stamp


class Phase(StrEnum):
    """``status.phase`` and condition types (``status.state`` of a CompactBackup); the words of TiDB Operator 1.6, and ours:
    ``Waiting`` and ``Stalled``."""

    WAITING = "Waiting"
    INVALID = "Invalid"
    SCHEDULED = "Scheduled"
    PREPARE = "Prepare"
    RUNNING = "Running"
    RESTART = "Restart"
    RETRY_FAILED = "RetryFailed"
    COMPLETE = "Complete"
    FAILED = "Failed"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    REPEATABLE = "Repeatable"
    CLEAN = "Clean"
    CLEAN_FAILED = "CleanFailed"
    SNAPSHOT_RESTORE = "SnapshotRestore"
    LOG_RESTORE = "LogRestore"
    SNAPSHOT_RESTORED = "SnapshotRestored"
    COMPACT_SETTLED = "CompactSettled"
    PRUNE_SCHEDULED = "PruneScheduled"
    PRUNE_RUNNING = "PruneRunning"
    PRUNE_COMPLETE = "PruneComplete"
    PRUNE_FAILED = "PruneFailed"
    STALLED = "Stalled"
    GC_LIFE_TIME_RAISED = "GcLifeTimeRaised"
    REPORT_REFUSED = "ReportRefused"


TRANSIENT: Final = frozenset({Phase.WAITING, Phase.INVALID, Phase.STALLED})
"""Conditions that are listed only while they hold."""
_NOT_WORDS: Final = frozenset({"lastTransitionTime", "observedGeneration"})
_MADE_ANEW: Final = frozenset({"conditions", "observedGeneration", "awaitedJobs"})
"""Metacontroller writes observedGeneration itself; a Job is awaited for as long as each pass asks for it."""
_TERMINAL: Final = frozenset({Phase.COMPLETE, Phase.FAILED})


def holds(status: Mapping[str, Any], kind: Phase) -> bool:
    """Whether condition *kind* is ``True`` in *status*."""
    for item in status.get("conditions") or ():  # noqa: SIM110 - faster than any(), and every sync asks several times
        if item.get("type") == kind and item.get("status") == "True":
            return True
    return False


def outcome_of(status: Mapping[str, Any]) -> Phase | None:
    """``Complete`` or ``Failed`` once the run has ended for good, else None.

    Read from the conditions too, because cleaning and pruning move the phase on.
    """
    phase = status.get("phase")
    if isinstance(phase, str) and phase in _TERMINAL:  # a CompactBackup's may be of any type: it has a state instead
        return Phase(phase)
    failed = None
    for item in status.get("conditions") or ():
        if item.get("status") == "True":
            if item.get("type") == Phase.COMPLETE:
                return Phase.COMPLETE
            if item.get("type") == Phase.FAILED:
                failed = Phase.FAILED
    return failed


class StatusBuilder:
    """The status that an answer will carry. *phase_field* is ``state`` for a CompactBackup."""

    def __init__(self, received: Mapping[str, Any], *, phase_field: str = "phase") -> None:
        self._received = list(received.get("conditions") or ())
        self._conditions = [item for item in self._received if item.get("type") not in TRANSIENT]
        self._phase_field = phase_field
        self._fields = {key: value for key, value in received.items() if key not in _MADE_ANEW}

    @classmethod
    def going_on(cls, made: Mapping[str, Any], received: Mapping[str, Any], *, phase_field: str = "phase") -> Self:
        """A builder that starts from *made*, for the received status *received*: it keeps all of *made*."""
        builder = cls(received, phase_field=phase_field)
        builder._conditions = list(made.get("conditions") or ())
        builder._fields = {key: value for key, value in made.items() if key not in _MADE_ANEW}
        return builder

    @property
    def phase(self) -> str:
        """The phase so far."""
        return str(self._fields.get(self._phase_field) or "")

    def get(self, name: str) -> Any:
        """A field's value, or None."""
        return self._fields.get(name)

    def put(self, **fields: Any) -> None:
        """Set fields; None and empty text or list remove one."""
        for name, value in fields.items():
            if value is None or value in ("", []):
                self._fields.pop(name, None)
            else:
                self._fields[name] = stamp(value) if isinstance(value, datetime) else value

    def enter(self, phase: Phase, **words: Any) -> None:
        """Move to *phase* and note it as a condition; *words* as for :meth:`mark`."""
        self._fields[self._phase_field] = str(phase)
        self.mark(phase, **words)

    def leave_passing_phase(self) -> None:
        """Forget a phase that only said why nothing moved."""
        if self.phase in TRANSIENT:
            self._fields.pop(self._phase_field)

    def forget(self, kind: Phase) -> None:
        """Remove condition *kind*: it does not hold any more, and its history is of no use."""
        self._conditions = [item for item in self._conditions if item.get("type") != kind]

    def mark(
        self,
        kind: Phase,
        *,
        at: datetime | None = None,
        reason: str = "",
        message: str = "",
        command: str = "",
        status: bool = True,
        generation: int | None = None,
    ) -> None:
        """Note condition *kind* without moving the phase. *at* is when it became so: a fact of a Job, a report or the CR.
        *generation* is that of the spec which the condition judges."""
        words: dict[str, Any] = {"type": str(kind), "status": "True" if status else "False"}
        for key, text in (("command", command), ("reason", reason), ("message", message)):
            if text:
                words[key] = text
        before: Mapping[str, Any] = {}
        for item in self._received:
            if item.get("type") == kind:
                before = item
                break
        if {key: value for key, value in before.items() if value and key not in _NOT_WORDS} == words:
            if time := before.get("lastTransitionTime"):
                words["lastTransitionTime"] = time
        elif at:
            words["lastTransitionTime"] = stamp(at)
        said: dict[str, Any] = {**words, "observedGeneration": generation} if generation else words
        for index, item in enumerate(self._conditions):
            if item.get("type") == kind:
                self._conditions[index] = said
                return
        self._conditions.append(said)

    def done(self) -> dict[str, Any]:
        """The finished status; passing conditions come last, whatever the order in which they were noted."""
        conditions = sorted(self._conditions, key=lambda item: item.get("type") in TRANSIENT)
        return {**self._fields, **({"conditions": conditions} if conditions else {})}
