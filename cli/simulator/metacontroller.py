"""A CompositeController for each of the four kinds, in the order of Metacontroller's own pass.

1. The parent from the cache; our finalizer is put on it unless it is being deleted.
2. Children from the cache: what the parent controls and its selector matches; orphans that match are adopted.
3. Related objects by the rules of customize, which are remembered for 20 minutes by uid and generation.
4. The hook, called with bytes and answering bytes.
5. ``finalized`` removes our finalizer; children that are not in the answer are deleted, those not observed are created; the
   rest is left alone (``OnDelete``). Each write that fails is passed over, and reported at the end.
6. The whole status is replaced on a fresh object, with ``observedGeneration``.

:meth:`Metacontroller.call` is the first half, :meth:`Metacontroller.settle` the other one: between them the world may go on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Observed, metadata
from app.domain.schedule.children import BACKUPS, COMPACTIONS
from app.hooks import backup, backupschedule, compactbackup, restore
from app.hooks import request as wire
from app.hooks import response as answer
from app.hooks.pieces import Body
from app.hooks.resource import Kind
from cli.simulator.store import (
    ApiError,
    Object,
    Store,
    controller_of,
    deleting,
    key_of,
    kind_of,
    owner_reference,
    owners,
    uid_of,
)
from crds.contract import names

JOBS: Final = "Job.batch/v1"
HOOKS: Final[Mapping[str, Kind[Any]]] = {
    f"Backup.{names.API_VERSION}": backup.KIND,
    f"Restore.{names.API_VERSION}": restore.KIND,
    f"BackupSchedule.{names.API_VERSION}": backupschedule.KIND,
    f"CompactBackup.{names.API_VERSION}": compactbackup.KIND,
}
"""The hook of each kind of parent."""
_CHILDREN: Final[Mapping[str, Sequence[str]]] = {"backupschedule": (BACKUPS, COMPACTIONS)}
_REMEMBERED: Final = timedelta(minutes=20)
_FOREIGN_FINALIZERS: Final = frozenset({"foregroundDeletion", "orphan"})
_RESOURCES: Final[Mapping[str, str]] = {
    "tidbclusters": "TidbCluster",
    "clusters": "Cluster",
    "tikvgroups": "TiKVGroup",
    "namespaces": "Namespace",
    "backups": "Backup",
    "backupschedules": "BackupSchedule",
    "compactbackups": "CompactBackup",
}


class Cache(Protocol):
    """Where Metacontroller reads from: the informers' caches, one for each kind."""

    def of(self, kind: str) -> Mapping[str, Object]:
        """The objects of *kind* by key, as far as they are known."""
        ...


class HookError(Exception):
    """The hook gave no answer that is obeyed; *status* is that of HTTP. Nothing was written."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One call of a hook: the *parent* as it was seen, the *request* and the answer's *body* as bytes, and the *decision*."""

    kind: str
    parent: Object
    children: Mapping[str, Mapping[str, Object]]
    finalizing: bool
    request: bytes
    body: bytes
    decision: Decision[Any]
    answer: dict[str, Any]
    now: datetime
    config: Config

    @property
    def wait(self) -> float:
        """``resyncAfterSeconds``, 0 for none."""
        return float(self.answer.get("resyncAfterSeconds") or 0)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What :meth:`Metacontroller.settle` did."""

    created: list[Object] = field(default_factory=list)
    deleted: list[Object] = field(default_factory=list)
    errors: list[ApiError] = field(default_factory=list)


def respond(kind: str, request: bytes, now: datetime, config: Config) -> tuple[Observed, Decision[Any], bytes]:
    """What the hook of the parents of *kind* answers to the bytes of a sync or finalize *request*. Raises HookError."""
    hook = HOOKS[kind]
    with _as_http():
        document = wire.decode(Body(request, lean=hook.lean))
        observed = wire.observed(document, hook.path, finalize=bool(document.get("finalizing")))
        decision = hook.decide(observed, now, config)
        return observed, decision, answer.render(hook, observed, decision, config)


def customize(kind: str, request: bytes, config: Config) -> list[Mapping[str, Any]]:
    """The rules that the hook of the parents of *kind* answers to the bytes of a customize *request*. Raises HookError."""
    hook = HOOKS[kind]
    with _as_http():
        parent = wire.parent(wire.decode(Body(request)), hook.path)
        rules: list[Mapping[str, Any]] = orjson.loads(orjson.dumps(answer.plain(hook.related(parent, config))))
        return rules


@contextmanager
def _as_http() -> Iterator[None]:
    """Errors of a hook as the webhook answers them."""
    try:
        yield
    except wire.RequestError as error:
        raise HookError(error.status, error.message) from error
    except Exception as error:
        raise HookError(500, f"{type(error).__name__}: {error}") from error


class Metacontroller:
    """The four controllers on one *store*. *cache* is where they read, the store itself when nothing lags."""

    def __init__(self, store: Store, *, cache: Cache | None = None) -> None:
        self.store = store
        self.cache: Cache = cache or store
        self._rules: dict[tuple[str, int], tuple[datetime, list[Mapping[str, Any]]]] = {}

    def sync(self, kind: str, key: str, now: datetime, config: Config) -> Pass | None:
        """One whole pass over a parent; None when the cache has none. *now* is the hook's clock. Raises HookError."""
        current = self.call(kind, key, now, config)
        if current:
            self.settle(current)
        return current

    # The first half

    def call(self, kind: str, key: str, now: datetime, config: Config) -> Pass | None:
        """Ask the hook about a parent; None when the cache has none. Raises HookError, and ApiError of the finalizer."""
        cached = self.cache.of(kind).get(key)
        if cached is None:
            return None
        parent = self._with_finalizer(kind, cached)
        if parent is None:
            return None
        children = {child: self._claim(child, parent) for child in _children_of(kind)}
        finalizing = deleting(parent)
        related = self._related(kind, parent, config)
        encoded = self.store.encoded
        document = {
            "children": {outer: {name: encoded(child) for name, child in group.items()} for outer, group in children.items()},
            "finalizing": finalizing,
            "parent": encoded(parent),
            "related": {outer: {name: encoded(item) for name, item in group.items()} for outer, group in related.items()},
        }
        request = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        _, decision, body = respond(kind, request, now, config)
        return Pass(
            kind=kind,
            parent=parent,
            children=children,
            finalizing=finalizing,
            request=request,
            body=body,
            decision=decision,
            answer=orjson.loads(body),
            now=now,
            config=config,
        )

    def _with_finalizer(self, kind: str, parent: Object) -> Object | None:
        """*parent* with our finalizer, fresh when it had to be written; None when it is gone."""
        mine = finalizer(kind)
        if deleting(parent) or mine in (parent["metadata"].get("finalizers") or ()):
            return parent
        live = self.store.find(kind, key_of(parent))
        if live is None or uid_of(live) != uid_of(parent):
            return None
        present = live["metadata"].get("finalizers") or []
        if mine in present or deleting(live):
            return live
        return self.store.annotate(live, finalizers=[*present, mine])

    def _claim(self, kind: str, parent: Object) -> dict[str, Object]:
        """The children of *kind* in the cache; orphans that match are adopted, those that no longer match are released."""
        uid, namespace = uid_of(parent), parent["metadata"]["namespace"]
        claimed: dict[str, Object] = {}
        for key, child in self.cache.of(kind).items():
            meta = child["metadata"]
            if meta["namespace"] != namespace:
                continue
            controller = controller_of(child)
            matches = (meta.get("labels") or {}).get(names.CONTROLLER_UID_LABEL) == uid
            if controller == uid and matches:
                claimed[key] = child
            elif controller == uid and not deleting(parent):
                self._own(child, [owner for owner in owners(child) if owner["uid"] != uid])
            elif not controller and matches and not deleting(child) and self._may_adopt(parent):
                adopted = self._own(child, [*owners(child), owner_reference(parent)])
                if adopted:
                    claimed[key] = adopted
        return claimed

    def _may_adopt(self, parent: Object) -> bool:
        live = self.store.find(kind_of(parent), key_of(parent))
        return not deleting(parent) and live is not None and uid_of(live) == uid_of(parent) and not deleting(live)

    def _own(self, child: Object, references: Sequence[Mapping[str, Any]]) -> Object | None:
        try:
            return self.store.annotate(child, uid=uid_of(child), ownerReferences=list(references) or None)
        except ApiError as error:
            if error.status in {404, 409, 422}:
                return None
            raise

    def _related(self, kind: str, parent: Object, config: Config) -> dict[str, dict[str, Object]]:
        found: dict[str, dict[str, Object]] = {}
        for rule in self._related_rules(kind, parent, config):
            outer = f"{_RESOURCES[rule['resource']]}.{rule['apiVersion']}"
            group = found.setdefault(outer, {})
            group |= {key: item for key, item in self.cache.of(outer).items() if _selects(rule, item)}
        return found

    def _related_rules(self, kind: str, parent: Object, config: Config) -> list[Mapping[str, Any]]:
        cached = uid_of(parent), int(parent["metadata"].get("generation") or 0)
        known, now = self._rules.get(cached), self.store.clock()
        if known and timedelta(0) <= now - known[0] < _REMEMBERED:
            return known[1]
        rules = customize(kind, orjson.dumps({"parent": self.store.encoded(parent)}), config)
        self._rules[cached] = now, rules
        return rules

    # The second half

    def settle(self, current: Pass) -> Outcome:
        """Do what the answer of *current* says."""
        outcome, parent, body = Outcome(), current.parent, current.answer
        mine = finalizer(current.kind)
        if body.get("finalized") and mine in (parent["metadata"].get("finalizers") or ()):
            try:
                live = self.store.get(current.kind, key_of(parent), uid=uid_of(parent))
                left = [item for item in live["metadata"].get("finalizers") or () if item != mine]
                parent = self.store.annotate(live, finalizers=left or None)
            except ApiError as error:
                if error.status not in {404, 409}:
                    outcome.errors.append(error)
                return outcome
        finalizers = frozenset(parent["metadata"].get("finalizers") or ())
        if not deleting(parent) or (mine in finalizers and not finalizers & _FOREIGN_FINALIZERS):
            self._manage(current, outcome)
        try:
            self._write_status(current)
        except ApiError as error:
            if error.status not in {404, 409}:
                outcome.errors.append(error)
        return outcome

    def _manage(self, current: Pass, outcome: Outcome) -> None:
        wanted = {(kind_of(child), key_of(_placed(child, current.parent))): child for child in current.answer["children"]}
        steps: list[Callable[[], None]] = []
        for outer, group in current.children.items():
            for key, child in group.items():
                if (outer, key) not in wanted and not deleting(child):
                    steps.append(lambda outer=outer, key=key, child=child: self._delete(outer, key, child, outcome))  # type: ignore[misc]
        for (outer, key), child in wanted.items():
            if key not in current.children.get(outer, {}):
                steps.append(lambda child=child: self._create(current.parent, child, outcome))  # type: ignore[misc]
        for step in steps:
            try:
                step()
            except ApiError as error:
                outcome.errors.append(error)

    def _delete(self, kind: str, key: str, child: Object, outcome: Outcome) -> None:
        try:
            self.store.delete(kind, key, uid=uid_of(child))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            return
        outcome.deleted.append(child)

    def _create(self, parent: Object, child: Object, outcome: Outcome) -> None:
        child = _placed(child, parent)
        meta = child["metadata"]
        labels = {names.CONTROLLER_UID_LABEL: uid_of(parent), **(meta.get("labels") or {})}
        if labels[names.CONTROLLER_UID_LABEL] != uid_of(parent):
            raise HookError(500, f"labels on desired child {key_of(child)} don't match parent selector")
        references = [*owners(child), owner_reference(parent)]
        try:
            made = self.store.create({**child, "metadata": {**meta, "labels": labels, "ownerReferences": references}})
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return
        outcome.created.append(made)

    def _write_status(self, current: Pass) -> None:
        parent = current.parent
        wanted = {**(current.answer.get("status") or {}), "observedGeneration": parent["metadata"].get("generation")}
        live = self.store.get(current.kind, key_of(parent), uid=uid_of(parent))
        if live.get("status") != wanted:
            self.store.write(live, status=wanted)


def finalizer(kind: str) -> str:
    """Metacontroller's finalizer on the parents of *kind*."""
    return f"metacontroller.io/compositecontroller-tidb-{HOOKS[kind].path}"


def _children_of(kind: str) -> Sequence[str]:
    return _CHILDREN.get(HOOKS[kind].path, (JOBS,))


def _placed(child: Object, parent: Object) -> Object:
    """*child* in its namespace, by default that of its *parent*."""
    if child["metadata"].get("namespace"):
        return child
    return {**child, "metadata": {**child["metadata"], "namespace": parent["metadata"]["namespace"]}}


def _selects(rule: Mapping[str, Any], item: Object) -> bool:
    meta = metadata(item)
    wanted = (rule.get("labelSelector") or {}).get("matchLabels") or {}
    labels = meta.get("labels") or {}
    return (
        (not rule.get("namespace") or meta.get("namespace") == rule["namespace"])
        and (not rule.get("names") or meta.get("name") in rule["names"])
        and all(labels.get(key) == value for key, value in wanted.items())
    )
