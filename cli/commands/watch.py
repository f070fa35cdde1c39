"""``watch``: follow runs until they end; bars on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from backup_manager.errors import ManagerError, NotFoundError, TransientError, UnreachableError
from cli.documents import Source
from cli.formats import when
from cli.models.status import FAILED, KINDS, Summary, summarise
from cli.options import Place, Span, places
from cli.output import Bars, Output

_RUNS: Final = tuple(kind for kind in KINDS if kind != "BackupSchedule")
_PATIENCE: Final = 10
"""Failed looks in a row, after which the API server counts as gone."""


class TimeoutError_(TransientError):
    """What was watched did not end in time."""

    reason = "Timeout"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--interval", type=Span(), default="2s", show_default=True, metavar="SPAN", help="how often to look")
@click.option("--timeout", type=Span(), metavar="SPAN", help="give up after so long, with exit code 1")
@places(files=False, everywhere=True)
def watch(*, names: tuple[str, ...], interval: timedelta, timeout: timedelta | None, place: Place) -> None:
    """Follow Backups, Restores and compactions until all have ended: those named, else all that run now but log backups.

    Exit code 1: one of them failed, or --timeout is over.

    \b
    Examples:
      tidb-backup watch
      tidb-backup watch nightly-2026-01-31t02-00-00 --timeout 2h && echo safe
    """
    output = Output()
    deadline = time.monotonic() + timeout.total_seconds() if timeout is not None else None
    looks = _looks(place.source, names, everywhere=place.everywhere, pause=interval.total_seconds(), deadline=deadline)
    if output.terminal:
        with output.bars() as bars:
            last = _draw(looks, bars)
    else:
        last = _tell(looks, output)
    if not last:
        output.line("nothing runs")
    click.get_current_context().exit(1 if any(item.phase in FAILED for item in last) else 0)


def _looks(
    source: Source, names: Sequence[str], *, everywhere: bool, pause: float, deadline: float | None
) -> Iterator[list[Summary]]:
    """What is watched, look by look, until all of it has ended."""
    watched: set[tuple[str, str]] = set()
    failures = 0
    while True:
        try:
            found = [summarise(cr, datetime.now(UTC)) for kind in _RUNS for cr in source.list(kind, everywhere=everywhere)]
            failures = 0
        except UnreachableError:
            failures += 1
            if failures == _PATIENCE or not watched:
                raise
            found = []
        chosen = {(item.label, item.name) for item in found if _wanted(item, names)}
        if names and not watched and (missing := set(names) - {name for _, name in chosen}):
            raise NotFoundError(f"there is no {', '.join(sorted(missing))}", hint="Look with: tidb-backup status -A")
        watched = watched or chosen
        mine = [item for item in found if (item.label, item.name) in watched]
        if mine or not watched:
            yield mine
            if all(item.ended for item in mine):
                return
        elif not failures:
            raise _gone()
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError_("not all runs have ended in time", hint="They go on; look with: tidb-backup status")
        time.sleep(pause)


def _wanted(item: Summary, names: Sequence[str]) -> bool:
    return item.name in names if names else not (item.ended or item.endless)


def _gone() -> ManagerError:
    return NotFoundError("what was watched has been deleted", hint="tidb-backup history may know what became of it.")


def _draw(looks: Iterator[list[Summary]], bars: Bars) -> list[Summary]:
    last: list[Summary] = []
    for last in looks:
        for item in last:
            bars.show(item.label, 100.0 if item.phase == "Complete" else item.percent, item.words)
    return last


def _tell(looks: Iterator[list[Summary]], output: Output) -> list[Summary]:
    """A line for each change of phase, and for progress every tenth."""
    last: list[Summary] = []
    told: dict[str, tuple[str, int, str]] = {}
    for last in looks:
        for item in last:
            state = (item.phase, int((item.percent or 0) // 10), item.message)
            if told.get(item.label) != state:
                told[item.label] = state
                output.line(f"{when(datetime.now(UTC))} {item.label} {item.words}")
    return last
