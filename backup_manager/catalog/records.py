"""The record of one path in the storage: read, and written under a condition.

Before the first byte it is the *claim* on the path. At the end it is the *account*: what, when, by which tool, how many bytes
and objects, with the list of all objects in ``<path>.objects.gz`` for a later verification. After a clean it is the
*tombstone*: who deleted what and when. It lies beside the data and outlives the CR and the cluster.

Each transition of :mod:`backup_manager.catalog.ownership` is one conditional write of the record that was read; when somebody
else wrote in between, the record is read and the transition decided again. Every change is also entered in the folder's history
(:mod:`backup_manager.catalog.audit_log`).
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from backup_manager import content
from backup_manager.catalog import audit_log, ownership
from backup_manager.catalog.ownership import Actor, Fence, claimed, in_use
from backup_manager.catalog.record import (
    SUFFIX,
    Cleaned,
    Owner,
    Record,
    State,
    find,
    is_data,
    pack_objects,
    record_location,
    safe_spec,
    unpack_objects,
)
from backup_manager.content import Content, Item
from backup_manager.errors import (
    AccessDeniedError,
    ClaimedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
)
from backup_manager.masking import Masker
from backup_manager.storage.base import ObjectInfo, Storage
from crds.contract.paths import ATTEMPT_FOLDER, CONTENT_SUFFIX, OBJECTS_SUFFIX
from crds.contract.report import Problem

_RACES: Final = 32
"""Each lost race means that another process has written the record."""


def _now() -> datetime:
    return datetime.now(UTC)


class Records:
    """The record of one path, and those around and inside it.

    *attempt_id* is the identity of this process on the path: the uid of its Pod, else random. *pod* is for messages.
    """

    def __init__(self, storage: Storage, *, now: Callable[[], datetime] = _now, attempt_id: str = "", pod: str = "") -> None:
        self.location = storage.location
        self.attempt_id = attempt_id or uuid4().hex
        self._pod = pod
        self._storage = storage
        folder, self._key = record_location(storage.location)
        self._beside = storage.at(folder)
        self._chain = audit_log.AuditLog(storage, folder)
        self._url = f"{folder.url.rstrip('/')}/{self._key}"
        self._now = now
        self.last_claim: Record | None = None
        """The claim that was written last, or may have been: the answer of a write can get lost."""

    def load(self) -> Record | None:
        """The record, or None when there is none. Raises StorageError (UnreadableRecord)."""
        found = self._fetch()
        return found[0] if found else None

    def data_storage(self, record: Record) -> Storage:
        """The folder in which the data of *record* lies: the path, or the folder of one attempt in it."""
        return self._storage.at(self.location.child(record.data)) if record.data else self._storage

    def claim(
        self,
        owner: Owner,
        *,
        operation: str,
        spec: Mapping[str, Any],
        mask: Masker | None = None,
        fence: Fence = Fence.FOLDER,
        ended: Set[str] = frozenset(),
        ended_at: Callable[[Record], Set[str]] = lambda _neighbour: frozenset(),
        on_free: Callable[[], None] = lambda: None,
        trial: Callable[[], None] = lambda: None,
    ) -> Record:
        """Take the path for *owner*, before anything is written. Returns the claim, which the other methods take; or a Complete
        record, untouched, when an attempt of *owner* completed it already. Raises ClaimedError when the path is another's.

        The claim is written first, then the neighbours are checked, by every attempt: of two that claim a path and a folder in
        it at the same time, at least one sees the other. Then *trial* runs (the preflight), and only the last conditional write
        lets this attempt write data. *ended*: ids of attempts that were seen to end; *ended_at* asks that of a neighbour's.
        *on_free* is called before a path is claimed of which no record says that *owner* wrote there, and may refuse it.
        """
        actor = Actor(owner=owner, id=self.attempt_id, pod=self._pod, ended=ended)
        wanted = self._first_claim(owner, operation, safe_spec(spec, mask or Masker()))

        def take(there: Record | None) -> Record:
            record = ownership.claim(there, wanted, actor, fence)
            if there is None or not there.live or not there.neighbours_checked:
                on_free()
            return self._note(record)

        mine = self._transit(take)
        if mine.state is State.COMPLETE:
            return mine
        try:
            self.check_ancestors({owner.uid}, only_checked=mine.neighbours_checked, ended_at=ended_at)
            self.check_descendants({owner.uid}, only_checked=mine.neighbours_checked, ended_at=ended_at)
        except StorageError as error:
            if _is_definite(error):
                problem = error.problem()
                self._enter_if_possible(self._transit(lambda there: ownership.withdraw(there, mine, problem)))
            raise
        trial()
        record = self._transit(lambda there: ownership.admit(there, mine))
        self._enter(record)
        return record

    def refuse(self, owner: Owner, *, operation: str, problem: Problem) -> None:
        """Note that *owner* was refused the path because of data which no record explains, unless the path is somebody's."""
        actor = Actor(owner=owner, id=self.attempt_id, pod=self._pod)
        wanted = self._first_claim(owner, operation, {})
        before: list[Record | None] = []

        def transition(there: Record | None) -> Record:
            before[:] = [there]
            return ownership.refuse(there, wanted, actor, problem)

        record = self._transit(transition)
        if record is not before[0]:
            self._enter_if_possible(record)

    def confirm(self, mine: Record) -> None:
        """Look whether the claim *mine* still holds the path. Raises SupersededError."""
        ownership.confirm(self.load(), mine)

    def complete(
        self,
        mine: Record,
        *,
        tool: str = "",
        tool_version: str = "",
        argv: Sequence[str] = (),
        commit_ts: str | None = None,
        mask: Masker | None = None,
        listed: Iterable[ObjectInfo] | None = None,
        held: Content | None = None,
        items: Sequence[Item] = (),
        left_out: Sequence[str] = (),
    ) -> Record:
        """Close the account of the claim *mine*: list the data, unless that was done (*listed*), keep the list, count and size;
        and what the data *held*, with the list of its *items*. Raises SupersededError when a later attempt or a clean holds the
        path."""
        account: dict[str, Any] = {
            "tool": tool,
            "tool_version": tool_version,
            "argv": tuple((mask or Masker()).argv(argv)),
            "commit_ts": commit_ts,
            "time_completed": self._now(),
            "left_out": tuple(left_out) or None,
        }
        self.confirm(mine)
        found = self.data_storage(mine).list() if listed is None else listed
        packed, count, size = pack_objects(info for info in found if is_data(info.key))
        name = self._list_name(mine, OBJECTS_SUFFIX)
        self._beside.write(name, packed)
        account |= {"objects": name, "object_count": count, "size": size}
        if held is not None:
            name = self._list_name(mine, CONTENT_SUFFIX)
            self._beside.write(name, content.pack(items))
            account |= {"content": held, "contents": name}
        record = self._transit(lambda there: ownership.complete(there, mine, account))
        self._enter_if_possible(record)
        return record

    def fail(self, mine: Record, problem: Problem) -> Record:
        """The attempt *mine* failed; what it wrote stays claimed, for a retry or a clean. Raises SupersededError."""
        record = self._transit(lambda there: ownership.fail(there, mine, problem))
        self._enter_if_possible(record)
        return record

    def note_log(self, owner: Owner, *, start: int = 0, end: int = 0) -> None:
        """Write the ends of the log into the record, where *owner* has the path; what is 0 stays as it is. A log backup has no
        end of its own, so its record stays Claimed."""
        for _ in range(_RACES):
            found = self._fetch()
            record = ownership.note_log(found[0] if found else None, owner, start=start, end=end)
            if record is None or found is None:
                return
            try:
                self._write(record, if_match=found[1])
            except PreconditionError:
                continue
            self._enter_if_possible(record)
            return

    def close(self) -> None:
        """This process ends, whatever became of its last claim: it is noted as ended, and the state stays."""
        mine = self.last_claim
        if mine is None:
            return
        attempt = mine.cleaner if mine.state is State.CLEANING else mine.attempt
        for _ in range(_RACES):
            found = self._fetch()
            record = ownership.close(found[0] if found else None, attempt)
            if record is None or found is None:
                return
            try:
                self._write(record, if_match=found[1])
            except PreconditionError:
                continue
            self._enter_if_possible(record, event=audit_log.ATTEMPT_ENDED)
            return

    def begin_clean(
        self,
        owner: Owner,
        *,
        uids: Set[str] = frozenset(),
        keep_complete: bool = False,
        ended: Set[str] = frozenset(),
        on_free: Callable[[], None] = lambda: None,
    ) -> Record:
        """Claim the path for deletion on behalf of the CR *owner*, who may delete what belongs to *uids* too. Returns the claim
        (state Cleaning), or a record of another state when there is nothing to delete: :func:`.ownership.begin_clean`.

        *on_free* is called before a path is claimed of which no record says that it was *owner*'s, and may refuse it.

        Raises ClaimedError when the path, or a folder around or inside it, belongs to somebody else.
        """
        actor = Actor(owner=owner, id=self.attempt_id, pod=self._pod, ended=ended)
        uids = {owner.uid, *uids}
        bare = Record(state=State.CLEANING, owner=owner, backup_path=self.location.url, time_claimed=self._now())
        before: Record | None = None

        def claim(there: Record | None) -> Record:
            nonlocal before
            before = there
            if there is None or (not there.live and there.owner.uid != owner.uid):
                on_free()
            return self._note(ownership.begin_clean(there, bare, actor, uids, keep_complete=keep_complete))

        mine = self._transit(claim)
        if mine is before:
            return mine
        if mine.state is State.CLEANING and not (mine.neighbours_checked and mine.owner.uid == owner.uid):
            # Nobody claims a path inside a claimed one; without a claim of our own it has to be looked for.
            try:
                self.check_ancestors(uids)
                self.check_descendants(uids)
            except StorageError as error:
                if _is_definite(error):
                    self._enter_if_possible(self._transit(lambda there: ownership.withdraw_clean(there, mine, before)))
                raise
        self._enter_if_possible(mine)
        return mine

    def confirm_clean(self, mine: Record) -> None:
        """Look whether the cleaner's claim *mine* still holds the path. Raises SupersededError."""
        ownership.confirm_clean(self.load(), mine)

    def finish_clean(self, mine: Record, cleaned: Cleaned, *, ended: Set[str] = frozenset()) -> Record:
        """Leave the tombstone in place of the cleaner's claim *mine*. Raises SupersededError."""
        actor = Actor(owner=mine.owner, id="", ended=ended)
        record = self._transit(lambda there: ownership.finish_clean(there, mine, cleaned, actor))
        self._remove_object_lists(record)
        self._enter_if_possible(record)
        return record

    def objects(self, record: Record) -> dict[str, tuple[int, str]]:
        """The kept list: size and etag by key. Raises NotFoundError when it was not kept or is gone, StorageError when it is
        damaged."""
        if not record.objects:
            raise NotFoundError(f"{self._url} keeps no list of objects", reason="NoObjectList")
        data = self._beside.read(record.objects)
        try:
            if not data:
                raise EOFError  # a list of no objects has a header
            return unpack_objects(data)
        except (OSError, EOFError, ValueError, TypeError, zlib.error):
            raise StorageError(
                f"{self._beside.location.url.rstrip('/')}/{record.objects} is no list of objects that this version can read",
                reason="UnreadableObjectList",
                hint="It was damaged or edited: restore an older version of that object. The data itself may be whole.",
            ) from None

    def items(self, record: Record) -> list[Item] | None:
        """The kept list of what the data held; None when a release that did not look wrote the record. Raises StorageError
        when the list is gone or damaged."""
        if record.content is None or not record.contents:
            return None
        try:
            return content.unpack(self._beside.read(record.contents))
        except (NotFoundError, OSError, EOFError, ValueError, TypeError, zlib.error):
            raise StorageError(
                f"{self._beside.location.url.rstrip('/')}/{record.contents} is no list of content that can be read",
                reason="UnreadableContentList",
                hint="It was damaged or deleted: restore an older version of that object. The data itself may be whole.",
            ) from None

    def check_ancestors(
        self, uids: Set[str], *, only_checked: bool = False, ended_at: Callable[[Record], Set[str]] | None = None
    ) -> None:
        """Refuse when a folder that holds this path belongs to none of *uids*. Raises ClaimedError.

        With *only_checked* a claim that has not got past its own check of neighbours does not count: it will meet ours there.
        With *ended_at* a folder that was cleaned counts while one of its attempts is open: such a cleaner deletes in this path.
        """
        for place in self.location.parents():
            try:
                record = Records(self._storage.at(place)).load()
            except AccessDeniedError:
                # Keys that are confined to a folder cannot look above it; whoever wrote there had other keys.
                continue
            if record:
                _refuse_foreign(place.url, record, uids, only_checked, ended_at)

    def check_descendants(
        self, uids: Set[str], *, only_checked: bool = False, ended_at: Callable[[Record], Set[str]] | None = None
    ) -> None:
        """The same for folders inside this path. Lists the whole path. Raises ClaimedError."""
        for record in find(self._storage):
            _refuse_foreign(record.backup_path, record, uids, only_checked, ended_at)

    def _first_claim(self, owner: Owner, operation: str, spec: dict[str, Any]) -> Record:
        return Record(
            state=State.CLAIMED,
            owner=owner,
            backup_path=self.location.url,
            operation=operation,
            spec=spec,
            neighbours_checked=False,
            time_claimed=self._now(),
        )

    def _note(self, record: Record) -> Record:
        self.last_claim = record
        return record

    def _list_name(self, mine: Record, suffix: str) -> str:
        """Each attempt has names of its own for its lists, so that a stale one overwrites nobody's."""
        number = mine.attempt.number if mine.attempt else mine.attempts
        stem = self._key.removesuffix(SUFFIX)
        return f"{stem}{suffix}" if number == 1 else f"{stem}.{ATTEMPT_FOLDER}{number}{suffix}"

    def _remove_object_lists(self, record: Record) -> None:
        stem = self._key.removesuffix(SUFFIX)
        with suppress(ManagerError):
            found = [f"{stem}{suffix}" for suffix in (OBJECTS_SUFFIX, CONTENT_SUFFIX)]
            if record.attempts > 1:
                start = f"{stem}.{ATTEMPT_FOLDER}"
                for info in self._beside.list(start):
                    number = info.key[len(start) :].removesuffix(OBJECTS_SUFFIX).removesuffix(CONTENT_SUFFIX)
                    # The path is free by now: a higher number is of its next owner.
                    if number.isdecimal() and int(number) <= record.attempts:
                        found.append(info.key)
            self._beside.delete(found)

    def _fetch(self) -> tuple[Record, str] | None:
        try:
            data, etag = self._beside.fetch(self._key)
        except NotFoundError as error:
            if error.problem().reason == "BucketNotFound":
                raise
            return None
        return Record.parse(data, self._url), etag

    def _transit(self, transition: Callable[[Record | None], Record]) -> Record:
        """Write what *transition* makes of the record that is there, under the condition that it is still there; what it
        returns unchanged is not written. Raises what the transition raises, and StorageError when others are always faster."""
        for _ in range(_RACES):
            found = self._fetch()
            there = found[0] if found else None
            record = transition(there)
            if record is there:
                return record
            try:
                if found is None:
                    self._write(record, if_absent=True)
                else:
                    self._write(record, if_match=found[1])
            except PreconditionError:
                continue
            return record
        raise StorageError(
            f"{self._url} changes all the time",
            reason="StorageConflict",
            retryable=True,
            hint="Which other job writes there?",
        )

    def _write(self, record: Record, *, if_absent: bool = False, if_match: str | None = None) -> None:
        try:
            self._beside.write(self._key, record.to_json(), if_absent=if_absent, if_match=if_match)
        except AccessDeniedError as error:
            raise AccessDeniedError(
                error.message,
                reason=error.problem().reason,
                hint=f"Records lie beside the data: allow reading and writing {self._url} too.",
            ) from None

    def _enter_if_possible(self, record: Record, *, event: str = "") -> None:
        """A backup that is good stays good though its diary cannot be written; ``history verify`` shows what is missing."""
        with suppress(ManagerError):
            self._enter(record, event=event)

    def _enter(self, record: Record, *, event: str = "") -> None:
        """Add what *record* now says to the history."""
        owner, cleaned = record.owner, record.cleaned if record.state is State.CLEANED else None
        self._chain.append(
            now=self._now,
            event=event or (audit_log.WITHDRAWN if record.withdrawn else str(record.state)),
            path=record.backup_path,
            kind=owner.kind,
            namespace=owner.namespace,
            name=owner.name,
            uid=owner.uid,
            operation=record.operation,
            attempt=record.attempts,
            size=record.size,
            object_count=record.object_count,
            commit_ts=record.commit_ts,
            content=record.content,
            reason=record.problem.reason if record.problem else "",
            by=cleaned.by if cleaned else "",
            why=cleaned.why if cleaned else "",
            deleted=cleaned.deleted if cleaned else None,
            record=record.digest,
        )


def _refuse_foreign(
    path: str, record: Record, uids: Set[str], only_checked: bool, ended_at: Callable[[Record], Set[str]] | None
) -> None:
    if record.live and record.owner.uid not in uids and (record.neighbours_checked or not only_checked):
        raise claimed(path, record)
    if record.live or ended_at is None:
        return
    others = [attempt for attempt in record.open if attempt.owner not in uids]
    ended = ended_at(record) if others else frozenset()
    for attempt in others:
        if attempt.id not in ended:
            raise in_use(path, attempt)


def _is_definite(error: StorageError) -> bool:
    """Whether asking again would give the same answer: the neighbour is another's, or cannot be known."""
    return isinstance(error, ClaimedError) or error.problem().reason == "UnreadableRecord"
