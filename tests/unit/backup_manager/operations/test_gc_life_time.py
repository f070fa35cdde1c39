"""The command that restores what a killed run left raised."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from backup_manager.cli import COMMANDS
from backup_manager.context import Context
from backup_manager.errors import UsageError
from backup_manager.kubernetes.client import KubernetesApi
from backup_manager.operations import gc_life_time
from backup_manager.tidb.connection import Access
from backup_manager.tidb.gc_life_time import Mark
from crds.contract import durations, names
from tests.support.manager import UID, FakeDatabase, world


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


@dataclass
class Pods:
    """The API server's Pods of the CR."""

    pods_of_cr: list[dict[str, Any]]

    def pods(self, _namespace: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        assert labels == {names.OWNER_UID_LABEL: UID}
        return self.pods_of_cr


@pytest.mark.parametrize(
    ("pod", "left_alone"),
    [
        ({"metadata": {"name": "p", "uid": "run"}, "status": {"phase": "Running"}}, True),
        ({"metadata": {"name": "p", "uid": "run"}, "status": {"phase": "Failed"}}, False),
        ({"metadata": {"name": "p", "uid": "me"}, "status": {"phase": "Running"}}, False),
    ],
)
def test_a_run_that_lost_its_owner_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pod: dict[str, Any], left_alone: bool
) -> None:
    database = FakeDatabase()
    monkeypatch.setattr(gc_life_time, "connect", lambda _context, _access, *, limit: database)
    here = world(tmp_path, {"from": {"host": "tidb"}}, env={names.ENV_POD_UID: "me"})
    context = replace(here.context, kubernetes=cast(KubernetesApi, Pods([pod])))
    Mark.of(here.context, database).enter("72h", durations.parse("72h"))  # type: ignore[arg-type]
    result = gc_life_time.run(context)
    assert (database.life_time == "72h") is left_alone
    assert ("still runs" in result.details["gcLifeTime"]) is left_alone
    assert ("gcLifeTimeState" in here.report.result) is not left_alone


def test_without_a_database_it_says_which_field_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        gc_life_time.run(world(tmp_path, {}).context)
    assert "spec.from" in caught.value.message


def test_the_command_line_names_kind_and_name() -> None:
    command = COMMANDS["gc-life-time"]
    assert (command.name_flag, command.kinds) == ("resourceName", ("Backup", "Restore"))
    assert {"kind", "resourceName", "client-tls", "skipClientCA"} <= {flag.name for flag in command.flags}
