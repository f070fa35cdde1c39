"""``history``: every backup and restore, also of CRs and clusters that are gone; and whether somebody touched the account."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from backup_manager.catalog.audit_log import Audit, AuditViolation, Kind, against_records
from backup_manager.errors import NotFoundError, UsageError
from cli.documents import Object
from cli.formats import Bytes, age, count
from cli.models.history import Timeline, outcome, remark, since
from cli.options import Moment, Place, answers, places
from cli.output import Answer, Table
from cli.storage_scan import StorageScan, read_all, spots, spots_of

_storage_option = click.option(
    "--storage", "urls", multiple=True, metavar="URL", help="read the records under s3://bucket/prefix; else those of the CRs"
)
_offline_option = click.option("--offline", is_flag=True, help="ask no cluster: only --storage (and -f) counts")


@click.group(invoke_without_command=True)
@_storage_option
@_offline_option
@click.option("--no-records", is_flag=True, help="read no storage: only what CRs tell")
@click.option("--since", "start", type=Moment(), metavar="TIME", help="from then on: 30d, 2026-01-31")
@places(everywhere=True)
@answers()
@click.pass_context
def history(
    ctx: click.Context, /, *, urls: tuple[str, ...], offline: bool, no_records: bool, start: datetime | None, place: Place
) -> Answer | None:
    """List every Backup and Restore: those of the cluster, and those whose CR or cluster is gone.

    Storages are read with the credentials of this environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, S3_ENDPOINT,
    AZURE_STORAGE_KEY, GOOGLE_APPLICATION_CREDENTIALS. The whole prefix is listed, so name the narrowest one. Exit code 5: a
    storage could not be read.

    \b
    Examples:
      tidb-backup history -n shop --since 30d
      tidb-backup history --storage s3://tidb-backups/shop --offline -o csv
      tidb-backup history verify --storage s3://tidb-backups/shop --offline
    """
    if ctx.invoked_subcommand:
        return None
    if urls and no_records:
        raise click.UsageError("--storage names records to read, --no-records forbids to read any")
    crs = _crs(place, offline, urls)
    scan = StorageScan() if no_records else _shelf(crs, urls, lenient=bool(crs))
    timeline = Timeline()
    timeline.add_shelf(scan)
    timeline.add_crs([cr for cr in crs if cr["kind"] in {"Backup", "Restore"}], datetime.now(UTC))
    events = list(since(timeline.events(), start))
    rows = [
        (
            event.time,
            event.kind,
            f"{event.namespace}/{event.name}",
            outcome(event),
            Bytes.of(event.size),
            age(event.took) if event.took is not None else None,
            event.path,
            remark(event),
        )
        for event in events
    ]
    columns = ("TIME", "KIND", "NAME", "OUTCOME", "SIZE", "TOOK", "PATH", "NOTE")
    return Answer(
        data=[event.data for event in events],
        parts=[Table(columns=columns, rows=rows, empty=f"no backup and no restore{_where(place, urls)}")],
        notes=scan.problems,
        exit_code=5 if scan.problems else 0,
    )


@history.command()
@_storage_option
@_offline_option
@click.option("--against", default="", metavar="FILE", help="output of an earlier 'history verify -o json', kept elsewhere")
@places(everywhere=True)
@answers()
def verify(*, urls: tuple[str, ...], offline: bool, against: str, place: Place) -> Answer:
    """Find entries that were cut out or edited, and records that contradict the history.

    Every entry carries the digest of the one before it and of the record it tells of. A history that was cut at its end
    together with its records, or forged as a whole, shows only against an earlier answer kept out of reach of those who can
    write to the bucket: -o json tells the last digest of each folder, --against FILE takes it back.
    Exit code 4: something is wrong.

    \b
    Examples:
      tidb-backup history verify --storage s3://tidb-backups/shop --offline -o json > seen.json
      tidb-backup history verify --storage s3://tidb-backups/shop --offline --against seen.json
    """
    earlier = _earlier(against) if against else {}
    scan = _shelf(_crs(place, offline, urls), urls)
    if not scan.accounts and not scan.stored and not earlier:
        raise NotFoundError("no history there", hint="Name the prefix that the backups lie under with --storage.")
    judged = [(account, _findings(account, scan, earlier)) for account in _with_missing(scan, earlier)]
    rows = [
        (
            account.folder.url,
            account.length,
            "broken" if findings else "ok",
            account.head[:16],
            "; ".join(f.message for f in findings),
        )
        for account, findings in judged
    ]
    broken = any(findings for _, findings in judged)
    total = f"{count(sum(account.length for account, _ in judged), 'event')} in {count(len(judged), 'folder')}"
    return Answer(
        data=[_data(account, findings) for account, findings in judged],
        parts=[Table(columns=("FOLDER", "EVENTS", "STATE", "LAST DIGEST", "FOUND"), rows=rows), total],
        notes=scan.problems,
        exit_code=4 if broken else 5 if scan.problems else 0,
    )


def _crs(place: Place, offline: bool, urls: Sequence[str]) -> list[Object]:
    if offline and not place.offline:
        if not urls:
            raise UsageError("--offline leaves nothing to look at", hint="Name a storage: --storage s3://bucket/prefix.")
        return []
    kinds = ("Backup", "Restore", "BackupSchedule")
    return [cr for kind in kinds for cr in place.source.list(kind, everywhere=place.everywhere)]


def _shelf(crs: Sequence[Object], urls: Sequence[str], *, lenient: bool = False) -> StorageScan:
    return read_all(spots(urls) if urls else spots_of(crs), lenient=lenient)


def _where(place: Place, urls: Sequence[str]) -> str:
    """So that a mistyped name does not look like an empty past."""
    looked = [*urls, *([f"namespace {place.namespace}"] if place.namespace and not place.everywhere else [])]
    return f" in {', '.join(looked)}" if looked else ""


def _earlier(path: str) -> dict[str, tuple[int, str]]:
    """What an earlier verification saw: folder to number and digest of its last entry. Raises UsageError."""
    try:
        seen = orjson.loads(Path(path).read_bytes())
        return {str(item["folder"]): (int(item["entries"]), str(item["head"])) for item in seen}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Give the file of an earlier answer.") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{path} is no answer of 'history verify -o json'", hint="Give the file of an earlier answer."
        ) from None


def _with_missing(scan: StorageScan, earlier: Mapping[str, tuple[int, str]]) -> list[Audit]:
    """The histories found, and an empty one for each folder that had one, or has records, and has none now."""
    accounts = {account.folder.url: account for account in scan.accounts}
    for stored in scan.stored:
        empty = Audit(folder=stored.folder, entries=(), findings=(), digests={})
        accounts.setdefault(stored.folder.url, empty)
    for place in spots(sorted(earlier)):
        accounts.setdefault(place.location.url, Audit(folder=place.location, entries=(), findings=(), digests={}))
    return [accounts[url] for url in sorted(accounts)]


def _findings(account: Audit, scan: StorageScan, earlier: Mapping[str, tuple[int, str]]) -> list[AuditViolation]:
    url = account.folder.url
    records = [(stored.record.backup_path, stored.digest) for stored in scan.stored if stored.folder.url == url]
    found = [*account.findings, *against_records(account, records)]
    if url in earlier and (lost := account.still_has(*earlier[url])):
        found.append(lost)
    return found


def _data(account: Audit, findings: Sequence[AuditViolation]) -> dict[str, Any]:
    told = [{"kind": str(finding.kind), "entry": finding.seq, "message": finding.message} for finding in findings]
    return {
        "folder": account.folder.url,
        "entries": account.length,
        "head": account.head,
        "ok": not findings,
        "cut": any(finding.kind is Kind.CUT for finding in findings),
        "findings": told,
    }
