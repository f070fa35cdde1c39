"""Export and import on real parts: TiDB, dumpling, tidb-lightning and an S3 server, through the command line."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from backup_manager.tidb import gc_life_time
from crds.contract.report import Report
from sandbox.patience import PATIENCE
from sandbox.ports import free_port
from tests.support import servers
from tests.support.lying_store import lying_store
from tests.support.process_tree import descendants

pytestmark = pytest.mark.integration

PASSWORD = "s3cret-pw'\"\\"
TABLES = ("shop.orders", "shop.we.ird t", "shop.empty", "app.kinds")
SCHEMA = (
    "create database shop",
    "create database app",
    "create database `test_left_out`",
    "create table shop.orders (id int primary key, v varchar(64), n decimal(20,6), key (v))",
    "insert into shop.orders with recursive n(i) as (select 1 union all select i+1 from n where i < 900) "
    "select i, concat('row ', i, ' äö€'), i / 7 from n",
    "create table shop.`we.ird t` (`a b` int, c blob)",
    "insert into shop.`we.ird t` values (1, x'00ff27225c0a'), (2, null)",
    "create table shop.empty (id int primary key)",
    "create table app.kinds (id bigint auto_random primary key, j json, d datetime(6), t timestamp null, "
    "e enum('x','y'), b bit(9))",
    "insert into app.kinds (j, d, t, e, b) values ('{\"a\": [1, null]}', '2026-01-02 03:04:05.678901', null, 'y', 257)",
    f"create user 'bk'@'%' identified by '{PASSWORD.replace(chr(92), chr(92) * 2).replace(chr(39), chr(39) * 2)}'",
    "grant all on *.* to 'bk'@'%'",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The servers, and the command line against them."""

    source: servers.Tidb
    target: servers.Tidb
    s3: servers.S3
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": servers.tool_path(), "BACKUP_MANAGER_PASSWORD": PASSWORD, "HOME": str(self.folder), **self.s3.env}

    def storage(self, prefix: str, bucket: str = "backups") -> dict[str, Any]:
        return {"provider": "seaweedfs", "endpoint": self.s3.endpoint, "bucket": bucket, "prefix": prefix}

    def backup(self, prefix: str, **spec: Any) -> dict[str, Any]:
        source = {"host": self.source.host, "port": self.source.port, "user": "bk", "secretName": "x"}
        return {
            "apiVersion": "pingcap.com/v1alpha1",
            "kind": "Backup",
            "metadata": {"name": "b", "namespace": "ns", "uid": f"{abs(hash(prefix)):032x}"},
            "spec": {"from": source, "tableFilter": ["shop.*", "app.*"], "s3": self.storage(prefix)} | spec,
        }

    def restore(self, path: str, **spec: Any) -> dict[str, Any]:
        target = {"host": self.target.host, "port": self.target.port, "user": "root", "secretName": "x"}
        return {
            "apiVersion": "pingcap.com/v1alpha1",
            "kind": "Restore",
            "metadata": {"name": "r", "namespace": "ns"},
            "spec": {"to": target, "s3": self.storage("") | {"path": path}} | spec,
        }

    def start(self, verb: str, cr: dict[str, Any], *words: str, **env: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-m", "backup_manager.cli", verb, "--from-file=-", "--report=stdout", *words]
        process = subprocess.Popen(
            argv,
            env=self.env | env,
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

    def command(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """One command that has its CR from an API server, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "backup_manager.cli", *words],
            env=self.env | env,
            capture_output=True,
            text=True,
            cwd=servers.ROOT,
            timeout=PATIENCE,
            check=False,
        )

    def run(self, verb: str, cr: dict[str, Any], *words: str, **env: str) -> tuple[int, Report]:
        """Exit code and last report; no secret and no traceback may have been written anywhere."""
        return self.end(self.start(verb, cr, *words, **env))

    def end(self, process: "subprocess.Popen[str]") -> tuple[int, Report]:
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out + err, err
        for secret in (PASSWORD, self.s3.secret_key):
            assert secret not in out + err
        report = Report.parse(out.splitlines()[-1])
        assert report is not None, out
        return process.returncode, report

    def fails(self, verb: str, cr: dict[str, Any], *words: str, **env: str) -> str:
        code, report = self.run(verb, cr, *words, **env)
        assert code != 0
        assert report.error is not None
        assert report.error.hint
        assert len(report.error.message.splitlines()) <= 2
        return report.error.reason

    def empty_target(self) -> None:
        for name in ("shop", "app"):
            self.target.execute(f"drop database if exists {name}")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with (
        servers.tidb(folder / "source") as source,
        servers.tidb(folder / "target") as target,
        servers.seaweed(folder / "s3") as s3,
    ):
        source.execute(*SCHEMA)
        s3.client().create_bucket(Bucket="backups")
        yield Stage(source=source, target=target, s3=s3, folder=folder)


@pytest.fixture(scope="module")
def exported(stage: Stage) -> Report:
    """A good export, shared by the tests that import it."""
    code, report = stage.run("export", stage.backup("shared"))
    assert (code, report.phase) == (0, "Complete")
    return report


def path_of(report: Report) -> str:
    assert report.backup_path is not None
    return report.backup_path


def test_round_trip(stage: Stage, exported: Report) -> None:
    stage.empty_target()
    keys = stage.s3.keys("backups", path_of(exported).removeprefix("s3://backups/") + "/")
    assert exported.result["objectCount"] == len(keys)
    assert exported.commit_ts is not None
    assert int(exported.commit_ts) > 4 * 10**17
    assert "test_left_out" in exported.result["schemasLeftOut"]
    assert (exported.result["tables"], exported.result["rows"]) == (4, 903)
    code, report = stage.run("import", stage.restore(path_of(exported)), BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase, report.commit_ts) == (0, "Complete", exported.commit_ts)
    assert (report.result["tables"], report.result["rows"]) == (4, 903)
    for table in TABLES:
        assert stage.source.checksum(table) == stage.target.checksum(table), table
    assert stage.source.checksum("shop.orders")[0] == 900


def test_a_second_import_is_refused_and_harms_nothing(stage: Stage, exported: Report) -> None:
    stage.empty_target()
    cr = stage.restore(path_of(exported))
    assert stage.run("import", cr, BACKUP_MANAGER_PASSWORD="")[0] == 0
    before = [stage.target.checksum(table) for table in TABLES]
    assert stage.fails("import", cr, BACKUP_MANAGER_PASSWORD="") == "TargetNotEmpty"
    assert [stage.target.checksum(table) for table in TABLES] == before


def test_the_gc_life_time_is_raised_meanwhile_and_put_back(stage: Stage, exported: Report) -> None:
    assert exported.result["gcLifeTimeBefore"] == "10m0s"
    assert stage.source.variable(gc_life_time.VARIABLE) == "10m0s"
    assert stage.source.variable(gc_life_time.MARKER) is None


def test_an_archive_of_tidb_operator(stage: Stage, exported: Report, tmp_path: Path) -> None:
    stage.empty_target()
    prefix = path_of(exported).removeprefix("s3://backups/") + "/"
    root = tmp_path / "backup-2024-01-02T03:04:05Z"
    root.mkdir()
    client = stage.s3.client()
    for key in stage.s3.keys("backups", prefix):
        client.download_file("backups", key, str(root / key.removeprefix(prefix)))
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as packed:
        packed.add(root, arcname=root.name)
    client.upload_file(str(tmp_path / "x.tgz"), "backups", f"archives/{root.name}.tgz")
    cr = stage.restore(f"s3://backups/archives/{root.name}.tgz")
    code, report = stage.run("import", cr, BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase) == (0, "Complete"), report
    for table in TABLES:
        assert stage.source.checksum(table) == stage.target.checksum(table), table


def test_a_local_volume(stage: Stage, tmp_path: Path) -> None:
    stage.empty_target()
    local = {"prefix": "p", "volume": {"name": "v"}, "volumeMount": {"name": "v", "mountPath": str(tmp_path)}}
    code, report = stage.run("export", stage.backup("local", s3=None, local=local))
    assert (code, report.phase) == (0, "Complete"), report
    assert path_of(report).startswith(f"local://{tmp_path}/p/b-")
    cr = stage.restore("", s3=None, local=local)
    code, report = stage.run("import", cr, f"--backupPath={path_of(report)}", BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase) == (0, "Complete"), report
    assert stage.source.checksum("app.kinds") == stage.target.checksum("app.kinds")


def test_the_example_runs_as_a_main_job(stage: Stage) -> None:
    cr = yaml.safe_load((servers.ROOT / "examples" / "backup-export-s3.yaml").read_text())
    cr["spec"]["from"] |= {"host": stage.source.host, "port": stage.source.port, "user": "bk"}
    cr["spec"]["s3"]["endpoint"] = stage.s3.endpoint
    code, report = stage.run("export", cr)
    assert (code, report.phase) == (0, "Complete"), report
    assert path_of(report).startswith("s3://backups/exports/export-s3-")


def slow(stage: Stage, prefix: str) -> dict[str, Any]:
    """An export of 900 rows that takes at least an hour and a half: longer than any test waits."""
    options = ["--threads=1", "--where=sleep(6)=0"]
    return stage.backup(prefix, tableFilter=["shop.orders"], dumpling={"options": options})


def wait_for_dump(process: "subprocess.Popen[str]") -> None:
    """Read the log until dumpling is at work."""
    assert process.stderr is not None
    for line in process.stderr:
        if "begin to run Dump" in line:
            return
    raise AssertionError("the dump never began")


def test_sigterm_in_the_middle_of_an_export(stage: Stage) -> None:
    process = stage.start("export", slow(stage, "stopped"))
    wait_for_dump(process)
    assert stage.source.variable(gc_life_time.VARIABLE) == "72h"
    process.send_signal(signal.SIGTERM)
    code, report = stage.end(process)
    assert code == 1
    assert report.error is not None
    assert (report.error.reason, report.error.retryable) == ("Interrupted", True)
    assert stage.source.variable(gc_life_time.VARIABLE) == "10m0s"


@pytest.fixture
def core_files_allowed() -> Iterator[None]:
    """Processes are started as on a node that lets them leave core files of any size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("core files are forbidden here for every process")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_neither_the_manager_nor_its_tool_may_leave_a_core_file(stage: Stage, core_files_allowed: None) -> None:
    """A core file would hold the password and the keys."""
    process = stage.start("export", slow(stage, "core"))
    wait_for_dump(process)
    pids = [process.pid, *descendants(process.pid)]
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]
    limits = [Path(f"/proc/{pid}/limits").read_text() for pid in pids]
    process.send_signal(signal.SIGTERM)
    assert stage.end(process)[0] == 1
    assert names[1:] == ["dumpling"]
    assert [re.findall(r"^Max core file size +(\S+) +(\S+)", text, re.M) for text in limits] == [[("0", "0")]] * 2


def test_a_killed_export_is_repeated_in_a_clean_folder_and_gc_comes_back(stage: Stage) -> None:
    process = stage.start("export", slow(stage, "killed"))
    wait_for_dump(process)
    process.kill()
    process.communicate()
    assert stage.source.variable(gc_life_time.VARIABLE) == "72h"
    assert stage.source.variable(gc_life_time.MARKER) == "10m0s"
    code, report = stage.run("export", stage.backup("killed"))
    assert (code, report.phase) == (0, "Complete"), report
    assert stage.source.variable(gc_life_time.VARIABLE) == "10m0s"
    assert stage.source.variable(gc_life_time.MARKER) is None
    record = json.loads(
        stage.s3.client().get_object(Bucket="backups", Key=path_of(report)[13:] + ".record.json")["Body"].read()
    )
    assert (record["attempts"], record["state"]) == (2, "Complete")


def test_nothing_matched(stage: Stage) -> None:
    assert stage.fails("export", stage.backup("nothing", tableFilter=["no_such.*"])) == "NothingDumped"


def test_a_table_that_the_filter_names_and_nobody_has(stage: Stage, exported: Report) -> None:
    """dumpling dumps the empty schema; lightning loads the other table."""
    for number, rules in enumerate((["shop.typo"], ["shop.orders", "shop.typo"])):
        assert stage.fails("export", stage.backup(f"typo{number}", tableFilter=rules)) == "NothingDumped"
        cr = stage.restore(path_of(exported), tableFilter=rules)
        assert stage.fails("import", cr, BACKUP_MANAGER_PASSWORD="") == "NothingRestored"


def test_an_import_counts_what_came_back(stage: Stage, exported: Report) -> None:
    stage.empty_target()
    cr = stage.restore(path_of(exported), tableFilter=["shop.we*", "typo.*"])
    code, report = stage.run("import", cr, BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase) == (0, "Complete"), report
    assert (report.result["tables"], report.result["rows"]) == (1, 2)
    assert report.result["rulesWithoutTable"] == ["typo.*"]


@pytest.mark.parametrize("options", [["--threads=2", "--rows=100"], ["--compress=gzip"], ["--filetype=csv"]])
def test_a_store_that_keeps_nothing_of_a_data_file_fails_the_export(stage: Stage, options: list[str]) -> None:
    """It answers 200 to the completion of the upload."""
    with lying_store(stage.s3.endpoint, r"shop\.orders\.0+1?\.") as (endpoint, gone):
        s3 = stage.storage(f"lost{abs(hash(options[0])):x}") | {"endpoint": endpoint}
        code, report = stage.run("export", stage.backup(s3["prefix"], s3=s3, dumpling={"options": options}))
    assert gone
    assert (code, report.error is not None) == (1, True), report
    assert report.error is not None
    assert report.error.reason == "DumpIncomplete"
    assert "of table shop.orders" in report.error.message


def test_a_dump_that_lost_a_data_file_since_is_not_imported(stage: Stage) -> None:
    stage.empty_target()
    code, report = stage.run("export", stage.backup("rotten"))
    assert code == 0
    (victim,) = [key for key in stage.s3.keys("backups", path_of(report)[13:] + "/") if "shop.orders.0" in key]
    stage.s3.client().delete_object(Bucket="backups", Key=path_of(report)[13:] + "/" + victim.rpartition("/")[2])
    assert stage.fails("import", stage.restore(path_of(report)), BACKUP_MANAGER_PASSWORD="") == "SourceDamaged"
    assert not stage.target.execute("show databases like 'shop'")


@pytest.mark.parametrize("verb", ["export", "import"])
def test_a_wrong_password(stage: Stage, exported: Report, verb: str) -> None:
    cr = stage.backup("wrong-password") if verb == "export" else stage.restore(path_of(exported))
    assert stage.fails(verb, cr, BACKUP_MANAGER_PASSWORD="wrong-one") == "DatabaseAccessDenied"


SPACED = " p w\t"
"""A password that begins and ends with what an editor may add, too."""
AROUND = [("", "\r\n"), ("\ufeff", "\n"), (" ", "\t")]


@contextmanager
def somebody(stage: Stage, password: str) -> Iterator[str]:
    """A user of both databases with that password, gone afterwards."""
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    try:
        for server in (stage.source, stage.target):
            server.execute(
                "drop user if exists 'somebody'@'%'",
                f"create user 'somebody'@'%' identified by '{quoted}'",
                "grant all on *.* to 'somebody'@'%'",
            )
        yield "somebody"
    finally:
        for server in (stage.source, stage.target):
            server.execute("drop user if exists 'somebody'@'%'")


@pytest.fixture
def spaced(stage: Stage) -> Iterator[str]:
    """The user with that password."""
    with somebody(stage, SPACED) as user:
        yield user


@pytest.mark.parametrize(("before", "after"), AROUND)
def test_white_space_around_the_values_of_secrets_means_the_same_to_the_checks_and_to_the_tools(
    stage: Stage, spaced: str, before: str, after: str
) -> None:
    """Line ends close a password, spaces are part of it; a key of S3 has no white space at all."""
    lines_only = not (before + after).strip("\ufeff\r\n")
    keys = {name: f"{before}{key}{after}" for name, key in stage.s3.env.items()}
    env = keys | {"BACKUP_MANAGER_PASSWORD": f"{before}{SPACED}{after}"}
    cr = stage.backup(f"around{len(before)}{abs(hash(after)):x}", tableFilter=["app.kinds"])
    cr["spec"]["from"]["user"] = spaced
    checked, report = stage.run("check", cr, **env)
    found = {check["name"]: check["status"] for check in report.result["checks"]}
    assert (found["write"], found["database"]) == ("OK", "OK" if lines_only else "FAILED")
    if not lines_only:
        assert (checked, stage.fails("export", cr, **env)) == (4, "DatabaseAccessDenied")
        env["BACKUP_MANAGER_PASSWORD"] = SPACED
    code, report = stage.run("export", cr, **env)
    assert (code, report.phase) == (0, "Complete"), report
    if before:
        return
    stage.target.execute("drop database if exists app")
    cr = stage.restore(path_of(report))
    cr["spec"]["to"]["user"] = spaced
    code, report = stage.run("import", cr, **env)
    assert (code, report.phase) == (0, "Complete"), report


PASSWORDS = (
    "pässwört-日本-'\"\\",
    "-\x01\t\x7f\x85\u2028\u00a0\ufeff\U0001f600e\u0301%41$(x)`#;&<@:/?=",
    '"""',
)
"""Accents and scripts; what a shell, an argv, a URL, TOML and SQL take for something else; what would end a string of TOML."""


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_any_letters_opens_every_connection(stage: Stage, password: str) -> None:
    """Our driver's, dumpling's and lightning's, before the run and in it; br's verbs go through our driver alone, with such a
    password in ``test_canary.py``."""
    with somebody(stage, password) as user:
        stage.empty_target()
        cr = stage.backup(f"letters{PASSWORDS.index(password)}", tableFilter=["app.kinds"])
        cr["spec"]["from"]["user"] = user
        checked = stage.run("check", cr, BACKUP_MANAGER_PASSWORD=password)[1].result["checks"]
        assert [check["status"] for check in checked if check["name"] == "database"] == ["OK"]
        code, report = stage.run("export", cr, BACKUP_MANAGER_PASSWORD=password)
        assert (code, report.phase) == (0, "Complete"), report
        cr = stage.restore(path_of(report))
        cr["spec"]["to"]["user"] = user
        code, report = stage.run("import", cr, BACKUP_MANAGER_PASSWORD=password)
        assert (code, report.phase) == (0, "Complete"), report
        assert stage.source.checksum("app.kinds") == stage.target.checksum("app.kinds")


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_white_space_inside_a_key_is_refused_by_the_checks_and_by_the_run(stage: Stage, variable: str) -> None:
    for verb in ("check", "export"):
        assert stage.fails(verb, stage.backup("inside"), **{variable: "two words"}) == "InvalidCredentials"


@pytest.mark.parametrize("verb", ["export", "import"])
def test_a_database_that_is_not_there(stage: Stage, exported: Report, verb: str) -> None:
    cr = stage.backup("no-database") if verb == "export" else stage.restore(path_of(exported))
    cr["spec"]["from" if verb == "export" else "to"]["port"] = free_port()
    code, report = stage.run(verb, cr, BACKUP_MANAGER_DB_WAIT="0s")
    assert code == 3
    assert report.error is not None
    assert (report.error.reason, report.error.retryable) == ("DatabaseUnreachable", True)


@pytest.mark.parametrize("verb", ["export", "import"])
def test_a_missing_bucket(stage: Stage, verb: str) -> None:
    spec = {"s3": stage.storage("p", bucket="no-such-bucket")}
    cr = stage.backup("no-bucket", **spec) if verb == "export" else stage.restore("", **spec)
    assert stage.fails(verb, cr, **({"BACKUP_MANAGER_PASSWORD": ""} if verb == "import" else {})) == "BucketNotFound"


def test_wrong_keys_of_the_storage(stage: Stage) -> None:
    reason = stage.fails("export", stage.backup("wrong-keys"), AWS_SECRET_ACCESS_KEY="not-the-secret")
    assert reason == "InvalidCredentials"


def test_a_storage_that_is_not_there(stage: Stage) -> None:
    s3 = stage.storage("p") | {"endpoint": f"http://127.0.0.1:{free_port()}"}
    code, report = stage.run("export", stage.backup("no-storage", s3=s3))
    assert code == 3
    assert report.error is not None
    assert report.error.retryable


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small volume needs root")
def test_a_full_disk(stage: Stage, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        local = {"prefix": "p", "volume": {"name": "v"}, "volumeMount": {"name": "v", "mountPath": str(tmp_path)}}
        assert stage.fails("export", stage.backup("full", s3=None, local=local)) == "DiskFull"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


WHOLE = (
    "create database whole",
    "create database also_whole collate utf8mb4_general_ci",
    "create placement policy far followers=2",
    "create sequence whole.numbers",
    "create sequence whole.`odd s-schema %x` start with 100 increment by 5 maxvalue 1000 cache 3",
    "create sequence whole.down start with -1 increment by -2 minvalue -1000 maxvalue -1 nocache",
    "create sequence whole.unused start with 7 nocache",
    "create sequence also_whole.s",
    "create table whole.orders (id bigint default nextval(whole.numbers) primary key, b varchar(20))",
    "insert into whole.orders (b) values ('a'), ('b')",
    "create table whole.across (id bigint default nextval(also_whole.s), x int)",
    "insert into whole.across (x) values (1)",
    "select nextval(whole.`odd s-schema %x`)",
    "select nextval(whole.down)",
    "select nextval(whole.down)",
    "create view whole.z_base as select * from whole.orders",
    "create view whole.b_on_z as select b from whole.z_base",
    "create view also_whole.a_on_b as select b from whole.b_on_z",
    "create algorithm=merge definer=`nobody`@`10.%` sql security invoker view whole.`odd.v-schema ``q%s` (`x y`, z) as "
    "select id, b from whole.orders where b <> 'ä%s' with cascaded check option",
    "create table whole.gone (i int)",
    "create view whole.broken as select * from whole.gone",
    "drop table whole.gone",
    "create table whole.z_parent (id int primary key)",
    "create table whole.a_child (id int primary key, p int, foreign key (p) references whole.z_parent (id) on delete cascade)",
    "insert into whole.z_parent values (1)",
    "insert into whole.a_child values (1, 1)",
    "create table whole.made (id bigint auto_random primary key, n int, g int as (n*2) stored, v int as (n*3) virtual, "
    "key ((n+1)))",
    "insert into whole.made (n) values (5)",
    "create table whole.counted (id bigint auto_increment primary key clustered, x int)",
    "insert into whole.counted (x) values (1), (2)",
    "create table whole.parts (id int, primary key (id) nonclustered) partition by range (id) "
    "(partition p0 values less than (10), partition p1 values less than maxvalue)",
    "insert into whole.parts values (1), (11)",
    "create table whole.letters (a varchar(20) character set gbk, b varchar(20) character set latin1, "
    "c varchar(20) collate utf8mb4_general_ci)",
    "insert into whole.letters values ('中', 'e', 'Ä')",
    "create table whole.placed (id int) placement policy=far",
    "create global temporary table whole.fleeting (id int) on commit delete rows",
    "create table whole.ends (id int primary key, t datetime) ttl = t + interval 1 day",
    "create table whole.quick (id int primary key)",
    "alter table whole.quick cache",
    "create table test.here (id int)",
    "create global binding for select * from whole.parts using select /*+ use_index(parts) */ * from whole.parts",
)


@pytest.fixture(scope="module")
def whole(stage: Stage) -> Report:
    """An export of one database with everything in it, imported into the target."""
    stage.source.execute(*WHOLE)
    code, report = stage.run("export", stage.backup("whole", tableFilter=["whole.*", "also_whole.*"]))
    assert (code, report.phase) == (0, "Complete"), report
    code, imported = stage.run("import", stage.restore(path_of(report)), BACKUP_MANAGER_PASSWORD="")
    assert (code, imported.phase) == (0, "Complete"), imported
    assert (imported.result["views"], imported.result["sequences"]) == (4, 5)
    return report


def test_sequences_come_back_and_never_give_a_value_twice(stage: Stage, whole: Report) -> None:
    stage.target.execute("insert into whole.orders (b) values ('new')", "insert into whole.across (x) values (2)")
    for sequence in ("numbers", "`odd s-schema %x`", "unused", "down"):
        query = f"select nextval(whole.{sequence})"
        theirs, ours = stage.source.execute(query)[0][0], stage.target.execute(query)[0][0]
        assert (ours <= theirs) if sequence == "down" else (ours >= theirs), sequence
        assert (ours + 1) % 2 == 0 or sequence != "down"
    assert stage.target.execute("select nextval(whole.unused)")[0][0] in range(8, 20)


def test_views_come_back_and_can_be_read(stage: Stage, whole: Report) -> None:
    for view in ("whole.z_base", "whole.b_on_z", "also_whole.a_on_b"):
        assert stage.target.execute(f"select b from {view} where b < 'm' order by b") == [("a",), ("b",)]
    shown = "show create view whole.`odd.v-schema ``q%s`"
    assert stage.target.execute(shown) == stage.source.execute(shown)
    assert "view whole.broken" in " ".join(whole.result["leftOut"])


def test_what_tables_are_made_of_works_after_an_import(stage: Stage, whole: Report) -> None:
    target = stage.target
    for table in ("letters", "parts", "a_child", "z_parent"):
        assert target.checksum(f"whole.{table}") == stage.source.checksum(f"whole.{table}"), table
    with pytest.raises(pymysql.Error, match="foreign key"):
        target.execute("insert into whole.a_child values (9, 9)")
    target.execute("insert into whole.made (n) values (6)", "insert into whole.counted (x) values (3)")
    assert target.execute("select n, g, v from whole.made order by n") == [(5, 10, 15), (6, 12, 18)]
    assert target.execute("select count(distinct id) from whole.counted") == [(3,)]
    assert target.execute("select * from whole.parts partition (p1)") == [(11,)]
    assert "PLACEMENT POLICY=`far`" in target.execute("show create table whole.placed")[0][1]
    assert target.execute("select default_collation_name from information_schema.schemata where schema_name='also_whole'") == [
        ("utf8mb4_general_ci",)
    ]
    assert "ON COMMIT DELETE ROWS" in target.execute("show create table whole.fleeting")[0][1]
    assert "TTL_ENABLE='OFF'" in target.execute("show create table whole.ends")[0][1]


def test_what_an_export_cannot_hold_is_named_in_report_and_record(stage: Stage, whole: Report) -> None:
    said = whole.result["leftOut"]
    for line in ("schema test, tables: 1", "SQL bindings: 1"):
        assert line in said
    assert any(line.startswith("users and roles, with their grants: ") for line in said)
    assert any(line.startswith("cached tables") for line in said)
    key = path_of(whole).removeprefix("s3://backups/") + ".record.json"
    record = json.loads(stage.s3.client().get_object(Bucket="backups", Key=key)["Body"].read())
    assert record["leftOut"] == said


def test_an_import_leaves_no_schema_of_lightning_behind(stage: Stage, whole: Report) -> None:
    assert stage.target.execute("show databases like 'lightning%'") == []


@pytest.mark.parametrize(
    "options",
    [
        ["--no-sequences=false", "--no-views=false"],
        ["--no-data"],
        ["--filetype=csv", "--compress=gzip"],
        ["--compress=zstd", "--consistency=none"],
        ["--compress=snappy", "--complete-insert", "--filesize=1KiB"],
    ],
    ids=["views and sequences", "no data", "csv", "zstd", "snappy"],
)
def test_an_export_with_any_accepted_option_can_be_imported(stage: Stage, whole: Report, options: list[str]) -> None:
    stage.empty_target()
    stage.target.execute("drop database whole", "drop database also_whole")
    cr = stage.backup("options" + "".join(options), tableFilter=["whole.*", "also_whole.*"], dumpling={"options": options})
    code, report = stage.run("export", cr)
    assert (code, report.phase) == (0, "Complete"), report
    code, imported = stage.run("import", stage.restore(path_of(report)), BACKUP_MANAGER_PASSWORD="")
    assert (code, imported.phase) == (0, "Complete"), imported
    stage.target.execute("insert into whole.orders (b) values ('new')")
    expected = 0 if options == ["--no-data"] else stage.source.checksum("whole.orders")[0]
    assert stage.target.execute("select count(*) from whole.z_base") == [(expected + 1,)]


def test_dumplings_own_files_of_sequences_and_policies_are_imported(stage: Stage, whole: Report, tmp_path: Path) -> None:
    stage.target.execute("drop database whole", "drop database also_whole", "drop placement policy far")
    dump = [servers.tool("dumpling"), f"--port={stage.source.port}", "--user=root", f"--output={tmp_path / 'p' / 'd'}"]
    argv = [*dump, "--no-sequences=false", "--compress=gzip", "--filter=whole.*,also_whole.*"]
    subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE)
    local = {"prefix": "p/d", "volume": {"name": "v"}, "volumeMount": {"name": "v", "mountPath": str(tmp_path)}}
    code, report = stage.run("import", stage.restore("", s3=None, local=local), BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase, report.result["sequences"]) == (0, "Complete", 5), report
    stage.target.execute("insert into whole.orders (b) values ('new')")
