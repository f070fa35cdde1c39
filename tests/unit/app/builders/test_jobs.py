"""Jobs against the tables of TiDB Operator 1.6 (2.7 and 4.3 of its facts), where the golden files do not go."""

from dataclasses import replace
from typing import Any

import pytest

from app.builders.env import environment, storage
from app.builders.jobs import build
from app.builders.pods import container_security, pod_security
from app.domain.cluster import Cluster
from app.domain.config import Config
from app.domain.job.observed import JobIntent, Purpose
from crds.contract import names
from tests.support.objects import BR_SPEC, EXPORT_SPEC, LOG_SPEC, S3, UID, observed, parent

CONFIG = Config(time_zone="Asia/Shanghai")
CLUSTER = Cluster(namespace="db", name="basic", version="v8.5.0")


def made(spec: dict[str, Any], purpose: Purpose, *, kind: str = "Backup", meta: Any = None, **intent: Any) -> dict[str, Any]:
    wanted = JobIntent(name="job", purpose=purpose, **intent)
    return build(observed(parent(kind, spec, **(meta or {}))), wanted, CONFIG)


def container(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return found


def values(env: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}


def key(secret: str, name: str, **more: Any) -> dict[str, Any]:
    return {"secretKeyRef": {"name": secret, "key": name, **more}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"provider": "aws"}, ("", "private", "STANDARD_IA")),
        ({"provider": "aws", "acl": "public-read", "storageClass": "GLACIER"}, ("", "public-read", "GLACIER")),
        ({"provider": "ceph", "endpoint": "minio:9000"}, ("http://minio:9000", "", "")),
        ({"provider": "ceph", "endpoint": "http://minio:9000"}, ("http://minio:9000", "", "")),
        ({"provider": "alibaba", "endpoint": "https://oss"}, ("https://oss", "", "")),
    ],
)
def test_s3_always_sets_five_values(given: dict[str, str], expected: tuple[str, str, str]) -> None:
    env = values(storage({"s3": given}))
    assert set(env) == {"S3_PROVIDER", "S3_ENDPOINT", "AWS_REGION", "AWS_ACL", "AWS_STORAGE_CLASS"}
    assert (env["S3_ENDPOINT"], env["AWS_ACL"], env["AWS_STORAGE_CLASS"]) == expected


def test_s3_with_kms_and_secret() -> None:
    env = storage({"s3": S3, "useKMS": True})
    assert [entry["name"] for entry in env][5:] == ["AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(
    ("given", "account", "others"),
    [
        ({"secretName": "s"}, key("s", "AZURE_STORAGE_ACCOUNT"), 4),
        ({"secretName": "s", "storageAccount": "a"}, "a", 4),
        ({"secretName": "s", "storageAccount": "a", "sasToken": "t"}, "a", 0),
    ],
)
def test_azure_leaves_the_choice_to_the_manager(given: dict[str, str], account: Any, others: int) -> None:
    env = values(storage({"azblob": given}))
    assert env["AZURE_STORAGE_ACCOUNT"] == account
    assert env["AZURE_ACCESS_TIER"] == "Cool"
    assert "t" not in env.values()
    optional = [name for name, value in env.items() if value == key("s", name, optional=True)]
    assert len(optional) == others


PITR = {"br": {"cluster": "basic"}, "s3": S3, "restoreMode": "pitr"}


def test_the_snapshot_of_a_point_in_time_has_an_account_of_its_own() -> None:
    spec = {**PITR, "pitrFullBackupStorageProvider": {"s3": {**S3, "secretName": "full"}}}
    env = values(container(made(spec, Purpose.RESTORE, kind="Restore", cluster=CLUSTER))["env"])
    assert env["AWS_ACCESS_KEY_ID"] == key("s3-secret", "access_key")
    assert env["FULL_BACKUP_AWS_ACCESS_KEY_ID"] == key("full", "access_key")
    own = made(
        {**spec, "env": [{"name": "FULL_BACKUP_AWS_REGION", "value": "x"}]}, Purpose.RESTORE, kind="Restore", cluster=CLUSTER
    )
    assert values(container(own)["env"])["FULL_BACKUP_AWS_REGION"] == "x"


def test_log_and_snapshot_in_one_volume_are_mounted_once() -> None:
    volume = {"volume": {"name": "v", "nfs": {}}, "volumeMount": {"name": "v", "mountPath": "/v"}}
    del (spec := {**PITR, "local": volume, "pitrFullBackupStorageProvider": {"local": {**volume, "prefix": "full"}}})["s3"]
    job = made(spec, Purpose.RESTORE, kind="Restore", cluster=CLUSTER)
    assert [found["name"] for found in job["spec"]["template"]["spec"]["volumes"]] == ["br-bin", "v", "tmp"]
    assert [mount["mountPath"] for mount in container(job)["volumeMounts"]].count("/v") == 1


def test_the_watch_is_light_and_lives_as_long_as_its_task() -> None:
    spec = {**LOG_SPEC, "resources": {"requests": {"cpu": "16"}}}
    job = made(spec, Purpose.WATCH, command="log-watch", cluster=CLUSTER)
    assert container(job)["args"][:3] == ["log-watch", "--namespace=db", "--backupName=basic"]
    assert container(job)["resources"]["requests"] == {"cpu": "10m", "memory": "64Mi"}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert job["spec"]["backoffLimit"] == 2**31 - 1
    assert "activeDeadlineSeconds" not in job["spec"]


def test_the_watch_gets_no_secret_but_the_clusters_and_no_tool() -> None:
    access = {"host": "tidb", "secretName": "tidb-secret", "tlsClientSecretName": "tidb-tls"}
    cluster = replace(CLUSTER, tls=True, tidb_tls=True)
    job = made({**LOG_SPEC, "from": access}, Purpose.WATCH, command="log-watch", cluster=cluster)
    assert "initContainers" not in job["spec"]["template"]["spec"]
    assert not [entry for entry in container(job)["env"] if "secretKeyRef" in entry.get("valueFrom", {})]
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert [volume["secret"]["secretName"] for volume in volumes if "secret" in volume] == ["basic-cluster-client-secret"]
    assert "--client-tls=true" not in container(job)["args"]


def test_a_local_volume_needs_no_environment() -> None:
    assert storage({"local": {"prefix": "x"}}) == []


def test_the_order_is_password_storage_br_own_zone_and_nothing_overrides_who_we_are() -> None:
    spec = {
        **BR_SPEC,
        "from": EXPORT_SPEC["from"],
        "env": [{"name": "S3_PROVIDER", "value": "x"}, {"name": "MINE", "value": "1"}, {"name": "CR_UID", "value": "forged"}],
    }
    env = environment(observed(parent("Backup", spec)), JobIntent(name="j", purpose=Purpose.BACKUP), CONFIG)
    order = [entry["name"] for entry in env]
    assert order[0] == names.ENV_PASSWORD
    assert order[1] == "S3_PROVIDER"
    assert order[8:12] == ["BR_LOG_TO_TERM", "MINE", "TZ", "JOB_NAME"]
    assert len(order) == len(set(order))
    found = values(env)
    assert (found["S3_PROVIDER"], found["BR_LOG_TO_TERM"], found["TZ"]) == ("x", "\x01", "Asia/Shanghai")
    assert found["CR_UID"] == UID


def test_a_zone_of_the_cr_wins() -> None:
    spec = {**EXPORT_SPEC, "env": [{"name": "TZ", "value": "Europe/Berlin"}]}
    env = environment(observed(parent("Backup", spec)), JobIntent(name="j", purpose=Purpose.EXPORT), CONFIG)
    assert values(env)["TZ"] == "Europe/Berlin"
    assert "BR_LOG_TO_TERM" not in values(env)


def test_a_clean_knows_no_password_but_the_path() -> None:
    spec = {**EXPORT_SPEC, "cleanPolicy": "Delete"}
    env = values(container(made(spec, Purpose.CLEAN, path="s3://bucket/x"))["env"])
    assert names.ENV_PASSWORD not in env
    assert env[names.ENV_BACKUP_PATH] == "s3://bucket/x"


def test_kms_renames_the_password() -> None:
    env = values(container(made({**EXPORT_SPEC, "useKMS": True}, Purpose.EXPORT))["env"])
    assert "KMS_ENCRYPTED_BACKUP_MANAGER_PASSWORD" in env
    assert names.ENV_PASSWORD not in env


@pytest.mark.parametrize(
    ("command", "until", "expected"),
    [
        ("log-start", "", ["--mode=log", "--subcommand=log-start", "--commit-ts=450"]),
        ("log-truncate", "900", ["--mode=log", "--subcommand=log-truncate", "--truncate-until=900"]),
        ("log-pause", "", ["--mode=log", "--subcommand=log-pause"]),
        ("log-resume", "", ["--mode=log", "--subcommand=log-resume"]),
        ("log-stop", "", ["--mode=log", "--subcommand=log-stop"]),
    ],
)
def test_log_arguments(command: str, until: str, expected: list[str]) -> None:
    job = made({**LOG_SPEC, "commitTs": "450"}, Purpose.LOG, command=command, truncate_until=until, cluster=CLUSTER)
    start = ["backup", "--namespace=db", "--backupName=basic", "--tikvVersion=v8.5.0"]
    assert container(job)["args"] == [*start, *expected]


def test_a_v2_cluster_says_where_its_pd_is() -> None:
    cluster = Cluster(namespace="db", name="basic", version="v8.5.0", pd_addr="pd.db:2379", tls=True)
    job = made(BR_SPEC, Purpose.BACKUP, cluster=cluster)
    assert container(job)["args"][-2:] == ["--cluster-tls=true", "--pd-addr=pd.db:2379"]


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("", "pingcap/br:v8.5.0"),
        ("registry:5000/br", "registry:5000/br:v8.5.0"),
        ("registry:5000/br:v7", "registry:5000/br:v7"),
        ("br@sha256:abc", "br@sha256:abc"),
    ],
)
def test_the_br_image(tool: str, expected: str) -> None:
    job = made({**BR_SPEC, "toolImage": tool}, Purpose.BACKUP, cluster=CLUSTER)
    (init,) = job["spec"]["template"]["spec"]["initContainers"]
    assert init["image"] == expected


def test_the_client_certificate_needs_an_access() -> None:
    """A cluster with TLS for clients, and a Backup that never talks SQL: the Secret may not exist."""
    cluster = Cluster(namespace="db", name="basic", version="v8.5.0", tidb_tls=True)
    assert "--client-tls=true" not in container(made(BR_SPEC, Purpose.BACKUP, cluster=cluster))["args"]


def test_volumes_come_in_the_order_of_the_operator() -> None:
    local = {"volume": {"name": "nfs", "nfs": {}}, "volumeMount": {"name": "nfs", "mountPath": "/nfs"}}
    more = {"additionalVolumes": [{"name": "x"}], "additionalVolumeMounts": [{"name": "x", "mountPath": "/x"}]}
    spec = {"br": {"cluster": "basic"}, "local": local, **more}

    def order(purpose: Purpose) -> list[str]:
        return [volume["name"] for volume in made(spec, purpose, cluster=CLUSTER)["spec"]["template"]["spec"]["volumes"]]

    assert order(Purpose.BACKUP) == ["br-bin", "x", "nfs", "tmp"]
    assert order(Purpose.CLEAN) == ["nfs", "x", "tmp"]
    assert order(Purpose.PRUNE) == ["br-bin", "tmp"]


def test_a_tmp_of_the_cr_replaces_ours() -> None:
    spec = {
        **EXPORT_SPEC,
        "additionalVolumes": [{"name": "big"}],
        "additionalVolumeMounts": [{"name": "big", "mountPath": "/tmp/"}],
    }
    assert [mount["name"] for mount in container(made(spec, Purpose.EXPORT))["volumeMounts"]] == ["big"]


def test_security_defaults_give_way_field_by_field() -> None:
    assert pod_security({"fsGroup": 1000})["fsGroup"] == 1000
    assert pod_security({"fsGroup": 1000})["runAsNonRoot"] is True
    assert "runAsNonRoot" not in pod_security({"runAsUser": 0})
    assert "capabilities" not in container_security({"runAsUser": 0})
    assert container_security({})["capabilities"] == {"drop": ["ALL"]}


def test_a_restore_copies_its_backoff_limit_and_nothing_else_repeats() -> None:
    assert made({**BR_SPEC, "backoffLimit": 3}, Purpose.RESTORE, kind="Restore", cluster=CLUSTER)["spec"]["backoffLimit"] == 3
    for purpose in (Purpose.EXPORT, Purpose.BACKUP, Purpose.CLEAN, Purpose.IMPORT, Purpose.PRUNE):
        job = made({**BR_SPEC, "backoffLimit": 3}, purpose, cluster=CLUSTER)
        assert job["spec"]["backoffLimit"] == 0
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_a_report_on_the_cr_is_not_handed_to_its_job() -> None:
    annotations = {names.REPORT_ANNOTATION: '{"v":1}', names.PATH_ANNOTATION: "s3://elsewhere"}
    job = made(EXPORT_SPEC, Purpose.EXPORT, meta={"annotations": annotations}, path="s3://bucket/x")
    assert job["metadata"]["annotations"] == {names.PATH_ANNOTATION: "s3://bucket/x"}


def test_an_instance_label_of_the_cr_is_kept_and_long_names_fit_a_label() -> None:
    job = made(EXPORT_SPEC, Purpose.EXPORT, meta={"name": "x" * 200, "labels": {names.INSTANCE_LABEL: "shop"}})
    assert job["metadata"]["labels"][names.INSTANCE_LABEL] == "shop"
    assert len(job["metadata"]["labels"][names.BACKUP_LABEL]) == names.LABEL_LIMIT
