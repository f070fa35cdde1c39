"""``verify``: backup-manager's comparison of data and record, run here with the user's own credentials."""

from typing import Any, Final

import click

from backup_manager.errors import UsageError
from backup_manager.operations import verify as verify_operation
from cli.documents import Object, shown
from cli.formats import count
from cli.local_run import perform
from cli.options import PLAIN, Place, answers, places
from cli.output import Answer, Table
from crds.contract.paths import Location, PathError

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
    head = outcome.verdict(name if flags else shown(cr))
    more = sum(int(result.get(kind) or 0) for kind, _ in _DIFFERENCES) - len(rows)
    parts: list[str | Table] = [head, Table(columns=("WHAT", "OBJECT"), rows=rows)]
    if more > 0:
        parts.append(f"and {count(more, 'more difference')}")
    return Answer(data=outcome.data(), parts=parts, exit_code=outcome.exit_code)


def _path(url: str) -> str:
    try:
        return Location.parse(url).url
    except PathError as error:
        raise UsageError(str(error), hint="Write it like s3://bucket/path, or name a Backup.") from None
