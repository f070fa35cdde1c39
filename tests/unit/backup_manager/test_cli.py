"""The command line: Go's ways with flags, help that teaches, usage errors in one line."""

import resource
import subprocess
import sys
from typing import Any

import pytest

from backup_manager import cli, runner


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The flags of every run that would start."""
    seen: list[dict[str, Any]] = []

    def execute(self: runner.Run) -> int:
        seen.append({"name": self.verb.name, **self.flags})
        return 0

    monkeypatch.setattr(runner.Run, "execute", execute)
    monkeypatch.setattr("backup_manager.signals.StopSignal.install", lambda _self: None)
    monkeypatch.setattr("backup_manager.core_files.forbid", lambda: None)  # it cannot be undone
    return seen


UPSTREAM = [
    "export --namespace=ns --backupName=x --bucket=b --storageType=s3 --client-tls=true",
    "backup --namespace=ns --backupName=x --tikvVersion=v8.5.0 --mode=snapshot "
    "--cluster-tls=true --client-tls=true --skipClientCA=true",
    "backup --namespace=ns --backupName=x --mode=log --subcommand=log-truncate --truncate-until=5",
    "backup --namespace=ns --backupName=x --mode=volume-snapshot --initialize=true",
    "restore --namespace=ns --restoreName=x --mode=pitr --pitrRestoredTs=5 --replicationPhase=1",
    "restore --namespace=ns --restoreName=x --abort=true",
    "restore --namespace=ns --restoreName=x --mode=volume-snapshot --prepare --target-az= --use-fsr=true",
    "import --namespace=ns --restoreName=x --backupPath=s3://b/x.tgz --client-tls=true",
    "clean --namespace=ns --backupName=x",
]


@pytest.mark.parametrize("line", UPSTREAM)
def test_every_line_of_tidb_operators_jobs_is_understood(runs: list[dict[str, Any]], line: str) -> None:
    assert cli.main(line.split()) == 0
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--client-tls"], True),
        (["--client-tls=true"], True),
        (["--client-tls=T"], True),
        (["--client-tls=false"], False),
        (["--client-tls=0"], False),
        ([], False),
    ],
)
def test_booleans_as_go_writes_them(runs: list[dict[str, Any]], words: list[str], expected: bool) -> None:
    cli.main(["export", "--namespace", "ns", *words, "--backupName", "x"])
    assert runs[0]["client-tls"] is expected


def test_global_flags_before_and_after_the_subcommand(runs: list[dict[str, Any]]) -> None:
    cli.main(["--report=stdout", "-k", "/kc", "export", "--from-file", "x.yaml"])
    cli.main(["export", "--from-file=x.yaml", "--report", "stdout", "--kubeconfig=/kc"])
    assert runs[0] == runs[1]
    assert (runs[0]["report"], runs[0]["kubeconfig"]) == ("stdout", "/kc")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("export --namespace=ns --backupName=", "must not be empty"),
        ("backup --namespace=ns --backupName=x --truncate-until=", "must not be empty"),
        ("export --namespace=ns", "--backupName"),
        ("import --restoreName=x", "--namespace"),
        ("export --nope", "--nope"),
        ("export --client-tls=maybe", "neither true nor false"),
        ("backup --mode=weird", "weird"),
        ("restore --replicationPhase=3", "3"),
        ("restore --replicationPhase=-1", "-1"),
        ("export --backup=x", "--backup"),
        ("dance", "dance"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(
    runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith("error: ")
    assert told in error[0]
    assert error[1].startswith("See `backup-manager")
    assert runs == []


def test_without_a_subcommand_help_is_printed_and_that_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "--from-file" in capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert f"backup-manager {command} " in said
    assert "exit codes" in said


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_example_is_a_line_that_works(runs: list[dict[str, Any]], command: str) -> None:
    assert cli.main(cli.COMMANDS[command].example.split()[1:]) == 0
    assert runs[0]["name"] == command


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_operation(command: str) -> None:
    assert callable(runner._operation(cli.COMMANDS[command].operation))


def test_the_start_imports_nothing_heavy() -> None:
    code = (
        "import sys, backup_manager.cli, backup_manager.runner, backup_manager.operations.export\n"
        "heavy = {'boto3', 'botocore', 'google.cloud.storage', 'azure.storage.blob', 'kubernetes', 'yaml', 'pymysql'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_run_leaves_no_core_file_whatever_limit_it_is_started_with() -> None:
    """In a process of its own: the limit cannot be raised again."""
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_CORE, (r.getrlimit(r.RLIMIT_CORE)[1],) * 2); "
        "from backup_manager import cli; cli.main(['export', '--from-file=/none']); print(r.getrlimit(r.RLIMIT_CORE))"
    )
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core files are forbidden here for every process")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "(0, 0)"
