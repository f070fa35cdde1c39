"""One restore at a time into one target, on real parts: TiDB, lightning, and the etcd of a PD."""

from collections.abc import Iterator
from typing import Any

import pytest

from backup_manager.locking.lock import Note
from backup_manager.tidb import target_lock
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access, Database
from backup_manager.tidb.pd import Pd
from backup_manager.tidb.target_lock import KEY, ROW, PdPlace, RowPlace
from crds.contract.report import Phase, Report
from sandbox.minikv import MiniKV, TiDB, minikv_with_tidb
from sandbox.patience import PATIENCE
from tests.integration.test_export_import import Stage
from tests.support import etcd, servers

pytestmark = pytest.mark.integration

ROWS = 6000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MiniKV, TiDB]]:
    with minikv_with_tidb(tmp_path_factory.mktemp("kv")) as both:
        yield both


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, cluster: tuple[MiniKV, TiDB]) -> Iterator[Stage]:
    """An export is made from, and imported into, one TiDB that has a PD."""
    folder = tmp_path_factory.mktemp("target")
    tidb = servers.Tidb(port=cluster[1].port)
    with servers.seaweed(folder / "s3") as s3:
        tidb.execute(
            "create database app",
            "create database twice",
            "create table twice.no_key (v varchar(64), n int)",
            "insert into twice.no_key with recursive n(i) as (select 1 union all select i+1 from n where i < 900) "
            "select concat('row ', i), i from n",
            *["insert into twice.no_key select v, n + 1000 from twice.no_key limit 1000"] * 6,
            "create user 'loader'@'%' identified by ''",
            "grant select on mysql.tidb to 'loader'@'%'",
        )
        s3.client().create_bucket(Bucket="backups")
        yield Stage(source=tidb, target=tidb, s3=s3, folder=folder)


def count(stage: Stage) -> int:
    return int(stage.target.execute("select count(*) from twice.no_key")[0][0])


@pytest.fixture(scope="module")
def exported(stage: Stage) -> str:
    """The path of an export of a table without a key: whoever loads it twice has every row twice."""
    source = {"host": stage.source.host, "port": stage.source.port, "user": "root", "secretName": "x"}
    cr = stage.backup("twice", tableFilter=["twice.*"], **{"from": source})
    code, report = stage.run("export", cr, BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase) == (0, Phase.COMPLETE), report
    assert report.backup_path is not None
    return report.backup_path


def restore(stage: Stage, path: str, name: str, **to: Any) -> dict[str, Any]:
    cr = stage.restore(path)
    cr["metadata"] |= {"name": name}
    cr["spec"]["to"] |= to
    return cr


def waited(err: str) -> bool:
    return "which restores into the same target" in err


def test_of_two_imports_at_once_into_one_tidb_one_is_complete_and_the_other_refused(stage: Stage, exported: str) -> None:
    """The second waits for the first and then finds rows; without a key in the table nothing else would stop it."""
    rows = count(stage)
    stage.target.execute("drop database twice")
    processes = [
        stage.start("import", restore(stage, exported, f"r{number}"), BACKUP_MANAGER_PASSWORD="") for number in range(2)
    ]
    ended = [stage.end(process) for process in processes]
    reasons = sorted(report.error.reason if report.error else "Complete" for _, report in ended)
    assert reasons == ["Complete", "TargetNotEmpty"]
    assert count(stage) == rows
    assert stage.target.variable(ROW) is None


def test_an_import_waits_for_a_restore_by_br_in_its_cluster_and_names_it(
    stage: Stage, exported: str, cluster: tuple[MiniKV, TiDB]
) -> None:
    """br knows no more than PD: both meet in a key there, whose address the import has from TiDB."""
    stage.target.execute("drop database if exists twice")
    place = PdPlace(pd=Pd(Cluster(pd=cluster[0].pd)))
    by_br = place.write(Note(holder="pod-of-br", owner="Restore elsewhere/by-br", seconds=3600), None)
    assert by_br is not None
    process = stage.start("import", restore(stage, exported, "waits"), BACKUP_MANAGER_PASSWORD="")
    assert process.stdout is not None
    told = next(report for line in process.stdout if (report := Report.parse(line)) and report.phase is Phase.WAITING)
    assert told.error is not None
    assert told.error.reason == "TargetInUse"
    assert "Restore elsewhere/by-br" in told.error.message
    assert place.write(Note(), by_br.version) is not None
    code, report = stage.end(process)
    assert (code, report.phase) == (0, Phase.COMPLETE), report
    assert etcd.get(cluster[0].pd, KEY) is None


def test_an_account_without_the_right_to_the_row_imports_and_the_log_has_the_grant(stage: Stage, exported: str) -> None:
    grants = [f"grant all on {schema}.* to 'loader'@'%'" for schema in ("twice", "lightning_task_info")]
    stage.target.execute("drop database if exists twice", *grants)
    cr = restore(stage, exported, "poor", user="loader")
    process = stage.start("import", cr, BACKUP_MANAGER_PASSWORD="")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    assert "no lock in the target" in err
    assert target_lock.GRANT in err
    process = stage.start("check", cr, BACKUP_MANAGER_PASSWORD="")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "WARNING target " in err
    assert target_lock.GRANT in err


def test_a_row_in_tidb_and_a_key_in_pd_are_written_only_as_they_were_seen(stage: Stage, cluster: tuple[MiniKV, TiDB]) -> None:
    database = Database(Access(host=stage.target.host, port=stage.target.port))
    for place in (RowPlace(database=database), PdPlace(pd=Pd(Cluster(pd=cluster[0].pd)))):
        assert place.look() is None
        first = place.write(Note(holder="a", owner="Restore ns/a", seconds=60), None)
        assert first is not None
        assert place.write(Note(holder="b"), None) is None
        second = place.write(Note(holder="a", owner="Restore ns/a", seconds=60), first.version)
        assert second is not None
        assert place.write(Note(holder="b"), first.version) is None
        there = place.look()
        assert there is not None
        assert (there.version, there.note) == (second.version, second.note)
        assert place.write(Note(), second.version) is not None
        assert place.look() is None
