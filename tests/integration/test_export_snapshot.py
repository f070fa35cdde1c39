"""What an export describes is of the dump's snapshot, or it is told: definitions are changed while a real dump stands still."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pymysql
import pytest

from backup_manager.tidb.schema_objects import KEY
from crds.contract.report import Report
from tests.integration.test_export_import import PASSWORD, Stage, path_of, wait_for_dump
from tests.support import servers

pytestmark = pytest.mark.integration

SAFE_POINT = ("tikv_gc_safe_point", "20200101-00:00:00.000 +0000")
SETUP = (
    "create database shop",
    "create table shop.orders (id int primary key, a int)",
    "insert into shop.orders values (1, 2)",
    "create sequence shop.numbers nocache",
    "create sequence shop.gone nocache",
    "create view shop.seen as select id from shop.orders",
    "create view shop.lost as select a from shop.orders",
    "create user reader",
)
CHANGES = (
    "create or replace view shop.seen as select a from shop.orders",
    "drop view shop.lost",
    "create view shop.late as select 1",
    "select nextval(shop.numbers)",
    "drop sequence shop.gone",
)


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("snapshot")
    with servers.tidb(folder / "source") as source, servers.seaweed(folder / "s3") as s3:
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        source.execute(*SETUP, f"create user bk identified by '{quoted}'", "grant all on *.* to bk")
        s3.client().create_bucket(Bucket="backups")
        yield Stage(source=source, target=source, s3=s3, folder=folder)


@contextmanager
def held(source: servers.Tidb, name: str) -> Iterator[None]:
    """Hold the lock that the rows of the dump wait for."""
    connection = pymysql.connect(host=source.host, port=source.port, user="root", autocommit=True)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("select get_lock(%s, 1)", (name,))
        assert cursor.fetchone() == (1,)
        yield


def exported(stage: Stage, changes: tuple[str, ...]) -> tuple[Report, dict[str, Any]]:
    """An export with *changes* made between its snapshot and its end: its report, and the document beside its data."""
    options = ["--threads=1", "--where=get_lock('gate', 3000) + release_lock('gate') = 2"]
    cr = stage.backup("p", tableFilter=["shop.*"], dumpling={"options": options, "users": True})
    with held(stage.source, "gate"):
        process = stage.start("export", cr)
        wait_for_dump(process)
        stage.source.execute(*changes)
    code, report = stage.end(process)
    assert (code, report.phase) == (0, "Complete"), report
    key = f"{path_of(report).removeprefix('s3://backups/')}/{KEY}"
    return report, json.loads(stage.s3.client().get_object(Bucket="backups", Key=key)["Body"].read())


def columns(document: dict[str, Any]) -> dict[str, list[str]]:
    """What each view selects."""
    return {view["name"]: re.findall(r"SELECT `(\w+)`", view["create"]) for view in document["views"]}


def test_views_and_sequences_are_those_of_the_snapshot(stage: Stage) -> None:
    stage.source.execute(f"insert into mysql.tidb values ('{SAFE_POINT[0]}', '{SAFE_POINT[1]}', '')")
    report, document = exported(stage, CHANGES)
    assert columns(document) == {"lost": ["a"], "seen": ["id"]}
    assert {one["name"]: one["last"] for one in document["sequences"]} == {"numbers": 1}, "a value is never behind the rows"
    said = report.result["leftOut"]
    assert [line for line in said if line.startswith("sequence shop.gone: dropped after the snapshot")]
    assert not [line for line in said if "as of the snapshot" in line]


def test_where_the_snapshot_cannot_be_read_a_change_is_told(stage: Stage) -> None:
    """A store that has never collected garbage, and so knows no time that is safe to read at."""
    stage.source.execute(f"delete from mysql.tidb where variable_name = '{SAFE_POINT[0]}'")
    report, document = exported(stage, CHANGES)
    assert columns(document) == {"late": [], "seen": ["a"]}
    told = (
        "views and sequences as of the snapshot: the schema was changed while the export ran, the export has them as at its end"
    )
    assert told in report.result["leftOut"]


def test_users_that_change_while_the_export_runs_are_told(stage: Stage) -> None:
    report, _ = exported(stage, ("grant select on shop.* to reader",))
    assert [line for line in report.result["leftOut"] if line.startswith("users as of the snapshot: some were changed")]
