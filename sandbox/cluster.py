"""The sandbox as a library: ``with Cluster("demo") as cluster: ...`` starts everything and stops it again.

The command line (:mod:`sandbox.cli`), the demo and the end-to-end tests all go through this class.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import cached_property
from threading import BoundedSemaphore
from types import TracebackType
from typing import Final, Self

from crds.contract import names
from sandbox import bootstrap, components, manifests
from sandbox.api import CONFIG_MAPS, NODES, SERVICE_ACCOUNTS, ApiError, Object
from sandbox.components import S3_ACCESS_KEY, Component, base_environment
from sandbox.errors import SandboxError
from sandbox.layout import DEFAULT_NAME, DEFAULT_TIDBS, State, all_layouts
from sandbox.machine import cores
from sandbox.processes import Recorded, start_ready, stop
from sandbox.session import Access, Bucket, Database, fill
from sandbox.standins.kubelet.node import NODE_NAME

__all__ = ["ALL_PARTS", "Bucket", "Cluster", "Database", "fill", "sweep"]

ALL_PARTS: Final = frozenset({"controllers", "metacontroller", "webhook", "agent", "s3"})
"""Parts that may be left out; the API server is always there. TiDBs are named apart."""
Say = Callable[[str], None]


class Cluster(Access):
    """One sandbox, running or about to.

    *tidbs* are servers on their embedded store, *tikvs* servers on a minikv each, for br. *parts* are those of
    :data:`ALL_PARTS` to start. *owner* is the pid of the program to which it belongs, this one unless told, 0 for none: when
    that has died without stopping it, a later start sweeps it up.
    """

    def __init__(
        self,
        name: str = DEFAULT_NAME,
        *,
        tidbs: Sequence[str] = DEFAULT_TIDBS,
        tikvs: Sequence[str] = (),
        parts: frozenset[str] = ALL_PARTS,
        owner: int | None = None,
        webhook_env: Mapping[str, str] | None = None,
        say: Say = lambda _: None,
    ) -> None:
        if unknown := parts - ALL_PARTS:
            raise SandboxError(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(sorted(ALL_PARTS))}")
        super().__init__(name)
        self._tidbs, self._tikvs, self._parts = tuple(tidbs), tuple(tikvs), parts
        self._owner = os.getpid() if owner is None else owner
        self._webhook_env = dict(webhook_env or {})
        self._say = say
        self._started_at = 0.0
        self._has_failed_permanently = False
        self._hook_secret: Object | None = None

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
        from sandbox.hook_credentials import make_credentials  # noqa: PLC0415

        sweep()
        if self.layout.exists():
            raise SandboxError(f"the sandbox {self.layout.name!r} is already up; stop it with: {_down(self.layout.name)}")
        self._started_at = time.monotonic()
        self.layout.create(State.fresh(tidbs=self._tidbs, tikvs=self._tikvs, owner=self._owner))
        try:
            write_certificates(self.layout.certificates)
            self._hook_secret = make_credentials(self.layout)
            bootstrap.write_kubeconfig(self.layout)
            self._start_all()
        except BaseException:
            self.stop(keep=True)
            raise

    def _start_all(self) -> None:
        pool = ThreadPoolExecutor(8)
        jobs: list[Future[None]] = [pool.submit(self._start_kubernetes, pool)]
        alone: list[str] = [part for part in ("webhook", "s3") if part in self._parts]
        alone += [f"tidb-{server}" for server in self.layout.state.tidbs]
        turns = BoundedSemaphore(cores())
        jobs += [pool.submit(self._start_in_turn, turns, name) for name in alone]
        jobs += [
            pool.submit(self._start_in_turn, turns, f"minikv-{server}", f"tidb-{server}") for server in self.layout.state.tikvs
        ]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:
            # The others would wait for their servers for a long time: take those away.
            self._has_failed_permanently = True
            self.stop(keep=True)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _start_in_turn(self, turns: BoundedSemaphore, *names: str) -> None:
        """Start components beside Kubernetes, one after the other, when it is their turn: as many at once as there are
        processors. More would be ready no sooner, and kube-apiserver ends when it does not get ahead for 30 s."""
        with turns:
            for name in names:
                self.start_component(name)

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
            manifests.apply_all(self.api, [*self._installation.objects, *filter(None, [self._hook_secret])])
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
        # The data goes anyway: nobody needs a long goodbye. Stores outlive those that hang without them.
        stop([record for record in records if not record.name.startswith(("etcd", "minikv-"))], grace=2.0)
        stop(records, grace=2.0)
        if keep:
            self.layout.keep_logs()
        else:
            self.layout.remove()

    def start_component(self, name: str) -> None:
        """Start one component and wait until it is ready; a running one is left alone."""
        running = Recorded.load(self.layout.record(name))
        if running and running.alive:
            return
        component = self._component(name)
        if self._has_failed_permanently:
            raise SandboxError(f"{name} is not started: another part failed")
        start_ready(
            name,
            component.argv,
            lambda: _answered(component.ready),
            what=component.what,
            log=self.layout.log(name),
            cwd=self.layout.data(name),
            env={**base_environment(), **component.env},
            started=self._started,
        )
        self._say_time(f"{name} ready")

    def _started(self, process: Recorded) -> None:
        process.save(self.layout.record(process.name))
        if self._has_failed_permanently:  # whoever gave up may have looked at the records before
            stop([process])
            raise SandboxError(f"{process.name} is stopped: another part failed")

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

    def component_names(self) -> list[str]:
        """Names of the components on record."""
        return [record.name for record in self.layout.processes()]

    def _component(self, name: str) -> Component:  # noqa: PLR0911 - a table
        layout, api = self.layout, self.api
        if name.startswith("tidb-"):
            return components.tidb(layout, name.removeprefix("tidb-"), self._tidb_ready(name))
        if name.startswith("minikv-"):
            return components.minikv(layout, name.removeprefix("minikv-"))
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
        return lambda: bootstrap.prepare_tidb(state.ports[name], state.tidb_password)

    def _bucket_ready(self) -> bool:
        state = self.layout.state
        return bootstrap.make_bucket(state.ports["s3-s3"], S3_ACCESS_KEY, state.s3_secret_key)

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
            self.wait_for("ServiceAccount", names.SERVICE_ACCOUNT, bound, namespace=namespace, what=what)

    @cached_property
    def _installation(self) -> manifests.Installation:
        return manifests.render(self.layout.state.ports["webhook"], (self.layout.hook_credentials / "ca.crt").read_text())


def sweep() -> list[str]:
    """Stop and remove sandboxes whose owner died without doing so; returns their names."""
    swept = []
    for layout in all_layouts():
        if layout.state.abandoned:
            Cluster(layout.name).stop()
            swept.append(layout.name)
    return swept


def _answered(ready: Callable[[], bool]) -> bool:
    """*ready*, where an overloaded API server's silence is a no."""
    try:
        return ready()
    except ApiError as error:
        if error.passing:
            return False
        raise


def _down(name: str) -> str:
    return "python -m sandbox down" + ("" if name == DEFAULT_NAME else f" --name {name}")
