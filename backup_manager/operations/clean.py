"""Clean: delete the data of a Backup, that of nobody else, and never beside a writer.

The path is the recorded one (:data:`crds.contract.names.ENV_BACKUP_PATH`, else ``status.backupPath``), never what the spec says
now. It is refused when its record, or one around or inside it, names another CR: unless the annotation
:data:`crds.contract.names.CONFIRM_CLEAN_ANNOTATION` names that CR's uid, for a path that was handed over by hand.

A clean claims the path before it deletes, also where no record is, and looks at that claim again after every wait
(docs/adr/0001-path-ownership.md). A record that says ``Complete`` keeps its data under ``cleanPolicy: OnFailure``, whatever the
hook believed.
"""

from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any, Final

from backup_manager.catalog.attempts import attempt_id, seen_to_end
from backup_manager.catalog.ownership import FORCE, clean_refused
from backup_manager.catalog.readers import Watch, wait_for_readers
from backup_manager.catalog.record import Cleaned, Owner, Record, State, is_data
from backup_manager.catalog.records import Records
from backup_manager.cleaning.cleaner import Cleaner, CleanOptions, Tally
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import ManagerError, PartialError, StorageError, UsageError
from backup_manager.locking.writers import wait_for_writers
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from crds.contract import names
from crds.contract.paths import ARCHIVE_SUFFIX, Location, PathError, reserved_part

_REFUSED: Final = frozenset({"BackupPathInUse", "BackupPathClaimed"})
_RUN_OUTCOMES: Final = ("Failed", "RetryFailed")
_NAMED: Final = 5
_WRITER_ROUNDS: Final = 3


@dataclass(slots=True, kw_only=True)
class Clean:
    """What the steps hand to each other. *uids*: other CRs whose data this one may delete. *readers*: what was seen of the
    path's readers. *claim*: this cleaner's claim on the path. *kept*: why nothing is deleted; *complete*: since the record says
    Complete."""

    storage: Storage
    records: Records
    readers: Watch
    owner: Owner
    uids: frozenset[str]
    record: Record | None = None
    claim: Record | None = None
    kept: str = ""
    complete: bool = False
    tally: Tally = field(default_factory=Tally)

    def keep(self, context: Context, why: str) -> None:
        """End without deleting anything."""
        self.kept = why
        context.log(why)


def run(context: Context) -> Result:
    """Delete what lies under the recorded path."""
    location = recorded_location(context)
    _refuse_unsafe(location)
    context.journal.note(deleted=0)
    storage = open_storage(context.resource.spec, location=location, env=context.env)
    pod = context.env.get(names.ENV_POD_NAME, "")
    state = Clean(
        storage=storage,
        records=Records(storage, now=context.now, attempt_id=attempt_id(context), pod=pod),
        readers=Watch(context=context, storage=storage),
        owner=Owner.of(context.resource),
        uids=frozenset({context.resource.annotations.get(names.CONFIRM_CLEAN_ANNOTATION, "")} - {""}),
    )
    try:
        for steps in (CLAIM_STEPS, DELETE_STEPS):
            if not state.kept:
                run_steps(context, steps, state)
    except Exception:
        _close(context, state)
        raise
    finally:
        storage.close()
    return Result(details=_result(state))


def authorise(context: Context, state: Clean) -> None:
    """The path is this CR's, or nobody's; asked early, so that nothing is waited for in vain, and again by the claim."""
    state.record = record = state.records.load()
    url = state.storage.location.url
    uids = {state.owner.uid, *state.uids}
    if (record is None or record.owner.uid not in uids) and _was_refused(context):
        state.keep(context, f"{url} was refused to this Backup: nothing was written there, and nothing is deleted")
    elif record is not None and record.live and record.owner.uid not in uids:
        raise clean_refused(url, record)
    else:
        state.records.check_ancestors(uids)


def await_writers(context: Context, state: Clean) -> None:
    """Other Jobs of this CR have ended, and so have restores of the data, which come first while no clean has claimed it."""
    if not state.kept:
        wait_for_writers(context)
        wait_for_readers(context, state.storage, watch=state.readers)


def claim(context: Context, state: Clean) -> None:
    """Claim the path for deletion: from here on nobody else gets it. What the record says now decides."""
    if state.kept:
        return
    record = state.records.begin_clean(
        state.owner,
        uids=state.uids,
        keep_complete=context.resource.spec.get("cleanPolicy") == "OnFailure",
        ended=seen_to_end(context, state.records.load()),
        on_free=lambda: _refuse_unproven(context, state),
    )
    path = record.backup_path
    if record.state is State.CLEANING:
        state.claim = record
    elif record.state is State.COMPLETE:
        state.keep(context, f"the record of {path} says Complete, so cleanPolicy OnFailure keeps the data")
        state.complete = True
    elif record.withdrawn:
        state.keep(context, f"the claim on {path} was withdrawn: nothing was written there, and nothing is deleted")
    else:
        state.keep(context, f"{path} was cleaned already")


def delete(context: Context, state: Clean) -> None:
    """Delete until the path is listed empty while nobody writes. A reader that was there before the claim is waited for."""
    wait_for_readers(context, state.storage, watch=state.readers)
    if state.storage.location.prefix.endswith(ARCHIVE_SUFFIX):
        _delete_archive(context, state)
    for _ in range(_WRITER_ROUNDS):
        cleaner = Cleaner(
            state.storage,
            CleanOptions.of(context.resource.spec.get("cleanOption")),
            on_progress=lambda tally: _show(context, state, tally),
            confirm=lambda: _confirm(state),
            stop=context.stop,
        )
        try:
            cleaner.run()
        except ManagerError:
            context.journal.note(**_failed(cleaner.tally))
            raise
        finally:
            state.tally = _sum(state.tally, cleaner.tally)
        if not wait_for_writers(context):
            return
    raise PartialError(
        f"{state.storage.location.url}: Pods of this Backup keep starting while it is cleaned",
        reason="WriterActive",
        hint="Delete the Jobs with the label tidb.pingcap.com/cr-uid of this Backup.",
    )


def mark_cleaned(context: Context, state: Clean) -> None:
    """Leave the tombstone."""
    policy = context.resource.spec.get("cleanPolicy") or "by hand"
    cleaned = Cleaned(
        by=context.env.get(names.ENV_POD_NAME) or context.env.get(names.ENV_JOB_NAME) or "backup-manager clean",
        why=f"cleanPolicy {policy} of {state.owner}",
        at=context.now(),
        deleted=state.tally.deleted,
        bytes=state.tally.bytes,
    )
    assert state.claim is not None  # noqa: S101  (the claim's step set it)
    state.records.finish_clean(state.claim, cleaned, ended=seen_to_end(context, state.records.load()))


CLAIM_STEPS: Final = (
    Step(name="Authorise", work=authorise),
    Step(name="AwaitWriters", work=await_writers),
    Step(name="Claim", work=claim),
)
DELETE_STEPS: Final = (
    Step(name="Clean", work=delete),
    Step(name="Record", work=mark_cleaned),
)


def recorded_location(context: Context) -> Location:
    """Where the data of the CR lies. Raises UsageError."""
    resource = context.resource
    told = context.env.get(names.ENV_BACKUP_PATH) or str(resource.status.get("backupPath") or "")
    if not told:
        raise UsageError(
            f"{resource.name} has no recorded path",
            reason="BackupPathIsEmpty",
            hint=f"Without one nothing was written; status.backupPath or {names.ENV_BACKUP_PATH} names it.",
        )
    mount = ((resource.spec.get("local") or {}).get("volumeMount") or {}).get("mountPath") or ""
    try:
        return Location.parse(told, mount_path=str(mount))
    except PathError as error:
        raise UsageError(str(error), hint="Correct the recorded path.") from None


def _never_claimed(context: Context) -> bool:
    """Whether this CR was started here and did not complete: a run of it that wrote anything had claimed the path before."""
    status = context.resource.status
    complete = any(c.get("type") == "Complete" and c.get("status") == "True" for c in status.get("conditions") or ())
    return bool(status.get("recorded")) and not complete


def _refuse_unproven(context: Context, state: Clean) -> None:
    """Data that no record explains may be anybody's, a backup of TiDB Operator for one."""
    if not _never_claimed(context) or state.owner.uid in state.uids:
        return
    found = next((info.key for info in state.storage.list() if is_data(info.key)), None)
    if found is not None:
        raise StorageError(
            f"{state.storage.location.url} holds data, first {found[:120]!r}, and no record says that this Backup wrote it; "
            "nothing is deleted",
            reason="BackupPathInUse",
            hint=f"To remove this Backup and keep the data, {FORCE}. Only if the data is this Backup's, set the annotation "
            f"{names.CONFIRM_CLEAN_ANNOTATION}: {state.owner.uid}.",
        )


def _refuse_unsafe(location: Location) -> None:
    if not location.prefix:
        raise StorageError(
            f"{location.url} is a whole bucket or volume, which is never cleaned",
            reason="UnsafePath",
            hint=f"Delete its content by hand, then set the annotation {FORCE} on the Backup.",
        )
    if part := reserved_part(location.prefix):
        raise StorageError(
            f"{location.url} is not cleaned: {part!r} is reserved for the records that lie beside backups",
            reason="UnsafePath",
            hint=f"Delete this Backup's own objects by hand, then set the annotation {FORCE} on it.",
        )


def _was_refused(context: Context) -> bool:
    """Whether the run of this CR ended because its path was refused to it. Only a run's own outcome counts: a refused clean
    leaves the same reasons in a condition of another type, and says nothing of what the run wrote."""
    conditions = [c for c in context.resource.status.get("conditions") or () if c.get("status") == "True"]
    outcomes = {condition.get("type"): condition.get("reason") for condition in conditions}
    refused = any(outcomes.get(kind) in _REFUSED for kind in _RUN_OUTCOMES)
    return refused and "Complete" not in outcomes


def _confirm(state: Clean) -> None:
    assert state.claim is not None  # noqa: S101  (the claim's step set it)
    state.records.confirm_clean(state.claim)


def _close(context: Context, state: Clean) -> None:
    """Note that this attempt has ended; the path stays claimed for the next one."""
    try:
        state.records.close()
    except ManagerError as error:
        context.log(f"the record could not be updated: {error.message}")


def _delete_archive(context: Context, state: Clean) -> None:
    """TiDB Operator's archive: one object with the path as its name, and perhaps its half-written twin ``.tmp``."""
    location = state.storage.location
    folder, _, name = location.prefix.rpartition("/")
    parent = state.storage.at(Location(provider=location.provider, bucket=location.bucket, prefix=folder))
    wanted = {name, f"{name}.tmp"}
    targets = [target for page in parent.targets(name) for target in page if target.key in wanted]
    if not targets:
        return
    context.stop.check()
    _confirm(state)
    failures = parent.delete_batch(targets)
    state.tally.deleted += len(targets) - len(failures)
    state.tally.bytes += sum(target.size for target in targets)
    if failures:
        first = failures[0]
        raise PartialError(f"{location.url}: {first.code} {first.message}", reason="ObjectsRemain", hint="Repeat the clean.")


def _show(context: Context, state: Clean, tally: Tally) -> None:
    total = state.record.object_count if state.record else None
    percent = min(99.0, 100.0 * tally.deleted / total) if total else 0.0
    left = (total - tally.deleted) / tally.rate if total and tally.rate > 0 else None
    eta = context.now().astimezone(UTC) + timedelta(seconds=left) if left and left > 0 else None
    context.journal.note(deleted=state.tally.deleted + tally.deleted, rate=round(tally.rate, 1))
    context.journal.step("Clean", percent, done=state.tally.bytes + tally.bytes, eta=eta)


def _sum(before: Tally, last: Tally) -> Tally:
    """The tally of several cleans: counts add up, what stays is the last one's."""
    for name in ("deleted", "bytes", "passes", "throttled", "retried", "uploads", "seconds"):
        setattr(last, name, getattr(before, name) + getattr(last, name))
    last.notes = list(dict.fromkeys([*before.notes, *last.notes]))
    return last


def _result(state: Clean) -> dict[str, Any]:
    if state.kept:
        return {"deleted": 0, "left": 0, "notes": [state.kept], **({"kept": True} if state.complete else {})}
    return _told(state.tally)


def _told(tally: Tally) -> dict[str, Any]:
    told: dict[str, Any] = {
        "deleted": tally.deleted,
        "deletedBytes": tally.bytes,
        "failed": tally.failed,
        "left": tally.failed + tally.locked,
        "passes": tally.passes,
        "seconds": round(tally.seconds, 1),
        "rate": round(tally.rate, 1),
    }
    optional = {"uploadsAborted": tally.uploads, "throttled": tally.throttled, "retried": tally.retried, "notes": tally.notes}
    return told | {name: value for name, value in optional.items() if value}


def _failed(tally: Tally) -> dict[str, Any]:
    """The result of a clean that left something."""
    told = _told(tally)
    if tally.locked:
        told["locked"] = tally.locked
    if tally.locked_until and not tally.failed:
        told["deferredUntil"] = tally.locked_until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if tally.examples:
        told["examples"] = [
            {"key": failure.key[:200], "code": failure.code, "message": failure.message[:100]}
            for failure in tally.examples[:_NAMED]
        ]
    return told
