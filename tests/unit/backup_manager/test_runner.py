"""One run: exactly one outcome, one exit code, no traceback, nothing left behind."""

import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from backup_manager import backoff, runner
from backup_manager.cli import COMMANDS
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import PartialError, TransientError, UnreachableError, UsageError
from backup_manager.kubernetes import client as kubernetes_api
from backup_manager.kubernetes.resource import choose
from backup_manager.reporting import reporters
from backup_manager.signals import StopSignal
from crds.contract import names
from crds.contract.report import ANNOTATION, Report
from tests.support.manager import world

CR = """apiVersion: pingcap.com/v1alpha1
kind: Backup
metadata: {name: one, namespace: ns}
spec: {from: {host: db}, azblob: {sasToken: "sas-hunter22"}}
---
apiVersion: pingcap.com/v1alpha1
kind: Restore
metadata: {name: two}
spec: {}
"""


class Bench:
    """Runs an operation of the test through the runner."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.out = tmp_path / "cr.yaml", tmp_path / "reports"
        self.file.write_text(CR)
        self.stderr = io.StringIO()
        self.monkeypatch = monkeypatch
        self.env = {"BACKUP_MANAGER_PASSWORD": "pw-hunter22", runner.ENV_SCRATCH: str(tmp_path)}

    def run(
        self, operation: Callable[[Context], Result], *, command: str = "export", stop: StopSignal | None = None, **flags: str
    ) -> int:
        self.monkeypatch.setattr(runner, "_operation", lambda _module: operation)
        given = {"from-file": str(self.file), "report": str(self.out), **flags}
        run = runner.Run(verb=COMMANDS[command], flags=given, env=self.env, stderr=self.stderr, stop=stop or StopSignal())
        return run.execute()

    @property
    def report(self) -> Report:
        report = Report.parse(self.out.read_text().splitlines()[-1])
        assert report is not None
        return report


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_success_is_complete_and_0(bench: Bench) -> None:
    assert bench.run(lambda _c: Result(commit_ts="5", backup_size=7, details={"objectCount": 1})) == 0
    report = bench.report
    assert (report.phase, report.commit_ts, report.backup_size, report.result) == ("Complete", "5", 7, {"objectCount": 1})
    assert report.time_completed is not None


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("u"), 2), (UnreachableError("x"), 3), (TransientError("t"), 1), (PartialError("p"), 5)],
)
def test_every_kind_of_error_has_its_exit_code(bench: Bench, error: Exception, code: int) -> None:
    def operation(_context: Context) -> Result:
        raise error

    assert bench.run(operation) == code
    assert bench.report.phase == "Failed"
    assert bench.report.error is not None
    assert bench.report.error.message == str(error)


def test_a_defect_is_one_line_for_the_user_and_masked_details_in_the_log(bench: Bench) -> None:
    def operation(_context: Context) -> Result:
        raise KeyError("pw-hunter22 and sas-hunter22")

    assert bench.run(operation) == 1
    report = bench.report
    assert report.error is not None
    assert (report.error.reason, "KeyError" in report.error.message) == ("InternalError", True)
    assert "Traceback" not in report.to_json()
    assert "Traceback" in bench.stderr.getvalue()
    assert "hunter22" not in bench.stderr.getvalue() + report.to_json()


def test_an_outcome_that_cannot_be_stored_is_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def store(_self: Any, report: Report) -> None:
        raise UnreachableError("API server down")

    monkeypatch.setattr(reporters.LinesReporter, "store", store)
    assert bench.run(lambda _c: Result()) == 3
    assert "could not be stored" in bench.stderr.getvalue()


def test_the_temporary_folder_is_private_and_removed(bench: Bench) -> None:
    seen: list[Path] = []

    def operation(context: Context) -> Result:
        seen.append(context.scratch)
        assert context.scratch.stat().st_mode & 0o777 == 0o700
        (context.scratch / "secret").write_text("x")
        raise UsageError("u")

    bench.run(operation)
    assert not seen[0].exists()


def test_no_room_for_temporary_files_is_told(bench: Bench) -> None:
    bench.env[runner.ENV_SCRATCH] = "/nonexistent"
    assert bench.run(lambda _c: Result()) == 1
    assert bench.report.error is not None
    assert bench.report.error.reason == "NoScratchSpace"


@pytest.mark.parametrize(("command", "name"), [("export", "one"), ("import", "two")])
def test_a_file_of_several_documents(bench: Bench, command: str, name: str) -> None:
    seen: list[Context] = []

    def operation(context: Context) -> Result:
        seen.append(context)
        return Result()

    assert bench.run(operation, command=command, namespace="mine") == 0
    assert seen[0].resource.name == name
    assert seen[0].resource.namespace == ("ns" if name == "one" else "mine")
    assert len(seen[0].resource.uid) == 32
    assert seen[0].kubernetes is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [", "no YAML"),
        ("", "holds no Backup"),
        ("just text", "holds no Backup"),
        ("kind: Restore\nmetadata: {name: x}\nspec: {}\n", "Restore/x"),
        ("kind: Backup\nmetadata: {}\nspec: {}\n", "metadata.name"),
        ("kind: Backup\nmetadata: {name: x}\n", "spec is missing"),
    ],
)
def test_files_that_cannot_be_used(bench: Bench, text: str, told: str) -> None:
    bench.file.write_text(text)
    assert bench.run(lambda _c: Result()) == 2
    assert bench.report.error is not None
    assert told in bench.report.error.message


def test_a_file_that_is_not_there(bench: Bench) -> None:
    bench.file.unlink()
    assert bench.run(lambda _c: Result()) == 2


def test_several_of_a_kind_need_a_name() -> None:
    documents = [{"kind": "Backup", "metadata": {"name": n}, "spec": {}} for n in ("a", "b")]
    with pytest.raises(UsageError) as caught:
        choose(documents, kinds=("Backup",))
    assert "Backup/a, Backup/b" in caught.value.message
    assert choose(documents, kinds=("Backup",), name="b").name == "b"


def test_outside_of_a_cluster_without_a_file_it_says_what_to_do(tmp_path: Path) -> None:
    stderr = io.StringIO()
    flags = {"namespace": "ns", "backupName": "x", "report": str(tmp_path / "r")}
    assert runner.Run(verb=COMMANDS["export"], flags=flags, env={}, stderr=stderr).execute() == 1
    report = json.loads((tmp_path / "r").read_text().splitlines()[-1])
    assert report["error"]["reason"] == "GetBackupCRFailed"
    assert "--from-file" in report["error"]["hint"]


def test_steps_are_told_in_order_and_stop_between_two(tmp_path: Path) -> None:
    stop = StopSignal()
    here = world(tmp_path, {}, stop=stop)
    done: list[str] = []

    def ordinary(_context: Context, state: list[str]) -> None:
        state.append("done")

    def stopping(_context: Context, _state: list[str]) -> None:
        stop.request()

    steps = (Step(name="One", work=ordinary), Step(name="Two", work=stopping), Step(name="Three", work=ordinary))
    with pytest.raises(TransientError):
        run_steps(here.context, steps, done)
    assert done == ["done"]
    assert [(p.step, p.progress) for p in here.report.progress] == [("One", 100), ("Two", 100)]


def test_the_outcome_is_stored_before_the_kill_whatever_still_hangs(bench: Bench) -> None:
    """An operation that ignores the end: the report does not wait for it, and what it says later changes nothing."""
    stored, stop = threading.Event(), StopSignal(grace=0.5)

    def operation(context: Context) -> Result:
        threading.Thread(target=stop.terminate).start()
        while not stored.wait(0.01):
            if bench.out.exists() and '"Failed"' in bench.out.read_text():
                stored.set()
        context.journal.step("Dump", 50)
        return Result(commit_ts="5")

    assert bench.run(operation, stop=stop) == 1
    report = bench.report
    assert (report.phase, report.commit_ts) == ("Failed", None)
    assert report.error is not None
    assert (report.error.reason, report.error.retryable) == ("Interrupted", True)


def test_an_end_in_time_is_told_once(bench: Bench) -> None:
    stop = StopSignal(grace=3600)

    def operation(context: Context) -> Result:
        threading.Thread(target=stop.terminate).start()
        context.stop.wait(3600)
        return Result()

    assert bench.run(operation, stop=stop) == 1
    finals = [line for line in bench.out.read_text().splitlines() if '"Failed"' in line]
    assert len(finals) == 1


class ShakyApiServer(ThreadingHTTPServer):
    """An API server that answers 503 to the first *away* requests of each kind, as one does that restarts."""

    def __init__(self, away: int) -> None:
        super().__init__(("127.0.0.1", 0), _ShakyHandler)
        self.away = {"GET": away, "PATCH": away}
        self.reports: list[str] = []


class _ShakyHandler(BaseHTTPRequestHandler):
    server: ShakyApiServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = 200, yaml.safe_load(CR.split("---", maxsplit=1)[0]) if self.command == "GET" else {}
        if self.server.away[self.command]:
            self.server.away[self.command] -= 1
            status, answer = 503, {"message": "the server is currently unable to handle the request"}
        elif body:
            self.server.reports.append(json.loads(body)["metadata"]["annotations"][ANNOTATION])
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_an_api_server_that_answers_503_for_a_while_fails_no_job(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first read of the CR, and the report that must not be lost."""
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(backoff, "_JITTER", 0.01)
    with ShakyApiServer(away=4) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = tmp_path / "kubeconfig"
        user = {"name": "u", "user": {"token": "t"}}
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        config.write_text(json.dumps({"current-context": "x", "contexts": [context], "clusters": [cluster], "users": [user]}))
        bench.env |= {"JOB_NAME": "backup-one", "JOB_UID": "u-1", "POD_NAMESPACE": "ns"}
        flags: Any = {"from-file": "", "report": "", "kubeconfig": str(config), "namespace": "ns", "backupName": "one"}
        assert bench.run(lambda _context: Result(commit_ts="5"), **flags) == 0
        server.shutdown()
    last = Report.parse(server.reports[-1])
    assert last is not None
    assert (last.phase, last.commit_ts) == ("Complete", "5")
    assert server.away == {"GET": 0, "PATCH": 0}


def test_work_that_ended_is_not_thrown_away_by_a_late_stop(tmp_path: Path) -> None:
    stop = StopSignal()
    here = world(tmp_path, {}, stop=stop)

    def last(_context: Context, _state: None) -> None:
        stop.request()

    run_steps(here.context, (Step(name="Last", work=last),), None)
    assert here.report.progress[-1].progress == 100


def test_a_block_of_a_tools_lines_is_logged_whole_and_masked_once(bench: Bench) -> None:
    tool = "[2026/11/23 19:05:07.525 +00:00] [INFO] [client.go:184]"

    def operation(context: Context) -> Result:
        context.log(context.mask.block(f"{tool} [a]\n{tool} [b=pw-hunter22]".encode()))
        context.log(context.mask.block(f"{tool} [c]\nError: pw-hunter22\n{tool} [d]".encode()))
        context.log(f"{tool} [e]\nplain pw-hunter22")
        return Result()

    assert bench.run(operation) == 0
    logged = [line for line in bench.stderr.getvalue().splitlines() if tool in line or "******" in line]
    assert logged[:2] == [f"{tool} [a]", f"{tool} [b=******]"]
    assert (logged[2], logged[4], logged[5]) == (f"{tool} [c]", f"{tool} [d]", f"{tool} [e]")
    assert all(line.startswith("[2") for line in logged), "a line of ours has no time"
    assert (logged[3].partition("] [INFO] ")[2], logged[6].partition("] [INFO] ")[2]) == (
        "[backup-manager] Error: ******",
        "[backup-manager] plain ******",
    )


def test_an_operation_gets_the_credentials_cleaned(bench: Bench) -> None:
    bench.env |= {"AWS_SECRET_ACCESS_KEY": "the-secret-key\n", "BACKUP_MANAGER_PASSWORD": "pw-hunter22\n"}
    seen: dict[str, str] = {}

    def operation(context: Context) -> Result:
        seen.update(context.env)
        context.log("the-secret-key and pw-hunter22")
        return Result()

    assert bench.run(operation) == 0
    assert (seen["AWS_SECRET_ACCESS_KEY"], seen["BACKUP_MANAGER_PASSWORD"]) == ("the-secret-key", "pw-hunter22")
    assert "hunter22" not in bench.stderr.getvalue()
    assert "the-secret-key" not in bench.stderr.getvalue()


def test_a_credential_that_cannot_be_one_fails_the_run_with_its_name(bench: Bench) -> None:
    bench.env |= {"AWS_SECRET_ACCESS_KEY": "two words"}
    assert bench.run(lambda _context: Result()) == 2
    assert bench.report.error is not None
    assert bench.report.error.reason == "InvalidCredentials"
    assert "AWS_SECRET_ACCESS_KEY" in bench.report.error.message
    assert "two words" not in bench.out.read_text() + bench.stderr.getvalue()


class EditedCr:
    """An API server with a log Backup that was edited after its start."""

    def __init__(self, _server: object, **_options: object) -> None:
        pass

    more: ClassVar[dict[str, Any]] = {}

    def resource(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        spec = {"backupMode": "log", "br": {"cluster": "other"}, "s3": {"provider": "aws", "bucket": "b", "prefix": "log-B"}}
        return {"kind": kind, "metadata": {"name": name, "namespace": namespace, "uid": "u1", **self.more}, "spec": spec}


class DeletedCr(EditedCr):
    """One whose CR was deleted and waits for its finalizer."""

    more: ClassVar[dict[str, Any]] = {"deletionTimestamp": "2026-03-01T02:00:00Z"}


def run_edited(bench: Bench, monkeypatch: pytest.MonkeyPatch, **env: str) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(runner, "KubernetesApi", EditedCr)
    monkeypatch.setattr(kubernetes_api.Server, "in_cluster", lambda _env: None)
    bench.env |= {names.ENV_CR_UID: "u1", **env}

    def look(context: Context) -> Result:
        seen.append(context.resource.spec)
        return Result()

    flags: dict[str, Any] = {"from-file": "", "namespace": "ns", "backupName": "one"}
    bench.run(look, command="backup", **flags)
    return seen


def test_a_job_works_on_what_was_recorded_and_not_on_an_edited_spec(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {"backupMode": "log", "br.cluster": "basic", "br.clusterNamespace": "ns", "s3.bucket": "b", "s3.prefix": "log-A"}
    (spec,) = run_edited(bench, monkeypatch, RECORDED_SPEC=json.dumps({**recorded, "s3.provider": "aws"}))
    assert spec["br"] == {"cluster": "basic", "clusterNamespace": "ns"}
    assert spec["s3"] == {"provider": "aws", "bucket": "b", "prefix": "log-A"}


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"RECORDED_SPEC": "{"}, "InvalidSpec"),
        ({"RECORDED_SPEC": '{"shardCount": "x"}'}, "InvalidSpec"),
        ({"CR_UID": "u0"}, "NotThisCR"),
    ],
)
def test_a_job_of_another_cr_or_with_a_broken_record_does_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], reason: str
) -> None:
    assert run_edited(bench, monkeypatch, **env) == []
    assert bench.report.error is not None
    assert bench.report.error.reason == reason
    assert bench.report.error.hint


@pytest.mark.parametrize(
    ("command", "flags", "begins"),
    [
        ("backup", {"mode": "snapshot", "subcommand": "log-start"}, False),
        ("backup", {"mode": "log", "subcommand": "log-start"}, False),
        ("backup", {"mode": "log", "subcommand": "log-stop"}, True),
        ("export", {}, False),
        ("import", {}, False),
        ("restore", {"mode": "snapshot"}, False),
        ("restore", {"mode": "snapshot", "abort": True}, True),
        ("compact", {}, False),
        ("clean", {}, True),
        ("gc-life-time", {}, True),
    ],
)
def test_no_run_begins_for_a_cr_that_is_being_deleted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str, flags: dict[str, Any], begins: bool
) -> None:
    """A hook may ask for a second Job when it is shown the CR as it was before it was deleted, its first Job gone already."""
    seen: list[str] = []
    monkeypatch.setattr(runner, "KubernetesApi", DeletedCr)
    monkeypatch.setattr(kubernetes_api.Server, "in_cluster", lambda _env: None)
    bench.env[names.ENV_CR_UID] = "u1"

    def work(context: Context) -> Result:
        seen.append(context.resource.name)
        return Result()

    given: dict[str, Any] = {COMMANDS[command].name_flag: "one", "from-file": "", "namespace": "ns", **flags}
    bench.run(work, command=command, **given)
    assert seen == (["one"] if begins else [])
    if not begins:
        assert bench.report.error is not None
        assert (bench.report.error.reason, bench.report.error.retryable) == ("DeletionRequested", False)
