"""The kind BackupSchedule: Backups at certain times, and how long each is kept."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from crds.v1alpha1.backup import BackupSpec
from crds.v1alpha1.common import (
    AGE,
    BRConfig,
    Column,
    Duration,
    Int32,
    LocalObjectReference,
    Model,
    Quantity,
    Resource,
    Rule,
    Span,
    Status,
    Time,
    Timestamp,
)
from crds.v1alpha1.compact_backup import CompactSpec
from crds.v1alpha1.storage import StorageProvider

_KEEPS = {
    "keepLast": "keep_last",
    "keepHourly": "keep_hourly",
    "keepDaily": "keep_daily",
    "keepWeekly": "keep_weekly",
    "keepMonthly": "keep_monthly",
    "keepYearly": "keep_yearly",
    "keepWithin": "keep_within",
}
_MAX = 2**31 - 1


class Retention(Model):
    """Which Backups stay, as restic reads such rules: what any one of them wants to keep is kept."""

    keep_last: int | None = Field(default=None, ge=1, le=_MAX, description="The newest so many.")
    keep_hourly: int | None = Field(default=None, ge=1, le=_MAX, description="The newest of each of so many hours.")
    keep_daily: int | None = Field(default=None, ge=1, le=_MAX, description="The newest of each of so many days.")
    keep_weekly: int | None = Field(default=None, ge=1, le=_MAX, description="The newest of each of so many ISO weeks.")
    keep_monthly: int | None = Field(default=None, ge=1, le=_MAX, description="The newest of each of so many months.")
    keep_yearly: int | None = Field(default=None, ge=1, le=_MAX, description="The newest of each of so many years.")
    keep_within: Span | None = Field(default=None, description="All that are younger than this: 36h, 30d, 8w, 1y.")
    min_keep: int = Field(default=1, ge=1, le=_MAX, description="So many complete ones stay, whatever the rules say.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="",
            cel=" || ".join(f"has(self.{name})" for name in _KEEPS),
            message=f"retention keeps nothing; set at least one of {', '.join(_KEEPS)}",
            holds=lambda retention: any(getattr(retention, name) is not None for name in _KEEPS.values()),
        ),
    )


class BackupScheduleSpec(StorageProvider):
    """When to back up, what, and how long to keep it.

    A storage and br of this level are accepted and, as upstream, not read.
    """

    schedule: str = Field(min_length=1, description="Five-field cron expression, or @daily and the like, or @every <duration>.")
    time_zone: str | None = Field(
        default=None, min_length=1, description="IANA name of the zone that schedule is read in; UTC when absent."
    )
    starting_deadline_seconds: Int32 | None = Field(
        default=None, description="A run that is later than this is left out; any delay is fine when absent."
    )
    run_immediately: bool = Field(default=False, description="Make the first Backup at once instead of at the first due time.")
    concurrency_policy: Literal["Forbid", "Allow"] = Field(
        default="Forbid", description="Whether a run may begin while an earlier one of this schedule goes on."
    )
    pause: bool = Field(default=False, description="Make no Backups; old ones are still removed when their time has come.")
    max_backups: Int32 | None = Field(default=None, description="How many complete Backups to keep; all when 0 or absent.")
    max_reserved_time: Duration | None = Field(
        default=None, description="How long to keep a Backup, for example 168h; wins over maxBackups."
    )
    retention: Retention | None = Field(default=None, description="Finer rules, instead of maxBackups and maxReservedTime.")
    failed_history_limit: Int32 = Field(default=5, description="How many failed Backups to keep.")
    backup_template: BackupSpec = Field(description="The spec of each Backup.")
    log_backup_template: BackupSpec | None = Field(default=None, description="The spec of one log backup that always runs.")
    compact_backup_template: CompactSpec | None = Field(default=None, description="The spec of each compaction of the log.")
    compact_interval: Duration | None = Field(default=None, description="How much of the log one compaction takes, as time.")
    min_compact_start_ts: Timestamp | None = Field(default=None, description="Nothing before this is compacted.")
    storage_class_name: str | None = Field(default=None, description="For exports whose template says nothing.")
    volume_attributes_class_name: str | None = Field(default=None, description="For exports whose template says nothing.")
    storage_size: Quantity = Field(default="", description="For exports whose template says nothing.")
    image_pull_secrets: list[LocalObjectReference] | None = Field(
        default=None, description="When present, instead of those of the templates."
    )
    br: BRConfig | None = Field(default=None, description="Not read; the templates have their own.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="retention",
            cel="!has(self.retention) || !(has(self.maxBackups) || has(self.maxReservedTime))",
            message="retention excludes maxBackups and maxReservedTime; set one style",
            holds=lambda spec: spec.retention is None or (spec.max_backups is None and spec.max_reserved_time is None),
        ),
        Rule(
            field="backupTemplate",
            cel="self.backupTemplate.backupMode != 'log'",
            message="backupTemplate cannot be a log backup; set logBackupTemplate",
            holds=lambda spec: spec.backup_template.backup_mode != "log",
        ),
        Rule(
            field="logBackupTemplate",
            cel="!has(self.logBackupTemplate) || self.logBackupTemplate.backupMode == 'log'",
            message="logBackupTemplate is not a log backup; set its backupMode to log",
            holds=lambda spec: _is_log(spec.log_backup_template),
        ),
    )


def _is_log(template: Any) -> bool:
    return template is None or template.backup_mode == "log"


class Gap(Model):
    """A stretch of time that cannot be restored."""

    from_: Time = Field(alias="from", description="Its beginning.")
    to: Time = Field(description="Its end.")


class RecoveryWindow(Model):
    """To which points in time one can go back."""

    from_: Time | None = Field(default=None, alias="from", description="The earliest.")
    to: Time | None = Field(default=None, description="The latest.")
    gaps: list[Gap] = Field(default_factory=list, max_length=100, description="Stretches in between that cannot be restored.")


class Expiring(Model):
    """A Backup whose end is in sight."""

    name: str = Field(description="The Backup.")
    rule: str = Field(default="", description="The rule that lets it go.")
    until: Time | None = Field(default=None, description="When.")


class RetentionStatus(Model):
    """What retention keeps."""

    kept: Int32 = Field(default=0, description="Complete Backups that stay.")
    oldest: Time | None = Field(default=None, description="How old the data of the oldest of them is.")
    expiring: list[Expiring] = Field(default_factory=list, max_length=100, description="Those that go next, soonest first.")


class AppliedTimetable(Model):
    """Which times lastScheduleTime belongs to."""

    schedule: str = Field(default="", description="spec.schedule.")
    time_zone: str = Field(default="", description="spec.timeZone.")
    since: Time | None = Field(default=None, description="When they were edited; earlier ones are not missed. Absent: never.")


class ClockCheck(Model):
    """How the webhook's clock stood to the API server's when that mattered last."""

    shown: Time | None = Field(default=None, description="What the webhook's clock showed.")
    answer: Time | None = Field(default=None, description="The API server's time, when it was not about the same.")


class BackupScheduleStatus(Status):
    """What the schedule did, and what comes next."""

    last_backup: str = Field(default="", description="Name of the newest Backup.")
    last_backup_time: Time | None = Field(default=None, description="The time that Backup was due.")
    last_schedule_time: Time | None = Field(
        default=None, description="The newest due time that was dealt with: a Backup was made for it, or it was left out."
    )
    next_backup_time: Time | None = Field(default=None, description="When the next one is due.")
    timetable: AppliedTimetable | None = Field(default=None, description="Which times lastScheduleTime belongs to.")
    clock_check: ClockCheck | None = Field(default=None, description="How the webhook's clock stood to the API server's.")
    requested: list[str] = Field(
        default_factory=list, max_length=100, description="What was asked for last, and is not there yet."
    )
    last_success_time: Time | None = Field(default=None, description="When a Backup was last complete.")
    all_backup_clean_time: Time | None = Field(default=None, description="When the last Backup of all was removed.")
    log_backup: str | None = Field(default=None, description="Name of the log backup.")
    log_backup_start_ts: Time | None = Field(default=None, description="Where the log begins.")
    log_truncate_until: str = Field(default="", description="TSO before which the log is no longer needed.")
    last_compact: str = Field(default="", description="Name of the newest compaction.")
    last_compact_progress: Time | None = Field(default=None, description="Up to where the log is compacted.")
    last_compact_execution_ts: Time | None = Field(default=None, description="When the newest compaction was made.")
    recovery_window: RecoveryWindow | None = Field(default=None, description="To which points in time one can go back.")
    retention: RetentionStatus | None = Field(default=None, description="What retention keeps.")


class BackupSchedule(Resource):
    """Backups of a TiDB cluster at certain times, and how long each is kept."""

    PLURAL: ClassVar[str] = "backupschedules"
    SHORT: ClassVar[str] = "bks"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column(name="Schedule", path=".spec.schedule"),
        Column(name="MaxBackups", path=".spec.maxBackups", type="integer"),
        Column(name="MaxReservedTime", path=".spec.maxReservedTime"),
        Column(name="LastBackup", path=".status.lastBackup", priority=1),
        Column(name="LastBackupTime", path=".status.lastBackupTime", type="date", priority=1),
        AGE,
    )

    kind: Literal["BackupSchedule"] = Field(description="BackupSchedule.")
    spec: BackupScheduleSpec = Field(description="When to back up, what, and how long to keep it.")
    status: BackupScheduleStatus | None = Field(default=None, description="What it did, and what comes next.")
