"""Schedules over the whole webhook: every folder of ``backupschedule`` is one request as Metacontroller sends it (with the
present in ``now``) and the answer to it.

``UPDATE_GOLDEN=1 pytest tests/golden`` writes the answers anew; read the diff before committing it.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.main import create_app
from tests.support.asgi import Client

CASES = sorted((Path(__file__).parent / "backupschedule").glob("*/request.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_golden(path: Path) -> None:
    request: dict[str, Any] = yaml.safe_load(path.read_text())
    now = datetime.fromisoformat(request.pop("now"))
    operation = "finalize" if request.get("finalizing") else "sync"
    with Client(create_app(clock=lambda: now)) as client:
        response = client.post(f"/backupschedule/{operation}", json=request)
        related = client.post("/backupschedule/customize", json={"parent": request["parent"]})
    assert response.status_code == 200, response.text
    found = {**response.json(), **related.json()}
    answer = path.with_name("answer.yaml")
    if os.environ.get("UPDATE_GOLDEN"):
        answer.write_text(yaml.safe_dump(found, sort_keys=True, width=120, allow_unicode=True))
    assert found == yaml.safe_load(answer.read_text())


def test_there_are_cases() -> None:
    assert len(CASES) >= 8
