"""A Backup that was rebuilt from its record after its CR, or its whole cluster, was lost: complete from the start, never run.

What is known of the data stands in an annotation, so that the hook alone writes the status, and there is no moment in which
the Backup looks as if it had to be run. ``tidb-backup import-records`` writes the annotation; ``kubectl apply`` can carry it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

import orjson

from app.domain.observed import Object, Observed, metadata
from app.domain.status import Phase, StatusBuilder
from app.domain.times import edited_at, moment, stamp
from crds.contract import durations, names, sizes

REASON: Final = "Imported"


class ImportedError(ValueError):
    """The annotation cannot be read; the text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What the record told: *record* is its URL, *uid* that of the Backup which wrote the data."""

    record: str
    path: str
    uid: str = ""
    commit_ts: str = ""
    size: int | None = None
    started: datetime | None = None
    completed: datetime | None = None

    @classmethod
    def of(cls, backup: Object) -> Self | None:
        """What the annotation of *backup* says; None without one. Raises ImportedError."""
        text = (metadata(backup).get("annotations") or {}).get(names.IMPORTED_ANNOTATION)
        if text is None:
            return None
        try:
            # Of orjson, because what it reads can be written again: no half characters, no endless nesting.
            said = orjson.loads(text)
        except (orjson.JSONDecodeError, TypeError):
            raise ImportedError("is no JSON") from None
        if not isinstance(said, dict) or not isinstance(said.get("path"), str) or not said["path"]:
            raise ImportedError("names no path")
        size = said.get("size")
        if size is not None and (not isinstance(size, int) or not 0 <= size < 2**63):
            raise ImportedError(f"has no size in {str(size)[:40]!r}")
        return cls(
            record=str(said.get("record") or ""),
            path=said["path"],
            uid=str(said.get("uid") or ""),
            commit_ts=str(said.get("commitTs") or ""),
            size=size,
            started=_time(said, "started"),
            completed=_time(said, "completed"),
        )

    def to_text(self) -> str:
        """The annotation's value."""
        told = {
            "record": self.record,
            "path": self.path,
            "uid": self.uid,
            "commitTs": self.commit_ts,
            "size": self.size,
            "started": stamp(self.started) if self.started else None,
            "completed": stamp(self.completed) if self.completed else None,
        }
        return json.dumps({name: value for name, value in told.items() if value not in (None, "")})

    def status(self, received: Mapping[str, Any]) -> dict[str, Any]:
        """The status: complete, at the times of the run itself."""
        builder = StatusBuilder(received)
        taken = self.completed - self.started if self.completed and self.started else None
        builder.put(
            backupPath=self.path,
            commitTs=self.commit_ts,
            backupSize=self.size,
            backupSizeReadable=None if self.size is None else sizes.readable(self.size),
            timeStarted=self.started,
            timeCompleted=self.completed,
            timeTaken=durations.go_text(taken) if taken is not None and taken >= timedelta() else None,
            progress="100%",
        )
        message = f"rebuilt from {self.record}" if self.record else "rebuilt from its record"
        builder.enter(Phase.COMPLETE, at=self.completed, reason=REASON, message=message)
        return builder.done()


def _time(said: Mapping[str, Any], name: str) -> datetime | None:
    time = moment(said.get(name))
    if time is None and said.get(name) is not None:
        raise ImportedError(f"has no time in {name}: {str(said[name])[:40]!r}")
    return time


def status_of(observed: Observed) -> dict[str, Any] | None:
    """The status of an imported Backup, None of any other. A broken annotation makes it ``Invalid``: nothing is run."""
    try:
        found = Imported.of(observed.parent)
    except ImportedError as error:
        builder = StatusBuilder(observed.status)
        rule = f"annotation {names.IMPORTED_ANNOTATION} {error}; correct it, or make the Backup anew with `import-records`"
        builder.enter(Phase.INVALID, at=edited_at(observed.parent), reason="InvalidSpec", message=rule)
        return builder.done()
    return found.status(observed.status) if found else None
