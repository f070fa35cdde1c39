"""Every file of ``examples/`` does what its first line says; a file that no test here knows fails the first one."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import requests
import yaml

from crds.contract import names
from crds.contract.paths import provider_of
from sandbox import Cluster
from sandbox.api import JOBS, Object
from sandbox.patience import CONNECT, until
from tests.support.examples import EXAMPLES, drop_shop, fill_shop, orders, settled, settled_text, volume

pytestmark = pytest.mark.e2e

RUN: Final = ("backup-export-s3.yaml", "backup-export-local.yaml", "restore-import-s3.yaml", "schedule-export.yaml")
"""They run to their end on real servers."""
_VERSION: Final = "--tikvVersion=v8.5.0"
BR: Final = {
    "backup-br-s3.yaml": ("backup-snapshot-s3", ["backup", "--backupName=snapshot-s3", _VERSION, "--mode=snapshot"]),
    "backup-br-gcs.yaml": ("backup-snapshot-gcs", ["backup", "--backupName=snapshot-gcs", _VERSION, "--mode=snapshot"]),
    "backup-br-azblob.yaml": (
        "backup-snapshot-azblob",
        ["backup", "--backupName=snapshot-azblob", _VERSION, "--mode=snapshot"],
    ),
    "backup-log-s3.yaml": (
        "backup-log-log-start",
        ["backup", "--backupName=log", _VERSION, "--mode=log", "--subcommand=log-start"],
    ),
    "compact.yaml": ("compact-2026-01-31", ["compact", "--resourceName=compact-2026-01-31"]),
    "restore-br-s3.yaml": ("restore-restore-s3", ["restore", "--restoreName=restore-s3", _VERSION, "--mode=snapshot"]),
    "restore-pitr.yaml": (
        "restore-restore-pitr",
        ["restore", "--restoreName=restore-pitr", _VERSION, "--mode=pitr", "--pitrRestoredTs=2026-01-31T09:30:00Z"],
    ),
}
"""They need TiKV, which a sandbox has not: file -> the Job they become, and what its manager is told."""
OTHERS: Final = ("secrets.yaml", "schedule.yaml")
CREDENTIALS: Final = {
    "s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "gcs": {"GCS_SERVICE_ACCOUNT_JSON_KEY"},
    "azblob": {"AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"},
}
HOOKS: Final = {"backup-sync.json": "/backup/sync"}


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {*RUN, *BR, *OTHERS}
    assert {path.name for path in EXAMPLES.glob("hooks/*")} == set(HOOKS)
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == {"hooks", "compose"}


class Place:
    """A namespace with the Secrets of ``secrets.yaml``, and a database to export."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def apply(self, file: str) -> Object:
        """Apply an example and return its (first) object."""
        return self.cluster.apply(settled_text(EXAMPLES / file, self.cluster), namespace=self.namespace)[0]

    def status(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.cluster.get(kind, name, self.namespace) or {}).get("status") or {}
        return found

    def completes(self, kind: str, name: str) -> dict[str, Any]:
        """Wait for ``Complete``; any other end fails at once, with the whole status."""
        ends = {"Complete", "Failed", "Invalid"}

        def ended() -> bool:
            return self.status(kind, name).get("phase") in ends

        until(ended, f"{kind} {name} ends")
        status = self.status(kind, name)
        assert status["phase"] == "Complete", status
        return status


@pytest.fixture
def place(cluster: Cluster, namespace: str) -> Iterator[Place]:
    made = Place(cluster, namespace)
    made.apply("secrets.yaml")
    yield made
    for kind in ("backupschedules", "backups", "restores", "compactbackups"):
        cluster.kubectl("delete", f"{kind}.pingcap.com", "--all", "-n", namespace, "--wait=false", check=False)


def test_an_export_comes_back(place: Place) -> None:
    """``backup-export-s3.yaml``, then ``restore-import-s3.yaml`` with the path that the Backup says."""
    fill_shop(place.cluster)
    drop_shop(place.cluster, "target")
    place.apply("backup-export-s3.yaml")
    status = place.completes("Backup", "export-s3")
    uid = place.cluster.get("Backup", "export-s3", place.namespace)["metadata"]["uid"]  # type: ignore[index]
    # The comments in both files: the folder is the Backup's own, and named after it.
    assert status["backupPath"].rstrip("/") == f"s3://backups/exports/export-s3-{uid[:8]}"
    assert int(status["backupSize"]) > 0
    [restore] = settled(EXAMPLES / "restore-import-s3.yaml", place.cluster)
    made_up = restore["spec"]["s3"]["path"]
    restore["spec"]["s3"]["path"] = status["backupPath"].removeprefix("s3://")
    assert made_up.rpartition("-")[0] == restore["spec"]["s3"]["path"].rstrip("/").rpartition("-")[0]
    place.cluster.apply(yaml.safe_dump(restore), namespace=place.namespace)
    place.completes("Restore", "import-s3")
    assert orders(place.cluster, "target") == orders(place.cluster, "source") != []


def test_an_export_to_a_volume(place: Place) -> None:
    fill_shop(place.cluster)
    place.apply("backup-export-local.yaml")
    status = place.completes("Backup", "export-local")
    folder = status["backupPath"].rstrip("/").rpartition("/exports/")[2]
    assert folder.startswith("export-local-"), status["backupPath"]
    assert list((volume(place.cluster) / "exports" / folder).glob("shop.orders*.sql*"))


def test_a_schedule_makes_its_first_backup_at_once(place: Place) -> None:
    fill_shop(place.cluster)
    place.apply("schedule-export.yaml")
    label = f"{names.SCHEDULE_LABEL}=exports"

    def made() -> list[Object]:
        backups = place.cluster.api.resource_of(names.API_VERSION, "Backup")
        items: list[Object] = place.cluster.api.list(backups, place.namespace, labels=label)["items"]
        return items

    [backup] = until(made, "the schedule makes a Backup")
    place.completes("Backup", backup["metadata"]["name"])
    status = until(
        lambda: (found := place.status("BackupSchedule", "exports")).get("lastSuccessTime") and found,
        "the schedule knows of it",
    )
    assert status["retention"]["kept"] == 1
    assert status["nextBackupTime"] > status["lastSuccessTime"]


@pytest.mark.parametrize("file", sorted(BR))
def test_br_without_a_cluster_to_ask_wants_the_version_of_br(place: Place, file: str) -> None:
    """The sandbox runs the overlay ``standalone``: clusters are elsewhere, so nothing tells which br fits. With it, a Job."""
    cr = place.apply(file)
    kind, name = cr["kind"], cr["metadata"]["name"]

    def judged() -> Object | None:
        conditions = place.status(kind, name).get("conditions") or []
        return next((item for item in conditions if item["type"] == "Invalid"), None)

    condition = until(judged, "it is judged")
    assert condition["reason"] == "InvalidSpec"
    assert "set spec.toolImage" in condition["message"]
    assert place.cluster.api.list(JOBS, place.namespace)["items"] == []

    resource = place.cluster.api.resource_of(names.API_VERSION, kind)
    place.cluster.api.patch(resource, place.namespace, name, {"spec": {"toolImage": "pingcap/br:v8.5.0"}})
    job_name, args = BR[file]
    job = place.cluster.wait_for("Job", job_name, lambda obj: obj is not None, namespace=place.namespace, what="made")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert [arg for arg in container["args"] if arg != f"--namespace={place.namespace}"] == args
    assert {"name": "br", "image": "pingcap/br:v8.5.0"} in [
        {key: item[key] for key in ("name", "image")} for item in pod["initContainers"]
    ]
    assert CREDENTIALS[str(provider_of(cr["spec"]))] <= {item["name"] for item in container["env"]}
    # No value of a Secret is in the Job: only references to it.
    assert not any("value" in item for item in container["env"] if "SECRET" in item["name"] or "_KEY" in item["name"])
    place.cluster.wait_for(
        kind, name, lambda obj: judged() is None, namespace=place.namespace, what="the mended spec is Invalid no more"
    )


def test_a_schedule_of_snapshots_with_its_log(place: Place) -> None:
    place.apply("schedule.yaml")
    status = until(
        lambda: (found := place.status("BackupSchedule", "nightly")).get("logBackup") and found, "the log backup is made"
    )
    assert status["logBackup"] == "log-nightly"
    # 02:00 in Berlin is 00:00 or 01:00 in UTC.
    assert status["nextBackupTime"][11:] in {"00:00:00Z", "01:00:00Z"}
    log = place.cluster.wait_for("Backup", "log-nightly", lambda obj: obj is not None, namespace=place.namespace)
    assert log["spec"]["backupMode"] == "log"


def test_secrets_are_all_that_the_examples_name() -> None:
    """Every ``secretName`` of an example is in ``secrets.yaml``."""

    def named(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (text for key, text in value.items() if key == "secretName")
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from named(item)

    made = {item["metadata"]["name"] for item in yaml.safe_load_all((EXAMPLES / "secrets.yaml").read_text())}
    wanted = {name for path in EXAMPLES.glob("*.yaml") for item in yaml.safe_load_all(path.read_text()) for name in named(item)}
    assert wanted == made


@pytest.mark.parametrize("file", sorted(HOOKS))
def test_a_hook_answers_the_example_with_a_job(cluster: Cluster, file: str) -> None:
    body = (EXAMPLES / "hooks" / file).read_bytes()
    headers = {"Authorization": f"Bearer {cluster.webhook_token_file.read_text()}", "Content-Type": "application/json"}
    url, trust = cluster.webhook_url + HOOKS[file], str(cluster.webhook_ca)
    response = requests.post(url, data=body, headers=headers, timeout=CONNECT, verify=trust)
    assert response.status_code == 200, response.text
    parent = json.loads(body)["parent"]
    [job] = response.json()["children"]
    assert (job["kind"], job["metadata"]["name"]) == ("Job", names.backup_job(parent["metadata"]["name"]))
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "export"
    again = requests.post(url, data=body, headers=headers, timeout=CONNECT, verify=trust)
    assert again.content == response.content
