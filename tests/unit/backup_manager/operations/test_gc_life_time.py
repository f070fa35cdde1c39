"""The command that restores what a killed run left raised."""

from pathlib import Path
from typing import Any

import pytest

from backup_manager.cli import COMMANDS
from backup_manager.database import Access
from backup_manager.errors import UsageError
from backup_manager.gc_life_time import Mark
from backup_manager.operations import gc_life_time
from backup_manager.operations.steps import Context
from crds import durations
from tests.support.manager import FakeDatabase, world


@pytest.mark.parametrize(("kind", "field"), [("Backup", "from"), ("Restore", "to")])
def test_it_restores_on_the_database_that_the_run_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, field: str
) -> None:
    database, asked = FakeDatabase(), list[tuple[str, Any]]()

    def connect(_context: Context, access: Access, *, limit: Any) -> FakeDatabase:
        asked.append((access.host, limit))
        return database

    monkeypatch.setattr(gc_life_time, "connect", connect)
    here = world(tmp_path, {field: {"host": "tidb", "secretName": "s"}}, kind=kind)
    Mark.of(here.context, database).enter("72h", durations.parse("72h"))  # type: ignore[arg-type]
    assert database.life_time == "72h"
    result = gc_life_time.run(here.context)
    assert result.details == {"gcLifeTime": "restored to 10m0s"}
    assert asked == [("tidb", gc_life_time.WAIT)]
    assert (database.life_time, database.marker, database.holders) == ("10m0s", None, [])
    assert here.report.result["gcLifeTimeState"] == "Released"


def test_without_a_database_it_says_which_field_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        gc_life_time.run(world(tmp_path, {}).context)
    assert "spec.from" in caught.value.message


def test_the_command_line_names_kind_and_name() -> None:
    command = COMMANDS["gc-life-time"]
    assert (command.name_flag, command.kinds) == ("resourceName", ("Backup", "Restore"))
    assert {"kind", "resourceName", "client-tls", "skipClientCA"} <= {flag.name for flag in command.flags}
