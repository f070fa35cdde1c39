"""One shared informer per kind, as Metacontroller's dynamic informers: cluster-wide, started on first use, kept."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Final

from sandbox.api import NAMESPACES, Api, Resource
from sandbox.informer import Informer

LAG_FILE_VARIABLE: Final = "SANDBOX_CACHE_LAG_FILE"


class NotSyncedError(Exception):
    """A kind's first list has not arrived yet: retried at once, without an event."""


class Informers:
    """The informers of one stand-in, by apiVersion and plural name."""

    def __init__(self, api: Api, lag_file: Path | None = None) -> None:
        self._api = api
        self._lag_file = lag_file
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], Informer] = {}

    @classmethod
    def from_environment(cls, api: Api) -> "Informers":
        """With the lag that :data:`LAG_FILE_VARIABLE` names, if any."""
        path = os.environ.get(LAG_FILE_VARIABLE)
        return cls(api, Path(path) if path else None)

    def of(self, api_version: str, plural: str) -> Informer:
        """The informer of a kind, started when it is new. Raises ApiError 404 when the server does not serve the kind."""
        key = (api_version, plural)
        with self._lock:
            if key not in self._running:
                self._running[key] = self._start(self._api.resource(api_version, plural))
            return self._running[key]

    def _start(self, resource: Resource) -> Informer:
        return Informer(self._api, resource, lag=lambda: self._lag(resource.plural)).start()

    def synced(self, api_version: str, plural: str, *, seconds: float = 0.0) -> Informer:
        """As :meth:`of`, but raises NotSyncedError when its first list has not arrived within *seconds*."""
        informer = self.of(api_version, plural)
        if not informer.synced.wait(seconds) and not informer.synced.is_set():
            raise NotSyncedError(f"informer not synced: {plural}")
        return informer

    def namespaces(self) -> Informer:
        """The namespaces, which every controller watches."""
        return self.of(NAMESPACES.api_version, NAMESPACES.plural)

    def _lag(self, plural: str) -> float:
        if self._lag_file is None:
            return 0.0
        for _ in range(3):
            try:
                lags = json.loads(self._lag_file.read_text())
                return float(lags.get(plural, 0.0))
            except FileNotFoundError:
                return 0.0
            except ValueError:
                time.sleep(0.01)
        return 0.0

    def stop(self) -> None:
        """End every informer."""
        with self._lock:
            for informer in self._running.values():
                informer.stop()
