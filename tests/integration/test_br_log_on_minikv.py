"""A log backup's whole life with the real br, through the manager: its books are kept in PD's etcd and in the folder.

minikv writes no log, so the checkpoints and errors that TiKV would report are put there by the test.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_manager.context import Result
from backup_manager.errors import ManagerError, RunInterruptedError
from backup_manager.locking import lease
from backup_manager.operations import br_backup, watch_log
from backup_manager.signals import StopSignal
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.pd import Pd, TaskState
from crds.contract import tso
from sandbox.minikv import MiniKV, minikv_with_tidb
from sandbox.patience import PATIENCE, until
from tests.support import etcd
from tests.support.manager import World, local_storage, world
from tests.support.servers import tool_path

pytestmark = pytest.mark.integration

STREAM = "/tidb/br-stream"
NAMES = ("pitr-log", "pitr-log-two")


@pytest.fixture(scope="module")
def kv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniKV]:
    with minikv_with_tidb(tmp_path_factory.mktemp("kv"), log_backup=True) as (kv, _):
        yield kv


@dataclass
class Log:
    """One log backup on a folder of the test."""

    kv: MiniKV
    tmp_path: Path
    name: str = NAMES[0]
    prefix: str = "log"

    def world(self, flags: Mapping[str, Any], stop: StopSignal | None = None) -> World:
        spec = {
            "br": {"cluster": "basic", "concurrency": 4, "timeAgo": "1m", "checksum": False},
            "tableFilter": ["shop.*"],
            "backupMode": "log",
            "local": local_storage(self.tmp_path, self.prefix),
        }
        flags = {"mode": "log", "pd-addr": self.kv.pd, **flags}
        made = world(self.tmp_path, spec, env={"PATH": tool_path()}, flags=flags, stop=stop)
        resource = replace(made.context.resource, name=self.name, uid=f"uid-of-{self.name}")
        return World(context=replace(made.context, resource=resource, now=_now), reporter=made.reporter, lines=made.lines)

    def do(self, command: str, **flags: str) -> Result:
        here = self.world({"subcommand": command, **{name.replace("_", "-"): value for name, value in flags.items()}})
        return br_backup.run(here.context)

    def fails(self, command: str, **flags: str) -> str:
        with pytest.raises(ManagerError) as caught:
            self.do(command, **flags)
        assert caught.value.hint
        return caught.value.problem().reason

    def state(self) -> TaskState:
        return Pd(Cluster(pd=self.kv.pd)).log_task(self.name).state


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def log(kv: MiniKV, tmp_path: Path) -> Iterator[Log]:
    made = Log(kv=kv, tmp_path=tmp_path)
    yield made
    for name in NAMES:  # br keeps one task per cluster: none may be left for the next test
        for part in ("info", "pause"):
            etcd.delete(kv.pd, f"{STREAM}/{part}/{name}")
        etcd.delete(kv.pd, f"{STREAM}/checkpoint/{name}/central_global")


def test_start_pause_resume_truncate_stop(log: Log) -> None:
    started = log.do("log-start")
    assert log.state() is TaskState.RUNNING
    since = int(started.commit_ts or 0)
    assert abs(tso.to_datetime(since) - _now()) < timedelta(seconds=60)
    log.do("log-pause")
    assert log.state() is TaskState.PAUSED
    log.do("log-resume")
    assert log.state() is TaskState.RUNNING
    [task] = log.do("log-status").details["tasks"]
    assert (task["name"], task["start_ts"]) == (log.name, str(since))
    until = str(since + 1000)
    assert log.fails("log-truncate", truncate_until=until) == "LogTruncateAhead"
    etcd.put_number(log.kv.pd, f"{STREAM}/checkpoint/{log.name}/central_global", since + 2000)
    assert log.do("log-truncate", truncate_until=until).details["logSuccessTruncateUntil"] == until
    folder = log.tmp_path / "volume" / "log"
    assert (folder / "v1_stream_trancate_safepoint.txt").read_text() == until
    assert log.do("log-metadata").details["logMinTs"] == until
    log.do("log-stop")
    assert log.state() is TaskState.ABSENT


def test_a_start_at_a_time_of_the_past(log: Log) -> None:
    wanted = _now().replace(microsecond=0) - timedelta(seconds=30)
    result = log.do("log-start", commit_ts=wanted.strftime("%Y-%m-%d %H:%M:%S"))
    assert tso.to_datetime(int(result.commit_ts or 0)) == wanted


def test_every_command_may_be_repeated(log: Log) -> None:
    first = log.do("log-start")
    assert log.do("log-start").commit_ts == first.commit_ts
    for command in ("log-pause", "log-pause", "log-resume", "log-resume"):
        log.do(command)
    assert log.state() is TaskState.RUNNING
    for _ in range(2):
        log.do("log-truncate", truncate_until=str(first.commit_ts))
        assert log.fails("log-truncate") == "InvalidSpec"
    for _ in range(2):
        log.do("log-stop")


def test_a_second_log_backup_on_the_cluster_is_refused(log: Log) -> None:
    log.do("log-start")
    other = Log(kv=log.kv, tmp_path=log.tmp_path, name=NAMES[1], prefix="other")
    assert other.fails("log-start") == "LogTaskExists"
    assert log.state() is TaskState.RUNNING


def test_our_name_in_another_folder_is_not_ours(log: Log) -> None:
    """The task of a namesake (another namespace) must not pass for the one that we were to start."""
    log.do("log-start")
    namesake = Log(kv=log.kv, tmp_path=log.tmp_path, prefix="elsewhere")
    assert namesake.fails("log-start") == "LogTaskExists"


@pytest.mark.parametrize("command", ["log-pause", "log-resume", "log-status"])
def test_what_does_not_run_cannot_be(log: Log, command: str) -> None:
    assert log.fails(command) == "LogTaskNotFound"


@dataclass
class Watch:
    """``log-watch`` in a thread, looking every 0.1 s."""

    here: World
    stop: StopSignal

    @property
    def result(self) -> dict[str, Any]:
        return self.here.report.result

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until(lambda: condition(self.result), lambda: str(self.result))
        return self.result


@pytest.fixture
def watch(log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr(watch_log, "INTERVAL", 0.1)
    made = Watch(here=log.world({}, stop := StopSignal()), stop=stop)
    ended: list[str] = []

    def work() -> None:
        try:
            watch_log.run(made.here.context)
        except RunInterruptedError:
            ended.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    yield made
    stop.request()
    thread.join(PATIENCE)
    assert ended == ["stopped"]


def test_watch_tells_the_whole_life(log: Log, watch: Watch) -> None:
    pd = log.kv.pd
    assert watch.until(lambda found: found.get("taskState") == "absent")
    since = int(log.do("log-start").commit_ts or 0)
    found = watch.until(lambda found: found["taskState"] == "running")
    assert found["checkpointTs"] == str(since)
    point = tso.from_datetime(_now() - timedelta(seconds=200))
    etcd.put_number(pd, f"{STREAM}/checkpoint/{log.name}/central_global", point)
    etcd.put_number(pd, f"{STREAM}/checkpoint/{NAMES[1]}/central_global", 1)  # its name begins with ours
    found = watch.until(lambda found: found["checkpointTs"] == str(point))
    assert 199 <= found["lagSeconds"] <= (_now() - tso.to_datetime(point)).total_seconds() + 1
    assert found["observedAt"].endswith("Z")
    log.do("log-pause")
    assert watch.until(lambda found: found["taskState"] == "paused")["pauseReason"] == "paused by hand"
    note = {"severity": "ERROR", "operation_hostname": "tikv-0", "payload_type": "text/plain", "payload": "ZGlzayBmdWxs"}
    etcd.put(pd, f"{STREAM}/pause/{log.name}", json.dumps(note).encode())
    assert watch.until(lambda found: found["taskState"] == "errorPaused")["pauseReason"] == "disk full"
    etcd.delete(pd, f"{STREAM}/info/{log.name}")  # somebody removed the task from outside
    watch.until(lambda found: found["taskState"] == "absent")
    assert watch.here.report.phase == "Running"


def test_the_lease_is_taken_by_start_alone(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []
    real = lease.held

    def noted(context: Any, namespace: str, cluster: str) -> Any:
        held.append(cluster)
        return real(context, namespace, cluster)

    monkeypatch.setattr(lease, "held", noted)
    for command in ("log-start", "log-pause", "log-resume", "log-stop"):
        log.do(command)
    assert held == ["basic"]
