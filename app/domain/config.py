"""What an administrator decides for all CRs, as the decisions see it: plain values, read once from the environment by
:mod:`app.settings` (the domain itself looks at no environment)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crds.contract import names

DAY: Final = 86_400


class ClusterKind(StrEnum):
    """A kind of cluster object that a CR may name. Metacontroller refuses rules about CRDs that are not installed, so which
    ones are looked up is a setting."""

    TIDB_CLUSTER = "tidbclusters.pingcap.com/v1alpha1"
    """TiDB Operator v1."""
    CLUSTER = "clusters.core.pingcap.com/v1alpha1"
    """TiDB Operator v2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings that decisions and builders depend on. Seconds unless said otherwise."""

    manager_image: str = "tidb-backup/backup-manager:latest"
    """Image of the Job's own container."""
    image_pull_policy: str = "IfNotPresent"
    """Of the manager's container."""
    service_account: str = names.SERVICE_ACCOUNT
    """Account of the Job's Pod when the CR names none."""
    time_zone: str = "UTC"
    """``TZ`` of a manager's container."""
    cluster_kinds: tuple[ClusterKind, ...] = (ClusterKind.TIDB_CLUSTER,)
    """Cluster objects that are looked up; empty: none is, and no CR waits for its cluster."""
    job_ttl: int = 3 * DAY
    """``ttlSecondsAfterFinished`` of every Job but a Restore's, which the hook deletes itself after that time."""
    start_deadline: int = 10 * 60
    """A Job without a ready Pod for this long gets condition ``Stalled``."""
    resync: int = 60
    """Longest wait before a CR that waits for something outside Kubernetes' events is looked at again."""
    clean_attempts: int = 5
    """Clean Jobs tried before condition ``CleanFailed`` asks for a human."""
    clean_retry_delay: int = 60
    """Wait before the second clean attempt; doubles with each further one."""
    max_deletions: int = 50
    """Backups that retention may delete in one pass of one schedule."""
