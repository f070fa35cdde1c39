"""CompactBackup through CRs: the Jobs, their retries and the status, with the real ``br operator base64ify``.

tikv-ctl is the stand-in's (``sandbox/standins/br``): it moves marked objects of the bucket, so that what was compacted, and by
which shard, can be counted. All CRs are applied at once, and each test looks at one.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from crds.contract import names
from sandbox import Cluster
from sandbox.api import Object
from sandbox.patience import until
from tests.support.br_world import World

pytestmark = pytest.mark.e2e

NAMESPACE = "compaction"
TIMES = tuple(range(1000, 1007))
BEFORE, AFTER = 999, 1007
CRS: dict[str, dict[str, Any]] = {
    "default": {"endTs": "1006", "env": [{"name": "STAND_IN_SECONDS", "value": "1"}]},
    "repeated": {"endTs": "1006", "env": [{"name": "STAND_IN_FAIL", "value": "once"}]},
    "hopeless": {"endTs": "1006", "maxRetryTimes": 0, "env": [{"name": "STAND_IN_FAIL", "value": "always"}]},
    "shards": {"mode": "sharded", "shardCount": 3, "endTs": "1006", "env": [{"name": "STAND_IN_FAIL", "value": "once:2/3"}]},
    "partly": {
        **{"mode": "sharded", "shardCount": 3, "maxRetryTimes": 0, "endTs": "1006"},
        "env": [{"name": "STAND_IN_FAIL", "value": "always:2/3"}],
    },
}


class Compactions(World):
    """A namespace where every CompactBackup has a log of its own."""

    def log(self, name: str) -> None:
        """Marked objects for the stand-in, one of them before and one after the stretch."""
        for at in (BEFORE, *TIMES, AFTER):
            key = f"{self.namespace}/{name}/v1/stand-in/{at}.log"
            self.client.put_object(Bucket=self.cluster.bucket.name, Key=key, Body=b"%d" % at * 10)

    def compact(self, name: str, **spec: Any) -> None:
        images = {"toolImage": "pingcap/br:v8.5.0", "tikvImage": "sandbox/stand-in-tikv:v8.5.0"}
        body = {"br": {"cluster": "basic"}, "startTs": "1000", **images, **self.s3(name), **spec}
        made = {"apiVersion": names.API_VERSION, "kind": "CompactBackup", "metadata": {"name": name}, "spec": body}
        self.cluster.apply(json.dumps(made), namespace=self.namespace)

    def ends(self, name: str) -> Object:
        """Wait for the end; the status."""
        until(
            lambda: self.status(name, "CompactBackup").get("state") in {"Complete", "Failed", "Invalid"},
            lambda: json.dumps(self.status(name, "CompactBackup")),
        )
        return self.status(name, "CompactBackup")

    def compacted(self, name: str) -> list[int]:
        """What was compacted, as often as it was."""
        keys = [key.rpartition("/")[2] for key in self.objects(name) if key.endswith(".sst")]
        return sorted(int(key.partition("-")[0]) for key in keys)

    def pods_of(self, name: str) -> list[Object]:
        job = names.compact_job(name, sharded=CRS[name].get("mode") == "sharded")
        return self.cluster.pods(self.namespace, labels=f"batch.kubernetes.io/job-name={job}")


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Compactions]:
    cluster.make_namespace(NAMESPACE)
    made = Compactions(cluster=cluster, namespace=NAMESPACE)
    for name, spec in CRS.items():
        made.log(name)
        made.compact(name, **spec)
    yield made
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)


def test_one_pod_compacts_and_tells_how_far_it_is(world: Compactions) -> None:
    seen = until(
        lambda: (found := world.status("default", "CompactBackup")).get("progress", "").startswith("[READ_META(") and found,
        lambda: json.dumps(world.status("default", "CompactBackup")),
    )
    status = world.ends("default")
    assert seen["state"] == "Running" or seen == status
    assert (status["state"], status["endTs"]) == ("Complete", "1006")
    size = sum(len(str(at)) * 10 for at in TIMES)
    assert status["progress"] == f"[READ_META({len(TIMES)}/{len(TIMES)}),COMPACT_WORK({size}/{size})]"
    assert world.compacted("default") == list(TIMES)
    [pod] = world.pods_of("default")
    said, secret = world.cluster.logs(pod["metadata"]["name"], world.namespace), world.cluster.bucket.secret_key
    assert "Finishing compaction." in said
    for text in (said, json.dumps(pod), json.dumps(world.cluster.get("CompactBackup", "default", world.namespace))):
        assert secret not in text


def test_a_pod_that_gave_up_is_repeated_in_place(world: Compactions) -> None:
    status = world.ends("repeated")
    assert status["state"] == "Complete", status
    [record] = status["backoffRetryStatus"]
    assert record["retryNum"] == 1
    assert "told to fail" in record["retryReason"]
    [pod] = world.pods_of("repeated")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1
    assert world.compacted("repeated") == list(TIMES)


def test_the_last_retry_is_final(world: Compactions) -> None:
    status = world.ends("hopeless")
    assert status["state"] == "Failed"
    assert "told to fail" in status["message"], status
    assert "told to fail" in status["backoffRetryStatus"][0]["retryReason"]


def test_shards_share_the_work_and_one_that_failed_is_repeated(world: Compactions) -> None:
    status = world.ends("shards")
    assert (status["state"], status["completedIndexes"], status["progress"]) == ("Complete", "0-2", "[SHARDS(3/3)]"), status
    assert not status.get("failedIndexes")
    by_index = [pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in world.pods_of("shards")]
    assert sorted(by_index) == ["0", "1", "1", "2"]
    assert world.compacted("shards") == list(TIMES)  # each of them once, none of before or after
    shares = {key.rpartition("-")[2] for key in world.objects("shards") if key.endswith(".sst")}
    assert shares == {"1.sst", "2.sst", "3.sst"}


def test_a_shard_given_up_is_named_and_the_rest_stays(world: Compactions) -> None:
    status = world.ends("partly")
    assert (status["state"], status["completedIndexes"], status["failedIndexes"]) == ("Failed", "0,2", "1"), status
    assert "1 shards were given up: 1; the rest is compacted" in status["message"]
    assert set(world.compacted("partly")) >= {at for place, at in enumerate(TIMES) if place % 3 != 1}
    assert len(world.pods_of("partly")) == 3


def test_an_edit_does_not_start_it_again(world: Compactions) -> None:
    """What has ended has ended: another stretch is another CompactBackup."""
    before, pods = world.ends("partly"), len(world.pods_of("partly"))
    resource = world.cluster.api.resource_of(names.API_VERSION, "CompactBackup")
    world.cluster.api.patch(resource, world.namespace, "partly", {"spec": {"maxRetryTimes": 5, "env": []}})
    until(
        lambda: world.status("partly", "CompactBackup")["observedGeneration"] > before["observedGeneration"],
        lambda: "the edit is not seen",
    )
    assert world.ends("partly") == {**before, "observedGeneration": before["observedGeneration"] + 1}
    assert len(world.pods_of("partly")) == pods
