"""How each server of the sandbox is started, and how one knows that it is ready.

Flags and their reasons were tried on the pinned versions; every server listens on the loopback interface alone.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
import urllib3
from urllib3.exceptions import HTTPError

from sandbox.errors import SandboxError
from sandbox.hook_credentials import webhook_settings
from sandbox.layout import MINIKV_PORTS, TOOLS, VENV_BIN, Layout
from sandbox.patience import CONNECT
from sandbox.ports import HOST

S3_ACCESS_KEY: Final = "sandbox"
METACONTROLLER_BIN: Final = "METACONTROLLER_BIN"
"""Environment variable naming a real Metacontroller binary; without it the stand-in runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One server process: *ready* is asked until it says yes, *what* names that question."""

    name: str
    argv: list[str]
    ready: Callable[[], bool]
    what: str
    env: Mapping[str, str] = field(default_factory=dict)


def tool(name: str) -> str:
    """Path of a server or tool binary: ``KUBEBUILDER_ASSETS``, then ``.tools/bin``, the virtual environment, then PATH."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    places = [Path(assets)] if assets else []
    for place in (*places, TOOLS, VENV_BIN):
        if (place / name).exists():
            return str(place / name)
    found = shutil.which(name)
    if not found:
        raise SandboxError(f"{name} is not built; run 'make tools' (once, about 12 minutes), or put it on PATH")
    return found


def base_environment() -> dict[str, str]:
    """Environment of every process: the caller's, our tools first on PATH, no proxy for the loopback interface."""
    path = os.pathsep.join([str(TOOLS), str(VENV_BIN), os.environ.get("PATH", os.defpath)])
    own = {"PATH": path, "PYTHONUNBUFFERED": "1", "NO_PROXY": f"{HOST},localhost", "no_proxy": f"{HOST},localhost"}
    return {**{key: value for key, value in os.environ.items() if not key.startswith("TIDB_BACKUP_")}, **own}


def answers(url: str) -> bool:
    """Whether a GET of *url* gives a 2xx."""
    try:
        return urllib3.request("GET", url, timeout=CONNECT, retries=False).status < 300
    except HTTPError:
        return False


def etcd(layout: Layout) -> Component:
    """The API server's store. No fsync: this data may be lost."""
    port, peer = layout.state.ports["etcd"], layout.state.ports["etcd-peer"]
    client, peer_url = f"http://{HOST}:{port}", f"http://{HOST}:{peer}"
    argv = [tool("etcd"), "--data-dir", str(layout.data("etcd")), "--unsafe-no-fsync", "--log-level=warn"]
    argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
    argv += [
        "--listen-peer-urls",
        peer_url,
        "--initial-advertise-peer-urls",
        peer_url,
        "--initial-cluster",
        f"default={peer_url}",
    ]
    return Component(name="etcd", argv=argv, ready=lambda: answers(f"{client}/health"), what="it answers /health")


def apiserver(layout: Layout, ready: Callable[[], bool]) -> Component:
    """The real API server: RBAC on, ServiceAccount admission on, one token for the administrator."""
    keys, port = layout.certificates, layout.state.ports["apiserver"]
    tokens = layout.folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{layout.state.api_token},sandbox-admin,sandbox-admin,system:masters\n")
    argv = [
        tool("kube-apiserver"),
        f"--etcd-servers=http://{HOST}:{layout.state.ports['etcd']}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        f"--cert-dir={keys}",
        f"--tls-cert-file={keys}/apiserver.crt",
        f"--tls-private-key-file={keys}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/account.key",
        f"--service-account-signing-key-file={keys}/account.key",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        # The 'kubernetes' Service may not point at a loopback address, and nobody here uses it.
        "--endpoint-reconciler-type=none",
        "--enable-priority-and-fairness=false",
        "--profiling=false",
    ]
    return Component(name="kube-apiserver", argv=argv, ready=ready, what="/readyz says ok")


def controller_manager(layout: Layout, ready: Callable[[], bool]) -> Component:
    """All of Kubernetes' own controllers: Jobs, garbage collection, TTL, namespaces, service accounts, Pod collection."""
    keys = layout.certificates
    argv = [
        tool("kube-controller-manager"),
        f"--kubeconfig={layout.kubeconfig}",
        f"--root-ca-file={keys}/ca.crt",
        f"--service-account-private-key-file={keys}/account.key",
        "--use-service-account-credentials=false",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]
    return Component(name="kube-controller-manager", argv=argv, ready=ready, what="service accounts are made")


def metacontroller(layout: Layout) -> Component:
    """The real Metacontroller when :data:`METACONTROLLER_BIN` names it, else the stand-in, with the same flags."""
    port = layout.state.ports["metacontroller"]
    binary = os.environ.get(METACONTROLLER_BIN)
    if binary and not Path(binary).is_file():
        raise SandboxError(f"{METACONTROLLER_BIN}={binary}: no such file; unset it to use the stand-in")
    argv = [binary] if binary else [sys.executable, "-m", "sandbox.standins.metacontroller"]
    argv += [
        f"--kubeconfig={layout.kubeconfig}",
        "--metrics-address=0",
        f"--health-probe-bind-address={HOST}:{port}",
        "--discovery-interval=2s",
        "--client-go-qps=200",
        "--client-go-burst=400",
        "--zap-log-level=4",
    ]
    return Component(
        name="metacontroller",
        argv=argv,
        env={"SANDBOX_CACHE_LAG_FILE": str(layout.lag_file)},
        ready=lambda: answers(f"http://{HOST}:{port}/readyz"),
        what="/readyz says ok",
    )


def webhook(layout: Layout, env: Mapping[str, str]) -> Component:
    """Our hooks; *env* holds the settings that an administrator's ConfigMap would."""
    port, status_port = layout.state.ports["webhook"], layout.state.ports["webhook-status"]
    ready = f"http://{HOST}:{status_port}/readyz"
    ports = {"TIDB_BACKUP_HOST": HOST, "TIDB_BACKUP_PORT": str(port), "TIDB_BACKUP_STATUS_PORT": str(status_port)}
    env = {**env, **ports, **webhook_settings(layout.hook_credentials)}
    return Component(
        name="webhook", argv=[sys.executable, "-m", "app"], env=env, ready=lambda: answers(ready), what="/readyz answers"
    )


def agent(layout: Layout, ready: Callable[[], bool]) -> Component:
    """The node agent, which runs Pods as local processes."""
    argv = [sys.executable, "-m", "sandbox.standins.kubelet", f"--kubeconfig={layout.kubeconfig}", f"--folder={layout.pods}"]
    return Component(name="agent", argv=argv, ready=ready, what="its Node is Ready")


def minikv(layout: Layout, server: str) -> Component:
    """A PD and a store for one tidb-server, on which the real br works; docs/minikv.md says what it proves."""
    name = f"minikv-{server}"
    flags = [f"{part}-addr={HOST}:{layout.state.ports[name + part]}" for part in MINIKV_PORTS]
    argv = [tool("minikv"), "-dir", str(layout.data(name) / "store"), *flags]
    log = layout.log(name)
    return Component(name=name, argv=argv, ready=lambda: '{"ready":true' in log.read_text(), what="it prints its ready line")


def tidb(layout: Layout, server: str, ready: Callable[[], bool]) -> Component:
    """One real tidb-server, on its embedded store or on a minikv. It runs in its own folder, where it leaves a slow-query
    log."""
    name = f"tidb-{server}"
    ports, folder = layout.state.ports, layout.data(name)
    store = ["--store=unistore", f"--path={folder}/store"]
    if server in layout.state.tikvs:
        store = ["--store=tikv", f"--path={HOST}:{ports[f'minikv-{server}-pd']}"]
    argv = [tool("tidb-server"), *store, f"--host={HOST}", f"-P={ports[name]}"]
    argv += [f"--status-host={HOST}", f"--status={ports[f'{name}-status']}", f"--socket={_socket(folder / 'tidb.sock')}"]
    argv += ["-L=warn", f"--temp-dir={folder}/tmp"]
    return Component(name=name, argv=argv, ready=ready, what="root can log in")


def s3(layout: Layout, ready: Callable[[], bool]) -> Component:
    """SeaweedFS with its S3 gateway; one identity, so that a wrong key is refused. Its telemetry is off."""
    ports, folder = layout.state.ports, layout.data("s3")
    folder.mkdir(parents=True, exist_ok=True)
    identities = folder / "identities.json"
    identities.touch(mode=0o600)
    keys = {"accessKey": S3_ACCESS_KEY, "secretKey": layout.state.s3_secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities.write_bytes(orjson.dumps({"identities": [{"name": "sandbox", "credentials": [keys], "actions": actions}]}))
    (folder / "store").mkdir(exist_ok=True)
    argv = [
        tool("weed"),
        "server",
        f"-dir={folder}/store",
        "-s3",
        f"-s3.config={identities}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
    ]
    for part in ("s3", "master", "volume", "filer"):
        argv += [f"-{part}.port={ports[f's3-{part}']}", f"-{part}.port.grpc={ports[f's3-{part}-grpc']}"]
    argv += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"]
    # Every bucket takes several volumes; with the default of 8 the second bucket cannot be written.
    argv += ["-volume.max=200", "-master.electionTimeout=1s"]
    for part in ("s3", "filer"):
        argv.append(f"-{part}.localSocket={_socket(folder / f'{part}.sock')}")
    return Component(name="s3", argv=argv, ready=ready, what="the bucket can be made")


def _socket(path: Path) -> str:
    """A place for a unix socket: *path*, or a short one when the kernel would refuse its length."""
    return str(path) if len(str(path)) < 100 else f"/tmp/sandbox-{os.getpid()}-{path.name}"
