"""A look at a storage before it is used: can this Job, with its own identity, do there what it will have to do.

Each check says OK, WARNING, FAILED or SKIPPED, with the next step. A wrong key then fails in seconds with a reason, instead of
after an hour of dumping.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from backup_manager.errors import AccessDeniedError, ManagerError, NotFoundError, StorageError
from backup_manager.storage.base import Storage, StoreState, Target
from backup_manager.storage.retry import with_retries
from crds.contract import paths

PROBE: Final = paths.PROBE
_SKEW_WARNING: Final = 60.0
_SKEW_FAILED: Final = 900.0
"""S3 refuses requests that are 15 minutes off."""


class Status(StrEnum):
    """The outcome of one check."""

    OK = "OK"
    WARNING = "WARNING"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the table. *error* is what a caller may raise."""

    name: str
    status: Status
    message: str = ""
    hint: str = ""
    error: ManagerError | None = None

    def to_dict(self) -> dict[str, str]:
        """For a report."""
        texts = {"message": self.message, "hint": self.hint}
        return {"name": self.name, "status": self.status.value, **{name: text for name, text in texts.items() if text}}


def preflight(storage: Storage, *, write: bool = True, conditions: bool = False) -> list[Check]:
    """Every check, in order; with *write* false only what a reader needs, with *conditions* also whether the store enforces
    conditional writes. Raises nothing for a storage that fails."""
    run = _Preflight(storage, conditions=conditions)
    run.do("reach", run.reach)
    if run.failed:
        return [*run.checks, *(_skipped(name) for name in ("list", *(_WRITING if write else ())))]
    run.do("list", run.lists)
    if write:
        run.writes()
    run.describe()
    return run.checks


def probe(storage: Storage, start: str) -> list[Check]:
    """Only what a writer needs, tried with one object whose name begins with *start*."""
    run = _Preflight(storage, start)
    run.do("reach", run.reach)
    if not run.failed:
        run.writes()
    return run.checks


_WRITING: Final = ("write", "read", "delete")


def require(checks: Iterable[Check]) -> None:
    """Raise the first failure."""
    for check in checks:
        if check.status is Status.FAILED:
            raise check.error or StorageError(check.message, hint=check.hint)


def table(checks: Sequence[Check]) -> list[str]:
    """The checks as lines of text."""
    width = max((len(check.name) for check in checks), default=0)
    return [
        f"{check.status:<8}{check.name:<{width}}  {check.message}{f'  -> {check.hint}' if check.hint else ''}".rstrip()
        for check in checks
    ]


def _skipped(name: str, why: str = "after the failure above") -> Check:
    return Check(name=name, status=Status.SKIPPED, message=why)


class _Preflight:
    def __init__(self, storage: Storage, start: str = "", *, conditions: bool = False) -> None:
        self.checks: list[Check] = []
        self.probe = ""
        self._storage = storage
        self._start = start
        self._conditions = conditions
        self._state = StoreState()
        self._data = b""

    @property
    def failed(self) -> bool:
        return any(check.status is Status.FAILED for check in self.checks)

    def do(self, name: str, check: Callable[[], Check | str]) -> None:
        """Run one check; its error becomes its line."""
        try:
            told = check()
        except ManagerError as error:
            problem = error.problem()
            text = f"{problem.reason}: {problem.message}"
            told = Check(name=name, status=Status.FAILED, message=text, hint=problem.hint, error=error)
        self.checks.append(told if isinstance(told, Check) else Check(name=name, status=Status.OK, message=told))

    def reach(self) -> str:
        self._state = self._storage.state()
        return f"{self._storage.location.url} answers"

    def lists(self) -> str:
        first = next(iter(self._storage.list()), None)
        return "nothing there yet" if first is None else f"not empty, first {first.key[:80]!r}"

    def writes(self) -> None:
        """Write an object, and with that done read and delete it."""
        self.do("write", self.write)
        checks: list[tuple[str, Callable[[], Check | str]]] = [("read", self.read)]
        checks += [("conditions", self.conditions)] if self._conditions else []
        for name, check in (*checks, ("delete", self.delete)):
            if self.probe:
                self.do(name, check)
            else:
                self.checks.append(_skipped(name))

    def write(self) -> Check | str:
        if self._state.default_lock:
            return _skipped("write", f"new objects are locked ({self._state.default_lock}): a probe could not be removed")
        name = f"{self._start}{PROBE}{secrets.token_hex(8)}"
        self._data = name.encode()
        self._storage.write(name, self._data)
        self.probe = name
        return "an object can be written"

    def read(self) -> str:
        if self._storage.read(self.probe) != self._data:
            raise StorageError(
                "an object read back differs from what was written",
                reason="StorageInconsistent",
                hint="Does the store cache or rewrite objects, or do two stores answer at this address?",
            )
        return "and read back"

    def conditions(self) -> Check | str:
        if self._storage.enforces_conditions(self.probe):
            return "conditional writes are enforced"
        return Check(
            name="conditions",
            status=Status.WARNING,
            message="the store does not enforce conditional writes (If-None-Match)",
            hint="Two Backups that claim one path at the same moment may both believe that they have it: give each a prefix of "
            "its own, or use a store that enforces them.",
        )

    def delete(self) -> Check | str:
        try:
            targets = [target for page in self._storage.targets(self.probe) for target in page]
        except ManagerError:  # told by the check of listing; the probe has to go all the same
            targets = []
        targets = targets or [Target(self.probe)]
        failures = with_retries(lambda: self._storage.delete_batch(targets))
        if failures:
            first = failures[0]
            error = AccessDeniedError(
                f"the probe {self.probe} cannot be deleted: {first.code} {first.message}",
                hint="Allow deletion (s3:DeleteObject, s3:DeleteObjectVersion) here; cleanPolicy Delete needs it.",
            )
            problem = error.problem()
            return Check(name="delete", status=Status.FAILED, message=problem.message, hint=problem.hint, error=error)
        try:
            self._storage.stat(self.probe)
        except (NotFoundError, AccessDeniedError):
            return "and deleted"
        raise StorageError(
            "a deleted object is still there", reason="StorageInconsistent", hint="The store does not carry out deletions."
        )

    def describe(self) -> None:
        """What the bucket is like: nothing of it stops a backup, all of it is good to know."""
        state = self._state
        versions = {None: "unknown", True: "on: a clean removes every version", False: "off"}[state.versioned]
        unknown = state.versioned is None
        hint = "Allow s3:GetBucketVersioning; else a clean may leave older versions." if unknown else ""
        kind = Status.WARNING if unknown else Status.OK
        self.checks.append(Check(name="versioning", status=kind, message=versions, hint=hint))
        lock = {None: "unknown", True: state.default_lock or "possible, not by default", False: "off"}[state.lock]
        locked = Check(
            name="lock",
            status=Status.WARNING if state.default_lock else Status.OK,
            message=lock,
            hint="A clean can delete objects only after their date." if state.default_lock else "",
        )
        self.checks += [locked, self._clock()]

    def _clock(self) -> Check:
        skew = self._state.clock_skew
        if skew is None:
            return _skipped("clock", "the store tells no time")
        text = f"{abs(skew):.0f} s {'ahead of' if skew < 0 else 'behind'} the store's" if abs(skew) >= 1 else "in step"
        if abs(skew) < _SKEW_WARNING:
            return Check(name="clock", status=Status.OK, message=text)
        error = StorageError(f"this node's clock is {text}", reason="ClockSkew", hint="Fix NTP on the node.")
        status = Status.FAILED if abs(skew) >= _SKEW_FAILED else Status.WARNING
        return Check(name="clock", status=status, message=text, hint=error.hint, error=error)


def details(checks: Iterable[Check]) -> dict[str, Any]:
    """For ``report.result``."""
    return {"checks": [check.to_dict() for check in checks]}
