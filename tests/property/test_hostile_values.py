"""Whatever stands in a field that comes from outside: the hook answers, keeps every child, and comes to rest.

Every leaf and every container below the status of the parent, the children and the related objects of the golden requests is
replaced in turn, and so is every field of the spec: a wrong spec is ``Invalid`` or waits, never an error.
"""

import copy
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from app.domain.config import Config
from app.domain.observed import Observed
from app.domain.schedule.reconcile import HELD
from app.hooks import backup, backupschedule, compactbackup, restore, sanitize
from app.hooks import response as answer
from app.hooks.resource import Kind
from app.metrics import Metrics
from crds.contract import names

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS: dict[str, Kind[Any]] = {kind.KIND.path: kind.KIND for kind in (backup, restore, compactbackup, backupschedule)}
CASES = sorted(path.parent for kind in KINDS for path in GOLDEN.glob(f"{kind}/*/request.yaml"))
REPORT: dict[str, Any] = {"v": 1, "seq": 1, "phase": "Complete"}
DEEP: Any = "x"
for _ in range(200):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None,
    "",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2026-01-31T02:00:00",
    "-1",
    "9" * 5000,
    "18446744073709551615",
    "x" * 3000,
    "\ufffd\u0000 {}",
    0,
    -1,
    2**63 - 1,
    1.8446744073709552e19,
    0.5,
    True,
    [],
    ["x"],
    [None, 5, {"type": 5}],
    {},
    {"x": {"y": []}},
    DEEP,
]
REPORTS: list[str] = [
    *map(json.dumps, VALUES),
    *(json.dumps({**REPORT, field: value}) for field in ("timeStarted", "timeCompleted", "eta") for value in VALUES),
    *(json.dumps({**REPORT, "progress": [{"step": "x", "progress": value}]}) for value in VALUES),
    *(json.dumps({**REPORT, "backupSize": value, "seq": value, "commitTs": value}) for value in VALUES),
    *(json.dumps({**REPORT, "result": value}) for value in VALUES),
    *(
        json.dumps({**REPORT, "result": {key: value}})
        for value in VALUES
        for key in ("brOperations", "deleted", "failed", "logSuccessTruncateUntil", "logCheckpointTs", "endTs", "progress")
    ),
    '{"v":1,"seq":1,"phase":"Complete","result":{"deleted":123456789012345678901234567890}}',
    '{"v":1,"seq":1,"phase":"Complete","backupSize":123456789012345678901234567890}',
    '{"v":1,"seq":1,"phase":"Complete","commitTs":"\\ud800","result":{"x":"\\ud800"}}',
    '{"v":1,"seq":1,"phase":"Complete","result":' + "[" * 5000 + "]" * 5000 + "}",
    "{",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below *value*."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def outside(request: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Every place whose value others write, the names that objects are listed under left out."""
    yield from (("parent", *path) for path in places({"status": request["parent"].get("status") or {}}))
    for field in ("children", "related"):
        for outer, group in (request.get(field) or {}).items():
            for key, item in group.items():
                for path in places(item):
                    if path[0] not in {"apiVersion", "kind"} and path not in {("metadata",), ("metadata", "name")}:
                        yield field, outer, key, *path


def replaced(request: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """*request* with *value* at *path*."""
    found: Any = dict(request)
    place, result = found, found
    for key in path[:-1]:
        place[key] = copy.copy(place[key])
        place = place[key]
    place[path[-1]] = value
    return dict(result)


def load(case: Path) -> tuple[Kind[Any], datetime, dict[str, Any]]:
    request = yaml.safe_load((case / "request.yaml").read_text())
    now = datetime.fromisoformat(request.pop("now"))
    kind = KINDS[case.parent.name]
    outer = ("Job.batch/v1",) if kind is not backupschedule.KIND else ()
    request["children"] = {**{name: {} for name in outer}, **(request.get("children") or {})}
    return kind, now, request


def observed(request: dict[str, Any]) -> Observed:
    return Observed(
        parent=request["parent"],
        children=request["children"],
        related=request.get("related") or {},
        finalizing=request.get("finalizing") or False,
    )


class Hook:
    """One case: what its clean request drops and makes, and what a hostile one may."""

    def __init__(self, case: Path) -> None:
        self.kind, self.now, self.request = load(case)
        self.metrics = Metrics(series_ttl=60)
        clean = self.ask(self.request)
        self.drops = {(drop.kind, drop.name) for drop in clean.decision.drop}
        # A request that is hostile already holds every deletion; another value in its place may lift that.
        self.held = any(item["type"] == HELD for item in clean.answer.body["status"].get("conditions") or ())

    def ask(self, request: dict[str, Any]) -> sanitize.Decided:
        decided = sanitize.decide(self.kind, observed(request), self.now, Config())
        answer.encode(decided.answer)
        return decided

    def allowed(self, place: tuple[Any, ...]) -> set[tuple[str, str]]:
        """What may be dropped: as much as without the child that *place* is in, which may have been what held the rest."""
        if place[0] != "children":
            return self.drops
        _, outer, key, *_ = place
        group = {name: child for name, child in self.request["children"][outer].items() if name != key}
        without = replaced(self.request, ("children", outer), group)
        return self.drops | {(drop.kind, drop.name) for drop in self.ask(without).decision.drop}

    def check(self, request: dict[str, Any], place: object, path: tuple[Any, ...] = ("spec",)) -> None:
        """*request* is answered without a deletion that the clean one has not, and its answer changes nothing more."""
        try:
            decided = self.ask(request)
            rested = self.ask(self.fed(request, self.ask(self.fed(request, decided))))
            again = self.ask(self.fed(request, rested))
        except Exception as error:
            raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
        stray = {(drop.kind, drop.name) for drop in decided.decision.drop} - self.drops
        assert self.held or not stray or not stray - self.allowed(path), f"{place}: {stray}"
        assert again.answer.body == rested.answer.body, place
        self.metrics.note(self.kind.path, decided.observed, decided.answer.body["status"], gone=False)

    @staticmethod
    def fed(request: dict[str, Any], decided: sanitize.Decided) -> dict[str, Any]:
        status = orjson.loads(orjson.dumps(decided.answer.body["status"]))
        return {**request, "parent": {**request["parent"], "status": status}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_a_hostile_value_is_that_one_item_s_trouble(case: Path) -> None:
    hook = Hook(case)
    for number, path in enumerate(outside(hook.request)):
        # Every value comes to every place in one case or another: each takes a third of them, by turns.
        for value in VALUES[number % 3 :: 3]:
            hook.check(replaced(hook.request, path, value), (path, str(value)[:60]), path)
    assert hook.metrics.exposition()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_a_hostile_report_is_unknown(case: Path) -> None:
    hook = Hook(case)
    for key, job in hook.request["children"].get("Job.batch/v1", {}).items():
        annotations = job["metadata"].get("annotations") or {}
        for text in REPORTS:
            meta = {**job["metadata"], "annotations": {**annotations, names.REPORT_ANNOTATION: text}}
            hook.check(replaced(hook.request, ("children", "Job.batch/v1", key), {**job, "metadata": meta}), text[:200])
    assert hook.metrics.exposition()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_a_hostile_spec_is_no_error(case: Path) -> None:
    hook = Hook(case)
    for number, path in enumerate(places(hook.request["parent"]["spec"])):
        for value in VALUES[number % 3 :: 3]:
            request = replaced(hook.request, ("parent", "spec", *path), value)
            hook.check(request, (path, str(value)[:60]))
            parent = request["parent"]
            try:
                hook.kind.related(parent, Config())
            except Exception:  # noqa: BLE001 - as the webhook does
                hook.kind.related(sanitize.parent_of(parent, hook.kind.path), Config())


@pytest.mark.parametrize("text", [*map(json.dumps, VALUES), '"\\ud800"', '{"path":"\\ud800"}', "[" * 5000, "x" * 100_000])
@pytest.mark.parametrize("annotation", [names.IMPORTED_ANNOTATION, names.PD_ADDR_ANNOTATION, names.CONFIRM_CLEAN_ANNOTATION])
def test_a_hostile_annotation_of_the_cr_is_no_error(annotation: str, text: str) -> None:
    hook = Hook(GOLDEN / "backup" / "br-s3-tls")
    hook.check(replaced(hook.request, ("parent", "metadata", "annotations"), {annotation: text}), annotation)
