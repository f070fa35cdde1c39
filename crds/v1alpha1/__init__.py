"""The version v1alpha1 of the contract: one module a kind, what they share, and the check of a spec."""

from collections.abc import Mapping
from typing import Final

from crds.v1alpha1.backup import Backup
from crds.v1alpha1.backup_schedule import BackupSchedule
from crds.v1alpha1.common import Resource
from crds.v1alpha1.compact_backup import CompactBackup
from crds.v1alpha1.problems import SpecProblem, spec_problems
from crds.v1alpha1.restore import Restore

KINDS: Final[Mapping[str, type[Resource]]] = {
    "Backup": Backup,
    "Restore": Restore,
    "BackupSchedule": BackupSchedule,
    "CompactBackup": CompactBackup,
}

__all__ = ["KINDS", "Backup", "BackupSchedule", "CompactBackup", "Resource", "Restore", "SpecProblem", "spec_problems"]
