"""The sandbox's own parts: Pods as processes under the real Job controller, and the command line. What happens when the node
agent dies is in ``test_scenarios.py``, on a sandbox of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import Cluster, SandboxError
from sandbox.layout import Layout, State
from sandbox.patience import PATIENCE, until
from sandbox.processes import Recorded, spawn
from tests.support.jobs import finished, job, pod_of, state_of, wait_state

pytestmark = pytest.mark.e2e


def output(cluster: Cluster, name: str, namespace: str) -> str:
    return cluster.logs(pod_of(cluster, name, namespace)["metadata"]["name"], namespace)


def test_a_job_runs_and_says_so(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("good", "echo out; echo err >&2; echo final words > /dev/termination-log"), namespace=namespace)
    finished(cluster, "good", namespace)
    ended = state_of(cluster, "good", namespace)["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "final words\n")
    assert pod_of(cluster, "good", namespace)["status"]["phase"] == "Succeeded"
    assert output(cluster, "good", namespace) == "out\nerr\n"


def test_a_job_fails_with_its_code(cluster: Cluster, namespace: str) -> None:
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    cluster.apply(job("bad", "echo the reason; exit 17", container=policy), namespace=namespace)
    finished(cluster, "bad", namespace, "Failed")
    ended = state_of(cluster, "bad", namespace)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (17, "Error")
    assert "the reason" in ended["message"]


def test_a_killed_container(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("killed", "sleep 300"), namespace=namespace)
    wait_state(cluster, "killed", namespace, "running")
    cluster.kill_pod(pod_of(cluster, "killed", namespace)["metadata"]["name"], namespace)
    finished(cluster, "killed", namespace, "Failed")
    ended = state_of(cluster, "killed", namespace)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "Error")
    with pytest.raises(SandboxError, match="no running container"):
        cluster.kill_pod(pod_of(cluster, "killed", namespace)["metadata"]["name"], namespace)


def test_a_container_out_of_memory(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("oom", "sleep 300"), namespace=namespace)
    wait_state(cluster, "oom", namespace, "running")
    cluster.kill_pod(pod_of(cluster, "oom", namespace)["metadata"]["name"], namespace, out_of_memory=True)
    finished(cluster, "oom", namespace, "Failed")
    assert state_of(cluster, "oom", namespace)["terminated"]["reason"] == "OOMKilled"


def secret(name: str, **values: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})


def test_a_container_waits_for_its_secret(cluster: Cluster, namespace: str) -> None:
    reference = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "late", "key": "password"}}}
    optional = {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "never", "key": "x", "optional": True}}}
    container = {"env": [reference, optional]}
    cluster.apply(job("waits", 'echo "got $PASSWORD ${ABSENT-none}"', container=container), namespace=namespace)
    waiting = wait_state(cluster, "waits", namespace, "waiting", "CreateContainerConfigError")
    assert waiting["message"] == 'secret "late" not found'
    assert pod_of(cluster, "waits", namespace)["status"]["phase"] == "Pending"
    cluster.apply(secret("late", password="pa55"), namespace=namespace)
    finished(cluster, "waits", namespace)
    assert output(cluster, "waits", namespace) == "got pa55 none\n"


def test_an_unknown_image(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("image", "true", container={"image": "example.org/nothing:1"}), namespace=namespace)
    waiting = wait_state(cluster, "image", namespace, "waiting", "ErrImagePull")
    assert "example.org/nothing:1" in waiting["message"]


def test_mounts_of_all_sorts(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.apply(secret("files", key="hidden"), namespace=namespace)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a.toml": "x = 1"}}
    cluster.apply(json.dumps(config), namespace=namespace)
    volumes = [
        {"name": "empty", "emptyDir": {}},
        {"name": "secret", "secret": {"secretName": "files"}},
        {"name": "config", "configMap": {"name": "settings"}},
        {"name": "host", "hostPath": {"path": str(tmp_path)}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "labels", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['a']"}}]}},
    ]
    mounts = [
        {"name": "empty", "mountPath": "/backup"},
        {"name": "secret", "mountPath": "/var/lib/tidb-client-tls", "readOnly": True},
        {"name": "config", "mountPath": "/etc/sandbox/a.toml", "subPath": "a.toml"},
        {"name": "host", "mountPath": "/host"},
        {"name": "claim", "mountPath": "/claim"},
        {"name": "labels", "mountPath": "/labels"},
    ]
    script = """set -ex
        echo x > /backup/file; cat /var/lib/tidb-client-tls/key /etc/sandbox/a.toml
        echo from the container > /host/file; echo kept > /claim/file; ls /labels/l
        ! touch /var/lib/tidb-client-tls/no"""
    cluster.apply(job("writes", script, container={"volumeMounts": mounts}, volumes=volumes), namespace=namespace)
    finished(cluster, "writes", namespace)
    assert "hiddenx = 1" in output(cluster, "writes", namespace)
    assert (tmp_path / "file").read_text() == "from the container\n"
    cluster.apply(
        job("reads", "cat /claim/file; ls /backup", container={"volumeMounts": mounts}, volumes=volumes), namespace=namespace
    )
    finished(cluster, "reads", namespace)
    assert output(cluster, "reads", namespace) == "kept\n"


def test_a_missing_secret_volume_keeps_the_pod_pending(cluster: Cluster, namespace: str) -> None:
    volumes = [{"name": "tls", "secret": {"secretName": "tls"}}]
    mounts = {"volumeMounts": [{"name": "tls", "mountPath": "/tls"}]}
    cluster.apply(job("tls", "cat /tls/key", container=mounts, volumes=volumes), namespace=namespace)
    waiting = wait_state(cluster, "tls", namespace, "waiting", "ContainerCreating")
    assert 'secret "tls" not found' in waiting["message"]
    cluster.apply(secret("tls", key="k"), namespace=namespace)
    finished(cluster, "tls", namespace)


def test_init_containers_bring_br(cluster: Cluster, namespace: str) -> None:
    """As the Jobs of BR do: an image's tool is copied into a shared volume, then run from there."""
    copy = {
        "name": "br",
        "image": "pingcap/br:v8.5.0",
        "command": ["/bin/sh", "-c", "cp /br /var/lib/br-bin/br; echo copied"],
        "volumeMounts": [{"name": "br-bin", "mountPath": "/var/lib/br-bin"}],
    }
    mounts = {"volumeMounts": copy["volumeMounts"]}
    script = "/var/lib/br-bin/br --version"
    volumes = [{"name": "br-bin", "emptyDir": {}}]
    cluster.apply(job("br", script, container=mounts, initContainers=[copy], volumes=volumes), namespace=namespace)
    finished(cluster, "br", namespace)
    assert "v8.5.0" in output(cluster, "br", namespace)


def test_a_failing_init_container_fails_the_job(cluster: Cluster, namespace: str) -> None:
    init = {"name": "first", "image": "busybox", "command": ["sh", "-c", "exit 3"]}
    cluster.apply(job("init", "echo never", initContainers=[init]), namespace=namespace)
    finished(cluster, "init", namespace, "Failed")
    assert state_of(cluster, "init", namespace, "first")["terminated"]["exitCode"] == 3
    assert "terminated" not in state_of(cluster, "init", namespace)


def test_deletion_is_sigterm_grace_and_sigkill(cluster: Cluster, namespace: str) -> None:
    polite = "trap 'echo stopping; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    deaf = "trap 'echo not yet' TERM; echo ready; while :; do sleep 0.05; done"
    for name, script in (("polite", polite), ("deaf", deaf)):
        cluster.apply(job(name, script, terminationGracePeriodSeconds=2), namespace=namespace)
    pods = {name: pod_of(cluster, name, namespace)["metadata"]["name"] for name in ("polite", "deaf")}
    for name, pod in pods.items():
        wait_state(cluster, name, namespace, "running")
        until_logged(cluster, pod, namespace, "ready")
    cluster.kubectl("delete", "jobs", "--all", "-n", namespace, "--wait=false")
    cluster.wait_for("Pod", pods["polite"], lambda pod: pod is None, namespace=namespace)
    assert "stopping" in cluster.logs(pods["polite"], namespace)
    cluster.wait_for("Pod", pods["deaf"], lambda pod: pod is None, namespace=namespace)
    assert "not yet" in cluster.logs(pods["deaf"], namespace)
    assert not any(record.alive for record in cluster.layout.container_processes() if pods["deaf"] in record.log)


def until_logged(cluster: Cluster, pod: str, namespace: str, text: str) -> None:
    until(lambda: text in cluster.logs(pod, namespace), lambda: f"{text} in the logs of {pod}")


def test_the_account_of_the_pod_reaches_the_api_server(cluster: Cluster, namespace: str) -> None:
    """Token, authority and address are where a client in a Pod looks for them, and RBAC is on."""
    script = """
import json, os, ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
tls = ssl.create_default_context(cafile=f"{folder}/ca.crt")
token, namespace = open(f"{folder}/token").read(), open(f"{folder}/namespace").read()
server = "https://" + os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
def status(path):
    request = urllib.request.Request(server + path, headers={"Authorization": "Bearer " + token})
    try:
        return urllib.request.urlopen(request, context=tls).status
    except urllib.error.HTTPError as error:
        return error.code
name = os.environ["JOB"]
print(status(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"), status(f"/api/v1/namespaces/{namespace}/secrets"))
"""
    label = {"name": "JOB", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}}
    container = {"command": [sys.executable, "-c", script], "env": [label]}
    cluster.apply(job("account", container=container, serviceAccountName="tidb-backup-manager"), namespace=namespace)
    finished(cluster, "account", namespace)
    assert output(cluster, "account", namespace) == "200 403\n"


def test_a_node_selector_that_nobody_meets(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("nowhere", "true", nodeSelector={"disk": "ssd"}), namespace=namespace)
    until(lambda: "disk=ssd" in json.dumps(pod_of(cluster, "nowhere", namespace).get("status", {})), "its status says why")
    pod = pod_of(cluster, "nowhere", namespace)
    assert pod["status"]["phase"] == "Pending"
    assert "nodeName" not in pod["spec"]


def test_on_failure_restarts_in_the_same_pod(cluster: Cluster, namespace: str) -> None:
    volumes = [{"name": "data", "emptyDir": {}}]
    mounts = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    script = "test -e /data/second && exit 0; touch /data/second; exit 1"
    cluster.apply(
        job("again", script, container=mounts, volumes=volumes, restartPolicy="OnFailure", spec={"backoffLimit": 3}),
        namespace=namespace,
    )
    wait_state(cluster, "again", namespace, "waiting", "CrashLoopBackOff")
    assert pod_of(cluster, "again", namespace)["status"]["phase"] == "Running"
    finished(cluster, "again", namespace)
    [status] = pod_of(cluster, "again", namespace)["status"]["containerStatuses"]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 1


def test_ttl_and_garbage_collection_work_on_finished_pods(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("short", "true", spec={"ttlSecondsAfterFinished": 1}), namespace=namespace)
    pod = pod_of(cluster, "short", namespace)["metadata"]["name"]
    cluster.wait_for("Job", "short", lambda obj: obj is None, namespace=namespace, what="the Job's removal")
    cluster.wait_for("Pod", pod, lambda obj: obj is None, namespace=namespace, what="the Pod's removal")
    assert cluster.logs(pod, namespace) == ""


def test_the_command_line(cluster: Cluster, namespace: str) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "sandbox", *args, "--name", cluster.layout.name]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)

    status = run("status")
    assert status.returncode == 0, status.stderr
    assert "kube-apiserver" in status.stdout
    exports = run("env").stdout
    assert f"export KUBECONFIG={cluster.kubeconfig}" in exports
    assert "TIDB_TARGET_PASSWORD" in exports
    cluster.apply(job("cli", "echo seen"), namespace=namespace)
    finished(cluster, "cli", namespace)
    pod = pod_of(cluster, "cli", namespace)["metadata"]["name"]
    assert run("logs", pod, "-n", namespace).stdout == "seen\n"
    missing = run("logs", "no-such-pod", "-n", namespace)
    assert missing.returncode == 1
    assert "Pods that ran:" in missing.stderr
    assert "Traceback" not in missing.stderr
    again = run("up")
    assert again.returncode == 1
    assert "already up" in again.stderr


def test_down_works_without_the_owner_and_sweeps_what_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox whose owner was killed goes at the next start, processes included."""
    monkeypatch.setenv("SANDBOX_HOME", str(tmp_path / "home"))
    layout = Layout("orphaned")
    state = State.fresh(tidbs=(), owner=os.getpid())
    layout.create(State(**{**{name: getattr(state, name) for name in state.__slots__}, "owner": (os.getpid(), 1)}))
    argv = [sys.executable, "-c", "import time; time.sleep(3600)"]
    process: Recorded = spawn("etcd", argv, log=layout.log("etcd"), cwd=layout.data("etcd"), env=dict(os.environ))
    process.save(layout.record("etcd"))
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "down", "--name", "unknown"], capture_output=True, text=True, check=True
    )
    assert "nothing is up" in done.stdout
    from sandbox.cluster import sweep

    assert sweep() == ["orphaned"]
    assert not layout.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
