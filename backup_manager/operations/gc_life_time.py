"""Restore the GC life time that a killed run of a CR left raised.

The hook runs this as a Job of its own once no run of the CR is left; a person may run it at any time for a CR that has none. It
removes the CR's row, and restores the old value when no other run needs it raised (:mod:`backup_manager.gc_life_time`).
"""

from datetime import timedelta
from typing import Final

from backup_manager import gc_life_time
from backup_manager.database import Access, connect
from backup_manager.errors import UsageError
from backup_manager.operations.steps import Context, Result

WAIT: Final = timedelta(minutes=2)
"""For the database. The deletion of a CR waits for this, so it is short; the Job is repeated."""


def run(context: Context) -> Result:
    """Restore it on ``spec.from`` of a Backup, ``spec.to`` of a Restore."""
    name = "to" if context.resource.kind == "Restore" else "from"
    spec = context.resource.access(name)
    if not spec:
        raise UsageError(f"spec.{name} is missing", hint="Without a database in the spec no run raises its GC life time.")
    context.journal.running()
    database = connect(context, Access.of(spec, name=name, env=context.env, flags=context.flags), limit=WAIT)
    return Result(details={"gcLifeTime": gc_life_time.release(context, database)})
