"""The ladder of TiDB Operator 1.6, rung by rung, and the rules it lacks."""

from typing import Any

import pytest

from app.builders.pods import tools_of
from app.domain.cluster import find
from app.domain.config import ClusterKind, Config
from app.domain.job.observed import JobIntent, Purpose
from app.domain.validation import admit
from crds.contract.versions import split_image
from tests.support.objects import BR_SPEC, EXPORT_SPEC, LOG_SPEC, S3, observed, parent, tidb_cluster

CONFIG = Config()
LOCAL = {"volume": {"name": "v"}, "volumeMount": {"name": "v", "mountPath": "/v"}}


def local(name: str) -> dict[str, Any]:
    return {"volume": {"name": name}, "volumeMount": {"name": name, "mountPath": f"/{name}"}}


def two_volumes(log: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    """A point in time whose log and snapshot lie in volumes."""
    br = {"br": BR_SPEC["br"], "restoreMode": "pitr"}
    return {**br, "local": log, "pitrFullBackupStorageProvider": {"local": full}}


def with_s3(**changes: Any) -> dict[str, Any]:
    return {**EXPORT_SPEC, "s3": {**S3, **changes}}


def with_storage(**storage: Any) -> dict[str, Any]:
    return {"from": EXPORT_SPEC["from"], **storage}


def invalid(spec: dict[str, Any], kind: str = "Backup", *clusters: dict[str, Any]) -> str:
    admission = admit(kind, observed(parent(kind, spec), related=clusters or (tidb_cluster(),)), CONFIG)
    assert admission.waiting is None
    return admission.invalid


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"s3": S3}, "spec.from"),
        ({"s3": S3, "from": {"host": "h", "secretName": ""}}, "missing tidbSecretName config in spec of db/basic"),
        ({"br": {"cluster": ""}, "s3": S3}, "cluster should be configured for BR in spec of db/basic"),
        ({**BR_SPEC, "backupType": "raw"}, "invalid backup type raw for BR"),
        ({**BR_SPEC, "backupType": "db"}, "set br.db"),
        ({**BR_SPEC, "backupType": "table", "br": {"cluster": "c", "db": "d"}}, "set br.db and br.table"),
        ({"br": {"cluster": "basic"}}, "no storage in spec of db/basic"),
        (with_s3(bucket=""), "bucket should be configured for BR in spec of db/basic"),
        (with_s3(endpoint="s3.local"), "scheme not found in endpoint s3.local"),
        (with_s3(endpoint="http://"), "host not found in endpoint http://"),
        (with_s3(endpoint="http://[x"), "invalid endpoint"),
        (with_s3(provider="ceph", endpoint="https://minio"), "InvalidS3Endpoint"),
        (with_s3(prefix="a/../b"), "'.' or '..' part"),
        (with_s3(prefix="a/x.record.json"), "spec.s3.prefix of db/basic has the part 'x.record.json', which is reserved"),
        (with_s3(prefix=".history/a"), "'.history', which is reserved"),
        (with_s3(bucket="b/a.objects.gz"), "'a.objects.gz', which is reserved"),
        ({**BR_SPEC, "s3": {**S3, "prefix": "a.readers"}}, "choose another prefix"),
        ({**BR_SPEC, "s3": {**S3, "prefix": "old/backup.tgz"}}, "'backup.tgz', which is reserved"),
        ({**LOG_SPEC, "s3": {**S3, "prefix": "x.record.json/log"}}, "which is reserved"),
        (with_storage(gcs={"projectId": "", "bucket": "b"}), "projectId should be configured"),
        (with_storage(gcs={"projectId": "p"}), "bucket should be configured"),
        (with_storage(azblob={"storageAccount": "a"}), "container should be configured"),
        (with_storage(azblob={"container": "c"}), "storage account should be configured"),
        (with_storage(azblob={"container": "c", "sasToken": "t", "secretName": "s"}), "storage account should be configured"),
        (with_storage(local={**LOCAL, "volume": {"name": "w"}}), "volumeMount.name"),
        (with_storage(local={**LOCAL, "volumeMount": {"name": "v", "mountPath": "/a:b"}}), "must not contain ':'"),
        ({**EXPORT_SPEC, "gcs": {"projectId": "p", "bucket": "b"}}, "s3"),
        ({**EXPORT_SPEC, "tikvGCLifeTime": "3d"}, "tikvGCLifeTime"),
        ({**BR_SPEC, "backoffRetryPolicy": {"minRetryDuration": "soon"}}, "minRetryDuration"),
        ({**BR_SPEC, "backoffRetryPolicy": {"retryTimeout": "-1s"}}, "must not be negative"),
        ({**LOG_SPEC, "commitTs": "yesterday"}, "commitTs"),
        ({**LOG_SPEC, "logSubcommand": "log-reboot"}, "logSubcommand"),
        ({"backupMode": "log", **EXPORT_SPEC}, "works through br"),
        ({**BR_SPEC, "backupMode": "volume-snapshot"}, "deprecated upstream and gone in its v2"),
        ({**EXPORT_SPEC, "serviceAccount": "Not A Name"}, "no name of a ServiceAccount"),
        ({**BR_SPEC, "cleanPolicy": "Delete", "s3": {**S3, "prefix": ""}}, "would empty the whole bucket"),
        ({**BR_SPEC, "s3": {**S3, "prefx": "x"}}, "spec.s3.prefx: unknown field"),
    ],
)
def test_a_backup_that_cannot_work(spec: dict[str, Any], expected: str) -> None:
    assert expected in invalid(spec)


LOG_RUNGS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"br": None}, {}, "or br to use br"),
    ({"br": None, "from": EXPORT_SPEC["from"]}, {}, "this mode works through br"),
    ({"br": {"cluster": ""}}, {}, "cluster should be configured for BR"),
    ({"br": {}}, {}, "spec.br.cluster"),
    ({"backupType": "raw"}, {}, "invalid backup type raw for BR"),
    ({"backupType": "db", "br": {"cluster": "basic", "db": "shop"}}, {}, "a log backup is of the whole cluster"),
    ({"backupType": "table", "br": {"cluster": "basic", "db": "d", "table": "t"}}, {}, "choose by tableFilter"),
    ({"s3": None}, {}, "no storage in spec of db/basic"),
    ({"s3": {**S3, "bucket": ""}}, {}, "bucket should be configured for BR"),
    ({"s3": {**S3, "prefix": ""}, "cleanPolicy": "Delete"}, {}, "would empty the whole bucket"),
    ({"gcs": {"projectId": "p", "bucket": "b"}}, {}, "s3"),
    ({"commitTs": "yesterday"}, {}, "spec.commitTs: 'yesterday' is no timestamp"),
    ({"commitTs": "2026-02-30 00:00:00"}, {}, "day is out of range for month"),
    ({"logTruncateUntil": "soon"}, {}, "spec.logTruncateUntil: 'soon' is no timestamp"),
    ({"logTruncateUntil": "9" * 30}, {}, "larger than any TSO"),
    ({"logSubcommand": "log-truncate"}, {}, "spec.logSubcommand: must be one of 'log-start', 'log-stop' or 'log-pause'"),
    ({"logSubcommand": "log-start", "logStop": True}, {}, "logStop is the old way to say logSubcommand: log-stop"),
    ({"logSubcommand": "log-stop", "logStop": False}, {}, "logStop is the old way"),
    ({"backoffRetryPolicy": {"minRetryDuration": "soon"}}, {}, "minRetryDuration"),
    ({"backoffRetryPolicy": {"retryTimeout": "-1s"}}, {}, "must not be negative"),
    ({"backupMode": "logs"}, {}, "spec.backupMode: must be one of"),
    ({}, {"version": "v6.0.0"}, "log backup in db/basic needs TiKV v6.1.0 or newer, not v6.0.0"),
    ({}, {"version": "v4.0.7"}, "missing cluster config in spec of db/basic: set spec.from.host"),
]


@pytest.mark.parametrize(("spec", "cluster", "expected"), LOG_RUNGS)
def test_a_log_backup_that_cannot_work(spec: dict[str, Any], cluster: dict[str, Any], expected: str) -> None:
    merged = {key: value for key, value in {**LOG_SPEC, **spec}.items() if value is not None}
    assert expected in invalid(merged, "Backup", tidb_cluster(**cluster))


@pytest.mark.parametrize(
    "field", [{"logSubcommand": "log-start"}, {"logSubcommand": "log-stop"}, {"logStop": True}, {"logTruncateUntil": "450"}]
)
@pytest.mark.parametrize("base", [BR_SPEC, EXPORT_SPEC])
def test_a_field_of_a_log_backup_elsewhere(base: dict[str, Any], field: dict[str, Any]) -> None:
    (name,) = field
    assert invalid({**base, **field}) == f"spec.{name} of db/basic is of a log backup: set backupMode: log, or remove it"


@pytest.mark.parametrize("version", ["v6.1.0", "v8.5.0", "v6.1.0-alpha-12-g1234567", "nightly", "latest"])
def test_a_log_backup_of_a_cluster_that_knows_it(version: str) -> None:
    assert invalid(LOG_SPEC, "Backup", tidb_cluster(version=version)) == ""


@pytest.mark.parametrize(
    "spec",
    [
        EXPORT_SPEC,
        BR_SPEC,
        LOG_SPEC,
        {**BR_SPEC, "logStop": False},
        {**LOG_SPEC, "logStop": True, "logTruncateUntil": "2026-01-31 00:00:00", "backupType": "full"},
        with_s3(provider="ceph", endpoint="minio:9000"),
        with_s3(endpoint="https://minio:9000/x"),
        with_storage(azblob={"container": "c", "secretName": "s"}),
        with_storage(azblob={"container": "c", "storageAccount": "a"}),
        with_storage(local=LOCAL),
        {**EXPORT_SPEC, "cleanPolicy": "Delete", "s3": {**S3, "prefix": ""}},
        {**BR_SPEC, "serviceAccount": "team-a.backup"},
    ],
)
def test_a_backup_that_can(spec: dict[str, Any]) -> None:
    assert invalid(spec) == ""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"s3": S3}, "spec.to"),
        ({"to": EXPORT_SPEC["from"], "s3": {"provider": "aws"}}, "bucket should be configured"),
        ({**BR_SPEC, "restoreMode": "pitr"}, "restoreMode pitr needs a start"),
        (
            {**BR_SPEC, "restoreMode": "pitr", "logRestoreStartTs": "1", "pitrFullBackupStorageProvider": {"s3": S3}},
            "exclude each other",
        ),
        (
            {**BR_SPEC, "restoreMode": "pitr", "pitrFullBackupStorageProvider": {"s3": {**S3, "bucket": ""}}},
            "pitrFullBackupStorageProvider",
        ),
        ({**BR_SPEC, "restoreMode": "volume-snapshot"}, "gone in its v2"),
        ({"to": EXPORT_SPEC["from"], "restoreMode": "pitr", "logRestoreStartTs": "1", "s3": S3}, "this mode works through br"),
        ({**BR_SPEC, "replicationConfig": {"compactBackupName": "c"}}, "replicationConfig is only for pitr"),
        (
            {**BR_SPEC, "restoreMode": "pitr", "logRestoreStartTs": "1", "replicationConfig": {}},
            "compactBackupName: is required",
        ),
        (
            {
                **BR_SPEC,
                "restoreMode": "pitr",
                "logRestoreStartTs": "1",
                "replicationConfig": {"compactBackupName": "c", "waitTimeout": "3d"},
            },
            "waitTimeout: '3d' is no duration",
        ),
        ({**BR_SPEC, "restoreMode": "pitr", "logRestoreStartTs": "1", "pitrRestoredTs": "now"}, "pitrRestoredTs"),
        ({**BR_SPEC, "prune": "always"}, "spec.prune: must be one of"),
        (
            two_volumes(LOCAL, {**LOCAL, "volume": {"name": "v", "nfs": {"server": "n", "path": "/"}}}),
            "two volumes of one name",
        ),
        (two_volumes(LOCAL, {**local("w"), "volumeMount": {"name": "w", "mountPath": "/v/"}}), "differ but have one mountPath"),
    ],
)
def test_a_restore_that_cannot_work(spec: dict[str, Any], expected: str) -> None:
    assert expected in invalid(spec, "Restore")


def test_an_import_may_name_an_archive_instead_of_a_folder() -> None:
    assert invalid({"to": EXPORT_SPEC["from"], "s3": {"provider": "aws", "path": "b/x.tgz"}}, "Restore") == ""


@pytest.mark.parametrize(
    ("spec", "cluster", "expected"),
    [
        (BR_SPEC, tidb_cluster(version="v4.0.7"), "missing cluster config in spec of db/basic"),
        (BR_SPEC, tidb_cluster(version="v4.0.8"), ""),
        (BR_SPEC, tidb_cluster(version="nightly"), ""),
        (LOG_SPEC, tidb_cluster(version="v6.0.0"), "needs TiKV v6.1.0 or newer"),
        (LOG_SPEC, tidb_cluster(version="v6.1.0"), ""),
        (BR_SPEC, tidb_cluster(version="", tikv={"image": "pingcap/tikv@sha256:abc"}), "set spec.toolImage with a tag"),
    ],
)
def test_what_the_version_of_the_cluster_rules_out(spec: dict[str, Any], cluster: dict[str, Any], expected: str) -> None:
    found = invalid(spec, "Backup", cluster)
    assert expected in found
    assert bool(expected) == bool(found)


def v2(**spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    version = "core.pingcap.com/v1alpha1"
    meta = {"namespace": "db", "name": "basic"}
    cluster = {"apiVersion": version, "kind": "Cluster", "metadata": meta, "spec": spec, "status": {"pd": "https://pd.db:2379"}}
    group = {
        "apiVersion": version,
        "kind": "TiKVGroup",
        "metadata": {"namespace": "db", "name": "kv"},
        "spec": {"cluster": {"name": "basic"}, "template": {"spec": {"version": "v8.5.1"}}},
    }
    return cluster, group


def test_a_v2_cluster_is_ready_with_a_pd_and_a_tikv_group() -> None:
    config = Config(cluster_kinds=(ClusterKind.CLUSTER,))
    cr = parent("Backup", BR_SPEC)
    found = find(observed(cr, related=v2(tlsCluster={"enabled": True})), config)
    assert found is not None
    assert (found.ready, found.version, found.tls, found.pd_addr) == (True, "v8.5.1", True, "pd.db:2379")
    lonely = find(observed(cr, related=v2()[:1]), config)
    assert lonely is not None
    assert not lonely.ready


@pytest.mark.parametrize(
    ("full", "log"), [(LOCAL, LOCAL), (LOCAL, {**LOCAL, "prefix": "x"}), (LOCAL, local("w")), (local("w"), LOCAL)]
)
def test_log_and_snapshot_may_lie_in_one_volume_or_in_two(full: dict[str, Any], log: dict[str, Any]) -> None:
    assert invalid(two_volumes(log, full), "Restore") == ""


ADDRESS = "10.0.0.1:2379"


@pytest.mark.parametrize(
    ("options", "annotation"),
    [
        ([], ADDRESS),
        ([f"--pd={ADDRESS}"], None),
        (["--log-level=debug", "--pd", ADDRESS], None),
        (["-u", ADDRESS], None),
        ([f"--pd={ADDRESS}"], "another:2379"),
    ],
)
def test_a_cluster_outside_of_kubernetes_is_the_address_of_its_pd(options: list[str], annotation: str | None) -> None:
    meta: dict[str, Any] = {"annotations": {"tidb.pingcap.com/pd-addr": annotation}} if annotation else {}
    spec = {**BR_SPEC, "br": {"cluster": "far", "options": options}, "toolImage": "pingcap/br:v7.5.1"}
    admission = admit("Backup", observed(parent("Backup", spec, **meta)), CONFIG)
    assert (admission.invalid, admission.waiting) == ("", None)
    assert admission.cluster is not None
    found = (admission.cluster.pd_addr, admission.cluster.version, admission.cluster.name, admission.cluster.tls)
    assert found == (ADDRESS, "v7.5.1", "far", False)


def test_of_a_cluster_outside_somebody_must_say_which_br_fits() -> None:
    cr = parent("Backup", BR_SPEC, annotations={"tidb.pingcap.com/pd-addr": ADDRESS})
    assert "no object in Kubernetes tells its version" in admit("Backup", observed(cr), CONFIG).invalid


def test_an_address_does_not_hide_the_object_of_a_cluster() -> None:
    cr = parent("Backup", BR_SPEC, annotations={"tidb.pingcap.com/pd-addr": ADDRESS})
    found = find(observed(cr, related=(tidb_cluster(tlsCluster={"enabled": True}),)), CONFIG)
    assert found is not None
    assert (found.pd_addr, found.version, found.tls) == (ADDRESS, "v8.5.0", True)


def test_a_cluster_that_is_not_found_may_be_one_outside() -> None:
    admission = admit("Backup", observed(parent("Backup", BR_SPEC)), CONFIG)
    assert admission.waiting is not None
    assert "tidb.pingcap.com/pd-addr" in admission.waiting[1]


def test_with_no_kind_to_look_up_the_cluster_is_taken_on_trust() -> None:
    config = Config(cluster_kinds=())
    admission = admit("Backup", observed(parent("Backup", {**BR_SPEC, "toolImage": "pingcap/br:v8.5.0"})), config)
    assert admission.cluster is not None
    assert not admission.invalid


DIGEST = "@sha256:abc"


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({}, "nothing tells which br fits cluster db/basic (no object in Kubernetes tells its version)"),
        ({"tikvImage": "pingcap/tikv:v8.5.0"}, "set spec.toolImage with a tag"),
        ({"toolImage": "registry:5000/br", "tikvImage": "pingcap/tikv:v8.5.0"}, "set spec.toolImage with a tag"),
        ({"toolImage": "pingcap/br:v8.5.0"}, ""),  # tikv-ctl takes the tag of br
        ({"toolImage": "pingcap/br:v8.5.0", "tikvImage": "registry:5000/tikv"}, ""),
        ({"toolImage": f"pingcap/br{DIGEST}"}, "set spec.tikvImage with a tag"),
        ({"toolImage": f"pingcap/br{DIGEST}", "tikvImage": "registry:5000/tikv"}, "set spec.tikvImage with a tag"),
        ({"toolImage": f"pingcap/br{DIGEST}", "tikvImage": f"pingcap/tikv{DIGEST}"}, ""),
    ],
)
def test_a_compaction_without_a_cluster_to_ask_pulls_no_latest(images: dict[str, str], expected: str) -> None:
    spec = {**BR_SPEC, "startTs": "1", "endTs": "2", **images}
    seen = observed(parent("CompactBackup", spec))
    admission = admit("CompactBackup", seen, Config(cluster_kinds=()))
    assert expected in admission.invalid
    assert bool(expected) == bool(admission.invalid)
    if admission.cluster:
        intent = JobIntent(name="compact", purpose=Purpose.COMPACT, cluster=admission.cluster)
        assert [tool.name for tool, image in tools_of(seen.spec, intent) if not split_image(image).pinned] == []
