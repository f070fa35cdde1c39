"""Sandboxes of the end-to-end tests: one for all workers of a run, and those of single files, which may stop their parts or
change their settings."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandbox import Cluster

_WORKER_NAME: Final = os.environ.get("PYTEST_XDIST_WORKER", "")
WORKER: Final = int(_WORKER_NAME.removeprefix("gw") or 0)
"""The number of this worker; 0 too where there are none."""


def _shared() -> Cluster:
    # Named after the run, and owned by it: by this process, or by the one that started this worker.
    run = os.getppid() if _WORKER_NAME else os.getpid()
    return Cluster(f"e2e-{run}", tidbs=("source", "target"), owner=run)


def shared_sandbox(temporary: Path) -> Cluster:
    """Everything, with two TiDBs; started when it is not up. *temporary* is this worker's folder."""
    running = _shared()
    with ((temporary.parent if _WORKER_NAME else temporary) / "sandbox.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not running.layout.exists():
            running.start()
    return running


def stop_shared_sandbox() -> None:
    """At the end of the run. ``SANDBOX_KEEP=1`` keeps the logs."""
    if not _WORKER_NAME and (running := _shared()).layout.exists():
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
