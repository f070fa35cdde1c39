"""Decoding a request in pieces, while it comes in, gives what decoding it as a whole gives."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.hooks.pieces import PIECE, Body, NotJSON

# Texts that look like the places where a request may be cut.
TRAPS = st.sampled_from(
    ['},"db/x":{', '"children":{"', '":{"', "db/x", "}}", '\\"', '{"metadata":{}}', "", "a", "\ufffe the members before"]
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


LAST_APPLIED = "metacontroller.k8s.io/last-applied-configuration"


def plain(value: Any) -> Any:
    """*value* without what a big request leaves out."""
    for group in value["children"].values():
        for child in group.values():
            child["metadata"].pop("managedFields", None)
            child["metadata"].get("annotations", {}).pop(LAST_APPLIED, None)
    return value


def decoded(body: bytes, *, piece: int, chunk: int) -> Any:
    """The value of *body*, which comes in *chunk* bytes at a time."""
    coming = Body(piece=piece)
    for start in range(0, len(body), chunk):
        if coming.add(body[start : start + chunk]):
            coming.work()
    assert coming.size == len(body)
    return coming.value()


@given(document=DOCUMENTS, piece=st.integers(1, 300), chunk=st.integers(1, 700), first=st.booleans(), spaced=st.booleans())
@settings(max_examples=500, deadline=None)
def test_same_as_a_whole(document: dict[str, Any], piece: int, chunk: int, first: bool, spaced: bool) -> None:
    ordered = document if first else dict(reversed(list(document.items())))
    body = orjson.dumps(ordered, option=orjson.OPT_INDENT_2 if spaced else None)
    whole, found = orjson.loads(body), decoded(body, piece=piece, chunk=chunk)
    assert plain(found) == plain(whole)
    assert [list(group) for group in found["children"].values()] == [list(group) for group in whole["children"].values()]


@given(document=DOCUMENTS, cut=st.integers(0, 2000), chunk=st.integers(1, 700))
@settings(max_examples=300, deadline=None)
def test_what_is_broken_is_refused(document: dict[str, Any], cut: int, chunk: int) -> None:
    body = orjson.dumps(document)[:-1][: cut or 1]
    with pytest.raises(NotJSON):
        decoded(body, piece=20, chunk=chunk)


def many(count: int) -> bytes:
    metadata = {"name": "x", "managedFields": [1], "annotations": {LAST_APPLIED: "{}", "a": "b"}}
    child = {"metadata": metadata, "spec": "y" * 100}
    backups = {f"db/b{number}": child for number in range(count)}
    return orjson.dumps({"parent": {}, "children": {"Backup.pingcap.com/v1alpha1": backups}, "finalizing": False})


@pytest.mark.parametrize(("count", "piece"), [(100, 300), (9000, PIECE)])
def test_big_requests_are_cut(count: int, piece: int) -> None:
    body = many(count)
    coming = Body(piece=piece)
    most = 0
    for start in range(0, len(body), 100):
        if coming.add(body[start : start + 100]):
            coming.work()
        most = max(most, len(coming._text))
    assert most < len(body) / 1.5
    found = coming.value()["children"]["Backup.pingcap.com/v1alpha1"]
    assert found["db/b0"]["metadata"] == {"name": "x", "annotations": {"a": "b"}}
    assert len(found) == count


def test_where_json_ends_is_told() -> None:
    body = many(100)
    with pytest.raises(NotJSON, match=rf"at character {len(body) - 10}$"):
        decoded(body[:-10] + b"}", piece=300, chunk=100)


def test_of_each_child_is_kept_what_was_asked_for() -> None:
    body = many(100)
    coming = Body(piece=300, lean=lambda child: {"metadata": {"name": child["metadata"]["name"]}})
    for start in range(0, len(body), 100):
        if coming.add(body[start : start + 100]):
            coming.work()
    (found,) = coming.value()["children"].values()
    assert list(found) == [f"db/b{number}" for number in range(100)]
    assert all(child == {"metadata": {"name": "x"}} for child in found.values())


@pytest.mark.parametrize("again", [b'"children":{"Backup.pingcap.com/v1alpha1":{}}', b'"children":{}', b'"children":null'])
def test_children_that_come_twice_are_refused(again: bytes) -> None:
    with pytest.raises(NotJSON, match="twice"):
        decoded(many(100)[:-1] + b"," + again + b"}", piece=300, chunk=100)
