"""The real br on minikv in trouble: faults of the store, lost and damaged data, kills, a PD out of reach."""

import re
import signal
from pathlib import Path

import pytest

from sandbox.minikv import Faults
from tests.support.br import RECORDING, Br, keep
from tests.support.br_cluster import TABLES, Cluster, same

pytestmark = pytest.mark.integration


def test_restore_of_a_database_onto_itself_is_not_refused(source: Cluster, target: Cluster, backup: str) -> None:
    """Only a full restore asks for an empty cluster; here the same rows are written once more."""
    assert target.br("restore", "full", *target.at(backup)).succeeded
    again = target.keep("restore-db-onto-itself", target.br("restore", "db", "--db", "shop", *target.at(backup)))
    assert again.succeeded
    same(source, target, *TABLES)


def test_region_errors_are_overcome(source: Cluster, target: Cluster) -> None:
    source.kv.set_faults(Faults(region_errors=3))
    run = source.keep("region-errors-overcome", source.br("backup", "full", *source.at("regions")))
    assert run.succeeded
    target.kv.set_faults(Faults(region_errors=2))
    assert target.br("restore", "full", *target.at("regions")).succeeded
    assert (source.kv.calls()["fault region error"], target.kv.calls()["fault region error"]) == (3, 2)
    same(source, target, *TABLES)


def test_a_lock_in_the_way_is_resolved(source: Cluster, target: Cluster) -> None:
    source.kv.set_faults(Faults(locks=2, lock_ttl_ms=500))
    run = source.keep("lock-resolved", source.br("backup", "db", "--db", "shop", *source.at("locks"), "--checksum=true"))
    assert run.succeeded
    assert source.kv.calls()["fault lock"] == 2
    assert target.br("restore", "db", "--db", "shop", *target.at("locks")).succeeded
    same(source, target, "shop.t", "shop.other", "shop.p")


def test_lost_data_is_noticed_by_checksums(source: Cluster, target: Cluster, backup: str) -> None:
    source.kv.set_faults(Faults(lose_pairs=1))
    table = ("--db", "shop", "--table", "t")
    made = source.br("backup", "table", *table, "--checksum=true", *source.at("lossy"))
    source.keep("backup-checksum-mismatch", made)
    assert (made.code, made.error) == (1, "[BR:Backup:ErrBackupChecksumMismatch]backup checksum mismatch")

    target.kv.set_faults(Faults(lose_pairs=1))
    restored = target.keep("restore-checksum-mismatch", target.br("restore", "table", *table, *target.at(backup)))
    assert restored.code == 1
    assert restored.error.endswith("[BR:Restore:ErrRestoreChecksumMismatch]restore checksum mismatch")
    assert '["failed in validate checksum"]' in restored.stdout


def test_a_damaged_file_is_not_restored(source: Cluster, target: Cluster) -> None:
    """br tries a damaged file again for minutes, so this run is stopped; the offline check answers at once."""
    assert source.br("backup", "table", "--db", "hr", "--table", "people", *source.at("damaged")).succeeded
    client = source.s3.client()
    (key,) = (key for key in source.s3.keys("bkt", "damaged") if key.endswith("write.sst"))
    content = bytearray(client.get_object(Bucket="bkt", Key=key)["Body"].read())
    content[20] ^= 1
    client.put_object(Bucket="bkt", Key=key, Body=bytes(content))

    checked = source.keep("debug-checksum-damaged", source.br("debug", "checksum", *source.at("damaged")))
    assert checked.code == 1
    assert "may be changed" in checked.error
    assert checked.error.endswith("[BR:Backup:ErrBackupChecksumMismatch]backup checksum mismatch")
    failed = "[BR:KV:ErrKVDownloadFailed]download sst failed"
    restored = target.br(
        "restore", "table", "--db", "hr", "--table", "people", *target.at("damaged"), stop_when=lambda said: failed in said
    )
    target.keep("restore-damaged-stopped", restored)
    assert restored.code == 1
    assert failed in restored.stdout
    assert target.db.execute("select count(*) from hr.people") == [(0,)]


@pytest.mark.parametrize(("name", "how"), [("killed", signal.SIGKILL), ("terminated", signal.SIGTERM)])
def test_the_checkpoint_lock_of_a_dead_backup_keeps_the_next_one_out(source: Cluster, name: str, how: signal.Signals) -> None:
    """Even SIGTERM leaves the lock behind; it counts for five minutes from when it was last written."""
    source.kv.set_faults(Faults(slow_ms=300))
    lock = f"{name}/checkpoints/backup/checkpoint.lock"

    def locked(_: str) -> bool:
        return lock in source.s3.keys("bkt", name)

    dead = source.keep(f"backup-{name}", source.br("backup", "full", *source.at(name), stop_when=locked, how=how))
    assert dead.code == (1 if how is signal.SIGTERM else -signal.SIGKILL)
    assert dead.error.endswith("context canceled" if how is signal.SIGTERM else "")
    assert locked("")

    again = source.keep(f"backup-again-after-{name}", source.br("backup", "full", *source.at(name)))
    assert again.code == 1
    assert re.match(
        r"The existing lock will expire in ([12]\d\d|300) seconds\. There may be another BR\(\d+\) running", again.error
    )
    other = source.keep("checkpoint-of-another-config", source.br("backup", "full", "-f", "shop.*", *source.at(name)))
    assert other.code == 1
    assert "because the checkpoint mode is used, but the hashs of the configs are not the same" in other.error

    source.kv.set_faults(Faults())
    source.s3.client().delete_object(Bucket="bkt", Key=lock)
    assert source.br("backup", "full", *source.at(name)).succeeded


def test_a_killed_backup_resumes_from_its_checkpoint(source: Cluster, target: Cluster) -> None:
    """br saves its checkpoint every 30 s; the first run is killed once one is there."""

    def saved(_: str) -> bool:
        return any(key.endswith(".cpt") for key in source.s3.keys("bkt", "resumed"))

    source.kv.set_faults(Faults(slow_ms=1000))
    before = source.kv.calls()["backup region"]
    killed = source.br("backup", "full", *source.at("resumed"), stop_when=saved, how=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    assert saved("")
    first = source.kv.calls()["backup region"] - before

    source.kv.set_faults(Faults())
    source.s3.client().delete_object(Bucket="bkt", Key="resumed/checkpoints/backup/checkpoint.lock")
    run = source.keep("backup-resumed", source.br("backup", "full", *source.at("resumed")))
    assert run.succeeded
    regions = re.search(r"\[backup-total-regions=(\d+)\]", run.summary)
    assert regions
    second = source.kv.calls()["backup region"] - before - first
    assert second < int(regions[1])
    assert not [key for key in source.s3.keys("bkt", "resumed") if "checkpoint" in key]
    assert target.br("restore", "full", *target.at("resumed")).succeeded
    same(source, target, *TABLES)


def test_a_killed_restore_resumes(source: Cluster, target: Cluster, backup: str) -> None:
    """Its checkpoint is in a database of the target cluster, without a lock; the same command again finishes the work."""
    target.kv.set_faults(Faults(slow_ms=3000))
    restoring = '["Restore files"]'
    killed = target.br("restore", "full", *target.at(backup), stop_when=lambda said: restoring in said, how=signal.SIGKILL)
    target.keep("restore-killed", killed)
    assert killed.code == -signal.SIGKILL
    assert "__TiDB_BR_Temporary_Snapshot_Restore_Checkpoint" in target.user_databases()

    target.kv.set_faults(Faults())
    again = target.keep("restore-resumed", target.br("restore", "full", *target.at(backup)))
    assert again.succeeded, again.error
    assert target.user_databases() == {"shop", "hr"}
    same(source, target, *TABLES)


def test_pd_out_of_reach(source: Cluster, tmp_path: Path) -> None:
    """On its own br gives up after some 100 s; the recording waits for that, the daily run stops it."""
    br = Br(pd="127.0.0.1:1", folder=tmp_path, env={})
    run = br("backup", "full", "-s", f"local://{tmp_path}/x", stop_when=lambda said: "new mgr" in said and not RECORDING)
    keep("pd-unreachable", run, places={str(tmp_path): "/backups"})
    assert (run.code, run.error.splitlines()[-1]) == (1, "[pd] failed to get cluster id")
