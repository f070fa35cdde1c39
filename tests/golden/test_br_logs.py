"""The golden logs of br hold what parsers rely on, and nothing of the machine that recorded them."""

import re

import pytest

from tests.support.br import GOLDEN, golden

NAMES = sorted(path.stem for path in GOLDEN.glob("*.log"))
SUCCEEDED = {
    *("backup-full", "backup-full-local", "backup-db", "backup-table", "backup-filter", "backup-incremental", "backup-resumed"),
    *("backup-of-an-absent-db", "backup-filter-matches-nothing", "region-errors-overcome", "lock-resolved"),
    *("restore-full", "restore-db", "restore-table", "restore-db-onto-itself", "restore-resumed"),
}
KILLED = {"backup-killed", "restore-killed"}


def test_every_situation_is_there() -> None:
    assert set(NAMES) >= SUCCEEDED | KILLED | {
        *("pd-unreachable", "path-in-use", "backup-again-after-killed", "checkpoint-of-another-config", "wrong-secret-key"),
        *("access-denied", "no-such-bucket", "backup-checksum-mismatch", "restore-checksum-mismatch", "restore-into-data"),
        *("backup-terminated", "restore-damaged-stopped", "log-start", "unknown-flag"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_exit_code_summary_and_error_agree(name: str) -> None:
    run = golden(name)
    assert run.succeeded == (name in SUCCEEDED)
    assert run.code == (0 if name in SUCCEEDED else -9 if name in KILLED else 1)
    assert bool(run.error) == (run.code == 1)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_recording_machine(name: str) -> None:
    text = (GOLDEN / f"{name}.log").read_text()
    assert not re.search(r"/(?:root|(?:work|home)/)|pytest-of|test-secret-key", text)
    assert set(re.findall(r"127\.0\.0\.1:\d+", text)) <= {f"127.0.0.1:{port}" for port in (1, 2379, 20160, 20180, 8333)}
