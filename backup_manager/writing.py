"""The folder a run writes to: taken before the first byte, ours alone, and signed off at the end.

Data that has no record, or another Backup's, is never touched: the run is refused. What an earlier attempt of the same Backup
left half-written is removed first by an export, while br goes on from its own checkpoint.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from backup_manager.errors import ManagerError, StorageError
from backup_manager.preflight import Status, preflight, require, table
from backup_manager.records import Owner, Record, Records, State
from backup_manager.storage.base import Storage
from crds import names

if TYPE_CHECKING:
    from backup_manager.operations.steps import Context


_CLEANING: Final = frozenset({"Delete", "OnFailure"})


class Folder:
    """One folder and its record, on behalf of the CR of *context*."""

    def __init__(self, context: "Context", storage: Storage, *, operation: str) -> None:
        self.storage = storage
        self._context = context
        self._operation = operation
        self._owner = Owner.of(context.resource)
        self._records = Records(storage, now=context.now)
        self._before: Record | None = None
        self._asked = False

    def finished(self) -> Record | None:
        """The record of an earlier attempt of this CR that ended well and could not report it."""
        record = self._before = self._records.load()
        self._asked = True
        ours = record is not None and record.owner.uid == self._owner.uid and record.state is State.COMPLETE
        return record if ours else None

    def claim(self, *, resumable: bool = False) -> bool:
        """Take the folder; True when an earlier attempt's data was left in it (only when *resumable*, else it is removed)."""
        if not self._asked:
            self.finished()
        known = self._before is not None and self._before.live
        found = next(iter(self.storage.list()), None)
        if found is not None and not known:
            raise StorageError(
                f"{self.storage.location.url} holds data that is not this backup's, first {found.key[:120]!r}",
                reason="BackupPathInUse",
                hint="Give this Backup another prefix, or delete what is there.",
            )
        self._records.claim(self._owner, operation=self._operation, spec=self._context.resource.spec, mask=self._context.mask)
        self._preflight()
        if found is None or resumable:
            return found is not None
        self._remove_leftovers()
        return False

    def complete(self, *, tool: str, version: str, argv: Sequence[str], commit_ts: str | None) -> Record:
        """Sign the folder off with its list of objects; the record has their number and size."""
        return self._records.complete(
            self._owner, tool=tool, tool_version=version, argv=argv, commit_ts=commit_ts, mask=self._context.mask
        )

    @contextmanager
    def told(self) -> Iterator[None]:
        """Write a failure of the body into the record too; its own failing is only logged."""
        try:
            yield
        except ManagerError as error:
            try:
                if self._records.load() is not None:
                    self._records.fail(self._owner, error.problem())
            except ManagerError as second:
                self._context.log(f"the record could not be updated: {second.message}")
            raise

    def _preflight(self) -> None:
        """Try what the run, and later its clean, will need: a missing right shows now and not after hours.

        Only a backup that is to be deleted one day is probed for deletion: others may lie where deleting is forbidden.
        """
        resource = self._context.resource
        if resource.annotations.get(names.SKIP_PREFLIGHT_ANNOTATION) == "true":
            self._context.log(f"no preflight: annotation {names.SKIP_PREFLIGHT_ANNOTATION}")
            return
        checks = preflight(self.storage, write=resource.spec.get("cleanPolicy") in _CLEANING)
        for line in table([check for check in checks if check.status in {Status.WARNING, Status.FAILED}]):
            self._context.log(line)
        require(checks)

    def _remove_leftovers(self) -> None:
        from backup_manager.cleaner import Cleaner  # noqa: PLC0415  (only a repeated run needs it)

        self._context.log(f"removing what an earlier attempt left in {self.storage.location.url}")
        tally = Cleaner(self.storage, stop=self._context.stop).run()
        self._context.journal.note(leftoversRemoved=tally.deleted)
