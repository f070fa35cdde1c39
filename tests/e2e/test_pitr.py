"""Restores to a point in time through CRs: two storages with accounts of their own, the GC gate, kill, prune, replication.

A schedule makes log and base. They, ``br log metadata`` and ``br restore point`` are the real br's. minikv writes no log, so
what comes back is the base snapshot; how far the log reaches is told by TiKV in an object of the log's folder, here by the
test. ``br abort`` and ``--restore-phase``, which the real br has not, are the stand-in's (``sandbox/standins/br``).
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from app.domain.restore.pitr import GC_ANNOTATION
from backup_manager.operations.watch_log import ENV_INTERVAL
from crds.contract import names, tso
from sandbox import Cluster
from sandbox.api import Object
from sandbox.minikv import Faults
from sandbox.patience import until
from tests.support import etcd
from tests.support.br_world import Tikv, World, tikv
from tests.support.servers import S3, SECRET_KEY, seaweed

pytestmark = pytest.mark.e2e

NAMESPACE = "pitr"
SCHEDULE, LOG = "yearly", "log-yearly"
LOOK_OFTEN = [{"name": ENV_INTERVAL, "value": "1s"}]
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
    """What a schedule backed up: a log in the sandbox's bucket, its base in a bucket of another server and another account."""

    world: World
    source: Tikv
    theirs: S3
    log_prefix: str = ""
    base_prefix: str = "base"
    begin: int = 0
    base: int = 0
    newest: int = 0

    @property
    def log_storage(self) -> Object:
        storage = self.world.s3("log")
        return {"s3": {**storage["s3"], "prefix": self.log_prefix}} if self.log_prefix else storage

    def base_storage(self, secret: str = "base-secret") -> Object:
        """The base's storage, opened with the keys of *secret*."""
        place = {"endpoint": self.theirs.endpoint, "bucket": "theirs", "prefix": self.base_prefix, "secretName": secret}
        return {"s3": {"provider": "aws", "region": "us-east-1", "forcePathStyle": True, **place}}

    def restore(self, name: str, target: Tikv, *, gc_off: bool = True, base: bool = True, **spec: Any) -> None:
        """Apply a Restore of its own br.cluster, so that those of one test need not wait for each other."""
        start = {"pitrFullBackupStorageProvider": self.base_storage()} if base else {}
        self.world.apply("Restore", name, target, self.log_storage, cluster=name, restoreMode="pitr", **(start | spec))
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
    with seaweed(folder / "s3") as theirs, tikv(folder, *SEED, log_backup=True) as source:
        theirs.client().create_bucket(Bucket="theirs")
        keys = {"access_key": theirs.neighbour["AWS_ACCESS_KEY_ID"], "secret_key": SECRET_KEY}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "base-secret"}, "stringData": keys}
        cluster.apply(json.dumps(secret), namespace=NAMESPACE)
        world = World(cluster=cluster, namespace=NAMESPACE)
        yield backed_up(Story(world=world, source=source, theirs=theirs))
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)


def backed_up(plan: Story) -> Story:
    """A schedule starts the log, then takes the base; then the log's newest point moves on by a minute."""
    world, kv = plan.world, plan.source.kv
    common = {"br": {"cluster": "source", "options": [f"--pd={kv.pd}"]}, "toolImage": "pingcap/br:v8.5.0"}
    spec = {
        "schedule": "0 0 31 12 *",
        "backupTemplate": {**common, "backupType": "full", **plan.base_storage()},
        "logBackupTemplate": {**common, "backupMode": "log", "env": LOOK_OFTEN, **plan.log_storage},
    }
    made = {"apiVersion": names.API_VERSION, "kind": "BackupSchedule", "metadata": {"name": SCHEDULE}, "spec": spec}
    world.cluster.apply(json.dumps(made), namespace=NAMESPACE)
    log = until(lambda: (now := world.status(LOG)).get("commitTs") and now, lambda: world.told(LOG, "Backup"))
    schedules = world.cluster.api.resource_of(names.API_VERSION, "BackupSchedule")
    world.cluster.api.patch(schedules, NAMESPACE, SCHEDULE, {"spec": {"runImmediately": True}})
    snapshot = until(lambda: world.status(SCHEDULE, "BackupSchedule").get("lastBackup"), lambda: "no snapshot is made")
    taken = world.reaches("Complete", snapshot)
    folder, base_folder = (urlsplit(status["backupPath"]).path.strip("/") for status in (log, taken))
    newest = int(taken["commitTs"]) + 60 * SECOND
    etcd.put_number(kv.pd, f"/tidb/br-stream/checkpoint/{LOG}/central_global", newest)
    key = f"{folder}/v1/global_checkpoint/1.ts"
    world.client.put_object(Bucket=world.cluster.bucket.name, Key=key, Body=struct.pack("<Q", newest))
    begin, base = int(log["commitTs"]), int(taken["commitTs"])
    return replace(plan, log_prefix=folder, base_prefix=base_folder, begin=begin, base=base, newest=newest)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Tikv]:
    with tikv(tmp_path) as made:
        yield made


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
    listed = world.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{story.log_prefix.rpartition('/')[0]}/.history/")[
        "Contents"
    ]
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


def test_what_the_schedule_cannot_restore_is_invalid(story: Story) -> None:
    """No Job at all: with the label of its schedule, the hook knows what can be restored."""
    world, first, last = story.world, text(story.base), text(story.newest)
    window = until(
        lambda: (found := world.status(SCHEDULE, "BackupSchedule").get("recoveryWindow")) and found["to"] == last and found,
        lambda: f"the window ends {last}: {world.status(SCHEDULE, 'BackupSchedule').get('recoveryWindow')}",
    )
    assert window == {"from": first, "to": last}
    cases = {
        "too-late": (
            story.newest + 60 * SECOND,
            f"can restore; the latest is {last}; set that, or wait for the log; or remove label",
        ),
        "too-early": (story.base - 60 * SECOND, f"can restore; the earliest is {first}"),
    }
    for name, (point, _) in cases.items():
        labels = {names.SCHEDULE_LABEL: SCHEDULE}
        story.restore(name, story.source, gc_off=False, labels=labels, pitrRestoredTs=text(point))
    for name, (point, expected) in cases.items():
        message = story.condition(name, "Invalid")["message"]
        assert f"pitrRestoredTs {text(point)} is" in message
        assert f"BackupSchedule {SCHEDULE} {expected}" in message
    restores = world.cluster.api.resource_of(names.API_VERSION, "Restore")
    world.cluster.api.patch(restores, NAMESPACE, "too-late", {"spec": {"pitrRestoredTs": last}})
    assert story.condition("too-late", "Waiting")["reason"] == "GCNotSwitchedOff"  # sound now
    assert not [job for job in world.jobs() if "too-" in job]


def text(point: int) -> str:
    """A TSO to the second."""
    return tso.to_datetime(point).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_log_s_account_does_not_open_the_base(story: Story) -> None:
    story.restore("swapped", story.source, pitrFullBackupStorageProvider=story.base_storage("s3-secret"))
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


def test_a_br_without_phases_does_not_begin_beside_a_compaction(story: Story) -> None:
    """Without ``--restore-phase`` the real br would do the whole restore at once."""
    story.restore("phases", story.source, replicationConfig={"compactBackupName": "beside"}, toolImage="pingcap/br:v8.5.0")
    failed = story.world.failed("phases", "Restore")
    assert failed["reason"] == "SnapshotRestoreFailed"
    assert "ToolFlagUnknown" in failed["message"]
    assert "does not know --restore-phase" in failed["message"]
    assert "br restore point" not in story.said_by("phases-snapshot-restore")


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
        **story.log_storage,
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
