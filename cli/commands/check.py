"""``check``: backup-manager's preflight, run here with the user's own credentials."""

from typing import Final

import click

from backup_manager.operations import check as check_operation
from cli.documents import shown
from cli.local_run import perform
from cli.options import PLAIN, Place, answers, places
from cli.output import Answer, Table
from cli.selection import choose

_CHECKED: Final = ("Backup", "Restore", "BackupSchedule")


@click.command()
@click.argument("name", required=False, default="", metavar="[KIND/]NAME")
@click.option("--client-tls", is_flag=True, help="use TLS to the database, with the files that a Job would mount")
@places()
@answers(PLAIN)
def check(*, name: str, client_tls: bool, place: Place) -> Answer:
    """See whether storage and database can be reached and used: list, write, read and delete a probe, log in.

    It runs here, with this environment's credentials (and BACKUP_MANAGER_PASSWORD for the database), not in the cluster: a
    network policy or a node's identity may still differ. Exit code 4: a check failed.

    \b
    Examples:
      tidb-backup check -f examples/backup-export-s3.yaml
      tidb-backup check schedule/nightly -n shop
    """
    cr = choose(place.source, name, _CHECKED)
    outcome = perform(check_operation.run, cr, flags={"client-tls": client_tls})
    checks = outcome.result.get("checks") or ()
    rows = [(item["name"], item["status"], item.get("message"), item.get("hint")) for item in checks]
    table = Table(
        title=shown(cr), columns=("CHECK", "STATE", "FOUND", "NEXT STEP"), rows=rows, empty=outcome.verdict(shown(cr))
    )
    return Answer(data=outcome.data(), parts=[table], exit_code=outcome.exit_code)
