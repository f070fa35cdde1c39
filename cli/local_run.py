"""Operations of backup-manager run here, with the user's own credentials and network, on a CR of the cluster or of a file."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from backup_manager.content import Content
from backup_manager.context import Context, Operation, Result
from backup_manager.errors import ManagerError
from backup_manager.kubernetes.resource import Resource
from backup_manager.masking import Masker, secrets_of
from backup_manager.reporting.journal import Journal, NullReporter
from cli.documents import Object
from cli.formats import count
from crds.contract.report import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an operation said: its *result*, or its *problem* with the exit code that goes with it."""

    result: Mapping[str, Any]
    problem: Problem | None = None
    exit_code: int = 0
    lines: list[str] = field(default_factory=list)

    def verdict(self, what: str) -> str:
        """*what* and how it stands: as recorded, with objects and content where they are known, or the problem and its hint."""
        if self.problem is not None:
            return "\n".join(text for text in (f"{self.problem.reason}: {self.problem.message}", self.problem.hint) if text)
        checked = self.result.get("objectCount")
        objects = f", {count(int(checked), 'object')}" if checked is not None else ""
        return f"{what}: as recorded{objects}{_describe_content(self.result.get('content'))}"

    def data(self) -> Mapping[str, Any]:
        """The outcome for ``-o json``: ``ok``, the result's fields, and ``error`` where there is one."""
        data: dict[str, Any] = {"ok": self.problem is None, **self.result}
        if self.problem:
            data["error"] = {key: value for key, value in self.problem.plain().items() if value}
        return data


def _describe_content(content: Any) -> str:
    if not isinstance(content, Mapping):
        return ""
    return f"; {msgspec.convert(content, Content)}" if content.get("known") else "; which tables it holds was not recorded"


@contextmanager
def context_for(
    cr: Object, *, flags: Mapping[str, Any], env: Mapping[str, str], log: Callable[[str], None]
) -> Iterator[Context]:
    """A context without Kubernetes and without a report."""
    resource = Resource.of(cr)
    mask = Masker(secrets_of(env, resource.spec))
    with tempfile.TemporaryDirectory(prefix="tidb-backup-") as scratch:
        yield Context(
            resource=resource,
            journal=Journal(NullReporter(), masker=mask),
            scratch=Path(scratch),
            env=env,
            flags=flags,
            mask=mask,
            log=lambda line: log(mask(line)),
        )


def perform(operation: Operation, cr: Object, *, flags: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Outcome:
    """Run *operation* on *cr*."""
    lines: list[str] = []
    with context_for(cr, flags=flags, env=env, log=lines.append) as context:
        try:
            found: Result = operation(context)
        except ManagerError as error:
            problem = error.problem()
            masked = problem.but(message=context.mask(problem.message), hint=context.mask(problem.hint))
            result = context.journal.report.result
            return Outcome(result=result, problem=masked, exit_code=error.exit_code, lines=lines)
        return Outcome(result={**context.journal.report.result, **found.details}, lines=lines)
