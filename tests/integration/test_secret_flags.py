"""The table of secret flags against what the real tools list: a new flag that looks secret is masked or named as harmless."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from backup_manager.masking import SECRET_FLAGS
from backup_manager.tools import secret_options
from tests.support.argv_exceptions import allowed
from tests.support.servers import tool

pytestmark = pytest.mark.integration

_LOOKS_SECRET: Final = re.compile(r"pass|key|secret|token|crypt|sas|cred|auth|sig")
_HARMLESS: Final = {
    "--allow-cleartext-passwords",
    "--azblob.encryption-scope",
    "--crypter.key-file",
    "--crypter.method",
    "--gcs.credentials-file",
    "--key",
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


@pytest.mark.parametrize(
    "command",
    ["br " + verb for verb in ("backup full", "backup db", "restore full", "restore point", "log start", "log truncate")]
    + ["br operator base64ify", "dumpling", "tidb-lightning"],
)
def test_every_secret_flag_of_a_tool_is_in_the_table(command: str) -> None:
    name, *verb = command.split()
    said = subprocess.run([tool(name), *verb, "--help"], capture_output=True, text=True, check=False, timeout=120)
    listed = re.findall(r"^\s+(?:-(\w), )?--?([\w.-]+)", said.stdout + said.stderr, re.MULTILINE)
    flags = {f"--{long}" for _, long in listed}
    assert len(flags) > 10
    assert {flag for flag in flags if _LOOKS_SECRET.search(flag)} <= SECRET_FLAGS | _HARMLESS


@pytest.mark.parametrize("name", ["br backup full", "br restore point", "dumpling"])
def test_a_secret_flag_that_a_user_may_give_is_taken_from_argv_or_is_a_named_exception(name: str, tmp_path: Path) -> None:
    program, *verb = name.split()
    said = subprocess.run([tool(program), *verb, "--help"], capture_output=True, text=True, check=False, timeout=120)
    flags = {flag for flag in SECRET_FLAGS if re.search(rf"^ +(?:-\w, )?{re.escape(flag)}\s", said.stdout + said.stderr, re.M)}
    assert flags
    left = {flag for flag in flags if "the-secret" in secret_options.told([program, flag, "the-secret"], tmp_path).argv}
    assert left <= {row.argument for row in allowed() if row.tool == program}
