"""Every status that a golden answer holds is one that the CRD keeps whole.

A field that the schema does not know is pruned by the API server, and Metacontroller then writes the same status for ever.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crds.v1alpha1 import KINDS

GOLDEN = Path(__file__).resolve().parent
ANSWERS = sorted(path for kind in KINDS for path in (GOLDEN / kind.lower()).glob("*/answer.yaml"))


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: f"{path.parent.parent.name}/{path.parent.name}")
def test_the_schema_keeps_it(path: Path) -> None:
    status: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["status"]
    kind = next(kind for kind in KINDS if kind.lower() == path.parent.parent.name)
    model = next(part for part in KINDS[kind].model_fields["status"].annotation.__args__ if part is not type(None))  # type: ignore[union-attr]
    assert model.model_validate(status).model_dump(mode="json", exclude_unset=True) == status


def test_some_are_looked_at() -> None:
    assert len(ANSWERS) > 10
