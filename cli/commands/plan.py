"""``plan``: what retention keeps and deletes, by which rule, until when; for the policy as it is or as it might be."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import click

from app.domain.observed import Object, name_of
from app.domain.schedule.retention import Item, Rule, State, Verdict
from cli.formats import Bytes, age, count, size, size_of
from cli.options import Place, answers, now_option, places
from cli.output import Answer, Table
from cli.requests import configuration
from cli.schedules import ScheduleView, changed, choose, load_schedule, load_schedules, owned_objects

_KEEP: Final = "keep"
_STAYS: Final = "stays"
_HELD: Final = frozenset({Rule.UNREADABLE, Rule.CLOCK})


@click.command()
@click.argument("schedule", required=False, default="", metavar="[SCHEDULE]")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="try another policy: retention.keepDaily=7")
@click.option("--all", "show_all", is_flag=True, help="with --set, show also what does not change")
@places(everywhere=True)
@now_option
@answers()
def plan(*, schedule: str, changes: tuple[str, ...], show_all: bool, place: Place, now: datetime) -> Answer:
    """Show what retention keeps and deletes, by which rule, and until when.

    It is the same function that the hook asks, so what is shown is what will be done. A count says when it will let go only
    as long as every run succeeds. With --set the policy as it would be is compared with the one that is; =null removes a field.

    \b
    Examples:
      tidb-backup plan nightly -n shop
      tidb-backup plan nightly --set retention.keepDaily=7 --set maxBackups=null
      kubectl get bk,bks -o yaml | tidb-backup plan -f -
      tidb-backup plan -f dump.yaml --now 2026-12-31      what would be left at the end of the year
    """
    config = configuration()
    chosen = choose(place.source, schedule, everywhere=place.everywhere)
    objects = owned_objects(place.source, everywhere=place.everywhere or "/" in schedule)
    parts: list[str | Table] = []
    data: list[dict[str, Any]] = []
    subjects, problems = load_schedules(chosen, objects, config, now)
    notes = list(problems)
    for subject in subjects:
        current = _Plan(subject)
        if changes:
            wanted = _Plan(load_schedule(changed(subject.observed.parent, changes), objects, config, now))
            data.append(_difference_data(current, wanted))
            parts.append(_difference(current, wanted, show_all=show_all))
            current = wanted
        else:
            data.append({**current.head, "backups": current.rows})
            parts.append(_table(current))
        parts.append(_summary(current))
        notes += _notes(current)
    return Answer(data=data, parts=parts, notes=notes, exit_code=5 if problems else 0)


class _Plan:
    """The verdicts on one schedule, with what is known of each Backup."""

    def __init__(self, subject: ScheduleView) -> None:
        self.subject = subject
        self.verdicts = subject.verdicts()
        items = {item.name: item for item in subject.children.items}
        backups = {name_of(child): child for child in subject.observed.all_children()}
        self.rows = [_row(items[verdict.name], backups[verdict.name], verdict) for verdict in self.verdicts]

    @property
    def policy(self) -> str:
        """In the words of the spec."""
        spec = self.subject.observed.spec
        retention = spec.get("retention") or {}
        fields = [f"{name}={retention[name]}" for name in sorted(retention)]
        fields += [f"{name}={spec[name]}" for name in ("maxReservedTime", "maxBackups") if spec.get(name)]
        return " ".join(fields) if fields and self.subject.schedule.limited else "no limit, everything is kept"

    @property
    def going(self) -> list[dict[str, Any]]:
        """What is deleted now or in later passes."""
        return [row for row in self.rows if row["verdict"] != _KEEP]

    @property
    def staying(self) -> list[dict[str, Any]]:
        """Of these, whose data stays in the storage."""
        return [row for row in self.going if row["data"] == _STAYS]

    @property
    def head(self) -> dict[str, Any]:
        """For machines."""
        return {
            "schedule": self.subject.name,
            "policy": self.policy,
            "kept": sum(row["verdict"] == _KEEP and row["state"] == State.COMPLETE for row in self.rows),
            "going": len(self.going),
            "goingBytes": _bytes(self.going),
            "stayingBytes": _bytes(self.staying),
        }


def _row(item: Item, backup: Object, verdict: Verdict) -> dict[str, Any]:
    row = {
        "name": verdict.name,
        "time": item.time,
        "state": str(item.state),
        "verdict": "later" if verdict.rule == Rule.NEXT_PASS else _KEEP if verdict.keep else "delete",
        "rule": str(verdict.rule),
        "until": verdict.until,
        "detail": verdict.detail or None,
        "size": size_of(backup.get("status") or {}),
    }
    if row["verdict"] != _KEEP:
        row["data"] = _fate(backup, item)
    return {key: value for key, value in row.items() if value is not None}


def _fate(backup: Object, item: Item) -> str:
    """What becomes of the bytes when the Backup is deleted."""
    policy = (backup.get("spec") or {}).get("cleanPolicy") or "Retain"
    return "freed" if policy == "Delete" or (policy == "OnFailure" and item.state is not State.COMPLETE) else _STAYS


def _bytes(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row.get("size", 0) for row in rows)


def _table(plan: _Plan) -> Table:
    rows = [
        (
            row["name"],
            age(plan.subject.now - row["time"]),
            row["state"],
            row["verdict"],
            row["rule"],
            row.get("until"),
            Bytes.of(row.get("size")),
            row.get("data"),
        )
        for row in plan.rows
    ]
    title = f"BackupSchedule {plan.subject.name}: {plan.policy}"
    columns = ("NAME", "AGE", "STATE", "VERDICT", "RULE", "UNTIL", "SIZE", "DATA")
    lead = {"SCHEDULE": plan.subject.name}
    return Table(title=title, columns=columns, rows=rows, empty=f"{title}; no Backups yet", lead=lead)


def _compared(before: _Plan, after: _Plan) -> list[dict[str, Any]]:
    old = {row["name"]: row for row in before.rows}
    return [{**row, "before": old[row["name"]]["verdict"], "ruleBefore": old[row["name"]]["rule"]} for row in after.rows]


def _difference_data(before: _Plan, after: _Plan) -> dict[str, Any]:
    rows = _compared(before, after)
    changed_rows = sum(row["before"] != row["verdict"] for row in rows)
    return {**after.head, "policyBefore": before.policy, "changed": changed_rows, "backups": rows}


def _difference(before: _Plan, after: _Plan, *, show_all: bool) -> Table:
    rows = [
        (
            row["name"],
            age(after.subject.now - row["time"]),
            row["state"],
            row["before"],
            row["ruleBefore"],
            row["verdict"],
            row["rule"],
            row.get("until"),
            Bytes.of(row.get("size")),
        )
        for row in _compared(before, after)
        if show_all or row["before"] != row["verdict"]
    ]
    title = f"BackupSchedule {after.subject.name}: {before.policy} -> {after.policy}"
    columns = ("NAME", "AGE", "STATE", "NOW", "RULE NOW", "THEN", "RULE THEN", "UNTIL", "SIZE")
    lead = {"SCHEDULE": after.subject.name}
    return Table(title=title, columns=columns, rows=rows, empty=f"{title}; no verdict changes", lead=lead)


def _summary(plan: _Plan) -> str:
    if not plan.rows:
        return ""
    head = plan.head
    text = f"{count(head['kept'], 'complete Backup')} kept, {head['going']} to go"
    if not plan.going:
        return text
    text += f", which frees {size(head['goingBytes'] - head['stayingBytes'])} in the storage"
    if not plan.staying:
        return text
    return (
        f"{text}\ncleanPolicy Retain leaves the data of {count(len(plan.staying), 'Backup')} "
        f"({size(head['stayingBytes'])}) where it is: only the objects in\nKubernetes go. "
        "To free the space, set cleanPolicy: Delete in backupTemplate (and on Backups already made)."
    )


def _notes(plan: _Plan) -> Iterator[str]:
    subject = plan.subject
    held = next((verdict for verdict in plan.verdicts if verdict.rule in _HELD), None)
    later = sum(row["verdict"] == "later" for row in plan.rows)
    if held:
        yield f"{subject.name}: nothing is deleted while this holds: {held.detail}"
    if later:
        yield f"{subject.name}: {later} go in later passes, {subject.schedule.policy.max_deletions} at a time"
    if subject.log:
        yield f"{subject.name}: the log backup {subject.log.name} is never deleted by retention"
