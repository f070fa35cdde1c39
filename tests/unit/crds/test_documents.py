"""Every example, and every document in the style of TiDB Operator's, passes through the models unchanged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crds.v1alpha1 import KINDS, spec_problems

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (ROOT / "examples", ROOT / "tests" / "golden" / "operator_docs")


def _documents() -> Iterator[Any]:
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.yaml")):
            for number, document in enumerate(yaml.safe_load_all(path.read_text())):
                if document and document["apiVersion"] == "pingcap.com/v1alpha1":
                    yield pytest.param(document, id=f"{path.parent.name}/{path.name}#{number}")


DOCUMENTS = list(_documents())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_round_trip(document: dict[str, Any]) -> None:
    model = KINDS[document["kind"]].model_validate(document)
    assert model.model_dump(mode="json", exclude_unset=True) == document


@pytest.mark.parametrize("document", DOCUMENTS)
def test_has_no_problems(document: dict[str, Any]) -> None:
    assert spec_problems(document["kind"], document["spec"]) == []


def test_all_are_looked_at() -> None:
    assert len(DOCUMENTS) >= 40


def test_the_secrets_of_the_examples_exist_and_are_fake() -> None:
    secrets = [item for item in yaml.safe_load_all((ROOT / "examples" / "secrets.yaml").read_text()) if item]
    named = {secret["metadata"]["name"] for secret in secrets}
    wanted = {
        line.split("#")[0].split(":")[1].strip()
        for path in (ROOT / "examples").glob("*.yaml")
        for line in path.read_text().splitlines()
        if line.strip().startswith("secretName:")
    }
    assert wanted == named
