"""Point-in-time restores: what must hold before the Job may run."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.config import ClusterKind, Config
from app.domain.decision import Decision
from app.domain.job.observed import JobIntent
from app.domain.restore.pitr import GC_ANNOTATION
from app.domain.restore.reconcile import decide, related
from crds.contract import tso
from tests.support.objects import BR_SPEC, NOW, S3, at, observed, parent, tidb_cluster

PITR: dict[str, Any] = {**BR_SPEC, "restoreMode": "pitr", "pitrFullBackupStorageProvider": {"s3": S3}}
OFF = tidb_cluster(tikv={"baseImage": "pingcap/tikv", "config": "[gc]\nratio-threshold = -1.0"})
LABELS = {"tidb.pingcap.com/backup-schedule": "nightly"}


def text(seconds: float) -> str:
    return at(seconds).replace("T", " ").rstrip("Z")


def schedule(window: Any) -> dict[str, Any]:
    return {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "BackupSchedule",
        "metadata": {"namespace": "db", "name": "nightly"},
        "status": {"recoveryWindow": window} if window else {},
    }


def sync(spec: Any, *objects: Any, config: Any = None, **meta: Any) -> Decision[JobIntent]:
    seen = observed(parent("Restore", {**PITR, **spec}, **meta), related=objects)
    return decide(seen, NOW + timedelta(hours=1), config or Config())


def why(decision: Decision[JobIntent]) -> tuple[str, str]:
    found = decision.status["conditions"][-1]
    assert not decision.create
    return str(found["type"]), f"{found['reason']}: {found['message']}"


@pytest.mark.parametrize(
    "tikv",
    [
        {},
        {"config": ""},
        {"config": "[gc]\nratio-threshold = 1.1"},
        {"config": "[gc"},
        {"config": "ratio-threshold = -1"},
        {"config": {"gc": {"ratio-threshold": "-1"}}},
        {"config": {"gc": -1}},
        {"config": "[gc]\nratio-threshold = true"},
    ],
)
def test_while_tikv_may_collect_versions_the_restore_waits_and_says_what_to_set(tikv: dict[str, Any]) -> None:
    kind, told = why(sync({}, tidb_cluster(tikv={"baseImage": "pingcap/tikv", **tikv})))
    assert kind == "Waiting"
    assert told.startswith("GCNotSwitchedOff: ")
    assert "set ratio-threshold = -1.0 under [gc] in spec.tikv.config of cluster db/basic" in told
    assert "SET CONFIG tikv `gc.ratio-threshold` = -1" in told
    assert f'{GC_ANNOTATION}="true"' in told


@pytest.mark.parametrize(
    "config", ["[gc]\nratio-threshold = -1", "[gc]\nratio-threshold = -1.0", {"gc": {"ratio-threshold": -1}}]
)
def test_a_cluster_that_collects_nothing_is_restored_into(config: Any) -> None:
    assert sync({}, tidb_cluster(tikv={"baseImage": "pingcap/tikv", "config": config})).create


def test_the_annotation_opens_the_gate_and_only_true_does() -> None:
    assert sync({}, tidb_cluster(), annotations={GC_ANNOTATION: "true"}).create
    assert not sync({}, tidb_cluster(), annotations={GC_ANNOTATION: "yes"}).create


def test_a_cluster_of_the_second_operator_says_it_in_its_tikv_group() -> None:
    version, meta = "core.pingcap.com/v1alpha1", {"namespace": "db", "name": "basic"}
    cluster = {"apiVersion": version, "kind": "Cluster", "metadata": meta, "status": {"pd": "https://pd.db:2379"}}
    template = {"spec": {"version": "v8.5.1", "config": "[gc]\nratio-threshold = 2"}}
    group = {
        "apiVersion": version,
        "kind": "TiKVGroup",
        "metadata": meta,
        "spec": {"cluster": {"name": "basic"}, "template": template},
    }
    config = Config(cluster_kinds=(ClusterKind.CLUSTER,))
    assert "spec.template.spec.config of the TiKVGroup" in why(sync({}, cluster, group, config=config))[1]
    template["spec"]["config"] = "[gc]\nratio-threshold = -1"
    assert sync({}, cluster, group, config=config).create


def test_a_cluster_without_an_object_needs_the_annotation() -> None:
    annotations = {"tidb.pingcap.com/pd-addr": "10.0.0.1:2379"}
    spec = {"toolImage": "pingcap/br:v8.5.0"}
    _, told = why(sync(spec, annotations=annotations))
    assert "run SET CONFIG" in told
    assert "under [gc]" not in told
    assert sync(spec, annotations={**annotations, GC_ANNOTATION: "true"}).create


def test_other_restores_have_no_gate() -> None:
    cr = parent("Restore", BR_SPEC)
    assert decide(observed(cr, related=(tidb_cluster(),)), NOW, Config()).create


WINDOW = {"from": at(0), "to": at(9_000), "gaps": [{"from": at(0), "to": at(3_600)}, {"from": at(3_600), "to": at(4_000)}]}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (text(9_001), f"the latest is {at(9_000)}"),
        (text(10**6), f"is after what BackupSchedule nightly can restore; the latest is {at(9_000)}"),
        (text(-1), f"the earliest is {at(0)}"),
        (text(1), f"the nearest are {at(0)} and {at(3_600)}"),
        (text(3_599), f"the nearest are {at(0)} and {at(3_600)}"),
        (text(3_601), f"the nearest are {at(3_600)} and {at(4_000)}"),
    ],
)
def test_a_target_that_cannot_be_restored_is_invalid_with_the_nearest_that_can(target: str, told: str) -> None:
    for written in (target, str(tso.parse(target))):
        kind, message = why(sync({"pitrRestoredTs": written}, OFF, schedule(WINDOW), labels=LABELS))
        assert kind == "Invalid"
        assert told in message


@pytest.mark.parametrize("seconds", [0, 3_600, 4_000, 4_001, 8_999, 9_000, 9_000.9])
def test_a_target_in_the_window_is_restored(seconds: float) -> None:
    target = str(int((NOW.timestamp() + seconds) * 1000) << 18)
    assert sync({"pitrRestoredTs": target}, OFF, schedule(WINDOW), labels=LABELS).create


@pytest.mark.parametrize(
    ("window", "labels"),
    [(None, LABELS), ({}, LABELS), ({"from": "soon", "to": at(0)}, LABELS), (WINDOW, {}), (WINDOW, {**LABELS, "x": "y"})],
)
def test_without_a_window_or_a_target_the_manager_decides(window: Any, labels: dict[str, str]) -> None:
    other = schedule(window)
    if labels.get("x"):
        other["metadata"]["name"] = "another"
    assert sync({"pitrRestoredTs": text(10**6)}, OFF, other, labels=labels).create
    assert sync({}, OFF, other, labels=labels).create


def test_a_lost_schedule_does_not_keep_anybody_from_restoring() -> None:
    assert sync({"pitrRestoredTs": text(10**6)}, OFF, labels=LABELS).create


@pytest.mark.parametrize(("target", "valid"), [("500", False), ("499", False), ("501", True), ("", True)])
def test_the_target_lies_after_the_start_of_the_log(target: str, valid: bool) -> None:
    spec = {"pitrRestoredTs": target, "logRestoreStartTs": "500", "pitrFullBackupStorageProvider": None}
    assert bool(sync(spec, OFF).create) is valid


def test_the_log_catching_up_lifts_the_refusal() -> None:
    refused = sync({"pitrRestoredTs": text(9_500)}, OFF, schedule(WINDOW), labels=LABELS)
    assert refused.status["phase"] == "Invalid"
    later = schedule({**WINDOW, "to": at(9_600)})
    assert sync({"pitrRestoredTs": text(9_500)}, OFF, later, labels=LABELS, status=refused.status).create


def test_customize_asks_for_the_schedule_that_the_label_names() -> None:
    rules = related(parent("Restore", PITR, labels=LABELS), Config())
    assert {
        "apiVersion": "pingcap.com/v1alpha1",
        "resource": "backupschedules",
        "namespace": "db",
        "names": ["nightly"],
    } in rules
    for other in (parent("Restore", PITR), parent("Restore", BR_SPEC, labels=LABELS)):
        assert "backupschedules" not in {rule["resource"] for rule in related(other, Config())}
