"""Which process this is, and which earlier ones have ended.

A process that seems to be gone may come back: a paused VM, a lost node whose Pod was deleted by force. Only two things prove an
end: the process noted it itself before it exited, or Kubernetes shows its Pod ended *and* each of its containers terminated.
The latter is reported by the kubelet; a phase alone may have been set by the control plane for a node that is lost.
"""

from uuid import uuid4

from backup_manager.catalog.record import Record
from backup_manager.context import Context
from backup_manager.errors import ManagerError
from backup_manager.kubernetes.pods import ended_pods
from crds.contract import names


def attempt_id(context: Context) -> str:
    """The Pod's uid; outside of Kubernetes a random one for each call."""
    return context.env.get(names.ENV_POD_UID) or uuid4().hex


def seen_to_end(context: Context, record: Record | None, *, own: str = "") -> frozenset[str]:
    """The ids among the open attempts of *record*, other than *own*, whose Pods Kubernetes shows ended. Empty when it cannot be
    asked: then nothing is proven. One request, and only when there is such an attempt."""
    if record is None or record.owner.namespace != context.resource.namespace:
        return frozenset()
    wanted = {attempt.id for attempt in record.open} - {own}
    ended: set[str] = set()
    for uid in sorted({attempt.owner for attempt in record.open if attempt.id in wanted}):
        try:
            ended |= ended_pods(context.kubernetes, context.resource.namespace, uid)
        except ManagerError as error:
            context.log(f"the Pods of earlier attempts could not be listed: {error.message}")
    return frozenset(wanted & ended)
