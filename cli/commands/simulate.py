"""``simulate``: the coming months of a schedule, decided by the hook's own code under a movable clock."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from backup_manager.errors import UsageError
from cli.documents import Files, key_of, read_files
from cli.formats import Bytes, age, count, size, when
from cli.models.simulate import Assumption, Sample, SimulationResult, Simulator
from cli.options import Moment, Size, Span, answers
from cli.output import Answer, Table
from cli.requests import configuration
from cli.schedules import choose

_DAILY: Final = 14
"""So many days are shown one by one; more of them by the week."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--days", type=click.IntRange(1, 3660), default=90, show_default=True, help="how many days pass")
@click.option("--size", "each", type=Size(), default=0, metavar="SIZE", help="of every Backup, like 10GiB")
@click.option("--duration", type=Span(), default="30m", show_default=True, metavar="SPAN", help="how long every run lasts")
@click.option("--start", type=Moment(), metavar="TIME", help="when it begins; now when left out")
@click.option("--schedule", default="", metavar="NAME", help="which one, when the files hold several")
@answers()
def simulate(
    *, files: tuple[str, ...], days: int, each: int, duration: timedelta, start: datetime | None, schedule: str
) -> Answer:
    """Show the coming months of a schedule: what runs, what is kept when, how much that is at most.

    The hook itself decides, under a clock that is moved; every run succeeds. Backups of the schedule that the files hold are
    there from the start. STORAGE also counts what cleanPolicy Retain leaves behind.

    \b
    Examples:
      tidb-backup simulate examples/schedule.yaml --days 90 --size 10GiB
      kubectl get bk,bks -o yaml | tidb-backup simulate - --schedule nightly --days 365 --size 1TiB -o json
    """
    source = Files(read_files(files))
    parents = choose(source, schedule)
    if len(parents) > 1:
        there = ", ".join(key_of(parent)[2] for parent in parents)
        raise UsageError(f"the files hold several schedules: {there}", hint="Choose one with --schedule.")
    assume = Assumption(size=each, duration=duration)
    world = Simulator(parents[0], source.objects, configuration(), start or datetime.now(UTC), assume)
    result = world.run(days)
    name = "/".join(key_of(parents[0])[1:])
    notes = [] if each else ["give --size to see how much that is"]
    return Answer(data=_data(name, result), parts=[_summary(name, result), _timeline(result), _left(result)], notes=notes)


def _summary(name: str, result: SimulationResult) -> str:
    span = (result.end - result.start).days
    gone = [run for run in result.runs if run.deleted]
    lines = [
        f"BackupSchedule {name}, {count(span, 'day')} from {when(result.start)}: {count(len(result.runs), 'Backup')}, "
        f"{len(gone)} deleted, {len(result.runs) - len(gone)} left"
    ]
    if result.compactions:
        lines[0] += f", {count(result.compactions, 'compaction')}"
    if result.most and result.largest:
        lines.append(f"at most {count(result.most.kept, 'Backup')} at once, first on {when(result.most.time)}")
        if result.largest.stored:
            lines.append(f"at most {size(result.largest.stored)} in the storage, first on {when(result.largest.time)}")
    return "\n".join(lines)


def _timeline(result: SimulationResult) -> Table:
    step = 1 if len(result.days) <= _DAILY else 7
    shown = [day for index, day in enumerate(result.days, start=1) if index % step == 0 or index == len(result.days)]
    rows = [(day.time, day.made, day.gone, day.kept, Bytes(day.size), Bytes(day.stored)) for day in shown]
    return Table(columns=("UNTIL", "MADE", "DELETED", "KEPT", "SIZE", "STORAGE"), rows=rows)


def _left(result: SimulationResult) -> Table:
    created = {run.name: run.created for run in result.runs}
    rows = [
        (verdict.name, age(result.end - created[verdict.name]), str(verdict.rule), verdict.until)
        for verdict in result.verdicts
        if verdict.keep
    ]
    return Table(title="Left at the end", columns=("NAME", "AGE", "KEPT BY", "UNTIL"), rows=rows, empty="nothing is left")


def _day(day: Sample | None) -> Mapping[str, Any] | None:
    if day is None:
        return None
    return {
        "time": day.time,
        "made": day.made,
        "deleted": day.gone,
        "kept": day.kept,
        "bytes": day.size,
        "storedBytes": day.stored,
    }


def _data(name: str, result: SimulationResult) -> dict[str, Any]:
    rules = {verdict.name: str(verdict.rule) for verdict in result.verdicts if verdict.keep}
    runs = [
        {
            "name": run.name,
            "created": run.created,
            "completed": run.completed,
            "deleted": run.deleted,
            "rule": run.rule or rules.get(run.name),
            "bytes": run.size,
        }
        for run in result.runs
    ]
    return {
        "schedule": name,
        "start": result.start,
        "end": result.end,
        "peakCount": _day(result.most),
        "peakBytes": _day(result.largest),
        "compactions": result.compactions,
        "days": [_day(day) for day in result.days],
        "runs": runs,
    }
