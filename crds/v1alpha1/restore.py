"""The kind Restore: a snapshot or a point in time by br, or an import by tidb-lightning."""

from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import Field

from crds.v1alpha1.common import (
    AGE,
    BackoffRetryRecord,
    BROperation,
    Column,
    Duration,
    Int32,
    Model,
    Progress,
    Resource,
    Rule,
    RunStatus,
    TiDBAccess,
    Time,
    Timestamp,
)
from crds.v1alpha1.job import DatabaseJobSpec, access_rule
from crds.v1alpha1.storage import StorageProvider


class RestorePhase(StrEnum):
    """Values of ``status.phase`` and condition types. ``Waiting`` and ``Stalled`` are ours, the rest TiDB Operator's."""

    WAITING = "Waiting"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    RETRY_FAILED = "RetryFailed"
    INVALID = "Invalid"
    STALLED = "Stalled"
    PRUNE_SCHEDULED = "PruneScheduled"
    PRUNE_RUNNING = "PruneRunning"
    PRUNE_COMPLETE = "PruneComplete"
    PRUNE_FAILED = "PruneFailed"
    SNAPSHOT_RESTORE = "SnapshotRestore"
    LOG_RESTORE = "LogRestore"
    SNAPSHOT_RESTORED = "SnapshotRestored"
    """A condition alone, never a phase."""
    COMPACT_SETTLED = "CompactSettled"
    """A condition alone, never a phase."""
    VOLUME_COMPLETE = "VolumeComplete"
    CLEAN_VOLUME_COMPLETE = "CleanVolumeComplete"
    WARM_UP_STARTED = "WarmUpStarted"
    WARM_UP_COMPLETE = "WarmUpComplete"
    TIKV_COMPLETE = "TikvComplete"
    DATA_COMPLETE = "DataComplete"


class ReplicationConfig(Model):
    """Restore of a log that a sharded CompactBackup compacts meanwhile."""

    compact_backup_name: str = Field(description="The CompactBackup, in the same namespace.")
    wait_timeout: Duration = Field(default="", description="Wait for it no longer than this; for ever when empty.")


def _full_backup_given(spec: Any) -> bool:
    base = spec.pitr_full_backup_storage_provider
    return base is not None and any((base.s3, base.gcs, base.azblob, base.local))


_CEL_FULL_BACKUP = (
    "has(self.pitrFullBackupStorageProvider) && (has(self.pitrFullBackupStorageProvider.s3)"
    " || has(self.pitrFullBackupStorageProvider.gcs) || has(self.pitrFullBackupStorageProvider.azblob)"
    " || has(self.pitrFullBackupStorageProvider.local))"
)
_CEL_LOG_START = "has(self.logRestoreStartTs) && self.logRestoreStartTs != ''"
_CEL_PITR = "has(self.restoreMode) && self.restoreMode == 'pitr'"


class RestoreSpec(DatabaseJobSpec):
    """What to restore, how, and where from."""

    to: TiDBAccess | None = Field(default=None, description="The TiDB server; an import needs it.")
    restore_mode: Literal["snapshot", "pitr", "volume-snapshot"] = Field(
        default="snapshot", description="snapshot or pitr; volume-snapshot is accepted and answered Invalid."
    )
    pitr_restored_ts: Timestamp = Field(default="", description="Point in time to restore; the newest possible when empty.")
    log_restore_start_ts: Timestamp = Field(
        default="", description="For pitr into a cluster restored already: where the log begins."
    )
    pitr_full_backup_storage_provider: StorageProvider | None = Field(
        default=None, description="For pitr: where the snapshot backup lies that the log continues."
    )
    users: Literal["create", "update"] | None = Field(
        default=None,
        description="For an import: make the users and roles of the export, with their grants. create keeps those that the "
        "target has with another definition, update gives them the exported one. None are made when absent.",
    )
    prune: Literal["afterFailed"] | None = Field(default=None, description="Remove what a failed restore left behind.")
    backoff_limit: Int32 = Field(default=0, description="backoffLimit of the Job of a restore by br.")
    replication_config: ReplicationConfig | None = Field(default=None, description="For pitr beside a compaction.")
    federal_volume_restore_phase: Literal["", "restore-volume", "restore-data", "restore-finish"] = Field(
        default="", description="Of volume-snapshot, which is not served."
    )
    volume_az: str = Field(default="", alias="volumeAZ", description="Of volume-snapshot, which is not served.")
    warmup: Literal["", "sync", "async"] = Field(default="", description="Of volume-snapshot, which is not served.")
    warmup_image: str = Field(default="", description="Of volume-snapshot, which is not served.")
    warmup_strategy: Literal["fio", "hybrid", "fsr", "check-wal-only"] = Field(
        default="hybrid", description="Of volume-snapshot, which is not served."
    )
    tolerate_single_tikv_outage: bool = Field(
        default=False, alias="tolerateSingleTiKVOutage", description="Of volume-snapshot, which is not served."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        access_rule("to", lambda spec: spec.to),
        Rule(
            field="logRestoreStartTs",
            cel=f"!({_CEL_PITR}) || !({_CEL_LOG_START}) || !({_CEL_FULL_BACKUP})",
            message="logRestoreStartTs and pitrFullBackupStorageProvider exclude each other; set one of them",
            holds=lambda spec: spec.restore_mode != "pitr" or not (spec.log_restore_start_ts and _full_backup_given(spec)),
        ),
        Rule(
            field="restoreMode",
            cel=f"!({_CEL_PITR}) || ({_CEL_LOG_START}) || ({_CEL_FULL_BACKUP})",
            message="restoreMode pitr needs a start; set pitrFullBackupStorageProvider or logRestoreStartTs",
            holds=lambda spec: spec.restore_mode != "pitr" or bool(spec.log_restore_start_ts) or _full_backup_given(spec),
        ),
        Rule(
            field="replicationConfig",
            cel=f"!has(self.replicationConfig) || ({_CEL_PITR})",
            message="replicationConfig is only for pitr; set restoreMode to pitr or remove it",
            holds=lambda spec: spec.replication_config is None or spec.restore_mode == "pitr",
        ),
        Rule(
            field="users",
            cel="!has(self.users) || !has(self.br)",
            message="users is only for the import of an export; remove it, br brings users with the system tables",
            holds=lambda spec: spec.users is None or spec.br is None,
        ),
    )


class RestoreStatus(RunStatus):
    """What became of the Restore."""

    phase: str = Field(default="", description="Last condition type that is a phase.")
    progress: str = Field(default="", description="How far the run is, for people.")
    eta: Time | None = Field(default=None, description="When the run should end.")
    backup_path: str = Field(default="", description="Where the data is read from.")
    time_started: Time | None = Field(default=None, description="When the run began.", json_schema_extra={"nullable": True})
    time_completed: Time | None = Field(default=None, description="When it ended.", json_schema_extra={"nullable": True})
    time_taken: str = Field(default="", description="How long it took.")
    commit_ts: str = Field(default="", description="TSO of the restored data.")
    left_out: list[str] = Field(
        default_factory=list,
        description="What an import did not bring: views and users that the target keeps as they are, a line each.",
        json_schema_extra={"nullable": True},
    )
    progresses: list[Progress] = Field(
        default_factory=list, description="How far each step is.", json_schema_extra={"nullable": True}
    )
    br_operations: list[BROperation] = Field(
        default_factory=list, description="Last runs of br, newest first.", json_schema_extra={"nullable": True}
    )
    replication_step: Literal["", "snapshot-restore", "log-restore"] = Field(
        default="", description="Which of the two restores of a replication runs."
    )
    backoff_retry_status: list[BackoffRetryRecord] = Field(default_factory=list, description="Failures and retries.")


class Restore(Resource):
    """A restore into a TiDB cluster: a snapshot or a point in time by br, or an import by tidb-lightning."""

    PLURAL: ClassVar[str] = "restores"
    SHORT: ClassVar[str] = "rt"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column(name="Status", path=".status.phase"),
        Column(name="Progress", path=".status.progress"),
        Column(name="Started", path=".status.timeStarted", type="date", priority=1),
        Column(name="Completed", path=".status.timeCompleted", type="date", priority=1),
        Column(name="TimeTaken", path=".status.timeTaken"),
        Column(name="CommitTS", path=".status.commitTs"),
        AGE,
    )

    kind: Literal["Restore"] = Field(description="Restore.")
    spec: RestoreSpec = Field(description="What to restore, how, and where from.")
    status: RestoreStatus | None = Field(default=None, description="What became of it.")
