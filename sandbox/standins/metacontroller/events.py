"""Kubernetes Events of the stand-in; repeats raise the count of one Event, and one object gets at most a burst of them."""

import logging
import queue
import threading
import time
from datetime import UTC, datetime
from typing import Final

from sandbox.api import EVENTS, Api, ApiError, Object, metadata_of, name_of, namespace_of, uid_of

COMPONENT: Final = "metacontroller"
BURST: Final = 25
"""Events about one object before they are rate-limited (``--events-burst``)."""
REFILL_SECONDS: Final = 300.0
_log = logging.getLogger(__name__)


class Recorder:
    """Writes Events from its own thread, so that no sync waits for one."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: queue.SimpleQueue[Object] = queue.SimpleQueue()
        self._known: dict[tuple[str, str, str], Object] = {}
        self._budget: dict[str, tuple[float, float]] = {}
        threading.Thread(target=self._write_all, name="events", daemon=True).start()

    def record(self, about: Object, kind: str, reason: str, message: str) -> None:
        """Say *message* about an object; *kind* is ``Normal`` or ``Warning``."""
        if not self._allowed(uid_of(about)):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = namespace_of(about) or "default"
        self._waiting.put(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{name_of(about)[:200]}.{time.time_ns():x}", "namespace": namespace},
                "involvedObject": {
                    "apiVersion": about.get("apiVersion"),
                    "kind": about.get("kind"),
                    "name": name_of(about),
                    "namespace": namespace_of(about),
                    "uid": uid_of(about),
                    "resourceVersion": metadata_of(about).get("resourceVersion"),
                },
                "type": kind,
                "reason": reason,
                "message": message[:1024],
                "source": {"component": COMPONENT},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }
        )

    def _allowed(self, uid: str) -> bool:
        now = time.monotonic()
        tokens, filled = self._budget.get(uid, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - filled) / REFILL_SECONDS)
        self._budget[uid] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def _write_all(self) -> None:
        while True:
            event = self._waiting.get()
            try:
                self._write(event)
            except ApiError as error:
                # A namespace that is going away takes no more events.
                _log.info("event lost: %s: %s", event["message"], error)

    def _write(self, event: Object) -> None:
        key = (event["involvedObject"]["uid"], event["reason"], event["message"])
        known = self._known.get(key)
        if known:
            patch = {"count": known["count"] + 1, "lastTimestamp": event["lastTimestamp"]}
            self._known[key] = self._api.patch(EVENTS, namespace_of(known), name_of(known), patch)
        else:
            self._known[key] = self._api.create(EVENTS, event)
