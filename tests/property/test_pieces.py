"""Decoding a request in pieces gives what decoding it as a whole gives."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.hooks import pieces

# Texts that look like the places where a request may be cut.
TRAPS = st.sampled_from(
    ['},"db/x":{', '"children":{"', '":{"', "db/x", "}}", '\\"', '{"metadata":{}}', "", "a", "\ufffe the members cut out"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TRAPS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TRAPS | st.sampled_from(["db/x", "db/y", "children"]), inner, max_size=3)
    ),
    max_leaves=8,
)
CHILDREN = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({}, optional={"name": TRAPS, "managedFields": VALUES})},
    optional={"spec": VALUES, "status": VALUES},
)
GROUPS = st.dictionaries(st.integers(0, 99).map("db/b{}".format) | st.sampled_from(["other/x", "plain"]), CHILDREN, max_size=12)
DOCUMENTS = st.fixed_dictionaries(
    {"children": st.dictionaries(st.sampled_from(["Backup.pingcap.com/v1alpha1", "Job.batch/v1", "db/x"]), GROUPS, max_size=3)},
    optional={"parent": VALUES, "related": VALUES, "controller": VALUES},
)


def without_managed_fields(value: Any) -> Any:
    for group in value["children"].values():
        for child in group.values():
            child["metadata"].pop("managedFields", None)
    return value


@given(document=DOCUMENTS, piece=st.integers(1, 300), first=st.booleans(), spaced=st.booleans())
@settings(max_examples=500, deadline=None)
def test_same_as_a_whole(document: dict[str, Any], piece: int, first: bool, spaced: bool) -> None:
    ordered = document if first else dict(reversed(list(document.items())))
    body = orjson.dumps(ordered, option=orjson.OPT_INDENT_2 if spaced else None)
    whole, found = orjson.loads(body), pieces.decode(body, piece=piece)
    assert without_managed_fields(found) == without_managed_fields(whole)
    assert [list(group) for group in found["children"].values()] == [list(group) for group in whole["children"].values()]
    assert without_managed_fields(pieces.decode(bytearray(body), piece=piece)) == found


@given(document=DOCUMENTS, cut=st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_what_is_broken_is_refused(document: dict[str, Any], cut: int) -> None:
    body = orjson.dumps(document)[:-1][: cut or 1]
    with pytest.raises(orjson.JSONDecodeError):
        pieces.decode(body, piece=20)


def test_big_requests_are_cut() -> None:
    child = {"metadata": {"name": "x", "managedFields": [1]}, "spec": "y" * 100}
    document = {"children": {"Backup.pingcap.com/v1alpha1": {f"db/b{number}": child for number in range(100)}}, "parent": {}}
    found = pieces.decode(orjson.dumps(document), piece=1000)
    assert "managedFields" not in found["children"]["Backup.pingcap.com/v1alpha1"]["db/b0"]["metadata"]
    assert len(found["children"]["Backup.pingcap.com/v1alpha1"]) == 100
