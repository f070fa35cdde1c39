"""The kind Backup: a snapshot by br, an export by dumpling, or a log backup."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from crds.v1alpha1.common import (
    AGE,
    BackoffRetryRecord,
    BROperation,
    Column,
    Condition,
    Int32,
    Int64,
    Model,
    Progress,
    Resource,
    Rule,
    RunStatus,
    TiDBAccess,
    Time,
    Timestamp,
    UInt32,
)
from crds.v1alpha1.job import DatabaseJobSpec, access_rule

LogSubcommand = Literal["log-start", "log-stop", "log-pause"]


class BackupPhase(StrEnum):
    """Values of ``status.phase`` and condition types. ``Waiting`` and ``Stalled`` are ours, the rest TiDB Operator's."""

    WAITING = "Waiting"
    SCHEDULED = "Scheduled"
    PREPARE = "Prepare"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    RETRY_FAILED = "RetryFailed"
    INVALID = "Invalid"
    RESTART = "Restart"
    CLEAN = "Clean"
    CLEAN_FAILED = "CleanFailed"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    REPEATABLE = "Repeatable"
    STALLED = "Stalled"
    VOLUME_INITIALIZED = "VolumeBackupInitialized"
    VOLUME_INITIALIZE_FAILED = "VolumeBackupInitializeFailed"
    VOLUME_SNAPSHOTS_CREATED = "VolumeBackupSnapshotsCreated"
    VOLUME_INITIALIZE_COMPLETE = "VolumeBackupInitializeComplete"
    VOLUME_COMPLETE = "VolumeBackupComplete"
    VOLUME_FAILED = "VolumeBackupFailed"


class CleanOption(Model):
    """How data is deleted."""

    page_size: Int64 | None = Field(default=None, description="Objects a listing asks for at once; 10000 when absent or 0.")
    retry_count: int = Field(default=5, ge=-(2**31), le=2**31 - 1, description="Attempts; 5 when 0 or less.")
    backoff_enabled: bool = Field(default=False, description="Wait between attempts.")
    disable_batch_concurrency: bool = Field(default=False, description="Delete object by object instead of in batches.")
    batch_concurrency: UInt32 | None = Field(default=None, description="Batches at once; 40 when absent or 0.")
    routine_concurrency: UInt32 | None = Field(default=None, description="Single deletions at once; 100 when absent or 0.")
    snapshots_delete_ratio: float = Field(default=1, ge=0, description="Of volume-snapshot, which is not served.")


class DumplingConfig(Model):
    """Settings of an export."""

    options: list[str] = Field(default_factory=list, description="Further flags for dumpling.")
    table_filter: list[str] = Field(default_factory=list, description="Deprecated; set spec.tableFilter.")
    users: bool = Field(
        default=False,
        description="Export users and roles too, with grants and password hashes, as SQL beside the data. "
        "The user in from needs SELECT on mysql.*.",
    )


class BackupSpec(DatabaseJobSpec):
    """What to back up, how, and where to."""

    from_: TiDBAccess | None = Field(default=None, alias="from", description="The TiDB server; an export needs it.")
    backup_mode: Literal["snapshot", "log", "volume-snapshot"] = Field(
        default="snapshot", description="snapshot or log; volume-snapshot is accepted and answered Invalid."
    )
    commit_ts: Timestamp = Field(default="", description="Snapshot to take, or where a log backup starts; now when empty.")
    log_subcommand: LogSubcommand | None = Field(default=None, description="What a log backup is to do; log-start when absent.")
    log_stop: bool | None = Field(default=None, description="Deprecated; set logSubcommand to log-stop.")
    log_truncate_until: Timestamp = Field(default="", description="Delete a log backup's data before this time.")
    calc_size_level: str = Field(default="all", description="Of volume-snapshot, which is not served.")
    federal_volume_backup_phase: Literal["", "initialize", "execute", "teardown"] = Field(
        default="", description="Of volume-snapshot, which is not served."
    )
    resume_gc_schedule: bool = Field(default=False, description="Of volume-snapshot, which is not served.")
    volume_backup_init_job_max_active_seconds: Int32 = Field(
        default=600, description="Of volume-snapshot, which is not served."
    )
    dumpling: DumplingConfig | None = Field(default=None, description="Settings of an export.")
    clean_policy: Literal["Retain", "OnFailure", "Delete"] = Field(
        default="Retain",
        description="What becomes of the data when this Backup is deleted; OnFailure: only a failed one's goes.",
    )
    clean_option: CleanOption | None = Field(default=None, description="How data is deleted.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        access_rule("from", lambda spec: spec.from_),
        Rule(
            field="logStop",
            cel="!has(self.logSubcommand) || !has(self.logStop)",
            message="logStop is the old way to say logSubcommand: log-stop; set logSubcommand alone",
            holds=lambda spec: spec.log_subcommand is None or spec.log_stop is None,
        ),
    )


class LogSubcommandStatus(Model):
    """What one sub-command of a log backup did last."""

    command: str = Field(default="", description="The sub-command.")
    time_started: Time | None = Field(default=None, description="When it began.", json_schema_extra={"nullable": True})
    time_completed: Time | None = Field(default=None, description="When it ended.", json_schema_extra={"nullable": True})
    log_truncating_until: str = Field(default="", description="Target of a truncation.")
    phase: str = Field(default="", description="Its last condition type.")
    conditions: list[Condition] = Field(
        default_factory=list, description="What is known of it.", json_schema_extra={"nullable": True}
    )


class LogTaskStatus(Model):
    """A log backup's task as the cluster itself sees it."""

    state: str = Field(default="", description="running, paused, errorPaused, absent or unknown.")
    since: Time | None = Field(default=None, description="First report in a row that says so.")
    observed_at: Time | None = Field(default=None, description="Last report that says so.")
    lag_seconds: Int64 | None = Field(default=None, description="How far the log is behind.")
    pause_reason: str = Field(default="", description="Why it is paused.")
    last_error: str = Field(default="", description="Last error of a TiKV store.")


class CleanStatus(Model):
    """How the deletion of the data goes."""

    attempt: Int32 | None = Field(default=None, description="Number of the attempt, from 1.")
    deleted: Int64 | None = Field(default=None, description="Objects deleted.")
    failed: Int64 | None = Field(default=None, description="Objects that could not be deleted.")
    left: Int64 | None = Field(default=None, description="Objects still there.")
    deferred_until: Time | None = Field(
        default=None, description="What is locked, or being read by a Restore, is tried again after this time."
    )
    deferrals: Int32 | None = Field(default=None, description="Attempts that were put off: they do not count as failures.")
    next_attempt_at: Time | None = Field(default=None, description="When another attempt follows; absent when none does.")
    message: str = Field(default="", description="What is in the way, and the next step.")


class BackupStatus(RunStatus):
    """What became of the Backup."""

    phase: str = Field(default="", description="Last condition type.")
    progress: str = Field(default="", description="How far the run is, for people.")
    eta: Time | None = Field(default=None, description="When the run should end.")
    backup_path: str = Field(default="", description="Where the data lies; known before the first byte is written.")
    time_started: Time | None = Field(default=None, description="When the run began.", json_schema_extra={"nullable": True})
    time_completed: Time | None = Field(default=None, description="When it ended.", json_schema_extra={"nullable": True})
    time_taken: str = Field(default="", description="How long it took.")
    time_synced: Time | None = Field(
        default=None, description="When the cluster was last asked about a log backup.", json_schema_extra={"nullable": True}
    )
    backup_size: Int64 | None = Field(default=None, description="Bytes of data.")
    backup_size_readable: str = Field(default="", description="The same for people.")
    left_out: list[str] = Field(
        default_factory=list,
        description="What the cluster has and an export has not, a line for each kind.",
        json_schema_extra={"nullable": True},
    )
    incremental_backup_size: Int64 | None = Field(default=None, description="Of volume-snapshot, which is not served.")
    incremental_backup_size_readable: str = Field(default="", description="Of volume-snapshot, which is not served.")
    commit_ts: str = Field(default="", description="TSO of the snapshot, or where the log backup starts.")
    log_checkpoint_ts: str = Field(default="", description="TSO up to which the log is backed up.")
    log_success_truncate_until: str = Field(default="", description="Up to where the log was last truncated.")
    log_task: LogTaskStatus | None = Field(default=None, description="The log backup's task as the cluster sees it.")
    log_sub_command_statuses: dict[str, LogSubcommandStatus] = Field(
        default_factory=dict, description="What each sub-command did last."
    )
    progresses: list[Progress] = Field(
        default_factory=list, description="How far each step is.", json_schema_extra={"nullable": True}
    )
    br_operations: list[BROperation] = Field(
        default_factory=list, description="Last runs of br, newest first.", json_schema_extra={"nullable": True}
    )
    backoff_retry_status: list[BackoffRetryRecord] = Field(default_factory=list, description="Failures and retries.")
    clean_status: CleanStatus | None = Field(default=None, description="How the deletion of the data goes.")


class Backup(Resource):
    """A backup of a TiDB cluster: a snapshot by br, an export by dumpling, or a log backup."""

    PLURAL: ClassVar[str] = "backups"
    SHORT: ClassVar[str] = "bk"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column(name="Type", path=".spec.backupType"),
        Column(name="Mode", path=".spec.backupMode"),
        Column(name="Status", path=".status.phase"),
        Column(name="Progress", path=".status.progress"),
        Column(name="BackupPath", path=".status.backupPath"),
        Column(name="BackupSize", path=".status.backupSizeReadable"),
        Column(name="IncrementalBackupSize", path=".status.incrementalBackupSizeReadable", priority=10),
        Column(name="CommitTS", path=".status.commitTs"),
        Column(name="LogTruncateUntil", path=".status.logSuccessTruncateUntil"),
        Column(name="Started", path=".status.timeStarted", type="date", priority=1),
        Column(name="Completed", path=".status.timeCompleted", type="date", priority=1),
        Column(name="TimeTaken", path=".status.timeTaken"),
        AGE,
    )

    kind: Literal["Backup"] = Field(description="Backup.")
    spec: BackupSpec = Field(description="What to back up, how, and where to.")
    status: BackupStatus | None = Field(default=None, description="What became of it.")
