"""``docs/proven.md`` names tests and files that exist."""

import re

from tests.support.servers import ROOT

TEXT = (ROOT / "docs" / "proven.md").read_text()


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:tests|sandbox)/[\w/.]+)`", TEXT)) | set(re.findall(r"\]\((\w+\.md)\)", TEXT))
    missing = [path for path in named if not (ROOT / path).exists() and not (ROOT / "docs" / path).exists()]
    assert len(named) > 15
    assert missing == []
