"""Kubernetes objects for tests, as they come over the wire."""

import copy
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.observed import Observed
from crds.contract import names

NOW = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
CREATED = "2026-01-31T01:00:00Z"
UID = "0f5e9c1a-7777-4444-8888-000000000001"
S3 = {"provider": "aws", "region": "us-west-2", "bucket": "bucket", "prefix": "daily", "secretName": "s3-secret"}
EXPORT_SPEC: dict[str, Any] = {"from": {"host": "tidb", "secretName": "tidb-secret"}, "s3": S3}
BR_SPEC: dict[str, Any] = {"br": {"cluster": "basic"}, "s3": S3}
LOG_SPEC: dict[str, Any] = {**BR_SPEC, "backupMode": "log"}


def at(seconds: float, start: datetime = NOW) -> str:
    """*seconds* after *start*, as Kubernetes writes it."""
    return (start + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def parent(kind: str, spec: Mapping[str, Any], *, name: str = "basic", status: Any = None, **meta: Any) -> dict[str, Any]:
    """A CR of *kind*; *meta* goes to its metadata."""
    found = {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "db",
            "uid": UID,
            "generation": 1,
            "creationTimestamp": CREATED,
            **meta,
        },
        "spec": copy.deepcopy(dict(spec)),
    }
    if status is not None:
        found["status"] = status
    return found


def tidb_cluster(*, ready: bool = True, name: str = "basic", namespace: str = "db", **spec: Any) -> dict[str, Any]:
    """A TidbCluster of TiDB Operator v1."""
    return {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "TidbCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"version": "v8.5.0", "tikv": {"baseImage": "pingcap/tikv"}, **spec},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def report(phase: str, **fields: Any) -> str:
    """The text of a manager's report."""
    return json.dumps({"v": 1, "seq": 1, "phase": phase, **fields})


def job(
    name: str,
    *,
    state: str = "active",
    created: str | None = None,
    ended: str | None = None,
    said: str | None = None,
    path: str | None = None,
    labels: Mapping[str, str] | None = None,
    args: list[str] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A Job of the CR. *state*: pending, active, complete or failed; *said*: its report."""
    annotations = {names.REPORT_ANNOTATION: said, names.PATH_ANNOTATION: path}
    created = created or at(0)
    found: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": "db",
            "uid": f"uid-of-{name}",
            "creationTimestamp": created,
            "labels": {names.OWNER_UID_LABEL: UID, "controller-uid": UID} if labels is None else dict(labels),
            "annotations": {key: value for key, value in annotations.items() if value is not None},
        },
        "spec": {"template": {"spec": {"containers": [{"name": "backup", "args": args or []}]}}},
        "status": {"startTime": created, **status},
    }
    if state == "active":
        found["status"] = {"active": 1, "ready": 1, **found["status"]}
    elif state == "pending":
        found["status"] = {"active": 1, "ready": 0, **found["status"]}
    else:
        kind = {"complete": "Complete", "failed": "Failed"}[state]
        reason = {"complete": "CompletionsReached", "failed": "BackoffLimitExceeded"}[state]
        time = ended or at(60)
        found["status"]["conditions"] = [{"type": kind, "status": "True", "reason": reason, "lastTransitionTime": time}]
        if state == "complete":
            found["status"]["completionTime"] = time
    return found


def observed(
    cr: Mapping[str, Any], *jobs: Mapping[str, Any], related: tuple[Mapping[str, Any], ...] = (), finalizing: bool = False
) -> Observed:
    """A request as the hooks see it."""
    if finalizing:
        cr = {**cr, "metadata": {"deletionTimestamp": at(-5), **cr["metadata"]}}
    return Observed(
        parent=cr,
        children={"Job.batch/v1": _by_key(jobs)},
        related=_by_kind(related),
        finalizing=finalizing,
    )


def _key(obj: Mapping[str, Any]) -> str:
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def _by_key(objects: tuple[Mapping[str, Any], ...]) -> dict[str, Mapping[str, Any]]:
    return {_key(obj): obj for obj in objects}


def _by_kind(objects: tuple[Mapping[str, Any], ...]) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for obj in objects:
        found.setdefault(f"{obj['kind']}.{obj['apiVersion']}", {})[_key(obj)] = obj
    return found


def namespace(*, ending: bool = False) -> dict[str, Any]:
    """The namespace ``db``."""
    meta: dict[str, Any] = {"name": "db"}
    if ending:
        meta["deletionTimestamp"] = at(-10)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
