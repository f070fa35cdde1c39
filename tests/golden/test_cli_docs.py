"""The examples of docs/cli.md say what the command says."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()
EXAMPLES = [
    (command.removeprefix("tidb-backup "), shown)
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for command, shown in re.findall(r"^\$ (tidb-backup [^\n#]*?)\s*(?:#[^\n]*)?\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    if "s3://" not in command
]


@pytest.mark.parametrize(("words", "shown"), EXAMPLES, ids=[words.split()[0] for words, _ in EXAMPLES])
def test_examples(words: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(commands, shlex.split(words))
    assert result.exit_code == (1 if words.startswith("why") else 0), result.output
    said = result.stdout.splitlines()
    for line in shown.splitlines():
        assert line == "..." or line in said


def test_there_are_examples_and_every_command_is_named() -> None:
    assert len(EXAMPLES) >= 5
    assert all(f"`tidb-backup {name}" in PAGE or f"tidb-backup {name} " in PAGE for name in COMMANDS)
