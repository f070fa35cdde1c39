"""Random histories of Jobs, managers, users and caches against the hooks of Backup and Restore.

Whatever happens: no observed child is left out without a rule that is named; the same input gives the same bytes; an answer
fed back changes nothing; nothing runs after a run has ended, and never two attempts at once.
"""

import copy
import dataclasses
import os
import re
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.config import Config
from app.domain.observed import Observed
from app.hooks import backup, compactbackup, restore
from app.hooks.resource import Kind
from app.hooks.response import render
from cli.simulator.metacontroller import JOBS as JOB
from tests.support.model import OneParent
from tests.support.objects import (
    BR_SPEC,
    EXPORT_SPEC,
    LOG_SPEC,
    NOW,
    S3,
    at,
    job,
    parent,
    report,
    tidb_cluster,
)

CONFIG = Config()
RUNS = int(os.environ.get("TIDB_BACKUP_TEST_RUNS", "60"))
bounded = settings(max_examples=RUNS, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

SAID = [
    None,
    "no report",
    report("Prepare"),
    report("Running", progress=[{"step": "x", "progress": 12.0}], backupPath="s3://bucket/daily"),
    report("Waiting", error={"reason": "Busy", "message": "another"}),
    report("Complete", commitTs="450", backupPath="s3://bucket/daily", backupSize=1, result={"deleted": 1, "left": 0}),
    report("Complete", commitTs="450", backupSize=1, result={"deleted": 1, "left": 0}),
    report("Failed", error={"reason": "Gone", "message": "x"}, result={"left": 3}),
    report("Failed", error={"reason": "Away", "retryable": True}, result={"left": 3, "deferredUntil": at(10**6)}),
    *(
        report("Running", result={"taskState": state, "observedAt": at(when), "checkpointTs": 460, "lagSeconds": 2})
        for state, when in (("running", 10), ("paused", 40), ("errorPaused", 40), ("absent", 60), ("unknown", 10**6))
    ),
]
PITR = {**BR_SPEC, "restoreMode": "pitr", "logRestoreStartTs": "5"}
OFF = "[gc]\nratio-threshold = -1"
SPECS: list[tuple[Kind[Any], str, dict[str, Any]]] = [
    (backup.KIND, "Backup", EXPORT_SPEC),
    (backup.KIND, "Backup", {**EXPORT_SPEC, "cleanPolicy": "Delete"}),
    (backup.KIND, "Backup", {**BR_SPEC, "cleanPolicy": "OnFailure"}),
    (backup.KIND, "Backup", {**LOG_SPEC, "cleanPolicy": "Delete", "logTruncateUntil": "900"}),
    (backup.KIND, "Backup", {**BR_SPEC, "s3": {**S3, "prefix": "../x"}}),
    (restore.KIND, "Restore", {"to": EXPORT_SPEC["from"], "s3": S3}),
    (restore.KIND, "Restore", {**BR_SPEC, "prune": "afterFailed"}),
    (restore.KIND, "Restore", PITR),
    (restore.KIND, "Restore", {**PITR, "replicationConfig": {"compactBackupName": "c", "waitTimeout": "2h"}}),
    (compactbackup.KIND, "CompactBackup", {**BR_SPEC, "startTs": "1", "endTs": "2"}),
    (compactbackup.KIND, "CompactBackup", {**BR_SPEC, "startTs": "1", "mode": "sharded", "shardCount": 2}),
]
NAMES = [
    "backup-basic",
    "backup-basic-r1",
    "backup-basic-r2",
    "clean-basic",
    "clean-basic-r1",
    "stop-basic",
    "backup-basic-log-start",
    "backup-basic-log-pause",
    "backup-basic-log-truncate",
    "backup-basic-log-watch",
    "restore-basic",
    "restore-basic-r1",
    "restore-basic-prune",
    "basic-snapshot-restore",
    "basic-snapshot-restore-r1",
    "basic-log-restore",
    "basic",
    "of-somebody-else",
]


times = st.integers(-50, 4_500).map(lambda half: at(2 * half))


def _job(name: str, *, ours: bool, **facts: Any) -> dict[str, Any]:
    return job(name, labels=None if ours and name != "of-somebody-else" else {}, **facts)


jobs = st.lists(
    st.builds(
        _job,
        st.sampled_from(NAMES),
        state=st.sampled_from(["pending", "active", "complete", "failed"]),
        created=times,
        ended=times,
        said=st.sampled_from(SAID),
        path=st.sampled_from([None, "s3://bucket/daily/basic-0f5e9c1a"]),
        ours=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda made: made["metadata"]["name"],
)
condition = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "Scheduled",
                "Running",
                "Complete",
                "Failed",
                "Invalid",
                "Waiting",
                "Clean",
                "Stopped",
                "SnapshotRestored",
                "CompactSettled",
            ]
        ),
        "status": st.sampled_from(["True", "False"]),
    },
    optional={"lastTransitionTime": times, "message": st.just("before")},
)
record = st.fixed_dictionaries(
    {"retryNum": st.integers(1, 3)},
    optional=dict.fromkeys(("detectFailedAt", "expectedRetryAt", "realRetryAt"), times),
)
statuses = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(
            ["", "Waiting", "Invalid", "Scheduled", "Running", "Complete", "Failed", "Paused", "RetryFailed", "Clean"]
        ),
        "replicationStep": st.sampled_from(["snapshot-restore", "log-restore"]),
        "state": st.sampled_from(["Running", "Complete"]),
        "commitTs": st.just("450"),
        "backupPath": st.just("s3://bucket/daily/basic-0f5e9c1a"),
        "conditions": st.lists(condition, max_size=4, unique_by=lambda item: item["type"]),
        "backoffRetryStatus": st.lists(record, max_size=3),
        "cleanStatus": st.fixed_dictionaries({"attempt": st.integers(1, 3)}),
        "logTask": st.fixed_dictionaries(
            {"state": st.sampled_from(["running", "paused", "errorPaused", "absent", "unknown"])},
            optional={"since": times, "observedAt": times},
        ),
        "logCheckpointTs": st.sampled_from(["460", "950"]),
        "logSuccessTruncateUntil": st.sampled_from(["400", "900"]),
        "logSubCommandStatuses": st.dictionaries(
            st.sampled_from(["log-start", "log-pause", "log-truncate"]),
            st.fixed_dictionaries({"phase": st.sampled_from(["Running", "Complete", "Failed"]), "timeCompleted": times}),
        ),
        "observedGeneration": st.just(1),
    },
)


def _body(kind: Kind[Any], observed: Observed, seconds: int) -> tuple[Any, bytes]:
    decision = kind.decide(observed, NOW + timedelta(seconds=seconds), CONFIG)
    return decision, render(kind, observed, decision, CONFIG)


@bounded
@given(
    case=st.sampled_from(SPECS),
    children=jobs,
    status=statuses,
    finalizing=st.booleans(),
    seconds=st.integers(0, 10_000),
    ready=st.booleans(),
)
def test_any_request_is_answered_without_harm(
    *,
    case: tuple[Kind[Any], str, dict[str, Any]],
    children: list[dict[str, Any]],
    status: dict[str, Any] | None,
    finalizing: bool,
    seconds: int,
    ready: bool,
) -> None:
    kind, name, spec = case
    cr = parent(name, spec, status=status)
    cluster = tidb_cluster(ready=ready, tikv={"baseImage": "pingcap/tikv", "config": OFF})
    related = {"TidbCluster.pingcap.com/v1alpha1": {"db/basic": cluster}}
    observed = Observed(
        parent=cr,
        children={JOB: {f"db/{child['metadata']['name']}": child for child in children}},
        related=related,
        finalizing=finalizing,
    )
    before = copy.deepcopy(observed)
    decision, body = _body(kind, observed, seconds)
    assert observed == before, "a decision must not change what it was given"
    assert body == _body(kind, observed, seconds)[1], "same input, same bytes"

    answer = orjson.loads(body)
    kept = {child["metadata"]["name"] for child in answer["children"]}
    rules = {drop.name: drop.rule for drop in decision.drop}
    for child in children:
        assert child["metadata"]["name"] in kept or rules.get(child["metadata"]["name"])
    assert "of-somebody-else" not in rules
    assert b"null" not in body
    assert not (answer.get("finalized") and not finalizing)

    # A log backup and a prune go on from a status that has been received, and a Job that does not come is noticed once the
    # status is there that asks for it; everything else is said in one pass.
    # What only a log backup has in its status makes a Backup one, whatever its spec says since.
    was_log = name == "Backup" and (status or {}).get("logSubCommandStatuses")
    goes_on = was_log or spec.get("backupMode") == "log" or spec.get("prune") or finalizing or decision.create
    for _ in range(3 if goes_on else 0):
        cr = {**cr, "status": orjson.loads(body)["status"]}
        body = _body(kind, dataclasses.replace(observed, parent=cr), seconds)[1]
    cr = {**cr, "status": orjson.loads(body)["status"]}
    again = _body(kind, dataclasses.replace(observed, parent=cr), seconds)[1]
    assert orjson.loads(again)["status"] == cr["status"], "an answer fed back changes nothing"


@bounded
@given(st.sampled_from(SPECS), jobs, statuses, st.integers(0, 10_000), st.booleans())
def test_the_clock_never_shows_in_an_answer(
    case: tuple[Kind[Any], str, dict[str, Any]],
    children: list[dict[str, Any]],
    status: dict[str, Any] | None,
    seconds: int,
    finalizing: bool,
) -> None:
    """Every fact here is at an even second, and every delay is even: an odd one in an answer can only be the clock's."""
    kind, name, spec = case
    observed = Observed(
        parent=parent(name, spec, status=status),
        children={JOB: {f"db/{child['metadata']['name']}": child for child in children}},
        related={"TidbCluster.pingcap.com/v1alpha1": {"db/basic": tidb_cluster()}},
        finalizing=finalizing,
    )
    body = _body(kind, observed, 2 * seconds + 1)[1]
    assert not re.search(rb"T\d\d:\d\d:\d[13579]Z", body)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "sync",
                "sync",
                "stale",
                "lag",
                "lost",
                "wait",
                "report",
                "complete",
                "die",
                "refuse",
                "vanish",
                "edit",
                "ttl",
                "pods",
            ]
        ),
        st.integers(0, 7),
    ),
    min_size=5,
    max_size=60,
)


class History:
    """Interprets random steps, and checks after each one what must hold."""

    def __init__(self, kind: Kind[Any], name: str, spec: dict[str, Any]) -> None:
        settled = {**parent("CompactBackup", BR_SPEC, name="c"), "status": {"state": "Failed"}}
        related = {
            "TidbCluster.pingcap.com/v1alpha1": {"db/basic": tidb_cluster(tikv={"baseImage": "pingcap/tikv", "config": OFF})},
            "CompactBackup.pingcap.com/v1alpha1": {"db/c": settled},
        }
        self.world = OneParent(kind=kind, parent=parent(name, spec), related=related)
        self.repeats_vanished = name == "Backup"
        self.ended = False
        self.vanished = False

    def take(self, step: str, number: int) -> None:
        world = self.world
        world.clock += 1
        before = len(world.created)
        picked = sorted(world.jobs)[number % len(world.jobs)] if world.jobs else None
        unfinished = picked if picked in world.unfinished() else None
        if step in {"sync", "stale", "lag", "lost"}:
            world.sync(stale=step == "stale", lag=step == "lag", status_lost=step == "lost")
        elif step == "wait":
            world.clock += 10 ** (number % 5)
        elif step == "edit":
            world.edit(resources={"limits": {"cpu": str(number)}})
        elif unfinished and step == "report":
            world.say(unfinished, SAID[2 + number % 3])
        elif unfinished and step == "complete":
            world.finish(unfinished, said=SAID[5] if number % 4 else None, complete=True)
        elif unfinished and step in {"die", "refuse"}:
            world.finish(unfinished, said=SAID[6] if step == "refuse" else None, complete=False, pods_left=number % 2 == 0)
        elif picked and step == "pods":
            world.pods_end(picked)
        elif picked and ((step == "vanish" and number == 0) or (step == "ttl" and not unfinished)):
            self._disappear(picked)
        self._check(before)

    def _disappear(self, name: str) -> None:
        """TTL or kubectl. A running Job may vanish at any moment; one that has ended, once its end stands in the status and
        in the caches, since a cache is behind by moments and a finished Job is kept for days."""
        if name not in self.world.unfinished():
            self.world.settle()
            self.world.caches_catch_up()
        self.world.vanish(name)
        self.vanished = True

    def _check(self, before: int) -> None:
        world = self.world
        new = world.created[before:]
        assert not (self.ended and [name for name in new if not name.endswith("-prune")]), f"{new} after the end"
        phase = world.status.get("phase")
        assert not self.ended or phase not in {"Running", "Scheduled", "RetryFailed", "Waiting", "Invalid"}
        self.ended = self.ended or phase in {"Complete", "Failed"}
        assert len(world.unfinished()) <= 1, "two attempts at once"
        assert len(world.created) == len(set(world.created)) or self.vanished
        assert not world.dropped, "nothing is dropped while the CR lives"


@bounded
@given(st.sampled_from([case for case in SPECS if case[1] != "CompactBackup" and case[2].get("backupMode") != "log"]), STEPS)
def test_nothing_runs_twice(case: tuple[Kind[Any], str, dict[str, Any]], steps: list[tuple[str, int]]) -> None:
    history = History(*case)
    for step, number in steps:
        history.take(step, number)
    history.world.settle()


@bounded
@given(STEPS)
def test_a_restore_whose_job_was_seen_and_is_gone_is_never_repeated(steps: list[tuple[str, int]]) -> None:
    history = History(*SPECS[5])
    world = history.world
    for step, number in steps:
        history.take(step, number)
        if history.vanished:
            break
    made = len(world.created)
    if history.vanished and not world.jobs and any(item["type"] == "Scheduled" for item in world.status.get("conditions", [])):
        world.clock += 10**6
        world.settle()
        assert len(world.created) == made
        assert world.status["phase"] in {"Complete", "Failed"}


DELETION = st.lists(
    st.tuples(st.sampled_from(["sync", "stale", "lag", "complete", "die", "wait", "vanish", "pods"]), st.integers(0, 7)),
    max_size=30,
)


@bounded
@given(
    st.sampled_from([case for case in SPECS if case[1] == "Backup" and case[2].get("cleanPolicy")]),
    STEPS,
    DELETION,
)
def test_a_deleted_backup_goes_in_the_end_and_never_cleans_beside_its_own_run(
    case: tuple[Kind[Any], str, dict[str, Any]], steps: list[tuple[str, int]], deletion: list[tuple[str, int]]
) -> None:
    kind, cr, spec = case
    world = OneParent(kind=kind, parent=parent(cr, spec), related=_with_namespace())
    for step, number in steps:
        _random_step(world, step, number)
    world.delete()
    for step, number in deletion:
        _random_step(world, step, number)
        _check_clean(world)
    for _ in range(40):
        if world.gone:
            break
        for name in world.unfinished():
            world.finish(name, said=SAID[5], complete=True)
        world.pods_end()
        world.clock += max(world.wait or 0, 10)
        world.sync()
        _check_clean(world)
        exhausted = world.status.get("phase") == "CleanFailed" and not world.unfinished() and not world.wait
        if exhausted:
            # The way out that the condition names.
            attempt = world.status["cleanStatus"]["attempt"]
            world.vanish("clean-basic" if attempt == 1 else f"clean-basic-r{attempt - 1}")
    assert world.gone, world.status


def _with_namespace() -> dict[str, dict[str, Any]]:
    return {
        "TidbCluster.pingcap.com/v1alpha1": {"db/basic": tidb_cluster()},
        "Namespace.v1": {"db": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "db"}}},
    }


def _random_step(world: OneParent, step: str, number: int) -> None:
    world.clock += 1
    unfinished = world.unfinished()
    if step in {"sync", "stale", "lag"}:
        world.sync(stale=step == "stale", lag=step == "lag")
    elif step == "wait":
        world.clock += 10 ** (number % 5)
    elif step == "complete" and unfinished:
        world.finish(unfinished[0], said=SAID[5], complete=True)
    elif step == "die" and unfinished:
        world.finish(unfinished[0], said=SAID[6] if number % 2 else None, complete=False, pods_left=number % 3 == 0)
    elif step == "pods":
        world.pods_end()
    elif step == "vanish" and world.jobs:
        # By hand, so not within the moments by which a cache is behind: Job, parent and cache gone wrong at once prove nothing.
        world.caches_catch_up()
        world.vanish(sorted(world.jobs)[number % len(world.jobs)])


def _check_clean(world: OneParent) -> None:
    active = world.unfinished()
    cleaning = [name for name in active if name.startswith("clean-")]
    assert not cleaning or len(active) == 1, f"{active} at once"


@pytest.mark.parametrize(("kind", "name", "spec"), [(*case[:2], case[2]) for case in SPECS])
def test_a_quiet_world_settles(kind: Kind[Any], name: str, spec: dict[str, Any]) -> None:
    world = OneParent(kind=kind, parent=parent(name, spec), related=_with_namespace())
    world.settle()
    for made in world.unfinished():
        world.finish(made, said=SAID[5], complete=True)
    world.settle()
    assert len(world.created) == len(set(world.created))


LOG_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["sync", "sync", "stale", "lost", "wait", "ask", "watch", "watch", "complete", "die", "refuse", "ttl", "pods"]
        ),
        st.integers(0, 9),
    ),
    min_size=5,
    max_size=60,
)


class LogHistory:
    """A log Backup, its user, its cluster and its Jobs; after each step, what must hold."""

    def __init__(self, clean: bool) -> None:
        spec = {**LOG_SPEC, "cleanPolicy": "Delete" if clean else "Retain"}
        self.world = OneParent(kind=backup.KIND, parent=parent("Backup", spec), related=_with_namespace())
        self.seq = 0

    def take(self, step: str, number: int) -> None:
        world = self.world
        world.clock += 2
        commands = [name for name in world.unfinished() if name != WATCH]
        if step in {"sync", "stale", "lost"}:
            world.sync(stale=step == "stale", status_lost=step == "lost")
        elif step == "wait":
            world.clock += 10 ** (number % 5)
        elif step == "ask":
            world.edit(
                **[{"logSubcommand": "log-start"}, {"logSubcommand": "log-pause"}, {"logTruncateUntil": "455"}][number % 3]
            )
        elif step == "watch" and WATCH in world.unfinished():
            self._watch_says(["running", "paused", "errorPaused", "unknown", "absent"][max(0, number - 5)])
        elif step == "complete" and commands:
            world.finish(commands[0], said=SAID[5], complete=True)
        elif step in {"die", "refuse"} and commands:
            world.finish(commands[0], said=SAID[6] if step == "refuse" else None, complete=False, pods_left=number % 2 == 0)
        elif step == "pods":
            world.pods_end()
        elif step == "ttl" and (finished := sorted(set(world.jobs) - set(world.unfinished()))):
            world.settle()
            world.caches_catch_up()
            world.vanish(finished[0])
        self._check()

    def _watch_says(self, state: str) -> None:
        self.seq += 1
        result = {"taskState": state, "observedAt": at(self.world.clock), "checkpointTs": 450 + self.seq}
        self.world.say(WATCH, report("Running", seq=self.seq, result=result))

    def _check(self) -> None:
        world = self.world
        commands = [name for name in world.unfinished() if name != WATCH]
        assert len(commands) <= 1, f"{commands} at once"
        gone = any(item.get("reason") == "LogBackupTaskNotFound" for item in world.status.get("conditions", []))
        assert not gone or world.status["phase"] == "Failed", "a task that is gone stays gone"


WATCH = "backup-basic-log-watch"


@bounded
@given(LOG_STEPS, st.booleans())
def test_a_log_backup_runs_one_command_at_a_time_whatever_happens(steps: list[tuple[str, int]], clean: bool) -> None:
    history = LogHistory(clean)
    for step, number in steps:
        history.take(step, number)
    world = history.world
    world.settle()
    watched = world.status.get("phase") in {"Running", "Paused", "RetryFailed"} and bool(world.status.get("commitTs"))
    assert (WATCH in world.jobs) is watched, "exactly one watch while the task should be there"
    world.delete()
    for _ in range(60):
        if world.gone:
            return
        for name in world.unfinished():
            world.finish(name, said=SAID[5], complete=True)
        world.pods_end()
        world.clock += max(world.wait or 0, 10)
        world.sync()
        _check_clean(world)
    raise AssertionError(world.status)
