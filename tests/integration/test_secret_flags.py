"""The table of secret flags against what the real tools list: a new flag that looks secret is masked or named as harmless."""

import re
import subprocess
from typing import Final

import pytest

from backup_manager.masking import SECRET_FLAGS
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
