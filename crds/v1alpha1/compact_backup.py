"""The kind CompactBackup: turns a stretch of a log backup into SST files, so that a restore of it is fast."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from crds.v1alpha1.common import BackoffRetryRecord, Column, Quantity, Resource, Rule, RunStatus, Timestamp
from crds.v1alpha1.job import JobSpec

_CEL_SHARDED = "has(self.mode) && self.mode == 'sharded'"


class CompactState(StrEnum):
    """Values of ``status.state``; ``Waiting`` and ``Invalid`` are ours."""

    WAITING = "Waiting"
    INVALID = "Invalid"
    SCHEDULED = "Scheduled"
    PREPARE = "Prepare"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    RETRY_FAILED = "RetryFailed"


class CompactSpec(JobSpec):
    """How to compact; a schedule fills in the times."""

    mode: Literal["", "sharded"] = Field(default="", description="sharded splits the work over the Pods of an indexed Job.")
    shard_count: int | None = Field(default=None, ge=1, le=2**31 - 1, description="For sharded: how many Pods.")
    start_ts: Timestamp = Field(default="", description="Where the stretch begins.")
    end_ts: Timestamp = Field(default="", description="Where it ends; sharded may leave it out.")
    concurrency: int = Field(default=4, ge=1, le=2**31 - 1, description="Compactions at once in each Pod.")
    max_retry_times: int = Field(default=6, ge=0, le=2**31 - 1, description="How often the Job, or one shard, is tried again.")
    tikv_image: str = Field(default="", description="Image with tikv-ctl; the cluster's when empty.")
    physical_file_cache_capacity: Quantity = Field(default="", description="For sharded: cache of each Pod; 0 when empty.")
    name: str = Field(default="", description="Name of the compaction, handed to the tool.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="shardCount",
            cel=f"({_CEL_SHARDED}) == has(self.shardCount)",
            message="shardCount belongs to mode sharded; set both or neither",
            holds=lambda spec: (spec.mode == "sharded") == (spec.shard_count is not None),
        ),
        Rule(
            field="physicalFileCacheCapacity",
            cel="!has(self.physicalFileCacheCapacity) || !self.physicalFileCacheCapacity.startsWith('-')",
            message="physicalFileCacheCapacity is negative; set a size like 10Gi",
            holds=lambda spec: not spec.physical_file_cache_capacity.startswith("-"),
        ),
    )


class CompactBackupSpec(CompactSpec):
    """What to compact, and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="startTs",
            cel="has(self.startTs) && self.startTs != ''",
            message="startTs is missing; set the time at which the stretch begins",
            holds=lambda spec: bool(spec.start_ts),
        ),
        Rule(
            field="endTs",
            cel=f"({_CEL_SHARDED}) || (has(self.endTs) && self.endTs != '')",
            message="endTs is missing; set the time at which the stretch ends (mode sharded may leave it out)",
            holds=lambda spec: spec.mode == "sharded" or bool(spec.end_ts),
        ),
    )


class CompactBackupStatus(RunStatus):
    """What became of the compaction."""

    state: str = Field(default="", description="How far it is.")
    progress: str = Field(default="", description="How far the tool is, in its own words.")
    message: str = Field(default="", description="What went wrong, if anything.")
    end_ts: str = Field(default="", description="Up to where the log is compacted.")
    completed_indexes: str = Field(default="", description="For sharded: shards done, as in the Job's status.")
    failed_indexes: str = Field(default="", description="For sharded: shards given up.")
    backoff_retry_status: list[BackoffRetryRecord] = Field(default_factory=list, description="Failures and retries.")


class CompactBackup(Resource):
    """A compaction of a stretch of a log backup."""

    PLURAL: ClassVar[str] = "compactbackups"
    SHORT: ClassVar[str] = "cpbk"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column(name="Status", path=".status.state"),
        Column(name="EndTs", path=".status.endTs"),
        Column(name="Progress", path=".status.progress"),
        Column(name="Message", path=".status.message"),
    )

    kind: Literal["CompactBackup"] = Field(description="CompactBackup.")
    spec: CompactBackupSpec = Field(description="What to compact, and how.")
    status: CompactBackupStatus | None = Field(default=None, description="What became of it.")
