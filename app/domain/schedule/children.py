"""What the children of a schedule tell, read in one pass: a schedule may have thousands, and every event sends them all.

Only what decisions need is looked at, nothing is copied. What cannot be read is noted on the item, and stops deletions.

A child counts only if the schedule made it: the owner reference that controls it names the schedule's uid, its name is the
one that its slot gives, and it was not created before that slot came. Metacontroller adopts whatever carries our label, so a
copy of a Backup that somebody applied under another name is a child too. Such a child is kept, and counts for nothing.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from app.domain.observed import Object, Observed, controlled_by, controller_of, metadata, name_of, part
from app.domain.schedule.clock import TOLERANCE
from app.domain.schedule.retention import Item, State
from app.domain.times import moment, stamp
from crds.contract import names, tso

BACKUPS: Final = f"Backup.{names.API_VERSION}"
COMPACTIONS: Final = f"CompactBackup.{names.API_VERSION}"

_ASKED_OF_METADATA: Final = ("name", "namespace", "creationTimestamp", "deletionTimestamp")
_SLOT_FORM: Final = "0000-00-00t00-00-00"
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

    *items* are its snapshots and exports, and what only came under it (``FOREIGN``); *newest* is that of the newest run. *log*
    is its log backup, one that is not being deleted if there is one. *oldest_commit* is the least TSO that a complete Backup
    may have been taken at, *commits* the known ones; None and empty while there are none. *compactions* are its own, *taken*
    the names that are in use among all.
    """

    items: list[Item] = field(default_factory=list)
    newest: Item | None = None
    log: Object | None = None
    oldest_commit: int | None = None
    commits: list[int] = field(default_factory=list)
    compactions: list[Object] = field(default_factory=list)
    taken: frozenset[str] = frozenset()

    @property
    def running(self) -> list[str]:
        """Names of the Backups that are under way, sorted."""
        return sorted(item.name for item in self.items if item.state is State.RUNNING)

    @property
    def newest_success(self) -> Item | None:
        """The complete Backup with the newest data."""
        return max((item for item in self.items if item.state is State.COMPLETE), key=lambda item: item.time, default=None)

    def newest_until(self, time: datetime) -> Item | None:
        """The Backup of the newest run that is not after *time*."""
        if self.newest is None or self.newest.slot is None or self.newest.slot <= time:
            return self.newest
        past = ((item.slot, item) for item in self.items if item.slot and item.slot <= time)
        return max(past, key=lambda pair: pair[0], default=(None, None))[1]

    def foreign(self, name: str) -> bool:
        """Whether a child that the schedule did not make has *name*."""
        return any(item.name == name and item.state is State.FOREIGN for item in self.items)


def is_log(backup: Object) -> bool:
    """Whether *backup* is a log backup."""
    return part(backup, "spec").get("backupMode") == "log"


def lean(child: Object) -> Object:
    """*child* without what no decision on its schedule looks at: of a snapshot nine fields count, and thousands of them are
    to stay in the processor's cache. A log backup or a compaction stays whole, and so does what is no sound object.
    """
    meta, spec, status = child.get("metadata"), child.get("spec") or {}, child.get("status") or {}
    if child.get("kind") != "Backup" or not (isinstance(meta, dict) and isinstance(spec, dict) and isinstance(status, dict)):
        return child
    annotations = meta.get("annotations") or {}
    if spec.get("backupMode") == "log" or not isinstance(annotations, dict):
        return child
    kept = {key: meta[key] for key in _ASKED_OF_METADATA if key in meta}
    if uid := controller_of(meta):
        kept["ownerReferences"] = _owner(uid)
    if names.SLOT_ANNOTATION in annotations:
        kept["annotations"] = {names.SLOT_ANNOTATION: annotations[names.SLOT_ANNOTATION]}
    return {"metadata": kept, "status": {key: status[key] for key in _ASKED_OF_STATUS if key in status}}


@lru_cache(maxsize=256)
def _owner(uid: str) -> list[dict[str, Any]]:
    """What is kept of owner references: thousands of children share one."""
    return [{"controller": True, "uid": sys.intern(uid)}]


def state_of(backup: Object) -> State:
    """What *backup* is to retention, leaving aside where it came from."""
    if metadata(backup).get("deletionTimestamp"):
        return State.DELETING
    phase = part(backup, "status").get("phase")
    return _STATES.get(phase, State.RUNNING) if isinstance(phase, str) else State.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """What tells the children that the schedule made: its uid, and how their names begin."""

    uid: str
    prefixes: tuple[str, ...]
    owner: list[dict[str, Any]]
    """What :func:`lean` leaves of the owner references of this schedule's children: one list for all of them."""

    def slot(self, name: str, meta: Mapping[str, Any], created: datetime | None) -> tuple[datetime | None, str]:
        """The run that the Backup *name* was made for; else None, and why it is none of the schedule's."""
        if meta.get("ownerReferences") is not self.owner and not controlled_by(meta, self.uid):
            return None, "its owner is not this schedule"
        end = ""
        for prefix in self.prefixes:
            if name.startswith(prefix):
                end = name[len(prefix) :]
                break
        annotations = meta.get("annotations")
        text = annotations.get(names.SLOT_ANNOTATION) if isinstance(annotations, dict) else None
        # Made by TiDB Operator, there is no annotation: the name alone tells.
        slot = moment(text) if text is not None else names.slot_time(end)
        if len(end) != len(_SLOT_FORM) or (slot is None and text is None):
            return None, "its name is not one that this schedule gives"
        if slot is None:
            return None, f"annotation {names.SLOT_ANNOTATION} {str(text)[:40]!r} is no time"
        # Times are written as the API server writes them, so the name is the text in small letters, and need not be made anew.
        if (text is None or text.lower().replace(":", "-") != f"{end}z") and end != names.slot_text(slot):
            return None, f"its name is not that of the run in annotation {names.SLOT_ANNOTATION}, {stamp(slot)}"
        if created and slot > created and slot > created + TOLERANCE:
            return None, f"it was created before the run of {stamp(slot)}"
        return slot, ""


def _maker(observed: Observed) -> _Maker:
    return _Maker(uid=observed.uid, prefixes=names.slot_prefixes(observed.name), owner=_owner(observed.uid))


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


def _item(backup: Object, maker: _Maker, epoch: datetime) -> tuple[Item, int]:
    """*backup* as retention sees it, and its TSO. *epoch* stands in where no time can be read."""
    meta = metadata(backup)
    name = str(meta.get("name") or "")
    created = moment(meta.get("creationTimestamp"))
    time, commit, unreadable = _time(part(backup, "status"), created)
    slot, foreign = maker.slot(name, meta, created)
    state = state_of(backup)
    if foreign:
        state = state if state is State.DELETING else State.FOREIGN
        return Item(name, state, time or epoch, None, created, foreign=foreign), 0
    return Item(name, state, time or epoch, slot, created, unreadable), commit


def read(observed: Observed, *, epoch: datetime) -> Children:
    """The children of the observed schedule, which was created at *epoch*."""
    maker = _maker(observed)
    compactions = observed.children.get(COMPACTIONS) or {}
    own = _own_compaction(observed.name)
    children = Children(taken=frozenset(map(name_of, compactions.values())))
    children.compactions += [
        item for item in compactions.values() if own.fullmatch(name_of(item)) and controlled_by(metadata(item), maker.uid)
    ]
    logs = _log_names(observed)
    for backup in (observed.children.get(BACKUPS) or {}).values():
        if is_log(backup) and name_of(backup) in logs and controlled_by(metadata(backup), maker.uid):
            children.log = _better_log(children.log, backup)
            continue
        item, commit = _item(backup, maker, epoch)
        children.items.append(item)
        if item.slot and (children.newest is None or children.newest.slot is None or item.slot > children.newest.slot):
            children.newest = item
        if item.state is State.COMPLETE:
            _note_commit(children, item, commit)
    return children


def log_name(schedule: str) -> str:
    """Name of a schedule's log Backup, as TiDB Operator's, shortened when its label would not fit.

    >>> log_name("nightly")
    'log-nightly'
    """
    return names.fit(f"log-{schedule}")


def _log_names(observed: Observed) -> frozenset[str]:
    """What the schedule's log backup may be called: ours, TiDB Operator's, or as the schedule noted when it made it."""
    noted = observed.status.get("logBackup")
    return frozenset({log_name(observed.name), f"log-{observed.name}", noted if isinstance(noted, str) else ""})


def compaction_name(schedule: str) -> str:
    """How the names of a schedule's compactions begin; the beginning of the stretch follows."""
    return names.fit(f"compact-{schedule}", names.LABEL_LIMIT - len(f"-{_SLOT_FORM}-r99"))


def _own_compaction(schedule: str) -> re.Pattern[str]:
    starts = "|".join(re.escape(start) for start in (compaction_name(schedule), f"compact-{schedule}"))
    digits = _SLOT_FORM.replace("0", "[0-9]")
    return re.compile(rf"(?:{starts})-{digits}(?:-r[0-9]{{1,9}})?", re.ASCII)


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
