"""A driver's SDK is imported when its provider is asked for, and at no other time."""

import subprocess
import sys

import pytest

HEAVY = ("boto3", "botocore", "google", "azure", "requests")


def imported(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(','.join(sorted(name for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.strip().split(",")} & set(HEAVY)


OPEN = "from backup_manager.storage.factory import open_storage\n"


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        (
            OPEN + "open_storage({'s3': {'provider': 'x', 'bucket': 'b'}}, "
            "env={'AWS_ACCESS_KEY_ID': 'a', 'AWS_SECRET_ACCESS_KEY': 'b'})",
            set(),
        ),
        (OPEN + "open_storage({'local': {'volumeMount': {'mountPath': '/tmp'}}}, env={})", set()),
        ("import backup_manager.operations.clean, backup_manager.operations.verify, backup_manager.operations.check", set()),
        ("import backup_manager.operations.export", set()),
    ],
)
def test_nothing_heavy(code: str, allowed: set[str]) -> None:
    assert imported(code) == allowed


def test_azure_does_not_bring_google() -> None:
    spec = "{'azblob': {'container': 'c', 'storageAccount': 'a', 'sasToken': 's=1'}}"
    assert "google" not in imported(OPEN + f"open_storage({spec}, env={{}})")
