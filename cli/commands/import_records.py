"""``import-records``: rebuild Backups from the records in a storage, after the cluster that made them was lost."""

import click

from backup_manager.errors import ManagerError
from cli.formats import Bytes, count
from cli.models.import_records import Rebuilt, rebuild
from cli.options import PLAIN, Place, answers, places
from cli.output import Answer, Table
from cli.storage_scan import read_all, spots


@click.command("import-records")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--yes", is_flag=True, help="make them; without it nothing is changed")
@click.option("--dry-run", is_flag=True, help="only show what would be made (the default)")
@click.option("--offline", is_flag=True, help="with a dry run: do not look which Backups there are already")
@click.option(
    "--clean-policy",
    type=click.Choice(["Retain", "OnFailure", "Delete"]),
    default="Retain",
    show_default=True,
    help="what becomes of the data when such a Backup is deleted",
)
@places(files=False)
@answers(PLAIN)
def import_records(
    *, urls: tuple[str, ...], yes: bool, dry_run: bool, offline: bool, clean_policy: str, place: Place
) -> Answer:
    """Rebuild Backups from the records under URL: complete, with their sizes and times, and never run again.

    Nothing is made without --yes. -o yaml gives the objects for 'kubectl apply', which does the same. Each goes to the
    namespace it was in, or to -n NAMESPACE, which has to exist. Secrets are in no record: create those that the specs name.
    Retention does not touch imported Backups. Log backups are not rebuilt: a Restore names their path itself.

    \b
    Examples:
      tidb-backup import-records s3://tidb-backups/shop                  what would be made
      tidb-backup import-records s3://tidb-backups/shop -n shop --yes
      tidb-backup import-records s3://tidb-backups/shop --offline -o yaml | kubectl apply -f -
    """
    if yes and (dry_run or offline):
        raise click.UsageError("--yes goes neither with --dry-run nor with --offline")
    scan = read_all(spots(urls))
    existing = [] if offline else place.source.list("Backup", everywhere=not place.namespace)
    found = rebuild(scan.stored, existing, namespace=place.namespace, clean_policy=clean_policy)
    results = [_apply(item, place) if yes else ("skipped" if item.skipped else "would be made", item.skipped) for item in found]
    made = sum(result in {"made", "would be made"} for result, _ in results)
    rows = [
        (item.name, result, item.record.time_completed, Bytes.of(item.record.size), item.record.backup_path, told)
        for item, (result, told) in zip(found, results, strict=True)
    ]
    failed = any(result == "FAILED" for result, _ in results) or bool(scan.problems)
    notes = [f"{item.name}: {note}" for item in found for note in item.notes]
    if made and not yes:
        notes.append("nothing was changed; --yes makes them")
    return Answer(
        data=[item.backup for item in found if item.backup],
        parts=[
            Table(columns=("NAME", "WHAT", "COMPLETED", "SIZE", "PATH", "WHY"), rows=rows, empty="no record there"),
            f"{count(made, 'Backup')} {'made' if yes else 'would be made'}, {len(found) - made} not",
        ],
        notes=[*notes, *scan.problems],
        exit_code=5 if failed else 0,
    )


def _apply(item: Rebuilt, place: Place) -> tuple[str, str]:
    """Make one Backup; the annotation keeps it from being run, whoever is faster at its status."""
    if item.backup is None or item.status is None:
        return "skipped", item.skipped
    from cli.cluster import ConflictError  # noqa: PLC0415

    try:
        made = place.cluster.create(item.backup)
    except ManagerError as error:
        return "FAILED", error.message
    try:
        place.cluster.set_status(made, item.status)
    except ConflictError:
        return "made", ""  # the hook was faster, and says the same
    except ManagerError as error:
        return "made", f"its status follows from the hook: {error.message}"
    return "made", ""
