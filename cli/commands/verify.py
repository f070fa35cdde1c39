"""``verify`` and ``check``: operations of backup-manager, run here with the user's own credentials."""

from collections.abc import Mapping
from typing import Any, Final

import click
import msgspec

from backup_manager.catalog.content import Content
from backup_manager.errors import UsageError
from backup_manager.operations import check as check_operation
from backup_manager.operations import verify as verify_operation
from cli.documents import Object, shown
from cli.formats import count
from cli.local_run import Outcome, perform
from cli.options import PLAIN, Place, answers, places
from cli.output import Answer, Table
from cli.selection import choose
from crds.contract.paths import Location, PathError

_CHECKED: Final = ("Backup", "Restore", "BackupSchedule")
_DIFFERENCES: Final = (("missing", "missingKeys"), ("changed", "changedKeys"), ("extra", "extraKeys"))


@click.command()
@click.argument("name", metavar="NAME|URL")
@places()
@answers(PLAIN)
def verify(*, name: str, place: Place) -> Answer:
    """Compare the data of a Backup with its record: what is missing, extra or changed. No data is downloaded.

    NAME is a Backup; s3://bucket/path works without any cluster. The storage is read with the credentials of this environment:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, S3_ENDPOINT, AZURE_STORAGE_KEY, GOOGLE_APPLICATION_CREDENTIALS.
    Exit code 4: something differs.

    \b
    Examples:
      tidb-backup verify nightly-2026-01-31t02-00-00 -n shop
      tidb-backup verify s3://tidb-backups/shop/nightly-1a2b3c4d -o json
    """
    flags: dict[str, Any] = {}
    if "://" in name:
        flags["backupPath"] = _path(name)
        cr: Object = {"kind": "Backup", "metadata": {"name": name}, "spec": {}}
    else:
        cr = place.source.get("Backup", name)
    outcome = perform(verify_operation.run, cr, flags=flags)
    result = outcome.result
    rows = [(kind, key) for kind, field in _DIFFERENCES for key in result.get(field) or ()]
    head = _verdict(name if flags else shown(cr), outcome)
    more = sum(int(result.get(kind) or 0) for kind, _ in _DIFFERENCES) - len(rows)
    parts: list[str | Table] = [head, Table(columns=("WHAT", "OBJECT"), rows=rows)]
    if more > 0:
        parts.append(f"and {count(more, 'more difference')}")
    return Answer(data=_data(outcome), parts=parts, exit_code=outcome.exit_code)


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
        title=shown(cr), columns=("CHECK", "STATE", "FOUND", "NEXT STEP"), rows=rows, empty=_verdict(shown(cr), outcome)
    )
    return Answer(data=_data(outcome), parts=[table], exit_code=outcome.exit_code)


def _path(url: str) -> str:
    try:
        return Location.parse(url).url
    except PathError as error:
        raise UsageError(str(error), hint="Write it like s3://bucket/path, or name a Backup.") from None


def _verdict(what: str, outcome: Outcome) -> str:
    if outcome.problem is None:
        checked = outcome.result.get("objectCount")
        held = _content_words(outcome.result.get("content"))
        return f"{what}: as recorded" + (f", {count(int(checked), 'object')}" if checked is not None else "") + held
    problem = outcome.problem
    return "\n".join(text for text in (f"{problem.reason}: {problem.message}", problem.hint) if text)


def _content_words(told: Any) -> str:
    """What the backup holds, for people."""
    if not isinstance(told, Mapping):
        return ""
    return f"; {msgspec.convert(told, Content)}" if told.get("known") else "; which tables it holds was not recorded"


def _data(outcome: Outcome) -> Mapping[str, Any]:
    told: dict[str, Any] = {"ok": outcome.problem is None, **outcome.result}
    if outcome.problem:
        told["error"] = {key: value for key, value in outcome.problem.plain().items() if value}
    return told
