"""Run the real br, and keep what it printed as golden logs (``tests/golden/br_logs``) for the tests of parsers.

``BR_LOGS_RECORD=1`` writes the logs anew from the runs of ``tests/integration/br_on_minikv``.
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from sandbox.patience import until
from tests.support.servers import ROOT, tool

GOLDEN: Final = ROOT / "tests" / "golden" / "br_logs"
RECORDING: Final = bool(os.environ.get("BR_LOGS_RECORD"))
_SAME_SOURCE: Final = 2
"""So many lines of one source line of br are kept in a golden log."""
_EMBEDDED: Final = re.compile(
    r"(tso_|pd_service_|resource_manager_client|wait_group_wrapper|owner_daemon|manager|session|store_cache|env|domain|delete_range|ddl|"
    r"controller|advancer_|backend_mgr|tidb|runaway|tikv_driver|meminfo|cmd|executor|job_submitter|sysvar|schema|add_column)[\w]*\.go"
)
"""Sources of the TiDB that br carries inside, and of the machine's memory size: noise to every reader."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BrRun:
    """How one run of br ended and what it printed."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The message after ``Error:`` on stderr; empty when there is none."""
        return self.stderr.partition("Error: ")[2].strip()

    @property
    def summary(self) -> str:
        """The line of the closing summary."""
        found = [line for line in self.stdout.splitlines() if re.search(r'\["[\w ]+ (success|failed) summary"\]', line)]
        return found[-1] if found else ""

    @property
    def succeeded(self) -> bool:
        """Exit code 0 and the summary of success."""
        return self.code == 0 and 'success summary"]' in self.summary


@dataclass(frozen=True, kw_only=True, slots=True)
class Br:
    """The real br against one PD. *env* holds the storage's credentials."""

    pd: str
    folder: Path
    env: Mapping[str, str]

    def __call__(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        stop_when: Callable[[str], bool] = lambda _: False,
        how: signal.Signals = signal.SIGTERM,
    ) -> BrRun:
        """Run ``br *args --pd ...``; as soon as *stop_when*, which sees its output so far, says so, it gets *how* (SIGTERM, so
        that it still reports). Raises SandboxError when it does not end."""
        argv = (*args, "--pd", self.pd)
        self.folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = {**inherited, **(self.env if env is None else env), "BR_LOG_TO_TERM": "1"}
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = subprocess.Popen([tool("br"), *argv], cwd=self.folder, env=environment, stdout=stdout, stderr=stderr)

            def ended() -> bool:
                return process.poll() is not None

            try:
                until(lambda: ended() or stop_when(_read(stdout)), lambda: f"br {' '.join(argv)} ends, or what stops it")
                if not ended():
                    process.send_signal(how)
                until(ended, lambda: f"br {' '.join(argv)} ends after {how.name}")
            finally:
                process.kill()
                process.wait()
            return BrRun(argv=argv, code=process.returncode, stdout=_read(stdout), stderr=_read(stderr))


def _read(file: IO[str]) -> str:
    """All of *file*, which another process writes at a place of its own."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def keep(name: str, run: BrRun, *, places: Mapping[str, str]) -> BrRun:
    """Write *run* as a golden log when recording; *places* maps this machine's paths and addresses to lasting ones."""
    if RECORDING:
        text = f"$ br {' '.join(run.argv)}\n# exit {run.code}\n# stdout\n{_shorter(run.stdout)}# stderr\n{run.stderr}"
        for here, lasting in sorted({**places, socket.gethostname(): "host"}.items(), key=lambda item: -len(item[0])):
            text = text.replace(here, lasting)
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / f"{name}.log").write_text(text)
    return run


def golden(name: str) -> BrRun:
    """The golden log *name* as the run that it came from."""
    text = (GOLDEN / f"{name}.log").read_text()
    found = re.fullmatch(r"\$ br (.*?)\n# exit (-?\d+)\n# stdout\n(.*?)# stderr\n(.*)", text, re.DOTALL)
    if not found:
        raise ValueError(f"{name}.log is no golden log of br")
    return BrRun(argv=tuple(found[1].split()), code=int(found[2]), stdout=found[3], stderr=found[4])


def _shorter(stdout: str) -> str:
    """Without repetitions and noise; errors, progress, summaries and everything that is no log line stay."""
    seen: Counter[str] = Counter()
    kept = []
    for line in stdout.splitlines(keepends=True):
        source = re.match(r"\[[^]]+\] \[(\w+)\] \[([\w.]+:\d+)\]", line)
        if source is None or source[1] in {"ERROR", "FATAL"} or source[2].startswith(("progress.go", "collector.go")):
            kept.append(line)
            continue
        seen[source[2]] += 1
        if seen[source[2]] <= _SAME_SOURCE and not _EMBEDDED.match(source[2]):
            kept.append(line)
    return "".join(kept)
