"""No secret leaves a run: every verb on the real tools, once to its success and once to a failure.

Each secret is a canary (:mod:`tests.support.canary`): one hit in a log, a report, a record, a history, a file that stays, or in
the argv of any process of the machine, fails the test, but for what ``docs/secrets.md`` says that the tools force. What reaches
Kubernetes is looked at in ``tests/e2e/test_canary_through_crs.py``; GCS and Azure in ``test_every_store.py``.
"""

import json
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from backup_manager.cli import COMMANDS
from backup_manager.operations.watch_log import ENV_INTERVAL
from crds.contract.report import Report
from sandbox.minikv import MiniKV, minikv_with_tidb
from sandbox.patience import PATIENCE
from sandbox.standins.kubelet.images import STAND_INS
from tests.support import canary, etcd, servers
from tests.support.canary import Aviary, Watch

pytestmark = pytest.mark.integration

TABLE = "shop.t"
SECOND = 1000 << 18
LOG = "log"
MANAGER = (sys.executable, "-m", "backup_manager.cli")


@dataclass(kw_only=True)
class Stage:
    """The servers, a room for everything that a run writes, and what was seen of the runs."""

    db: servers.Tidb
    kv: MiniKV
    s3: servers.S3
    aviary: Aviary
    room: Path
    watch: Watch
    ended: set[tuple[str, bool]] = field(default_factory=set)
    """What was run, and whether it ended with 0."""
    last: str = ""

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{self.room / 'bin'}:{servers.tool_path()}",
            "PYTHONPATH": str(servers.ROOT),
            "HOME": str(self.room / "home"),
            "TMPDIR": str(self.room / "tmp"),
            "BACKUP_MANAGER_SCRATCH": str(self.room / "scratch"),
            "BACKUP_MANAGER_PASSWORD": self.aviary["password of the database"],
            "SOMEBODY_S_TOKEN": self.aviary["spec.env"],
            "HTTPS_PROXY": f"http://somebody:{self.aviary['proxy']}@127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
            ENV_INTERVAL: "1s",
            **self.s3.env,
        }

    @property
    def theirs(self) -> dict[str, str]:
        """The environment with the other account's keys, for its own bucket."""
        return {"AWS_ACCESS_KEY_ID": servers.NEIGHBOUR_KEY, "AWS_SECRET_ACCESS_KEY": self.aviary["keys of S3"]}

    def storage(self, prefix: str, bucket: str = "ours") -> dict[str, Any]:
        address = urlsplit(self.s3.endpoint)
        endpoint = f"{address.scheme}://somebody:{self.aviary['endpoint']}@{address.netloc}"
        place = {"endpoint": endpoint, "bucket": bucket, "prefix": prefix, "forcePathStyle": True, "secretName": "s"}
        return {"s3": {"provider": "aws", "region": "us-east-1", **place}}

    def database(self) -> dict[str, Any]:
        return {"host": self.db.host, "port": self.db.port, "user": "canary", "secretName": "x"}

    def br(self, *options: str, **br: Any) -> dict[str, Any]:
        return {"br": {"cluster": "basic", "options": [f"--pd={self.kv.pd}", *options], **br}, "tableFilter": ["shop.*"]}

    def start(self, verb: str, cr: Mapping[str, Any], *words: str, **env: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "backup_manager.cli",
                verb,
                "--from-file=-",
                f"--report={self.room / 'report.json'}",
                *words,
            ],
            env=self.env | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.room / "work",
        )
        assert process.stdin is not None
        process.stdin.write(yaml.safe_dump(cr))
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, verb: str, cr: Mapping[str, Any], *words: str, **env: str) -> Report:
        """Run it to its end, and look through all that it said and left."""
        process = self.start(verb, cr, *words, **env)
        return self.end(" ".join((verb, *(word for word in words if word.startswith(("--mode", "--subcommand"))))), process)

    def end(self, what: str, process: "subprocess.Popen[str]") -> Report:
        out, _ = process.communicate(timeout=PATIENCE)
        self.last = out
        self.ended.add((what, process.returncode == 0))
        file = self.room / "report.json"
        told = file.read_text()
        file.unlink()
        report = Report.parse(told.splitlines()[-1])
        assert report is not None, out
        assert not [line for line in out.splitlines() if self.aviary.within(line)], f"{what}: in the log"
        assert self.aviary.within(told) == set(), f"{what}: in the report"
        assert self.aviary.under(self.room) == {}, f"{what}: in a file that stays"
        return report

    def succeeds(self, verb: str, cr: Mapping[str, Any], *words: str, **env: str) -> Report:
        report = self.run(verb, cr, *words, **env)
        assert report.phase == "Complete", (report.error, self.last[-3000:])
        return report

    def fails(self, verb: str, cr: Mapping[str, Any], *words: str, **env: str) -> str:
        report = self.run(verb, cr, *words, **env)
        assert report.error is not None, report
        return report.error.reason


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("canary")
    aviary = Aviary(
        password_of_the_database=canary.password(),
        another_password=canary.password(),
        own_keys_of_S3=canary.key(),
        keys_of_S3=canary.key(),
        another_key_of_S3=canary.key(),
        session_token=canary.token(),
        proxy=canary.hexadecimal(),
        endpoint=canary.hexadecimal(),
        cipher_key=canary.hexadecimal(),
        log_cipher_key=canary.hexadecimal(),
        encryption_key=canary.key(),
        account_key=canary.key(),
        master_key=canary.hexadecimal(),
        **{"spec.env": canary.password()},
    )
    room = folder / "room"
    for name in ("home", "tmp", "scratch", "work", "bin"):
        (room / name).mkdir(parents=True)
    shutil.copy(STAND_INS / "tikv_ctl.py", room / "bin" / "tikv-ctl")
    own, neighbours = aviary["own keys of S3"], aviary["keys of S3"]
    with (
        servers.seaweed(folder / "s3", secret_key=own, neighbours_key=neighbours) as s3,
        minikv_with_tidb(folder, log_backup=True) as (kv, tidb),
        Watch(aviary, folders=[room]) as watch,
    ):
        db = servers.Tidb(port=tidb.port)
        quoted = aviary["password of the database"].replace("\\", "\\\\").replace("'", "''")
        db.execute(f"create user 'canary'@'%' identified by '{quoted}'", "grant all on *.* to 'canary'@'%' with grant option")
        db.execute("create database shop", f"create table {TABLE} (id int primary key, v varchar(20))")
        db.execute(f"insert into {TABLE} values (1,'a'),(2,'ü')")
        for bucket in ("ours", "theirs"):
            s3.client().create_bucket(Bucket=bucket)
        yield Stage(db=db, kv=kv, s3=s3, aviary=aviary, room=room, watch=watch)


def cr(kind: str, name: str, *parts: Mapping[str, Any], path: str = "", **spec: Any) -> dict[str, Any]:
    body = {key: value for part in parts for key, value in part.items()} | spec
    return {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-of-{name}"},
        "spec": body,
        "status": {"backupPath": path} if path else {},
    }


def test_export_check_verify_import_and_clean(stage: Stage) -> None:
    here = (stage.storage("export"), {"from": stage.database(), "tableFilter": ["shop.*"], "cleanPolicy": "Delete"})
    export = cr("Backup", "export", *here)
    wrong = {"BACKUP_MANAGER_PASSWORD": stage.aviary["another password"]}
    no_entry = {"AWS_SECRET_ACCESS_KEY": stage.aviary["another key of S3"], "AWS_SESSION_TOKEN": stage.aviary["session token"]}
    stage.succeeds("check", export)
    assert stage.fails("check", export, **no_entry) == "CheckFailed"
    assert stage.fails("verify", export) == "NoRecord"
    assert stage.fails("export", export, **wrong) == "DatabaseAccessDenied"
    broken = cr("Backup", "broken", stage.storage("broken"), here[1], dumpling={"options": ["--where=nosuch(1)"]})
    stage.fails("export", broken)
    options = ["--azblob.encryption-key", stage.aviary["encryption key"], "--azblob.account-key", stage.aviary["account key"]]
    dumpling = {"options": options, "users": True}
    path = stage.succeeds("export", cr("Backup", "export", *here, dumpling=dumpling)).backup_path
    assert path is not None
    made = cr("Backup", "export", *here, path=path)
    stage.succeeds("verify", made)
    stage.succeeds("gc-life-time", made, "--kind=Backup")
    stage.fails("gc-life-time", made, "--kind=Backup", **wrong)

    restore = cr("Restore", "import", stage.storage("export"), to=stage.database(), users="update")
    assert stage.fails("import", restore, f"--backupPath={path}", **wrong) == "DatabaseAccessDenied"
    stage.db.execute("drop database shop")
    stage.succeeds("import", restore, f"--backupPath={path}")
    assert stage.db.execute(f"select count(*) from {TABLE}") == [(2,)]
    assert stage.fails("clean", made, **no_entry) in {"StorageAccessDenied", "InvalidCredentials"}
    stage.succeeds("clean", made)


def broken_keys(stage: Stage) -> list[str]:
    """Options that br refuses as it reads them: the key is none of AES-128."""
    keys = {"--crypter.key": "cipher key", "--log.crypter.key": "log cipher key"}
    given = [word for flag, name in keys.items() for word in (flag, f"{stage.aviary[name]}-")]
    return ["--crypter.method=aes128-ctr", "--log.crypter.method=aes128-ctr", *given]


def test_backup_restore_and_compaction_by_br(stage: Stage) -> None:
    access, there = {"from": stage.database()}, stage.storage("full")
    stage.fails("backup", cr("Backup", "unreadable", access, stage.br(*broken_keys(stage)), stage.storage("unreadable")))
    refused = ["--crypter.method=aes128-ctr", f"--crypter.key={stage.aviary['cipher key']}"]
    stage.succeeds("backup", cr("Backup", "full", access, stage.br(), there))
    stage.fails("restore", cr("Restore", "again", {"to": stage.database()}, stage.br(*refused), there))
    stage.db.execute("drop database shop")
    master = f"--master-key=aws-kms:///k?AWS_ACCESS_KEY=a&AWS_SECRET_ACCESS_KEY={stage.aviary['master key']}&REGION=r"
    master_key = [master, "--master-key-crypter-method=aes128-ctr"]
    stage.succeeds("restore", cr("Restore", "back", {"to": stage.database()}, stage.br(*master_key), there))
    assert stage.db.execute(f"select count(*) from {TABLE}") == [(2,)]

    for at in range(1000, 1003):
        stage.s3.client().put_object(Bucket="ours", Key=f"compact/v1/stand-in/{at}.log", Body=b"x")
    compact = cr("CompactBackup", "compact", stage.storage("compact"), stage.br(), startTs="1000", endTs="1002")
    stage.fails("compact", compact, STAND_IN_FAIL="always")
    stage.succeeds("compact", compact)


def test_a_log_backup_and_a_restore_to_a_point_in_time(stage: Stage) -> None:
    log = cr("Backup", LOG, stage.br(), stage.storage("log"), backupMode="log")

    def command(name: str, **env: str) -> Callable[..., Any]:
        return lambda do, *words: do("backup", log, "--mode=log", f"--subcommand=log-{name}", *words, **env)

    wrong = {"AWS_SECRET_ACCESS_KEY": stage.aviary["another key of S3"]}
    for name in ("pause", "resume", "status"):
        command(name)(stage.run)  # there is no such task
    for name in ("start", "truncate", "metadata"):
        command(name, **wrong)(stage.fails, *(["--truncate-until=5"] if name == "truncate" else []))
    begin = int(command("start")(stage.succeeds).commit_ts or 0)
    base_spec = stage.storage("base", "theirs")
    base = stage.succeeds("backup", cr("Backup", "base", stage.br(), base_spec), **stage.theirs)
    newest = int(base.commit_ts or 0) + 60 * SECOND
    etcd.put_number(stage.kv.pd, f"/tidb/br-stream/checkpoint/{LOG}/central_global", newest)
    stage.s3.client().put_object(Bucket="ours", Key="log/v1/global_checkpoint/1.ts", Body=struct.pack("<Q", newest))
    for name in ("pause", "resume", "status", "metadata"):
        command(name)(stage.succeeds)
    command("truncate")(stage.succeeds, f"--truncate-until={begin + 1000}")
    watching = stage.start("log-watch", log)
    assert watching.stdout is not None
    heard = next(line for line in watching.stdout if "log_watch" in line or "log-watch" in line)
    watching.send_signal(signal.SIGTERM)
    stage.end("log-watch", watching)
    assert stage.aviary.within(heard) == set()
    command("stop")(stage.fails, "--cluster-tls=true")  # there are no files for it
    command("stop")(stage.succeeds)

    point = stage.br(), stage.storage("log"), {"pitrFullBackupStorageProvider": base_spec, "restoreMode": "pitr"}
    keys = {f"FULL_BACKUP_{name}": value for name, value in stage.theirs.items()}
    restore = cr("Restore", "point", *point)
    assert stage.fails("restore", restore, "--mode=pitr", **keys | {"FULL_BACKUP_AWS_SECRET_ACCESS_KEY": "no"})
    stage.db.execute("drop database shop")
    stage.succeeds("restore", restore, "--mode=pitr", **keys)
    assert stage.db.execute(f"select count(*) from {TABLE}") == [(2,)]


@pytest.mark.parametrize("command", ["check", "explain-command"])
def test_the_user_s_command_shows_none(stage: Stage, command: str, tmp_path: Path) -> None:
    keys = ["--azblob.encryption-key", stage.aviary["encryption key"], f"--azblob.account-key={stage.aviary['account key']}"]
    env = [{"name": "SOMEBODY_S_TOKEN", "value": stage.aviary["spec.env"]}]
    access = {"from": stage.database(), "dumpling": {"options": keys}, "env": env}
    for name, br in {"export": {}, "br": stage.br(*broken_keys(stage))}.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(cr("Backup", name, access, stage.storage("shown"), br)))
        argv = [str(Path(sys.executable).with_name("tidb-backup")), command, "-f", str(file)]
        done = subprocess.run(argv, env=stage.env, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.stdout, done.stderr
        assert stage.aviary.within(done.stdout + done.stderr) == set()


def verbs() -> set[str]:
    """Every command, and every mode of those that have several."""
    (commands,) = (flag.choices or () for flag in COMMANDS["backup"].flags if flag.name == "subcommand")
    return {*COMMANDS, "restore --mode=pitr", *(f"backup --mode=log --subcommand={command}" for command in commands)}


def test_what_was_seen_in_all_of_it(stage: Stage) -> None:
    """The last test of the file: it looks back on the others."""
    assert {(verb, good) for verb in verbs() for good in (True, False)} - stage.ended == {("log-watch", True)}, "it has no end"
    assert {"br", "dumpling", "tidb-lightning", "tikv-ctl"} <= stage.watch.programs
    assert ("dumpling", "--password", "password of the database") in stage.watch.argv, "the watch sees what is there"
    assert ("br", "--full-backup-storage", "keys of S3") in stage.watch.argv
    assert stage.watch.unexpected() == set()
    assert {limit for _, limit in stage.watch.core_limits} == {"0"}
    assert stage.watch.readable == set()
    found = {}
    for bucket in ("ours", "theirs"):
        for name in stage.s3.keys(bucket):
            content = stage.s3.client().get_object(Bucket=bucket, Key=name)["Body"].read()
            if hits := stage.aviary.within(content):
                found[name] = hits
    assert found == {}
    kept = [name for name in stage.s3.keys("ours") if name.endswith(".record.json") or "/.history/" in name]
    assert len(kept) > 5


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["/tools/br", "backup", "full"], "br"),
        (["/usr/bin/python3.11", "/room/bin/tikv-ctl", "compact-log-backup"], "tikv-ctl"),
        (["cp", "/br", "/var/lib/br-bin/br"], "cp"),
        (["sh", "/tools/br"], "sh"),
        ([""], ""),
    ],
)
def test_only_a_program_that_runs_is_taken_for_a_tool(argv: list[str], program: str) -> None:
    """The init container of a Job copies br, under the limits of its Pod, and knows no secret."""
    assert canary.program_of(argv) == program


def test_a_canary_is_found_in_every_form(tmp_path: Path) -> None:
    aviary = Aviary(it=canary.password())
    assert all(aviary.within(f"x{form}y") == {"it"} for form in canary.forms(aviary["it"]))
    (tmp_path / "open.txt").write_text(json.dumps({"a": aviary["it"]}))
    assert aviary.under(tmp_path) == {"open.txt": {"it"}}
    with Watch(aviary, folders=[tmp_path]) as watch:
        argv = [sys.executable, "-c", "import time; time.sleep(1)", "--password", aviary["it"], f"--token={aviary['it']}"]
        subprocess.run(argv, check=True)
    assert {flag for _, flag, _ in watch.argv} >= {"--password", "--token"}
    assert watch.unexpected() == watch.argv
    assert watch.readable == {"open.txt"}
