"""The real rotator, with the rights that the manifests give it, on a real API server.

The hooks get their certificate and token, and a renewal costs the caller not one call. The test stands for the kubelet, which
renews the files of the webhook a while after the Secret.
"""

import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from app import openapi
from rotator.secret import RENEW, STEP
from sandbox import Cluster
from sandbox.api import EVENTS, NAMESPACES, SECRETS, ApiError, Object, Resource
from sandbox.hook_credentials import NAME, NAMESPACE, mount
from sandbox.patience import CONNECT, until

pytestmark = pytest.mark.e2e

ACCOUNT = "tidb-backup-rotator"
LATE = 0.7
"""Seconds that the kubelet takes, less than between two steps of a renewal."""
SETTLE = "8"
"""Seconds between two steps: the webhook looks at its files every five."""
BACKUPS = Resource("pingcap.com/v1alpha1", "backups", "Backup", namespaced=True)


@dataclass(kw_only=True)
class World:
    cluster: Cluster
    folder: Path
    rotator: "subprocess.Popen[bytes] | None" = None

    def secret(self) -> Object:
        return self.cluster.api.find(SECRETS, NAMESPACE, NAME) or {}

    def value(self, key: str) -> str:
        return base64.b64decode((self.secret().get("data") or {}).get(key, "")).decode()

    def step(self) -> str:
        return str(((self.secret().get("metadata") or {}).get("annotations") or {}).get(STEP, ""))

    def start_rotator(self) -> None:
        argv = [sys.executable, "-m", "rotator", f"--kubeconfig={self.folder / 'account'}", "--name=127.0.0.1"]
        argv += [f"--settle-seconds={SETTLE}", "--interval-seconds=0.3"]
        with (self.folder / "rotator.log").open("ab") as log:
            self.rotator = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill_rotator(self) -> None:
        if self.rotator:
            self.rotator.send_signal(signal.SIGKILL)
            self.rotator.wait()

    def log(self) -> str:
        return (self.folder / "rotator.log").read_text()

    def ask(self, token: str) -> int:
        """Status of a hook's answer to *token*, 0 while the certificate is not the one that was mounted last."""
        url = f"{self.cluster.webhook_url}/backup/customize"
        headers = {"Authorization": f"Bearer {token}"}
        trust = str(self.cluster.webhook_ca)
        body = openapi.example("backup", "customize")
        try:
            return requests.post(url, json=body, headers=headers, timeout=CONNECT, verify=trust).status_code
        except requests.exceptions.SSLError:
            return 0

    def refused(self) -> float:
        text = requests.get(f"{self.cluster.webhook_status_url}/metrics", timeout=CONNECT).text
        lines = [
            line for line in text.splitlines() if line.startswith("tidb_backup_hook_requests_total") and 'code="401"' in line
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def sync_errors(self) -> str:
        """What Metacontroller complained about, and when."""
        found = self.cluster.api.list(EVENTS, "")["items"]
        wrong = [item for item in found if item["type"] == "Warning" and item["reason"] in {"SyncError", "CreateError"}]
        return "\n".join(f"{item['lastTimestamp']} {item['count']}: {item['message']}" for item in wrong)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rotation")
    cluster = Cluster(f"rotation-{os.getpid()}", tidbs=(), parts=frozenset({"controllers", "metacontroller", "webhook"}))
    with cluster:
        token = cluster.kubectl("--namespace", NAMESPACE, "create", "token", ACCOUNT).strip()
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["users"] = [{"name": "admin", "user": {"token": token}}]
        (folder / "account").write_text(yaml.safe_dump(config))
        found = World(cluster=cluster, folder=folder)
        stopped = threading.Event()

        def kubelet() -> None:
            before = ""
            while not stopped.wait(0.2):
                with suppress(ApiError):
                    secret = found.secret()
                    version = secret.get("metadata", {}).get("resourceVersion", "")
                    if secret and version != before:
                        before = version
                        stopped.wait(LATE)
                        data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
                        mount(cluster.layout, data)

        def administrator() -> None:
            """Changes a Backup all the time, each of which is a call of a hook."""
            number = 0
            while not stopped.wait(0.1):
                number += 1
                with suppress(ApiError):
                    patch = {"metadata": {"labels": {"touched": str(number)}}}
                    cluster.api.patch(BACKUPS, "default", "touched", patch)

        spec = openapi.example("backup", "sync")["parent"]["spec"]
        body = {"apiVersion": "pingcap.com/v1alpha1", "kind": "Backup", "metadata": {"name": "touched"}, "spec": spec}
        cluster.apply(yaml.safe_dump(body), namespace="default")
        threads = [threading.Thread(target=work) for work in (kubelet, administrator)]
        for thread in threads:
            thread.start()
        yield found
        found.kill_rotator()
        stopped.set()
        for thread in threads:
            thread.join()


def test_a_renewal_costs_the_caller_not_one_call_even_when_the_rotator_is_killed_in_it(world: World) -> None:
    world.start_rotator()
    until(lambda: world.step() == "stable", what="the first credentials settle")
    before, certificate = world.value("token"), world.value("tls.crt")
    world.cluster.kubectl("--namespace", NAMESPACE, "annotate", "secret", NAME, f"{RENEW}=now")
    for step in ("prepared", "switched"):
        until(lambda step=step: world.step() == step, what=f"the renewal is {step}")  # type: ignore[misc]
        world.kill_rotator()
        world.start_rotator()
    until(lambda: world.step() == "stable", what="the renewal ends")
    token = world.value("token")
    assert token != before
    assert world.value("tls.crt") != certificate
    assert world.value("tokens").split() == [token]
    until(lambda: world.ask(before) == 401, what="the token from before is refused")
    refused = world.refused()
    assert world.ask(token) == 200
    uid = world.cluster.api.get(BACKUPS, "default", "touched")["metadata"]["uid"]
    world.cluster.wait_for(
        "Job", "backup-touched", lambda job: bool(job and job["metadata"]["ownerReferences"][0]["uid"] == uid)
    )
    assert not world.sync_errors(), f"{world.sync_errors()}\n{world.log()}"
    world.cluster.make_namespace("after")
    assert world.cluster.api.find(NAMESPACES, "", "after")
    assert world.refused() == refused, "Metacontroller presented a token that was not accepted"
    log = world.log()
    assert not [value for value in (before, token, "PRIVATE KEY") if value in log]


def test_a_secret_that_was_deleted_comes_back_and_the_hooks_are_called_again(world: World) -> None:
    world.cluster.kubectl("--namespace", NAMESPACE, "delete", "secret", NAME)
    until(lambda: world.value("token"), what="the Secret is there again")
    until(lambda: world.ask(world.value("token")) == 200, what="the webhook accepts the new token")
    world.cluster.make_namespace("again")


def test_the_rights_of_the_rotator_end_at_its_own_objects(world: World) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

    def may(*what: str) -> bool:
        return world.cluster.kubectl("auth", "can-i", *what, account, check=False).startswith("yes")

    assert may("update", f"secrets/{NAME}", "--namespace", NAMESPACE)
    assert may("patch", "compositecontrollers.metacontroller.k8s.io/tidb-backup")
    for what in (
        ("get", "secrets/other", "--namespace", NAMESPACE),
        ("list", "secrets", "--namespace", NAMESPACE),
        ("get", "secrets/tidb-secret", "--namespace", "default"),
        ("create", "secrets", "--namespace", "default"),
        ("delete", f"secrets/{NAME}", "--namespace", NAMESPACE),
        ("patch", "compositecontrollers.metacontroller.k8s.io/foreign"),
        ("delete", "compositecontrollers.metacontroller.k8s.io/tidb-backup"),
        ("create", "pods", "--namespace", NAMESPACE),
    ):
        assert not may(*what), what
