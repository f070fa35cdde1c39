"""Starts and stops a controller for every CompositeController and DecoratorController object, and restarts it when its spec
changes."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from sandbox.api import Api, ApiError, Object, name_of
from sandbox.informer import Informer
from sandbox.patience import PATIENCE
from sandbox.standins.metacontroller.composite import CompositeController
from sandbox.standins.metacontroller.controller import Controller
from sandbox.standins.metacontroller.decorator import DecoratorController
from sandbox.standins.metacontroller.events import Recorder
from sandbox.standins.metacontroller.informers import Informers, NotSyncedError
from sandbox.standins.metacontroller.webhook import HookError
from sandbox.standins.metacontroller.workqueue import WorkQueue

API_VERSION: Final = "metacontroller.k8s.io/v1alpha1"
_KINDS: Final[Mapping[str, type[Controller]]] = {
    "compositecontrollers": CompositeController,
    "decoratorcontrollers": DecoratorController,
}
_log = logging.getLogger(__name__)


class Metacontroller:
    """The whole stand-in."""

    def __init__(self, api: Api, *, workers: int = 5, informers: Informers | None = None) -> None:
        self._api = api
        self._workers = workers
        self._informers = informers or Informers.from_environment(api)
        self._recorder = Recorder(api)
        self._running: dict[tuple[str, str], tuple[Any, Controller]] = {}
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue()
        self._sources: dict[str, Informer] = {}
        self.ready = threading.Event()

    def start(self) -> None:
        """Wait for the CRDs, then serve. Raises ApiError when they do not come."""
        deadline = time.monotonic() + PATIENCE
        for plural in _KINDS:
            while plural not in self._sources:
                try:
                    self._sources[plural] = self._informers.of(API_VERSION, plural)
                except ApiError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
        for plural, informer in self._sources.items():
            informer.synced.wait(PATIENCE)
            informer.add_handler(self._waker(plural))
        self._informers.namespaces()
        threading.Thread(target=self._work, name="controllers", daemon=True).start()
        self.ready.set()

    def _waker(self, plural: str) -> Any:
        def wake(old: Object | None, new: Object | None) -> None:
            if obj := new or old:
                self._queue.add((plural, name_of(obj)))

        return wake

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._reconcile(*key)
                self._queue.forget(key)
            except NotSyncedError:
                self._queue.add_after(key, 0.1)
            except (ApiError, HookError) as error:
                # A parent CRD that is not there yet, a strategy we do not know: said once per try, tried again later.
                _log.warning("%s %s: %s", *key, error)
                self._complain(*key, str(error))
                self._queue.add_after(key, 2.0)
            finally:
                self._queue.done(key)

    def _reconcile(self, plural: str, name: str) -> None:
        wanted = self._sources[plural].get("", name)
        running = self._running.get((plural, name))
        if running and (wanted is None or wanted["spec"] != running[0]):
            self._running.pop((plural, name))[1].stop()
            _log.info("stopped %s %s", plural, name)
            running = None
        if wanted is None or running:
            return
        controller = _KINDS[plural](
            controller=wanted,
            api=self._api,
            informers=self._informers,
            recorder=self._recorder,
            workers=self._workers,
        )
        controller.start()
        self._running[plural, name] = (wanted["spec"], controller)
        self._recorder.record(wanted, "Normal", "Started", f"Started controller: {name}")
        _log.info("started %s %s", plural, name)

    def _complain(self, plural: str, name: str, message: str) -> None:
        controller = self._sources[plural].get("", name)
        if controller:
            self._recorder.record(controller, "Warning", "CreateError", message)

    def stop(self) -> None:
        """End everything."""
        self._queue.close()
        for _, controller in self._running.values():
            controller.stop()
        self._informers.stop()
