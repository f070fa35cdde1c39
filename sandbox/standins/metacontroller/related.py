"""customize: which other objects a parent's hook wants to see. Answers are cached per (uid, generation) for 20 minutes, so
they may depend on the spec alone; errors are not cached."""

import threading
import time
from collections.abc import Callable
from typing import Final

from sandbox.api import Object, metadata_of, name_of, namespace_of, uid_of
from sandbox.informer import Informer
from sandbox.standins.metacontroller.answers import RelatedRule
from sandbox.standins.metacontroller.children import Children, kind_key, object_key
from sandbox.standins.metacontroller.informers import Informers
from sandbox.standins.metacontroller.selectors import matches
from sandbox.standins.metacontroller.webhook import Hook, HookClient

CACHE_SECONDS: Final = 1200.0


class Related:
    """The related objects of one controller's parents."""

    def __init__(
        self,
        *,
        controller: Object,
        hook: Hook | None,
        client: HookClient,
        informers: Informers,
        on_event: Callable[[Object | None, Object | None], None],
    ) -> None:
        self._controller = controller
        self._hook = hook
        self._client = client
        self._informers = informers
        self._on_event = on_event
        self._watched: list[Informer] = []
        self._cache: dict[tuple[str, int], tuple[float, list[RelatedRule]]] = {}
        self._asking: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Stop listening to related kinds."""
        with self._lock:
            watched, self._watched = self._watched, []
        # Outside the lock: an informer that is just calling us holds its own and wants ours.
        for informer in watched:
            informer.remove_handler(self._on_event)

    def rules(self, parent: Object) -> list[RelatedRule]:
        """The rules for *parent*, from the cache or from the hook."""
        if self._hook is None:
            return []
        key = (uid_of(parent), int(metadata_of(parent).get("generation") or 0))
        with self._lock:
            asking = self._asking.setdefault(key[0], threading.Lock())
        with asking:  # a worker and a related event may want to know at the same time
            cached = self._cache.get(key)
            if cached and time.monotonic() - cached[0] < CACHE_SECONDS:
                return cached[1]
            answer = self._client.call(self._hook, {"controller": self._controller, "parent": parent})
            rules = RelatedRule.parse_all(answer, strict=self._hook.strict)
            self._cache[key] = (time.monotonic(), rules)
            return rules

    def objects(self, parent: Object) -> Children:
        """The related objects, one outer key per rule even when nothing matches. Raises NotSyncedError on first use."""
        found: Children = {}
        for rule in self.rules(parent):
            informer = self._watch(rule)
            group = found.setdefault(kind_key(rule.api_version, informer.resource.kind), {})
            for obj in informer.all():
                if self._selects(rule, obj):
                    group[object_key(obj)] = obj
        return found

    def concerns(self, parent: Object, obj: Object) -> bool:
        """Whether a rule of *parent* selects *obj*."""
        for rule in self.rules(parent):
            informer = self._informers.of(rule.api_version, rule.resource)
            if informer.resource.kind == obj.get("kind") and self._selects(rule, obj):
                return True
        return False

    def _watch(self, rule: RelatedRule) -> Informer:
        informer = self._informers.synced(rule.api_version, rule.resource)
        with self._lock:
            fresh = informer not in self._watched
            if fresh:
                self._watched.append(informer)
        if fresh:
            informer.add_handler(self._on_event)
        return informer

    def _selects(self, rule: RelatedRule, obj: Object) -> bool:
        if rule.namespace and namespace_of(obj) != rule.namespace:
            return False
        if rule.namespaces is not None:
            namespace = self._informers.namespaces().get("", namespace_of(obj))
            if namespace is None or not matches(rule.namespaces, metadata_of(namespace).get("labels")):
                return False
        if rule.names:
            return name_of(obj) in rule.names
        return matches(rule.labels, metadata_of(obj).get("labels"))
