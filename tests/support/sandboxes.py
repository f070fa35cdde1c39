"""Sandboxes of the tests: those for all workers of a run, and those of single files, which may stop their parts or change their
settings."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crds import generate
from sandbox import Cluster

_WORKER_NAME: Final = os.environ.get("PYTEST_XDIST_WORKER", "")
WORKER: Final = int(_WORKER_NAME.removeprefix("gw") or 0)
"""The number of this worker; 0 too where there are none."""


def _run() -> int:
    """The process that owns what is shared: this one, or the one that started this worker."""
    return os.getppid() if _WORKER_NAME else os.getpid()


def _whole() -> Cluster:
    return Cluster(f"e2e-{_run()}", tidbs=("source", "target"), owner=_run())


def _bare() -> Cluster:
    return Cluster(f"api-{_run()}", tidbs=(), parts=frozenset(), owner=_run())


def shared_sandbox(temporary: Path) -> Cluster:
    """Everything, with two TiDBs; started when it is not up. *temporary* is this worker's folder."""
    return _started(_whole(), temporary)


def shared_api_server(temporary: Path) -> Cluster:
    """etcd and a kube-apiserver that serves the committed CRDs, applied as a user does; nothing that reacts to a resource."""

    def apply_crds(running: Cluster) -> None:
        running.kubectl("apply", *(f"--filename={path}" for path in generate.files()))
        running.kubectl("wait", "--for=condition=Established", "crd", "--all")

    return _started(_bare(), temporary, then=apply_crds)


def _started(running: Cluster, temporary: Path, *, then: Callable[[Cluster], None] = lambda _: None) -> Cluster:
    lock = (temporary.parent if _WORKER_NAME else temporary) / f"{running.layout.name}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not running.layout.exists():
            running.start()
            try:
                then(running)
            except BaseException:
                running.stop(keep=True)
                raise
    return running


def stop_shared_sandboxes() -> None:
    """At the end of the run. ``SANDBOX_KEEP=1`` keeps the logs."""
    for running in (_whole(), _bare()):
        if not _WORKER_NAME and running.layout.exists():
            running.stop(keep="SANDBOX_KEEP" in os.environ)


@contextmanager
def own_sandbox(what: str, *tidbs: str, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Everything, with *tidbs* and the *settings* of the hooks. ``SANDBOX_KEEP=1`` keeps the logs."""
    running = Cluster(f"{what}-{os.getpid()}", tidbs=tidbs, webhook_env=settings)
    running.start()
    try:
        yield running
    finally:
        running.stop(keep="SANDBOX_KEEP" in os.environ)
