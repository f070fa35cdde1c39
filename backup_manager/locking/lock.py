"""A lock that a run holds for as long as its tool works, wherever it lies: a Lease in Kubernetes, a row in TiDB, a key in PD.

The place needs one thing, a conditional write (:class:`Place`): an entry has a version that every write changes, and a write
names the version that it replaces. All else is here, so that every lock of the product has the same rules:

=============================================  ==============================================================
the entry names                                answer
=============================================  ==============================================================
nobody, or there is none                       ours, if the conditional write is the first
a holder that renews                           wait, reporting ``Waiting`` and the holder's CR
a holder whose entry has not changed for all   ours: it is dead, or has stopped its tool
of its duration
an earlier attempt of our own CR, and its Pod  ours at once: nobody need wait for the dead
is shown to have ended
=============================================  ==============================================================

The duration is measured by the *waiter's own* monotonic clock, from when it first saw the entry as it is: clocks of two nodes
may differ. A holder that cannot renew stops its tool well before anybody may take over (fencing, :attr:`Pace.fence`).
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from backup_manager.context import Context
from backup_manager.errors import ManagerError, RunInterruptedError, TransientError
from backup_manager.kubernetes.client import ApiUnavailableError
from backup_manager.kubernetes.pods import ended_pods
from backup_manager.signals import TOOL_GRACE_SECONDS
from crds.contract import names
from crds.contract.report import Problem

_PATIENCE: Final = 600.0
"""Seconds for which a waiter that cannot look goes on trying."""
_LONGEST: Final = 3600.0
"""Seconds for which an unchanged entry counts at most, whatever number it holds."""


class LockLostError(TransientError):
    """The lock could not be renewed, or somebody else holds it: the tool was stopped."""

    reason = "LockLost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often is asked and renewed, in seconds. *fence* and the tool's grace period must end before *duration* has."""

    duration: float = 60.0
    renew: float = 10.0
    retry: float = 2.0
    fence: float = 35.0
    poll: float = 5.0
    grace: float = TOOL_GRACE_SECONDS

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.fence + self.grace >= self.duration or self.renew >= self.fence:
            raise ValueError("a tool must be stopped before its lock runs out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What an entry says. *holder* identifies the process (uid of its Pod), empty: nobody holds it. *owner* is for people
    (``Restore ns/name``), *owner_uid* the uid of that CR. *seconds* is how long an unchanged entry counts."""

    holder: str = ""
    owner: str = ""
    owner_uid: str = ""
    seconds: float = 0.0
    transitions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A note as it lies there; *version* differs after every write."""

    version: str
    note: Note


class Place(Protocol):
    """Where one lock lies. Both methods raise only :mod:`backup_manager.errors`."""

    @property
    def shown(self) -> str:
        """The place in words, for messages."""
        ...

    def look(self) -> Entry | None:
        """The entry; None when there is none."""
        ...

    def write(self, note: Note, version: str | None) -> Entry | None:
        """Replace the entry that has *version* (None: only if there is none); a note without holder frees the lock. None when
        the entry is another one by now, else what is there now."""
        ...


def identity(context: Context) -> Note:
    """Who this run is. Outside of Kubernetes the uid may stand in the file and be two runs': each gets a name of its own."""
    resource = context.resource
    holder = context.env.get(names.ENV_POD_UID) or f"{resource.uid}-{secrets.token_hex(4)}"
    return Note(holder=holder, owner=f"{resource.kind} {resource.namespace}/{resource.name}", owner_uid=resource.uid)


@dataclass(slots=True, kw_only=True)
class Lock:
    """One lock as one run sees it. *we* names this process, *ended* whether the Pod of a holder has ended."""

    place: Place
    we: Note
    pace: Pace
    ended: Callable[[str], bool] = lambda _holder: False
    clock: Callable[[], float] = time.monotonic
    entry: Entry | None = None
    seen_at: float = 0.0
    renewed_at: float = 0.0
    """When the last write that succeeded was asked for: it may have taken effect at once, or only just now."""

    @property
    def shown(self) -> str:
        """For messages."""
        return self.place.shown

    @property
    def holder(self) -> Note:
        """What the entry said when it was last looked at."""
        return self.entry.note if self.entry else Note()

    def try_acquire(self) -> bool:
        """Try to become the holder. A write that loses against another one's is a no."""
        self._look()
        there = self.holder
        if self.entry is None or not there.holder or there.holder == self.we.holder:
            return self._write(self.we.holder)
        return self._write(self.we.holder) if self._expired() or self._previous_attempt_is_dead() else False

    def renew(self) -> None:
        """Say that we are alive. Raises LockLostError when another holds it, ManagerError when that cannot be known."""
        if self._write(self.we.holder):
            return
        self._look()
        if self.holder.holder != self.we.holder:
            raise LockLostError(f"{self.holder.owner or 'somebody'} holds it")
        if not self._write(self.we.holder):
            raise TransientError("it changes all the time", reason="Conflict")

    def release(self) -> None:
        """Free it; a lock that is no longer ours stays as it is."""
        self._write("")

    def _look(self) -> None:
        self._saw(self.place.look())

    def _saw(self, entry: Entry | None) -> None:
        if entry is None or self.entry is None or entry.version != self.entry.version:
            self.seen_at = self.clock()
        self.entry = entry

    def _expired(self) -> bool:
        said = self.holder.seconds
        return self.clock() - self.seen_at > (min(said, _LONGEST) if said > 0 else self.pace.duration)

    def _previous_attempt_is_dead(self) -> bool:
        return bool(self.we.owner_uid) and self.holder.owner_uid == self.we.owner_uid and self.ended(self.holder.holder)

    def _write(self, holder: str) -> bool:
        there = self.holder
        if holder:
            changed = holder != there.holder
            note = replace(self.we, seconds=self.pace.duration, transitions=there.transitions + changed)
        else:
            note = Note(seconds=self.pace.duration, transitions=there.transitions)
        asked = self.clock()
        written = self.place.write(note, self.entry.version if self.entry else None)
        if written is not None:
            self.renewed_at = asked
            self._saw(written)
        return written is not None


@contextmanager
def holding(
    context: Context,
    lock: Lock,
    *,
    waiting: Callable[[Note], Problem],
    lost: Callable[[str], TransientError],
) -> Iterator[None]:
    """Hold *lock* while the body runs; wait for it first, reporting what *waiting* says of its holder.

    Raises what *lost* makes of the cause when it was lost meanwhile (the run is then asked to stop).
    """
    acquire(context, lock, waiting)
    with renewing(context, lock, lost=lost):
        yield


def acquire(context: Context, lock: Lock, waiting: Callable[[Note], Problem]) -> None:
    """Become the holder, however long that takes. A place that cannot be looked at is an error at first, and later on one when
    that lasts; an API server that is unavailable is waited for from the start."""
    said, failing = "", 0.0
    while True:
        try:
            if lock.try_acquire():
                break
            failing, problem = 0.0, waiting(lock.holder)
        except ManagerError as error:
            problem = error.problem()
            failing = failing or lock.clock()
            answers_soon = bool(said) or isinstance(error, ApiUnavailableError)
            if not answers_soon or not problem.retryable or lock.clock() - failing > _PATIENCE:
                raise
        context.journal.waiting(problem)
        if problem.message != said:
            context.log(problem.message)
            said = problem.message
        context.stop.wait(lock.pace.poll)
    context.log(f"holds {lock.place.shown}")


class Renewable(Protocol):
    """What is renewed while a body runs: a :class:`Lock`, or a mark that keeps others from something else."""

    pace: Pace
    renewed_at: float

    def clock(self) -> float:
        """The monotonic clock of *renewed_at*."""
        ...

    @property
    def shown(self) -> str:
        """In words, for messages."""
        ...

    def renew(self) -> None:
        """Raises LockLostError when it is gone for good, another ManagerError when that is not known."""
        ...

    def release(self) -> None:
        """Free it."""
        ...


@contextmanager
def renewing(context: Context, lock: Renewable, *, lost: Callable[[str], TransientError]) -> Iterator[None]:
    """Renew *lock*, which is held, while the body runs; free it at the end."""
    renewal = _Renewal(lock=lock, lost=context.stop.request, log=context.log)
    renewal.start()
    try:
        yield
    except RunInterruptedError:  # of our own asking; any other error says more than the lost lock
        if not renewal.why:
            raise
    finally:
        renewal.end()
    if renewal.why:
        raise lost(renewal.why)


def pod_has_ended(context: Context) -> Callable[[str], bool]:
    """Whether Kubernetes shows that the Pod with a uid, one of this CR's, has ended; never without Kubernetes. A Pod that is
    gone proves nothing: it may have been deleted by force while its node was cut off, and renew its lock to this moment."""
    return lambda holder: holder in ended_pods(context.kubernetes, context.resource.namespace, context.resource.uid)


@dataclass(kw_only=True)
class _Renewal:
    """Renews in one thread, and watches from another one that it did: a renewal that hangs must not keep the tool running."""

    lock: Renewable
    lost: Callable[[], None]
    log: Callable[[str], None]
    why: str = ""
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin; the lock has just been written."""
        self._threads = [
            threading.Thread(target=work, name=f"lock-{work.__name__}", daemon=True) for work in (self._renew, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop renewing and free a lock that is still ours."""
        self._ended.set()
        self._threads[0].join(self.lock.pace.retry)
        if not self.why and not self._threads[0].is_alive():
            with suppress(ManagerError):
                self.lock.release()

    def _renew(self) -> None:
        wait = self.lock.pace.renew
        while not self._ended.wait(wait):
            try:
                self.lock.renew()
            except LockLostError as error:
                self._give_up(error.message)
                return
            except ManagerError as error:
                self.log(f"{self.lock.shown} could not be renewed: {error.message}")
                wait = self.lock.pace.retry
            else:
                wait = self.lock.pace.renew

    def _watch(self) -> None:
        fence = self.lock.pace.fence
        while not self._ended.wait(max(0.0, self.lock.renewed_at + fence - self.lock.clock())):
            if self.lock.clock() - self.lock.renewed_at >= fence:
                self._give_up(f"it could not be renewed for {fence:g} s")
                return

    def _give_up(self, why: str) -> None:
        if self._ended.is_set() or self.why:
            return
        self.why = why
        self.log(f"[ERROR] {self.lock.shown} is lost ({why}): stopping the tool")
        self.lost()
