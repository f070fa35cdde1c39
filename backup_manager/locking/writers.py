"""Nobody deletes beside a writer: the Pods of the CR's other Jobs are waited for.

They are found by the CR's uid in a label, not by their owner: ``kubectl delete --cascade=orphan`` takes the owner away from a
running Job, which then goes on unseen by the hook.
"""

from typing import Final

from backup_manager.context import Context
from backup_manager.errors import TransientError
from backup_manager.kubernetes.pods import live_writers
from crds.contract import names
from crds.contract.report import Problem

LIMIT_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = 5.0


def wait_for_writers(context: Context) -> bool:
    """Wait until no Pod of the CR may write; whether there was one. Raises TransientError after :data:`LIMIT_SECONDS`."""
    if context.kubernetes is None or not context.resource.uid:
        context.log("no cluster to ask: other writers are not looked for")
        return False
    deadline, waited = context.stop.monotonic() + LIMIT_SECONDS, False
    while found := _find(context):
        problem = Problem(
            reason="WriterActive",
            message=f"waiting for Pod {found[0]}, which may still write" + (f", and {len(found) - 1} more" * (len(found) > 1)),
            hint="It is waited for. When its node is lost for good: kubectl delete pod --force.",
            retryable=True,
        )
        if context.stop.monotonic() >= deadline:
            raise TransientError(problem.message, reason=problem.reason, hint=problem.hint)
        context.journal.waiting(problem)
        waited = True
        context.stop.wait(_POLL_SECONDS)
    if waited:
        context.journal.running()
    return waited


def _find(context: Context) -> list[str]:
    assert context.kubernetes is not None  # noqa: S101  (the caller has looked)
    pods = context.kubernetes.pods(context.resource.namespace, {names.OWNER_UID_LABEL: context.resource.uid})
    return live_writers(pods, own_uid=context.env.get(names.ENV_POD_UID, ""))
