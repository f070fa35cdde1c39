"""Laws of the contract's texts: what is written reads back, and both readers of a text agree."""

import re
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crds import yaml_text
from crds.contract import durations, sizes, tso
from crds.v1alpha1 import KINDS, spec_problems

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["yes", "1e3", "0x1", "- a", "a: b", "#", "~", "=", "a #b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.lists(st.sampled_from(["word", "a:", "#b", "it's", '"q"', "-", "<x>", "é", "%s"]), min_size=1, max_size=60)


@given(st.timedeltas(min_value=timedelta(days=-90000), max_value=timedelta(days=90000)))
def test_a_duration_reads_back(duration: timedelta) -> None:
    text = durations.go_text(duration)
    assert durations.parse(text) == duration
    assert re.fullmatch(durations.PATTERN, text)


@given(st.from_regex(re.compile(durations.PATTERN, re.ASCII), fullmatch=True))
def test_the_schema_lets_no_wrong_duration_through(text: str) -> None:
    if text.strip("\n") == text and text:
        try:
            durations.parse(text)
        except durations.DurationError as error:
            assert "292 years" in str(error)  # noqa: PT017 - the one thing a pattern cannot say


@given(st.from_regex(re.compile(sizes.PATTERN, re.ASCII), fullmatch=True))
def test_the_schema_lets_no_wrong_quantity_through(text: str) -> None:
    if text.strip("\n") == text:
        try:
            sizes.parse(text)
        except sizes.QuantityError as error:
            assert "out of range" in str(error)  # noqa: PT017 - the one thing a pattern cannot say


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_readable_sizes_never_mislead_by_more_than_their_digits(size: int) -> None:
    number, unit = sizes.readable(size).split()
    shown = float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB", "PB", "EB"].index(unit)
    assert shown == pytest.approx(size, rel=0.051, abs=0)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_and_its_tso_agree(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    stamp = tso.from_datetime(whole)
    assert tso.to_datetime(stamp) == whole
    assert tso.parse(whole.strftime("%Y-%m-%d %H:%M:%S")) == tso.parse(whole.isoformat()) == tso.parse(str(stamp)) == stamp
    for text in (str(stamp), whole.isoformat(), whole.strftime("%Y-%m-%d %H:%M:%S")):
        assert re.fullmatch(tso.PATTERN, text)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_words(text: str) -> None:
    for parse, error in (
        (durations.parse, durations.DurationError),
        (durations.parse_span, durations.DurationError),
        (sizes.parse, sizes.QuantityError),
        (tso.parse, tso.TimestampError),
    ):
        try:
            parse(text)
        except error as refusal:
            assert "write" in str(refusal)  # noqa: PT017 - either is fine, silence is not


@given(st.dictionaries(st.text(), PLAIN, min_size=1, max_size=5))
def test_yaml_reads_back(data: dict[str, object]) -> None:
    assert yaml.safe_load(yaml_text.dump(data)) == data


@given(WORDS)
def test_folded_yaml_reads_back(words: list[str]) -> None:
    data = {"a": {"description": " ".join(words)}, "list": [{"x": " ".join(words)}]}
    assert yaml.safe_load(yaml_text.dump(data)) == data


@given(st.sampled_from(sorted(KINDS)), st.dictionaries(st.sampled_from(["br", "s3", "from", "env", "schedule", "x"]), PLAIN))
def test_any_spec_is_answered(kind: str, spec: dict[str, object]) -> None:
    problems = spec_problems(kind, spec)
    assert problems == sorted(problems)
    assert all(problem.field.startswith("spec") and problem.rule for problem in problems)
