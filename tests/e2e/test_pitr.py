"""Restores to a point in time through CRs: two storages with accounts of their own, the GC gate, kill, prune, replication.

The log backup, the base snapshot, ``br log metadata`` and ``br restore point`` are the real br's. minikv writes no log, so what
comes back is the base snapshot; how far the log reaches is told by TiKV in an object of the log's folder, here by the test.
``br abort`` and ``--restore-phase``, which the real br has not, are the stand-in's (``sandbox/stand_in_br``).
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from app.domain.pitr import GC_ANNOTATION
from crds import names, tso
from sandbox import Cluster
from sandbox.api import Object
from sandbox.minikv import Faults, minikv_with_tidb
from tests.support.br_world import Tikv, World, until
from tests.support.servers import S3, SECRET_KEY, Tidb, seaweed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAMESPACE = "pitr"
TABLE = "shop.t"
SEED = (
    "create database shop",
    f"create table {TABLE}(id bigint primary key auto_increment, name varchar(64), key k(name))",
    f"insert into {TABLE}(name) values ('a'),('b'),('ünï')",
)
SECOND = 1000 << 18
DOWNLOAD = "store /import_sstpb.ImportSST/Download"
STAND_IN: dict[str, Any] = {"toolImage": "sandbox/stand-in-br:v8.5.0"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """What was backed up: a log in the sandbox's bucket, its base in a bucket of another server and another account."""

    world: World
    source: Tikv
    theirs: S3
    begin: int = field(default=0)
    base: int = field(default=0)
    newest: int = field(default=0)

    @property
    def base_storage(self) -> Object:
        return self.other(secret="base-secret")

    def other(self, *, secret: str) -> Object:
        """The base's storage, opened with the keys of *secret*."""
        place = {"endpoint": self.theirs.endpoint, "bucket": "theirs", "prefix": "base", "secretName": secret}
        return {"s3": {"provider": "aws", "region": "us-east-1", "forcePathStyle": True, **place}}

    def restore(self, name: str, target: Tikv, *, gc_off: bool = True, base: bool = True, **spec: Any) -> None:
        """Apply a Restore of its own br.cluster, so that those of one test need not wait for each other."""
        start = {"pitrFullBackupStorageProvider": self.base_storage} if base else {}
        log = self.world.s3("log")
        self.world.apply("Restore", name, target, log, cluster=name, restoreMode="pitr", **(start | spec))
        if gc_off:
            self.confirm_gc(name)

    def confirm_gc(self, name: str) -> None:
        self.world.cluster.kubectl("annotate", "restore", name, f"{GC_ANNOTATION}=true", "-n", self.world.namespace)

    def condition(self, name: str, kind: str) -> Object:
        """Wait for a condition of a Restore."""

        def found() -> Object | None:
            conditions = self.world.status(name, "Restore").get("conditions") or ()
            return next((item for item in conditions if item["type"] == kind and item["status"] == "True"), None)

        made: Object = until(found, lambda: f"{kind}: {self.world.told(name, 'Restore')}")
        return made

    def said_by(self, job: str) -> str:
        """Everything that the Pods of *job* wrote."""
        return "".join(self.world.cluster.logs(pod, self.world.namespace) for pod in self.pods_of(job))

    def pods_of(self, job: str) -> list[str]:
        pods = self.world.cluster.pods(self.world.namespace, labels=f"batch.kubernetes.io/job-name={job}")
        return [pod["metadata"]["name"] for pod in pods]


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    cluster.make_namespace(NAMESPACE)
    folder = tmp_path_factory.mktemp("pitr")
    with seaweed(folder / "s3") as theirs, minikv_with_tidb(folder, log_backup=True) as (kv, tidb):
        theirs.client().create_bucket(Bucket="theirs")
        keys = {"access_key": theirs.neighbour["AWS_ACCESS_KEY_ID"], "secret_key": SECRET_KEY}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "base-secret"}, "stringData": keys}
        cluster.apply(json.dumps(secret), namespace=NAMESPACE)
        source, world = Tikv(kv=kv, db=Tidb(port=tidb.port)), World(cluster=cluster, namespace=NAMESPACE)
        source.db.execute(*SEED)
        yield backed_up(Story(world=world, source=source, theirs=theirs))
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)


def backed_up(plan: Story) -> Story:
    """The log started, then the base taken, then the log's newest point moved on by a minute."""
    world, source = plan.world, plan.source
    world.apply("Backup", "log", source, world.s3("log"), backupMode="log", cleanPolicy="Retain")
    world.reaches("Running", "log")
    world.apply("Backup", "base", source, plan.base_storage, cleanPolicy="Retain")
    base = int(world.reaches("Complete", "base")["commitTs"])
    newest, folder = base + 60 * SECOND, f"{world.namespace}/log/v1/global_checkpoint"
    world.client.put_object(Bucket=world.cluster.bucket.name, Key=f"{folder}/1.ts", Body=struct.pack("<Q", newest))
    begin = int(world.status("log")["commitTs"])
    return Story(world=world, source=source, theirs=plan.theirs, begin=begin, base=base, newest=newest)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Tikv]:
    with minikv_with_tidb(tmp_path) as (kv, tidb):
        yield Tikv(kv=kv, db=Tidb(port=tidb.port))


def same(source: Tikv, target: Tikv) -> None:
    assert source.db.checksum(TABLE) == target.db.checksum(TABLE)
    target.db.execute(f"admin check table {TABLE}")


def test_to_a_moment_and_on_from_there(story: Story, target: Tikv) -> None:
    """The gate says what to set and waits; then two accounts serve one restore, which goes on where it was killed; a second
    one begins there with the log alone."""
    world, moment = story.world, story.base + SECOND
    at = tso.to_datetime(moment).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    story.restore("moment", target, gc_off=False, pitrRestoredTs=at)
    waiting = story.condition("moment", "Waiting")
    assert waiting["reason"] == "GCNotSwitchedOff"
    assert "SET CONFIG tikv `gc.ratio-threshold` = -1" in waiting["message"]
    assert f'{GC_ANNOTATION}="true"' in waiting["message"]
    assert "restore-moment" not in world.jobs()
    target.db.execute("set config tikv `gc.ratio-threshold` = -1")
    target.kv.set_faults(Faults(slow_ms=400))
    story.confirm_gc("moment")
    until(lambda: target.kv.calls().get(DOWNLOAD), lambda: world.told("moment", "Restore"))
    [pod] = story.pods_of("restore-moment")
    world.cluster.kill_pod(pod, world.namespace)
    target.kv.set_faults(Faults())
    status = world.reaches("Complete", "moment", "Restore")
    assert [record["retryNum"] for record in status["backoffRetryStatus"]] == [1]
    assert tso.to_datetime(int(status["commitTs"])) == tso.to_datetime(moment)
    same(story.source, target)
    steps = {part["step"]: part["progress"] for part in status["progresses"]}
    assert steps.keys() >= {"Full Restore", "Restore Meta Files", "Restore Files(SST + KV)"}
    assert set(steps.values()) == {100}
    either_account_opens_one_bucket_only(story)
    both_accounts_by_reference_and_no_key_told(story, "moment", names.retry(names.restore_job("moment"), 1))

    story.restore("on", target, base=False, logRestoreStartTs=status["commitTs"])
    assert world.reaches("Complete", "on", "Restore")["commitTs"] == str(story.newest)
    same(story.source, target)


def either_account_opens_one_bucket_only(story: Story) -> None:
    bucket = story.world.cluster.bucket
    ours, its = (bucket.access_key, bucket.secret_key), (story.theirs.neighbour["AWS_ACCESS_KEY_ID"], SECRET_KEY)
    for endpoint, folder, (access, secret) in ((bucket.endpoint, bucket.name, its), (story.theirs.endpoint, "theirs", ours)):
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret
        )
        with pytest.raises(client.exceptions.ClientError, match=r"InvalidAccessKeyId|AccessDenied"):
            client.list_objects_v2(Bucket=folder)


def both_accounts_by_reference_and_no_key_told(story: Story, restore: str, job: str) -> None:
    """The Job was given both Secrets; CR, Job, events, history and the Pod's log, br's lines included, hold no key."""
    world, bucket = story.world, story.world.cluster.bucket
    found = world.cluster.get("Job", job, world.namespace) or {}
    [container] = found["spec"]["template"]["spec"]["containers"]
    references = {entry["name"]: entry.get("valueFrom") for entry in container["env"]}
    for prefix, secret in {"": "s3-secret", names.ENV_FULL_BACKUP: "base-secret"}.items():
        wanted = {"secretKeyRef": {"name": secret, "key": "secret_key"}}
        assert references[f"{prefix}AWS_SECRET_ACCESS_KEY"] == wanted
    listed = world.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{world.namespace}/.history/")["Contents"]
    told = [world.client.get_object(Bucket=bucket.name, Key=item["Key"])["Body"].read().decode() for item in listed]
    texts = {
        "Restore": world.cluster.kubectl("get", "restore", restore, "-n", world.namespace, "-o", "json"),
        "Job": json.dumps(found),
        "events": world.cluster.kubectl("get", "events", "-n", world.namespace, "-o", "json"),
        "history": "".join(told),
        "log": story.said_by(job),
    }
    assert "br restore point" in texts["log"]
    for where, text in texts.items():
        assert not [key for key in (SECRET_KEY, bucket.secret_key) if key in text], where


def test_a_point_outside_of_the_log_is_refused_before_br_restores(story: Story) -> None:
    cases: dict[str, tuple[dict[str, Any], int]] = {
        "late": ({"pitrRestoredTs": str(story.newest + 60 * SECOND)}, story.newest),
        "early": ({"pitrRestoredTs": str(story.base - SECOND)}, story.base),
        "gap": ({"base": False, "logRestoreStartTs": str(story.begin - 60 * SECOND)}, story.begin),
    }
    for name, (spec, _) in cases.items():
        story.restore(name, story.source, **spec)
    for name, (_, nearest) in cases.items():
        failed = story.world.failed(name, "Restore")
        assert failed["reason"] == "PointInTimeUnreachable"
        assert f"{nearest} ({tso.to_datetime(nearest):%Y-%m-%d %H:%M:%S.%f}Z)" in failed["message"], failed["message"]
        job = names.restore_job(name)
        assert [item for item in story.world.jobs() if item.startswith(job)] == [job]  # such a failure is not repeated
        assert "br restore point" not in story.said_by(job)
    assert "base snapshot of" in story.condition("gap", "Failed")["message"]


def test_the_log_s_account_does_not_open_the_base(story: Story) -> None:
    story.restore("swapped", story.source, pitrFullBackupStorageProvider=story.other(secret="s3-secret"))
    failed = story.world.failed("swapped", "Restore")
    assert failed["reason"] in {"InvalidCredentials", "StorageAccessDenied"}
    assert "theirs" in failed["message"]
    assert "br restore point" not in story.said_by("restore-swapped")


def test_what_a_failed_restore_left_is_pruned_once(story: Story) -> None:
    """The real br refuses a cluster whose log backup runs. It has no abort, and says so by its help and exit code 0."""
    cases: dict[str, tuple[dict[str, Any], str, str]] = {
        "pruned": (STAND_IN, "PruneComplete", ""),
        "unpruned": ({**STAND_IN, "env": [{"name": "STAND_IN_FAIL", "value": "abort"}]}, "PruneFailed", "BRAbortFailed"),
        "old": ({}, "PruneFailed", "CommandNotFound"),
    }
    for name, (spec, _, _) in cases.items():
        story.restore(name, story.source, prune="afterFailed", **spec)
    for name, (_, phase, reason) in cases.items():
        end, failed = story.condition(name, phase), story.condition(name, "Failed")
        assert failed["reason"] == "LogBackupRunning", failed
        assert end.get("reason", "") == reason, end
        assert story.world.status(name, "Restore")["phase"] == phase
        jobs = [item for item in story.world.jobs() if item.startswith(names.restore_job(name))]
        assert jobs == [names.restore_job(name), names.prune_job(name)]


def test_beside_a_compaction_in_two_phases(story: Story, target: Tikv) -> None:
    """The snapshot at once, the log when the CompactBackup is done."""
    world = story.world
    config = {"compactBackupName": "beside", "waitTimeout": "10m"}
    story.restore("twice", target, replicationConfig=config, **STAND_IN)
    story.condition("twice", "SnapshotRestored")
    same(story.source, target)
    waiting = story.condition("twice", "Waiting")
    assert "beside" in waiting["message"]
    assert "twice-log-restore" not in world.jobs()
    compact = {
        "br": {"cluster": "twice"},
        "startTs": str(story.base),
        "endTs": str(story.newest),
        "toolImage": STAND_IN["toolImage"],
        "tikvImage": "sandbox/stand-in-tikv:v8.5.0",
        **world.s3("log"),
    }
    made = {"apiVersion": names.API_VERSION, "kind": "CompactBackup", "metadata": {"name": "beside"}, "spec": compact}
    world.cluster.apply(json.dumps(made), namespace=world.namespace)
    status = world.reaches("Complete", "twice", "Restore")
    assert status["replicationStep"] == "log-restore"
    assert status["commitTs"] == str(story.newest)
    settled = next(item for item in status["conditions"] if item["type"] == "CompactSettled")
    assert settled["reason"] == "AllShardsComplete"
    assert {"twice-snapshot-restore", "twice-log-restore"} <= set(world.jobs())
    for job, flag in {"twice-snapshot-restore": "--restored-ts", "twice-log-restore": "--start-ts"}.items():
        assert f"{flag.removeprefix('--')}=" in story.said_by(job), job
    same(story.source, target)
