"""``next``: the coming runs, on the schedule's clock and in UTC."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import click

from cli.formats import age, local
from cli.models.next_runs import Run, coming, duration, zone_of
from cli.options import Place, answers, now_option, places
from cli.output import Answer, Table
from cli.requests import configuration
from cli.schedules import ScheduleView, choose, cluster_of, load_schedules, owned_objects


@click.command("next")
@click.argument("schedule", required=False, default="", metavar="[SCHEDULE]")
@click.option("-c", "--count", "number", type=click.IntRange(1, 10_000), default=10, show_default=True, help="how many runs")
@places(everywhere=True)
@now_option
@answers()
def next_(*, schedule: str, number: int, place: Place, now: datetime) -> Answer:
    """Show the coming runs: on the schedule's own clock and in UTC, with what the clock does to them.

    A time that daylight saving skips does not run and is shown as skipped; one that comes twice runs once. A run collides when
    another schedule works on the same TiDB cluster at that time: BR takes one task at a time, the second one waits. How long
    runs last is known from complete ones.

    \b
    Examples:
      tidb-backup next                           the next 10 runs in the namespace
      tidb-backup next nightly -c 30 -n shop
      tidb-backup next -f examples/schedule.yaml -o json
    """
    config, source = configuration(), place.source
    everywhere = place.everywhere or "/" in schedule
    objects = owned_objects(source, everywhere=everywhere)
    subjects, problems = load_schedules(choose(source, schedule, everywhere=place.everywhere), objects, config, now)
    neighbours, _ = load_schedules(source.list("BackupSchedule", everywhere=everywhere), objects, config, now, lenient=True)
    runs = coming(subjects, number, neighbours=neighbours)
    table = Table(
        columns=("IN", "SCHEDULE", "UTC", "LOCAL", "ZONE", "NOTE"), rows=[_row(run) for run in runs], empty="no run is coming"
    )
    return Answer(
        data=[_data(run) for run in runs],
        parts=[table],
        notes=[*problems, *_notes(subjects, alone=len(neighbours) < 2)],
        exit_code=5 if problems else 0,
    )


def _notes(subjects: Sequence[ScheduleView], *, alone: bool) -> Iterator[str]:
    for subject in subjects:
        if subject.schedule.pause:
            yield f"{subject.name} is paused: no run comes until spec.pause is unset"
        elif not alone and duration(subject) is None:
            yield f"{subject.name}: no complete run yet, so how long one lasts is unknown (taken for 1m)"


def _row(run: Run) -> tuple[object, ...]:
    wait = age(run.time - run.subject.now) if run.time and run.time > run.subject.now else "now" if run.time else "skipped"
    notes = "; ".join(run.notes)
    shown = local(run.wall) if run.time else f"{run.wall:%a %Y-%m-%d %H:%M}"
    return wait, run.subject.name, run.time, shown, zone_of(run.subject).key, notes


def _data(run: Run) -> dict[str, Any]:
    return {
        "schedule": run.subject.name,
        "cluster": cluster_of(run.subject.observed.parent),
        "time": run.time,
        "local": run.wall.isoformat() if run.time else run.wall.replace(tzinfo=None).isoformat(),
        "zone": zone_of(run.subject).key,
        "notes": list(run.notes),
    }
