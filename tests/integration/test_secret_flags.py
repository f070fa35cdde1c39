"""The list of secret names against what the real tools list: a new flag that looks secret is masked or named as harmless."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from backup_manager.masking import MASK, Masker
from backup_manager.secret_places import is_secret
from backup_manager.tools import secret_options, tikv_ctl
from tests.support.argv_exceptions import allowed
from tests.support.servers import tool, tool_path

pytestmark = pytest.mark.integration

_LOOKS_SECRET: Final = re.compile(r"pass|key|secret|token|crypt|sas|cred|auth|sig")
_HARMLESS: Final = {
    "--allow-cleartext-passwords",
    "--azblob.encryption-scope",
    "--crypter.key-file",
    "--crypter.method",
    "--gcs.credentials-file",
    "--key",
    "--key-path",
    "--keyspace-name",
    "--load-creds",
    "--log.crypter.key-file",
    "--log.crypter.method",
    "--master-key-crypter-method",
    "--order-by-primary-key",
    "--s3.sse-kms-key-id",
    "--send-credentials-to-tikv",
}
"""Switches, names, methods, and paths of files."""
_BR: Final = (
    *(f"backup {kind}" for kind in ("full", "db", "table")),
    *(f"restore {kind}" for kind in ("full", "db", "table", "point")),
    *(f"log {command}" for command in ("start", "stop", "pause", "resume", "truncate", "status", "metadata")),
    "abort restore full",
    "operator base64ify",
)
"""Every subcommand that we run. A br without ``abort`` prints its general help."""
_FLAG: Final = re.compile(r"^\s+(?:-(?P<short>\w)(?: \S+)?, )?(?P<long>--?[\w.-]+)(?P<value>[ =][\w<\[{]\S*)?", re.MULTILINE)


def listed(command: str) -> list[re.Match[str]]:
    """The flags in the help of *command*. Without a real tikv-ctl on PATH, those that we pass: a stand-in has no help."""
    name, *verb = command.split()
    if name == tikv_ctl.NAME and shutil.which(name, path=tool_path()) is None:
        work = tikv_ctl.Work(since=1, until=2, concurrency=1, name="n", shard=tikv_ctl.Shard(index=0, count=2))
        return list(_FLAG.finditer("".join(f"  {argument}\n" for argument in work.argv("x9"))))
    said = subprocess.run([tool(name), *verb, "--help"], capture_output=True, text=True, check=False, timeout=120)
    return list(_FLAG.finditer(said.stdout + said.stderr))


COMMANDS: Final = [*(f"br {verb}" for verb in _BR), "dumpling", "tidb-lightning", "tikv-ctl compact-log-backup"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_secret_flag_of_a_tool_is_masked_and_no_other(command: str) -> None:
    flags = {f"--{flag['long'].lstrip('-')}" for flag in listed(command)}
    assert len(flags) > 8
    assert {flag for flag in flags if _LOOKS_SECRET.search(flag)} <= {flag for flag in flags if is_secret(flag)} | _HARMLESS
    assert not {flag for flag in flags & _HARMLESS if is_secret(flag)}
    for flag in flags:
        shown = MASK if is_secret(flag) else "x9"
        assert Masker().argv([flag, "x9"]) == [flag, shown]
        if command == "tidb-lightning":  # takes one dash too
            assert Masker().argv([flag[1:], "x9"]) == [flag[1:], shown]
        assert Masker().argv([f"{flag}=x9", "x9"]) == [f"{flag}={shown}", "x9"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_secret_short_flag_of_a_tool_is_masked_with_its_value(command: str) -> None:
    flags = listed(command)
    switches = {flag["short"] for flag in flags if flag["short"] and not flag["value"]}
    for flag in flags:
        if not flag["short"] or flag["short"] in switches:
            continue
        short, shown = flag["short"], MASK if is_secret(flag["long"]) else "x9"
        for dashed in (f"-{short}", *(f"-{switch}{short}" for switch in switches)):
            assert Masker().argv([f"{dashed}x9"]) == [f"{dashed}{shown}"]
            assert Masker().argv([dashed, "x9"]) == [dashed, shown]


def test_the_help_tells_switches_from_flags_with_a_value() -> None:
    """Otherwise the tests above would try nothing."""
    flags = {flag["long"]: flag for flag in listed("dumpling")}
    assert (flags["--password"]["short"], bool(flags["--password"]["value"])) == ("p", True)
    assert (flags["--no-data"]["short"], bool(flags["--no-data"]["value"])) == ("d", False)
    assert "-pd-urls" in {flag["long"] for flag in listed("tidb-lightning")}


@pytest.mark.parametrize("command", ["br backup full", "br restore point", "dumpling"])
def test_a_secret_flag_that_a_user_may_give_is_taken_from_argv_or_is_a_named_exception(command: str, tmp_path: Path) -> None:
    program = command.split(maxsplit=1)[0]
    flags = {flag["long"] for flag in listed(command) if is_secret(flag["long"])}
    assert flags
    left = {flag for flag in flags if "the-secret" in secret_options.told([program, flag, "the-secret"], tmp_path).argv}
    assert left <= {row.argument for row in allowed() if row.tool == program}
