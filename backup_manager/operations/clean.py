"""Clean: delete the data of a Backup, that of nobody else, and never beside a writer.

The path is the recorded one (:data:`crds.names.ENV_BACKUP_PATH`, else ``status.backupPath``), never what the spec says now. It
is refused when its record, or one around or inside it, names another CR: unless the annotation
:data:`crds.names.CONFIRM_CLEAN_ANNOTATION` names that CR's uid, for a path that was handed over by hand.
"""

from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any, Final

from backup_manager.cleaner import Cleaner, CleanOptions, Tally
from backup_manager.errors import ManagerError, PartialError, StorageError, UsageError
from backup_manager.operations.steps import Context, Result, Step, run_steps
from backup_manager.records import Cleaned, Owner, Record, Records
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.writers import wait_for_writers
from crds import names
from crds.paths import Location, PathError

ARCHIVE_SUFFIX: Final = ".tgz"
"""TiDB Operator exports one archive; its path is an object, not a folder."""
_NEVER_WROTE: Final = frozenset({"BackupPathInUse", "BackupPathClaimed"})
_NAMED: Final = 5
_WRITER_ROUNDS: Final = 3


@dataclass(slots=True, kw_only=True)
class Clean:
    """What the steps hand to each other."""

    storage: Storage
    records: Records
    owner: Owner
    record: Record | None = None
    tally: Tally = field(default_factory=Tally)


def run(context: Context) -> Result:
    """Delete what lies under the recorded path."""
    location = recorded_location(context)
    if not location.prefix:
        raise StorageError(
            f"{location.url} is a whole bucket or volume, which is never cleaned",
            reason="UnsafePath",
            hint=f"Delete its content by hand, then set the annotation {_FORCE} on the Backup.",
        )
    context.journal.note(deleted=0)
    if _never_wrote(context):
        context.log(f"{location.url} was refused to this Backup, which therefore wrote nothing there; nothing is deleted")
        return Result(details={"deleted": 0, "left": 0, "notes": ["the path was refused to this Backup; nothing was written"]})
    storage = open_storage(context.resource.spec, location=location, env=context.env)
    state = Clean(storage=storage, records=Records(storage, now=context.now), owner=Owner.of(context.resource))
    try:
        run_steps(context, STEPS, state)
    finally:
        storage.close()
    return Result(details=_told(state.tally))


def authorise(context: Context, state: Clean) -> None:
    """The path is this CR's, or nobody's."""
    confirmed = context.resource.annotations.get(names.CONFIRM_CLEAN_ANNOTATION, "")
    state.record = record = state.records.load()
    uids = {state.owner.uid, confirmed} - {""}
    if record is not None and record.live and record.owner.uid not in uids:
        raise _refused(state.storage.location.url, record)
    state.records.check_around(uids)
    if record is None or record.owner.uid != state.owner.uid:
        # Nobody claims a path inside a claimed one; without our own claim it has to be looked for.
        state.records.check_inside(uids)


def await_writers(context: Context, _state: Clean) -> None:
    """Other Jobs of this CR have ended."""
    wait_for_writers(context)


def delete(context: Context, state: Clean) -> None:
    """Delete until the path is listed empty while nobody writes."""
    state.records.begin_clean(state.owner)
    if state.storage.location.prefix.endswith(ARCHIVE_SUFFIX):
        _delete_archive(context, state)
    for _ in range(_WRITER_ROUNDS):
        cleaner = Cleaner(
            state.storage,
            CleanOptions.of(context.resource.spec.get("cleanOption")),
            on_progress=lambda tally: _show(context, state, tally),
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


def bury(context: Context, state: Clean) -> None:
    """Leave the tombstone."""
    policy = context.resource.spec.get("cleanPolicy") or "by hand"
    cleaned = Cleaned(
        by=context.env.get(names.ENV_POD_NAME) or context.env.get(names.ENV_JOB_NAME) or "backup-manager clean",
        why=f"cleanPolicy {policy} of {state.owner}",
        at=context.now(),
        deleted=state.tally.deleted,
        bytes=state.tally.bytes,
    )
    state.records.bury(state.owner, cleaned)


STEPS: Final = (
    Step(name="Authorise", work=authorise),
    Step(name="AwaitWriters", work=await_writers),
    Step(name="Clean", work=delete),
    Step(name="Record", work=bury),
)
_FORCE: Final = 'tidb.pingcap.com/force-delete: "true"'


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


def _refused(path: str, record: Record) -> ManagerError:
    return StorageError(
        f"{path} holds the data of {record.owner} ({record.state}); it is not deleted",
        reason="BackupPathClaimed",
        hint=f"If this Backup took it over, set the annotation {names.CONFIRM_CLEAN_ANNOTATION}: {record.owner.uid}; "
        f"to let this Backup go and keep the data, {_FORCE}.",
    )


def _never_wrote(context: Context) -> bool:
    """Whether every run of this CR was refused its path, before a record could say whose data is there."""
    conditions = [c for c in context.resource.status.get("conditions") or () if c.get("status") == "True"]
    refused = any(condition.get("reason") in _NEVER_WROTE for condition in conditions)
    return refused and not any(condition.get("type") == "Complete" for condition in conditions)


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
