"""``status``: every CR in one table, the troubled ones first."""

from datetime import datetime

import click

from cli.formats import Bytes, age
from cli.models.status import FAILED, KINDS, Summary, summarise
from cli.options import Place, answers, now_option, places
from cli.output import Answer, Table


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@places(everywhere=True)
@now_option
@answers()
def status(*, names: tuple[str, ...], place: Place, now: datetime) -> Answer:
    """Show schedules, Backups, Restores and compactions: what runs, how far it is, what is wrong.

    \b
    Examples:
      tidb-backup status -A
      tidb-backup status nightly -n shop -o json
    """
    found = [summarise(cr, now) for kind in KINDS for cr in place.source.list(kind, everywhere=place.everywhere)]
    if names:
        found = [item for item in found if item.name in names]
    missing = sorted(set(names) - {item.name for item in found})
    rows = [_row(item) for item in sorted(found, key=_order)]
    columns = ("KIND", "NAME", "PHASE", "DONE", "SIZE", "STARTED", "TOOK", "ETA", "MESSAGE")
    return Answer(
        data=[item.data for item in sorted(found, key=_order)],
        parts=[Table(columns=columns, rows=rows, empty="nothing here; look elsewhere with -n NAMESPACE or -A")],
        notes=[f"there is no {name}" for name in missing],
        exit_code=1 if missing else 0,
    )


def _order(item: Summary) -> tuple[int, int, str, str, str]:
    """Kinds in order; what runs, then what is new or waits, then the rest, newest name last."""
    rank = 1 if item.ended and item.phase not in FAILED else 0
    return KINDS.index(item.kind), rank, item.namespace, item.name, item.phase


def _row(item: Summary) -> tuple[object, ...]:
    return (
        item.kind,
        f"{item.namespace}/{item.name}",
        item.phase,
        f"{item.percent:.0f}%" if item.percent is not None else None,
        Bytes.of(item.size),
        item.started,
        age(item.took) if item.took is not None else None,
        item.eta if not item.ended else None,
        item.message,
    )
