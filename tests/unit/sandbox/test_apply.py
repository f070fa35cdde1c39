"""Dynamic apply: three-way merge, Go's equality, what a child may not change."""

from typing import Any

from sandbox.standins.metacontroller import apply


def child(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, **fields}


def stored(desired: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """*desired* as the API server holds it after its creation, with later *changes*."""
    obj = apply.remember(desired)
    return {**obj, "metadata": {**obj["metadata"], "uid": "u", "resourceVersion": "7"}, **changes}


def test_an_unchanged_child_merges_to_itself() -> None:
    observed = stored(child(data={"a": "1"}))
    assert apply.same(apply.update(observed, child(data={"a": "1"})), observed)


def test_what_is_no_longer_desired_goes_and_foreign_fields_stay() -> None:
    observed = stored(child(data={"a": "1", "b": "2"}), data={"a": "1", "b": "2", "foreign": "3"})
    assert apply.update(observed, child(data={"a": "9"}))["data"] == {"a": "9", "foreign": "3"}


def test_lists_with_names_merge_others_are_replaced() -> None:
    observed = stored(
        child(spec={"env": [{"name": "A", "value": "1"}, {"name": "OLD"}], "args": ["x", "y"]}),
        spec={"env": [{"name": "A", "value": "1", "extra": True}, {"name": "OLD"}, {"name": "FOREIGN"}], "args": ["x", "y"]},
    )
    merged = apply.update(observed, child(spec={"env": [{"name": "A", "value": "2"}, {"name": "NEW"}], "args": ["z"]}))
    assert merged["spec"]["env"] == [{"name": "A", "value": "2", "extra": True}, {"name": "FOREIGN"}, {"name": "NEW"}]
    assert merged["spec"]["args"] == ["z"]


def test_port_beats_name_as_merge_key() -> None:
    assert apply.merge_key([{"name": "a", "port": 1}, {"name": "b", "port": 1}]) == "port"
    assert apply.merge_key([{"name": "a", "port": 1}, {"name": "b"}]) == "name"
    assert apply.merge_key([{"name": "a"}, {"x": 1}]) is None
    assert apply.merge_key(["a"]) is None


def test_status_and_system_metadata_are_always_reverted() -> None:
    observed = stored(child(), status={"phase": "real"})
    desired = child(status={"phase": "wish"})
    desired["metadata"] |= {"uid": "other", "resourceVersion": "1", "generation": 4}
    merged = apply.update(observed, desired)
    assert merged["status"] == {"phase": "real"}
    assert merged["metadata"]["uid"] == "u"
    assert merged["metadata"]["resourceVersion"] == "7"
    assert "generation" not in merged["metadata"]


def test_a_float_never_equals_an_integer_and_is_written_as_one() -> None:
    assert not apply.same({"n": 300.0}, {"n": 300})
    assert not apply.same({"n": True}, {"n": 1})
    assert apply.go_json({"n": [300.0, 0.5]}) == {"n": [300, 0.5]}
    assert isinstance(apply.go_json(300.0), int)


def test_a_broken_record_counts_as_none() -> None:
    assert apply.last_applied(child()) == {}
