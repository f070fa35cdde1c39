"""Documents that a manager writes and others read: JSON objects with camelCase names, typed by msgspec.

Users' CRs are pydantic's (:mod:`crds.v1alpha1`). What a Job writes is not, for a Job is over sooner when it starts sooner:
importing pydantic costs more than all that a manager does before its tool runs.
"""

from datetime import UTC, datetime
from typing import Any, Final, Self

import msgspec


class WireError(ValueError):
    """The text is no document of the type asked for."""


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every such document and its parts. Fields that it does not know are ignored when read: a newer manager may say
    more, and that is better than losing the whole."""

    def but(self, **changes: Any) -> Self:
        """The same with *changes*."""
        return msgspec.structs.replace(self, **changes)

    def plain(self) -> dict[str, Any]:
        """As JSON's own types, without what is None; times as Kubernetes writes them, RFC 3339 in UTC with whole seconds."""
        found = {}
        for shown, name in zip(self.__struct_encode_fields__, self.__struct_fields__, strict=True):
            if (value := getattr(self, name)) is not None:
                found[shown] = value if type(value) in _SCALARS else _plain(value)
        return found

    def to_line(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self.plain()).decode()

    @classmethod
    def read(cls, data: str | bytes) -> Self:
        """From JSON. Raises WireError, which quotes nothing of *data*."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeError):
            raise WireError(f"no {cls.__name__}") from None


_YEARS: Final = range(1970, 5000)
_MAX_INT: Final = 2**63
_MAX_DEPTH: Final = 32


def utc_time(time: datetime) -> datetime | None:
    """*time* in UTC; None when it has no zone, or lies in a year that no run has.

    >>> utc_time(datetime.fromisoformat("0001-01-01T00:00:00+14:00")) is None
    True
    """
    if time.tzinfo is None:
        return None
    try:
        found = time if time.tzinfo is UTC else time.astimezone(UTC)
    except OverflowError:
        return None
    return found if found.year in _YEARS else None


def representable(value: Any, *, depth: int = _MAX_DEPTH) -> bool:
    """Whether *value*, as JSON decodes it, can stand in a status: integers of 64 bits, and not nested too deep.

    >>> representable({"a": [1, "x", None]}), representable({"a": 2**70})
    (True, False)
    """
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(representable(item, depth=depth - 1) for item in inner)
    return not isinstance(value, int) or -_MAX_INT <= value < _MAX_INT


def utc(time: datetime) -> str:
    """As Kubernetes writes a time.

    >>> utc(datetime.fromisoformat("2026-01-31T02:00:00.5+02:00"))
    '2026-01-31T00:00:00Z'
    """
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_SCALARS: Final = frozenset({str, int, float, bool})
"""Most of every document, and by far the fastest to tell."""


def _plain(value: Any) -> Any:
    match value:
        case Document():
            return value.plain()
        case datetime():
            return utc(value)
        case dict():
            return {key: item if type(item) in _SCALARS else _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [item if type(item) in _SCALARS else _plain(item) for item in value]
        case _:
            return value
