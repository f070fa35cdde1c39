"""``tidb-backup`` against a real API server, the real hooks behind the stand-in of Metacontroller, and a real S3 server."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import cli.cluster
from backup_manager.catalog.record import Owner
from backup_manager.catalog.records import Records
from backup_manager.storage.factory import open_storage
from cli.main import commands
from crds.contract import names
from crds.contract.paths import Location
from sandbox.cluster import Cluster
from sandbox.patience import PATIENCE

pytestmark = pytest.mark.integration

PARTS = frozenset({"controllers", "metacontroller", "webhook", "s3"})
"""No agent: a Job that came into being would stay, for all to see."""
BEGIN = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"cli-{time.monotonic_ns() % 10**6}", tidbs=(), parts=PARTS) as running:
        yield running


@pytest.fixture
def env(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a user: kubeconfig, keys."""
    bucket = cluster.bucket
    found = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "S3_ENDPOINT": bucket.endpoint,
        "AWS_ACCESS_KEY_ID": bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
        "AWS_REGION": "us-east-1",
        "TIDB_BACKUP_CLI_DEBUG": "1",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def run(*words: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(commands, words, prog_name="tidb-backup")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result


def data(*words: str, exit_code: int = 0) -> Any:
    return json.loads(run(*words, "-o", "json", exit_code=exit_code).stdout)


def spec(cluster: Cluster, prefix: str) -> dict[str, Any]:
    bucket = cluster.bucket
    storage = {
        "provider": "minio",
        "endpoint": bucket.endpoint,
        "bucket": bucket.name,
        "prefix": prefix,
        "secretName": "s3-secret",
    }
    return {"from": {"host": "tidb", "secretName": "tidb-secret"}, "s3": storage}


def write(cluster: Cluster, env: dict[str, str], prefix: str, name: str, day: int) -> str:
    """A complete export under *prefix*; its path."""
    url = f"s3://{cluster.bucket.name}/{prefix}/{name}"
    storage = open_storage(spec(cluster, prefix), location=Location.parse(url), env=env)
    times = iter(BEGIN + timedelta(days=day, minutes=minute) for minute in range(9))
    records = Records(storage, now=lambda: next(times))
    owner = Owner(namespace="lost", name=name, uid=f"uid-of-{name}")
    claim = records.claim(owner, operation="export", spec=spec(cluster, prefix))
    storage.write("metadata", b"Finished dump at")
    storage.write("shop.t.000000000.sql", b"x" * 100)
    records.complete(claim, tool="dumpling", commit_ts="449000000000000002")
    storage.close()
    return url


def test_history_on_a_real_store_and_what_somebody_did_to_it(cluster: Cluster, env: dict[str, str], tmp_path: Path) -> None:
    first = write(cluster, env, "audit", "first", 0)
    second = write(cluster, env, "audit", "second", 1)
    where = ("--storage", f"s3://{cluster.bucket.name}/audit", "--offline")
    assert [(event["name"], event["outcome"], event["bytes"]) for event in data("history", *where)] == [
        ("first", "Complete", 116),
        ("second", "Complete", 116),
    ]
    (seen,) = data("history", "verify", *where)
    assert (seen["entries"], seen["ok"]) == (4, True)
    (tmp_path / "seen.json").write_text(json.dumps([seen]))
    run("verify", first)
    root = open_storage({}, location=Location.parse(f"s3://{cluster.bucket.name}/audit"), env=env)
    root.write("first/shop.t.000000000.sql", b"y" * 99)
    assert data("verify", first, exit_code=4)["changed"] == 1
    # The end is cut off, together with the record that would tell.
    kept = {key: root.read(key) for key in (".history/00000003.json", ".history/00000004.json", "second.record.json")}
    root.delete(list(kept))
    assert data("history", "verify", *where)[0]["ok"]
    (cut,) = data("history", "verify", *where, "--against", str(tmp_path / "seen.json"), exit_code=4)
    assert cut["findings"][0]["message"] == "entry 4 was seen before and is gone"
    # One in the middle is edited.
    for key, content in kept.items():
        root.write(key, content)
    root.write(".history/00000002.json", root.read(".history/00000002.json").replace(b'"lost"', b'"mine"'))
    (edited,) = data("history", "verify", *where, exit_code=4)
    assert [finding["entry"] for finding in edited["findings"]] == [3]
    root.close()
    assert second.startswith("s3://")


def _backups(cluster: Cluster, namespace: str) -> dict[str, dict[str, Any]]:
    items = json.loads(cluster.kubectl("get", "backups", f"--namespace={namespace}", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item for item in items}


def _no_jobs(cluster: Cluster, namespace: str) -> None:
    assert json.loads(cluster.kubectl("get", "jobs", f"--namespace={namespace}", "-o", "json"))["items"] == []


def test_backups_of_a_lost_cluster_come_back_and_are_not_run(cluster: Cluster, env: dict[str, str]) -> None:
    url = f"s3://{cluster.bucket.name}/lost"
    path = write(cluster, env, "lost", "monday", 0)
    write(cluster, env, "lost", "tuesday", 1)
    cluster.make_namespace("lost")
    assert "2 Backups would be made" in run("import-records", url).stdout
    assert _backups(cluster, "lost") == {}
    assert "2 Backups made, 0 not" in run("import-records", url, "--yes").stdout
    for name, backup in _backups(cluster, "lost").items():
        assert backup["status"]["phase"] == "Complete", name
    # Whatever wakes the hook: it has latched.
    for label in ("once=1", "twice=2"):
        cluster.kubectl("label", "backups", "--all", label, "--namespace=lost")
        time.sleep(1.5)
    found = _backups(cluster, "lost")
    monday = found["monday"]["status"]
    assert (monday["backupPath"], monday["backupSize"], monday["timeTaken"]) == (path, 116, "2m0s")
    assert monday["observedGeneration"] == 1
    assert {backup["spec"]["cleanPolicy"] for backup in found.values()} == {"Retain"}
    _no_jobs(cluster, "lost")
    assert "0 Backups made, 2 not" in run("import-records", url, "--yes").stdout
    assert [event["toldBy"] for event in data("history", "-n", "lost")] == [["history", "record", "cr"]] * 2
    run("verify", "monday", "-n", "lost")
    # Their deletion leaves the data where it is, and needs no Job.
    cluster.kubectl("delete", "backup", "monday", "--namespace=lost", f"--timeout={PATIENCE:g}s")
    _no_jobs(cluster, "lost")
    run("verify", path)
    assert data("history", "--storage", url, "--offline")[0]["outcome"] == "Complete"


def test_they_can_be_applied_too(cluster: Cluster, env: dict[str, str]) -> None:
    write(cluster, env, "applied", "monday", 0)
    cluster.make_namespace("applied")
    objects = run("import-records", f"s3://{cluster.bucket.name}/applied", "--offline", "-n", "applied", "-o", "yaml").stdout
    assert next(iter(yaml.safe_load_all(objects)))["kind"] == "Backup"
    cluster.kubectl("apply", "--filename=-", text=objects)

    def complete(backup: Any) -> bool:
        return bool(((backup or {}).get("status") or {}).get("phase") == "Complete")

    cluster.wait_for("Backup", "monday", complete, namespace="applied")
    _no_jobs(cluster, "applied")


def _schedule(cluster: Cluster, namespace: str) -> None:
    """A paused schedule with three complete Backups, put there as the hook would have."""
    parent = {
        "apiVersion": names.API_VERSION,
        "kind": "BackupSchedule",
        "metadata": {"name": "nightly", "namespace": namespace},
        "spec": {
            "schedule": "0 2 * * *",
            "timeZone": "Europe/Berlin",
            "pause": True,
            "backupTemplate": spec(cluster, "nightly"),
        },
    }
    cluster.apply(yaml.safe_dump(parent))
    uid = (cluster.get("BackupSchedule", "nightly", namespace) or {})["metadata"]["uid"]
    for day in range(1, 4):
        slot = BEGIN + timedelta(days=day)
        facts = {"path": f"s3://b/{day}", "size": 10**9, "completed": f"2026-03-0{day + 1}T02:20:00Z"}
        child = {
            "apiVersion": names.API_VERSION,
            "kind": "Backup",
            "metadata": {
                "name": names.slot_backup("nightly", slot),
                "namespace": namespace,
                "labels": {names.SCHEDULE_LABEL: "nightly", "controller-uid": uid},
                "annotations": {
                    names.SLOT_ANNOTATION: slot.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    names.IMPORTED_ANNOTATION: json.dumps(facts),
                },
                "ownerReferences": [
                    {
                        "apiVersion": names.API_VERSION,
                        "kind": "BackupSchedule",
                        "name": "nightly",
                        "uid": uid,
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": spec(cluster, "nightly"),
        }
        cluster.apply(yaml.safe_dump(child))
    cluster.wait_for(
        "BackupSchedule", "nightly", lambda obj: ((obj or {}).get("status") or {}).get("retention", {}).get("kept") == 3,
        namespace=namespace,
    )  # fmt: skip


def test_plan_and_next_see_the_cluster_as_the_files_of_it(
    cluster: Cluster, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.cluster, "_PAGE", 2)
    cluster.make_namespace("plan")
    _schedule(cluster, "plan")
    dump = tmp_path / "dump.json"
    dump.write_text(cluster.kubectl("get", "backups,backupschedules", "--namespace=plan", "-o", "json"))
    now = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for words in (["plan", "nightly"], ["plan", "nightly", "--set", "maxBackups=1"], ["next", "nightly", "-c", "3"]):
        assert data(*words, "-n", "plan", "--now", now) == data(*words, "-f", str(dump), "--now", now)
    (planned,) = data("plan", "-n", "plan", "--set", "maxBackups=1", "--now", now)
    assert (planned["kept"], planned["going"], planned["stayingBytes"]) == (1, 2, 2 * 10**9)
    assert "is paused" in run("next", "-n", "plan").stderr
    assert len(data("next", "-n", "plan")) == 0
    assert {item["phase"] for item in data("status", "-n", "plan")} == {"Paused", "Complete"}
    assert "Unset spec.pause" in run("why", "bks/nightly", "-n", "plan").stdout
    assert run("plan", "-A", "--now", now).stdout.count("BackupSchedule plan/nightly") == 1
    # What the plan says under the new policy is what the hook does.
    cluster.kubectl("patch", "bks", "nightly", "--namespace=plan", "--type=merge", "--patch", '{"spec":{"maxBackups":1}}')
    gone = {item["name"] for item in planned["backups"] if item["verdict"] == "delete"}
    for name in gone:
        cluster.wait_for("Backup", name, lambda obj: obj is None, namespace="plan")
    assert len(_backups(cluster, "plan")) == 1


def test_why_status_and_watch_of_a_run_that_does_not_begin(cluster: Cluster, env: dict[str, str]) -> None:
    cluster.make_namespace("slow")
    backup = {"apiVersion": names.API_VERSION, "kind": "Backup", "metadata": {"name": "slow", "namespace": "slow"}}
    cluster.apply(yaml.safe_dump({**backup, "spec": spec(cluster, "slow")}))
    cluster.wait_for("Job", "backup-slow", lambda job: job is not None, namespace="slow")
    cluster.wait_for("Backup", "slow", lambda obj: bool((obj or {}).get("status")), namespace="slow")
    said = " ".join(run("why", "slow", "-n", "slow").stdout.split())
    assert "Backup slow/slow is Scheduled" in said
    assert "Job backup-slow is waiting for its Pod" in said
    assert [item["phase"] for item in data("status", "slow", "-n", "slow")] == ["Scheduled"]
    late = run("watch", "slow", "-n", "slow", "--timeout", "1s", "--interval", "200ms", exit_code=1)
    assert "Backup slow/slow Scheduled" in late.stdout
    assert "--output=s3://" in run("explain-command", "slow", "-n", "slow").stdout
    assert data("check", "slow", "-n", "slow", exit_code=4)["checks"][0]["status"] == "OK"
    run("why", "absent", "-n", "slow", exit_code=1)


def test_an_api_server_that_does_not_answer_is_exit_3(cluster: Cluster, env: dict[str, str], tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    result = run("status", "--kubeconfig", str(tmp_path / "config"), exit_code=3)
    assert "the API server does not answer" in result.stderr
    config["users"][0]["user"] = {"token": "wrong"}
    config["clusters"][0]["cluster"]["server"] = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"][
        "server"
    ]
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    assert "Unauthorized" in run("status", "--kubeconfig", str(tmp_path / "config"), exit_code=1).stderr
