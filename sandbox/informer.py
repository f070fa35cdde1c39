"""A cache of one kind, kept by list and watch, as client-go's informers do: whoever reads it may be behind the API server.

*lag* says by how many seconds an event is delivered late; tests use it to see what a hook does with stale parents.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from sandbox.api import Api, ApiError, Object, Resource, metadata_of, name_of, namespace_of

Handler = Callable[[Object | None, Object | None], None]
"""Called with (old, new): old is None for an addition, new is None for a removal."""

_RETRY_SECONDS = 0.2
_log = logging.getLogger(__name__)


class Informer:
    """Lists, then watches, and tells its handlers; one thread reads the stream, one delivers."""

    def __init__(self, api: Api, resource: Resource, *, lag: Callable[[], float] = lambda: 0.0) -> None:
        self.resource = resource
        self.synced = threading.Event()
        self._api = api
        self._lag = lag
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._objects: dict[tuple[str, str], Object] = {}
        self._handlers: list[Handler] = []
        self._arrived: queue.SimpleQueue[tuple[float, str, Any]] = queue.SimpleQueue()

    def start(self) -> "Informer":
        """Begin; returns itself at once, :attr:`synced` is set after the first list."""
        for target in (self._read, self._deliver):
            threading.Thread(target=target, name=f"{target.__name__}-{self.resource.plural}", daemon=True).start()
        return self

    def stop(self) -> None:
        """End the threads; the cache stays as it is."""
        self._stop.set()

    def add_handler(self, handler: Handler) -> None:
        """Tell *handler* of every object known now (as additions), and of every later change."""
        with self._lock:
            self._handlers.append(handler)
            for obj in list(self._objects.values()):
                handler(None, obj)

    def remove_handler(self, handler: Handler) -> None:
        """Forget *handler*."""
        with self._lock:
            self._handlers.remove(handler)

    def get(self, namespace: str, name: str) -> Object | None:
        """An object as last delivered. Do not change it."""
        return self._objects.get((namespace, name))

    def all(self) -> list[Object]:
        """All objects as last delivered. Do not change them."""
        with self._lock:
            return list(self._objects.values())

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                listed = self._api.list(self.resource)
                self._arrived.put((time.monotonic(), "LIST", listed.get("items") or []))
                self._follow(str(listed["metadata"]["resourceVersion"]))
            except ApiError as error:
                if self._stop.is_set():
                    return
                _log.debug("watch of %s broke: %s", self.resource.plural, error)
                self._stop.wait(_RETRY_SECONDS)

    def _follow(self, version: str) -> None:
        while not self._stop.is_set():
            for event in self._api.watch(self.resource, version, self._stop):
                obj = event["object"]
                version = str(obj["metadata"]["resourceVersion"])
                if event["type"] != "BOOKMARK":
                    self._arrived.put((time.monotonic(), event["type"], obj))

    def _deliver(self) -> None:
        while not self._stop.is_set():
            try:
                arrived, kind, payload = self._arrived.get(timeout=1.0)
            except queue.Empty:
                continue
            late = arrived + self._lag() - time.monotonic()
            if late > 0 and self._stop.wait(late):
                return
            with self._lock:
                if kind == "LIST":
                    self._replace(payload)
                else:
                    self._change(payload, gone=kind == "DELETED")

    def _replace(self, items: list[Object]) -> None:
        listed = {_key(item) for item in items}
        for key in [key for key in self._objects if key not in listed]:
            self._change(self._objects[key], gone=True)
        for item in items:
            self._change(item, gone=False)
        self.synced.set()

    def _change(self, obj: Object, *, gone: bool) -> None:
        key = _key(obj)
        old = self._objects.get(key)
        if gone:
            self._objects.pop(key, None)
        else:
            if old and metadata_of(old).get("resourceVersion") == metadata_of(obj).get("resourceVersion"):
                return
            self._objects[key] = obj
        for handler in list(self._handlers):
            handler(old if not gone else (old or obj), None if gone else obj)


def _key(obj: Object) -> tuple[str, str]:
    return namespace_of(obj), name_of(obj)
