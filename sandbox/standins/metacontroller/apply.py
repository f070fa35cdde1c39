"""Dynamic apply: the three-way merge with which children are updated, and Go's notion of equality.

What was last applied and is no longer desired goes, what is desired is set, the rest stays. Lists of objects that share a key
of :data:`MERGE_KEYS` merge by it, every other list is replaced.
"""

from typing import Any, Final

import orjson

from sandbox.api import Object

LAST_APPLIED: Final = "metacontroller.k8s.io/last-applied-configuration"
MERGE_KEYS: Final = ("containerPort", "port", "mountPath", "name", "uid", "ip", "path")
_SYSTEM_METADATA: Final = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


def same(left: Any, right: Any) -> bool:
    """Equality as Go's ``reflect.DeepEqual`` sees decoded JSON: ``5`` and ``5.0`` differ.

    >>> same({"a": [1]}, {"a": [1]}), same(5, 5.0), same(True, 1)
    (True, False, False)
    """
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(same(one, other) for one, other in zip(left, right, strict=True))
    return bool(left == right)


def go_json(value: Any) -> Any:
    """*value* as Go writes it: a whole float loses its point.

    >>> go_json({"a": 300.0, "b": 1.5})
    {'a': 300, 'b': 1.5}
    """
    if isinstance(value, dict):
        return {key: go_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [go_json(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def remember(obj: Object) -> Object:
    """A copy of *obj* that carries itself in the last-applied annotation."""
    metadata = obj.get("metadata") or {}
    text = orjson.dumps(go_json(obj), option=orjson.OPT_SORT_KEYS).decode()
    return {**obj, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), LAST_APPLIED: text}}}


def last_applied(observed: Object) -> Object:
    """What was applied to *observed* before; empty when nothing is on record."""
    text = ((observed.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    found = orjson.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def update(observed: Object, desired: Object) -> Object:
    """*observed* brought to *desired*; system metadata and ``status`` always stay as observed."""
    merged: Object = merge(observed, last_applied(observed), desired)
    before, after = observed.get("metadata") or {}, merged["metadata"]
    for field in _SYSTEM_METADATA:
        if field in before:
            after[field] = before[field]
        else:
            after.pop(field, None)
    if "status" in observed:
        merged["status"] = observed["status"]
    else:
        merged.pop("status", None)
    text = remember(desired)["metadata"]["annotations"][LAST_APPLIED]
    after.setdefault("annotations", {})
    after["annotations"] = {**after["annotations"], LAST_APPLIED: text}
    return merged


def merge(observed: Any, last: Any, desired: Any) -> Any:
    """The three-way merge of one value."""
    if isinstance(desired, dict) and isinstance(observed, dict):
        return _merge_maps(observed, last if isinstance(last, dict) else {}, desired)
    if isinstance(desired, list) and isinstance(observed, list):
        previous = last if isinstance(last, list) else []
        key = merge_key([*observed, *previous, *desired])
        if key:
            return _merge_lists(observed, previous, desired, key)
    return desired


def _merge_maps(observed: Object, last: Object, desired: Object) -> Object:
    kept = {key: value for key, value in observed.items() if key in desired or key not in last}
    for key, value in desired.items():
        kept[key] = merge(observed.get(key), last.get(key), value)
    return kept


def _merge_lists(observed: list[Object], last: list[Object], desired: list[Object], key: str) -> list[Object]:
    was, wanted = {item[key]: item for item in last}, {item[key]: item for item in desired}
    result = []
    for item in observed:
        name = item[key]
        if name in wanted:
            result.append(merge(item, was.get(name), wanted.pop(name)))
        elif name not in was:
            result.append(item)
    return [*result, *(item for item in desired if item[key] in wanted)]


def merge_key(items: list[Any]) -> str | None:
    """The first of :data:`MERGE_KEYS` that every item of a list of objects has."""
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    return next((key for key in MERGE_KEYS if all(key in item for item in items)), None)
