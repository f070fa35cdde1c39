"""The CRDs on a real API server: they are accepted, accept what they should, and refuse the rest in words."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.domain.times import witnessed
from crds import generate
from crds.v1alpha1 import KINDS
from crds.v1alpha1.common import Model
from sandbox.api import ApiError
from sandbox.cluster import Cluster
from sandbox.patience import until
from tests.support.sandboxes import shared_api_server

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DOCUMENTS = sorted([*(ROOT / "examples").glob("*.yaml"), *(GOLDEN / "operator_docs").glob("*.yaml")])
BROKEN: list[dict[str, Any]] = yaml.safe_load((GOLDEN / "crds" / "broken_specs.yaml").read_text())
NAMESPACES = ("backup-test", "restore-test", "tidb-admin")
API_VERSION = "pingcap.com/v1alpha1"
TIME = "2026-01-31T02:00:00Z"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    running = shared_api_server(tmp_path_factory.getbasetemp())
    for name in NAMESPACES:
        running.kubectl("create", "namespace", name)
    return running


def test_every_crd_is_structural_and_served(cluster: Cluster) -> None:
    for model in KINDS.values():
        crd = cluster.get("apiextensions.k8s.io/v1/CustomResourceDefinition", f"{model.PLURAL}.pingcap.com")
        assert crd is not None
        conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert "NonStructuralSchema" not in conditions
        assert crd["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_documents_apply_unchanged(cluster: Cluster, path: Path) -> None:
    cluster.kubectl("apply", f"--filename={path}")
    for wanted in yaml.safe_load_all(path.read_text()):
        if not wanted or wanted["kind"] not in KINDS:
            continue
        namespace = wanted["metadata"].get("namespace", "default")
        stored = cluster.get(wanted["kind"], wanted["metadata"]["name"], namespace)
        assert stored is not None
        assert _part_of(wanted["spec"], stored["spec"]), "the API server dropped a field"
        # What the API server filled in is what the model fills in.
        model = KINDS[wanted["kind"]]
        assert (
            model.model_validate(_without_status(stored)).model_dump(mode="json")["spec"]
            == (model.model_validate(wanted).model_dump(mode="json")["spec"])
        )


def _part_of(wanted: Any, stored: Any) -> bool:
    if isinstance(wanted, Mapping):
        return all(key in stored and _part_of(value, stored[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(wanted) == len(stored) and all(map(_part_of, wanted, stored))
    return bool(wanted == stored)


def _without_status(resource: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "status"}


@pytest.fixture(scope="module")
def answers(cluster: Cluster) -> dict[str, str]:
    """What the API server says to each broken spec, by the name of the case."""
    return {case["name"]: _try(cluster, case) for case in BROKEN}


def _try(cluster: Cluster, case: Mapping[str, Any]) -> str:
    """As ``kubectl create --dry-run=server`` does it, which is slow to start fifty times."""
    document = {"apiVersion": API_VERSION, "kind": case["kind"], "metadata": {"name": "broken"}, "spec": case["spec"]}
    resource = cluster.api.resource_of(API_VERSION, case["kind"])
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        cluster.api.request("POST", resource.path("default"), document, query=query)
    except ApiError as error:
        return str(error)
    return "created"


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["name"])
def test_broken_specs_are_refused(answers: dict[str, str], case: dict[str, Any]) -> None:
    said = answers[case["name"]]
    if case.get("server") == "accepts":
        assert "created" in said
    else:
        assert "created" not in said
        assert case.get("server", case["says"]) in said


def test_every_rule_is_broken_by_some_case(answers: dict[str, str]) -> None:
    said = "".join(answers.values())
    assert {rule.message for model in _models() for rule in model.rules() if rule.message not in said} == set()


def _models() -> list[type[Model]]:
    found: list[type[Model]] = [Model]
    for model in found:
        found += model.__subclasses__()
    return found


def test_defaults_are_filled_in(cluster: Cluster) -> None:
    spec = {"br": {"cluster": "c"}, "cleanOption": {}}
    stored = _create(cluster, "Backup", "defaults", spec)["spec"]
    assert (stored["backupMode"], stored["cleanPolicy"]) == ("snapshot", "Retain")
    assert stored["backoffRetryPolicy"] == {"minRetryDuration": "300s", "maxRetryTimes": 2, "retryTimeout": "30m"}
    assert stored["cleanOption"] == {"retryCount": 5, "snapshotsDeleteRatio": 1}


def test_a_null_is_absence(cluster: Cluster) -> None:
    spec = {"br": {"cluster": "c", "db": None}, "cleanPolicy": None, "s3": None}
    stored = _create(cluster, "Backup", "nulls", spec)["spec"]
    assert stored["cleanPolicy"] == "Retain"
    assert "s3" not in stored
    assert "db" not in stored["br"]


def _create(cluster: Cluster, kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    resource = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    stored: dict[str, Any] = json.loads(cluster.kubectl("create", "--filename=-", "-o", "json", text=json.dumps(resource)))
    return stored


SPECS: dict[str, dict[str, Any]] = {
    "Backup": {"br": {"cluster": "c"}, "backupType": "full"},
    "Restore": {"br": {"cluster": "c"}},
    "BackupSchedule": {
        "schedule": "0 2 * * *",
        "maxReservedTime": "72h",
        "maxBackups": 3,
        "backupTemplate": {"br": {"cluster": "c"}},
    },
    "CompactBackup": {"br": {"cluster": "c"}, "startTs": "1", "endTs": "2"},
}
SHOWN = {
    "Backup": "full snapshot phase progress backupPath backupSizeReadable incrementalBackupSizeReadable commitTs"
    " logSuccessTruncateUntil timeTaken",
    "Restore": "phase progress timeTaken commitTs",
    "BackupSchedule": "0 2 * * * 3 72h lastBackup",
    "CompactBackup": "state endTs progress message",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_status_is_kept_and_shown(cluster: Cluster, kind: str) -> None:
    _create(cluster, kind, "full-status", SPECS[kind])
    status = _sample(generate.openapi_schema(KINDS[kind])["properties"]["status"], "status")
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", kind, "full-status", "--subresource=status", "--type=merge", f"--patch={patch}")
    stored = json.loads(cluster.kubectl("get", kind, "full-status", "-o", "json"))
    assert stored["status"] == status
    assert stored["metadata"]["generation"] == 1
    assert KINDS[kind].model_validate(stored).model_dump(mode="json", exclude_unset=True)["status"] == status

    header, row = cluster.kubectl("get", KINDS[kind].SHORT, "full-status", "-o", "wide").splitlines()
    assert header.split() == ["NAME", *(column.name.upper() for column in KINDS[kind].COLUMNS)]
    assert all(word in row.split() for word in SHOWN[kind].split())
    narrow = cluster.kubectl("get", KINDS[kind].SHORT, "full-status").splitlines()[0]
    assert narrow.split() == ["NAME", *(column.name.upper() for column in KINDS[kind].COLUMNS if not column.priority)]


def _sample(schema: Mapping[str, Any], name: str) -> Any:
    """A value with every field that *schema* knows; texts hold the name of their field."""
    if "properties" in schema:
        return {key: _sample(part, key) for key, part in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), Mapping):
        return {"log-start": _sample(schema["additionalProperties"], name)}
    if "items" in schema:
        return [_sample(schema["items"], name)]
    if "enum" in schema:
        return schema["enum"][-1]
    if schema.get("format") == "date-time":
        return TIME
    return {"string": name, "integer": 7, "number": 42.5, "boolean": True}[schema["type"]]


def test_a_plain_update_cannot_touch_the_status(cluster: Cluster) -> None:
    _create(cluster, "Backup", "no-status", SPECS["Backup"])
    cluster.kubectl("patch", "bk", "no-status", "--type=merge", '--patch={"status":{"phase":"Complete"}}')
    stored = json.loads(cluster.kubectl("get", "bk", "no-status", "-o", "json"))
    assert "status" not in stored


def test_fields_are_explained(cluster: Cluster) -> None:
    assert "What becomes of the data" in cluster.kubectl("explain", "backup.spec.cleanPolicy")
    assert "IANA name" in cluster.kubectl("explain", "backupschedule.spec.timeZone")


def test_each_write_of_a_status_carries_the_time_of_the_api_server(cluster: Cluster) -> None:
    """What a schedule compares the webhook's clock with: whole statuses put again by one manager, as Metacontroller does."""
    _create(cluster, "BackupSchedule", "clock", SPECS["BackupSchedule"])
    resource = cluster.api.resource_of(API_VERSION, "BackupSchedule")

    def wrote(shown: str) -> datetime:
        live = cluster.api.get(resource, "default", "clock")
        cluster.api.replace(resource, {**live, "status": {"clockCheck": {"shown": shown}}}, subresource="status")
        found = witnessed(cluster.api.get(resource, "default", "clock"))
        assert found is not None
        return found

    first = wrote("2026-01-31T02:00:00Z")
    # Times are told by the second, and another one must have begun.
    until(lambda: datetime.now(UTC).replace(microsecond=0) > first, "the next second")
    assert wrote("2026-01-31T02:00:00Z") == first, "a write that changes nothing is none"
    assert wrote("2027-01-31T02:00:00Z") > first
