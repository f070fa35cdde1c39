"""``docs/reference.md`` lists every annotation, label, variable and setting that the code knows, and nothing else."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from app.domain.backup import log_watch
from app.domain.job import ending
from app.domain.observed import Observed
from app.domain.restore import pitr
from app.settings import Settings
from backup_manager import runner
from backup_manager.locking import lease
from backup_manager.operations import watch_log as watch
from backup_manager.tidb import connection as database
from crds.contract import durations, names

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("app", "backup_manager", "cli", "crds")
KEY = re.compile(r"(?<![\w.])(?:tidb\.)?tidb\.pingcap\.com/[a-z][a-z-]*[a-z]")
VARIABLE = re.compile(
    r"\b(?:BACKUP_MANAGER|TIDB_BACKUP|KMS_ENCRYPTED|AWS|S3|GCS|AZURE|GOOGLE|STORAGE|REQUESTS|SSL)_[A-Z_]+[A-Z]\b"
)
SETTABLE = {
    names.PD_ADDR_ANNOTATION,
    names.LIGHTNING_BACKEND_ANNOTATION,
    names.ALLOW_NON_EMPTY_ANNOTATION,
    names.SKIP_PREFLIGHT_ANNOTATION,
    names.CONFIRM_CLEAN_ANNOTATION,
    pitr.GC_ANNOTATION,
    log_watch.GRACE_ANNOTATION,
    ending.FORCE_ANNOTATION,
    "tidb.tidb.pingcap.com/skip-tls-when-connect-tidb",
}
WRITTEN = {
    names.REPORT_ANNOTATION,
    names.SLOT_ANNOTATION,
    names.PATH_ANNOTATION,
    names.SPEC_HASH_ANNOTATION,
    names.IMPORTED_ANNOTATION,
    lease.HELD_BY_ANNOTATION,
    lease.HELD_BY_UID_ANNOTATION,
    names.BACKUP_LABEL,
    names.RESTORE_LABEL,
    names.COMPACT_LABEL,
    names.SCHEDULE_LABEL,
    names.OWNER_UID_LABEL,
    names.REPLICATION_STEP_LABEL,
    names.RESTORE_UID_LABEL,
}


@cache
def page() -> str:
    return (ROOT / "docs" / "reference.md").read_text()


@cache
def code() -> str:
    return "\n".join(path.read_text() for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))


def rows(title: str) -> Iterator[list[str]]:
    """The rows of the table below the heading *title*, as cells."""
    section = page().partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 2, f"no table under {title}"
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def first_cells(title: str) -> set[str]:
    return {name for row in rows(title) for name in re.findall(r"`([^`]+)`", row[0])}


def test_annotations_and_labels_are_those_of_the_code() -> None:
    assert first_cells("Annotations that you may set") == SETTABLE
    assert first_cells("Labels that you may set") == {
        names.BACKUP_LABEL,
        names.SCHEDULE_GROUP_LABEL,
        names.SCHEDULE_LABEL,
    }
    assert first_cells("Written by the product") == WRITTEN


def test_no_key_is_missing_and_none_is_invented() -> None:
    assert set(KEY.findall(code())) == set(KEY.findall(page()))


def test_no_variable_of_ours_is_missing_and_none_is_invented() -> None:
    """Variables of the image's own parts and of the tools are theirs to explain."""
    told = first_cells("Environment of a Job")
    ours = {name for name in VARIABLE.findall(code()) if name.startswith("BACKUP_MANAGER_")}
    assert ours <= told
    assert {database.ENV_WAIT, database.ENV_KMS, runner.ENV_SCRATCH, watch.ENV_INTERVAL, names.ENV_PASSWORD} <= told
    settings = (ROOT / "backup_manager" / "storage" / "settings.py").read_text()
    read = set(re.findall(r'"([A-Z][A-Z0-9]*_[A-Z0-9_]+)"', settings))
    assert read <= told, sorted(read - told)
    known = {database.ENV_KMS, *VARIABLE.findall(code())}
    assert told <= known, sorted(told - known)


@pytest.mark.parametrize(
    ("variable", "default"),
    [
        (database.ENV_WAIT, database.DEFAULT_WAIT.total_seconds()),
        (watch.ENV_INTERVAL, watch.INTERVAL),
    ],
)
def test_defaults_of_the_managers_variables(variable: str, default: float) -> None:
    told = next(row[1] for row in rows("Environment of a Job") if row[0] == f"`{variable}`")
    assert durations.parse(told.strip("`")).total_seconds() == default


def test_settings_have_their_defaults() -> None:
    told = {row[0].strip("`"): row[1].strip("`") for row in rows("Settings of the webhook")}
    defaults = {
        f"TIDB_BACKUP_{name.upper()}": json.dumps(list(field.default))
        if isinstance(field.default, tuple)
        else str(field.default or "none")
        for name, field in Settings.model_fields.items()
    }
    assert told == defaults


def test_the_grace_period_is_told() -> None:
    (row,) = (row for row in rows("Annotations that you may set") if row[0] == f"`{log_watch.GRACE_ANNOTATION}`")
    found = re.search(r"default `(\w+)`", row[2])
    assert found
    assert durations.parse(found[1]) == log_watch.grace_period(Observed(parent={"metadata": {"name": "x"}}, children={}))
