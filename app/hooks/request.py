"""From the bytes of a hook request (wire format v2) to :class:`Observed`, or a refusal in one line.

Everything that is not sound is refused with 4xx: Metacontroller then touches nothing and says why in an Event. A 200 would
be obeyed, and the answer to half a request can delete every child.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from app.domain.observed import Object, Observed
from app.hooks.pieces import Body, NotJSON

KINDS: Final[Mapping[str, str]] = {
    "backup": "Backup",
    "restore": "Restore",
    "backupschedule": "BackupSchedule",
    "compactbackup": "CompactBackup",
}
"""Kind of the parent, by the name in the URL."""


_UID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
"""The API server's; it becomes part of the path of an export."""


class RequestError(Exception):
    """A request that cannot be answered; *status* is 4xx or 503, the text one line that may stand in an Event."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def decode(body: Body) -> dict[str, Any]:
    """The JSON object in *body*. Raises RequestError."""
    if not body.size:
        raise RequestError(400, "the request body is empty; POST a JSON object as Metacontroller does")
    try:
        document = body.value()
    except NotJSON as error:
        raise RequestError(400, f"the request body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise RequestError(422, "the request body is no JSON object; an object with parent is needed")
    return document


def parent(document: Mapping[str, Any], path: str) -> Object:
    """``parent`` of a request for the kind *path*. Raises RequestError."""
    found = document.get("parent")
    if not isinstance(found, dict):
        raise RequestError(422, "field parent is missing or no object")
    kind, expected = found.get("kind"), KINDS[path]
    if kind is not None and kind != expected:
        raise RequestError(422, f"field parent.kind is {str(kind)[:40]!r}, but this path is for {expected}")
    for field in ("metadata", "spec", "status"):
        if not isinstance(found.get(field) or {}, dict):
            raise RequestError(422, f"field parent.{field} is no object")
    meta = found.get("metadata") or {}
    if not isinstance(meta.get("name"), str) or not meta["name"]:
        raise RequestError(422, "field parent.metadata.name is missing")
    if (uid := meta.get("uid")) is not None and not (isinstance(uid, str) and _UID.fullmatch(uid)):
        raise RequestError(422, "field parent.metadata.uid is no uid")
    for field in ("labels", "annotations"):
        if not isinstance(meta.get(field) or {}, dict):
            raise RequestError(422, f"field parent.metadata.{field} is no object")
    return found


def observed(document: Mapping[str, Any], path: str, *, finalize: bool) -> Observed:
    """A sync or finalize request for the kind *path*. Raises RequestError."""
    cr = parent(document, path)
    finalizing = document.get("finalizing") or False
    if finalizing is not True and (finalize or finalizing is not False):
        raise RequestError(422, "field finalizing is not true; Metacontroller says so when it asks for finalize")
    children = document.get("children")
    _check_objects(children, "children")
    related = document.get("related") or {}
    _check_objects(related, "related")
    return Observed(parent=cr, children=children or {}, related=related, finalizing=finalizing)


def _check_objects(groups: object, field: str) -> None:
    """*groups* must be a map of ``Kind.group/version`` to a map of ``namespace/name`` to object, each with its name."""
    if not isinstance(groups, dict):
        raise RequestError(422, f"field {field} is missing or no object")
    for kind, group in groups.items():
        if not isinstance(group, dict):
            raise RequestError(422, f"field {field}[{kind[:80]!r}] is no object")
        for key, item in group.items():
            meta = item.get("metadata") if isinstance(item, dict) else None
            name = meta.get("name") if isinstance(meta, dict) else None
            if not isinstance(name, str) or not name or (name != key and not key.endswith(f"/{name}")):
                raise RequestError(422, f"field {field}[{kind[:80]!r}][{key[:80]!r}] is no object of that name")
