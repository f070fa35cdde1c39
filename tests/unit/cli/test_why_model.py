"""``why``: the nearest witness decides the next step, and no secret comes through."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.models.next_step import next_attempt
from cli.models.why import Evidence, Explanation, explain
from crds.contract import names
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
        ("IdentityChanged", "Set the field back"),
    ],
)
def test_reasons_of_the_hooks_have_their_step(reason: str, step: str) -> None:
    assert step in why(failed(reason=reason, message="m")).step


def test_a_failed_run_of_a_schedule_needs_no_repeat() -> None:
    cr = failed()
    assert "create a new Backup under another name" in why(cr).step
    cr["metadata"]["labels"] = {names.SCHEDULE_LABEL: "nightly"}
    assert "The schedule makes its next run" in why(cr).step


def test_a_new_one_is_given_a_minute() -> None:
    cr = parent("Backup", BR_SPEC)
    cr["metadata"]["creationTimestamp"] = "2026-01-31T02:59:30Z"
    assert why(cr).step == "Nothing to do: it continues automatically."
    cr["metadata"]["creationTimestamp"] = "2026-01-31T02:00:00Z"
    assert "webhook" in why(cr).step


def test_retries_and_deletion_are_told() -> None:
    status = {
        "phase": "RetryFailed",
        "conditions": [{"type": "RetryFailed", "status": "True", "reason": "RetryFailedBackup", "message": "again at 4"}],
        "backoffRetryStatus": [{"retryNum": 1, "expectedRetryAt": "2026-01-31T04:00:00Z"}],
    }
    found = why(parent("Backup", BR_SPEC, status=status))
    assert "1 failed attempt so far, the next is due at 2026-01-31 04:00:00Z" in found.text
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


ACCOUNT = {"spec": {"template": {"spec": {"serviceAccountName": "tidb-backup-manager"}}}}
NO_ACCOUNT = 'Error creating: pods "backup-basic-" is forbidden: error looking up service account db/tidb-backup-manager: '


def stalled(reason: str = "NoPodCreated") -> dict[str, Any]:
    conditions = [{"type": "Stalled", "status": "True", "reason": reason, "message": "no Pod"}]
    return parent("Backup", BR_SPEC, status={"phase": "Scheduled", "conditions": conditions})


def refused(message: str) -> dict[str, Any]:
    about = {"kind": "Job", "name": "backup-basic"}
    return {"type": "Warning", "reason": "FailedCreate", "message": message, "involvedObject": about, "lastTimestamp": at(10)}


@pytest.mark.parametrize(
    ("accounts", "message", "says", "step"),
    [
        (frozenset({"default"}), "", "ServiceAccount tidb-backup-manager is missing", "kubectl label namespace db"),
        (None, f'{NO_ACCOUNT}serviceaccount "tidb-backup-manager" not found', "is missing", "kubectl label namespace db"),
        (
            frozenset({"tidb-backup-manager"}),
            "exceeded quota: pods, used: 10, limited: 10",
            "a quota",
            "kubectl describe quota",
        ),
        (None, "admission webhook denied the request", "denied the request", "kubectl describe job backup-basic -n db"),
        (None, "", "waiting for its Pod", "kubectl describe job backup-basic -n db"),
    ],
)
def test_a_job_that_gets_no_pod_at_all_says_why_and_what_to_do(
    accounts: frozenset[str] | None, message: str, says: str, step: str
) -> None:
    made = {**job("backup-basic", state="pending"), **ACCOUNT, "status": {"startTime": at(0)}}
    found = why(stalled(), jobs=[made], events=[refused(message)] if message else [], accounts=accounts)
    assert says in found.text
    assert step in found.step
    assert "Nothing to do" not in found.step


def test_an_account_of_the_users_own_is_not_the_namespaces() -> None:
    pod_spec = {"spec": {"template": {"spec": {"serviceAccountName": "mine"}}}}
    made = {**job("backup-basic", state="pending"), **pod_spec, "status": {"startTime": at(0)}}
    assert "Create ServiceAccount mine" in why(stalled(), jobs=[made], accounts=frozenset({"default"})).step


@pytest.mark.parametrize("kind", ["Stalled", "Invalid", "Waiting"])
def test_what_is_held_up_never_continues_by_itself(kind: str) -> None:
    cr = stalled("SomethingNew")
    cr["status"]["conditions"][0]["type"] = kind
    assert "Nothing to do" not in why(cr).step
    cr["status"]["phase"] = "Complete"
    assert kind == "Waiting" or "Nothing to do" not in why(cr).step


def test_the_job_that_has_the_name_is_looked_at() -> None:
    labels = {names.BACKUP_LABEL: "basic-r1"}
    cr = parent("Backup", BR_SPEC, status={"phase": "RetryFailed", "awaitedJobs": ["backup-basic-r1"]})
    running = why(cr, namesakes=[job("backup-basic-r1", labels=labels)])
    assert "Job backup-basic-r1, which it waits for, exists and belongs to Backup basic-r1." in running.text
    assert running.step.startswith("Wait until that Job has ended")
    ended = why(cr, namesakes=[job("backup-basic-r1", state="complete", labels=labels)])
    assert ended.step.startswith("It has ended: delete that Job")


RECORDS = [
    {"retryNum": 1, "expectedRetryAt": "2026-01-31T04:00:00Z", "realRetryAt": "2026-01-31T04:00:00Z"},
    {"retryNum": 2, "expectedRetryAt": "2026-01-31T05:00:00Z"},
]


@pytest.mark.parametrize(
    "phase", ["Failed", "Invalid", "Complete", "Running", "Clean", "CleanFailed", "PruneFailed", "Waiting"]
)
@pytest.mark.parametrize("deleting", [False, True])
def test_no_other_phase_than_a_failed_attempt_promises_a_retry(phase: str, deleting: bool) -> None:
    meta = {"deletionTimestamp": at(0)} if deleting else {}
    cr = parent("Backup", BR_SPEC, status={"phase": phase, "backoffRetryStatus": RECORDS}, **meta)
    assert next_attempt(cr) is None
    found = why(cr)
    assert "due at" not in found.text
    assert "tried again" not in found.step


def test_the_clean_counts_its_own_attempts() -> None:
    clean: dict[str, Any] = {"attempt": 5, "left": 3}
    status: dict[str, Any] = {
        "phase": "CleanFailed",
        "backupPath": "s3://b/p",
        "cleanStatus": clean,
        "backoffRetryStatus": RECORDS,
    }
    last = why(parent("Backup", BR_SPEC, status=status, deletionTimestamp=at(0)))
    assert "Clean attempt 5 was the last, no other follows." in last.text
    assert "failed attempt" not in last.text
    assert 'tidb.pingcap.com/force-delete="true": the data stays at s3://b/p' in last.step
    status["cleanStatus"] = {**clean, "attempt": 2, "nextAttemptAt": "2026-01-31T04:00:00Z"}
    again = why(parent("Backup", BR_SPEC, status=status, deletionTimestamp=at(0)))
    assert "Clean attempt 2 failed, the next is due at 2026-01-31 04:00:00Z." in again.text


def test_what_deletes_data_says_so() -> None:
    cr = failed()
    cr["spec"]["cleanPolicy"] = "Delete"
    cr["status"]["backupPath"] = "s3://b/p"
    assert "Deleting this one deletes what is at s3://b/p (cleanPolicy Delete)." in why(cr).step
    cr["spec"]["backupMode"] = "log"
    assert "Take a snapshot after it" in why(cr).step


def test_why_names_what_an_export_left_out() -> None:
    status = {"phase": "Complete", "backupPath": "s3://b/p", "leftOut": ["SQL bindings: 2", "schema test, tables: 1"]}
    cr = {"kind": "Backup", "metadata": {"name": "b", "namespace": "ns"}, "status": status}
    assert "does not hold: SQL bindings: 2; schema test, tables: 1" in why(cr).text
    cr |= {"kind": "Restore", "status": status | {"leftOut": ["user 'a'@'%': it runs the restore"]}}
    assert "The restore did not bring: user 'a'@'%': it runs the restore" in why(cr).text
