"""The GC life time: only raised, always put back, also by whoever runs next."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_manager import gc_life_time
from backup_manager.database import DatabaseUnreachableError
from backup_manager.errors import InterruptedError_, ManagerError, ToolError
from tests.support.manager import NOW, FakeDatabase, World, world

VARIABLE, MARKER = gc_life_time.VARIABLE, gc_life_time.MARKER


@pytest.fixture
def here(tmp_path: Path) -> World:
    return world(tmp_path, {})


def run(here: World, database: Any, wanted: str | None = None, error: BaseException | None = None) -> str:
    """The life time while the body runs."""
    assert isinstance(database, FakeDatabase)
    with gc_life_time.raised(here.context, database, wanted):  # type: ignore[arg-type]
        during = database.life_time if VARIABLE in database.rows_of_tidb else ""
        if error:
            raise error
    return during


def test_raised_for_the_run_and_put_back(here: World) -> None:
    database = FakeDatabase()
    assert run(here, database) == "72h"
    assert (database.life_time, database.marker) == ("10m0s", None)
    assert here.report.result["gcLifeTimeBefore"] == "10m0s"
    assert here.report.result["gcLifeTime"] == "put back to 10m0s"


@pytest.mark.parametrize("error", [ToolError("no"), InterruptedError_("stopped"), KeyboardInterrupt()])
def test_put_back_however_the_run_ends(here: World, error: BaseException) -> None:
    database = FakeDatabase()
    with pytest.raises(type(error)):
        run(here, database, error=error)
    assert (database.life_time, database.marker) == ("10m0s", None)


@pytest.mark.parametrize(("old", "wanted"), [("100h", None), ("72h0m0s", None), ("2h", "1h"), ("1h", "60m")])
def test_never_lowered(here: World, old: str, wanted: str | None) -> None:
    database = FakeDatabase({VARIABLE: (old, "")})
    assert run(here, database, wanted) == old
    assert (database.history, database.life_time) == ([], old)


def test_the_wish_of_the_spec_is_honoured(here: World) -> None:
    database = FakeDatabase()
    assert run(here, database, "24h") == "24h"


def test_a_server_without_the_row_is_left_alone(here: World) -> None:
    database = FakeDatabase({})
    run(here, database)
    assert database.rows_of_tidb == {}
    assert "no tikv_gc_life_time" in here.report.result["gcLifeTime"]


def test_without_a_database_nothing_happens(here: World) -> None:
    with gc_life_time.raised(here.context, None, None) as done:
        assert done.before == ""


@pytest.mark.parametrize(
    ("old", "wanted", "reason"),
    [
        ("1d", None, "ParseOldTikvGCLifeTimeFailed"),
        ("", None, "ParseOldTikvGCLifeTimeFailed"),
        ("10m", "3 days", "ParseConfiguredTikvGCLifeTimeFailed"),
    ],
)
def test_texts_that_are_no_duration(here: World, old: str, wanted: str | None, reason: str) -> None:
    database = FakeDatabase({VARIABLE: (old, "")})
    with pytest.raises(ManagerError) as caught:
        run(here, database, wanted)
    assert caught.value.problem().reason == reason
    assert database.history == []


def test_the_old_value_of_a_killed_run_is_put_back_by_the_next(here: World) -> None:
    note = gc_life_time.Note(
        before="10m0s", raised="72h", holders={"ns/killed@12345678": gc_life_time._stamp(NOW - timedelta(days=2))}
    )
    database = FakeDatabase({VARIABLE: ("72h", ""), MARKER: ("10m0s", note.comment())})
    assert run(here, database) == "72h"
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_a_repeated_run_of_the_same_cr_takes_its_own_note_over_at_once(here: World) -> None:
    note = gc_life_time.Note(before="10m0s", raised="72h", holders={"ns/cr@0f5e9c1a": gc_life_time._stamp(NOW)})
    database = FakeDatabase({VARIABLE: ("72h", ""), MARKER: ("10m0s", note.comment())})
    run(here, database)
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_of_two_runs_the_last_to_end_puts_it_back(tmp_path: Path) -> None:
    database = FakeDatabase()
    first = world(tmp_path, {}, uid="aaaaaaaa-1")
    second = world(tmp_path, {}, uid="bbbbbbbb-2")
    with gc_life_time.raised(first.context, database, None):  # type: ignore[arg-type]
        with gc_life_time.raised(second.context, database, None):  # type: ignore[arg-type]
            assert database.life_time == "72h"
        assert database.life_time == "72h"
        assert "stays 72h for ns/cr@aaaaaaaa" in second.report.result["gcLifeTime"]
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_a_value_that_somebody_else_set_meanwhile_stays(here: World) -> None:
    database = FakeDatabase()
    with gc_life_time.raised(here.context, database, None):  # type: ignore[arg-type]
        database.rows_of_tidb[VARIABLE] = ("200h", "")
    assert (database.life_time, database.marker) == ("200h", None)
    assert "somebody changed it" in here.report.result["gcLifeTime"]


def test_a_note_that_cannot_be_read_still_says_the_old_value(here: World) -> None:
    database = FakeDatabase({VARIABLE: ("72h", ""), MARKER: ("10m0s", "scribble")})
    run(here, database)
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_a_short_outage_at_the_end_is_waited_for(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    database = FakeDatabase(failures=[None, DatabaseUnreachableError("down"), DatabaseUnreachableError("down")])
    run(here, database)
    assert database.life_time == "10m0s"


@pytest.mark.parametrize("error", [None, ToolError("dumpling said no", reason="DumpTidbClusterFailed")])
def test_a_failed_reset_is_the_reason_told_and_offers_the_statement(
    here: World, monkeypatch: pytest.MonkeyPatch, error: ToolError | None
) -> None:
    monkeypatch.setattr(gc_life_time, "_RESET_SECONDS", 0.0)
    database = FakeDatabase(failures=[None, DatabaseUnreachableError("down")])
    with pytest.raises(gc_life_time.GcLifeTimeError) as caught:
        run(here, database, error=error)
    problem = caught.value.problem()
    assert problem.reason == "ResetTikvGCLifeTimeFailed"
    assert "set global tidb_gc_life_time = '10m0s'" in problem.hint
    assert ("dumpling said no" in problem.message) is (error is not None)
    assert database.marker is not None


def test_many_holders_never_outgrow_the_row() -> None:
    note = gc_life_time.Note(
        before="10m", raised="72h", holders={f"namespace/backup-{n}@12345678": f"2026-{n:03}" for n in range(100)}
    )
    text = note.comment()
    assert len(text) <= 1000
    assert "namespace/backup-99@12345678" in json.loads(text)["holders"]
