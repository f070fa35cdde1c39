"""One sandbox for all workers of a run, and a namespace for each test.

Files whose tests stop a part of the sandbox, slow it down or give it other settings would disturb the others: they have a
``cluster`` of their own.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sandbox import Cluster
from sandbox.api import NAMESPACES, ApiError
from tests.support.sandboxes import WORKER, shared_sandbox

# Workers share the sandbox; and in one that stays up, a name used again would find the data of an earlier run.
_numbers = itertools.count(os.getpid() * 100 if "SANDBOX_USE" in os.environ else 1000 * WORKER + 1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Everything, with two TiDBs; the first that asks starts it. ``SANDBOX_KEEP=1`` keeps the logs when the run ends;
    ``SANDBOX_USE=NAME`` takes a sandbox that is up (``python -m sandbox up --tidb source --tidb target --name NAME``) and
    leaves it up."""
    if "SANDBOX_USE" in os.environ:
        return Cluster(os.environ["SANDBOX_USE"])
    return shared_sandbox(tmp_path_factory.getbasetemp())


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, ready for Backups; it is deleted afterwards, but nobody waits for that."""
    plain = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    name = f"t{next(_numbers)}-{plain[:40].strip('-')}"
    cluster.make_namespace(name)
    yield name
    with suppress(ApiError):
        cluster.api.delete(NAMESPACES, "", name)
