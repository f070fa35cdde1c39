"""No secret of a run reaches Kubernetes: statuses, events, Jobs, Pods with their termination messages, logs, metrics.

The verbs themselves are gone through in ``tests/integration/test_canary.py``; here exports, imports, a clean and a run of br go
through CRs, and everything that anybody can read afterwards is searched for the secrets (:mod:`tests.support.canary`).
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest

from crds.contract import names
from sandbox import Cluster
from sandbox.api import EVENTS, JOBS, LEASES, PODS, Object
from sandbox.patience import CONNECT, until
from sandbox.session import Database
from tests.support import canary
from tests.support.canary import Aviary, Watch
from tests.support.export_world import World

pytestmark = pytest.mark.e2e

USERS_OWN = "SOMEBODY_S_TOKEN"
LAST_APPLIED = "metacontroller.k8s.io/last-applied-configuration"
KINDS = ("Backup", "Restore")
NAMESPACE = "canary"
TABLE = (f"create database {NAMESPACE}", f"create table {NAMESPACE}.t (id int)", f"insert into {NAMESPACE}.t values (1)")
ENDS = {"Complete", "Failed", "Invalid"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """The namespace in which it all happened, and what was seen of the processes meanwhile."""

    world: World
    aviary: Aviary
    watch: Watch
    phases: Mapping[str, str]

    def items(self, kind: str) -> list[Object]:
        resource = self.world.cluster.api.resource_of(names.API_VERSION, kind)
        found: list[Object] = self.world.cluster.api.list(resource, self.world.namespace)["items"]
        return found


def aviary_of(cluster: Cluster) -> Aviary:
    return Aviary(
        password_of_the_database=canary.password(),
        another_password=canary.password(),
        spec_env=canary.password(),
        cipher_key=canary.hexadecimal(),
        encryption_key=canary.key(),
        SAS_token=f"sv=2024&sig={canary.hexadecimal()}",
        endpoint=canary.hexadecimal(),
        keys_of_S3=cluster.bucket.secret_key,
        token_of_the_webhook=cluster.webhook_token_file.read_text().split()[0],
    )


def documents(cluster: Cluster, aviary: Aviary, namespace: str) -> dict[str, Object]:
    """Every CR by its name, in the order of their beginnings."""
    address = cluster.bucket.endpoint.partition("://")[2]
    place = {"endpoint": f"http://somebody:{aviary['endpoint']}@{address}", "bucket": cluster.bucket.name}
    s3: Object = {"provider": "aws", "region": "us-east-1", "secretName": "s3-secret", "forcePathStyle": True, **place}
    env: Object = {"env": [{"name": USERS_OWN, "value": aviary["spec env"]}]}
    once: Object = {"backoffRetryPolicy": {"minRetryDuration": "1s", "maxRetryTimes": 0, "retryTimeout": "1m"}}

    def database(server: str, secret: str = "canary") -> Object:
        found = cluster.tidb(server)
        return {"host": found.host, "port": found.port, "user": namespace, "secretName": secret}

    def export(name: str, secret: str = "canary", *options: str) -> Object:
        storage = {"s3": {**s3, "prefix": f"{namespace}/{name}"}, "cleanPolicy": "Delete"}
        words = ["--azblob.encryption-key", aviary["encryption key"], *options]
        rest = {"tableFilter": [f"{namespace}.*"], "dumpling": {"options": words}}
        return {"from": database("source", secret), **storage, **env, **once, **rest}

    keys = ["--crypter.method=aes128-ctr", "--crypter.key", f"{aviary['cipher key']}-"]
    br: Object = {"br": {"cluster": "basic", "options": ["--pd=127.0.0.1:1", *keys]}, **env, **once}
    br["toolImage"] = "pingcap/br:v8.5.0"
    token: Object = {"azblob": {"container": "c", "prefix": "p", "storageAccount": "a", "sasToken": aviary["SAS token"]}}
    specs: dict[str, tuple[str, Object]] = {
        "good": ("Backup", export("good")),
        "gone": ("Backup", export("gone")),
        "no-entry": ("Backup", export("no-entry", "wrong")),
        "broken": ("Backup", export("broken", "canary", "--where=nosuch(1)")),
        "br": ("Backup", {**br, "s3": {**s3, "prefix": f"{namespace}/br"}}),
        "invalid": ("Backup", {**br, **token, "backupMode": "volume-snapshot"}),
        "back": ("Restore", {"to": database("target"), "s3": {**s3, "path": "@PATH@"}, **env, **once}),
        "refused": ("Restore", {"to": database("target", "wrong"), "s3": {**s3, "path": "@PATH@"}, **env, **once}),
    }
    return {
        name: {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        for name, (kind, spec) in specs.items()
    }


def execute(database: Database, *statements: str) -> None:
    with (
        closing(
            pymysql.connect(
                host=database.host,
                port=database.port,
                user=database.user,
                password=database.password,
                autocommit=True,
                charset="utf8mb4",
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)


def ended(world: World, name: str, kind: str) -> str:
    def status() -> Object:
        found: Object = (world.cluster.get(kind, name, world.namespace) or {}).get("status") or {}
        return found

    until(lambda: status().get("phase") in ENDS, lambda: f"{kind} {name}: {status()}")
    return str(status()["phase"])


@pytest.fixture(scope="module")
def story(cluster: Cluster) -> Iterator[Story]:
    namespace, aviary = NAMESPACE, aviary_of(cluster)
    cluster.make_namespace(namespace)
    secrets = {"canary": aviary["password of the database"], "wrong": aviary["another password"]}
    for name, value in secrets.items():
        made: Any = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": value}}
        cluster.apply(json.dumps(made), namespace=namespace)
    quoted = aviary["password of the database"].replace("\\", "\\\\").replace("'", "''")
    for server in ("source", "target"):
        fresh = (f"drop user if exists '{namespace}'@'%'", f"drop database if exists {namespace}")
        user = (f"create user '{namespace}'@'%' identified by '{quoted}'", f"grant all on *.* to '{namespace}'@'%'")
        execute(cluster.tidb(server), *fresh, *user, *(TABLE if server == "source" else ()))
    world = World(cluster, namespace)
    phases = {}
    ours = {name: value for name, value in aviary.values.items() if name != "keys of S3"}  # those are every test's
    with Watch(Aviary(**ours)) as watch:
        crs = documents(cluster, aviary, namespace)
        for name in [name for name, document in crs.items() if document["kind"] == "Backup"]:
            cluster.apply(json.dumps(crs[name]), namespace=namespace)
        for name, document in crs.items():
            if document["kind"] == "Backup":
                phases[name] = ended(world, name, "Backup")
        path = world.status("good")["backupPath"].removeprefix("s3://")
        for name in ("refused", "back"):
            cluster.apply(json.dumps(crs[name]).replace("@PATH@", path), namespace=namespace)
            phases[name] = ended(world, name, "Restore")
        world.delete("gone")
        world.gone("gone")
    yield Story(world=world, aviary=aviary, watch=watch, phases=phases)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false", check=False)


def test_each_ended_as_it_was_meant_to(story: Story) -> None:
    good = {"good": "Complete", "gone": "Complete", "back": "Complete"}
    bad = {"no-entry": "Failed", "broken": "Failed", "br": "Failed", "invalid": "Invalid", "refused": "Failed"}
    assert story.phases == good | bad


def test_no_status_and_no_event_holds_a_secret(story: Story) -> None:
    for kind in KINDS:
        for item in story.items(kind):
            assert story.aviary.within(json.dumps(item.get("status"), ensure_ascii=False)) == set(), item["status"]
    events = story.world.cluster.api.list(EVENTS, story.world.namespace)["items"]
    assert len(events) > 5
    assert story.aviary.within(json.dumps(events, ensure_ascii=False)) == set()


def test_jobs_and_pods_hold_what_the_user_wrote_into_env_and_no_other_secret(story: Story) -> None:
    """The report is an annotation of the Job, the last words of a container are in the Pod's status."""
    api, namespace = story.world.cluster.api, story.world.namespace
    jobs, pods = (api.list(resource, namespace)["items"] for resource in (JOBS, PODS))
    assert len(jobs) > 3
    assert len(pods) > 3
    for item in (*jobs, *pods, *api.list(LEASES, namespace)["items"]):
        item["metadata"].pop("managedFields", None)
        applied = (item["metadata"].get("annotations") or {}).pop(LAST_APPLIED, "{}")
        for shown in (item, json.loads(applied)):
            without_users_own(shown)
            assert story.aviary.within(json.dumps(shown, ensure_ascii=False)) == set(), item["metadata"]["name"]


def without_users_own(item: Object) -> None:
    """Blank the variable that the user wrote into ``spec.env``: whoever reads the Job may read the CR."""
    spec = item.get("spec") or {}
    for container in (spec.get("template") or item).get("spec", {}).get("containers", ()):
        for entry in container.get("env", ()):
            if entry["name"] == USERS_OWN:
                entry["value"] = ""


def test_no_log_and_no_metric_holds_a_secret(story: Story) -> None:
    layout = story.world.cluster.layout
    logs = [
        *(layout.pods / story.world.namespace).glob("*/*.log"),
        *(layout.log(name) for name in ("webhook", "metacontroller")),
    ]
    assert len(logs) > 8
    assert "begin to run Dump" in "".join(path.read_text(errors="replace") for path in logs)
    assert {path.name: story.aviary.within(path.read_bytes()) for path in logs if story.aviary.within(path.read_bytes())} == {}
    with urllib.request.urlopen(f"{story.world.cluster.webhook_status_url}/metrics", timeout=CONNECT) as answer:
        metrics = answer.read()
    assert b'namespace="canary"' in metrics
    assert story.aviary.within(metrics) == set()


def test_no_record_and_no_history_holds_a_secret(story: Story) -> None:
    world = story.world
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=world.bucket, Prefix=f"{world.namespace}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    assert any(key.endswith(".record.json") for key in keys)
    assert any("/.history/" in key for key in keys)
    for key in keys:
        assert story.aviary.within(world.s3.get_object(Bucket=world.bucket, Key=key)["Body"].read()) == set(), key


def test_no_argv_holds_a_secret_that_is_not_in_the_list(story: Story) -> None:
    assert ("dumpling", "--password", "password of the database") in story.watch.argv, "the watch sees what is there"
    assert story.watch.unexpected() == set()
