"""Start ``minikv`` (one PD and one TiKV-like store, see docs/minikv.md) and a real tidb-server on top of it.

Everything listens on free loopback ports and is stopped by its own pid. tidb-server must go before minikv: without PD it
hangs on its way out; :func:`minikv_with_tidb` keeps that order.
"""

import json
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox.components import tool
from sandbox.patience import CONNECT
from sandbox.ports import HOST, free_ports
from sandbox.processes import start_ready, stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """The troubles a test orders; all but the milliseconds run down by one for each trouble made."""

    slow_ms: int = 0
    region_errors: int = 0
    locks: int = 0
    lose_pairs: int = 0
    lock_ttl_ms: int = 1000


class _Server:
    """A process of ours, in its own folder with its log."""

    grace = 20.0

    def __init__(self, name: str, argv: list[str], folder: Path, ready: Callable[[], bool], what: str) -> None:
        """Start it and wait until it is *ready*, of which *what* is the text. Raises SandboxError."""
        self.log = folder / f"{name}.log"
        self.process = start_ready(name, argv, ready, what=what, log=self.log, cwd=folder, env=_environment())

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when that was not heard; returns when the process is gone."""
        stop([self.process], grace=self.grace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class MiniKV(_Server):
    """One PD and one store; ``pd``, ``store`` and ``status`` are ``host:port``. Its data dies with the process."""

    def __init__(self, folder: Path, *, version: str = "8.5.0", faults: Faults | None = None, log_backup: bool = False) -> None:
        argv = [tool("minikv"), "-dir", str(folder / "minikv"), "-version", version]
        argv += ["-log-backup"] if log_backup else []
        super().__init__("minikv", argv, folder, lambda: bool(self._ready()), "it prints its ready line")
        try:
            ready = self._ready()
            self.pd, self.store, self.status = (str(ready[part]) for part in ("pd", "store", "status"))
            self.set_faults(faults or Faults())
        except BaseException:
            self.stop()
            raise

    def _ready(self) -> dict[str, Any]:
        """The JSON line that says where everything listens; empty as long as there is none."""
        for line in self.log.read_text().splitlines():
            if line.startswith('{"ready":true') and line.endswith("}"):
                found: dict[str, Any] = json.loads(line)
                return found
        return {}

    def set_faults(self, faults: Faults) -> None:
        """Replace the faults that are still to come; ``Faults()`` ends them."""
        self._page("faults", "PUT", json.dumps(asdict(faults)).encode())

    def calls(self) -> dict[str, int]:
        """How often each service was asked, by name."""
        counts: dict[str, int] = json.loads(self._page("calls", "GET"))
        return counts

    def _page(self, name: str, method: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://{self.status}/{name}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=CONNECT) as answer:
            content: bytes = answer.read()
        return content


class TiDB(_Server):
    """A real tidb-server over *pd*: user ``root`` without a password at ``127.0.0.1:port``."""

    grace = 1.0  # after a DROP it takes its time to say goodbye, and it has nothing to save

    def __init__(self, folder: Path, *, pd: str) -> None:
        (self.port,) = free_ports(1)
        argv = [
            tool("tidb-server"),
            "--store=tikv",
            f"--path={pd}",
            f"--host={HOST}",
            f"-P={self.port}",
            "--report-status=false",
        ]
        argv += [f"--temp-dir={folder / 'tmp'}", "--socket="]
        super().__init__("tidb-server", argv, folder, lambda: _greets(self.port), "it greets a client")


@contextmanager
def minikv_with_tidb(folder: Path, *, faults: Faults | None = None, log_backup: bool = False) -> Iterator[tuple[MiniKV, TiDB]]:
    """Both servers in *folder*, stopped in the right order."""
    with MiniKV(folder, faults=faults, log_backup=log_backup) as kv, TiDB(folder, pd=kv.pd) as tidb:
        yield kv, tidb


def _environment() -> Mapping[str, str]:
    """The parent's without AWS credentials: the store must live on those that br sends."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _greets(port: int) -> bool:
    """Whether a MySQL server sends its greeting."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=CONNECT) as connection:
        return bool(connection.recv(1))
    return False
