"""One line on each CR: where it stands, how far it is, what it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.observed import Object, condition
from app.domain.schedule.children import is_log
from app.domain.times import moment
from cli.documents import key_of
from cli.formats import age, size_of, when
from crds.contract import durations

KINDS: Final = ("BackupSchedule", "Backup", "Restore", "CompactBackup")
ENDED: Final = frozenset({"Complete", "Failed", "Invalid", "Stopped", "PruneComplete", "PruneFailed"})
FAILED: Final = frozenset({"Failed", "Invalid", "PruneFailed", "PruneComplete"})
"""Ended badly; a pruned Restore is a failed one."""
_WARNINGS: Final = ("Invalid", "ScheduleStalled", "RetentionHeld", "Stalled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is known of one CR. *endless*: a log backup runs until it is stopped."""

    kind: str
    namespace: str
    name: str
    phase: str
    percent: float | None = None
    size: int | None = None
    started: datetime | None = None
    took: timedelta | None = None
    eta: datetime | None = None
    message: str = ""
    endless: bool = False

    @property
    def label(self) -> str:
        """``Kind namespace/name``."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.phase in ENDED

    @property
    def words(self) -> str:
        """Phase, percent, expected end, message."""
        percent = f"{self.percent:.0f}%" if self.percent is not None and not self.ended else ""
        eta = f"until {when(self.eta)}" if self.eta and not self.ended else ""
        took = f"after {age(self.took)}" if self.took is not None and self.ended else ""
        return " ".join(part for part in (self.phase, percent, eta, took, self.message) if part)

    @property
    def data(self) -> dict[str, Any]:
        """For machines."""
        told = {
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "phase": self.phase,
            "percent": self.percent,
            "bytes": self.size,
            "started": self.started,
            "seconds": int(self.took.total_seconds()) if self.took is not None else None,
            "eta": self.eta,
            "message": self.message or None,
        }
        return {key: value for key, value in told.items() if value is not None}


def summarise(cr: Object, now: datetime) -> Summary:
    """Where *cr* stands at *now*."""
    kind, namespace, name = key_of(cr)
    status = cr.get("status") or {}
    if kind == "BackupSchedule":
        return _schedule(cr, namespace, name)
    phase = str(status.get("phase") or status.get("state") or "New")
    started = moment(status.get("timeStarted"))
    ended = moment(status.get("timeCompleted"))
    return Summary(
        kind=kind,
        namespace=namespace,
        name=name,
        phase=phase,
        percent=_percent(status),
        size=size_of(status),
        started=started,
        took=_taken(status) or ((ended or now) - started if started and phase != "Stopped" else None),
        eta=moment(status.get("eta")),
        message=_message(cr, phase),
        endless=is_log(cr),
    )


def _taken(status: Mapping[str, Any]) -> timedelta | None:
    try:
        return durations.parse(str(status["timeTaken"])) if status.get("timeTaken") else None
    except ValueError:
        return None


def _percent(status: Mapping[str, Any]) -> float | None:
    text = str(status.get("progress") or "").removesuffix("%")
    try:
        return float(text)
    except ValueError:
        return None


def _message(cr: Object, phase: str) -> str:
    """Why it is where it is: the condition that says so, when it does not go by itself."""
    if phase in {"Complete", "Running", "New"} and not condition(cr, "Stalled"):
        return ""
    found = condition(cr, "Stalled") or condition(cr, phase) or {}
    texts = (str(found.get("reason") or ""), str(found.get("message") or (cr.get("status") or {}).get("message") or ""))
    return ": ".join(text for text in texts if text)


def _schedule(cr: Object, namespace: str, name: str) -> Summary:
    status, spec = cr.get("status") or {}, cr.get("spec") or {}
    warning = next((found for kind in _WARNINGS if (found := condition(cr, kind))), None)
    phase = "Paused" if spec.get("pause") else "Active"
    if warning:
        phase = str(warning["type"])
    facts = [f"{warning.get('reason')}: {warning.get('message')}"] if warning else []
    for words, field in (("next", "nextBackupTime"), ("last success", "lastSuccessTime")):
        if time := moment(status.get(field)):
            facts.append(f"{words} {when(time)}")
    kept = (status.get("retention") or {}).get("kept")
    if kept is not None:
        facts.append(f"{kept} kept")
    if window := status.get("recoveryWindow"):
        facts.append(f"recoverable {window.get('from')} to {window.get('to')}")
    return Summary(kind="BackupSchedule", namespace=namespace, name=name, phase=phase, message=", ".join(facts))
