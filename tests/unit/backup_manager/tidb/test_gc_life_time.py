"""The GC life time: only raised, always put back, also by whoever runs next."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_manager.errors import ManagerError, RunInterruptedError, ToolError
from backup_manager.locking.lock import LockLostError, Pace
from backup_manager.signals import StopSignal
from backup_manager.tidb import gc_life_time
from backup_manager.tidb.connection import DatabaseUnreachableError
from backup_manager.tidb.gc_life_time import PACE, Mark, Note
from crds.contract.report import Report
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
    assert here.report.result["gcLifeTime"] == "restored to 10m0s"


@pytest.mark.parametrize("error", [ToolError("no"), RunInterruptedError("stopped"), KeyboardInterrupt()])
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


@dataclass
class Time:
    """One monotonic clock for the runs of a test; PD's time goes with it."""

    database: FakeDatabase
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.database.milliseconds += int(seconds * 1000)


def marked(here: World, database: FakeDatabase, clock: Time, *, attempt: str = "") -> Mark:
    """A run that has raised the life time."""
    mark = Mark.of(here.context, database, clock=clock)  # type: ignore[arg-type]
    mark.attempt = attempt or mark.attempt
    mark.enter("72h", timedelta(hours=72))
    return mark


def other(tmp_path: Path, name: str) -> World:
    return world(tmp_path, {}, uid=f"{name}-uid-of-another-cr")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a run made; they move no clock."""
    made: list[float] = []
    monkeypatch.setattr(StopSignal, "wait", lambda _self, seconds: made.append(seconds))
    return made


def test_a_run_that_was_killed_is_dead_once_it_did_not_renew_for_its_duration(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    marked(other(tmp_path, "killed"), database, clock)
    clock.passes(PACE.duration - 10)
    here = marked(other(tmp_path, "next"), database, clock)
    clock.passes(20 + gc_life_time.CONFIRM_SECONDS)
    here.renew()
    assert here.leave(other(tmp_path, "next").context).startswith("restored to 10m0s; did not renew: Backup ns/cr")
    assert (database.life_time, database.marker, database.holders) == ("10m0s", None, [])


def test_a_run_that_renews_for_25_hours_is_never_taken_for_dead(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    long = marked(other(tmp_path, "long"), database, clock)
    for _ in range(25 * 60):
        clock.passes(PACE.renew)
        long.renew()
    short = marked(other(tmp_path, "short"), database, clock)
    assert short.leave(other(tmp_path, "short").context).startswith("stays 72h for Backup ns/cr")
    assert database.life_time == "72h"
    long.renew()
    long.leave(other(tmp_path, "long").context)
    assert (database.life_time, database.marker, database.holders) == ("10m0s", None, [])


def test_a_jump_of_pds_clock_takes_nobody_for_dead(tmp_path: Path, waits: list[float]) -> None:
    """A year ahead between two renewals: the holder looks silent, so it is looked at again before anything is restored."""
    database = FakeDatabase()
    clock = Time(database)
    living = marked(other(tmp_path, "living"), database, clock)
    short = marked(other(tmp_path, "short"), database, clock)
    database.milliseconds += 365 * 86_400_000

    def renews(seconds: float) -> None:
        waits.append(seconds)
        clock.passes(seconds)
        living.renew()

    here = other(tmp_path, "short")
    here.context.stop.wait = renews  # type: ignore[method-assign]
    assert short.leave(here.context).startswith("stays 72h for Backup ns/cr")
    assert waits == [pytest.approx(gc_life_time.CONFIRM_SECONDS)]
    assert database.life_time == "72h"


def test_a_node_whose_clock_is_a_year_off_is_as_good_as_any(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    wrong = other(tmp_path, "wrong")
    wrong = World(
        context=replace(wrong.context, now=lambda: NOW.replace(year=2027)), reporter=wrong.reporter, lines=wrong.lines
    )
    holder = marked(wrong, database, clock)
    short = marked(other(tmp_path, "short"), database, clock)
    assert short.leave(other(tmp_path, "short").context).startswith("stays 72h")
    holder.leave(wrong.context)
    assert database.life_time == "10m0s"


def test_a_run_that_ends_at_once_leaves_a_doubtful_one_to_the_next(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    marked(other(tmp_path, "killed"), database, clock)
    clock.passes(PACE.duration + 1)
    here = other(tmp_path, "stopped")
    mark = marked(here, database, clock)
    here.context.stop.request()
    assert "may be dead: the next run restores 10m0s" in mark.leave(here.context)
    assert (database.life_time, len(database.holders)) == ("72h", 1)


def test_a_repeated_run_of_the_same_cr_takes_its_own_note_over_at_once(here: World) -> None:
    database = FakeDatabase()
    marked(here, database, Time(database), attempt="killed")
    run(here, database)
    assert (database.life_time, database.marker, database.holders) == ("10m0s", None, [])


def test_a_stale_attempt_of_the_same_cr_notices_and_takes_nothing_away(here: World) -> None:
    database = FakeDatabase()
    clock = Time(database)
    stale = marked(here, database, clock, attempt="first")
    marked(here, database, clock, attempt="second")
    with pytest.raises(LockLostError):
        stale.renew()
    assert stale.leave(here.context).startswith("stays 72h")
    assert (database.life_time, len(database.holders)) == ("72h", 1)


def test_a_run_that_was_taken_for_dead_notices(here: World) -> None:
    database = FakeDatabase()
    mark = marked(here, database, Time(database))
    del database.rows_of_tidb[mark.row]
    with pytest.raises(LockLostError):
        mark.renew()


def test_a_run_that_cannot_renew_stops_its_tool_before_it_may_count_as_dead(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PACE.fence + PACE.grace < PACE.duration
    quick = Pace(duration=1.0, renew=0.01, retry=0.01, fence=0.1, grace=0.0)
    made = Mark.of
    monkeypatch.setattr(Mark, "of", lambda *given, **more: replace(made(*given, **more), pace=quick))
    database = FakeDatabase()

    def fails(_self: Mark) -> None:
        raise DatabaseUnreachableError("down")

    monkeypatch.setattr(Mark, "renew", fails)
    with (
        pytest.raises(gc_life_time.GcLifeTimeLostError) as caught,
        gc_life_time.raised(here.context, database, None),  # type: ignore[arg-type]
    ):
        here.context.stop.wait(60)
    problem = caught.value.problem()
    assert (problem.reason, problem.retryable) == ("GcLifeTimeLost", True)
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_that_it_is_raised_is_stored_before_it_is(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment from then on, the run's report says that there is something to restore."""
    database, at_entry = FakeDatabase(), list[Report]()
    enter = Mark.enter

    def noting(self: Mark, wanted: str, target: timedelta) -> Note:
        at_entry.extend(here.reporter.stored)
        return enter(self, wanted, target)

    monkeypatch.setattr(Mark, "enter", noting)
    run(here, database)
    assert at_entry[-1].result == {"gcLifeTimeBefore": "10m0s", "gcLifeTimeState": "Raised"}
    assert here.report.result["gcLifeTimeState"] == "Released"


def test_what_was_not_raised_is_not_reported_as_raised(here: World) -> None:
    run(here, FakeDatabase({VARIABLE: ("100h", "")}))
    assert "gcLifeTimeState" not in here.report.result
    assert here.reporter.stored == []


def test_the_row_of_a_cr_without_a_run_is_removed_whichever_attempt_left_it(here: World) -> None:
    database = FakeDatabase()
    marked(here, database, Time(database), attempt="killed")
    assert gc_life_time.release(here.context, database) == "restored to 10m0s"  # type: ignore[arg-type]
    assert (database.life_time, database.marker, database.holders) == ("10m0s", None, [])
    assert here.report.result["gcLifeTimeState"] == "Released"
    assert gc_life_time.release(here.context, database) == "restored already by another run"  # type: ignore[arg-type]


def test_a_marker_that_holds_no_duration_is_told_and_not_taken_for_restored(here: World) -> None:
    database = FakeDatabase({VARIABLE: ("72h0m0s", ""), MARKER: ("soon", "")})
    told = gc_life_time.release(here.context, database)  # type: ignore[arg-type]
    assert told.startswith("stays 72h0m0s: row tidb_backup_gc_life_time_before of mysql.tidb says that it was 'soon' before")
    assert "set global tidb_gc_life_time" in told
    assert database.life_time == "72h0m0s"


def test_a_run_of_a_release_that_did_not_renew_counts_for_a_day(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    since = datetime.fromtimestamp(database.milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    note = Note(before="10m0s", raised="72h", old_holders={"ns/old@12345678": since})
    database.rows_of_tidb |= {VARIABLE: ("72h", ""), MARKER: ("10m0s", note.comment())}
    mark = marked(other(tmp_path, "new"), database, clock)
    assert mark.leave(other(tmp_path, "new").context).startswith("stays 72h for ns/old@12345678")
    clock.passes(86_401)
    marked(other(tmp_path, "new"), database, clock).leave(other(tmp_path, "new").context)
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_a_value_that_somebody_set_before_another_run_joins_is_the_one_that_is_restored(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    first = marked(other(tmp_path, "first"), database, clock)
    database.rows_of_tidb[VARIABLE] = ("200h", "")
    second = marked(other(tmp_path, "second"), database, clock)
    first.leave(other(tmp_path, "first").context)
    second.leave(other(tmp_path, "second").context)
    assert (database.life_time, database.marker) == ("200h", None)


def test_many_holders_at_once_are_all_kept(tmp_path: Path) -> None:
    database = FakeDatabase()
    clock = Time(database)
    marks = [marked(other(tmp_path, f"{number:03}"), database, clock) for number in range(100)]
    assert len(database.holders) == 100
    for mark in marks[1:]:
        mark.leave(other(tmp_path, "x").context)
    assert database.life_time == "72h"
    marks[0].leave(other(tmp_path, "x").context)
    assert (database.life_time, database.holders) == ("10m0s", [])


def test_a_name_fits_into_the_row_whatever_the_uid() -> None:
    assert len(gc_life_time.HOLDER + "0f5e9c1a-7777-4444-8888-000000000001") <= 64


def test_of_two_runs_the_last_to_end_puts_it_back(tmp_path: Path) -> None:
    database = FakeDatabase()
    first = world(tmp_path, {}, uid="aaaaaaaa-1")
    second = world(tmp_path, {}, uid="bbbbbbbb-2")
    with gc_life_time.raised(first.context, database, None):  # type: ignore[arg-type]
        with gc_life_time.raised(second.context, database, None):  # type: ignore[arg-type]
            assert database.life_time == "72h"
        assert database.life_time == "72h"
        assert "stays 72h for Backup ns/cr" in second.report.result["gcLifeTime"]
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


@pytest.mark.parametrize("before", ["", "scribble"])
def test_a_note_without_a_life_time_in_it_never_becomes_the_life_time(here: World, before: str) -> None:
    database = FakeDatabase({VARIABLE: ("10m0s", ""), MARKER: (before, '{"raised":"10m0s"}')})
    run(here, database)
    assert (database.life_time, database.marker) == ("10m0s", None)


def test_a_renewal_that_committed_while_the_leaver_waited_for_its_lock_counts_at_once(
    tmp_path: Path, waits: list[float]
) -> None:
    database = FakeDatabase()
    clock = Time(database)
    here = marked(other(tmp_path, "ours"), database, clock)
    marked(other(tmp_path, "alive"), database, clock)
    row = next(name for name in database.rows_of_tidb if name.startswith(gc_life_time.HOLDER + "alive"))
    database.rows_of_tidb[row] = (str(database.milliseconds + 2000), database.rows_of_tidb[row][1])
    assert here.leave(other(tmp_path, "ours").context).startswith("stays 72h for Backup ns/cr")
    assert waits == []


def test_a_row_from_the_future_or_an_old_note_of_garbage_does_not_keep_it_raised(tmp_path: Path, waits: list[float]) -> None:
    database = FakeDatabase()
    clock = Time(database)
    far = str(database.milliseconds + 400 * 86_400_000)
    here = marked(other(tmp_path, "ours"), database, clock)
    database.rows_of_tidb[gc_life_time.HOLDER + "odd"] = (far, "")
    database.rows_of_tidb[MARKER] = ("10m0s", '{"raised":"72h","holders":{"ns/x@1":"zzz","ns/y@2":"9999-01-01T00:00:00Z"}}')
    here.renew()
    clock.passes(gc_life_time.CONFIRM_SECONDS + 1)
    assert "restored to 10m0s" in here.leave(other(tmp_path, "ours").context)
    assert (database.life_time, database.marker, waits) == ("10m0s", None, [])


def test_a_short_outage_at_the_end_is_waited_for(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    database = FakeDatabase(failures=[None, None, DatabaseUnreachableError("down"), DatabaseUnreachableError("down")])
    run(here, database)
    assert database.life_time == "10m0s"


@pytest.mark.parametrize("error", [None, ToolError("dumpling said no", reason="DumpTidbClusterFailed")])
def test_a_failed_reset_is_the_reason_told_and_offers_the_statement(
    here: World, monkeypatch: pytest.MonkeyPatch, error: ToolError | None
) -> None:
    monkeypatch.setattr(gc_life_time, "_RESET_SECONDS", 0.0)
    database = FakeDatabase(failures=[None, None, DatabaseUnreachableError("down")])
    with pytest.raises(gc_life_time.GcLifeTimeError) as caught:
        run(here, database, error=error)
    problem = caught.value.problem()
    assert problem.reason == "ResetTikvGCLifeTimeFailed"
    assert "set global tidb_gc_life_time = '10m0s'" in problem.hint
    assert ("dumpling said no" in problem.message) is (error is not None)
    assert database.marker is not None
