"""The sandbox as a library: ``with Cluster("demo") as cluster: ...`` starts everything and stops it again.

The command line (:mod:`sandbox.cli`), the demo and the end-to-end tests all go through this class.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from crds import names
from sandbox import components, manifests, prepare
from sandbox.agent.node import NODE_NAME
from sandbox.api import CONFIG_MAPS, NODES, PODS, SERVICE_ACCOUNTS, Api, Object
from sandbox.components import S3_ACCESS_KEY, Component, base_environment, tool
from sandbox.errors import SandboxError
from sandbox.layout import DEFAULT_NAME, DEFAULT_TIDBS, Layout, State, all_layouts
from sandbox.ports import HOST
from sandbox.processes import Recorded, spawn, stop, wait_ready

ALL_PARTS: Final = frozenset({"controllers", "metacontroller", "webhook", "agent", "s3"})
"""Parts that may be left out; the API server is always there. TiDBs are named apart."""
Say = Callable[[str], None]


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


class Cluster:
    """One sandbox, running or about to.

    *parts* are those of :data:`ALL_PARTS` to start; *owned* ties it to this process, so that a later start sweeps it up when
    this process died without stopping it.
    """

    def __init__(
        self,
        name: str = DEFAULT_NAME,
        *,
        tidbs: Sequence[str] = DEFAULT_TIDBS,
        parts: frozenset[str] = ALL_PARTS,
        owned: bool = True,
        webhook_env: Mapping[str, str] | None = None,
        say: Say = lambda _: None,
    ) -> None:
        if unknown := parts - ALL_PARTS:
            raise SandboxError(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(sorted(ALL_PARTS))}")
        self.layout = Layout(name)
        self._tidbs, self._parts, self._owned = tuple(tidbs), parts, owned
        self._webhook_env = dict(webhook_env or {})
        self._say = say
        self._started_at = 0.0
        self._given_up = False

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop; with ``SANDBOX_KEEP`` set the logs of a failure stay."""
        self.stop(keep=error is not None and "SANDBOX_KEEP" in os.environ)

    # Start and stop

    def start(self) -> None:
        """Start all parts, as many at once as depend on nothing. What was started is stopped again when one fails."""
        from sandbox.certificates import write_certificates  # noqa: PLC0415 - slow to import, and needed here alone

        sweep()
        if self.layout.exists():
            raise SandboxError(f"the sandbox {self.layout.name!r} is already up; stop it with: {_down(self.layout.name)}")
        self._started_at = time.monotonic()
        self.layout.create(State.fresh(tidbs=self._tidbs, owned=self._owned))
        try:
            write_certificates(self.layout.certificates)
            prepare.write_kubeconfig(self.layout)
            self._start_all()
        except BaseException:
            self.stop(keep=True)
            raise

    def _start_all(self) -> None:
        pool = ThreadPoolExecutor(8)
        jobs: list[Future[None]] = [pool.submit(self._start_kubernetes, pool)]
        alone: list[str] = [part for part in ("webhook", "s3") if part in self._parts]
        alone += [f"tidb-{server}" for server in self.layout.state.tidbs]
        jobs += [pool.submit(self.start_component, name) for name in alone]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:
            # The others would wait for their servers for a long time: take those away.
            self._given_up = True
            self.stop(keep=True)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _start_kubernetes(self, pool: ThreadPoolExecutor) -> None:
        self.start_component("etcd")
        self.start_component("kube-apiserver")
        manifests.create_crds(self.api, self._installation.crds)
        self._say_time("CRDs served")
        # The garbage collector learns new kinds every 30 s only, so it starts after the CRDs.
        others = {"controllers": "kube-controller-manager", "agent": "agent"}
        jobs = [pool.submit(self.start_component, name) for part, name in others.items() if part in self._parts]
        self.make_namespace("default")
        if "webhook" in self._parts:
            manifests.apply_all(self.api, self._installation.objects)
        if "metacontroller" in self._parts:
            self.start_component("metacontroller")
        for job in jobs:
            job.result()
        self._await_account("default")

    def stop(self, *, keep: bool = False) -> None:
        """Stop every process, whatever state they are in, and delete the data unless *keep* (logs stay readable then)."""
        if not self.layout.folder.exists():
            return
        records = self.layout.processes()
        # The agent goes first and ends its containers; Kubernetes would otherwise see them as lost.
        stop([record for record in records if record.name == "agent"])
        stop(self.layout.container_processes(), grace=2.0)
        # The data goes anyway: nobody needs a long goodbye.
        stop([record for record in records if record.name != "etcd"], grace=2.0)
        stop(records, grace=2.0)
        if not keep:
            self.layout.remove()
        elif self.layout.exists():
            (self.layout.folder / "state.json").rename(self.layout.folder / "state.stopped.json")

    def start_component(self, name: str) -> None:
        """Start one component and wait until it is ready; a running one is left alone."""
        running = Recorded.load(self.layout.record(name))
        if running and running.alive:
            return
        component = self._component(name)
        if self._given_up:
            raise SandboxError(f"{name} is not started: another part failed")
        record = spawn(
            name,
            component.argv,
            log=self.layout.log(name),
            cwd=self.layout.data(name),
            env={**base_environment(), **component.env},
        )
        record.save(self.layout.record(name))
        wait_ready(record, component.ready, seconds=component.seconds, what=component.what)
        self._say_time(f"{name} ready")

    def _say_time(self, what: str) -> None:
        self._say(f"{what} after {time.monotonic() - self._started_at:.1f} s" if self._started_at else what)

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """Stop one component: SIGTERM, or with *kill* SIGKILL at once, as a crash."""
        record = Recorded.load(self.layout.record(name))
        if record is None:
            raise SandboxError(f"no component {name!r} was started; there are {', '.join(self.component_names())}")
        if kill:
            record.kill(signal.SIGKILL)
        stop([record])

    def restart_webhook(self, *, kill: bool = True) -> None:
        """Crash the webhook and start it again."""
        self.stop_component("webhook", kill=kill)
        self.start_component("webhook")

    def component_names(self) -> list[str]:
        """Names of the components on record."""
        return [record.name for record in self.layout.processes()]

    def _component(self, name: str) -> Component:  # noqa: PLR0911 - a table
        layout, api = self.layout, self.api
        if name.startswith("tidb-"):
            return components.tidb(layout, name.removeprefix("tidb-"), self._tidb_ready(name))
        match name:
            case "etcd":
                return components.etcd(layout)
            case "kube-apiserver":
                return components.apiserver(layout, api.ready)
            case "kube-controller-manager":
                return components.controller_manager(layout, self._controllers_ready)
            case "agent":
                return components.agent(layout, self._node_ready)
            case "metacontroller":
                return components.metacontroller(layout)
            case "webhook":
                return components.webhook(layout, {**self._installation.settings, **self._webhook_env})
            case "s3":
                return components.s3(layout, self._bucket_ready)
        raise SandboxError(f"no component {name!r}")

    def _controllers_ready(self) -> bool:
        return bool(
            self.api.find(SERVICE_ACCOUNTS, "default", "default") and self.api.find(CONFIG_MAPS, "default", "kube-root-ca.crt")
        )

    def _node_ready(self) -> bool:
        node = self.api.find(NODES, "", NODE_NAME) or {}
        conditions = (node.get("status") or {}).get("conditions") or ()
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def _tidb_ready(self, name: str) -> Callable[[], bool]:
        state = self.layout.state
        return lambda: prepare.prepare_tidb(state.ports[name], state.tidb_password)

    def _bucket_ready(self) -> bool:
        state = self.layout.state
        return prepare.make_bucket(state.ports["s3-s3"], S3_ACCESS_KEY, state.s3_secret_key)

    # What it offers

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
        return Bucket(endpoint=endpoint, name=prepare.BUCKET, access_key=S3_ACCESS_KEY, secret_key=state.s3_secret_key)

    def tidb(self, server: str = DEFAULT_TIDBS[0]) -> Database:
        """One of the TiDBs, by the name it was started with."""
        state = self.layout.state
        if server not in state.tidbs:
            raise SandboxError(f"no TiDB {server!r} in this sandbox; there are {', '.join(state.tidbs) or 'none'}")
        return Database(host=HOST, port=state.ports[f"tidb-{server}"], user="root", password=state.tidb_password)

    @property
    def webhook_url(self) -> str:
        """Where the hooks answer."""
        return f"http://{HOST}:{self.layout.state.ports['webhook']}"

    def environment(self) -> dict[str, str]:
        """Variables for a shell, and for the ``${...}`` of YAML files given to ``run`` and :meth:`apply`."""
        bucket = self.bucket
        values = {
            "KUBECONFIG": str(self.kubeconfig),
            "WEBHOOK_URL": self.webhook_url,
            "S3_ENDPOINT": bucket.endpoint,
            "S3_BUCKET": bucket.name,
            "AWS_ACCESS_KEY_ID": bucket.access_key,
            "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
            "AWS_REGION": "us-east-1",
        }
        for server in self.layout.state.tidbs:
            database, prefix = self.tidb(server), f"TIDB_{server.upper().replace('-', '_')}"
            values |= {f"{prefix}_HOST": database.host, f"{prefix}_PORT": str(database.port)}
            values |= {f"{prefix}_USER": database.user, f"{prefix}_PASSWORD": database.password}
        return values

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

    def make_namespace(self, name: str) -> None:
        """A labelled namespace with the Secrets that examples use, and the manager's account."""
        state = self.layout.state
        objects = manifests.workspace(
            name, tidb_password=state.tidb_password, access_key=S3_ACCESS_KEY, secret_key=state.s3_secret_key
        )
        manifests.apply_all(self.api, objects)
        self._await_account(name)

    def _await_account(self, namespace: str) -> None:
        """Wait until the controller on namespaces has made the manager's account, where it runs."""
        running = {record.name for record in self.layout.processes() if record.alive}
        if {"webhook", "metacontroller"} <= running:
            bindings = self.api.resource_of("rbac.authorization.k8s.io/v1", "RoleBinding")

            def bound(account: Object | None) -> bool:
                found = self.api.list(bindings, namespace)["items"] if account else ()
                return any(subject["name"] == names.SERVICE_ACCOUNT for item in found for subject in item.get("subjects") or ())

            what = "the manager's account and its rights, made for labelled namespaces,"
            self.wait_for("ServiceAccount", names.SERVICE_ACCOUNT, bound, namespace=namespace, seconds=30, what=what)

    @cached_property
    def _installation(self) -> manifests.Installation:
        return manifests.render(self.layout.state.ports["webhook"])

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
        seconds: float = 60.0,
        what: str = "the condition",
    ) -> Object:
        """Poll an object until *condition* (which sees None while it is absent) holds; returns it, ``{}`` if absent.

        Raises SandboxError that shows the last state seen.
        """
        deadline = time.monotonic() + seconds
        while True:
            obj = self.get(kind, name, namespace)
            if condition(obj):
                return obj or {}
            if time.monotonic() > deadline:
                status = json.dumps((obj or {}).get("status"), indent=1) if obj else "it does not exist"
                raise SandboxError(f"{kind} {namespace}/{name}: {what} did not come true in {seconds:g} s; status: {status}")
            time.sleep(0.05)

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


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put *values* for ``${NAME}``; anything else with a dollar sign stays.

    >>> fill("${A} $A ${B}", {"A": "1"})
    '1 $A ${B}'
    """
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def sweep() -> list[str]:
    """Stop and remove sandboxes whose owner died without doing so; returns their names."""
    swept = []
    for layout in all_layouts():
        if layout.state.abandoned:
            Cluster(layout.name).stop()
            swept.append(layout.name)
    return swept


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


def _down(name: str) -> str:
    return "python -m sandbox down" + ("" if name == DEFAULT_NAME else f" --name {name}")
