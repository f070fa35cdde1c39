"""What both kinds of controllers share: workers on a queue, and what becomes of each outcome of a sync."""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from typing import Final

from sandbox.api import SECRETS, Api, ApiError, Object, deleting, name_of
from sandbox.informer import Informer
from sandbox.standins.metacontroller.events import Recorder
from sandbox.standins.metacontroller.informers import Informers, NotSyncedError
from sandbox.standins.metacontroller.parents import ParentWriter
from sandbox.standins.metacontroller.related import Related
from sandbox.standins.metacontroller.webhook import Hook, HookClient, HookError, HookPanic, TooManyRequests
from sandbox.standins.metacontroller.workqueue import WorkQueue

Key = tuple[str, str, str, str]
"""A parent: apiVersion, plural, namespace, name."""
PANIC_EXIT: Final = 2
_log = logging.getLogger(__name__)


class SyncErrors(Exception):
    """Errors of child management and status, after everything that could be done was done."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__("; ".join(str(error) for error in errors))


class Controller(ABC):
    """One CompositeController or DecoratorController at work."""

    def __init__(self, *, controller: Object, api: Api, informers: Informers, recorder: Recorder, workers: int) -> None:
        self.controller = controller
        self.name = name_of(controller)
        self.api = api
        self.informers = informers
        self.queue: WorkQueue[Key] = WorkQueue()
        self.client = HookClient()
        self._recorder = recorder
        self._workers = workers
        self._stopped = threading.Event()
        hooks = controller["spec"].get("hooks") or {}
        self._sync_hook = Hook.parse(hooks.get("sync"), "sync", self._find_secret)
        self._finalize_hook = Hook.parse(hooks.get("finalize"), "finalize", self._find_secret)
        self._related = Related(
            controller=controller,
            hook=Hook.parse(hooks.get("customize"), "customize", self._find_secret),
            client=self.client,
            informers=informers,
            on_event=self._on_related,
        )

    def _find_secret(self, namespace: str, name: str) -> Object | None:
        return self.api.find(SECRETS, namespace, name)

    @abstractmethod
    def connect(self) -> None:
        """Hook handlers into the informers. Raises HookError or ApiError when the controller cannot work."""

    @abstractmethod
    def disconnect(self) -> None:
        """Take them out again."""

    @abstractmethod
    def sync(self, key: Key) -> None:
        """One pass over one parent."""

    @abstractmethod
    def parents(self) -> list[tuple[Key, Object]]:
        """The parents in the cache that this controller looks after."""

    def call(self, request: Object, *, finalizing: bool) -> tuple[Object, bool]:
        """Call finalize when there is one and it is time for it, else sync; the answer and whether to read it strictly."""
        finalizing = finalizing and self._finalize_hook is not None
        hook = self._finalize_hook if finalizing else self._sync_hook
        if hook is None:
            raise HookError("hooks.sync is not defined")
        return self.client.call(hook, {"controller": self.controller, **request, "finalizing": finalizing}), hook.strict

    def sync_finalizer(self, writer: ParentWriter, parent: Object) -> Object:
        """Have our finalizer on *parent* exactly when there is a finalize hook; the fresh object. Raises GoneError."""
        present = writer.has_finalizer(parent)
        if self._finalize_hook and not present and not deleting(parent):
            return writer.set_finalizer(parent, wanted=True)
        if not self._finalize_hook and present:
            return writer.set_finalizer(parent, wanted=False)
        return parent

    def _on_related(self, old: Object | None, new: Object | None) -> None:
        for key, parent in self.parents():
            try:
                concerned = any(self._related.concerns(parent, obj) for obj in (old, new) if obj)
            except (ApiError, HookError, TooManyRequests):
                concerned = True  # the sync meets the same error and reports it
            if concerned:
                self.queue.add(key)

    def start(self) -> None:
        """Connect, and start the workers."""
        self.connect()
        for number in range(self._workers):
            threading.Thread(target=self._work, name=f"{self.name}-{number}", daemon=True).start()
        period = self.controller["spec"].get("resyncPeriodSeconds")
        if period:
            threading.Thread(target=self._resync, args=(max(1.0, float(period)),), daemon=True).start()

    def stop(self) -> None:
        """Disconnect and end the workers."""
        self._stopped.set()
        self._related.stop()
        self.disconnect()
        self.queue.close()

    def _resync(self, period: float) -> None:
        while not self._stopped.wait(period):
            for key, _ in self.parents():
                self.queue.add(key)

    def _work(self) -> None:
        while (key := self.queue.get()) is not None:
            try:
                self._attempt(key)
            finally:
                self.queue.done(key)

    def _attempt(self, key: Key) -> None:
        started = time.monotonic()
        try:
            self.sync(key)
        except TooManyRequests as wish:
            self.queue.add_after(key, wish.after)
        except NotSyncedError as error:
            _log.debug("%s %s: %s", self.name, key[3], error)
            self.queue.retry(key)
        except HookPanic as panic:
            # The real one dies here and takes every other controller with it; so do we.
            _log.critical("panic: %s %s: %s", self.name, key[3], panic)
            logging.shutdown()
            os._exit(PANIC_EXIT)
        except (HookError, ApiError, SyncErrors) as error:
            delay = self.queue.retry(key)
            _log.warning("%s %s/%s: sync error: %s; again in %.3f s", self.name, key[2], key[3], error, delay)
            self._complain(key, str(error))
        except Exception:  # noqa: BLE001 - a worker must survive a defect, and say so
            _log.exception("%s %s/%s: defect of the stand-in", self.name, key[2], key[3])
            self.queue.retry(key)
        else:
            self.queue.forget(key)
            _log.debug("%s %s/%s synced in %.1f ms", self.name, key[2], key[3], (time.monotonic() - started) * 1000)

    def _complain(self, key: Key, message: str) -> None:
        parent = self.informers.of(key[0], key[1]).get(key[2], key[3])
        if parent:
            self._recorder.record(parent, "Warning", "SyncError", f"Sync error: {message}")


def key_of(informer: Informer, obj: Object) -> Key:
    """The queue key of a parent."""
    metadata = obj["metadata"]
    return informer.resource.api_version, informer.resource.plural, metadata.get("namespace", ""), metadata["name"]
