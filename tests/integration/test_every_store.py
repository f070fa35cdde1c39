"""Every provider and way in, whole: export, verify, import, clean, with the real tools and the command line of a Job.

What our driver reads the tools must have written, and the other way round; so one run a case proves that both mean the same
folder with the same credentials.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import pytest
import yaml

from crds.contract.report import Phase, Report
from sandbox.patience import PATIENCE
from tests.support import servers
from tests.support.canary import Aviary, Watch
from tests.support.object_stores import AZURE_ACCOUNT, AZURE_KEY, Store, azure, fresh, gcs, local, s3

pytestmark = pytest.mark.integration

PREFIX = "naïve +x%2Fy"
"""Characters that a wrong URL would turn into another folder."""
CASES = ("s3-plain", "s3-versioned", "s3-tls", "gcs", "azblob", "azblob-sas", "local")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Databases and stores."""

    source: servers.Tidb
    target: servers.Tidb
    stores: Mapping[str, Store]
    watch: Watch

    def run(self, verb: str, document: Mapping[str, Any], store: Store, *words: str, folder: Path) -> tuple[int, Report]:
        """One command, with nothing of our own environment but the store's and a PATH."""
        done = subprocess.run(
            [sys.executable, "-m", "backup_manager.cli", verb, "--from-file=-", "--report=stdout", *words],
            input=yaml.safe_dump(document),
            env={"PATH": servers.tool_path(), "HOME": str(folder), **store.env},
            capture_output=True,
            text=True,
            cwd=servers.ROOT,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        for name, value in store.env.items():
            if "KEY" in name and "ACCESS_KEY_ID" not in name:
                assert value not in done.stdout + done.stderr
        assert self.watch.aviary.within(done.stdout + done.stderr) == set()
        assert "sig=" not in (done.stdout + done.stderr).replace("sig=******", "")
        report = Report.parse(done.stdout.splitlines()[-1])
        assert report is not None, done.stdout
        return done.returncode, report


def with_sas(store: Store) -> Store:
    """The same container, entered with a SAS token."""
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    # An account's token: the tools ask for the container's properties, which a container's own token never allows.
    token = generate_account_sas(
        AZURE_ACCOUNT,
        AZURE_KEY,
        resource_types=ResourceTypes(container=True, object=True),
        permission=AccountSasPermissions(read=True, write=True, delete=True, list=True, add=True, create=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    spec = {"azblob": {**store.spec["azblob"], "storageAccount": AZURE_ACCOUNT, "sasToken": token}}
    env = {name: value for name, value in store.env.items() if name != "AZURE_STORAGE_KEY"}
    return replace(store, name="azblob-sas", spec=spec, env=env)


def with_tls(store: Store) -> Store:
    """The same bucket behind TLS, by an authority that only AWS_CA_BUNDLE knows."""
    spec = {"s3": {**store.spec["s3"], "endpoint": store.https}}
    return replace(store, name="s3-tls", spec=spec, env={**store.env, "AWS_CA_BUNDLE": store.authority})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("every")
    with (
        servers.tidb(folder / "source") as source,
        servers.tidb(folder / "target") as target,
        s3(folder / "s3") as (plain, versioned),
        gcs(folder / "gcs") as google,
        azure(folder / "azure") as microsoft,
    ):
        source.execute(
            "create database shop",
            "create table shop.orders (id int primary key, v varchar(64))",
            "insert into shop.orders with recursive n(i) as (select 1 union all select i+1 from n where i < 500) "
            "select i, concat('row ', i, ' äö€') from n",
        )
        found = (plain, versioned, with_tls(plain), google, microsoft, with_sas(microsoft), local(folder / "volume"))
        with Watch(aviary_of(google, found[5])) as watch:
            yield Stage(source=source, target=target, stores={store.name: store for store in found}, watch=watch)


def aviary_of(google: Store, with_token: Store) -> Aviary:
    """What betrays each of them in whatever form: a line of the private key, the signature of the token."""
    line = json.loads(google.env["GCS_SERVICE_ACCOUNT_JSON_KEY"])["private_key"].splitlines()[5]
    signature = parse_qs(with_token.spec["azblob"]["sasToken"])["sig"][0]
    return Aviary(key_of_GCS=line, account_key_of_Azure=AZURE_KEY, SAS_token=signature)


def document(kind: str, spec: Mapping[str, Any], uid: str, path: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": "cr", "namespace": "ns", "uid": uid},
        "spec": dict(spec),
        "status": {"backupPath": path} if path else {},
    }


@pytest.mark.parametrize("case", CASES)
def test_export_verify_import_clean(stage: Stage, case: str, tmp_path: Path) -> None:
    store, uid = stage.stores[case], uuid4().hex
    spec = store.at(f"{fresh()}/{PREFIX}")
    source = {"host": stage.source.host, "port": stage.source.port, "user": "root", "secretName": "x"}
    backup = document("Backup", {**spec, "from": source, "tableFilter": ["shop.*"], "cleanPolicy": "Delete"}, uid)

    code, report = stage.run("export", backup, store, folder=tmp_path)
    assert (code, report.phase) == (0, Phase.COMPLETE), report.error
    path = report.backup_path
    assert path is not None
    assert report.result["tables"] == 1

    finished = document("Backup", backup["spec"], uid, path)
    code, report = stage.run("verify", finished, store, folder=tmp_path)
    assert (code, report.phase) == (0, Phase.COMPLETE), report.error

    stage.target.execute("drop database if exists shop")
    target = {"host": stage.target.host, "port": stage.target.port, "user": "root", "secretName": "x"}
    restore = document("Restore", {**spec, "to": target}, "r")
    code, report = stage.run("import", restore, store, f"--backupPath={path}", folder=tmp_path)
    assert (code, report.phase) == (0, Phase.COMPLETE), report.error
    assert stage.target.checksum("shop.orders") == stage.source.checksum("shop.orders")

    code, report = stage.run("clean", finished, store, folder=tmp_path)
    assert (code, report.phase) == (0, Phase.COMPLETE), report.error
    assert report.result["deleted"] >= 4
    code, report = stage.run("verify", finished, store, folder=tmp_path)
    assert report.error is not None
    assert report.error.reason == "NotComplete"
    assert code == 4
    driver = store.open(spec[next(iter(spec))]["prefix"])
    assert not [info.key for info in driver.list() if ".history/" not in info.key and not info.key.endswith(".record.json")]


def test_no_argv_held_a_secret_that_the_tools_do_not_force(stage: Stage) -> None:
    """The last test of the file: it looks back on the others (``tests/support/canary.py``)."""
    assert ("dumpling", "--output", "SAS token") in stage.watch.argv, "the watch sees what is there"
    assert stage.watch.unexpected() == set()
