"""Backup with br: a snapshot; one command of a log backup is :mod:`backup_manager.operations.br_log`'s.

A snapshot is good when br ended with 0, left a ``backupmeta`` that can be read and names what the spec asks for, and every file
it names is in the storage. What an earlier attempt of the same Backup wrote is continued where br can do that (TiKV v6.5.1 and
later), and removed first where it cannot.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backup_manager.catalog.destination import BackupDestination, CompletedError, already_complete
from backup_manager.catalog.ownership import Fence
from backup_manager.content import NAMED, Asked, Content, Item, judge
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import ManagerError, NotFoundError, PermanentError, UsageError
from backup_manager.locking import lease
from backup_manager.operations import br_log
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import ToolStorage, for_br
from backup_manager.tidb import gc_life_time
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access, Database, connect
from backup_manager.tools import backupmeta, br, br_runner
from crds.contract import names, paths, versions

SNAPSHOT_REASON: Final = "BackupDataToRemoteFailed"
_CHECKPOINTS_SINCE: Final = "v6.5.1"
_LOCK_LEFT: Final = re.compile(r"lock will expire in (\d+) seconds")
_LOCK_LIMIT: Final = 600


@dataclass(slots=True, kw_only=True)
class Backup:
    """What the steps hand to each other."""

    binary: str
    cluster: Cluster
    storage: Storage
    folder: BackupDestination
    target: ToolStorage
    database: Database | None = None
    version: str = ""
    argv: Sequence[str] = ()
    heard: br.BrOutput = field(default_factory=br.BrOutput)
    result: Result = field(default_factory=Result)

    def argv_has(self, flag: str) -> bool:
        """Whether br is run with *flag*."""
        return any(word.partition("=")[0] == flag for word in self.argv)


def run(context: Context) -> Result:
    """Do what ``--mode`` (and ``--subcommand``) says."""
    spec = context.resource.spec
    if spec.get("br") is None:
        raise UsageError("spec.br is missing", hint="Without br a Backup is an export; its Job runs `backup-manager export`.")
    mode = context.flags.get("mode", "snapshot")
    if mode == "volume-snapshot" or context.flags.get("initialize"):
        raise UsageError("volume-snapshot is not offered", hint="It is deprecated upstream; use backupMode snapshot.")
    location = recorded_location(context)
    storage = open_storage(spec, location=location, env=context.env)
    state = Backup(
        binary=br_runner.find(context),
        cluster=br_runner.cluster(context),
        storage=storage,
        folder=BackupDestination(context, storage, operation=f"{mode} backup"),
        target=for_br(spec, location, env=context.env, scratch=context.scratch),
    )
    return br_log.run(context, state) if mode == "log" else _snapshot(context, state)


def recorded_location(context: Context) -> paths.Location:
    """The location of the Backup's data: the one in its Job's environment. Raises UsageError when the spec points elsewhere.

    The spec has been put back to what was recorded at the start (:mod:`crds.contract.identity`); the two differ only when
    nothing was recorded, or not by this version, and the spec was edited since.
    """
    spec = context.resource.spec
    try:
        location = paths.location_of(spec)
        told = context.env.get(names.ENV_BACKUP_PATH)
        mount = str(((spec.get("local") or {}).get("volumeMount") or {}).get("mountPath") or "")
        recorded = paths.Location.parse(told, mount_path=mount) if told else location
    except paths.PathError as error:
        raise UsageError(str(error), reason="GetBackupRemotePathFailed", hint="Correct the storage in the spec.") from None
    if recorded != location:
        raise UsageError(
            f"the spec names {location.url}, but this Backup was started at {recorded.url}",
            reason="IdentityChanged",
            hint="Set the storage in the spec back, or create a new Backup for the other path.",
        )
    return recorded


def _snapshot(context: Context, state: Backup) -> Result:
    if not state.storage.location.prefix:
        raise UsageError("the storage has no prefix", hint="Give the backup a prefix of its own, so that it can be cleaned.")
    # Built before anything is touched: a spec that br would refuse is told at once.
    state.argv = [state.binary, *br.backup(context.resource.spec, state.cluster, state.target.br_arguments)]
    context.journal.path(state.storage.location.url)
    if earlier := state.folder.finished():
        return already_complete(context, earlier)
    try:
        with state.folder.record_failures(), lease.held(context, state.cluster.namespace, state.cluster.name):
            return run_steps(context, SNAPSHOT_STEPS, state).result
    except CompletedError as meanwhile:
        return already_complete(context, meanwhile.record)


def prepare(context: Context, state: Backup) -> None:
    """The database answers, when one is named; the folder is ours."""
    access = context.resource.access("from")
    if access:
        state.database = connect(context, Access.of(access, name="from", env=context.env, flags=context.flags))
    state.version = br_runner.tikv_version(context, state.binary)
    resumes = resumable(state.version)
    if state.folder.claim(fence=Fence.TOOL if resumes else Fence.NONE):
        context.log("br goes on from the checkpoint of an earlier attempt")


def take(context: Context, state: Backup) -> None:
    """Run br with the GC life time raised, unless an earlier attempt finished the data."""
    state.folder.confirm()
    if _has_meta(state.storage):
        context.log("backupmeta of an earlier attempt is there: br had finished")
        if state.database is not None:
            gc_life_time.release(context, state.database)
        return
    work = br_runner.BrRun(argv=state.argv, env=state.target.env, reason=SNAPSHOT_REASON)
    with gc_life_time.raised(context, state.database, context.resource.spec.get("tikvGCLifeTime")):
        try:
            state.folder.confirm()
            state.heard = br_runner.run(context, work)
        except ManagerError as error:
            _await_lock(context, error)
            state.folder.confirm()
            state.heard = br_runner.run(context, work)


def _await_lock(context: Context, error: ManagerError) -> None:
    """Wait until the lock that a dead br left on its checkpoint runs out: minutes, which no retry need be spent on."""
    problem = error.problem()
    left = _LOCK_LEFT.search(problem.message)
    if problem.reason != "CheckpointLocked" or left is None:
        raise error
    context.journal.waiting(problem)
    context.stop.wait(min(int(left[1]), _LOCK_LIMIT) + 1)
    context.journal.running()


def verify(context: Context, state: Backup) -> None:
    """Read ``backupmeta``: what it holds against the spec, its files against the storage. Of an encrypted one, br's own closing
    words tell the time and whether there was anything."""
    commit_ts: str | None
    items: list[Item] = []
    details: dict[str, Any] = dict(_numbers(state.heard))
    if br.encrypts(context.resource.spec):
        commit_ts, size = state.heard.summary.get("BackupTS"), None
        held = Content(readable=False)
        if br_runner.selected_nothing(state.heard):
            judge(Asked.of_br(context.resource.spec), (), reason="NothingDumped", verb="backed up", where="the cluster")
    else:
        meta = br_runner.read_meta(state.storage)
        commit_ts, size = str(meta.end_version), meta.size
        items, files = br_runner.read_content(state.storage)
        if not state.argv_has("--lastbackupts"):
            # An incremental backup may hold no change, and then names no table.
            unmatched = judge(
                Asked.of_br(context.resource.spec), items, reason="NothingDumped", verb="backed up", where="the cluster"
            )
            details |= {"rulesWithoutTable": unmatched[:NAMED]} if unmatched else {}
        if damage := br_runner.damage(files, state.storage.list()):
            raise PermanentError(
                f"br said it succeeded, but {damage}",
                reason="BackupIncomplete",
                retryable=False,
                hint="The storage lost a write. Delete this backup, look at the storage, and take a new one.",
            )
        items = backupmeta.users(items)
        held = Content.of(items).but(files=len(files))
        details |= {"schemas": held.schemas, "tables": held.tables}
    record = state.folder.complete(
        tool=br.NAME, version=state.version, argv=state.argv, commit_ts=commit_ts, held=held, items=items
    )
    state.result = Result(commit_ts=commit_ts, backup_size=record.size if size is None else size, details=details)


SNAPSHOT_STEPS: Final = (
    Step(name="Prepare", work=prepare),
    Step(name="Backup", work=take),
    Step(name="Verify", work=verify),
)


def resumable(tikv_version: str) -> bool:
    """Whether br of this version goes on from its checkpoint. As upstream: a version that cannot be read, or 4.0, does not."""
    return versions.at_least(tikv_version, _CHECKPOINTS_SINCE, unparsable=False)


def _has_meta(storage: Storage) -> bool:
    try:
        storage.stat(backupmeta.NAME)
    except NotFoundError:
        return False
    return True


def _numbers(heard: br.BrOutput) -> dict[str, str]:
    """br's own closing numbers, by the names of our report."""
    wanted = {"total-kv": "totalKv", "total-kv-size": "totalKvSize", "average-speed": "averageSpeed", "total-take": "toolTook"}
    return {ours: heard.summary[theirs] for theirs, ours in wanted.items() if theirs in heard.summary}
