"""One run of br, shared by backup and restore: its progress becomes ours, its operations are noted, its end is judged."""

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backup_manager.content import Item
from backup_manager.context import Context
from backup_manager.errors import ManagerError, NotFoundError, PermanentError, ToolError
from backup_manager.storage.base import ObjectInfo, Storage
from backup_manager.tidb.cluster import Cluster
from backup_manager.tools import backupmeta, br, process, secret_options
from backup_manager.tools.error_table import RESTORE_TASK_RUNNING, failure
from crds.contract import durations, names

KEPT_OPERATIONS: Final = 10
STALE_SECONDS: Final = 315
"""br takes a restore for dead whose last heartbeat is 5 minutes old; a little longer, for the difference of clocks."""
_UNTOLD: Final = "4.0"
"""The default of ``--tikvVersion``: upstream's word for a version that nobody knows."""
_RELEASE: Final = re.compile(r"^Release Version:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrRun:
    """How br is run. *reason* is the operation's general one, for failures that have no better; *asked* is for
    ``log status`` and ``log metadata``, whose answer counts."""

    argv: Sequence[str]
    env: Mapping[str, str]
    reason: str
    asked: bool = False


def cluster(context: Context) -> Cluster:
    """The cluster that the CR and the command line name. Raises UsageError."""
    flags, resource = context.flags, context.resource
    where = str(flags.get("pd-addr") or "")
    return Cluster.of(resource.spec["br"], resource.namespace, tls=bool(flags.get("cluster-tls")), pd_addr=where)


def find(context: Context) -> str:
    """The br binary. Raises ToolError."""
    return process.find_tool(br.NAME, names.BR_BIN_DIR, context.env)


def tikv_version(context: Context, binary: str) -> str:
    """TiKV's version: what the hook knows of the cluster, else br's own, which is to be the cluster's too."""
    told = str(context.flags.get("tikvVersion") or _UNTOLD)
    if told != _UNTOLD:
        return told
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout  # noqa: S603  (argv is a list of ours, no shell reads it)
    except (OSError, subprocess.SubprocessError):
        return told
    found = _RELEASE.search(said)
    return found[1] if found else told


def run(context: Context, work: BrRun) -> br.BrOutput:
    """Run br to its end. Raises when it did not end with 0, or did not know the command (it prints help, and ends with 0).

    A restore that br refuses because an earlier one counts as running is repeated once, after the time in which br takes a
    killed one for dead: the Lease keeps other runs of ours away, so most likely it is our own.
    """
    try:
        return _run_once(context, work)
    except ManagerError as error:
        problem = error.problem()
        if problem.reason != RESTORE_TASK_RUNNING:
            raise
        context.log(f"{problem.message}; waiting {STALE_SECONDS} s for it to end or to count as dead")
        context.journal.waiting(problem)
    context.stop.wait(STALE_SECONDS)
    context.journal.running()
    return _run_once(context, work)


def _run_once(context: Context, work: BrRun) -> br.BrOutput:
    heard = br.BrOutput(asked=work.asked)

    def hear(stream: process.Stream, line: str) -> None:
        before, known = heard.progress, len(heard.operations)
        heard.line(stream, line)
        if (told := heard.progress) is not None and told is not before:
            percent = told.percent or 0.0
            # br's own step closes ours; 100 is said only when br itself has ended well.
            context.journal.step(told.step, min(percent, 99.0), eta=_eta(context.now(), told.remaining))
        if len(heard.operations) != known:
            context.journal.note(brOperations=_operations(heard))
            context.journal.tell()

    safe = secret_options.told(work.argv, context.scratch)
    ended = process.run(
        safe.argv,
        env={**context.env, **br.LOG_TO_TERM, **work.env, **safe.env},
        stop=context.stop,
        mask=context.mask,
        log=context.log,
        on_line=hear,
        select=heard.select,
        cwd=context.scratch,
    )
    if ended.code != 0:
        raise failure(br.NAME, ended, reason=work.reason, mask=context.mask, argv=work.argv)
    if heard.usage and not heard.summary:
        raise ToolError(
            f"this br does not know `br {' '.join(work.argv[1:3])}`",
            reason="CommandNotFound",
            hint="Set spec.toolImage to a newer br.",
        )
    return heard


def read_meta(storage: Storage, *, reason: str = "GetBackupMetadataFailed") -> backupmeta.BackupMeta:
    """``backupmeta`` of the folder. Raises PermanentError when br said it succeeded and there is none."""
    try:
        data = storage.read(backupmeta.NAME)
    except NotFoundError:
        raise PermanentError(
            f"br said it succeeded, but {storage.location.url} holds no {backupmeta.NAME}",
            reason=reason,
            retryable=True,
            hint="Its last write was lost; the backup can be repeated.",
        ) from None
    return backupmeta.parse(data, storage.read)


def read_content(storage: Storage, read: bytes | None = None) -> tuple[list[Item], dict[str, int]]:
    """The objects of the backup, and its files with their sizes. *read* is ``backupmeta`` when it was read already."""
    data = storage.read(backupmeta.NAME) if read is None else read
    return backupmeta.content(data, storage.read)


def damage(files: Mapping[str, int], listed: Iterable[ObjectInfo]) -> str:
    """What *listed* lacks of *files*, in words; empty when all are there in full."""
    left = dict(files)
    for info in listed:
        size = left.pop(info.key, None)
        if size is not None and size != info.size:
            return f"{info.key} has {info.size} bytes in the storage and {size} in {backupmeta.NAME}"
    if not left:
        return ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"the storage does not hold {min(left)}{more}, which {backupmeta.NAME} names"


def selected_nothing(heard: br.BrOutput) -> bool:
    """Whether br counted no range at all: of an encrypted backup that only br can read, all that is known of its content."""
    return heard.summary.get("total-ranges") == "0"


def _operations(heard: br.BrOutput) -> list[dict[str, str]]:
    newest = list(heard.operations.values())[-KEPT_OPERATIONS:][::-1]
    return [
        {"operationID": o.operation_id, "command": o.command, "startedAt": o.started_at, "observedAt": o.observed_at}
        for o in newest
    ]


def _eta(now: datetime, remaining: str) -> datetime | None:
    try:
        return now + durations.parse(remaining) if remaining else None
    except (durations.DurationError, OverflowError):
        return None
