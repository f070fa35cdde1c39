"""Files that documentation names exist: a reader who follows a path finds it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "app",
    "backup_manager",
    "cli",
    "crds",
    "rotator",
    "sandbox",
    "tests",
    "metacontroller",
    "examples",
    "docs",
    "scripts",
)
_NAMED = re.compile(rf"`((?:{'|'.join(_PACKAGES)})/[\w./-]*)`")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sandbox/*.md")])


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_a_path_in_the_documentation_exists(page: Path) -> None:
    missing = [name for name in _NAMED.findall(page.read_text()) if not (ROOT / name.rstrip("/")).exists()]
    assert not missing


def test_the_pattern_finds_paths() -> None:
    assert _NAMED.findall("see `app/settings.py`, `crds/` and `kubectl`") == ["app/settings.py", "crds/"]
