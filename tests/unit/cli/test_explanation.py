"""``why``: the nearest witness decides the next step, and no secret comes through."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.explanation import Evidence, Explanation, explain
from crds import names
from tests.support.objects import BR_SPEC, at, job, parent, report

NOW = datetime(2026, 1, 31, 3, 0, tzinfo=UTC)


def failed(**condition: Any) -> dict[str, Any]:
    conditions = [{"type": "Failed", "status": "True", "lastTransitionTime": at(60), **condition}]
    return parent("Backup", BR_SPEC, status={"phase": "Failed", "conditions": conditions})


def pod(container: Mapping[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    statuses = [{"name": "backup", "state": container}] if container else []
    return {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "db", "creationTimestamp": at(0)},
        "status": {"containerStatuses": statuses, **status},
    }


def why(cr: Mapping[str, Any], **evidence: Any) -> Explanation:
    return explain(Evidence(cr=cr, **evidence), NOW)


def test_the_managers_own_hint_comes_first() -> None:
    said = report("Failed", error={"reason": "DiskFull", "message": "no space", "hint": "Free some.", "retryable": False})
    found = why(
        failed(reason="X"), jobs=[job("backup-basic", state="failed", said=said)], log="[ERROR] Access denied for user\n"
    )
    assert found.step == "Free some."
    assert "DiskFull: no space" in found.text


@pytest.mark.parametrize(
    ("state", "says", "step"),
    [
        ({"waiting": {"reason": "ErrImagePull", "message": "not found"}}, "ErrImagePull: not found", "image"),
        ({"waiting": {"reason": "CreateContainerConfigError", "message": "secret x"}}, "secret x", "Secret"),
        ({"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "exit status 137 (OOMKilled)", "memory"),
    ],
)
def test_pods_say_what_kubernetes_knows(state: Mapping[str, Any], says: str, step: str) -> None:
    found = why(failed(), jobs=[job("backup-basic", state="pending")], pods=[pod(state)])
    assert says in found.text
    assert step in found.step


def test_a_pod_that_fits_nowhere() -> None:
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
    found = why(failed(), jobs=[job("backup-basic", state="pending")], pods=[pod(conditions=conditions)])
    assert "Unschedulable: 0/3 nodes" in found.text
    assert "resources" in found.step


def test_the_log_is_understood_when_nothing_else_speaks() -> None:
    log = (
        '[2026/01/31 02:00:00.000 +00:00] [ERROR] [main.go:1] ["failed"] [error="Error 1045 (28000): Access denied for user"]\n'
    )
    found = why(failed(), log=log)
    assert "its log ends with" in found.text.lower()
    assert "secretName" in found.step


def test_secrets_are_blanked_everywhere() -> None:
    events = [
        {"type": "Warning", "reason": "F", "message": "run with --password=hunter22 failed"},
        {"type": "Normal", "reason": "Quiet", "message": "all well"},
    ]
    found = why(
        failed(message="sas-token=hunter22"), events=events, log="s3 secret_key=hunter22\nError: password=hunter22 is wrong"
    )
    told = " ".join([found.text, found.step, *found.log])
    assert "hunter22" not in told
    assert "******" in told
    assert "all well" not in told


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("ClusterNotFound", "Create the TidbCluster"),
        ("InvalidSpec", "Correct the spec"),
        ("JobVanished", "Somebody deleted the Job"),
    ],
)
def test_reasons_of_the_hooks_have_their_step(reason: str, step: str) -> None:
    assert step in why(failed(reason=reason, message="m")).step


def test_a_failed_run_of_a_schedule_needs_no_repeat() -> None:
    cr = failed()
    assert "delete and apply the Backup again" in why(cr).step
    cr["metadata"]["labels"] = {names.SCHEDULE_LABEL: "nightly"}
    assert "goes on with its next run" in why(cr).step


def test_a_new_one_is_given_a_minute() -> None:
    cr = parent("Backup", BR_SPEC)
    cr["metadata"]["creationTimestamp"] = "2026-01-31T02:59:30Z"
    assert why(cr).step == "Nothing to do: it goes on by itself."
    cr["metadata"]["creationTimestamp"] = "2026-01-31T02:00:00Z"
    assert "webhook" in why(cr).step


def test_retries_and_deletion_are_told() -> None:
    status = {
        "phase": "RetryFailed",
        "conditions": [{"type": "RetryFailed", "status": "True", "reason": "RetryFailedBackup", "message": "again at 4"}],
        "backoffRetryStatus": [{"retryNum": 1, "expectedRetryAt": "2026-01-31T04:00:00Z"}],
    }
    found = why(parent("Backup", BR_SPEC, status=status))
    assert "1 failed attempt(s) so far, the next at 2026-01-31T04:00:00Z" in found.text
    assert "tried again" in found.step
    gone = parent("Backup", BR_SPEC, status=status, deletionTimestamp="2026-01-31T02:30:00Z")
    assert "is being deleted since 2026-01-31 02:30:00Z" in why(gone).text


def test_a_log_backup_says_what_its_cluster_says_and_what_keeps_it() -> None:
    task = {"state": "paused", "pauseReason": "paused by hand", "lagSeconds": 7200, "observedAt": "2026-01-31T02:59:00Z"}
    ahead = {"type": "Waiting", "status": "True", "reason": "LogTruncateAhead", "message": "not truncated yet"}
    paused = {"type": "Paused", "status": "True", "lastTransitionTime": at(0)}
    found = why(parent("Backup", BR_SPEC, status={"phase": "Paused", "logTask": task, "conditions": [paused, ahead]}))
    assert "Its task in the cluster is paused (paused by hand), 2h behind, as of 2026-01-31 02:59:00Z (1m ago)." in found.text
    assert "LogTruncateAhead: not truncated yet." in found.text
    assert "spec.logTruncateUntil" in found.step


def test_a_schedule_speaks_of_its_newest_backup() -> None:
    cr = parent("BackupSchedule", {"schedule": "@daily"}, status={"retention": {"kept": 3}})
    newest = failed()
    newest["metadata"] |= {"name": "basic-2026-01-31t02-00-00", "creationTimestamp": "2026-01-31T02:00:00Z"}
    older = parent("Backup", BR_SPEC, name="older", creationTimestamp="2026-01-30T02:00:00Z", status={"phase": "Complete"})
    found = why(cr, children=[older, newest])
    assert "newest Backup basic-2026-01-31t02-00-00 is Failed" in found.text
    assert found.step == "See why it failed: tidb-backup why basic-2026-01-31t02-00-00 -n db"
