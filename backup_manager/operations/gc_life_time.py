"""Restore the GC life time that a killed run of a CR left raised.

The hook runs this as a Job of its own once no run of the CR is left; a person may run it at any time for a CR that has none. It
removes the CR's row, and restores the old value when no other run needs it raised (:mod:`backup_manager.tidb.gc_life_time`).

A run may still be at work unseen by the hook: ``kubectl delete --cascade=orphan`` takes the owner away from its Job. It is left
alone then, and restores the value itself when it ends.
"""

from datetime import timedelta
from typing import Final

from backup_manager.context import Context, Result
from backup_manager.errors import UsageError
from backup_manager.kubernetes.pods import live_writers
from backup_manager.tidb import gc_life_time
from backup_manager.tidb.connection import Access, connect
from crds.contract import names

WAIT: Final = timedelta(minutes=2)
"""For the database. The deletion of a CR waits for this, so it is short; the Job is repeated."""


def run(context: Context) -> Result:
    """Restore it on ``spec.from`` of a Backup, ``spec.to`` of a Restore."""
    name = "to" if context.resource.kind == "Restore" else "from"
    spec = context.resource.access(name)
    if not spec:
        raise UsageError(f"spec.{name} is missing", hint="Without a database in the spec no run raises its GC life time.")
    context.journal.running()
    if at_work := _live_pods(context):
        remark = f"Pod {at_work[0]} of this CR still runs, and restores it when it ends"
        context.log(f"gc life time: {remark}")
        return Result(details={"gcLifeTime": remark})
    database = connect(context, Access.of(spec, name=name, env=context.env, flags=context.flags), limit=WAIT)
    return Result(details={"gcLifeTime": gc_life_time.release(context, database)})


def _live_pods(context: Context) -> list[str]:
    """The CR's other Pods that may run, also those of Jobs that lost their owner."""
    resource = context.resource
    if context.kubernetes is None or not resource.uid:
        return []
    pods = context.kubernetes.pods(resource.namespace, {names.OWNER_UID_LABEL: resource.uid})
    return live_writers(pods, own_uid=context.env.get(names.ENV_POD_UID, ""))
