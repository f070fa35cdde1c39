"""What the threads of :mod:`backup_manager.locking.lock` do, without threads.

A holder that runs renews, which the places show when they are looked at. One that was frozen for longer than the fence, or
whose entry is another's by now, notices as soon as it runs again: its tool is told to stop, and whatever comes of it, the run
has lost the lock.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from backup_manager.errors import ManagerError
from backup_manager.locking.lock import Lock
from tests.support.interleaving.scheduler import Scheduler


class FakeRenewal:
    """In place of ``backup_manager.locking.lock._Renewal``."""

    def __init__(self, scheduler: Scheduler, *, lock: Lock, lost: Callable[[], None], **_: Any) -> None:
        current = scheduler.current
        assert current is not None
        self.why = ""
        self._process, self._lock, self._lost = current, lock, lost

    def start(self) -> None:
        """Begin."""
        self._process.renewals.append(self)

    def end(self) -> None:
        """Free the lock, if it is still ours."""
        self._process.renewals.remove(self)
        if not self.why:
            with suppress(ManagerError):
                self._lock._look()
                if self._lock.holder.holder == self._lock.we.holder:
                    self._lock.release()

    def thawed(self, seconds: float) -> None:
        """The process stood still for so long, and could not renew."""
        if seconds >= self._lock.pace.fence:
            self.why = self.why or f"it could not be renewed for {seconds:g} s"

    def taken_over(self) -> None:
        """Somebody else holds it by now."""
        self.why = self.why or "somebody else holds it"
