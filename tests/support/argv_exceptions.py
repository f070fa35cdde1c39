"""The table of ``docs/secrets.md``: which secret may stand in which argument of which tool."""

from typing import Final, NamedTuple

from tests.support.servers import ROOT

PAGE: Final = ROOT / "docs" / "secrets.md"
_TITLE: Final = "## Exceptions: what is in the argv of a tool"


class Allowed(NamedTuple):
    """One row, without its reason."""

    tool: str
    argument: str
    secret: str


def allowed() -> frozenset[Allowed]:
    """Every row. Each must have a reason."""
    section = PAGE.read_text().partition(_TITLE)[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    header, *body = rows
    assert header == ["tool", "argument", "secret", "why"]
    assert all(len(row) == 4 and all(row) for row in body)
    return frozenset(Allowed(tool, argument.strip("`"), secret) for tool, argument, secret, _ in body)
