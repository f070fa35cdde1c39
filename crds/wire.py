"""Documents that a manager writes and others read: JSON objects with camelCase names, typed by msgspec.

Users' CRs are pydantic's (:mod:`crds.v1alpha1`). What a Job writes is not, for a Job is over sooner when it starts sooner:
importing pydantic costs more than all that a manager does before its tool runs.
"""

from datetime import UTC, datetime
from typing import Any, Self

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
        pairs = zip(self.__struct_encode_fields__, self.__struct_fields__, strict=True)
        values = ((shown, getattr(self, name)) for shown, name in pairs)
        return {shown: _plain(value) for shown, value in values if value is not None}

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


def utc(time: datetime) -> str:
    """As Kubernetes writes a time.

    >>> utc(datetime.fromisoformat("2026-01-31T02:00:00.5+02:00"))
    '2026-01-31T00:00:00Z'
    """
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(value: Any) -> Any:
    match value:
        case Document():
            return value.plain()
        case datetime():
            return utc(value)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
