"""Label and annotation selectors, as Kubernetes reads them: an absent or empty one selects everything."""

from collections.abc import Mapping
from typing import Any

_Labels = Mapping[str, str]


class SelectorError(Exception):
    """A selector that Kubernetes would refuse."""


def matches(selector: Mapping[str, Any] | None, labels: _Labels | None) -> bool:
    """Whether a LabelSelector (``matchLabels``, ``matchExpressions``) selects *labels*.

    >>> matches({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}), matches(None, {}), matches({}, {})
    (True, True, True)
    >>> matches({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {})
    True
    """
    selector, labels = selector or {}, labels or {}
    wanted = selector.get("matchLabels") or selector.get("matchAnnotations") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(rule, labels) for rule in selector.get("matchExpressions") or ()
    )


def _holds(rule: Mapping[str, Any], labels: _Labels) -> bool:
    key, values = rule["key"], rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise SelectorError(f"{rule['operator']!r} is not a valid label selector operator")
