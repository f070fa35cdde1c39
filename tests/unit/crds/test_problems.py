"""Problems of a spec: every broken spec of the golden file, in our words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crds.v1alpha1 import KINDS, SpecProblem, spec_problems
from crds.v1alpha1.common import Model
from crds.v1alpha1.problems import SPECS

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
BROKEN: list[dict[str, Any]] = yaml.safe_load((GOLDEN / "crds" / "broken_specs.yaml").read_text())


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["name"])
def test_names_the_field_and_the_fix(case: dict[str, Any]) -> None:
    (problem,) = spec_problems(case["kind"], case["spec"])
    assert problem.field == case["field"]
    assert case["says"] in problem.rule


def test_every_rule_is_broken_by_some_case() -> None:
    said = {problem.rule for case in BROKEN for problem in spec_problems(case["kind"], case["spec"])}
    known = {rule.message for model in _models() for rule in model.rules()}
    assert known <= said


def _models() -> list[type[Model]]:
    found, waiting = [], [Model]
    while waiting:
        model = waiting.pop()
        found.append(model)
        waiting += model.__subclasses__()
    return found


def test_all_problems_at_once_and_sorted() -> None:
    spec = {"s3": {}, "cleanPolicy": "x", "backupType": 7, "env": [{"name": "a"}, {}], "extra": 1}
    assert [problem.field for problem in spec_problems("Backup", spec)] == [
        "spec.backupType",
        "spec.cleanPolicy",
        "spec.env[1]",
        "spec.extra",
        "spec.s3.provider",
    ]


def test_several_broken_rules_are_all_told() -> None:
    spec = {
        "br": {"cluster": "c"},
        "s3": {"provider": "aws"},
        "gcs": {"projectId": "p"},
        "logStop": False,
        "logSubcommand": "log-stop",
    }
    assert [problem.field for problem in spec_problems("Backup", spec)] == ["spec", "spec.logStop"]


def test_wording() -> None:
    problem = SpecProblem(field="spec.s3.bucket", rule="is required; set it")
    assert str(problem) == "spec.s3.bucket: is required; set it"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [{}, {"br": []}, {"s3": "x"}, {"env": {}}, {"br": {"cluster": {"a": 1}}}, {1: 2}])
def test_any_shape_is_answered(kind: str, spec: dict[Any, Any]) -> None:
    problems = spec_problems(kind, spec)
    assert problems
    assert problems == sorted(problems)


def test_a_null_is_absence() -> None:
    assert spec_problems("Backup", {"br": {"cluster": "c", "db": None}, "s3": None, "cleanPolicy": None}) == []
    (problem,) = spec_problems("Backup", {"br": {"cluster": None}})
    assert str(problem) == "spec.br.cluster: is required; set it"


def test_a_secret_never_shows() -> None:
    problems = spec_problems("Backup", {"br": {"cluster": "c"}, "azblob": {"sasToken": ["hush"], "accessTier": 4}})
    assert [problem.field for problem in problems] == ["spec.azblob.accessTier", "spec.azblob.sasToken"]
    assert "hush" not in "".join(map(str, problems))


def test_kinds_and_specs_are_the_same() -> None:
    assert set(SPECS) == set(KINDS)
