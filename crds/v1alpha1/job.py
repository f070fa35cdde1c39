"""What the specs share that describe a Job: its Pod, its images, and the database it works on."""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field

from crds.v1alpha1.common import (
    Affinity,
    BackoffRetryPolicy,
    BackupType,
    BRConfig,
    Duration,
    EnvVar,
    LocalObjectReference,
    PodSecurityContext,
    Quantity,
    ResourceRequirements,
    Rule,
    Toleration,
    Volume,
    VolumeMount,
)
from crds.v1alpha1.storage import StorageProvider


class JobSpec(StorageProvider):
    """How the Pod of a run looks, in Backup, Restore and CompactBackup."""

    br: BRConfig | None = Field(default=None, description="Use br; without it dumpling exports and tidb-lightning imports.")
    resources: ResourceRequirements | None = Field(default=None, description="Of every container of the Pod.")
    env: list[EnvVar] = Field(
        default_factory=list, repr=False, description="Further environment; an entry replaces a built-in one of its name."
    )
    tolerations: list[Toleration] = Field(default_factory=list, description="Of the Pod.")
    affinity: Affinity | None = Field(default=None, description="Of the Pod.")
    tool_image: str = Field(
        default="", description="Image with the tool; for br without a tag, the cluster's version is appended."
    )
    image_pull_secrets: list[LocalObjectReference] = Field(default_factory=list, description="Of the Pod.")
    use_kms: bool = Field(default=False, alias="useKMS", description="The password is encrypted with a KMS.")
    service_account: str = Field(default="", description="Of the Pod; tidb-backup-manager when empty.")
    automount_service_account_token: bool | None = Field(
        default=None, description="Of the Pod; false mounts a projected token for the main container alone."
    )
    pod_security_context: PodSecurityContext | None = Field(default=None, description="Of the Pod.")
    priority_class_name: str = Field(default="", description="Of the Pod.")
    additional_volumes: list[Volume] = Field(default_factory=list, description="Further volumes of the Pod.")
    additional_volume_mounts: list[VolumeMount] = Field(
        default_factory=list, description="Further mounts of the main container."
    )


class DatabaseJobSpec(JobSpec):
    """What Backup and Restore share beyond the Pod."""

    backup_type: BackupType = Field(default="", description="What br works on: full (also when empty), db or table.")
    table_filter: list[str] = Field(default_factory=list, description="Tables to take, as patterns like db.table or !db.*.")
    tikv_gc_life_time: Duration | None = Field(
        default=None, alias="tikvGCLifeTime", description="GC life time while the run lasts, if longer; 72h when absent."
    )
    backoff_retry_policy: BackoffRetryPolicy = Field(
        default_factory=BackoffRetryPolicy,
        description="How a failed run is repeated.",
        json_schema_extra={"default": {}},
    )
    storage_class_name: str | None = Field(
        default=None, description="Storage class of upstream's volume for exports; none is needed here."
    )
    volume_attributes_class_name: str | None = Field(default=None, description="As storageClassName: not needed here.")
    storage_size: Quantity = Field(default="", description="Size of upstream's volume for exports; none is needed here.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="br",
            cel="!has(self.br) || !has(self.backupType) || self.backupType != 'db' || (has(self.br.db) && self.br.db != '')",
            message="backupType db needs a database; set br.db",
            holds=lambda spec: not _lacks(spec, "db", "db"),
        ),
        Rule(
            field="br",
            cel="!has(self.br) || !has(self.backupType) || self.backupType != 'table' || (has(self.br.db) && self.br.db != ''"
            " && has(self.br.table) && self.br.table != '')",
            message="backupType table needs a table; set br.db and br.table",
            holds=lambda spec: not (_lacks(spec, "table", "db") or _lacks(spec, "table", "table")),
        ),
    )


def _lacks(spec: Any, backup_type: str, part: str) -> bool:
    return spec.br is not None and spec.backup_type == backup_type and not getattr(spec.br, part)


def access_rule(field: str, access: Callable[[Any], object]) -> Rule:
    """The rule that a run without br says, in *field* (read by *access*), which TiDB server it talks to."""
    return Rule(
        field=field,
        cel=f"has(self.br) || has(self.{field})",
        message=f"no TiDB server to talk to; set {field}.host and {field}.secretName, or br to use br",
        holds=lambda spec: spec.br is not None or access(spec) is not None,
    )
