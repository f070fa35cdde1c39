"""The log backup of a schedule: how far it reaches, what one can go back to, and what of it is no longer needed.

The truncation target is only *published* here, in the schedule's status; the log Backup's own hook picks it up, since no
controller edits a user's spec. A log may be cut up to the oldest Backup that is left, under every policy: a restore starts
from a Backup and needs the log from there on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from app.domain.observed import Object, metadata, name_of, part
from app.domain.schedule.children import Children
from app.domain.times import moment, stamp
from crds.contract import tso

_MAX_GAPS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The observed log backup. Its times are TSOs, 0 while unknown: *begin* is the start of what is still there."""

    backup: Object
    start: int = 0
    begin: int = 0
    checkpoint: int = 0

    @property
    def name(self) -> str:
        """Name of the log Backup."""
        return name_of(self.backup)

    @property
    def deleting(self) -> bool:
        """Whether it is on its way out."""
        return bool(metadata(self.backup).get("deletionTimestamp"))

    @property
    def started(self) -> datetime | None:
        """When the log begins: its first commit, else the creation of the object."""
        return tso.to_datetime(self.start) if self.start else moment(metadata(self.backup).get("creationTimestamp"))

    @property
    def reached(self) -> datetime | None:
        """How far it got."""
        return tso.to_datetime(self.checkpoint) if self.checkpoint else None


def _timestamp(status: Mapping[str, Any], field: str) -> int:
    """A TSO of the log Backup's status; what cannot be read is unknown, and the unknown cuts and promises nothing."""
    text = status.get(field)
    try:
        return tso.parse(text) if isinstance(text, str) else 0
    except ValueError:
        return 0


def read(children: Children) -> Log | None:
    """The schedule's log backup, when there is one."""
    if children.log is None:
        return None
    status = part(children.log, "status")
    start = _timestamp(status, "commitTs")
    checkpoint = _timestamp(status, "logCheckpointTs")
    return Log(
        backup=children.log,
        start=start,
        begin=max(start, _timestamp(status, "logSuccessTruncateUntil")),
        checkpoint=checkpoint if checkpoint >= start else 0,
    )


def truncate_until(log: Log, children: Children, *, before: str, cap: int | None) -> str:
    """The TSO up to which the log may be cut, as text; *before* what was published so far, *cap* the compaction's progress.

    Backups that go in this very pass still count: they may be needed until they are gone.
    """
    known = _timestamp({"until": before}, "until")
    target = children.oldest_commit or 0
    if any(item.problem for item in children.items) or not log.start:
        target = 0
    if cap is not None:
        target = min(target, cap)
    best = max((value for value in (known, target) if log.start < value <= log.checkpoint), default=0)
    return str(best) if best else ""


def recovery_window(log: Log, children: Children) -> dict[str, Any] | None:
    """``status.recoveryWindow``: from the oldest Backup that the log connects to, up to where the log got.

    Older Backups can be restored too, each to its own moment only: the stretches between them are the gaps.
    """
    commits = sorted(children.commits)
    connected = next((commit for commit in commits if log.start and log.begin <= commit <= log.checkpoint), None)
    if connected is None:
        return None
    points = [*[commit for commit in commits if commit < connected][-_MAX_GAPS:], connected]
    gaps = [{"from": _text(left), "to": _text(right)} for left, right in pairwise(points)]
    window: dict[str, Any] = {"from": _text(points[0]), "to": _text(log.checkpoint)}
    return {**window, "gaps": gaps} if gaps else window


def _text(timestamp: int) -> str:
    return stamp(tso.to_datetime(timestamp))
