"""A Restore that is deleted at any moment: it goes, and never before the Jobs that Kubernetes still shows have ended."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.hooks import restore
from tests.property.test_backup_histories import OFF, PITR, bounded
from tests.support.model import OneParent
from tests.support.objects import BR_SPEC, EXPORT_SPEC, S3, parent, report, tidb_cluster

SPECS = [
    {"to": EXPORT_SPEC["from"], "s3": S3},
    {**BR_SPEC, "prune": "afterFailed"},
    PITR,
    {**PITR, "replicationConfig": {"compactBackupName": "c", "waitTimeout": "2h"}},
]
REFUSED = report("Failed", error={"reason": "StorageAccessDenied", "message": "403", "retryable": False})
STEPS = st.lists(
    st.sampled_from(["sync", "stale", "lag", "lost", "wait", "report", "complete", "die", "refuse", "pods"]), max_size=25
)


class World(OneParent):
    """The cluster around one Restore."""

    def __init__(self, spec: dict[str, Any]) -> None:
        compact = {**parent("CompactBackup", BR_SPEC, name="c"), "status": {"state": "Failed"}}
        cluster = tidb_cluster(tikv={"baseImage": "pingcap/tikv", "config": OFF})
        related = {"TidbCluster.pingcap.com/v1alpha1": {"": cluster}, "CompactBackup.pingcap.com/v1alpha1": {"": compact}}
        super().__init__(kind=restore.KIND, parent=parent("Restore", spec), related=related)

    def take(self, step: str) -> None:
        self.clock += 7
        running = next(iter(self.unfinished()), None)
        match step:
            case "sync" | "stale" | "lag" | "lost":
                self.sync(stale=step == "stale", lag=step == "lag", status_lost=step == "lost")
            case "wait":
                self.clock += 600
            case "pods":
                self.pods_end()
            case "report" if running:
                self.say(running, report("Running"))
            case "complete" if running:
                self.finish(running, said=report("Complete"), complete=True, pods_left=self.clock % 2 == 0)
            case "die" | "refuse" if running:
                self.finish(running, said=REFUSED if step == "refuse" else None, complete=False, pods_left=True)

    def running(self) -> list[str]:
        """Jobs of which a Pod is there, as Kubernetes shows it."""
        return [name for name, job in self.jobs.items() if not _over(job) or (job["status"].get("terminating") or 0)]


def _over(job: dict[str, Any]) -> bool:
    return bool(job["status"].get("conditions"))


@bounded
@given(st.sampled_from(SPECS), STEPS, STEPS)
def test_it_goes_only_after_its_run_has_ended_and_starts_none(
    spec: dict[str, Any], before: list[str], after: list[str]
) -> None:
    world = World(spec)
    for step in before:
        world.take(step)
    world.caches_catch_up()
    world.delete()
    made = list(world.created)
    for step in after:
        world.take(step)
        if world.gone:
            assert not world.running()
            break
        if world.running():
            assert not world.gone
    world.pods_end()
    world.caches_catch_up()
    world.settle()
    assert world.gone, world.status
    assert world.created == made, "a deleted Restore starts nothing"


@pytest.mark.parametrize("spec", SPECS)
def test_while_it_waits_its_status_names_the_job(spec: dict[str, Any]) -> None:
    world = World(spec)
    world.sync()
    (name,) = world.created
    world.finish(name, said=REFUSED, complete=False, pods_left=True)
    world.delete()
    world.settle()
    assert not world.gone
    (waiting,) = [item for item in world.status["conditions"] if item["type"] == "Waiting"]
    assert waiting["reason"] == "RunEnding"
    assert name in waiting["message"]
    assert world.wait == 10
    world.pods_end()
    world.settle()
    assert world.gone
