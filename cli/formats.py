"""Times, ages and sizes as people read them. In a table a value stays what it is until it is written."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Self

from crds.contract import sizes


def when(time: datetime) -> str:
    """A time in UTC, to the second.

    >>> from datetime import UTC
    >>> when(datetime(2026, 1, 31, 2, 0, tzinfo=UTC))
    '2026-01-31 02:00:00Z'
    """
    return f"{time:%Y-%m-%d %H:%M:%S}Z"


def local(time: datetime) -> str:
    """A time on its own clock, with the weekday and the distance to UTC.

    >>> from datetime import UTC
    >>> local(datetime(2026, 1, 31, 2, 0, tzinfo=UTC))
    'Sat 2026-01-31 02:00 +0000'
    """
    return f"{time:%a %Y-%m-%d %H:%M %z}" if time.second == 0 else f"{time:%a %Y-%m-%d %H:%M:%S %z}"


def age(span: timedelta) -> str:
    """How long, in the two largest units at most.

    >>> [age(timedelta(seconds=s)) for s in (0, 59, 61, 7200, 7260, 90000, 864000, -90)]
    ['0s', '59s', '1m1s', '2h', '2h1m', '25h', '10d', '-1m30s']
    """
    seconds = int(abs(span).total_seconds())
    sign = "-" if span < timedelta() and seconds else ""
    days, hours = seconds // 86_400, seconds // 3600
    if days >= 3:
        return f"{sign}{days}d"
    units = ((hours, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"))
    parts = [f"{value}{unit}" for value, unit in units if value]
    if hours >= 24:
        parts = parts[:1]
    return sign + "".join(parts[:2]) if parts else "0s"


class Bytes(int):
    """A size in a table: readable for people, the number itself in CSV."""

    @classmethod
    def of(cls, value: int | None) -> Self | None:
        """*value*, if there is one."""
        return None if value is None else cls(value)

    def __str__(self) -> str:
        """As statuses show it."""
        return sizes.readable(int(self))


def size(value: int | None) -> str | None:
    """Bytes, as statuses show them."""
    return sizes.readable(value) if value is not None else None


def size_of(status: Mapping[str, Any]) -> int | None:
    """``backupSize`` of a Backup's status."""
    value = status.get("backupSize")
    return value if isinstance(value, int) and value >= 0 else None


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "Backup"), count(0, "Backup")
    ('1 Backup', '0 Backups')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
