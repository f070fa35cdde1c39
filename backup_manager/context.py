"""What every operation is made of: a :class:`Context` to work in, a list of named :class:`Step`, a :class:`Result` to return.

An operation module offers ``run(context) -> Result`` and raises only :mod:`backup_manager.errors`. It never writes the first
or the last report: :func:`backup_manager.cli` does, so that each run ends in exactly one of ``Complete`` and ``Failed``. An
operation that writes data calls ``context.journal.path(url)`` before its first byte.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from backup_manager.kubernetes.client import KubernetesApi
from backup_manager.kubernetes.resource import Resource
from backup_manager.masking import Masker
from backup_manager.reporting.journal import Journal
from backup_manager.signals import StopSignal

State = TypeVar("State")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """All that an operation may use.

    *resource* is the CR; *flags* are the command line's values by their long names (``"client-tls": True``); *env* is the
    environment (never read ``os.environ``); *kubernetes* is None when the CR came from a file; *scratch* is a private, writable
    folder that is removed at the end; *log* writes one masked line to stderr.
    """

    resource: Resource
    journal: Journal
    scratch: Path
    stop: StopSignal = field(default_factory=StopSignal)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    flags: Mapping[str, Any] = field(default_factory=dict)
    kubernetes: KubernetesApi | None = None
    mask: Masker = field(default_factory=Masker)
    log: Callable[[str], None] = lambda _line: None
    now: Callable[[], datetime] = _now


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an operation achieved; *details* become ``report.result`` (JSON-like, no secrets)."""

    commit_ts: str | None = None
    backup_size: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Operation(Protocol):
    """A verb."""

    def __call__(self, context: Context) -> Result:
        """Do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[State]):
    """One named part of an operation; *name* is what ``status.progresses`` shows. *work* gets the context and the state."""

    name: str
    work: Callable[[Context, State], None]


def run_steps(context: Context, steps: Sequence[Step[State]], state: State) -> State:
    """Run *steps* in order, reporting the start and the end of each; stop between two when the run was asked to end."""
    context.journal.running()
    for step in steps:
        context.stop.check()
        context.log(f"step {step.name}")
        context.journal.step(step.name)
        step.work(context, state)
        context.journal.step(step.name, 100)
    return state
