"""Durations as Go writes them, because that is what the CRDs of TiDB Operator hold (``72h``, ``300s``, ``1h30m``).

Go's units end at the hour. Fields of our own, where nobody expects Go, may also say days, weeks and years: :func:`parse_span`.
"""

import re
from datetime import timedelta
from typing import Final

_NANOSECOND: Final = 1
_MICROSECOND: Final = 1_000
_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND
_GO_UNITS: Final = {
    "ns": _NANOSECOND,
    "us": _MICROSECOND,
    "µs": _MICROSECOND,
    "μs": _MICROSECOND,
    "ms": 1_000_000,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": _HOUR,
}
_SPAN_UNITS: Final = _GO_UNITS | {"d": 24 * _HOUR, "w": 7 * 24 * _HOUR, "y": 365 * 24 * _HOUR}
_LIMIT: Final = 2**63 - 1
"""Go holds a duration in an int64 of nanoseconds: about 292 years."""
_DIGITS: Final = 1000
"""More make a number that no duration can hold; Python refuses to read one of thousands."""
_TERM: Final = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>[a-zµμ]+)")

PATTERN: Final = (
    r"^$|^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*)$"
)
"""What :func:`parse` reads (and the empty text), for the CRD schema."""
SPAN_PATTERN: Final = r"^([0-9]+(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h|d|w|y))+$"
"""What :func:`parse_span` reads, for the CRD schema."""


class DurationError(ValueError):
    """A text that is no duration; the message says what one looks like."""


def parse(text: str) -> timedelta:
    """The duration that Go's ``time.ParseDuration`` reads in *text*, to the microsecond.

    >>> parse("1h30m"), parse("300s"), parse("1.5h"), parse("-2m"), parse("0")
    (datetime.timedelta(seconds=5400), datetime.timedelta(seconds=300), datetime.timedelta(seconds=5400), \
datetime.timedelta(days=-1, seconds=86280), datetime.timedelta(0))
    >>> parse("3d")
    Traceback (most recent call last):
    crds.contract.durations.DurationError: '3d' is no duration; write it like 72h, 90m or 1h30m (h, m, s, ms, us, ns)
    """
    return _read(text, _GO_UNITS, "write it like 72h, 90m or 1h30m (h, m, s, ms, us, ns)")


def parse_span(text: str) -> timedelta:
    """A duration that is not negative and may also count days, weeks and years of 365 days; ``m`` is always minutes.

    >>> parse_span("30d"), parse_span("1w12h")
    (datetime.timedelta(days=30), datetime.timedelta(days=7, seconds=43200))
    """
    hint = "write it like 30d, 8w, 1y or 36h (y, w, d, h, m, s)"
    span = _read(text, _SPAN_UNITS, hint)
    if span < timedelta():
        raise DurationError(f"{text!r} is negative; {hint}")
    return span


def _read(text: str, units: dict[str, int], hint: str) -> timedelta:
    negative, rest = text[:1] == "-", text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return timedelta()
    total, position = 0, 0
    while match := _TERM.match(rest, position):
        whole, fraction, unit = match["whole"], match["fraction"] or "", units.get(match["unit"])
        if unit is None or not (whole or fraction):
            break
        if len(whole) + len(fraction) > _DIGITS:
            raise DurationError(f"{text[:40]!r}... has too many digits; {hint}")
        total += int(whole or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        position = match.end()
    if not rest or position != len(rest):
        raise DurationError(f"{text!r} is no duration; {hint}")
    if total > _LIMIT:
        raise DurationError(f"{text!r} is longer than the 292 years a duration can hold; {hint}")
    microseconds = total // _MICROSECOND
    return timedelta(microseconds=-microseconds if negative else microseconds)


def go_text(duration: timedelta) -> str:
    """*duration* as Go prints it.

    >>> [go_text(timedelta(seconds=s)) for s in (3723, 240, 0, 1.5, -60)]
    ['1h2m3s', '4m0s', '0s', '1.5s', '-1m0s']
    >>> go_text(timedelta(milliseconds=20)), go_text(timedelta(microseconds=7))
    ('20ms', '7µs')
    """
    total = duration // timedelta(microseconds=1)
    if total == 0:
        return "0s"
    sign, total = ("-", -total) if total < 0 else ("", total)
    if total < 1_000:
        return f"{sign}{total}µs"
    if total < 1_000_000:
        return f"{sign}{_decimal(total, 1_000)}ms"
    minutes, rest = divmod(total, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest, 1_000_000)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _decimal(value: int, unit: int) -> str:
    """*value* / *unit* without trailing zeros."""
    whole, rest = divmod(value, unit)
    fraction = str(rest).zfill(len(str(unit)) - 1).rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
