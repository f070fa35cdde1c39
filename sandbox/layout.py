"""Where a sandbox keeps its things, and what it must remember between two commands.

Everything is under ``.sandbox/<name>/`` of the checkout (or ``$SANDBOX_HOME/<name>/``), so several sandboxes run side by side
and ``down`` needs nothing but the name.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from sandbox.errors import SandboxError
from sandbox.ports import free_ports
from sandbox.processes import Recorded, start_time

ROOT: Final = Path(__file__).resolve().parent.parent
TOOLS: Final = ROOT / ".tools" / "bin"
VENV_BIN: Final = ROOT / ".venv" / "bin"
DEFAULT_NAME: Final = "default"
DEFAULT_TIDBS: Final = ("source",)

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_KUBERNETES_PORTS: Final = ("etcd", "etcd-peer", "apiserver", "webhook", "webhook-status", "metacontroller")
_S3_PORTS: Final = tuple(
    f"s3-{part}" for part in ("s3", "s3-grpc", "master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc")
)
MINIKV_PORTS: Final = ("-pd", "-pd-peer", "-store", "-status")


def home() -> Path:
    """The folder of all sandboxes."""
    return Path(os.environ.get("SANDBOX_HOME") or ROOT / ".sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What one sandbox was started with. It holds the passwords of its toy servers, so its file is for the owner alone.

    *owner* is the pid and start time of the program that must outlive the sandbox; both 0 for one that stays until ``down``.
    """

    ports: dict[str, int]
    tidbs: tuple[str, ...] = DEFAULT_TIDBS
    tikvs: tuple[str, ...] = ()
    """TiDBs on a PD and a store of their own (minikv), so that br can reach them."""
    owner: tuple[int, int] = (0, 0)
    api_token: str = field(default_factory=lambda: secrets.token_hex(16))
    tidb_password: str = field(default_factory=lambda: secrets.token_hex(8))
    s3_secret_key: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def fresh(cls, *, tidbs: Iterable[str], tikvs: Iterable[str] = (), owner: int = 0) -> Self:
        """A new state with free ports and new passwords; *owner* is the pid of the program to outlive, 0 for none."""
        plain, stored = tuple(tidbs), tuple(tikvs)
        if twice := set(plain) & set(stored):
            raise SandboxError(
                f"{', '.join(sorted(twice))}: a TiDB is either on its embedded store or on a minikv, not on both"
            )
        names = [*_KUBERNETES_PORTS, *_S3_PORTS]
        names += [port for tidb in (*plain, *stored) for port in (f"tidb-{tidb}", f"tidb-{tidb}-status")]
        names += [f"minikv-{tikv}{part}" for tikv in stored for part in MINIKV_PORTS]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        return cls(ports=ports, tidbs=plain, tikvs=stored, owner=(owner, start_time(owner)) if owner else (0, 0))

    @property
    def servers(self) -> tuple[str, ...]:
        """Every TiDB."""
        return self.tidbs + self.tikvs

    @property
    def abandoned(self) -> bool:
        """Whether the program that owned it is gone."""
        pid, started = self.owner
        return pid != 0 and start_time(pid) != started


class Layout:
    """The paths of the sandbox called *name*."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise SandboxError(f"--name {name!r}: use lower-case letters, digits and '-', at most 40 characters")
        self.name = name
        self.folder = home() / name

    @property
    def kubeconfig(self) -> Path:
        """The admin's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def certificates(self) -> Path:
        """Keys of the API server."""
        return self.folder / "certificates"

    @property
    def hook_credentials(self) -> Path:
        """Certificate, key and tokens of the webhook."""
        return self.folder / "hook-credentials"

    @property
    def pods(self) -> Path:
        """One folder per Pod that the node agent ran: logs, volumes, process records."""
        return self.folder / "pods"

    @property
    def lag_file(self) -> Path:
        """Seconds by which the stand-in's caches are late, by resource; read at every event."""
        return self.folder / "cache-lag.json"

    def data(self, component: str) -> Path:
        """Data and working folder of one component."""
        return self.folder / "data" / component

    def log(self, component: str) -> Path:
        """Log of one component."""
        return self.folder / "logs" / f"{component}.log"

    def record(self, component: str) -> Path:
        """Process record of one component."""
        return self.folder / "processes" / f"{component}.json"

    @cached_property
    def state(self) -> State:
        """What it was started with. Raises SandboxError when it was not."""
        try:
            stored: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            raise SandboxError(
                f"no sandbox called {self.name!r}; start one with: python -m sandbox up --name {self.name}"
            ) from None
        lists = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
        return State(**{**stored, **lists})

    def exists(self) -> bool:
        """Whether it was started and not yet taken down."""
        return (self.folder / "state.json").exists()

    def create(self, state: State) -> None:
        """Make the folder and write *state* down before anything is started; what a stopped sandbox left there goes."""
        self.remove()
        self.folder.mkdir(parents=True, mode=0o700)
        path = self.folder / "state.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(state), indent=1))
        self.__dict__.pop("state", None)

    def processes(self) -> list[Recorded]:
        """Every component process on record, running or not."""
        found = (Recorded.load(path) for path in sorted((self.folder / "processes").glob("*.json")))
        return [record for record in found if record]

    def container_processes(self) -> list[Recorded]:
        """Every container process that the node agent left on record."""
        found = (Recorded.load(path) for path in self.pods.glob("*/*/*.process.json"))
        return [record for record in found if record]

    def keep_logs(self) -> None:
        """Delete everything but the logs of components and Pods; passwords and keys go too."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # it still holds logs
                    path.rmdir()
            elif path.suffix != ".log" or path.is_relative_to(self.folder / "data"):
                path.unlink(missing_ok=True)
        self.__dict__.pop("state", None)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.__dict__.pop("state", None)


def all_layouts() -> list[Layout]:
    """Every sandbox on record."""
    return [Layout(path.parent.name) for path in sorted(home().glob("*/state.json")) if _NAME.fullmatch(path.parent.name)]
