"""Policies changed on the command line, and what the command line knows of a schedule."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.domain.config import Config
from app.domain.schedule.children import BACKUPS
from backup_manager.errors import NotFoundError, UsageError
from cli.documents import Files, read_files
from cli.requests import ask, observe, request
from cli.schedules import changed, choose, load_schedule, load_schedules

SHOP = str(Path(__file__).parents[2] / "golden" / "cli" / "shop.yaml")
NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)


def files() -> Files:
    return Files(read_files([SHOP]))


def test_plan_deletes_exactly_what_the_hook_drops() -> None:
    source = files()
    parent = source.get("BackupSchedule", "nightly")
    subject = load_schedule(parent, source.objects, Config(), NOW)
    going = {verdict.name for verdict in subject.verdicts() if not verdict.keep}
    decision = ask(observe(request(parent, source.objects, Config())), NOW, Config()).decision
    assert going == {drop.name for drop in decision.drop if drop.kind == BACKUPS}
    assert len(going) == 2
    # And those that stay are in the hook's answer.
    answer = ask(subject.observed, NOW, Config()).body
    assert {child["metadata"]["name"] for child in answer["children"]}.isdisjoint(going)


@pytest.mark.parametrize(
    ("before", "assignments", "after"),
    [
        ({}, ["maxBackups=3"], {"maxBackups": 3}),
        ({"maxBackups": 3}, ["spec.maxBackups=null", "retention.keepDaily=7"], {"retention": {"keepDaily": 7}}),
        ({"retention": {"keepDaily": 7}}, ["retention.keepDaily=null"], {}),
        ({}, ["maxReservedTime=72h"], {"maxReservedTime": "72h"}),
        ({}, ["backupTemplate.br.cluster=x"], {"backupTemplate": {"br": {"cluster": "x"}}}),
    ],
)
def test_assignments(before: dict[str, Any], assignments: list[str], after: dict[str, Any]) -> None:
    parent = {"spec": before}
    assert changed(parent, assignments)["spec"] == after
    assert parent == {"spec": before}


@pytest.mark.parametrize("assignment", ["maxBackups", "=3", "a..b=1", "schedule.x=1"])
def test_what_is_no_assignment(assignment: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        changed({"spec": {"schedule": "@daily"}}, [assignment])


def test_an_unreadable_policy_is_refused_with_its_field() -> None:
    parent = changed(files().get("BackupSchedule", "nightly"), ["retention.keepDaily=-1"])
    with pytest.raises(UsageError, match=r"spec\.retention\.keepDaily"):
        load_schedule(parent, [], Config(), NOW)


def test_one_broken_schedule_hides_no_other() -> None:
    source = files()
    parents = choose(source, "")
    broken = changed(parents[0], ["schedule=never"])
    subjects, problems = load_schedules([broken, *parents[1:]], source.objects, Config(), NOW)
    assert (len(subjects), len(problems)) == (2, 1)
    with pytest.raises(UsageError):
        load_schedules([broken], source.objects, Config(), NOW)


def test_schedules_are_chosen_by_name() -> None:
    assert len(choose(files(), "")) == 3
    assert len(choose(files(), "shop/nightly")) == 1
    with pytest.raises(NotFoundError, match="no BackupSchedule 'weekly'"):
        choose(files(), "weekly")
    with pytest.raises(NotFoundError, match="no BackupSchedule in"):
        choose(Files([], namespace="x"), "")


def test_a_count_names_the_day_it_lets_go() -> None:
    source = files()
    parent = changed(source.get("BackupSchedule", "nightly"), ["retention=null", "maxBackups=3"])
    verdicts = load_schedule(parent, source.objects, Config(), NOW).verdicts()
    kept = [verdict for verdict in verdicts if verdict.keep and verdict.rule == "maxBackups"]
    assert [str(verdict.until) for verdict in kept] == [
        "2026-04-03 00:30:00+00:00",
        "2026-04-02 00:30:00+00:00",
        "2026-04-01 00:30:00+00:00",
    ]
    paused = changed(parent, ["pause=true"])
    assert {verdict.until for verdict in load_schedule(paused, source.objects, Config(), NOW).verdicts()} == {None}
