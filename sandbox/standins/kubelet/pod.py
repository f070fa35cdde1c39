"""One Pod from start to end, in a thread of its own: volumes, init containers, containers, restarts, deletion."""

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.api import CONFIG_MAPS, PODS, SECRETS, SERVICE_ACCOUNTS, Api, ApiError, Object, name_of, namespace_of, uid_of
from sandbox.standins.kubelet import status
from sandbox.standins.kubelet.container import Container, now, waiting
from sandbox.standins.kubelet.environment import ConfigError, command_line, resolve
from sandbox.standins.kubelet.images import ImageError, find_image
from sandbox.standins.kubelet.volumes import VolumeError, Volumes

POLL_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 0.5
BACKOFF_SECONDS, BACKOFF_CAP = 10.0, 300.0
DEFAULT_GRACE: Final = 30
TOKEN_SECONDS: Final = 24 * 3600
_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The Pod is being deleted: leave whatever we wait for."""


class PodRunner:
    """Runs one Pod. *base* is the environment that the image would bring, *claims* where claimed volumes live."""

    def __init__(self, api: Api, pod: Object, folder: Path, claims: Path, base: Mapping[str, str]) -> None:
        self._api = api
        self._pod = pod
        self._folder = folder
        self._base = base
        self._started = (pod.get("status") or {}).get("startTime") or now()
        self._init = [Container(spec=spec, folder=folder) for spec in pod["spec"].get("initContainers") or ()]
        self._main = [Container(spec=spec, folder=folder) for spec in pod["spec"]["containers"]]
        self._policy = pod["spec"].get("restartPolicy", "Always")
        self._volumes = Volumes(pod, folder / "volumes", claims, self._lookup, self._token)
        self._paths: dict[str, Path] = {}
        self._ready = False
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._grace = DEFAULT_GRACE
        self._reported: Object = {}

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return f"{namespace_of(self._pod)}/{name_of(self._pod)}"

    def start(self) -> None:
        """Begin, in a thread."""
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def update(self, pod: Object) -> None:
        """The Pod changed: remember it; a deletion stops the containers."""
        self._pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            grace = pod["metadata"].get("deletionGracePeriodSeconds")
            self._grace = DEFAULT_GRACE if grace is None else int(grace)
            self._stop.set()

    def kill(self) -> None:
        """The Pod is gone from the API server, or the agent ends: SIGKILL, and no more reports."""
        self._abandon.set()
        self._stop.set()
        for container in (*self._init, *self._main):
            container.signal(signal.SIGKILL)

    def adopt_lost(self) -> None:
        """Report a Pod whose containers an earlier agent ran."""
        for container in (*self._init, *self._main):
            container.lost()
        self._report(final="Failed")

    # The thread

    def _run(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._prepare_volumes()
            if self._run_init():
                self._run_main()
            self._report()
            self._stop.wait()
        except StoppedError:
            pass
        except Exception:  # noqa: BLE001 - a defect must not leave the Pod without an end
            _log.exception("%s: defect of the agent", self.name)
        if not self._abandon.is_set():
            self._end()

    def _end(self) -> None:
        """Stop what runs, say so, and let the API server forget the Pod."""
        try:
            self._terminate()
            failed = [item for item in (*self._init, *self._main) if item.exit_code != 0]
            self._report(final="Failed" if failed else "Succeeded")
            self._api.delete(PODS, namespace_of(self._pod), name_of(self._pod), uid=uid_of(self._pod), grace=0)
        except ApiError as error:
            if error.status not in {404, 409}:
                _log.warning("%s: cannot be deleted: %s", self.name, error)

    def _terminate(self) -> None:
        running = [item for item in (*self._init, *self._main) if item.running]
        deadline = time.monotonic() + self._grace
        for container in running:
            container.signal(signal.SIGTERM)
        while any(item.running for item in running):
            if time.monotonic() >= deadline:
                for container in running:
                    container.signal(signal.SIGKILL)
            for container in running:
                container.poll()
            time.sleep(POLL_SECONDS)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise StoppedError

    def _prepare_volumes(self) -> None:
        while not self._ready:
            try:
                self._paths = self._volumes.prepare()
                self._ready = True
            except (VolumeError, ApiError) as error:
                for container in (*self._init, *self._main):
                    container.state = waiting("ContainerCreating", f"MountVolume.SetUp failed: {error}")
                self._report()
                self._pause(RETRY_SECONDS)
        for container in self._main:
            container.state = waiting("PodInitializing" if self._init else "ContainerCreating")

    def _run_init(self) -> bool:
        """Run the init containers one after the other; False when one failed for good."""
        for container in self._init:
            while container.exit_code != 0:
                self._start(container)
                while not container.poll():
                    self._pause(POLL_SECONDS)
                if container.exit_code != 0:
                    if self._policy == "Never":
                        return False
                    self._back_off(container)
            self._report()
        return True

    def _run_main(self) -> None:
        for container in self._main:
            self._start(container)
        while any(item.running for item in self._main):
            for container in self._main:
                if container.poll():
                    if self._restarts(container):
                        self._back_off(container)
                        self._start(container)
                    else:
                        self._report()
            self._pause(POLL_SECONDS)

    def _restarts(self, container: Container) -> bool:
        return self._policy == "Always" or (self._policy == "OnFailure" and container.exit_code != 0)

    def _back_off(self, container: Container) -> None:
        ended, seconds = container.state, min(BACKOFF_CAP, BACKOFF_SECONDS * 2**container.restarts)
        container.last_state = ended
        container.state = waiting("CrashLoopBackOff", f"back-off {seconds:g}s restarting failed container")
        self._report()
        container.state = ended
        self._pause(seconds)

    def _start(self, container: Container) -> None:
        """Start a container as soon as its image, Secrets and ConfigMaps are there."""
        while True:
            try:
                image = find_image(container.spec["image"])
                env = resolve(container.spec, self._pod, self._lookup, self._base)
                argv = command_line(container.spec, image.entrypoint, env)
                container.start(argv, env, self._mounts(container.spec, image.files))
                self._report()
                return
            except ImageError as error:
                container.state = waiting("ErrImagePull", str(error))
            except (ConfigError, ApiError) as error:
                container.state = waiting("CreateContainerConfigError", str(error))
            self._report()
            self._pause(RETRY_SECONDS)

    def _mounts(self, spec: Object, files: Mapping[str, Path]) -> list[dict[str, Any]]:
        mounts = [{"source": os.path.realpath(path), "target": target, "readOnly": True} for target, path in files.items()]
        for item in spec.get("volumeMounts") or ():
            source = self._paths.get(item["name"])
            if source is None:
                raise ConfigError(f"volume mount {item['name']!r}: the Pod has no such volume")
            if item.get("subPath"):
                source = source / item["subPath"]
                if not source.exists():
                    source.mkdir(parents=True)
            # /var/run is a link on most machines; the mount must go where the link leads.
            target = os.path.realpath(item["mountPath"])
            mounts.append({"source": str(source), "target": target, "readOnly": bool(item.get("readOnly"))})
        return mounts

    # The API server

    def _lookup(self, kind: str, name: str) -> Object | None:
        return self._api.find(SECRETS if kind == "Secret" else CONFIG_MAPS, namespace_of(self._pod), name)

    def _token(self, source: Mapping[str, Any]) -> str:
        namespace, account = namespace_of(self._pod), self._pod["spec"].get("serviceAccountName") or "default"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name_of(self._pod), "uid": uid_of(self._pod)}
        spec: Object = {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound}
        if source.get("audience"):
            spec["audiences"] = [source["audience"]]
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self._api.request("POST", SERVICE_ACCOUNTS.path(namespace, account, "token"), request)["status"]["token"])

    def _report(self, *, final: str = "") -> None:
        """Write the status, unless nothing changed."""
        new = status.build(self._pod, self._init, self._main, final=final, started=self._started, volumes_ready=self._ready)
        if new == self._reported or self._abandon.is_set():
            return
        patch = {"metadata": {"uid": uid_of(self._pod)}, "status": new}
        for wait in (0.0, 0.2, 1.0, 3.0):
            time.sleep(wait)
            try:
                self._api.patch(PODS, namespace_of(self._pod), name_of(self._pod), patch, subresource="status")
                self._reported = new
                return
            except ApiError as error:
                if error.status in {404, 409}:
                    return
                _log.warning("%s: status not stored: %s", self.name, error)
