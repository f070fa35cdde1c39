"""Sizes: Kubernetes quantities as users write them, and the readable form that statuses show."""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

PATTERN: Final = r"^[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
"""A Kubernetes quantity, for the CRD schema."""
_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"
)
_BINARY: Final = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}
_DECIMAL: Final = {letter: Decimal(1000) ** power for power, letter in enumerate("num", start=-3)} | {
    letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)
}
_LONGEST: Final = 1000
_READABLE: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


class QuantityError(ValueError):
    """A text that is no Kubernetes quantity; the message says what one looks like."""


def parse(text: str) -> Decimal:
    """The exact value of a Kubernetes quantity.

    >>> parse("100Gi"), parse("500m"), parse("1e3"), parse("-1.5k")
    (Decimal('107374182400'), Decimal('0.500'), Decimal('1E+3'), Decimal('-1500.0'))
    >>> parse("100GB")
    Traceback (most recent call last):
    crds.contract.sizes.QuantityError: '100GB' is no quantity; write it like 100Gi, 500M or 0.5
    """
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise QuantityError(f"{text[:40]!r} is no quantity; write it like 100Gi, 500M or 0.5")
    suffix = match["suffix"] or ""
    if suffix[:1] in {"e", "E"} and len(suffix) > 1 and suffix != "Ei":
        exponent = int(suffix[1:])
        if abs(exponent) > 30:
            raise QuantityError(f"{text!r} is out of range; write it like 100Gi, 500M or 0.5")
        return Decimal(match["number"]).scaleb(exponent)
    return Decimal(match["number"]) * (_BINARY.get(suffix) or _DECIMAL.get(suffix) or Decimal(1))


def whole_bytes(text: str) -> int:
    """A quantity in whole bytes, rounded up as Kubernetes rounds.

    >>> whole_bytes("1Ki"), whole_bytes("1500m")
    (1024, 2)
    """
    return int(parse(text).to_integral_value(rounding=ROUND_CEILING))


def readable(size: int) -> str:
    """*size* bytes for people, with the decimal units and the rounding of TiDB Operator's statuses.

    >>> [readable(size) for size in (0, 9, 999, 1000, 5024, 9999, 82854982, 2**40)]
    ['0 B', '9 B', '999 B', '1.0 kB', '5.0 kB', '10 kB', '83 MB', '1.1 TB']
    """
    if size < 0:
        raise ValueError(f"a size cannot be negative: {size}")
    power = min((len(str(size)) - 1) // 3, len(_READABLE) - 1)
    if power == 0:
        return f"{size} B"
    unit = 1000**power
    tenths = (20 * size + unit) // (2 * unit)
    if tenths < 100:
        return f"{tenths // 10}.{tenths % 10} {_READABLE[power]}"
    # Whole numbers come from the tenths, halves to even, as printf rounds them.
    whole, rest = divmod(tenths, 10)
    return f"{whole + (rest > 5 or (rest == 5 and whole % 2 == 1))} {_READABLE[power]}"
