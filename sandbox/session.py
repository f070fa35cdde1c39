"""What one can do with a sandbox that is up: reach its servers, apply and watch objects, read logs, make trouble."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import yaml

from sandbox.api import PODS, Api, Object
from sandbox.bootstrap import BUCKET
from sandbox.components import S3_ACCESS_KEY, base_environment, tool
from sandbox.errors import SandboxError
from sandbox.layout import DEFAULT_TIDBS, Layout
from sandbox.patience import PATIENCE, Deadline
from sandbox.ports import HOST
from sandbox.processes import Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """How to reach one TiDB."""

    host: str
    port: int
    user: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """How to reach the S3 server and its ready-made bucket."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str


class Access:
    """A sandbox by its name."""

    def __init__(self, name: str) -> None:
        self.layout = Layout(name)

    @property
    def kubeconfig(self) -> Path:
        """Path of the administrator's kubeconfig."""
        return self.layout.kubeconfig

    @cached_property
    def api(self) -> Api:
        """The administrator's client."""
        return Api.from_kubeconfig(self.kubeconfig)

    @property
    def bucket(self) -> Bucket:
        """The S3 server and its bucket."""
        state = self.layout.state
        endpoint = f"http://{HOST}:{state.ports['s3-s3']}"
        return Bucket(endpoint=endpoint, name=BUCKET, access_key=S3_ACCESS_KEY, secret_key=state.s3_secret_key)

    def tidb(self, server: str = DEFAULT_TIDBS[0]) -> Database:
        """One of the TiDBs, by the name it was started with."""
        state = self.layout.state
        if server not in state.servers:
            raise SandboxError(f"no TiDB {server!r} in this sandbox; there are {', '.join(state.servers) or 'none'}")
        return Database(host=HOST, port=state.ports[f"tidb-{server}"], user="root", password=state.tidb_password)

    def pd(self, server: str) -> str:
        """Where the PD of a TiDB answers, ``host:port``: only those on a minikv have one."""
        state = self.layout.state
        if server not in state.tikvs:
            raise SandboxError(f"no PD of {server!r} in this sandbox; there are those of {', '.join(state.tikvs) or 'nobody'}")
        return f"{HOST}:{state.ports[f'minikv-{server}-pd']}"

    @property
    def webhook_url(self) -> str:
        """Where the hooks answer who has the token in :attr:`webhook_token_file` and trusts :attr:`webhook_ca`."""
        return f"https://{HOST}:{self.layout.state.ports['webhook']}"

    @property
    def webhook_status_url(self) -> str:
        """Where the webhook's metrics and health are."""
        return f"http://{HOST}:{self.layout.state.ports['webhook-status']}"

    @property
    def webhook_token_file(self) -> Path:
        """The token that Metacontroller presents."""
        return self.layout.hook_credentials / "token"

    @property
    def webhook_ca(self) -> Path:
        """The certificate of the webhook, PEM."""
        return self.layout.hook_credentials / "ca.crt"

    def environment(self) -> dict[str, str]:
        """Variables for a shell, and for the ``${...}`` of YAML files given to ``run`` and :meth:`apply`."""
        bucket = self.bucket
        values = {
            "KUBECONFIG": str(self.kubeconfig),
            "WEBHOOK_URL": self.webhook_url,
            "WEBHOOK_STATUS_URL": self.webhook_status_url,
            "WEBHOOK_TOKEN_FILE": str(self.webhook_token_file),
            "WEBHOOK_CA": str(self.webhook_ca),
            "S3_ENDPOINT": bucket.endpoint,
            "S3_BUCKET": bucket.name,
            "AWS_ACCESS_KEY_ID": bucket.access_key,
            "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
            "AWS_REGION": "us-east-1",
        }
        for server in self.layout.state.servers:
            database, prefix = self.tidb(server), f"TIDB_{_shouted(server)}"
            values |= {f"{prefix}_HOST": database.host, f"{prefix}_PORT": str(database.port)}
            values |= {f"{prefix}_USER": database.user, f"{prefix}_PASSWORD": database.password}
        return values | {f"PD_{_shouted(server)}": self.pd(server) for server in self.layout.state.tikvs}

    # Kubernetes

    def kubectl(self, *args: str, text: str | None = None, check: bool = True) -> str:
        """Run kubectl against the sandbox; *text* goes to its standard input. Raises SandboxError with its words."""
        environment = {**base_environment(), "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [tool("kubectl"), *args], input=text, capture_output=True, text=True, check=False, env=environment
        )
        if check and done.returncode != 0:
            raise SandboxError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, source: str | Path, *, namespace: str = "default") -> list[Object]:
        """Apply YAML (text or a file) in order; objects without a namespace go to *namespace*. ``${NAME}`` are filled in
        from :meth:`environment`."""
        text = source.read_text() if isinstance(source, Path) else source
        return [self._apply(obj, namespace) for obj in yaml.safe_load_all(fill(text, self.environment())) if obj]

    def _apply(self, obj: Object, namespace: str) -> Object:
        resource = self.api.resource_of(obj["apiVersion"], obj["kind"])
        if resource.namespaced:
            obj.setdefault("metadata", {}).setdefault("namespace", namespace)
        return self.api.apply(obj)

    def get(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """An object by *kind* (``Backup``, ``Job``, ``Pod``, or ``group/version/Kind``), or None."""
        resource = self.api.resource_of(*_qualified(kind))
        return self.api.find(resource, namespace, name)

    def wait_for(
        self,
        kind: str,
        name: str,
        condition: Callable[[Object | None], bool],
        *,
        namespace: str = "default",
        seconds: float = PATIENCE,
        what: str = "the condition",
    ) -> Object:
        """Poll an object until *condition* (which sees None while it is absent) holds; returns it, ``{}`` if absent.

        Raises SandboxError that shows the last state seen.
        """
        deadline = Deadline(limit=seconds, stalled=seconds)
        while True:
            obj = self.get(kind, name, namespace)
            if condition(obj):
                return obj or {}
            if over := deadline.over:
                status = json.dumps((obj or {}).get("status"), indent=1) if obj else "it does not exist"
                raise SandboxError(f"{kind} {namespace}/{name}: {what}: not so {over}; status: {status}")
            time.sleep(deadline.pause())

    # Pods and faults

    def pods(self, namespace: str = "default", *, labels: str = "") -> list[Object]:
        """Pods of a namespace, oldest first."""
        items: list[Object] = self.api.list(PODS, namespace, labels=labels)["items"]
        return sorted(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def logs(self, pod: str, namespace: str = "default", container: str = "") -> str:
        """What the containers of a Pod wrote, also after the Pod is gone."""
        files = sorted(
            (self.layout.pods / namespace).glob(f"{pod}_*/{container or '*'}.log"), key=lambda path: path.stat().st_mtime
        )
        if not files:
            raise SandboxError(
                f"no logs of Pod {namespace}/{pod}; Pods that ran: {', '.join(self._known_pods(namespace)) or 'none'}"
            )
        return "".join(path.read_text(errors="replace") for path in files)

    def _known_pods(self, namespace: str) -> list[str]:
        return sorted({path.name.rpartition("_")[0] for path in (self.layout.pods / namespace).glob("*_*")})

    def kill_pod(self, pod: str, namespace: str = "default", *, out_of_memory: bool = False) -> None:
        """SIGKILL the running containers of a Pod, as the kernel would; *out_of_memory* makes the reason ``OOMKilled``."""
        killed = 0
        for path in (self.layout.pods / namespace).glob(f"{pod}_*/*.process.json"):
            record = Recorded.load(path)
            if record and record.alive:
                if out_of_memory:
                    path.with_name(path.name.replace(".process.json", ".oom")).touch()
                record.kill(signal.SIGKILL)
                killed += 1
        if not killed:
            raise SandboxError(f"Pod {namespace}/{pod} has no running container")

    def lag_caches(self, **seconds: float) -> None:
        """Deliver events to the stand-in's caches late, by resource (``backups=2``); no argument ends it.

        The real Metacontroller has no such knob.
        """
        draft = self.layout.lag_file.with_suffix(".new")
        draft.write_text(json.dumps(seconds))
        draft.replace(self.layout.lag_file)


def _shouted(server: str) -> str:
    return server.upper().replace("-", "_")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put *values* for ``${NAME}``; anything else with a dollar sign stays.

    >>> fill("${A} $A ${B}", {"A": "1"})
    '1 $A ${B}'
    """
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    return text


_KINDS: Final = {
    "Backup": "pingcap.com/v1alpha1",
    "Restore": "pingcap.com/v1alpha1",
    "BackupSchedule": "pingcap.com/v1alpha1",
    "CompactBackup": "pingcap.com/v1alpha1",
    "Job": "batch/v1",
    "CompositeController": "metacontroller.k8s.io/v1alpha1",
    "DecoratorController": "metacontroller.k8s.io/v1alpha1",
    "Lease": "coordination.k8s.io/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
}


def _qualified(kind: str) -> tuple[str, str]:
    version, slash, plain = kind.rpartition("/")
    return (version, plain) if slash else (_KINDS.get(kind, "v1"), kind)
