"""From a decision to bytes: who stays, who goes, and what JSON may look like."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.observed import Observed
from app.hooks import response as answer
from app.hooks.resource import Kind
from app.hooks.response import AnswerError, plain, render

JOB = "Job.batch/v1"


@dataclass(frozen=True)
class Make:
    name: str


def build(_observed: Observed, intent: Make, _config: Config) -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": intent.name}, "spec": {"n": 1.0, "x": None}}


KIND: Kind[Make] = Kind(
    path="backup",
    related=lambda _cr, _config: [],
    decide=lambda _seen, _now, _config: Decision(status={}),
    build=build,
    child_kind=JOB,
)


def seen(*names: str, finalizing: bool = False, **meta: Any) -> Observed:
    children = {f"db/{name}": {"metadata": {"name": name, "namespace": "db"}, "spec": {"big": 1}} for name in names}
    return Observed(
        parent={"metadata": {"name": "x", "generation": 3, **meta}}, children={JOB: children}, finalizing=finalizing
    )


def answered(observed: Observed, **decision: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(render(KIND, observed, Decision(**{"status": {}, **decision}), Config()))
    return found


def test_a_child_nobody_mentioned_stays_as_a_stub() -> None:
    assert answered(seen("a"))["children"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a", "namespace": "db"}}
    ]


def test_kinds_without_a_group() -> None:
    observed = Observed(parent={}, children={"ConfigMap.v1": {"a": {"metadata": {"name": "a"}}}})
    assert answered(observed)["children"] == [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}]


def test_a_dropped_child_goes_a_new_one_comes_whole() -> None:
    found = answered(seen("a", "b"), drop=[Drop(kind=JOB, name="a", rule="r")], create=[Make("c"), Make("b")])
    assert [child["metadata"]["name"] for child in found["children"]] == ["b", "c"]
    assert "spec" not in found["children"][0]
    assert found["children"][1]["spec"] == {"n": 1}


def test_a_drop_needs_its_kind_and_a_rule() -> None:
    with pytest.raises(AnswerError, match="no rule"):
        answered(seen("a"), drop=[Drop(kind=JOB, name="a", rule="")])
    assert len(answered(seen("a"), drop=[Drop(kind="Pod.v1", name="a", rule="r")])["children"]) == 1


def test_create_and_drop_at_once_is_a_bug() -> None:
    with pytest.raises(AnswerError, match="created and dropped"):
        answered(seen("a"), drop=[Drop(kind=JOB, name="a", rule="r")], create=[Make("a")])


def test_a_child_under_a_wrong_key_is_refused() -> None:
    with pytest.raises(AnswerError, match="does not carry the name"):
        answered(Observed(parent={}, children={JOB: {"db/a": {"metadata": {"name": "b"}}}}))


def test_finalized_only_while_finalizing() -> None:
    assert "finalized" not in answered(seen(), finalized=True)
    assert answered(seen(finalizing=True), finalized=True)["finalized"] is True


def test_resync_is_rounded_up_and_never_zero() -> None:
    assert answered(seen(), resync_after=0.2)["resyncAfterSeconds"] == 1
    assert "resyncAfterSeconds" not in answered(seen(), resync_after=0)
    assert "resyncAfterSeconds" not in answered(seen())


def test_the_generation_that_was_looked_at_is_told() -> None:
    assert answered(seen(), status={"phase": "Running"})["status"] == {"phase": "Running", "observedGeneration": 3}


def test_plain() -> None:
    assert plain({"a": 300.0, "b": None, "c": [1, None, 2.5], "d": {"e": None}, "f": True, "g": (1,)}) == {
        "a": 300,
        "c": [1, 2.5],
        "d": {},
        "f": True,
        "g": [1],
    }
    assert plain(datetime(2026, 1, 31, 2, 0, 0, 9, tzinfo=UTC)) == "2026-01-31T02:00:00Z"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object(), datetime(2026, 1, 1)])  # noqa: DTZ001
def test_what_json_has_no_form_for_is_an_error(value: object) -> None:
    with pytest.raises(AnswerError):
        plain({"x": value})


NAMES = st.text("abc-", min_size=1, max_size=4)


@given(
    groups=st.dictionaries(st.sampled_from([JOB, "Backup.pingcap.com/v1alpha1", "Pod.v1"]), st.sets(NAMES, max_size=6)),
    drops=st.sets(st.tuples(st.sampled_from([JOB, "Pod.v1"]), NAMES), max_size=4),
    makes=st.sets(NAMES, max_size=4),
)
def test_no_observed_child_is_missing_unless_a_drop_names_it(
    groups: Mapping[str, set[str]], drops: set[tuple[str, str]], makes: set[str]
) -> None:
    children = {
        kind: {f"db/{name}": {"metadata": {"name": name, "namespace": "db"}} for name in found}
        for kind, found in groups.items()
    }
    observed = Observed(parent={"metadata": {"generation": 1}}, children=children)
    wanted = [Make(name) for name in sorted(makes) if (JOB, name) not in drops]
    decision: Decision[Make] = Decision(
        status={}, create=wanted, drop=[Drop(kind=kind, name=name, rule="r") for kind, name in drops]
    )
    body = render(KIND, observed, decision, Config())
    assert body == render(KIND, observed, decision, Config())
    found = {(f"{child['kind']}.{child['apiVersion']}", child["metadata"]["name"]) for child in orjson.loads(body)["children"]}
    expected = {(kind, name) for kind, members in groups.items() for name in members if (kind, name) not in drops}
    assert found == expected | {(JOB, make.name) for make in wanted}
    assert b"null" not in body


def test_the_check_does_not_trust_the_stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "_stubs", lambda _observed, _drops: {})
    with pytest.raises(AnswerError, match=r"would delete Job\.batch/v1 'db/a'"):
        answered(seen("a"))
