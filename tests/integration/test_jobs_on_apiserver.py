"""Every Job, CR and status of the golden cases is taken by a real API server: nothing refused, nothing pruned."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from crds import generate
from sandbox.api import JOBS, Resource
from sandbox.cluster import Cluster

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
KINDS = {"backup": "Backup", "restore": "Restore", "compactbackup": "CompactBackup"}
CASES = sorted(path.parent for kind in KINDS for path in GOLDEN.glob(f"{kind}/*/answer.yaml"))
STRICT: Final = {"dryRun": "All", "fieldValidation": "Strict"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """etcd and a kube-apiserver that serves the committed CRDs; nothing that reacts to a resource."""
    with Cluster(f"jobs-{time.monotonic_ns() % 10**6}", tidbs=(), parts=frozenset()) as running:
        running.kubectl("apply", *(f"--filename={path}" for path in generate.files()))
        running.kubectl("wait", "--for=condition=Established", "crd", "--all")
        running.kubectl("create", "namespace", "db")
        yield running


def test_there_are_cases() -> None:
    assert {case.parent.name for case in CASES} == set(KINDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_the_api_server_takes_it(cluster: Cluster, case: Path) -> None:
    answer: Mapping[str, Any] = yaml.safe_load((case / "answer.yaml").read_text())
    for child in answer["children"]:
        if "spec" in child:
            stored = cluster.api.request("POST", JOBS.path("db"), child, query=STRICT)
            assert _values(stored) == _values(child)
    cr = yaml.safe_load((case / "request.yaml").read_text())["parent"]
    kind = KINDS[case.parent.name]
    resource = Resource(cr["apiVersion"], f"{kind.lower()}s", kind, namespaced=True)
    bare = {"apiVersion": cr["apiVersion"], "kind": kind, "metadata": {"name": case.name, "namespace": "db"}}
    cluster.api.request("POST", resource.path("db"), {**bare, "spec": cr["spec"]}, query={"fieldValidation": "Strict"})
    patched = cluster.api.patch(resource, "db", case.name, {"status": answer["status"]}, subresource="status")
    assert patched["status"] == answer["status"]


def _values(job: Mapping[str, Any]) -> dict[str, str]:
    """Literal environment by name (the server leaves an empty value out), the U+0001 of BR_LOG_TO_TERM included."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}
