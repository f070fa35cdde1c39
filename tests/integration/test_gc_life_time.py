"""The GC life time on a real TiDB: its transactions, its locks, and its time."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from backup_manager.locking.lock import LockLostError
from backup_manager.tidb import gc_life_time
from backup_manager.tidb.connection import Access, Database
from backup_manager.tidb.gc_life_time import HOLDER, MARKER, PACE, VARIABLE, Mark
from tests.support import servers
from tests.support.manager import World, world

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tidb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Tidb]:
    with servers.tidb(tmp_path_factory.mktemp("tidb")) as server:
        server.execute("create database shop", "create table shop.orders (id int primary key)")
        server.execute(
            "insert into shop.orders with recursive n(i) as (select 1 union all select i+1 from n where i<900) select * from n"
        )
        yield server


@pytest.fixture
def database(tidb: servers.Tidb) -> Iterator[Database]:
    found = Database(Access(host=tidb.host, port=tidb.port))
    yield found
    with found.session() as cursor:
        cursor.execute("delete from mysql.tidb where variable_name like %s", ("tidb_backup_gc%",))
        cursor.execute("update mysql.tidb set variable_value = '10m0s' where variable_name = %s", (VARIABLE,))


def of(tmp_path: Path, name: str) -> World:
    return world(tmp_path, {}, uid=f"{name}-0000-4000-8000-000000000001")


def rows(database: Database) -> dict[str, str]:
    found = database.rows(
        "select variable_name, variable_value from mysql.tidb where variable_name like %s", ("tidb_backup_gc%",)
    )
    return {str(name): str(value) for name, value in found}


def life_time(database: Database) -> str:
    return str(database.rows("select variable_value from mysql.tidb where variable_name = %s", (VARIABLE,))[0][0])


def test_the_stamp_is_the_time_of_pd_and_a_renewal_moves_it(tmp_path: Path, database: Database) -> None:
    here = of(tmp_path, "one")
    mark = Mark.of(here.context, database)
    mark.enter("72h", gc_life_time._parsed("72h", "", ""))
    first = int(rows(database)[mark.row])
    now = int(database.rows("select floor(unix_timestamp(now(3)) * 1000)")[0][0])
    assert abs(now - first) < 60_000
    mark.renew()
    assert int(rows(database)[mark.row]) >= first
    assert mark.leave(here.context) == "restored to 10m0s"
    assert (life_time(database), rows(database)) == ("10m0s", {})


def test_many_runs_at_once_and_the_last_to_end_restores_it(tmp_path: Path, database: Database) -> None:
    """Entering, renewing and leaving in 8 threads: whoever holds it sees it raised, and nothing is left at the end."""
    wrong: list[str] = []
    begin = threading.Barrier(8)

    def run(number: int) -> None:
        here = of(tmp_path, f"run{number}")
        begin.wait()
        for _ in range(5):
            with gc_life_time.raised(here.context, database, f"{24 + number}h"):
                seen = life_time(database)
                if gc_life_time._parsed(seen, "", "") < gc_life_time._parsed(f"{24 + number}h", "", ""):
                    wrong.append(f"{number}: {seen}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (life_time(database), rows(database)) == ("10m0s", {})


def test_a_run_of_25_hours_is_no_dead_one(tmp_path: Path, database: Database) -> None:
    """Its rows as they are after 25 hours of renewals: begun long ago, renewed just now."""
    here, short = of(tmp_path, "long"), of(tmp_path, "short")
    long = Mark.of(here.context, database)
    long.enter("72h", gc_life_time._parsed("72h", "", ""))
    with database.session() as cursor:  # as if it had entered 25 hours ago
        cursor.execute(
            "update mysql.tidb set variable_value = variable_value - 25 * 3600000 where variable_name = %s", (long.row,)
        )
    long.renew()
    with gc_life_time.raised(short.context, database, None):
        pass
    assert short.report.result["gcLifeTime"].startswith("stays 72h for Backup ns/cr")
    assert life_time(database) == "72h"
    long.leave(here.context)
    assert (life_time(database), rows(database)) == ("10m0s", {})


def test_a_dead_run_is_noticed_and_a_frozen_one_notices_that_it_was_taken_for_dead(tmp_path: Path, database: Database) -> None:
    frozen, here = of(tmp_path, "frozen"), of(tmp_path, "next")
    mark = Mark.of(frozen.context, database)
    mark.enter("72h", gc_life_time._parsed("72h", "", ""))
    with database.session() as cursor:
        cursor.execute(
            "update mysql.tidb set variable_value = variable_value - %s where variable_name = %s",
            (int(PACE.duration * 1000) + 1, mark.row),
        )
    now = [0.0]
    other = replace(Mark.of(here.context, database), clock=lambda: now[0])
    other.enter("72h", gc_life_time._parsed("72h", "", ""))
    now[0] += gc_life_time.CONFIRM_SECONDS
    assert other.leave(here.context).startswith("restored to 10m0s; did not renew: Backup ns/cr")
    assert (life_time(database), rows(database)) == ("10m0s", {})
    with pytest.raises(LockLostError):
        mark.renew()


def test_a_killed_export_leaves_its_row_and_the_command_restores_it(
    tmp_path: Path, tidb: servers.Tidb, database: Database
) -> None:
    cr = {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "Backup",
        "metadata": {"name": "b", "namespace": "ns", "uid": "0f5e9c1a-7777-4444-8888-000000000001"},
        "spec": {
            "from": {"host": tidb.host, "port": tidb.port, "user": "root", "secretName": "x"},
            "tableFilter": ["shop.*"],
            "dumpling": {"options": ["--threads=1", "--where=sleep(0.05)=0"]},
            "local": {"prefix": "p", "volume": {"name": "v"}, "volumeMount": {"name": "v", "mountPath": str(tmp_path)}},
        },
    }
    process = start("export", cr, tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "begin to run Dump" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert life_time(database) == "72h"
    assert set(rows(database)) == {MARKER, HOLDER + "0f5e9c1a-7777-4444-8888-000000000001"}
    said = [json.loads(line) for line in (tmp_path / "reports").read_text().splitlines()]
    assert said[-1]["result"]["gcLifeTimeState"] == "Raised"
    assert said[-1]["result"]["gcLifeTimeBefore"] == "10m0s"
    out, err = start("gc-life-time", cr, tmp_path).communicate(timeout=60)
    last = json.loads((tmp_path / "reports").read_text().splitlines()[-1])
    assert (last["phase"], last["result"]["gcLifeTimeState"]) == ("Complete", "Released"), out + err
    assert (life_time(database), rows(database)) == ("10m0s", {})


def start(verb: str, cr: dict[str, Any], folder: Path) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", "backup_manager.cli", verb, "--from-file=-", f"--report={folder / 'reports'}"]
    env = {"PATH": servers.tool_path(), "HOME": str(folder), "BACKUP_MANAGER_PASSWORD": ""}
    process = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=servers.ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(yaml.safe_dump(cr))
    process.stdin.close()
    process.stdin = None
    return process
