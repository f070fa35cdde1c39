"""Go durations: what is read, what is refused, what is written."""

from datetime import timedelta

import pytest

from crds.contract import durations
from crds.contract.durations import DurationError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("72h", 259200),
        ("300s", 300),
        ("30m", 1800),
        ("1h2m3s", 3723),
        ("2m1h", 3720),
        ("1.5h", 5400),
        (".5m", 30),
        ("5.s", 5),
        ("+10s", 10),
        ("-1m30s", -90),
        ("100ms", 0.1),
        ("7us", 7e-6),
        ("7µs", 7e-6),
        ("7μs", 7e-6),
        ("1500ns", 1e-6),
        ("0.000000001s", 0),
    ],
)
def test_reads_what_go_reads(text: str, seconds: float) -> None:
    assert durations.parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "+", "-", "5", "3d", "1w", "1h 2m", " 1h", "1h ", ".s", "h", "1hh", "1e3s", "--1s", "1 h", "\u0661h"]
)
def test_refuses_what_go_refuses(text: str) -> None:
    with pytest.raises(DurationError, match=r"write it like 72h"):
        durations.parse(text)


def test_refuses_what_go_cannot_hold() -> None:
    assert durations.parse("2562047h") == timedelta(hours=2562047)
    with pytest.raises(DurationError, match="292 years"):
        durations.parse("2562048h")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", timedelta(days=30)),
        ("8w", timedelta(weeks=8)),
        ("1y", timedelta(days=365)),
        ("1d12h30m", timedelta(days=1, hours=12, minutes=30)),
        ("90m", timedelta(minutes=90)),
    ],
)
def test_spans_know_days(text: str, expected: timedelta) -> None:
    assert durations.parse_span(text) == expected


@pytest.mark.parametrize("text", ["-1d", "1mo", "", "d"])
def test_spans_refuse(text: str) -> None:
    with pytest.raises(DurationError, match="write it like 30d"):
        durations.parse_span(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(seconds=1), "1s"),
        (timedelta(seconds=240), "4m0s"),
        (timedelta(hours=100), "100h0m0s"),
        (timedelta(seconds=3723), "1h2m3s"),
        (timedelta(hours=1, milliseconds=1), "1h0m0.001s"),
        (timedelta(milliseconds=1, microseconds=500), "1.5ms"),
        (timedelta(microseconds=999), "999µs"),
        (-timedelta(minutes=1), "-1m0s"),
    ],
)
def test_writes_as_go_writes(duration: timedelta, text: str) -> None:
    assert durations.go_text(duration) == text
