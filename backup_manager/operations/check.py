"""Check: the preflight of a Backup or Restore, by itself. Storage first, then the place of the record, then the database;
nothing but a probe is written.
"""

from dataclasses import replace
from typing import Any, Final

from backup_manager.catalog.ownership import claimed
from backup_manager.catalog.record import Owner, Record, record_location
from backup_manager.catalog.records import Records
from backup_manager.context import Context, Result
from backup_manager.errors import CheckError, ManagerError, UsageError
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.preflight import Check, Status, details, preflight, probe, table
from backup_manager.tidb import target_lock
from backup_manager.tidb.connection import Access, Database
from backup_manager.tools import br_runner
from crds.contract.paths import provider_of

STEP: Final = "Check"
_RECORD: Final = "record"


def run(context: Context) -> Result:
    """Run every check and tell all of them. Raises CheckError when one failed."""
    context.journal.running()
    context.journal.step(STEP)
    spec = context.resource.spec
    checks: list[Check] = []
    for name, storage_spec in _storages(context.resource.kind, spec):
        checks += [replace(check, name=name + check.name) for check in _storage(context, storage_spec)]
    checks += [_database(context, name) for name in ("from", "to") if spec.get(name)]
    if context.resource.kind == "Restore" and not any(check.name == "database" and check.error for check in checks):
        checks += _target(context)
    if not checks:
        raise UsageError(
            f"{context.resource.name} names neither a storage nor a database", hint="Set one of s3, gcs, azblob, local."
        )
    for line in table(checks):
        context.log(line)
    context.journal.note(**details(checks))
    context.journal.step(STEP, 100)
    failed = [check for check in checks if check.status is Status.FAILED]
    if failed:
        names = ", ".join(check.name for check in failed)
        raise CheckError(f"{names} failed: {failed[0].message}", hint=failed[0].hint)
    return Result()


def _storages(kind: str, spec: Any) -> list[tuple[str, Any]]:
    """The storages of a CR, each with the start of its checks' names; a schedule's are in its templates."""
    if kind == "BackupSchedule":
        templates = (("backup ", spec.get("backupTemplate")), ("log ", spec.get("logBackupTemplate")))
        return [(name, template) for name, template in templates if template and provider_of(template)]
    base = spec.get("pitrFullBackupStorageProvider") or {}
    named = [("", spec)] if provider_of(spec) else []
    return [*named, *([("base ", base)] if provider_of(base) else [])]


def _storage(context: Context, spec: Any) -> list[Check]:
    try:
        storage = open_storage(spec, env=context.env)
    except ManagerError as error:
        problem = error.problem()
        return [Check(name="storage", status=Status.FAILED, message=problem.message, hint=problem.hint, error=error)]
    try:
        checks = preflight(storage, write=context.resource.kind != "Restore", conditions=True)
        if context.resource.kind == "Backup" and not any(check.status is Status.FAILED for check in checks):
            checks.append(_record(context, storage))
        return checks
    finally:
        storage.close()


def _record(context: Context, storage: Storage) -> Check:
    """Whether the path is free, and whether the record can be written where it will lie."""
    try:
        record = Records(storage).load()
        checked = _claim(context, storage, record)
    except ManagerError as error:
        problem = error.problem()
        return Check(name=_RECORD, status=Status.FAILED, message=problem.message, hint=problem.hint, error=error)
    # An export's record lies in the folder that was probed already; its data has a folder of its own in there.
    if context.resource.spec.get("br") and record is None:
        folder, name = record_location(storage.location)
        for check in probe(storage.at(folder), name):
            if check.status is Status.FAILED:
                return replace(check, name=_RECORD, message=f"{folder.url}, where the record will lie: {check.message}")
    return checked


def _claim(context: Context, storage: Storage, record: Record | None) -> Check:
    """Whose the path is. Raises ClaimedError when it, or a folder around it, is another CR's."""
    owner = Owner.of(context.resource)
    uids = {owner.uid}
    free = Check(name=_RECORD, status=Status.OK, message="the path is free")
    if record and record.live and record.owner.uid != owner.uid:
        # A file need not know the uid, nor the namespace, that its CR has in a cluster.
        if context.resource.uid or (record.owner.kind, record.owner.name) != (owner.kind, owner.name):
            raise claimed(storage.location.url, record)
        uids.add(record.owner.uid)
        hint = "Good when that is this one's own; any other CR will be refused."
        free = Check(name=_RECORD, status=Status.WARNING, message=f"belongs to {record.owner} ({record.state})", hint=hint)
    Records(storage).check_ancestors(uids)
    return free


def _target(context: Context) -> list[Check]:
    """Whether a Restore would be alone in its target."""
    spec = context.resource.spec
    database = None
    if access := context.resource.access("to"):
        database = Database(Access.of(access, name="to", env=context.env, flags=context.flags))
    pd = br_runner.cluster(context) if spec.get("br") else target_lock.pd_of(context, database) if database else None
    return target_lock.checks(context, database=database, pd=pd)


def _database(context: Context, name: str) -> Check:
    """Whether the database answers now; here it is not waited for."""
    try:
        access = Access.of(context.resource.access(name), name=name, env=context.env, flags=context.flags)
        Database(access).rows("select 1")
    except ManagerError as error:
        problem = error.problem()
        return Check(name="database", status=Status.FAILED, message=problem.message, hint=problem.hint, error=error)
    return Check(name="database", status=Status.OK, message=f"{access.shown} answers")
