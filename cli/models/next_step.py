"""What follows by itself, and what to do when nothing does.

``why`` promises only what the hook does: the phase decides, whatever older records say. No step that is recommended here loses
data without saying so.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.domain.job.ending import FORCE_ANNOTATION
from app.domain.observed import Object, condition, metadata
from app.domain.times import moment
from cli.models.status import FAILED, Summary
from crds.contract import names

_MOVES: Final = frozenset(
    {
        *("Running", "Scheduled", "Prepare", "New", "Active", "Clean"),
        *("SnapshotRestore", "LogRestore", "PruneScheduled", "PruneRunning"),
    }
)
"""Phases that lead on without anybody's doing."""


def next_attempt(cr: Object) -> datetime | None:
    """When the hook tries again what failed; None when nothing follows by itself: a run that ended, that is being deleted, or
    that waits for its spec."""
    status = cr.get("status") or {}
    clean: Mapping[str, Any] = status.get("cleanStatus") or {}
    if metadata(cr).get("deletionTimestamp"):
        return moment(clean.get("nextAttemptAt"))
    held: Mapping[str, Any] = condition(cr, "Invalid") or {}
    # An edit of what a log backup works on holds only its start up; its other commands go on as it was recorded.
    if condition(cr, "Waiting") or status.get("phase") == "Invalid" or held.get("reason") == "InvalidSpec":
        return None
    commands: Mapping[str, Any] = status.get("logSubCommandStatuses") or {}
    failed = [status, *commands.values()]
    last: Mapping[str, Any] = (status.get("backoffRetryStatus") or [{}])[-1]
    if last.get("realRetryAt") or not any(item.get("phase") == "RetryFailed" for item in failed):
        return None
    return moment(last.get("expectedRetryAt"))


def cleans(cr: Object) -> bool:
    """Whether it is its deletion that goes on."""
    status = cr.get("status") or {}
    going = status.get("phase") in {"Clean", "CleanFailed"} or bool(status.get("cleanStatus"))
    return bool(metadata(cr).get("deletionTimestamp")) and going


def after_the_last_clean(cr: Object) -> str:
    """The two ways on: another try, or without the data."""
    path = (cr.get("status") or {}).get("backupPath")
    where = f" at {path}" if path else ""
    return (
        "Fix the cause and delete the last failed Job to try again. To delete this Backup without its data, set cleanPolicy: "
        f'Retain or annotate it {FORCE_ANNOTATION}="true": the data stays{where} and is yours to delete.'
    )


def default_step(cr: Object, summary: Summary) -> str:
    """What to do when no witness has advised anything."""
    look = f"See the object itself: kubectl describe {summary.kind.lower()} {summary.name} -n {summary.namespace}"
    if condition(cr, "Stalled") or condition(cr, "Invalid"):
        step = look
    elif metadata(cr).get("deletionTimestamp"):
        step = "Nothing to do: it goes once its Jobs have ended and its data is cleaned, as its cleanPolicy says."
    elif summary.phase in FAILED:
        step = _after_failure(cr, summary)
    elif condition(cr, "Waiting"):
        step = look
    elif summary.phase in _MOVES:
        step = "Nothing to do: it continues automatically."
    elif next_attempt(cr) or (summary.kind == "CompactBackup" and summary.phase == "RetryFailed"):
        step = "Nothing to do yet: it is tried again. Fix the cause before that, if it is one that stays."
    else:
        step = look
    return step


def _after_failure(cr: Object, summary: Summary) -> str:
    """A failed CR is final. A new one needs no deletion of the old one, which may take data with it."""
    if names.SCHEDULE_LABEL in (metadata(cr).get("labels") or {}) and not summary.endless:
        return "Fix the cause; this one is final. The schedule makes its next run, whatever became of this one."
    step = f"Fix the cause, then create a new {summary.kind} under another name; this one is final."
    if summary.endless:
        step = f"{step} Take a snapshot after it: a restore to a point in time needs one within the new log."
    policy, path = (cr.get("spec") or {}).get("cleanPolicy") or "Retain", (cr.get("status") or {}).get("backupPath")
    if summary.kind == "Backup" and policy != "Retain" and path:
        step = f"{step} Deleting this one deletes what is at {path} (cleanPolicy {policy})."
    return step
