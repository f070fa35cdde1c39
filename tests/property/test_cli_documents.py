"""Whatever a file holds, the commands answer or refuse in words: never a defect, never a traceback."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.main import commands

ROOT = Path(__file__).resolve().parents[2]
SHOP: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "golden" / "cli" / "shop.yaml").read_text())["items"]
JUNK = [None, "", 0, -1, 1.5, True, [], {}, "x", "2026-13-45", "-5m", "9" * 99, ["a", None], {"a": {"b": [1]}}, 10**30, "=cmd"]
COMMANDS = (
    ["plan", "-A", "-f"],
    ["plan", "-A", "--set", "retention.keepDaily=2", "--set", "maxBackups=null", "-f"],
    ["next", "-A", "-f"],
    ["history", "-A", "--no-records", "-f"],
    ["simulate", "--days", "2"],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in *value*."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some objects of a real dump, with nonsense in up to two places of each."""
    objects = copy.deepcopy(draw(st.lists(st.sampled_from(SHOP), min_size=1, max_size=5)))
    for item in objects:
        for _ in range(draw(st.integers(0, 2))):
            *path, last = draw(st.sampled_from(list(places(item))))
            holder: Any = item
            for key in path:
                holder = holder[key]
            if draw(st.booleans()):
                holder[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))
            else:
                del holder[last]
    return objects


@given(objects=spoilt(), command=st.sampled_from(COMMANDS), form=st.sampled_from(["table", "json", "yaml", "csv"]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_file_is_answered_or_refused(
    objects: list[dict[str, Any]], command: list[str], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "spoilt.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    result = CliRunner().invoke(commands, [*command, str(file), "-o", form], env={"KUBECONFIG": "/nonexistent"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in {0, 1, 2, 5}
    assert "internal error" not in result.output, result.output
