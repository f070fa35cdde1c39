"""Times as Kubernetes writes them (RFC3339, UTC, whole seconds), read and written in one place."""

from datetime import UTC, datetime
from typing import Final

from app.domain.observed import Object, items, metadata, part

_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 4999
"""Beyond these a TSO cannot hold the time, and adding the longest duration to it would leave the calendar."""


def moment(value: object) -> datetime | None:
    """The time in a field of a Kubernetes object; None when it is absent, no time with a zone, or in a year that no backup
    has.

    >>> moment("2026-01-31T02:00:00Z")
    datetime.datetime(2026, 1, 31, 2, 0, tzinfo=datetime.timezone.utc)
    >>> moment(None) is moment("soon") is moment("0001-01-01T00:00:00+14:00") is None
    True
    """
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
        if parsed.tzinfo is None:
            return None
        time = parsed if parsed.tzinfo is UTC else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if _FIRST_YEAR <= time.year <= _LAST_YEAR else None


def stamp(value: datetime) -> str:
    """*value* (aware) as Kubernetes writes it.

    >>> stamp(datetime(2026, 1, 31, 2, 0, 0, 999, tzinfo=UTC))
    '2026-01-31T02:00:00Z'
    """
    # Several times as fast as strftime, and every sync writes a few.
    return f"{value.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()}Z"


def _writes(obj: Object, *, status: bool) -> list[datetime]:
    """When the API server took in what somebody wrote to *obj*, or to its status, as the managed fields tell."""
    entries = items(metadata(obj).get("managedFields"))
    written = [moment(entry.get("time")) for entry in entries if (entry.get("subresource") == "status") is status]
    return [time for time in written if time]


def status_written_at(obj: Object) -> datetime | None:
    """When the status of *obj* last changed, as its managed fields tell; None when they do not."""
    return max(_writes(obj, status=True), default=None)


def edited_at(obj: Object) -> datetime | None:
    """When somebody last wrote *obj* other than its status, as its managed fields tell, else when it was created.

    The time of a condition that no Job stands behind (``Invalid``, ``Waiting``): a fact of the object, not of our clock.
    """
    return max(_writes(obj, status=False), default=moment(metadata(obj).get("creationTimestamp")))


def last_edit(obj: Object) -> datetime | None:
    """As :func:`edited_at`, but None where no managed field tells."""
    return max(_writes(obj, status=False), default=None)


def witnessed(obj: Object) -> datetime | None:
    """The newest time on the API server's clock that *obj* proves: that of the last write to its status, which is ours and
    moves on with each; before the first, of any write. None where no managed field tells: a dry run from a file.

    Only the entry of the field manager that wrote ``status.clockCheck`` counts, where there is one: that of another may be of a
    time when the API server's clock was wrong, and nobody renews it.
    """
    ours = [
        entry
        for entry in items(metadata(obj).get("managedFields"))
        if "f:clockCheck" in part(part(entry, "fieldsV1"), "f:status")
    ]
    times = [moment(entry.get("time")) for entry in ours if entry.get("subresource") == "status"]
    own = [time for time in times if time]
    return max(own or _writes(obj, status=True) or _writes(obj, status=False), default=None)
