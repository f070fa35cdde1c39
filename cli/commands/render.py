"""``render``: a CR and its children in, children and status out, by the hooks' own code and without a cluster."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from app.domain.observed import metadata
from backup_manager.errors import UsageError
from cli.documents import Files, Object, key_of, read_files, shown
from cli.options import PLAIN, answers, now_option
from cli.output import Answer, Table, to_yaml
from cli.requests import HOOKS, Rendered, ask, children_of, configuration, observe, request, with_clusters


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--only", default="", metavar="[KIND/]NAME", help="answer for this CR alone")
@click.option("--finalize", is_flag=True, help="ask what happens when the CR is deleted")
@click.option("--tikv-version", default="v8.5.0", show_default=True, help="of clusters that the files do not hold")
@click.option("-n", "--namespace", default="", metavar="NAME", help="namespace of objects that name none")
@now_option
@answers(PLAIN)
def render(*, files: tuple[str, ...], only: str, finalize: bool, tikv_version: str, namespace: str, now: datetime) -> Answer:
    """Show what the hooks would answer: the Jobs or Backups that come into being, and the status.

    FILEs hold CRs and, where there are any, their children and TidbClusters; '-' is stdin. Settings are read from
    TIDB_BACKUP_... variables as the webhook reads them. Exit code 4: a spec is Invalid.

    \b
    Examples:
      tidb-backup render examples/backup-export-s3.yaml -o yaml
      kubectl get bk,jobs,tc -o yaml | tidb-backup render - --only nightly
    """
    objects = Files(read_files(files), namespace=namespace).objects
    parents = _parents(objects, only)
    config, world, made_up = with_clusters(configuration(), objects, tikv_version)
    rendered = [
        ask(observe(request(_deleted(parent, now) if finalize else parent, world, config, finalizing=finalize)), now, config)
        for parent in parents
    ]
    notes = []
    if made_up:
        notes.append(f"no TidbCluster in the files: {', '.join(made_up)} is taken for ready, with TiKV {tikv_version}")
    invalid = any(_is_invalid(item) for item in rendered)
    return Answer(
        data=[_data(item) for item in rendered],
        parts=[part for item in rendered for part in _parts(item)],
        notes=notes,
        exit_code=4 if invalid else 0,
    )


def _parents(objects: Sequence[Object], only: str) -> list[Object]:
    """The CRs to ask about: all, or the one that was named; a schedule's children speak through it unless they are named."""
    crs = [item for item in objects if item.get("kind") in HOOKS]
    if not crs:
        raise UsageError("the files hold no CR of ours", hint=f"Give one of {', '.join(HOOKS)}.")
    kind, _, name = only.rpartition("/")
    if only:
        named = [cr for cr in crs if key_of(cr)[2] == name and (not kind or key_of(cr)[0].lower() == kind.lower())]
        if not named:
            raise UsageError(f"the files hold no CR {only!r}", hint=f"There are: {', '.join(map(shown, crs))}.")
        return named
    of_schedules = [child for cr in crs if cr.get("kind") == "BackupSchedule" for child in children_of(cr, crs)]
    return [cr for cr in crs if not any(cr is child for child in of_schedules)]


def _deleted(parent: Object, now: datetime) -> Object:
    """*parent* as somebody deletes it."""
    meta = {"deletionTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"), **metadata(parent)}
    return {**parent, "metadata": meta}


def _is_invalid(item: Rendered) -> bool:
    conditions = item.body["status"].get("conditions") or ()
    return any(condition.get("type") == "Invalid" and condition.get("status") == "True" for condition in conditions)


def _data(item: Rendered) -> dict[str, Any]:
    dropped = [{"kind": drop.kind, "name": drop.name, "rule": drop.rule} for drop in item.decision.drop]
    data: dict[str, Any] = {"parent": shown(item.observed.parent), **item.body}
    return {**data, "dropped": dropped} if dropped else data


def _parts(item: Rendered) -> list[str | Table]:
    observed, body = item.observed, item.body
    there = {(str(child.get("kind")), key_of(child)[2]) for child in observed.all_children()}
    rows: list[tuple[str, str, str, str]] = []
    for child in body["children"]:
        kind, _, name = key_of(child)
        rows.append((kind, name, "kept" if (kind, name) in there else "new", ""))
    rows += [(drop.kind.partition(".")[0], drop.name, "deleted", drop.rule) for drop in item.decision.drop]
    status = {key: value for key, value in body["status"].items() if key != "observedGeneration"}
    phase = status.get("phase") or status.get("state") or ""
    facts = [phase, "lets the CR go" if body.get("finalized") else ""]
    if wait := body.get("resyncAfterSeconds"):
        facts.append(f"looks again after {wait} s")
    head = ", ".join(fact for fact in facts if fact)
    return [
        f"{shown(observed.parent)}{f': {head}' if head else ''}",
        Table(columns=("CHILD", "NAME", "WHAT", "RULE"), rows=sorted(rows), empty="no children"),
        to_yaml({"status": status}) if status else "",
    ]
