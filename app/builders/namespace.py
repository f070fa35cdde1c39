"""The account that Jobs run as, and its rights, in a namespace that asked for backups (DESIGN: least privilege).

The Role has a name of its own: TiDB Operator's installation guide makes a Role ``tidb-backup-manager`` without the right to
report, and an object that exists already is not replaced.
"""

from typing import Any, Final

from app.domain.config import Config
from crds.contract import names

ROLE: Final = "tidb-backup-manager-reports"
"""Name of the Role and of its RoleBinding; bind further accounts to it to run Jobs as them."""
_LABELS: Final = {names.NAME_LABEL: names.SERVICE_ACCOUNT, names.MANAGED_BY_LABEL: "tidb-backup-namespaces"}
_RBAC: Final = "rbac.authorization.k8s.io"

RULES: Final = (
    # Its own Job, where it reports; a ValidatingAdmissionPolicy narrows the patch to that.
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "patch"]},
    # Tells that policy whom to narrow: whoever holds this Role, whatever the account is called.
    {"apiGroups": [names.REPORT_GROUP], "resources": ["jobreports"], "verbs": ["report"]},
    # What it was asked to do.
    {
        "apiGroups": [names.GROUP],
        "resources": ["backups", "compactbackups", "restores"],
        "verbs": ["get"],
    },
    # Whether a Restore or a compaction reads what it is about to delete.
    {"apiGroups": [names.GROUP], "resources": ["compactbackups", "restores"], "verbs": ["list"]},
    # Whether somebody still writes what it is about to delete.
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    # One BR task per TiDB cluster at a time.
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"]},
)
"""Everything that a manager may do in its namespace."""


def _object(api_version: str, kind: str, namespace: str, name: str, **body: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "labels": dict(_LABELS)}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **body}


def build_rights(namespace: str, config: Config) -> list[dict[str, Any]]:
    """ServiceAccount, Role and RoleBinding of *namespace*."""
    account = config.service_account
    return [
        _object("v1", "ServiceAccount", namespace, account),
        _object(f"{_RBAC}/v1", "Role", namespace, ROLE, rules=[dict(rule) for rule in RULES]),
        _object(
            f"{_RBAC}/v1",
            "RoleBinding",
            namespace,
            ROLE,
            roleRef={"apiGroup": _RBAC, "kind": "Role", "name": ROLE},
            subjects=[{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        ),
    ]
