"""br's command lines, against the flags that the real br of v8.5 accepts for each subcommand."""

from typing import Any

import pytest

from backup_manager.errors import UsageError
from backup_manager.tidb.cluster import Cluster
from backup_manager.tools import br
from backup_manager.tools.br import LogCommand
from backup_manager.tools.process import Stream

CLUSTER = Cluster(pd="basic-pd.ns:2379")
STORAGE = ["--storage=s3://b/p", "--s3.region=r"]
EVERYTHING: dict[str, Any] = {
    "cluster": "basic",
    "logLevel": "info",
    "statusAddr": ":1",
    "concurrency": 8,
    "rateLimit": 100,
    "timeAgo": "5m",
    "checksum": True,
    "checkRequirements": False,
    "sendCredToTikv": False,
    "onLine": True,
    "db": "d",
    "table": "t",
    "options": ["--mine=1"],
}
# Reference 17.1: the flags that a subcommand does not know, of those that we may make.
UNKNOWN = {
    "backup full": {"online", "restored-ts", "full-backup-storage", "start-ts", "task-name", "until", "table", "db"},
    "backup db": {"filter", "online", "table"},
    "backup table": {"filter", "online"},
    "restore full": {"timeago", "backupts", "table", "db"},
    "restore db": {"timeago", "backupts", "filter", "table"},
    "restore point": {"timeago", "backupts", "table", "db"},
    "log start": {"concurrency", "timeago", "backupts", "online", "until", "table", "db"},
    "log stop": {"concurrency", "timeago", "filter", "online", "until", "start-ts"},
    "log pause": {"concurrency", "timeago", "filter", "online", "until", "start-ts"},
    "log resume": {"concurrency", "timeago", "filter", "online", "until", "start-ts"},
    "log truncate": {"concurrency", "timeago", "filter", "online", "task-name", "start-ts"},
}


def line_of(command: str) -> list[str]:
    kind = command.split()[1]
    spec: dict[str, Any] = {"br": EVERYTHING, "commitTs": "5"}
    if kind in {"db", "table"}:
        spec["backupType"] = kind
    else:
        spec["tableFilter"] = ["a.*", "!a.b"]
    match command.split():
        case ["backup", _]:
            return br.backup(spec, CLUSTER, STORAGE)
        case ["restore", "point"]:
            return br.restore_point(spec, CLUSTER, STORAGE, restored_ts="9", full_backup="s3://b/full", replication_phase=2)
        case ["restore", _]:
            return br.restore(spec, CLUSTER, STORAGE)
        case _:
            return br.log(LogCommand(f"log-{kind}"), "task", spec, CLUSTER, STORAGE, start_ts="3", until="4")


@pytest.mark.parametrize("command", UNKNOWN)
def test_no_subcommand_gets_a_flag_that_it_does_not_know(command: str) -> None:
    line = line_of(command)
    assert " ".join(line[:2]) == command
    given = {item[2:].partition("=")[0] for item in line if item.startswith("--")}
    assert not given & UNKNOWN[command]
    assert {"pd", "storage", "s3.region", "checksum", "check-requirements", "ratelimit", "log-level", "mine"} <= given


def test_a_snapshot_backup_as_upstream_orders_it() -> None:
    spec = {"br": EVERYTHING, "backupType": "table", "commitTs": "2024-01-02 03:04:05"}
    assert br.backup(spec, Cluster(pd="p:2379", tls=True), STORAGE) == [
        "backup",
        "table",
        "--backupts=446736536698880000",
        "--pd=p:2379",
        "--ca=/var/lib/cluster-client-tls/ca.crt",
        "--cert=/var/lib/cluster-client-tls/tls.crt",
        "--key=/var/lib/cluster-client-tls/tls.key",
        "--log-level=info",
        "--status-addr=:1",
        "--send-credentials-to-tikv=false",
        "--storage=s3://b/p",
        "--s3.region=r",
        "--table=t",
        "--db=d",
        "--concurrency=8",
        "--ratelimit=100",
        "--timeago=5m",
        "--checksum=true",
        "--check-requirements=false",
        "--mine=1",
    ]


def test_the_least_a_backup_needs() -> None:
    assert br.backup({"br": {"cluster": "basic"}}, CLUSTER, ["--storage=s3://b/p"]) == [
        "backup",
        "full",
        "--pd=basic-pd.ns:2379",
        "--storage=s3://b/p",
    ]


def test_point_in_time_flags_come_last_so_that_options_cannot_override_them() -> None:
    line = br.restore_point(
        {"br": EVERYTHING}, CLUSTER, STORAGE, restored_ts="0", full_backup="s3://b/full", replication_phase=1
    )
    assert line[-7:] == [
        "--mine=1",
        "--restored-ts=0",
        "--full-backup-storage=s3://b/full",
        "--restore-phase=1",
        "--pitr-concurrency=1024",
        "--metadata-download-batch-size=512",
        "--retain-latest-mvcc-version",
    ]


def test_a_log_start_ts_serves_when_there_is_no_full_backup() -> None:
    line = br.restore_point({"br": EVERYTHING, "logRestoreStartTs": "77"}, CLUSTER, STORAGE, restored_ts="9")
    assert line[-2:] == ["--restored-ts=9", "--start-ts=77"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"br": EVERYTHING, "backupType": "raw"}, "spec.backupType"),
        ({"br": {"cluster": "c"}, "backupType": "db"}, "spec.br.db"),
        ({"br": {"cluster": "c", "db": "d"}, "backupType": "table"}, "spec.br.table"),
        ({"br": EVERYTHING, "backupType": "db", "tableFilter": ["a.*"]}, "spec.tableFilter"),
    ],
)
def test_specs_that_br_would_refuse_are_refused_before_it_starts(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        br.backup(spec, CLUSTER, STORAGE)
    assert field in caught.value.message + caught.value.hint


@pytest.mark.parametrize("until", ["", "0"])
def test_a_truncate_needs_its_ts(until: str) -> None:
    with pytest.raises(UsageError):
        br.log(LogCommand.TRUNCATE, "task", {"br": EVERYTHING}, CLUSTER, STORAGE, until=until)


def test_a_log_start_from_now_passes_no_ts() -> None:
    line = br.log(LogCommand.START, "task", {"br": {"cluster": "c"}}, CLUSTER, STORAGE, start_ts="0")
    assert line[:3] == ["log", "start", "--task-name=task"]
    assert not any(item.startswith("--start-ts") for item in line)


def test_a_restore_to_a_point_needs_a_start() -> None:
    with pytest.raises(UsageError) as caught:
        br.restore_point({"br": EVERYTHING}, CLUSTER, STORAGE, restored_ts="0")
    assert "pitrFullBackupStorageProvider" in caught.value.hint
    assert "logRestoreStartTs" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "pd"),
    [({"cluster": "c"}, "c-pd.ns:2379"), ({"cluster": "c", "clusterNamespace": "other"}, "c-pd.other:2379")],
)
def test_where_pd_is(spec: dict[str, str], pd: str) -> None:
    assert Cluster.of(spec, "ns", tls=False).flags == [f"--pd={pd}"]


def test_what_br_says() -> None:
    heard = br.BrOutput()
    lines = (
        (Stream.ERR, '[progress] [step="Full Backup"] [progress=1%]'),
        (Stream.OUT, '[progress] [step="Full Backup"] [progress=42%]'),
        (Stream.ERR, "[BR operation started] [operation_id=a]"),
        (Stream.OUT, "[BR operation started] [operation_id=b]"),
        (Stream.OUT, '[x] ["Full Backup success summary"] [total-kv=100] [total-kv-size=123.5kB] [BackupTS=47]'),
    )
    for stream, line in lines:
        heard.line(stream, line)
    assert heard.progress is not None
    assert (heard.progress.percent, list(heard.operations)) == (42.0, ["a", "b"])
    assert heard.summary["BackupTS"] == "47"
