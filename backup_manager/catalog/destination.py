"""The folder a run writes to: claimed before the first byte, held by one attempt, and closed with an account at the end.

Data that has no record, or another Backup's, is never touched: the run is refused. The states of the path and what keeps a
stale attempt apart are described in docs/adr/0001-path-ownership.md: an export that is repeated writes into a folder of its
own, while br goes on from its own checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from backup_manager.catalog.attempts import attempt_id, seen_to_end
from backup_manager.catalog.ownership import Fence, data_in_use
from backup_manager.catalog.record import Owner, Record, State, is_attempt_folder
from backup_manager.catalog.records import Records
from backup_manager.content import Content, Item
from backup_manager.context import Context, Result
from backup_manager.errors import ManagerError, PermanentError, RunInterruptedError, SupersededError, UsageError
from backup_manager.storage.base import ObjectInfo, Storage
from backup_manager.storage.preflight import PROBE, Status, preflight, require, table
from crds.contract import names
from crds.contract.paths import ATTEMPT_FOLDER, reserved_part

_CLEANING: Final = frozenset({"Delete", "OnFailure"})


class CompletedError(Exception):
    """An earlier attempt of this CR completed the data before this one claimed the path. Not a failure: see *record*."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.backup_path)
        self.record = record


class BackupDestination:
    """One folder and its record, on behalf of the CR of *context*."""

    def __init__(self, context: Context, storage: Storage, *, operation: str) -> None:
        self.storage = storage
        self._context = context
        self._operation = operation
        self._owner = Owner.of(context.resource)
        self._id = attempt_id(context)
        self._records = Records(storage, now=context.now, attempt_id=self._id, pod=context.env.get(names.ENV_POD_NAME, ""))
        self._mine: Record | None = None

    @property
    def data(self) -> Storage:
        """Where this attempt's data goes: the folder itself, or after earlier attempts a folder of its own in it."""
        return self._records.data_storage(self._claimed)

    def finished(self) -> Record | None:
        """The record of an earlier attempt of this CR that ended well and could not report it."""
        record = self._records.load()
        ours = record is not None and record.owner.uid == self._owner.uid and record.state is State.COMPLETE
        return record if ours else None

    def claim(self, *, fence: Fence = Fence.FOLDER) -> bool:
        """Take the folder; True when the tool may go on from what an earlier attempt left in it (only with :attr:`Fence.TOOL`;
        else that is removed). Raises CompletedError, and ClaimedError when the path is not this CR's to write to."""
        self._refuse_reserved()
        before = self._records.load()  # what :meth:`finished` saw may be hours old: a Lease was waited for since
        found = self._first_key()
        mine = self._records.claim(
            self._owner,
            operation=self._operation,
            spec=self._context.resource.spec,
            mask=self._context.mask,
            fence=fence,
            ended=seen_to_end(self._context, before, own=self._id),
            ended_at=lambda neighbour: seen_to_end(self._context, neighbour),
            on_free=self._refuse_foreign_data,
            trial=self._preflight,
        )
        if mine.state is State.COMPLETE:
            raise CompletedError(mine)
        self._mine = mine
        if found is None or fence is Fence.TOOL:
            return found is not None
        self._remove_leftovers(fence)
        return False

    def confirm(self) -> None:
        """Look whether this attempt still holds the path, right before it writes. Raises SupersededError."""
        self._records.confirm(self._claimed)

    def complete(
        self,
        *,
        tool: str,
        version: str,
        argv: Sequence[str],
        commit_ts: str | None,
        held: Content,
        items: Sequence[Item] = (),
        left_out: Sequence[str] = (),
        listed: Sequence[ObjectInfo] | None = None,
    ) -> Record:
        """Close the account with the list of objects (*listed*, where they were listed already) and with what the data *held*;
        the record has number and size of the objects. Raises SupersededError."""
        return self._records.complete(
            self._claimed,
            tool=tool,
            tool_version=version,
            argv=argv,
            commit_ts=commit_ts,
            mask=self._context.mask,
            held=held,
            items=items,
            left_out=left_out,
            listed=listed,
        )

    @contextmanager
    def record_failures(self) -> Iterator[None]:
        """Write a failure of the body into the record too; its own failing is only logged. A later attempt's record is left
        alone, but for the note that this attempt has ended."""
        try:
            yield
        except ManagerError as error:
            self._end(error)
            raise
        except Exception:
            self._end(None)
            raise

    @contextmanager
    def open_until_end(self) -> Iterator[None]:
        """Note the end of this attempt, however the body ends. The state stays: the tool's task goes on without us."""
        try:
            yield
        finally:
            self._end(None)

    @property
    def _claimed(self) -> Record:
        assert self._mine is not None, "claim() comes first"  # noqa: S101  (its message says so)
        return self._mine

    def _first_key(self) -> str | None:
        return next((info.key for info in self.storage.list() if not info.key.startswith(PROBE)), None)

    def _refuse_foreign_data(self) -> None:
        """Data that no record explains is not touched. A writer that was late may have left it since the path was free."""
        if (found := self._first_key()) is None:
            return
        refusal = data_in_use(self.storage.location.url, found)
        self._records.refuse(self._owner, operation=self._operation, problem=refusal.problem())
        raise refusal

    def _end(self, error: ManagerError | None) -> None:
        mine = self._records.last_claim
        if mine is None or mine.state is State.COMPLETE:
            return
        try:
            with suppress(SupersededError):
                if error is not None:
                    self._records.fail(mine, error.problem())
                    return
            self._records.close()
        except ManagerError as second:
            self._context.log(f"the record could not be updated: {second.message}")

    def _refuse_reserved(self) -> None:
        location = self.storage.location
        if part := reserved_part(location.prefix, archive=True):
            raise UsageError(
                f"{location.url}: {part!r} is reserved for the records that lie beside backups",
                hint="Give this Backup another prefix.",
            )

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

    def _remove_leftovers(self, fence: Fence) -> None:
        """Delete what earlier attempts left. An export has a folder of its own, so there it need not succeed; and it leaves the
        folders of later attempts alone, should this one be the stale one."""
        from backup_manager.cleaning.cleaner import Cleaner  # noqa: PLC0415  (only a repeated run needs it)

        context, mine = self._context, self._claimed
        context.log(f"removing what an earlier attempt left in {self.storage.location.url}")
        number = mine.attempt.number if mine.attempt else mine.attempts
        own = fence is Fence.FOLDER
        cleaner = Cleaner(
            self.storage,
            keep=(lambda key: _attempt_of(key) >= number) if own else None,
            confirm=self.confirm,
            stop=context.stop,
        )
        try:
            cleaner.run()
        except (RunInterruptedError, SupersededError):
            raise
        except ManagerError as error:
            if not own:
                raise
            context.log(f"leftovers stay, and are not part of the backup: {error.message}")
        context.journal.note(leftoversRemoved=cleaner.tally.deleted)


def _attempt_of(key: str) -> int:
    """The number of the attempt in whose folder *key* lies; 1 outside of such folders."""
    folder, slash, _ = key.partition("/")
    return int(folder.removeprefix(ATTEMPT_FOLDER)) if slash and is_attempt_folder(folder) else 1


def already_complete(context: Context, record: Record, *, details: Mapping[str, Any] | None = None) -> Result:
    """The result of a run whose data an earlier attempt of the same CR completed and could not report.

    Without Kubernetes there are no attempts: who runs a file again wants another backup, and gets an error that says that
    nothing was done. Raises PermanentError.
    """
    if context.flags.get("from-file"):
        done = f" since {record.time_completed:%Y-%m-%d %H:%M:%S}Z" if record.time_completed else ""
        raise PermanentError(
            f"nothing was done: {record.backup_path} is complete{done}, and the file names the same metadata.uid",
            reason="AlreadyComplete",
            hint="Remove metadata.uid from the file: each run is then a backup of its own (of br: with a prefix of its own).",
        )
    context.log("an earlier attempt was complete; nothing is written again")
    return Result(commit_ts=record.commit_ts, backup_size=record.size, details=details or {})
