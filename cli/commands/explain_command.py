"""``explain-command``: the plain line of br, dumpling or lightning behind a CR."""

from datetime import datetime
from typing import Any

import click

from cli.documents import Object, shown
from cli.models.explain_command import CommandLine, explain
from cli.options import PLAIN, Place, answers, now_option, places
from cli.output import Answer
from cli.requests import HOOKS, configuration
from cli.selection import choose


@click.command("explain-command")
@click.argument("name", required=False, default="", metavar="[KIND/]NAME")
@click.option("--tikv-version", default="v8.5.0", show_default=True, help="where no TidbCluster tells it")
@places()
@now_option
@answers(PLAIN)
def explain_command(*, name: str, tikv_version: str, place: Place, now: datetime) -> Answer:
    """Show the br, dumpling or lightning line that the Job of a CR runs, to do it by hand on the day we are down.

    Secrets are blanked (******); where they come from is told. Of a schedule it is the line of its next Backup.

    \b
    Examples:
      tidb-backup explain-command -f examples/backup-br-s3.yaml
      tidb-backup explain-command schedule/nightly -n shop
    """
    cr = choose(place.source, name, list(HOOKS))
    clusters = place.source.list("TidbCluster", everywhere=True)
    lines = explain(cr, clusters, configuration(), now, version=tikv_version)
    data = [
        {"cr": shown(cr), "purpose": line.purpose, "argv": line.argv, "env": line.env, "files": line.files} for line in lines
    ]
    return Answer(data=data, parts=[_text(cr, line) for line in lines])


def _text(cr: Object, line: CommandLine) -> str:
    parts: list[Any] = [f"# {shown(cr)}: {line.purpose}"]
    parts += [f"export {name}={_value(value)}" for name, value in line.env.items()]
    parts += [f"cat > {name} <<'EOF'\n{text.rstrip()}\nEOF" for name, text in line.files.items()]
    return "\n".join([*parts, line.text])


def _value(value: str) -> str:
    return f"...   # {value.strip('<>')}" if value.startswith("<") else value
