"""What ``why`` promises is what the hook does: a retry that it announces for a time comes at that time, and none comes that it
does not announce, through random lives of Backups and Restores and their deletion."""

import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.hooks import backup, compactbackup, restore
from app.hooks.resource import Kind
from cli.models.next_step import next_attempt
from cli.models.why import Evidence, explain
from tests.support.model import OneParent
from tests.support.objects import BR_SPEC, EXPORT_SPEC, LOG_SPEC, NOW, S3, at, namespace, parent, report, tidb_cluster

RUNS = int(os.environ.get("TIDB_BACKUP_TEST_RUNS", "60"))
bounded = settings(max_examples=RUNS, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
FAR: int = 40 * 24 * 3600
CASES: list[tuple[Kind[Any], str, dict[str, Any]]] = [
    (backup.KIND, "Backup", {**EXPORT_SPEC, "cleanPolicy": "Delete"}),
    (backup.KIND, "Backup", {**BR_SPEC, "cleanPolicy": "OnFailure", "backoffRetryPolicy": {"maxRetryTimes": 1}}),
    (backup.KIND, "Backup", {**LOG_SPEC, "cleanPolicy": "Delete", "logTruncateUntil": "449"}),
    (restore.KIND, "Restore", {**BR_SPEC, "prune": "afterFailed"}),
    (restore.KIND, "Restore", {"to": EXPORT_SPEC["from"], "s3": S3}),
    (compactbackup.KIND, "CompactBackup", {**BR_SPEC, "startTs": "1", "endTs": "2"}),
]
GOOD = report("Complete", commitTs="450", backupPath="s3://bucket/daily", result={"deleted": 1, "left": 0})
AWAY = report("Failed", error={"reason": "Away", "retryable": True}, result={"left": 3})
GONE = report("Failed", error={"reason": "Gone", "message": "x"}, result={"left": 3})
LOCKED = report("Failed", error={"reason": "Locked", "retryable": True}, result={"left": 3, "deferredUntil": at(90_000)})
STEPS = st.lists(
    st.sampled_from(["good", "die", "away", "away", "gone", "locked", "edit", "move", "back", "pause", "delete", "wait"]),
    max_size=12,
)


def world(case: tuple[Kind[Any], str, dict[str, Any]]) -> OneParent:
    kind, name, spec = case
    related = {"TidbCluster.pingcap.com/v1alpha1": {"db/basic": tidb_cluster()}, "Namespace.v1": {"db": namespace()}}
    made = OneParent(kind=kind, parent=parent(name, spec), related=related)
    made.settle()
    return made


def take(cluster: OneParent, step: str, case: tuple[Kind[Any], str, dict[str, Any]]) -> None:
    """One thing that happens, and all that follows from it at once."""
    cluster.clock += 10
    ended = [name for name in cluster.unfinished() if not name.endswith("-log-watch")]
    if step == "wait":
        cluster.clock += 700
    elif step == "delete":
        cluster.delete()
    elif step == "edit":
        cluster.edit(resources={"limits": {"cpu": "1"}})
    elif step in {"move", "back"}:
        cluster.edit(s3={**S3, "prefix": "elsewhere"} if step == "move" else S3)
    elif step == "pause" and case[2].get("backupMode") == "log":
        paused = cluster.parent["spec"].get("logSubcommand") == "log-pause"
        cluster.edit(logSubcommand="log-start" if paused else "log-pause")
    elif ended and step in {"good", "die", "away", "gone", "locked"}:
        said = {"good": GOOD, "die": None, "away": AWAY, "gone": GONE, "locked": LOCKED}[step]
        cluster.finish(ended[0], said=said, complete=step == "good")
    cluster.settle(40)


def promised(cluster: OneParent) -> Any:
    """What ``why`` announces; its words and the time that they are made from agree."""
    cr = cluster.parent
    found, following = explain(Evidence(cr=cr), cluster.now), next_attempt(cr)
    words = f"{found.text} {found.step}"
    assert (("due at" in words) is bool(following)) or cr["kind"] == "CompactBackup"
    return following


def check(cluster: OneParent) -> None:
    """Nothing but time passes: the hook does what was promised, when it was promised, and else nothing."""
    if cluster.gone or [name for name in cluster.unfinished() if not name.endswith("-log-watch")]:
        return
    following, before = promised(cluster), list(cluster.created)
    if following is None:
        cluster.clock += FAR
        cluster.settle(40)
        assert cluster.created == before or cluster.gone, f"{cluster.created[len(before) :]} was not promised"
        return
    seconds = (following - NOW).total_seconds()
    assert seconds > cluster.clock, "what is promised lies ahead"
    cluster.clock = seconds - 1
    cluster.settle(40)
    assert cluster.created == before, "nothing comes before its time"
    cluster.clock = (following - NOW + timedelta(seconds=1)).total_seconds()
    cluster.settle(40)
    assert len(cluster.created) == len(before) + 1, f"promised for {following}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[2].get('backupMode') or case[2].get('prune') or ''}")
@bounded
@given(steps=STEPS)
def test_why_promises_what_the_hook_does(case: tuple[Kind[Any], str, dict[str, Any]], steps: list[str]) -> None:
    cluster = world(case)
    for step in steps:
        if cluster.gone:
            return
        take(cluster, step, case)
    check(cluster)
