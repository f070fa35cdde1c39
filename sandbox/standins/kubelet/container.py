"""One container of a Pod: started through ``kubelet.launch``, polled and stopped; its state as Kubernetes reports it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sandbox.api import Object
from sandbox.layout import ROOT, TOOLS
from sandbox.processes import Recorded, start_time, tail
from sandbox.standins.kubelet.launch import SETUP_FAILED, TEMPORARY

LAUNCHER: Final = Path(__file__).with_name("launch.py")
TERMINATION_LOG: Final = "/dev/termination-log"
MESSAGE_BYTES: Final = 4096
FALLBACK_LINES, FALLBACK_BYTES = 80, 2048
_KILLED: Final = 128 + signal.SIGKILL


def _under_temporary() -> list[dict[str, Any]]:
    """What a container needs of the machine and its private ``/tmp`` would hide: a clone, a tool cache or a Python there."""
    needed = {ROOT, Path(sys.base_prefix), *(tool.resolve().parent for tool in TOOLS.glob("*"))}
    return [
        {"source": str(path), "target": str(path), "readOnly": True}
        for path in sorted(needed)
        if any(path.is_relative_to(temporary) for temporary in TEMPORARY)
    ]


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def waiting(reason: str, message: str = "") -> Object:
    """A container state."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


@dataclass(kw_only=True)
class Container:
    """One container. *folder* is the Pod's; the files in it are ``<name>.log``, ``.process.json``, ``.launch.json``, ..."""

    spec: Object
    folder: Path
    state: Object = field(default_factory=lambda: waiting("PodInitializing"))
    last_state: Object = field(default_factory=dict)
    restarts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.spec["name"])

    @property
    def running(self) -> bool:
        """Whether its process was started and not yet seen to end."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """Its exit code once it has ended."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}.{suffix}"

    def start(self, argv: list[str], env: Mapping[str, str], mounts: list[dict[str, Any]]) -> None:
        """Start it."""
        if "terminated" in self.state:
            self.last_state, self.restarts = self.state, self.restarts + 1
        root = self._file("root")
        root.mkdir(exist_ok=True)
        for stale in ("error", "oom"):
            self._file(stale).unlink(missing_ok=True)
        self._file("termination").write_bytes(b"")
        log_path = self.spec.get("terminationMessagePath") or TERMINATION_LOG
        own = {"source": str(self._file("termination")), "target": log_path, "readOnly": False}
        launch = {
            "argv": argv,
            "env": dict(env),
            "mounts": [*mounts, own, *_under_temporary()],
            "root": str(root),
            "readOnlyRoot": bool((self.spec.get("securityContext") or {}).get("readOnlyRootFilesystem")),
            "workingDir": self.spec.get("workingDir") or "/",
            "error": str(self._file("error")),
        }
        launch_file = self._file("launch.json")
        launch_file.touch(mode=0o600)  # it holds resolved Secrets
        launch_file.write_text(json.dumps(launch))
        with self._file("log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(launch_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pid = self._process.pid
        Recorded(name=self.name, pid=pid, started=start_time(pid), log=str(self._file("log"))).save(self._file("process.json"))
        self.state = {"running": {"startedAt": now()}}

    def poll(self) -> bool:
        """Look whether it has ended; True exactly when it has just done so."""
        code = self._process.poll() if self._process else None
        if code is None:
            return False
        self._ended(code if code >= 0 else 128 - code)
        return True

    def _ended(self, code: int) -> None:
        started = (self.state.get("running") or {}).get("startedAt") or now()
        self._process = None
        for leftover in ("process.json", "launch.json"):
            self._file(leftover).unlink(missing_ok=True)
        with suppress(OSError):
            self._file("root").rmdir()
        reason, message = self._outcome(code)
        ended: Object = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        self.state = {"terminated": {**ended, **({"message": message} if message else {})}}

    def _outcome(self, code: int) -> tuple[str, str]:
        error = self._file("error")
        if code == SETUP_FAILED and error.exists() and error.stat().st_size:
            return "StartError", error.read_text(errors="replace")
        if code == _KILLED and self._file("oom").exists():
            return "OOMKilled", self._message(code)
        return ("Completed" if code == 0 else "Error"), self._message(code)

    def _message(self, code: int) -> str:
        said = self._file("termination").read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
        if not said and code != 0 and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            return tail(self._file("log"), FALLBACK_LINES)[-FALLBACK_BYTES:]
        return said

    def signal(self, number: signal.Signals) -> None:
        """Signal its first process (through the launcher); SIGKILL takes the whole container."""
        if self._process:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def lost(self) -> None:
        """Its process was another agent's, which is gone."""
        if "terminated" not in self.state:
            moment = now()
            lost = {"exitCode": _KILLED, "reason": "ContainerStatusUnknown", "startedAt": moment, "finishedAt": moment}
            lost["message"] = "The node agent was restarted while the container ran"
            self.state = {"terminated": lost}

    def status(self, *, init: bool = False) -> Object:
        """Its entry of ``containerStatuses``."""
        started = "running" in self.state
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": self.spec["image"],
            "containerID": f"sandbox://{self.folder.name}/{self.name}" if "waiting" not in self.state else "",
            "state": self.state,
            "lastState": self.last_state,
            "ready": started if not init else self.exit_code == 0,
            "started": started,
            "restartCount": self.restarts,
        }
