"""What retention must never delete, worked out slowly and differently from the code under test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self
from zoneinfo import ZoneInfo

from app.domain.times import moment
from crds.contract import durations, names, tso

_UNITS = {"keepHourly": "%Y%m%d%H", "keepDaily": "%Y%m%d", "keepWeekly": "%G%V", "keepMonthly": "%Y%m", "keepYearly": "%Y"}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The policy of a spec."""

    max_backups: int = 0
    reserved: timedelta | None = None
    rules: Mapping[str, Any]
    min_keep: int
    failed: int
    zone: tzinfo
    has_log: bool

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """Read it."""
        retention = spec.get("retention") or {}
        reserved = spec.get("maxReservedTime")
        return cls(
            max_backups=spec.get("maxBackups") or 0,
            reserved=durations.parse(reserved) if reserved else None,
            rules=retention,
            min_keep=retention.get("minKeep", 1),
            failed=spec.get("failedHistoryLimit", 5),
            zone=ZoneInfo(spec.get("timeZone") or "UTC"),
            has_log="logBackupTemplate" in spec,
        )


def _age(backup: Mapping[str, Any]) -> datetime:
    status = backup.get("status") or {}
    if status.get("commitTs"):
        return tso.to_datetime(int(status["commitTs"]))
    found = moment(status.get("timeCompleted")) or moment(backup["metadata"]["creationTimestamp"])
    assert found is not None
    return found


def _local(backup: Mapping[str, Any], zone: tzinfo) -> datetime:
    slot = moment(backup["metadata"]["annotations"][names.SLOT_ANNOTATION])
    assert slot is not None
    return slot.astimezone(zone)


def must_stay(policy: Policy, complete: Sequence[Mapping[str, Any]], window_end: datetime) -> set[str]:
    """Names of those of *complete* (newest first) that some rule wants."""
    called = [str(backup["metadata"]["name"]) for backup in complete]
    ages = [_age(backup) for backup in complete]
    stay = set(called[: policy.min_keep])
    span, end = policy.reserved, window_end
    if not policy.reserved and not policy.max_backups and not policy.rules:
        return set(called)
    if policy.rules.get("keepWithin"):
        span, end = durations.parse_span(policy.rules["keepWithin"]), ages[0] if ages else window_end
    if span is not None:
        stay |= {name for name, age in zip(called, ages, strict=True) if age > end - span}
        before = [name for name, age in zip(called, ages, strict=True) if age <= end - span]
        stay |= set(before[:1]) if policy.has_log else set()
    if policy.reserved is None:
        stay |= set(called[: policy.max_backups]) | set(called[: policy.rules.get("keepLast", 0)])
    for rule, layout in _UNITS.items():
        newest_of: dict[str, str] = {}
        for name, backup in zip(called, complete, strict=True):
            newest_of.setdefault(_local(backup, policy.zone).strftime(layout), name)
        wanted = policy.rules.get(rule, 0)
        stay |= set(list(newest_of.values())[:wanted])
        stay |= {called[-1]} if called and len(newest_of) < wanted else set()
    return stay


def check_deletions(
    policy: Policy, backups: Sequence[Mapping[str, Any]], gone: Sequence[str], clock: datetime, *, limit: int
) -> None:
    """Fail when one of *gone* had to stay."""
    assert len(gone) <= limit, f"{len(gone)} deleted in one pass"
    snapshots = [backup for backup in backups if backup["spec"].get("backupMode") != "log"]
    logs = [backup for backup in backups if backup["spec"].get("backupMode") == "log"]
    assert not {backup["metadata"]["name"] for backup in logs} & set(gone), "the log backup was deleted"
    if any(_age(backup) > clock for backup in snapshots):
        assert not gone, f"{gone} deleted by a clock that is behind"
    newest_first = sorted(snapshots, key=lambda backup: (_age(backup), backup["metadata"]["name"]), reverse=True)
    complete = [backup for backup in newest_first if (backup.get("status") or {}).get("phase") == "Complete"]
    failed = [
        backup["metadata"]["name"]
        for backup in newest_first
        if (backup.get("status") or {}).get("phase") in {"Failed", "Invalid"}
    ]
    running = {backup["metadata"]["name"] for backup in snapshots} - {b["metadata"]["name"] for b in complete} - set(failed)
    end = clock
    if policy.has_log:
        reached = [tso.to_datetime(int((log.get("status") or {}).get("logCheckpointTs") or 0)) for log in logs]
        end = min(clock, max([*(_age(backup) for backup in complete), *reached], default=clock))
    protected = must_stay(policy, complete, end) | running | set(failed[: policy.failed])
    assert not protected & set(gone), f"{sorted(protected & set(gone))} had to stay"
