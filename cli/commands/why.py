"""``why``: one paragraph on what keeps a CR where it is, and the next step."""

import textwrap
from datetime import datetime
from typing import Final

import click

from app.domain.observed import metadata, name_of
from backup_manager.errors import AccessDeniedError
from cli.documents import Object, Source, key_of
from cli.models.status import FAILED, KINDS
from cli.models.why import Evidence, Explanation, explain
from cli.options import PLAIN, Place, answers, now_option, places
from cli.output import Answer
from cli.requests import children_of
from cli.selection import choose

_WIDTH: Final = 100


@click.command()
@click.argument("name", metavar="[KIND/]NAME")
@click.option("--log", "log_file", default="", metavar="FILE", help="with -f: the Pod's log")
@click.option("--lines", type=click.IntRange(0, 10_000), default=10, show_default=True, help="how much of the log to show")
@places()
@now_option
@answers(PLAIN)
def why(*, name: str, log_file: str, lines: int, place: Place, now: datetime) -> Answer:
    """Say why a Backup, Restore, schedule or compaction is where it is, and what to do next.

    Conditions, Job, Pod, events and the last lines of the log are put together; well-known errors of br, dumpling and
    lightning are translated. Exit code 1: it has failed.

    \b
    Examples:
      tidb-backup why nightly-2026-01-31t02-00-00 -n shop
      tidb-backup why schedule/nightly
      kubectl get bk,jobs,pods,events -o yaml | tidb-backup why nightly -f - --log pod.log
    """
    place.log = log_file
    found = explain(collect(place.source, name, lines=max(lines, 200)), now)
    return Answer(
        data={
            **found.summary.data,
            "explanation": found.text,
            "nextStep": found.step,
            "log": found.log[-lines:] if lines else [],
        },
        parts=[_paragraph(found, lines)],
        exit_code=1 if found.summary.phase in FAILED else 0,
    )


def collect(source: Source, name: str, *, lines: int) -> Evidence:
    """Everything about the CR *name* (``KIND/NAME`` where several kinds have one). Raises NotFoundError."""
    cr = choose(source, name, KINDS)
    jobs = [] if key_of(cr)[0] == "BackupSchedule" else children_of(cr, source.list("Job"))
    names = {name_of(job) for job in jobs}
    pods = [pod for pod in source.list("Pod") if _job_of(pod) in names] if names else []
    named = set((cr.get("status") or {}).get("awaitedJobs") or ()) - names
    namesakes = [job for job in source.list("Job") if name_of(job) in named] if named else []
    about = {(str(obj.get("kind")), name_of(obj)) for obj in (cr, *jobs, *pods)}
    events = [event for event in source.list("Event") if _object_of(event) in about]
    newest = max(pods, key=lambda pod: str(metadata(pod).get("creationTimestamp")), default=None)
    log = source.log_tail(name_of(newest) if newest else "", lines) if newest or not names else ""
    children = [] if key_of(cr)[0] != "BackupSchedule" else children_of(cr, source.list("Backup"))
    accounts = _accounts(source) if jobs and not pods else None
    return Evidence(
        cr=cr, jobs=jobs, pods=pods, events=events, log=log, children=children, namesakes=namesakes, accounts=accounts
    )


def _accounts(source: Source) -> frozenset[str] | None:
    """Names of the namespace's ServiceAccounts; None where not known: the user may not list them, or files hold none."""
    try:
        return frozenset(name_of(account) for account in source.list("ServiceAccount")) or None
    except AccessDeniedError:
        return None


def _job_of(pod: Object) -> str:
    labels = metadata(pod).get("labels") or {}
    return str(labels.get("batch.kubernetes.io/job-name") or labels.get("job-name") or "")


def _object_of(event: Object) -> tuple[str, str]:
    about = event.get("involvedObject") or {}
    return str(about.get("kind") or ""), str(about.get("name") or "")


def _paragraph(found: Explanation, lines: int) -> str:
    text = textwrap.fill(found.text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    step = textwrap.fill(found.step, _WIDTH, initial_indent="Next: ", subsequent_indent="      ", break_long_words=False)
    log = found.log[-lines:] if lines else []
    tail = "\n\nThe log ends with:\n" + "\n".join(f"  {line[:300]}" for line in log) if log else ""
    return f"{text}\n\n{step}{tail}"
