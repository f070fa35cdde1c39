"""TSOs and the texts that stand for them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from crds.contract import tso
from crds.contract.tso import TimestampError

NINE_TWENTYONE = tso.from_datetime(datetime(2022, 10, 10, 9, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("0", 0),
        ("18446744073709551615", 2**64 - 1),
        ("2022-10-10 09:21:00", NINE_TWENTYONE),
        ("2022-10-10T09:21:00Z", NINE_TWENTYONE),
        ("2022-10-10T17:21:00+08:00", NINE_TWENTYONE),
        ("2022-10-10T09:21:00.5Z", NINE_TWENTYONE + (500 << 18)),
    ],
)
def test_reads_the_forms_of_the_reference(text: str, expected: int) -> None:
    assert tso.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "-1",
        "+1",
        "1.5",
        "18446744073709551616",
        "9" * 5000,
        "١٢",
        " 1",
        "2022-10-10",
        "2022-10-10T09:21:00",
        "2022-10-10 09:21",
        "2022-10-10 09:21:00Z",
        "2022-10-10T09:21:00+0800",
        "2022-02-30 00:00:00",
        "2022-13-01 00:00:00",
        "2022-01-01 24:00:00",
        "1969-12-31 23:59:59",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_refuses_the_rest_with_the_forms(text: str) -> None:
    with pytest.raises(TimestampError, match="write a TSO"):
        tso.parse(text)


def test_a_datetime_needs_its_zone() -> None:
    with pytest.raises(ValueError, match="zone"):
        tso.from_datetime(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test
    east = datetime(2026, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    assert tso.from_datetime(east) == tso.from_datetime(datetime(2026, 1, 1, tzinfo=UTC))


def test_back_to_a_datetime() -> None:
    assert tso.to_datetime(400036290571534337) == datetime(2018, 5, 11, 5, 42, 23, 794000, tzinfo=UTC)
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="no TSO"):
            tso.to_datetime(wrong)


def test_seconds_as_tidb_operator_counts_them() -> None:
    assert tso.from_seconds(1) == (1 << 18) * 1000
    assert tso.to_seconds(tso.from_seconds(1_700_000_000)) == 1_700_000_000
