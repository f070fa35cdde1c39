"""Restore with br: a snapshot, or the removal of what a failed restore left; a point in time is :mod:`~.point`'s."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from backup_manager.catalog import audit_log, readers
from backup_manager.content import Asked, Content, Item, judge
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import NotFoundError, PermanentError, UsageError
from backup_manager.locking import lease
from backup_manager.operations import br_pitr
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import ToolStorage, for_br
from backup_manager.tidb import gc_life_time, target_content, target_lock
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access, Database, connect
from backup_manager.tools import backupmeta, br, br_runner
from crds.contract import paths

REASON: Final = "RestoreDataFromRemoteFailed"
ABORT_REASON: Final = "BRAbortFailed"


@dataclass(slots=True, kw_only=True)
class Restore:
    """What the steps hand to each other."""

    argv: Sequence[str]
    target: ToolStorage
    storage: Storage
    database: Database | None = None
    wanted: list[Item] = field(default_factory=list)
    heard: br.BrOutput = field(default_factory=br.BrOutput)
    result: Result = field(default_factory=Result)


def run(context: Context) -> Result:
    """Do what ``--mode`` says; with ``--abort``, prune."""
    spec = context.resource.spec
    if spec.get("br") is None:
        raise UsageError("spec.br is missing", hint="Without br a Restore is an import; its Job runs `backup-manager import`.")
    mode = context.flags.get("mode", "snapshot")
    if mode == "volume-snapshot" or context.flags.get("prepare"):
        raise UsageError("volume-snapshot is not offered", hint="It is deprecated upstream; use restoreMode snapshot or pitr.")
    location = _location(spec)
    target = for_br(spec, location, env=context.env, scratch=context.scratch)
    cluster = br_runner.cluster(context)
    storage = open_storage(spec, location=location, env=context.env)
    if context.flags.get("abort"):
        with (
            readers.reading(context, storage),
            lease.held(context, cluster.namespace, cluster.name),
            _target(context, cluster),
        ):
            return _abort(context, [br_runner.find(context), *br.abort(spec, cluster, target.br_arguments)], target)
    if mode == "pitr":
        return br_pitr.run(context, cluster, storage)
    state = Restore(
        argv=[br_runner.find(context), *br.restore(spec, cluster, target.br_arguments)], target=target, storage=storage
    )
    context.journal.note(source=location.url)
    with (
        audit_log.restoring(context, state.storage, f"{mode} restore") as told,
        readers.reading(context, state.storage),
        lease.held(context, cluster.namespace, cluster.name),
    ):
        run_steps(context, (PREPARE, LOOK), state)
        with target_lock.held(context, database=state.database, pd=cluster):
            run_steps(context, (PUT, CHECK), state)
        readable = not br.encrypts(spec)
        told.content = Content.of(state.wanted).but(files=0) if readable else Content(readable=False)
        told.commit_ts = state.result.commit_ts
    return state.result


def prepare(context: Context, state: Restore) -> None:
    """The database answers, when one is named."""
    state.database = _database(context)


def look(context: Context, state: Restore) -> None:
    """The backup is there and whole: a wrong path is told before br waits for a cluster. Only br can read an encrypted one."""
    readers.refuse_incomplete(context, state.storage)
    try:
        data = state.storage.read(backupmeta.NAME)
    except NotFoundError as error:
        if error.problem().reason == "BucketNotFound":
            raise
        raise PermanentError(
            f"{state.storage.location.url} holds no {backupmeta.NAME}",
            reason="SourceNotFound",
            hint="Give the path of a finished backup: status.backupPath of its Backup.",
        ) from None
    if not br.encrypts(context.resource.spec):
        meta = backupmeta.parse(data, state.storage.read)
        items, files = br_runner.read_content(state.storage, data)
        asked = Asked.of_br(context.resource.spec)
        if meta.start_version in {0, meta.end_version}:  # an incremental one may hold no change
            judge(asked, items, reason="NothingRestored", verb="restored", where="the backup")
        if damage := br_runner.damage(files, state.storage.list()):
            raise PermanentError(
                f"the backup is damaged: {damage}; nothing was restored",
                reason="SourceDamaged",
                hint="Restore another backup; an older version of the object in a versioned bucket may bring this one back.",
            )
        state.wanted = backupmeta.users(asked.select(items))
        state.result = Result(commit_ts=str(meta.end_version), backup_size=meta.size)


def put(context: Context, state: Restore) -> None:
    """Run br with the GC life time raised."""
    work = br_runner.BrRun(argv=state.argv, env=state.target.env, reason=REASON)
    with gc_life_time.raised(context, state.database, context.resource.spec.get("tikvGCLifeTime")):
        state.heard = br_runner.run(context, work)


def check(context: Context, state: Restore) -> None:
    """The target holds what was asked for. Without ``spec.to``, and of what br alone can read, br's own words decide."""
    if br.encrypts(context.resource.spec):
        if br_runner.selected_nothing(state.heard):
            judge(Asked.of_br(context.resource.spec), (), reason="NothingRestored", verb="restored", where="the backup")
        return
    if state.database is not None:
        target_content.require(state.database, state.wanted)
    held = Content.of(state.wanted)
    details = {"schemas": held.schemas, "tables": held.tables}
    state.result = Result(commit_ts=state.result.commit_ts, backup_size=state.result.backup_size, details=details)


PREPARE: Final = Step(name="Prepare", work=prepare)
LOOK: Final = Step(name="Look", work=look)
PUT: Final = Step(name="Restore", work=put)
CHECK: Final = Step(name="Check", work=check)


def _database(context: Context) -> Database | None:
    access = context.resource.access("to")
    return connect(context, Access.of(access, name="to", env=context.env, flags=context.flags)) if access else None


def _target(context: Context, cluster: Cluster) -> AbstractContextManager[None]:
    """The target, for a removal: another restore may have begun to write there since."""
    return target_lock.held(context, database=_database(context), pd=cluster)


def _location(spec: Mapping[str, Any]) -> paths.Location:
    try:
        return paths.location_of(spec)
    except paths.PathError as error:
        raise UsageError(str(error), hint="Correct the storage in the spec.") from None


def _abort(context: Context, argv: Sequence[str], target: ToolStorage) -> Result:
    context.journal.running()
    context.journal.step("Prune")
    br_runner.run(context, br_runner.BrRun(argv=argv, env=target.env, reason=ABORT_REASON))
    return Result()
