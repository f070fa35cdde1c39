"""Check: the preflight of a Backup or Restore, by itself. Storage first, then the database; nothing but a probe is written."""

from typing import Any, Final

from backup_manager.database import Access, Database
from backup_manager.errors import CheckError, ManagerError, UsageError
from backup_manager.operations.steps import Context, Result
from backup_manager.preflight import Check, Status, details, preflight, table
from backup_manager.storage.factory import open_storage
from crds.paths import provider_of

STEP: Final = "Check"


def run(context: Context) -> Result:
    """Run every check and tell all of them. Raises CheckError when one failed."""
    context.journal.running()
    context.journal.step(STEP)
    spec = context.resource.spec
    checks: list[Check] = []
    for name, storage_spec in _storages(context.resource.kind, spec):
        checks += [_renamed(check, name) for check in _storage(context, storage_spec)]
    checks += [_database(context, name) for name in ("from", "to") if spec.get(name)]
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
        return preflight(storage, write=context.resource.kind != "Restore")
    finally:
        storage.close()


def _renamed(check: Check, start: str) -> Check:
    return Check(name=start + check.name, status=check.status, message=check.message, hint=check.hint, error=check.error)


def _database(context: Context, name: str) -> Check:
    """Whether the database answers now; here it is not waited for."""
    try:
        access = Access.of(context.resource.access(name), name=name, env=context.env, flags=context.flags)
        Database(access).rows("select 1")
    except ManagerError as error:
        problem = error.problem()
        return Check(name="database", status=Status.FAILED, message=problem.message, hint=problem.hint, error=error)
    return Check(name="database", status=Status.OK, message=f"{access.shown} answers")
