"""TiDB's timestamps (TSO) and the texts that stand for them in a spec.

A TSO is milliseconds since 1970 shifted left by 18 bits, the low bits being a counter. A text without a zone means UTC here;
TiDB Operator reads it in the local zone of whichever process looks, so two of its parts can disagree.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_SHIFT: Final = 18
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LIMIT: Final = 2**64
_DATE: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?"
_ZONE: Final = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_PLAIN: Final = re.compile(rf"{_DATE} {_TIME}", re.ASCII)
_RFC3339: Final = re.compile(rf"{_DATE}T{_TIME}{_ZONE}", re.ASCII)

PATTERN: Final = (
    r"^$|^[0-9]+$|^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?$"
    r"|^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$"
)
"""The forms that :func:`parse` reads, for the CRD schema."""
_HINT: Final = "write a TSO, '2006-01-02 15:04:05' (UTC) or RFC3339 like 2006-01-02T15:04:05+08:00"


class TimestampError(ValueError):
    """A text that is no timestamp; the message says which forms there are."""


def parse(text: str) -> int:
    """The TSO that *text* stands for; the empty text is 0.

    >>> parse(""), parse("400036290571534337"), parse("1970-01-01 00:00:01"), parse("1970-01-01T08:00:01+08:00")
    (0, 400036290571534337, 262144000, 262144000)
    >>> parse("yesterday")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    crds.contract.tso.TimestampError: 'yesterday' is no timestamp; write a TSO, '2006-01-02 15:04:05' (UTC) or RFC3339 ...
    """
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        # Bounded before int(), whose time grows with the square of the digits.
        if len(text) > 100 or int(text) >= _LIMIT:
            raise TimestampError(f"{text[:40]!r} is larger than any TSO; {_HINT}")
        return int(text)
    if not (_PLAIN.fullmatch(text) or _RFC3339.fullmatch(text)):
        raise TimestampError(f"{text[:40]!r} is no timestamp; {_HINT}")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return from_datetime(moment)
    except (ValueError, OverflowError) as error:
        raise TimestampError(f"{text!r} is no timestamp ({error}); {_HINT}") from None


def from_datetime(moment: datetime) -> int:
    """The first TSO of the millisecond of *moment*, which must carry its zone.

    >>> from_datetime(datetime(2026, 1, 31, 2, tzinfo=UTC))
    463948952371200000
    """
    if moment.tzinfo is None:
        raise ValueError("a datetime without a zone cannot be turned into a TSO")
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    if milliseconds < 0:
        raise ValueError("it is before 1970")
    if milliseconds << _SHIFT >= _LIMIT:
        raise ValueError("it is later than any TSO")
    return milliseconds << _SHIFT


def to_datetime(tso: int) -> datetime:
    """The moment of *tso*, in UTC, to the millisecond.

    >>> to_datetime(463948952371200000).isoformat()
    '2026-01-31T02:00:00+00:00'
    """
    if not 0 <= tso < _LIMIT:
        raise ValueError(f"{tso} is no TSO: it must fit 64 bits without a sign")
    return _EPOCH + timedelta(milliseconds=tso >> _SHIFT)


def from_seconds(seconds: int) -> int:
    """The TSO that TiDB Operator computes from whole *seconds*: ``(seconds << 18) * 1000``."""
    return (seconds << _SHIFT) * 1000


def to_seconds(tso: int) -> int:
    """Whole seconds of *tso* as TiDB Operator computes them: ``(tso / 1000) >> 18``, the division first.

    >>> to_seconds(from_seconds(1_700_000_000))
    1700000000
    """
    return tso // 1000 >> _SHIFT


def to_milliseconds(tso: int) -> int:
    """Milliseconds since 1970 of a TSO.

    >>> to_milliseconds(262144000)
    1000
    """
    return tso >> _SHIFT
