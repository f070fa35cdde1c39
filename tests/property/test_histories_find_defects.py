"""The histories are worth something: a hook with a defect is caught within the number that ``make test`` runs."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from app.domain.backup import finalize as clean
from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.job import run
from app.domain.job.observed import JOB, Job
from app.domain.observed import Observed
from app.domain.restore import reconcile as restore
from app.domain.schedule import reconcile as schedule
from app.domain.schedule import retention, slots
from app.domain.times import stamp
from app.hooks.resource import Kind
from cli.simulator import metacontroller
from crds.contract import names
from tests.support.world import bulk
from tests.support.world.invariants import Violation

WITHIN = 4_000
BACKUP, RESTORE, SCHEDULE = (f"{kind}.{names.API_VERSION}" for kind in ("Backup", "Restore", "BackupSchedule"))
Decide = Callable[[Observed, datetime, Config], Decision[Any]]


def caught(casts: tuple[int, ...]) -> str:
    """What the histories find; fails when they find nothing."""
    with pytest.raises(Violation) as found:
        bulk.run(range(WITHIN), casts)
    return str(found.value)


def sabotage(monkeypatch: pytest.MonkeyPatch, kind: str, change: Callable[[Decide], Decide]) -> None:
    """Let the hook of *kind* decide as *change* makes it."""
    hook: Kind[Any] = metacontroller.HOOKS[kind]
    changed = dataclasses.replace(hook, decide=change(hook.decide))
    monkeypatch.setattr(metacontroller, "HOOKS", {**metacontroller.HOOKS, kind: changed})


def test_a_finished_job_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(decide: Decide) -> Decide:
        def sabotaged(observed: Observed, now: datetime, config: Config) -> Decision[Any]:
            decision = decide(observed, now, config)
            over = [child for child in observed.of_kind(JOB).values() if Job(obj=child).complete]
            drops = [Drop(kind=JOB, name=child["metadata"]["name"], rule="tidy") for child in over]
            return decision if decision.drop else dataclasses.replace(decision, drop=drops)

        return sabotaged

    sabotage(monkeypatch, BACKUP, change)
    assert "is deleted" in caught(bulk.RUNS)


def test_a_restore_that_is_repeated_when_its_job_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    run_of = run.Run.of

    def repeats(*arguments: Any, **options: Any) -> Any:
        return run_of(*arguments, **{**options, "repeats_vanished": True})

    monkeypatch.setattr(run.Run, "of", repeats)
    assert "restore-x" in caught(bulk.RUNS)


def test_an_end_that_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "outcome_of", lambda _status: None)
    assert "made although" in caught(bulk.RUNS)


def test_a_clean_that_no_policy_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean._Deletion, "_keeps_data", property(lambda _self: False))
    assert "policy" in caught(bulk.RUNS)


def test_a_clean_beside_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean._Deletion, "stop_writers", lambda _self: None)
    assert "beside" in caught(bulk.RUNS)


def test_a_backup_that_cannot_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(decide: Decide) -> Decide:
        return lambda observed, now, config: dataclasses.replace(decide(observed, now, config), finalized=False)

    sabotage(monkeypatch, BACKUP, change)
    assert "way out" in caught(bulk.RUNS)


def test_the_present_in_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(decide: Decide) -> Decide:
        def sabotaged(observed: Observed, now: datetime, config: Config) -> Decision[Any]:
            decision = decide(observed, now, config)
            return dataclasses.replace(decision, status={**decision.status, "timeStarted": stamp(now)})

        return sabotaged

    sabotage(monkeypatch, RESTORE, change)
    assert "present time" in caught(bulk.RUNS)


def test_an_answer_that_changes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    flips: Iterator[str] = itertools.cycle(["s3://a/b", "s3://a/c"])

    def change(decide: Decide) -> Decide:
        def sabotaged(observed: Observed, now: datetime, config: Config) -> Decision[Any]:
            decision = decide(observed, now, config)
            return dataclasses.replace(decision, status={**decision.status, "backupPath": next(flips)})

        return sabotaged

    sabotage(monkeypatch, RESTORE, change)
    assert any(words in caught(bulk.RUNS) for words in ("other bytes", "not at rest"))


def test_an_answer_that_fails_on_a_value_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(decide: Decide) -> Decide:
        def sabotaged(observed: Observed, now: datetime, config: Config) -> Decision[Any]:
            for child in observed.of_kind(JOB).values():
                assert (child["metadata"].get("annotations") or {}).get(names.REPORT_ANNOTATION) != "null"
            return decide(observed, now, config)

        return sabotaged

    sabotage(monkeypatch, BACKUP, change)
    assert "AssertionError" in caught(bulk.RUNS)


def test_a_retention_that_deletes_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = retention.plan

    def greedy(backups: Any, policy: retention.Policy, now: datetime, **options: Any) -> list[retention.Verdict]:
        verdicts = plan(backups, policy, now, **options)
        kept = [index for index, verdict in enumerate(verdicts) if verdict.keep and verdict.rule.startswith("max")]
        if len(kept) > 1:
            verdicts[kept[-1]] = verdicts[kept[-1]]._replace(keep=False)
        return verdicts

    monkeypatch.setattr(schedule, "plan", greedy)
    assert "had to stay" in caught(bulk.SCHEDULES)


def test_a_slot_that_has_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = slots.evaluate

    def early(*arguments: Any, **options: Any) -> slots.Slots:
        found = evaluate(*arguments, **options)
        return found if found.due else dataclasses.replace(found, due=found.next)

    monkeypatch.setattr(slots, "evaluate", early)
    assert "has not come" in caught(bulk.SCHEDULES)


def test_a_schedule_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = slots.evaluate

    def lazy(*arguments: Any, **options: Any) -> slots.Slots:
        return dataclasses.replace(evaluate(*arguments, **options), due=None)

    monkeypatch.setattr(slots, "evaluate", lazy)
    assert "does not go on" in caught(bulk.SCHEDULES)
