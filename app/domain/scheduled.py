"""What the children of a schedule tell, read in one pass: a schedule may have thousands, and every event sends them all.

Only what decisions need is looked at, nothing is copied. What cannot be read is noted on the item, and stops deletions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from app.domain.observed import Object, Observed, metadata, name_of
from app.domain.retention import Item, State
from app.domain.times import moment
from crds import names, tso

BACKUPS: Final = f"Backup.{names.API_VERSION}"
COMPACTIONS: Final = f"CompactBackup.{names.API_VERSION}"

_ASKED_OF_METADATA: Final = ("name", "namespace", "creationTimestamp", "deletionTimestamp")
_ASKED_OF_STATUS: Final = ("phase", "commitTs", "timeCompleted")

_STATES: Final[Mapping[str, State]] = {
    "Complete": State.COMPLETE,
    "Failed": State.FAILED,
    "Invalid": State.FAILED,
}
"""By phase; anything else counts as running, which is never deleted."""


@dataclass(slots=True, kw_only=True)
class Children:
    """The Backups and compactions of a schedule.

    *items* are its snapshots and exports, *newest_slot* the newest run that any Backup was made for. *log* is its log
    backup, one that is not being deleted if there is one. *oldest_commit* is the least TSO that a complete Backup may have
    been taken at, *commits* the known ones; None and empty while there are none.
    """

    items: list[Item] = field(default_factory=list)
    newest_slot: datetime | None = None
    newest_name: str = ""
    log: Object | None = None
    oldest_commit: int | None = None
    commits: list[int] = field(default_factory=list)
    compactions: list[Object] = field(default_factory=list)

    @property
    def running(self) -> list[str]:
        """Names of the Backups that are under way, sorted."""
        return sorted(item.name for item in self.items if item.state is State.RUNNING)

    @property
    def newest_success(self) -> Item | None:
        """The complete Backup with the newest data."""
        return max((item for item in self.items if item.state is State.COMPLETE), key=lambda item: item.time, default=None)


def is_log(backup: Object) -> bool:
    """Whether *backup* is a log backup."""
    return (backup.get("spec") or {}).get("backupMode") == "log"


def lean(child: Object) -> Object:
    """*child* without what no decision on its schedule looks at: of a snapshot eight fields count, and thousands of them are
    to stay in the processor's cache. A log backup or a compaction stays whole, and so does what is no sound object.
    """
    meta, spec, status = child.get("metadata"), child.get("spec") or {}, child.get("status") or {}
    if child.get("kind") != "Backup" or not (isinstance(meta, dict) and isinstance(spec, dict) and isinstance(status, dict)):
        return child
    annotations = meta.get("annotations") or {}
    if spec.get("backupMode") == "log" or not isinstance(annotations, dict):
        return child
    kept = {key: meta[key] for key in _ASKED_OF_METADATA if key in meta}
    if names.SLOT_ANNOTATION in annotations:
        kept["annotations"] = {names.SLOT_ANNOTATION: annotations[names.SLOT_ANNOTATION]}
    return {"metadata": kept, "status": {key: status[key] for key in _ASKED_OF_STATUS if key in status}}


def state_of(backup: Object) -> State:
    """What *backup* is to retention, leaving aside where it came from."""
    if metadata(backup).get("deletionTimestamp"):
        return State.DELETING
    return _STATES.get((backup.get("status") or {}).get("phase") or "", State.RUNNING)


def _slot(name: str, annotations: Mapping[str, Any]) -> tuple[datetime | None, str]:
    """The run that a Backup was made for, and what is wrong with it."""
    text = annotations.get(names.SLOT_ANNOTATION)
    if text is None:
        return names.slot_time(name), ""  # made by TiDB Operator: the name alone tells
    slot = moment(text)
    return slot, "" if slot else f"annotation {names.SLOT_ANNOTATION} {str(text)[:40]!r} is no time"


def _time(status: Mapping[str, Any], created: datetime | None) -> tuple[datetime | None, int, str]:
    """The age that counts, the TSO behind it or 0, and what cannot be read."""
    if commit := status.get("commitTs"):
        try:
            if timestamp := tso.parse(commit):
                return tso.to_datetime(timestamp), timestamp, ""
        except (ValueError, TypeError, AttributeError):
            return created, 0, f"status.commitTs {str(commit)[:40]!r} is no TSO"
    if completed := status.get("timeCompleted"):
        time = moment(completed)
        return time or created, 0, "" if time else f"status.timeCompleted {str(completed)[:40]!r} is no time"
    return created, 0, "" if created else "metadata.creationTimestamp is missing or no time"


def _item(backup: Object, epoch: datetime) -> tuple[Item, int]:
    """*backup* as retention sees it, and its TSO. *epoch* stands in where no time can be read."""
    meta = metadata(backup)
    name = str(meta.get("name") or "")
    created = moment(meta.get("creationTimestamp"))
    time, commit, unreadable = _time(backup.get("status") or {}, created)
    slot, wrong = _slot(name, meta.get("annotations") or {})
    state = state_of(backup)
    if slot is None and not wrong and state is not State.DELETING:
        state = state if state is State.RUNNING else State.FOREIGN
    return Item(name, state, time or epoch, slot, created, unreadable or wrong), commit


def read(observed: Observed, *, epoch: datetime) -> Children:
    """The children of the observed schedule, which was created at *epoch*."""
    children = Children(compactions=list((observed.children.get(COMPACTIONS) or {}).values()))
    for backup in (observed.children.get(BACKUPS) or {}).values():
        if is_log(backup):
            children.log = _better_log(children.log, backup)
            continue
        item, commit = _item(backup, epoch)
        children.items.append(item)
        if item.slot and (children.newest_slot is None or item.slot > children.newest_slot):
            children.newest_slot, children.newest_name = item.slot, item.name
        if item.state is State.COMPLETE:
            _note_commit(children, item, commit)
    return children


def _note_commit(children: Children, item: Item, commit: int) -> None:
    if commit:
        children.commits.append(commit)
    # Without a TSO of its own a Backup was taken after its object was made, never before.
    least = commit or tso.from_datetime(item.created or item.time)
    if children.oldest_commit is None or least < children.oldest_commit:
        children.oldest_commit = least


def _better_log(known: Object | None, found: Object) -> Object:
    """Of two log backups the one that is not being deleted, else the younger."""

    def rank(backup: Object) -> tuple[bool, str, str]:
        meta = metadata(backup)
        return not meta.get("deletionTimestamp"), str(meta.get("creationTimestamp") or ""), name_of(backup)

    return found if known is None or rank(found) > rank(known) else known


def group_running(related: Iterable[Object], own: Iterable[str]) -> list[str]:
    """Names of the Backups of a schedule group, other than the schedule's *own*, that are under way."""
    mine = set(own)
    return sorted(
        name_of(backup)
        for backup in related
        if name_of(backup) not in mine and not is_log(backup) and state_of(backup) is State.RUNNING
    )
