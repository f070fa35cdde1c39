"""Every Job, CR and status of the golden cases is taken by a real API server: nothing refused, nothing pruned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sandbox.api import JOBS, Resource
from sandbox.cluster import Cluster
from tests.support.sandboxes import shared_api_server

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
KINDS = {"backup": "Backup", "restore": "Restore", "compactbackup": "CompactBackup"}
CASES = sorted(path.parent for kind in KINDS for path in GOLDEN.glob(f"{kind}/*/answer.yaml"))
STRICT: Final = {"dryRun": "All", "fieldValidation": "Strict"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    running = shared_api_server(tmp_path_factory.getbasetemp())
    running.kubectl("create", "namespace", "db")
    return running


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
