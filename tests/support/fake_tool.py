"""A stand-in for dumpling, tidb-lightning and br: an executable that records how it was called and does what a test says.

The real tools prove the good path in the integration tests; this one makes the failures that real servers make too seldom.
"""

import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.patience import until

_SCRIPT = """#!{python} -S
import json, os, signal, sys, time
plan = json.loads({plan!r})
if sys.argv[-1] == "--help":  # asked whether it knows its flags: not a call
    sys.stderr.write(plan["refuses"])
    sys.exit(1 if plan["refuses"] else 0)
if plan["ignore_term"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif plan["term_says"] is not None:
    def term(number, frame):
        os.write(1, (plan["term_says"] + "\\n").encode())  # sys.stdout may be in the middle of a flush
        os._exit(plan["term_code"])
    signal.signal(signal.SIGTERM, term)
with open({calls!r}, "a") as file:
    file.write(json.dumps({{"argv": sys.argv, "env": dict(os.environ), "pid": os.getpid()}}) + "\\n")
output = next((a.partition("=")[2] for a in sys.argv if a.startswith("--output=")), None)
for name, text in plan["files"].items():
    path = os.path.join(plan["folder"] or output, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="latin-1") as file:
        file.write(text)
sys.stdout.write("".join(line + "\\n" for line in plan["out"]))
sys.stderr.write("".join(line + "\\n" for line in plan["err"]))
sys.stdout.flush(); sys.stderr.flush()
time.sleep(plan["sleep"])
if plan["kill_itself"]:
    os.kill(os.getpid(), plan["kill_itself"])
sys.exit(plan["code"])
"""


@dataclass(frozen=True, kw_only=True)
class FakeTool:
    """Installs executables under *folder*, which then goes on PATH."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """An environment that finds the fakes and nothing else."""
        return {"PATH": str(self.folder)}

    def install(
        self,
        name: str,
        *,
        out: list[str] | None = None,
        err: list[str] | None = None,
        files: dict[str, str] | None = None,
        folder: Path | None = None,
        code: int = 0,
        sleep: float = 0.0,
        kill_itself: int = 0,
        ignore_term: bool = False,
        term_says: str | None = None,
        term_code: int = 0,
        refuses: str = "",
    ) -> Path:
        """Make the tool *name*; *files* (in latin-1) are written to its ``--output`` (or to *folder*). *refuses* is what it
        says to a command line that ends with ``--help``."""
        plan = {
            "out": out or [],
            "err": err or [],
            "files": files or {},
            "folder": str(folder) if folder else None,
            "code": code,
            "sleep": sleep,
            "kill_itself": kill_itself,
            "ignore_term": ignore_term,
            "term_says": term_says,
            "term_code": term_code,
            "refuses": refuses,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        path.write_text(_SCRIPT.format(python=sys.executable, plan=json.dumps(plan), calls=str(self._log(name))))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def called(self, name: str) -> list[dict[str, Any]]:
        """Every call of *name* so far: ``argv``, ``env`` and ``pid``."""
        log = self._log(name)
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def once_called(self, name: str, then: Callable[[], None]) -> None:
        """Do *then* as soon as *name* runs, and hears signals."""

        def wait() -> None:
            until(lambda: self.called(name), f"{name} runs")
            then()

        threading.Thread(target=wait, daemon=True).start()

    def _log(self, name: str) -> Path:
        return self.folder / f".{name}.calls"


def alive(pid: int) -> bool:
    """Whether the process *pid* still runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
