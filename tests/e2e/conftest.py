"""One sandbox for all end-to-end tests of a run, and a namespace for each test."""

import itertools
import os
import re
from collections.abc import Iterator

import pytest

from sandbox import Cluster

# In a sandbox that stays up, a name used again would find the data of an earlier run.
_numbers = itertools.count(os.getpid() * 100 if "SANDBOX_USE" in os.environ else 1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Everything, with two TiDBs. ``SANDBOX_KEEP=1`` keeps the logs when the session ends; ``SANDBOX_USE=NAME`` takes a
    sandbox that is up (``python -m sandbox up --tidb source --tidb target --name NAME``) and leaves it up."""
    if "SANDBOX_USE" in os.environ:
        yield Cluster(os.environ["SANDBOX_USE"])
        return
    running = Cluster(f"e2e-{os.getpid()}", tidbs=("source", "target"))
    running.start()
    try:
        yield running
    finally:
        running.stop(keep="SANDBOX_KEEP" in os.environ)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, ready for Backups; it is deleted afterwards, but nobody waits for that."""
    plain = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    name = f"t{next(_numbers)}-{plain[:40].strip('-')}"
    cluster.make_namespace(name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found", check=False)
