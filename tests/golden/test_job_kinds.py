"""CR in, children and status out: every folder beside this file is one request in wire form and the answer to it.

``UPDATE_GOLDEN=1 pytest tests/golden`` writes the answers anew; read the diff before committing it.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from app.domain.config import Config
from app.domain.observed import Observed
from app.hooks import backup, compactbackup, restore
from app.hooks import response as answer
from app.hooks.resource import Kind

HERE = Path(__file__).parent
KINDS: dict[str, Kind[Any]] = {kind.KIND.path: kind.KIND for kind in (backup, restore, compactbackup)}
CASES = sorted(path.parent for kind in KINDS for path in HERE.glob(f"{kind}/*/request.yaml"))


def _answer(case: Path) -> dict[str, Any]:
    request = yaml.safe_load((case / "request.yaml").read_text())
    observed = Observed(
        parent=request["parent"],
        children={"Job.batch/v1": {}, **request.get("children", {})},
        related=request.get("related", {}),
        finalizing=request.get("finalizing", False),
    )
    kind, config = KINDS[case.parent.name], Config()
    now = datetime.fromisoformat(request["now"])
    decision = kind.decide(observed, now, config)
    body = answer.render(kind, observed, decision, config)
    assert body == answer.render(kind, observed, kind.decide(observed, now, config), config), "same input, same bytes"
    found: dict[str, Any] = orjson.loads(body)
    if decision.drop:
        found["dropped"] = [{"name": drop.name, "rule": drop.rule} for drop in decision.drop]
    found["related"] = kind.related(observed.parent, config)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_golden(case: Path) -> None:
    found, path = _answer(case), case / "answer.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump(found, sort_keys=True, width=120, allow_unicode=True))
    assert found == yaml.safe_load(path.read_text())


def test_there_are_cases_of_every_kind() -> None:
    assert {case.parent.name for case in CASES} == set(KINDS)
