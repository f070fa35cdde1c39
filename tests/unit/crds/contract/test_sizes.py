"""Kubernetes quantities and readable sizes."""

from decimal import Decimal

import pytest

from crds.contract import sizes
from crds.contract.sizes import QuantityError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("100", 100),
        ("+1", 1),
        ("-1", -1),
        ("1.", 1),
        (".5", "0.5"),
        ("500m", "0.5"),
        ("1n", "1e-9"),
        ("1u", "1e-6"),
        ("1k", 1000),
        ("1M", 10**6),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("1e3", 1000),
        ("12E-1", "1.2"),
        ("5e+2", 500),
    ],
)
def test_reads_quantities(text: str, value: int | str) -> None:
    assert sizes.parse(text) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "Gi", "1GB", "1 Gi", "1ki", "1K", "1Gi ", "0x10", "1e", "1e1.5", ".", "--1", "\u0661", "1e999999999"]
)
def test_refuses_the_rest(text: str) -> None:
    with pytest.raises(QuantityError, match="write it like 100Gi"):
        sizes.parse(text)


def test_bytes_round_up() -> None:
    assert sizes.whole_bytes("1.2") == 2
    assert sizes.whole_bytes("100Gi") == 100 * 2**30


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (5024, "5.0 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (9999, "10 kB"),
        (10_500, "10 kB"),
        (11_500, "12 kB"),
        (638_000, "638 kB"),
        (999_999, "1000 kB"),
        (10**6, "1.0 MB"),
        (82_854_982, "83 MB"),
        (1_234_567_890, "1.2 GB"),
        (2**40, "1.1 TB"),
        (2**63 - 1, "9.2 EB"),
    ],
)
def test_readable_as_tidb_operator_writes(size: int, text: str) -> None:
    assert sizes.readable(size) == text


def test_no_negative_sizes() -> None:
    with pytest.raises(ValueError, match="negative"):
        sizes.readable(-1)
