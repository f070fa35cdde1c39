"""Processes that freeze, and servers that go away in the middle: real managers, dumpling, lightning, TiDB and an S3 server.

Each outage begins at an event (the upload of a data file, a deletion) and lasts until those who are hit have reacted.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from backup_manager.kubernetes.client import KubernetesApi, Server
from backup_manager.locking.lease import LeasePlace
from backup_manager.locking.lock import Lock, Note, Pace, Place
from backup_manager.tidb.connection import Access, Database
from backup_manager.tidb.target_lock import RowPlace
from crds.contract import names
from crds.contract.report import ANNOTATION, Phase, Report
from sandbox.api import JOBS, Resource
from sandbox.cluster import Cluster
from sandbox.patience import PATIENCE
from tests.integration.test_export_import import Stage, path_of
from tests.support import servers
from tests.support.outage import ApiOutage, Outage, api_outage, outage
from tests.support.process_tree import descendants
from tests.support.sandboxes import shared_api_server

pytestmark = pytest.mark.integration

TABLES = ("drill.a", "drill.b", "drill.c", "drill.d")
UPLOAD = rb"(PUT|POST) [^ ]*\.0+\.sql[?. ]"
"""The upload of rows."""
READ = rb"GET [^ ]*\.0+\.sql[?. ]"
MINUTE = 60.0
"""Seconds of the outage of which the product is to be shown to recover; nothing is measured against it."""
DELETE = rb"(POST [^ ]*\?delete|DELETE )"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One TiDB: an export is imported where it came from, after its tables were dropped."""
    folder = tmp_path_factory.mktemp("outages")
    with servers.tidb(folder / "tidb") as tidb, servers.seaweed(folder / "s3") as s3:
        s3.client().create_bucket(Bucket="backups")
        yield Stage(source=tidb, target=tidb, s3=s3, folder=folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """An API server, without anything that reacts to a resource."""
    running = shared_api_server(tmp_path_factory.getbasetemp())
    running.kubectl("create", "namespace", "drill")
    return running


@pytest.fixture
def s3(stage: Stage) -> Iterator[Outage]:
    """The S3 server as the managers of a test see it."""
    with outage(stage.s3.endpoint) as proxy:
        yield proxy


def fill(stage: Stage) -> dict[str, tuple[int, int]]:
    """Four tables without a key, so that rows which come twice are seen; their checksums."""
    stage.source.execute("drop database if exists drill", "create database drill")
    for table in TABLES:
        stage.source.execute(
            f"create table {table} (generation int, n int)",
            f"insert into {table} with recursive n(i) as (select 1 union all select i+1 from n where i < 500) "
            "select 1, i from n",
        )
    return {table: stage.source.checksum(table) for table in TABLES}


def backup(stage: Stage, s3: Outage, name: str) -> dict[str, Any]:
    source = {"host": stage.source.host, "port": stage.source.port, "user": "root", "secretName": "x"}
    storage = stage.storage(name) | {"endpoint": s3.url}
    spec = {"tableFilter": ["drill.*"], "dumpling": {"options": ["--threads=1"]}, "from": source, "s3": storage}
    cr = stage.backup(name, **spec)
    cr["metadata"]["uid"] = str(uuid4())
    cr["spec"]["cleanPolicy"] = "Delete"
    return cr


def restore(stage: Stage, s3: Outage, path: str) -> dict[str, Any]:
    cr = stage.restore(path)
    cr["spec"]["s3"]["endpoint"] = s3.url
    return cr


def start(stage: Stage, verb: str, cr: dict[str, Any], **env: str) -> "subprocess.Popen[str]":
    return stage.start(verb, cr, **{"BACKUP_MANAGER_PASSWORD": "", **env})


def run(stage: Stage, verb: str, cr: dict[str, Any]) -> Report:
    code, report = stage.end(start(stage, verb, cr))
    assert (code, report.phase) == (0, Phase.COMPLETE), report
    return report


def content(stage: Stage) -> dict[str, tuple[int, int]]:
    return {table: stage.target.checksum(table) for table in TABLES}


def record(stage: Stage, report: Report) -> dict[str, Any]:
    key = path_of(report).removeprefix("s3://backups/") + ".record.json"
    found: dict[str, Any] = json.loads(stage.s3.client().get_object(Bucket="backups", Key=key)["Body"].read())
    return found


def test_a_frozen_export_that_thaws_after_its_successor_completed_changes_nothing(stage: Stage, s3: Outage) -> None:
    fill(stage)
    cr, frozen = backup(stage, s3, "frozen"), threading.Event()
    first = start(stage, "export", cr, **{names.ENV_POD_UID: "pod-1"})
    processes: list[int] = []

    def freeze() -> None:
        processes.extend([first.pid, *descendants(first.pid)])
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        frozen.set()

    s3.at(UPLOAD, freeze)
    try:
        assert frozen.wait(PATIENCE)
        assert len(processes) == 2, "the manager and dumpling"
        stage.source.execute(*[f"update {table} set generation = 2" for table in TABLES])
        code, second = stage.end(start(stage, "export", cr, **{names.ENV_POD_UID: "pod-2"}))
        assert (code, second.phase) == (0, Phase.COMPLETE), second
        before = record(stage, second)
        kept = stage.s3.keys("backups", "frozen/")
    finally:
        for pid in reversed(processes):
            os.kill(pid, signal.SIGCONT)
    code, report = stage.end(first)
    assert code != 0
    assert report.error is not None
    # Frozen for longer than a minute, it may first find that its successor took over the row of the GC life time.
    assert report.error.reason in {"AttemptSuperseded", "GcLifeTimeLost"}
    after = record(stage, second)
    assert {name: after[name] for name in ("state", "attempt", "data", "commitTs")} == {
        name: before[name] for name in ("state", "attempt", "data", "commitTs")
    }
    assert set(kept) <= set(stage.s3.keys("backups", "frozen/"))
    stage.target.execute("drop database drill")
    run(stage, "import", restore(stage, s3, path_of(second)))
    for table in TABLES:
        assert stage.target.execute(f"select generation, count(*) from {table} group by 1") == [(2, 500)]


def fails_retryably(stage: Stage, process: "subprocess.Popen[str]") -> Report:
    code, report = stage.end(process)
    assert code != 0
    assert report.error is not None
    assert report.error.retryable, report.error
    return report


def test_s3_stays_away_at_the_end_of_an_export_and_the_retry_is_whole(stage: Stage, s3: Outage) -> None:
    """The manager reads back what dumpling wrote, gives up, and cannot even note that in the record."""
    rows, cr = fill(stage), backup(stage, s3, "export-end")
    s3.at(rb"GET [^ ]*/metadata[? ]", s3.down)
    fails_retryably(stage, start(stage, "export", cr))
    s3.up()
    report = run(stage, "export", cr)
    assert (record(stage, report)["attempts"], record(stage, report)["state"]) == (2, "Complete")
    stage.target.execute("drop database drill")
    run(stage, "import", restore(stage, s3, path_of(report)))
    assert content(stage) == rows


def test_s3_goes_away_in_the_middle_of_a_clean_and_the_retry_deletes_the_rest(stage: Stage, s3: Outage) -> None:
    fill(stage)
    cr = backup(stage, s3, "clean")
    report = run(stage, "export", cr)
    cr["status"] = {"backupPath": path_of(report)}
    s3.at(DELETE, s3.down)
    fails_retryably(stage, start(stage, "clean", cr))
    s3.up()
    run(stage, "clean", cr)
    assert record(stage, report)["state"] == "Cleaned"
    left = stage.s3.keys("backups", path_of(report).removeprefix("s3://backups/") + "/")
    assert left == []


def test_s3_is_down_for_a_minute_in_the_middle_of_an_export_an_import_and_a_clean(stage: Stage) -> None:
    """All three at once, each with an outage of its own that begins in its middle. dumpling repeats an upload for ten minutes.
    Whoever says that it is done is done; whoever gave up is repeated, and is whole then."""
    rows = fill(stage)
    with ExitStack() as stack:
        away = {verb: stack.enter_context(outage(stage.s3.endpoint)) for verb in ("export", "import", "clean")}
        source = path_of(run(stage, "export", backup(stage, away["import"], "minute-import")))
        doomed = backup(stage, away["clean"], "minute-clean")
        doomed["status"] = {"backupPath": path_of(run(stage, "export", doomed))}
        kept = {table: table.replace("drill.", "kept.") for table in TABLES}
        moves = [f"rename table {table} to {other}" for table, other in kept.items()]
        stage.source.execute("drop database if exists kept", "create database kept", *moves)
        exported = backup(stage, away["export"], "minute-export")
        exported["spec"]["tableFilter"] = ["kept.*"]
        crs = {"export": exported, "import": restore(stage, away["import"], source), "clean": doomed}
        with ThreadPoolExecutor() as pool:
            begun = {verb: threading.Event() for verb in away}
            for verb, request in (("export", UPLOAD), ("import", READ), ("clean", DELETE)):
                away[verb].at(request, partial(_cut, away[verb], begun[verb]))
            running = {verb: pool.submit(stage.end, start(stage, verb, cr)) for verb, cr in crs.items()}
            assert all(event.wait(PATIENCE) for event in begun.values())
            time.sleep(MINUTE)
            for proxy in away.values():
                proxy.up()
            reports = {verb: future.result(PATIENCE)[1] for verb, future in running.items()}
        assert all(proxy.refused for proxy in away.values())
        assert reports["export"].phase is Phase.COMPLETE
        for verb, report in reports.items():
            if report.phase is not Phase.COMPLETE:
                assert report.error is not None
                assert report.error.retryable, (verb, report.error)
                if verb == "import":
                    stage.target.execute("drop database if exists drill")  # an import never adds to rows that it does not know
                reports[verb] = run(stage, verb, crs[verb])
        assert content(stage) == rows
        assert record(stage, reports["export"])["state"] == "Complete"
        assert stage.s3.keys("backups", doomed["status"]["backupPath"].removeprefix("s3://backups/") + "/") == []
        stage.target.execute("drop database kept")
        run(stage, "import", restore(stage, away["import"], path_of(reports["export"])))
        assert {table: stage.target.checksum(other) for table, other in kept.items()} == rows


def _cut(proxy: Outage, done: threading.Event) -> None:
    proxy.down()
    done.set()


def kubeconfig(folder: Path, api: ApiOutage) -> Path:
    """The administrator's access, with *api* before the API server."""
    found = {
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": api.url}}],
        "users": [{"name": "x", "user": {"token": api.token}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(found))
    return path


def test_an_api_server_that_answers_503_during_a_run_fails_nothing(
    stage: Stage, s3: Outage, cluster: Cluster, tmp_path: Path
) -> None:
    """Progress that cannot be sent is dropped; the final report is repeated, some 20 seconds with its own pauses."""
    fill(stage)
    cr = backup(stage, s3, "api")
    del cr["metadata"]["uid"]
    cr["metadata"]["namespace"] = "drill"
    resource = Resource(cr["apiVersion"], "backups", "Backup", namespaced=True)
    cluster.api.request("POST", resource.path("drill"), cr)
    container = {"name": "x", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "backup-b"}, "spec": {"template": template}}
    made = cluster.api.request("POST", JOBS.path("drill"), job)
    env = {"JOB_NAME": "backup-b", "JOB_UID": made["metadata"]["uid"], "POD_NAMESPACE": "drill", names.ENV_POD_UID: "pod-1"}
    with api_outage(cluster.kubeconfig) as api:
        s3.at(UPLOAD, lambda: api.away(11))
        words = ["export", "--namespace=drill", "--backupName=b", f"--kubeconfig={kubeconfig(tmp_path, api)}"]
        done = stage.command(*words, **{"BACKUP_MANAGER_PASSWORD": "", **env})
        assert done.returncode == 0, done.stderr
        assert api.left == 0
    stored = cluster.api.request("GET", JOBS.path("drill", "backup-b"))["metadata"]["annotations"][ANNOTATION]
    report = Report.parse(stored)
    assert report is not None
    assert report.phase is Phase.COMPLETE
    assert record(stage, report)["state"] == "Complete"


@pytest.mark.parametrize("where", ["row", "lease"])
def test_a_holder_that_runs_for_25_hours_is_never_taken_for_dead(stage: Stage, cluster: Cluster, where: str) -> None:
    """A row of a real TiDB and a Lease of a real API server; the clocks of the holder and of the one who waits are moved."""
    place: Place = RowPlace(database=Database(Access(host=stage.target.host, port=stage.target.port)))
    if where == "lease":
        api = KubernetesApi(Server.from_kubeconfig(cluster.kubeconfig))
        place = LeasePlace(api=api, namespace="drill", name="tidb-br.ns.long")
    now = [0.0]
    holder, other = (
        Lock(place=place, we=Note(holder=pod, owner=f"Restore ns/{pod}", owner_uid=pod), pace=Pace(), clock=lambda: now[0])
        for pod in ("long", "waits")
    )
    assert holder.try_acquire()
    for _ in range(25):
        assert not other.try_acquire()
        now[0] += 3600
        holder.renew()
    assert not other.try_acquire()
    now[0] += Pace().duration + 1
    assert other.try_acquire(), "one that stopped renewing is dead"
    other.release()
