"""Label selectors."""

from typing import Any

import pytest

from sandbox.standins.metacontroller.selectors import SelectorError, matches


@pytest.mark.parametrize(
    ("rule", "labels", "expected"),
    [
        ({"operator": "In", "values": ["1", "2"]}, {"a": "2"}, True),
        ({"operator": "In", "values": ["1"]}, {}, False),
        ({"operator": "NotIn", "values": ["1"]}, {"a": "1"}, False),
        ({"operator": "NotIn", "values": ["1"]}, {}, True),
        ({"operator": "Exists"}, {"a": ""}, True),
        ({"operator": "Exists"}, {}, False),
        ({"operator": "DoesNotExist"}, {}, True),
        ({"operator": "DoesNotExist"}, {"a": ""}, False),
    ],
)
def test_expressions(rule: dict[str, Any], labels: dict[str, str], expected: bool) -> None:
    assert matches({"matchExpressions": [{"key": "a", **rule}]}, labels) is expected


def test_all_parts_must_hold() -> None:
    selector = {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}
    assert matches(selector, {"a": "1", "b": ""})
    assert not matches(selector, {"a": "1"})
    assert not matches(selector, {"b": ""})


def test_annotations_and_empty_selectors() -> None:
    assert matches({"matchAnnotations": {"a": "1"}}, {"a": "1"})
    assert not matches({"matchAnnotations": {"a": "1"}}, None)
    assert matches(None, None)


def test_an_unknown_operator() -> None:
    with pytest.raises(SelectorError):
        matches({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}, {})
