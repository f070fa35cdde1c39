"""``docs/failure-modes.md`` names only conditions and reasons that the code has, and for each row a test that exists."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from app.domain.schedule import reconcile as schedule
from app.domain.status import Phase
from crds.contract import names

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PAGE: Final = ROOT / "docs" / "failure-modes.md"
_SHOWN: Final = re.compile(r"`([A-Z]\w+): ([A-Z]\w+)`")
TYPES: Final = {str(phase) for phase in Phase} | {schedule.STALLED, schedule.HELD}
KUBERNETES: Final = {"BackoffLimitExceeded"}
"""Reasons of the Job controller."""


@cache
def source() -> str:
    return "\n".join(path.read_text() for room in ("app", "backup_manager") for path in sorted((ROOT / room).rglob("*.py")))


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


SHOWN: Final = sorted(set(_SHOWN.findall(PAGE.read_text())))


def test_the_page_has_the_rows_that_are_checked() -> None:
    table = rows()
    assert len(table) > 15
    assert {len(row) for row in table} == {4}
    assert all(all(row) for row in table), "every row says what is seen, what to do, and which test proves it"
    assert len(SHOWN) > 12


@cache
def known_tests() -> frozenset[str]:
    """The name of every test function of the project."""
    found = (node for path in (ROOT / "tests").rglob("test_*.py") for node in ast.walk(ast.parse(path.read_text())))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in found if isinstance(node, functions) and node.name.startswith("test_"))


def test_each_row_names_a_test_that_exists() -> None:
    wrong = {
        row[0]: row[3]
        for row in rows()
        if row[3] != "test" and (not (named := re.findall(r"`(test_\w+)`", row[3])) or not known_tests().issuperset(named))
    }
    assert wrong == {}


@pytest.mark.parametrize(("kind", "reason"), SHOWN)
def test_condition_and_reason_exist(kind: str, reason: str) -> None:
    assert kind in TYPES
    assert reason in KUBERNETES or f'"{reason}"' in source()


def test_annotations_exist() -> None:
    found = set(re.findall(r"tidb\.pingcap\.com/[a-z-]+", PAGE.read_text()))
    assert found
    assert all(f'"{name}"' in source() or name in vars(names).values() for name in found)


def test_a_reason_that_nobody_gives_would_be_seen() -> None:
    assert '"NoSuchReasonAnywhere"' not in source()
