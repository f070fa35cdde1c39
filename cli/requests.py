"""Objects as a hook is sent them: the CR, its children, what is related to it. And the hook's answer, by its own code."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Final

import orjson

from app.domain import cluster as clusters
from app.domain.config import ClusterKind, Config
from app.domain.decision import Decision
from app.domain.observed import Observed, controller_of, metadata
from app.domain.schedule.children import BACKUPS, COMPACTIONS
from app.domain.times import stamp
from app.hooks import backup, backupschedule, compactbackup, restore
from app.hooks import request as wire
from app.hooks import response as answer
from app.hooks.pieces import Body
from app.hooks.resource import Kind
from backup_manager.errors import UsageError
from cli.documents import Object, key_of
from crds.contract import names

HOOKS: Final[Mapping[str, Kind[Any]]] = {
    "Backup": backup.KIND,
    "Restore": restore.KIND,
    "BackupSchedule": backupschedule.KIND,
    "CompactBackup": compactbackup.KIND,
}
CHILD_KINDS: Final[Mapping[str, Sequence[str]]] = {
    "Backup": ("Job.batch/v1",),
    "Restore": ("Job.batch/v1",),
    "BackupSchedule": (BACKUPS, COMPACTIONS),
    "CompactBackup": ("Job.batch/v1",),
}
_LABELS: Final = {
    "Backup": names.BACKUP_LABEL,
    "Restore": names.RESTORE_LABEL,
    "BackupSchedule": names.SCHEDULE_LABEL,
    "CompactBackup": names.COMPACT_LABEL,
}
CLUSTERS: Final = frozenset({"TidbCluster", "Cluster"})


@cache
def configuration() -> Config:
    """The settings that the webhook would read from this environment (``TIDB_BACKUP_...``). Raises UsageError."""
    from pydantic import ValidationError  # noqa: PLC0415

    from app.settings import Settings  # noqa: PLC0415  (only the commands that ask a hook need it)

    try:
        return Settings().config()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"TIDB_BACKUP_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise UsageError(f"{name}: {first['msg']}", hint="Correct or unset the variable.") from None


def completed(parent: Object) -> dict[str, Any]:
    """*parent* with what an API server would have given it: a uid (made up, always the same) and a generation."""
    kind, namespace, name = key_of(parent)
    made_up = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{names.API_VERSION}/{kind}/{namespace}/{name}"))
    meta = {"uid": made_up, "generation": 1, **metadata(parent)}
    return {**parent, "apiVersion": parent.get("apiVersion") or names.API_VERSION, "metadata": meta}


def is_child(parent: Object, child: Object) -> bool:
    """Whether *child* is *parent*'s: by its owner reference, or where it has none, by the label that the hooks set."""
    mine, theirs = metadata(parent), metadata(child)
    if theirs.get("namespace") != mine.get("namespace"):
        return False
    owners = [reference for reference in theirs.get("ownerReferences") or () if reference.get("controller")]
    if owners and mine.get("uid"):
        return any(reference.get("uid") == mine["uid"] for reference in owners)
    label = _LABELS[str(parent.get("kind"))]
    return (theirs.get("labels") or {}).get(label) == names.fit(str(mine.get("name")))


def children_of(parent: Object, objects: Iterable[Object]) -> list[Object]:
    """The children of *parent* among *objects*, each with the owner reference that Metacontroller would give it."""
    kinds = {kind.partition(".")[0] for kind in CHILD_KINDS[str(parent.get("kind"))]}
    return [owned(parent, item) for item in objects if item.get("kind") in kinds and is_child(parent, item)]


def owned(parent: Object, child: Object) -> Object:
    """*child* with an owner reference to *parent*, unless one controls it already."""
    meta, mine = metadata(child), metadata(parent)
    if controller_of(meta):
        return child
    reference = {key: parent.get(key) for key in ("apiVersion", "kind")} | {"name": mine.get("name"), "uid": mine.get("uid")}
    owners = [*(meta.get("ownerReferences") or ()), {**reference, "controller": True, "blockOwnerDeletion": True}]
    return {**child, "metadata": {**meta, "ownerReferences": owners}}


def _grouped(objects: Iterable[Object]) -> dict[str, dict[str, Object]]:
    groups: dict[str, dict[str, Object]] = {}
    for item in objects:
        kind, namespace, name = key_of(item)
        key = f"{namespace}/{name}" if namespace and kind != "Namespace" else name
        groups.setdefault(f"{kind}.{item.get('apiVersion')}", {})[key] = item
    return groups


def _matches(rule: Mapping[str, Any], item: Object) -> bool:
    meta = metadata(item)
    wanted = (rule.get("labelSelector") or {}).get("matchLabels") or {}
    labels = meta.get("labels") or {}
    return (
        f"{str(item.get('kind')).lower()}s" == rule.get("resource")
        and item.get("apiVersion") == rule.get("apiVersion")
        and (not rule.get("namespace") or meta.get("namespace") == rule["namespace"])
        and (not rule.get("names") or meta.get("name") in rule["names"])
        and all(labels.get(key) == value for key, value in wanted.items())
    )


def request(parent: Object, objects: Sequence[Object], config: Config, *, finalizing: bool = False) -> dict[str, Any]:
    """The request that Metacontroller would send for *parent* in a world of *objects*."""
    cr = completed(parent)
    kind = str(cr["kind"])
    groups: dict[str, dict[str, Object]] = {outer: {} for outer in CHILD_KINDS[kind]}
    groups |= _grouped(children_of(cr, objects))
    rules = HOOKS[kind].related(cr, config)
    related = _grouped(item for item in objects if any(_matches(rule, item) for rule in rules))
    return {"parent": cr, "children": groups, "related": related, "finalizing": finalizing}


def observe(body: Mapping[str, Any]) -> Observed:
    """The request as the hook reads it from the wire. Raises UsageError."""
    path = HOOKS[str(body["parent"]["kind"])].path
    try:
        return wire.observed(wire.decode(Body(orjson.dumps(body))), path, finalize=False)
    except wire.RequestError as error:
        raise UsageError(error.message, hint="Correct the file.") from None


def _written_now(parent: Object, now: datetime) -> Object:
    """*parent* with the managed fields of a status that was written at *now*: what the hook compares its clock with. kubectl
    shows none, and a dry run is about any time."""
    meta = metadata(parent)
    others = [entry for entry in meta.get("managedFields") or () if entry.get("subresource") != "status"]
    entry = {"manager": "metacontroller", "operation": "Update", "subresource": "status", "time": stamp(now)}
    return {**parent, "metadata": {**meta, "managedFields": [*others, entry]}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What a hook answers, and the decision behind it."""

    observed: Observed
    decision: Decision[Any]
    body: dict[str, Any]


def ask(observed: Observed, now: datetime, config: Config) -> Rendered:
    """The answer of the hook that *observed* goes to, to whose clock nobody objects."""
    hook = HOOKS[str(observed.parent.get("kind"))]
    observed = replace(observed, parent=_written_now(observed.parent, now))
    decision = hook.decide(observed, now, config)
    body: dict[str, Any] = orjson.loads(answer.render(hook, observed, decision, config))
    return Rendered(observed=observed, decision=decision, body=body)


def with_clusters(config: Config, objects: Sequence[Object], version: str) -> tuple[Config, Sequence[Object], list[str]]:
    """*objects* with the clusters that CRs name, present and ready with TiKV *version*, unless cluster objects are among them.

    The names of those that were made up come last.
    """
    if any(item.get("kind") in CLUSTERS for item in objects):
        return config, objects, []
    named = {
        where
        for item in objects
        if item.get("kind") in HOOKS and (where := clusters.named(item.get("spec") or {}, key_of(item)[1])) is not None
    }
    made_up = [_cluster(namespace, name, version) for namespace, name in sorted(named)]
    kinds = tuple(dict.fromkeys((*config.cluster_kinds, ClusterKind.TIDB_CLUSTER)))
    return replace(config, cluster_kinds=kinds), [*objects, *made_up], ["/".join(where) for where in sorted(named)]


def _cluster(namespace: str, name: str, version: str) -> Object:
    return {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "TidbCluster",
        "metadata": {"namespace": namespace, "name": name},
        # What a restore to a point in time wants of a cluster, the garbage collection of TiKV held, is taken for done.
        "spec": {"version": version, "tikv": {"baseImage": "pingcap/tikv", "config": "[gc]\nratio-threshold = -1.0\n"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
