"""Labels and annotations of Jobs and their Pods: TiDB Operator's own, then what the CR carries, filtered.

A CR's labels and annotations go to its Jobs because clouds and meshes read them there (``iam.amazonaws.com/role``). Bookkeeping
of tools does not: a copied ``controller-uid`` makes Metacontroller refuse the Job, a copied Argo CD label makes Argo CD
prune it, and a copied report would be believed.
"""

from typing import Final

from app.domain.job.observed import JobIntent, Purpose
from app.domain.observed import Observed, metadata
from crds.contract import names
from crds.contract.names import Component

_FOREIGN_PREFIXES: Final = (
    "kubectl.kubernetes.io/",
    "metacontroller.k8s.io/",
    "metacontroller.io/",
    "batch.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "helm.sh/",
)
_FOREIGN_KEYS: Final = frozenset(
    {
        names.CONTROLLER_UID_LABEL,
        "job-name",
        names.REPORT_ANNOTATION,
        names.PATH_ANNOTATION,
        names.SPEC_HASH_ANNOTATION,
        names.SLOT_ANNOTATION,
        names.IMPORTED_ANNOTATION,
    }
)
_OPERATORS: Final = {
    Component.BACKUP: ("backup", "backup-operator", names.BACKUP_LABEL),
    Component.CLEAN: ("backup", "backup-operator", names.BACKUP_LABEL),
    Component.RESTORE: ("restore", "restore-operator", names.RESTORE_LABEL),
    Component.COMPACT: ("compactbackup", "compact-backup-operator", names.COMPACT_LABEL),
}
COMPONENTS: Final = {
    Purpose.EXPORT: Component.BACKUP,
    Purpose.BACKUP: Component.BACKUP,
    Purpose.LOG: Component.BACKUP,
    Purpose.WATCH: Component.BACKUP,
    Purpose.CLEAN: Component.CLEAN,
    Purpose.IMPORT: Component.RESTORE,
    Purpose.RESTORE: Component.RESTORE,
    Purpose.PRUNE: Component.RESTORE,
    Purpose.COMPACT: Component.COMPACT,
}


def _component(observed: Observed, intent: JobIntent) -> Component:
    if intent.purpose is not Purpose.GC_LIFE_TIME:
        return COMPONENTS[intent.purpose]
    # It writes no data: of a Backup it counts as what may run beside nothing that writes.
    return Component.RESTORE if observed.parent.get("kind") == "Restore" else Component.CLEAN


def own(key: str) -> bool:
    """Whether the label or annotation *key* of a CR may be copied.

    >>> own("iam.amazonaws.com/role"), own("controller-uid"), own("kubectl.kubernetes.io/last-applied-configuration")
    (True, False, False)
    """
    return key not in _FOREIGN_KEYS and not key.startswith(_FOREIGN_PREFIXES)


def labels(observed: Observed, intent: JobIntent) -> dict[str, str]:
    """Labels of the Job and of its Pods; the CR's only add keys."""
    component = _component(observed, intent)
    name, operator, key = _OPERATORS[component]
    theirs = {key: value for key, value in (metadata(observed.parent).get("labels") or {}).items() if own(key)}
    step = {names.REPLICATION_STEP_LABEL: intent.command, names.RESTORE_UID_LABEL: observed.uid}
    return {
        **theirs,
        **(step if intent.purpose is Purpose.RESTORE and intent.command else {}),
        names.NAME_LABEL: name,
        names.MANAGED_BY_LABEL: operator,
        names.INSTANCE_LABEL: theirs.get(names.INSTANCE_LABEL) or names.fit(observed.name),
        names.COMPONENT_LABEL: str(component),
        key: names.fit(observed.name),
        names.OWNER_UID_LABEL: observed.uid,
    }


def annotations(observed: Observed, intent: JobIntent) -> dict[str, str]:
    """Annotations of the Job: the CR's, and where a run writes."""
    theirs = {key: value for key, value in (metadata(observed.parent).get("annotations") or {}).items() if own(key)}
    writes = intent.path and intent.purpose is not Purpose.CLEAN
    return {**theirs, names.PATH_ANNOTATION: intent.path} if writes else theirs
