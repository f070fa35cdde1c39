"""One run of one operation: what it needs is made here, and whatever happens it ends in one final report and one exit code.

Nothing but :mod:`backup_manager.errors` is expected from an operation. Anything else is a defect of ours: it is reported as
``InternalError`` in one line, and its details go, masked, to stderr alone.
"""

import gc
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, TextIO, cast
from uuid import uuid4

from backup_manager.backoff import Backoff
from backup_manager.context import Context, Operation, Result
from backup_manager.credentials import clean_environment
from backup_manager.errors import ManagerError, PermanentError, RunInterruptedError, UsageError
from backup_manager.kubernetes.client import READ_SECONDS, KubernetesApi, Server
from backup_manager.kubernetes.resource import Resource, choose
from backup_manager.masking import Masked, Masker, secrets_of
from backup_manager.reporting.journal import Journal
from backup_manager.reporting.reporters import open_reporter, write_termination_message
from backup_manager.signals import End, StopSignal
from backup_manager.tools import secret_options
from crds.contract import names
from crds.contract.report import Problem

ENV_SCRATCH: Final = "BACKUP_MANAGER_SCRATCH"
"""A folder for temporary files (archives are unpacked there); the system's own when not set."""


class Verb(Protocol):
    """A subcommand: the module of ``operations`` that does it, the kinds of CR it works on, and the flag that names one."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def operation(self) -> str: ...  # noqa: D102

    @property
    def kinds(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def name_flag(self) -> str: ...  # noqa: D102

    @property
    def unread(self) -> str: ...  # noqa: D102

    def is_run(self, flags: Mapping[str, Any]) -> bool: ...  # noqa: D102


@dataclass(kw_only=True)
class Run:
    """One run. :meth:`execute` is called once."""

    verb: Verb
    flags: Mapping[str, Any]
    env: Mapping[str, str]
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    stop: StopSignal = field(default_factory=StopSignal)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def execute(self) -> int:
        """Do it; the exit code."""
        self.mask = Masker(secrets_of(self.env, {}))
        try:
            reporter = open_reporter(
                self.flags.get("report") or "",
                api=lambda: self.kubernetes,
                env=self.env,
                namespace=self.flags.get("namespace") or "",
                log=self.log,
                left=lambda: self.stop.left(End.REPORT),
            )
        except ManagerError as error:
            self._say(error.problem())
            return error.exit_code
        journal = Journal(reporter, attempt=self.env.get(names.ENV_POD_UID, ""), masker=self.mask)
        try:
            with self.stop.guarded(End.RECORD, lambda: self._report_late_end(journal)):
                return self._settle(journal)
        finally:
            write_termination_message(journal.report)
            reporter.close()

    def _settle(self, journal: Journal) -> int:
        """Run and store the outcome. When it cannot be stored, the run has failed, whatever it did."""
        try:
            try:
                result = self._work(journal)
            except ManagerError as error:
                self._say(error.problem())
                journal.fail(error.problem())
                return error.exit_code
            except Exception as error:  # noqa: BLE001  (the guard: no traceback reaches a user)
                journal.fail(self._internal(error))
                return 1
            journal.complete(commit_ts=result.commit_ts, backup_size=result.backup_size, **dict(result.details))
        except ManagerError as error:
            self.log(f"[ERROR] the outcome could not be stored: {error.message}")
            return error.exit_code or 1
        return 0

    def _report_late_end(self, journal: Journal) -> None:
        """Store the outcome now: the process is about to be killed, and something still keeps the run from ending."""
        self.log("[ERROR] the end takes too long: the outcome is stored before the Pod is killed")
        problem = Problem(
            reason=RunInterruptedError.reason,
            message="the run was stopped, and its end took longer than the Pod's grace period allows",
            hint="Its log shows what it was doing (kubectl logs).",
            retryable=True,
        )
        with suppress(ManagerError):
            journal.fail(problem)
        write_termination_message(journal.report)

    def _work(self, journal: Journal) -> Result:
        # Before anything reads a credential: the preflight, our clients and the tools use the same values.
        self.env = clean_environment(self.env)
        resource = self._resource()
        self.env = clean_environment(secret_options.environment(self.env, resource.spec))
        self.mask = Masker(secrets_of(self.env, resource.spec))
        journal.masker = self.mask
        self.log(f"{self.verb.name}: {resource.kind} {resource.namespace}/{resource.name}")
        operation = _operation(self.verb.operation)
        gc.freeze()
        gc.enable()
        with self._scratch() as scratch:
            return operation(
                Context(
                    resource=resource,
                    journal=journal,
                    scratch=scratch,
                    stop=self.stop,
                    env=self.env,
                    flags=self.flags,
                    kubernetes=None if self.flags.get("from-file") else self.kubernetes,
                    mask=self.mask,
                    log=self.log,
                )
            )

    def _resource(self) -> Resource:
        name, namespace = self.flags.get(self.verb.name_flag) or "", self.flags.get("namespace") or ""
        if source := self.flags.get("from-file"):
            resource = choose(_documents(source), kinds=self.verb.kinds, name=name, namespace=namespace)
            # Without an API server nobody gave a uid; a fresh one keeps the folder of each run apart.
            return resource if resource.uid else resource.with_uid(uuid4().hex)
        kind = self.flags.get("kind") or self.verb.kinds[0]
        try:
            resource = Resource.of(self.kubernetes.resource(kind, namespace, name))
        except ManagerError as error:
            problem = error.problem()
            raise PermanentError(
                f"{kind} {namespace}/{name} cannot be read: {problem.message}",
                reason=self.verb.unread,
                hint=problem.hint,
                retryable=problem.retryable,
            ) from None
        if (uid := self.env.get(names.ENV_CR_UID)) and resource.uid != uid:
            raise PermanentError(
                f"{kind} {namespace}/{name} is not the one that this Job was made for (uid {resource.uid}, not {uid})",
                reason="NotThisCR",
                hint=f"It was deleted and created again. Delete this Job; the new {kind} gets its own.",
            )
        if resource.deleting and self.verb.is_run(self.flags):
            # The hook that made the Job may have been shown the CR as it was before; another run of it may be over.
            raise PermanentError(
                f"{kind} {namespace}/{name} is being deleted; no run of it begins any more",
                reason="DeletionRequested",
                hint="Nothing was read or written. To run it again, apply it under a new name.",
            )
        # The spec may have been edited since the Job was made, or since the first one was: what was recorded decides.
        text = self.env.get(names.ENV_RECORDED)
        return resource.as_recorded(text) if text else resource

    @cached_property
    def kubernetes(self) -> KubernetesApi:
        """The API server: of ``--kubeconfig``, else the one that we run in."""
        kubeconfig = self.flags.get("kubeconfig")
        return KubernetesApi(
            Server.from_kubeconfig(Path(kubeconfig)) if kubeconfig else Server.in_cluster(self.env),
            backoff=Backoff(seconds=READ_SECONDS, sleep=self.stop.wait),
            left=lambda: self.stop.left(End.REPORT),
        )

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        parent = self.env.get(ENV_SCRATCH) or None
        try:
            folder = Path(tempfile.mkdtemp(prefix="backup-manager-", dir=parent))
        except OSError as error:
            raise PermanentError(
                f"no temporary folder: {error.strerror}", reason="NoScratchSpace", hint="Mount an emptyDir at /tmp."
            ) from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def log(self, text: str) -> None:
        """One line, or a tool's block of them, masked, to stderr; each in the form that the tools' own lines have."""
        shown = text if isinstance(text, Masked) else self.mask(text)
        if not shown.startswith("[2") or shown.count("\n") != shown.count("\n[2"):
            shown = "\n".join(line if line.startswith("[2") else _dressed(line) for line in shown.split("\n"))
        with self._lock, suppress(OSError, ValueError):
            self.stderr.write(shown + "\n")
            self.stderr.flush()

    def _say(self, problem: Problem) -> None:
        self.log(f"[ERROR] {problem.reason}: {problem.message} {problem.hint}".rstrip())

    def _internal(self, error: Exception) -> Problem:
        self.log("[ERROR] internal error, details follow")
        for line in traceback.format_exception(error):
            for part in line.splitlines():
                self.log(f"[ERROR] {part}")
        return Problem(
            reason="InternalError",
            message=f"backup-manager failed unexpectedly ({type(error).__name__})",
            hint="Its log has the details (kubectl logs); please report them.",
            retryable=True,
        )


def _dressed(line: str) -> str:
    level = "" if line.startswith("[ERROR]") else "[INFO] "
    return f"[{datetime.now(UTC):%Y/%m/%d %H:%M:%S.%f} +00:00] {level}[backup-manager] {line}"


def _operation(module: str) -> Operation:
    """The operation; imported only now, as each brings its own tools."""
    return cast(Operation, import_module(f"backup_manager.operations.{module}").run)


def _documents(source: str) -> list[Any]:
    """Every YAML document of the file *source*; ``-`` is stdin. Raises UsageError."""
    import yaml  # noqa: PLC0415  (a Job reads its CR from the API server)

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        # The same safe loader, written in C where the wheel brings it: ten times as fast.
        return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}", hint="Give the path of a YAML file with the CR.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is no YAML: {' '.join(str(error).split())[:200]}", hint="Correct the file.") from None
