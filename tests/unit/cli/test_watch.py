"""``watch`` and ``status``: what is told while things run, and how it ends."""

from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cli.commands.watch
from backup_manager.errors import UnreachableError
from cli.documents import Files, Object
from cli.main import commands
from cli.models.status import summarise
from cli.options import Place
from tests.support.objects import BR_SPEC, LOG_SPEC, NOW, parent


def backup(phase: str, name: str = "a", spec: Any = BR_SPEC, **status: Any) -> dict[str, Any]:
    return parent("Backup", spec, name=name, status={"phase": phase, **status})


class Film:
    """A cluster that changes with every look; an exception is raised."""

    namespace = "db"

    def __init__(self, looks: Sequence[list[dict[str, Any]] | Exception]) -> None:
        self._looks = list(looks)

    def list(self, kind: str, *, everywhere: bool = False) -> list[Object]:
        if kind != "Backup":
            return []
        now = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(now, Exception):
            raise now
        return Files(now).list(kind, everywhere=everywhere)


def run(monkeypatch: pytest.MonkeyPatch, looks: Sequence[list[dict[str, Any]] | Exception], *words: str) -> Result:
    film = Film(looks)
    monkeypatch.setattr(Place, "source", film)
    monkeypatch.setattr("cli.commands.watch.time.sleep", lambda _seconds: None)
    return CliRunner().invoke(commands, ["watch", *words])


def told(result: Result) -> list[str]:
    """The lines without their times."""
    return [line[21:] for line in result.stdout.splitlines()]


def test_a_line_for_each_change_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[list[dict[str, Any]] | Exception] = [
        [backup("Running", progress="1%")],
        [backup("Running", progress="5%")],
        [backup("Running", progress="42%", eta="2026-01-31T03:00:00Z")],
        UnreachableError("gone for a moment"),
        [backup("Complete", progress="100%", timeTaken="3m0s")],
    ]
    result = run(monkeypatch, looks)
    assert told(result) == [
        "Backup db/a Running 1%",
        "Backup db/a Running 42% until 2026-01-31 03:00:00Z",
        "Backup db/a Complete after 3m",
    ]
    assert result.exit_code == 0


def test_a_failure_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = [{"type": "Failed", "status": "True", "reason": "DiskFull", "message": "no space"}]
    result = run(monkeypatch, [[backup("Running")], [backup("Failed", conditions=conditions)]])
    assert told(result)[-1] == "Backup db/a Failed DiskFull: no space"
    assert result.exit_code == 1


def test_what_is_named_is_waited_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [[backup("Running"), backup("Running", "b")], [backup("Complete"), backup("Running", "b")]]
    result = run(monkeypatch, looks, "a")
    assert all("db/a" in line for line in told(result))
    assert result.exit_code == 0
    missing = run(monkeypatch, [[backup("Running")]], "x")
    assert (missing.exit_code, "there is no x" in missing.stderr) == (1, True)


def test_a_log_backup_is_followed_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, [[backup("Running", spec=LOG_SPEC)]])
    assert result.stdout == "nothing runs\n"
    named = run(monkeypatch, [[backup("Running", spec=LOG_SPEC)], [backup("Stopped", spec=LOG_SPEC)]], "a")
    assert named.exit_code == 0


def test_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    late = run(monkeypatch, [[backup("Running")]], "--timeout", "0s")
    assert (late.exit_code, "not all runs have ended in time" in late.stderr) == (1, True)
    away = run(monkeypatch, [[backup("Running")], UnreachableError("no answer")])
    assert (away.exit_code, away.stderr) == (3, "error: no answer\n")
    deleted = run(monkeypatch, [[backup("Running")], []])
    assert "has been deleted" in deleted.stderr


def test_bars_on_a_terminal() -> None:
    drawn: list[tuple[str, float | None, str]] = []

    class Bars:
        def show(self, name: str, percent: float | None, text: str) -> None:
            drawn.append((name, percent, text))

    looks = ([backup("Running", progress="50%")], [backup("Complete")])
    last = cli.commands.watch._draw(([summarise(cr, NOW) for cr in look] for look in looks), Bars())
    assert [(name, percent) for name, percent, _ in drawn] == [("Backup db/a", 50.0), ("Backup db/a", 100.0)]
    assert last[0].ended


def test_status_of_an_unknown_name_is_exit_1(tmp_path: Any) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: Backup\nmetadata: {name: a}\nstatus: {phase: Running, progress: soon, timeTaken: long}\n")
    result = CliRunner().invoke(commands, ["status", "a", "b", "-f", str(path)])
    assert result.exit_code == 1
    assert "there is no b" in result.stderr
    assert "default/a" in result.stdout
