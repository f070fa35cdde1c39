"""What each command of ``tidb-backup`` writes, from files and a storage in memory: stdout, stderr, exit code.

``UPDATE_GOLDEN=1 pytest tests/golden/test_cli.py`` writes the answers anew; read the diff before committing it.
"""

import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import cli.storage_scan
from backup_manager.catalog.audit_log import AuditLog
from backup_manager.catalog.record import Cleaned, Owner
from backup_manager.catalog.records import Records
from backup_manager.operations import check, verify
from backup_manager.storage.memory import Bucket, MemoryStorage
from cli.main import COMMANDS, commands
from crds.contract.paths import Location, Provider, location_of
from crds.contract.report import Problem

HERE = Path(__file__).parent / "cli"
EXAMPLES = Path(__file__).parents[2] / "examples"
CASES: dict[str, str] = yaml.safe_load((HERE / "cases.yaml").read_text())
S3 = {"provider": "aws", "region": "eu-central-1", "bucket": "tidb-backups", "secretName": "s3"}
UIDS = [f"{number}f5e9c1a-0000-4000-8000-00000000000{number + 1}" for number in range(9)]


def _storage(bucket: Bucket, prefix: str) -> MemoryStorage:
    return MemoryStorage(Location(provider=Provider.S3, bucket="tidb-backups", prefix=prefix), bucket)


def _backup(bucket: Bucket, prefix: str, name: str, uid: str, begin: datetime) -> tuple[Records, Owner]:
    """A complete export that began at *begin* and took ten minutes."""
    times = iter([begin, begin, *[begin + timedelta(minutes=10)] * 9])
    records = Records(_storage(bucket, f"{prefix}/{name}-{uid[:8]}"), now=lambda: next(times), attempt_id=f"pod-of-{name}")
    owner = Owner(namespace="shop", name=name, uid=uid)
    spec = {
        "from": {"host": "basic-tidb", "secretName": "tidb"},
        "s3": {**S3, "prefix": prefix},
        "env": [{"name": "TOKEN", "value": "hush"}],
    }
    claim = records.claim(owner, operation="export", spec=spec)
    bucket.put(f"{prefix}/{name}-{uid[:8]}/metadata", b"Finished dump at")
    bucket.put(f"{prefix}/{name}-{uid[:8]}/t.sql", b"12345")
    records.complete(claim, tool="dumpling", tool_version="v8.5.0", commit_ts="449000000000000002")
    return records, owner


def _fill(bucket: Bucket) -> None:
    """Three exports, one of them cleaned and one damaged, a failed run, a running one, a restore; and a touched history."""
    day = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    _backup(bucket, "shop/export", "first", UIDS[0], day)
    _backup(bucket, "shop/export", "second", UIDS[1], day + timedelta(days=1))
    third, owner = _backup(bucket, "shop/export", "third", UIDS[2], day + timedelta(days=2))
    burial = Cleaned(by="clean-third", why="cleanPolicy Delete", at=day + timedelta(days=9), deleted=2, bytes=21)
    third.finish_clean(third.begin_clean(owner), burial)
    failed = Records(_storage(bucket, "shop/export/fourth"), now=lambda: day + timedelta(days=3), attempt_id="pod-of-fourth")
    claim = failed.claim(Owner(namespace="shop", name="fourth", uid=UIDS[3]), operation="export", spec={"s3": S3})
    failed.fail(claim, Problem(reason="DiskFull", message="no space left"))
    running = Records(_storage(bucket, "shop/br/fifth"), now=lambda: day + timedelta(days=4), attempt_id="pod-of-fifth")
    running.claim(Owner(namespace="shop", name="fifth", uid=UIDS[4]), operation="snapshot backup", spec={"s3": S3})
    AuditLog.beside(_storage(bucket, f"shop/export/first-{UIDS[0][:8]}")).append(
        now=lambda: day + timedelta(days=5),
        event="Restored",
        path=f"s3://tidb-backups/shop/export/first-{UIDS[0][:8]}",
        kind="Restore",
        namespace="shop",
        name="back",
        uid=UIDS[5],
    )
    bucket.put(f"shop/export/second-{UIDS[1][:8]}/t.sql", b"1234")
    bucket.put(f"shop/export/second-{UIDS[1][:8]}/new", b"")
    for name, uid in (("a", UIDS[6]), ("b", UIDS[7])):
        _backup(bucket, "touched", name, uid, day)
    del bucket.objects["touched/.history/00000002.json"]
    key = f"touched/b-{UIDS[7][:8]}.record.json"
    bucket.objects[key] = bucket.objects[key].replace(b"dumpling", b"somebody")


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage in memory, no cluster, no settings."""
    bucket = Bucket()
    _fill(bucket)

    def open_memory(spec: Mapping[str, Any], *, location: Location | None = None, env: Mapping[str, str]) -> MemoryStorage:
        assert env is not None
        return MemoryStorage(location or location_of(spec), bucket)

    for module in (cli.storage_scan, verify, check):
        monkeypatch.setattr(module, "open_storage", open_memory)
    for name in [name for name in os.environ if name.startswith("TIDB_BACKUP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")


def _run(words: str) -> str:
    argv = shlex.split(words.format(here=HERE, examples=EXAMPLES))
    result = CliRunner().invoke(commands, argv, prog_name="tidb-backup", env={"TIDB_BACKUP_CLI_DEBUG": "1"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    text = result.stdout + (f"--- stderr\n{result.stderr}" if result.stderr else "") + f"--- exit {result.exit_code}\n"
    return text.replace(str(HERE), "{here}").replace(str(EXAMPLES), "{examples}")


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden(name: str) -> None:
    found, path = _run(CASES[name]), HERE / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


def test_every_command_has_a_case() -> None:
    offline = set(COMMANDS) - {"watch"}
    assert {words.split()[0] for words in CASES.values()} == offline


def test_no_secret_is_written() -> None:
    said = "".join(_run(words) for words in CASES.values())
    assert "hush" not in said
    assert "hunter22secret" not in said
