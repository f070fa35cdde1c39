"""A schedule by the clock on the wall, the hooks dead during one of its slots. It mostly waits, so it has a file of its own."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import yaml

from crds.contract import names
from sandbox import Cluster
from sandbox.patience import until
from tests.support.export_world import World, filled, seed
from tests.support.sandboxes import own_sandbox

EVERY = timedelta(seconds=30)
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of its own: the hooks die here."""
    with own_sandbox("slots", "source") as running:
        yield running


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> World:
    seed(cluster)
    return World(cluster, namespace)


def each_half_minute(namespace: str) -> str:
    """A BackupSchedule whose template is the Backup above."""
    backup = yaml.safe_load(
        filled("x", endpoint="${S3_ENDPOINT}", secret="s3-secret", prefix=namespace).replace("${TIDB_SOURCE_PORT}", "0")
    )
    schedule = {
        "apiVersion": backup["apiVersion"],
        "kind": "BackupSchedule",
        "metadata": {"name": "regular"},
        "spec": {"schedule": f"@every {EVERY.seconds}s", "maxBackups": 9, "backupTemplate": backup["spec"]},
    }
    return str(yaml.safe_dump(schedule)).replace("port: 0", "port: ${TIDB_SOURCE_PORT}")


def test_a_schedule_makes_one_backup_a_slot_also_when_nobody_answered_during_one(world: World) -> None:
    def names_there() -> set[str]:
        resource = world.cluster.api.resource_of(names.API_VERSION, "Backup")
        return {item["metadata"]["name"] for item in world.cluster.api.list(resource, world.namespace)["items"]}

    def sleep_until(moment: datetime) -> None:
        time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))

    world.cluster.apply(each_half_minute(world.namespace), namespace=world.namespace)
    first = until(lambda: sorted(names_there()), "the first slot's Backup")[0]
    slot = names.slot_time(first)
    assert slot is not None
    sleep_until(slot + EVERY * 0.6)
    world.cluster.stop_component("webhook", kill=True)
    try:
        before = names_there()
        sleep_until(slot + EVERY * 1.1)
        assert names_there() == before
    finally:
        world.cluster.start_component("webhook")
    back = datetime.now(UTC)
    until(lambda: len(names_there()) >= 3, lambda: f"those of the missed slot and of the next one; there are {names_there()}")
    world.cluster.kubectl("patch", "bks/regular", "-n", world.namespace, "--type=merge", "-p", '{"spec":{"pause":true}}')
    expected = sorted(names_there())
    slots = [moment for moment in map(names.slot_time, expected) if moment]
    assert len(slots) == len(expected)
    gaps = [(later - sooner) / EVERY for sooner, later in pairwise(slots)]
    assert all(gap.is_integer() for gap in gaps), "each is of a slot"
    assert all(gap == 1 for gap in gaps[1:]), "while somebody answers there is one of each slot"
    missed = max(1, (back - slot) // EVERY)  # more than one when the hooks took long to start: then the newest is made up for
    assert gaps[0] in {missed, missed + 1}, "of the slots in which nobody answered there is the newest"
    for name in expected:
        world.reaches("Complete", name)
    world.cluster.kubectl("delete", "bks", "regular", "-n", world.namespace)
    for name in expected:
        world.gone(name)
    assert not world.objects()
    world.neighbours_stand()
