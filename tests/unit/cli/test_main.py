"""The command line as a whole: help that teaches, exit codes, nothing imported that is not needed, no trace at night."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli.commands.plan
from backup_manager.errors import CheckError, ManagerError, PartialError, PermanentError, UnreachableError, UsageError
from cli.main import _SHORT, COMMANDS, commands

ROOT = Path(__file__).resolve().parents[3]
SHOP = str(ROOT / "tests" / "golden" / "cli" / "shop.yaml")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_with_an_example(name: str) -> None:
    result = CliRunner().invoke(commands, [name, "--help"], prog_name="tidb-backup")
    assert result.exit_code == 0
    assert f"tidb-backup {name}" in result.output
    assert "Example" in result.output


def test_the_commands_are_listed_in_one_line_each() -> None:
    result = CliRunner().invoke(commands, ["-h"])
    assert result.exit_code == 0
    assert _SHORT.keys() == COMMANDS.keys()
    assert all(name in result.output for name in COMMANDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermanentError("x"), 1),
        (UsageError("x"), 2),
        (UnreachableError("x"), 3),
        (CheckError("x"), 4),
        (PartialError("x"), 5),
    ],
)
def test_errors_have_their_exit_codes(error: ManagerError, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(cli.commands.plan, "choose", fail)
    result = CliRunner().invoke(commands, ["plan", "-f", SHOP])
    assert result.exit_code == code
    assert result.stderr == "error: x\n"
    assert result.stdout == ""


def test_a_defect_is_one_line_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise ValueError("hunter22")

    monkeypatch.setattr(cli.commands.plan, "choose", fail)
    result = CliRunner().invoke(commands, ["plan", "-f", SHOP])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: internal error: ValueError\n")
    assert "hunter22" not in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["plan", "--nonsense"],
        ["plan", "-o", "xml"],
        ["next", "-c", "0", "-f", SHOP],
        ["history", "--since", "soon"],
    ],
)
def test_wrong_usage_is_2(words: list[str]) -> None:
    assert CliRunner().invoke(commands, words).exit_code == 2


def test_without_a_cluster_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    result = CliRunner().invoke(commands, ["plan"])
    assert result.exit_code == 2
    assert "no cluster to ask" in result.stderr
    assert "-f FILE" in result.stderr


def test_settings_of_the_webhook_are_read_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.requests import configuration

    configuration.cache_clear()
    monkeypatch.setenv("TIDB_BACKUP_MAX_DELETIONS", "zero")
    result = CliRunner().invoke(commands, ["plan", "-f", SHOP])
    assert result.exit_code == 2
    assert "TIDB_BACKUP_MAX_DELETIONS" in result.stderr
    monkeypatch.setenv("TIDB_BACKUP_MAX_DELETIONS", "1")
    result = CliRunner().invoke(commands, ["plan", "nightly", "-f", SHOP, "--now", "2026-03-31T12:00:00Z"])
    assert "1 go in later passes, 1 at a time" in result.stderr
    configuration.cache_clear()


def _imported(words: list[str]) -> set[str]:
    code = (
        "import sys\nsys.argv = ['tidb-backup', *sys.argv[1:]]\nfrom cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\n', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("\n", 2)[-2].split())


@pytest.mark.parametrize("words", [["--help"], ["plan", "-f", SHOP], ["render", "examples/backup-export-s3.yaml"]])
def test_the_client_and_the_sdks_are_imported_only_when_asked_for(words: list[str]) -> None:
    assert not _imported(words) & {"kubernetes", "boto3", "google", "azure", "fastapi", "pymysql", "rich"}


def test_kubectl_calls_its_plugin_by_another_name() -> None:
    code = "import sys; sys.argv = ['/usr/bin/kubectl-tidb_backup', '--help']; from cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage: kubectl tidb-backup" in done.stdout


def test_a_mistyped_place_does_not_look_like_an_empty_past(tmp_path: Path) -> None:
    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(commands, ["history", *words])
        return result.exit_code, result.output

    url = f"local://{tmp_path}"
    assert said("--offline", "--storage", url) == (0, f"no backup and no restore in {url}\n")
    assert said("-f", SHOP, "--no-records", "-n", "shpo") == (0, "no backup and no restore in namespace shpo\n")
    code, text = said("--offline", "--storage", f"{url}/absent")
    assert (code, "there is no folder" in text) == (1, True)
    code, text = said("--storage", url, "--no-records", "-f", SHOP)
    assert (code, "--no-records forbids" in text) == (2, True)


def test_csv_of_several_schedules_tells_them_apart() -> None:
    result = CliRunner().invoke(commands, ["plan", "-f", SHOP, "-o", "csv", "--now", "2026-03-31T12:00:00Z"])
    lines = result.stdout.splitlines()
    assert lines[0].startswith("schedule,name,age,state,verdict,rule,until,size,data")
    assert len(lines) > 10
    assert all(line.startswith("shop/nightly,nightly-2026-03-") for line in lines[1:])
