"""Restore with br: a snapshot, a point in time, or the removal of what a failed restore left behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backup_manager import br_run, gc_life_time, history, lease
from backup_manager.database import Access, Database, connect
from backup_manager.errors import NotFoundError, PermanentError, UsageError
from backup_manager.operations.steps import Context, Result, Step, run_steps
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import ToolStorage, for_br
from backup_manager.tools import backupmeta, br
from crds import paths

REASON: Final = "RestoreDataFromRemoteFailed"
ABORT_REASON: Final = "BRAbortFailed"


@dataclass(slots=True, kw_only=True)
class Restore:
    """What the steps hand to each other."""

    argv: Sequence[str]
    target: ToolStorage
    storage: Storage
    database: Database | None = None
    heard: br.Heard = field(default_factory=br.Heard)
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
    cluster = br_run.cluster(context)
    if context.flags.get("abort"):
        with lease.held(context, cluster.namespace, cluster.name):
            return _abort(context, [br_run.find(context), *br.abort(spec, cluster, target.br_arguments)], target)
    command = _point(context, cluster, target) if mode == "pitr" else br.restore(spec, cluster, target.br_arguments)
    state = Restore(
        argv=[br_run.find(context), *command],
        target=target,
        storage=open_storage(spec, location=location, env=context.env),
    )
    context.journal.note(source=location.url)
    with lease.held(context, cluster.namespace, cluster.name), history.restoring(context, state.storage, f"{mode} restore"):
        run_steps(context, POINT_STEPS if mode == "pitr" else SNAPSHOT_STEPS, state)
    return Result(commit_ts=_restored_to(context, state.heard)) if mode == "pitr" else state.result


def prepare(context: Context, state: Restore) -> None:
    """The database answers, when one is named."""
    access = context.resource.access("to")
    if access:
        state.database = connect(context, Access.of(access, name="to", env=context.env, flags=context.flags))


def look(context: Context, state: Restore) -> None:
    """The backup is there and whole: a wrong path is told before br waits for a cluster. Only br can read an encrypted one."""
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
        meta = backupmeta.parse(data)
        state.result = Result(commit_ts=str(meta.end_version), backup_size=meta.size)


def put(context: Context, state: Restore) -> None:
    """Run br with the GC life time raised."""
    work = br_run.BrRun(argv=state.argv, env=state.target.env, reason=REASON)
    with gc_life_time.raised(context, state.database, context.resource.spec.get("tikvGCLifeTime")):
        state.heard = br_run.run(context, work)


_PREPARE: Final = Step(name="Prepare", work=prepare)
_PUT: Final = Step(name="Restore", work=put)
SNAPSHOT_STEPS: Final = (_PREPARE, Step(name="Look", work=look), _PUT)
POINT_STEPS: Final = (_PREPARE, _PUT)


def _location(spec: Mapping[str, Any]) -> paths.Location:
    try:
        return paths.location_of(spec)
    except paths.PathError as error:
        raise UsageError(str(error), hint="Correct the storage in the spec.") from None


def _point(context: Context, cluster: br.Cluster, target: ToolStorage) -> list[str]:
    """The command line of a restore to a point in time; the base snapshot's credentials are the main storage's."""
    spec = context.resource.spec
    base = spec.get("pitrFullBackupStorageProvider") or {}
    full = ""
    if paths.provider_of(base):
        full = for_br(base, _location(base), env=context.env, scratch=context.scratch).url
    return br.restore_point(
        spec,
        cluster,
        target.br_arguments,
        restored_ts=str(context.flags.get("pitrRestoredTs") or spec.get("pitrRestoredTs") or "0"),
        full_backup=full,
        replication_phase=int(context.flags.get("replicationPhase") or 0),
    )


def _restored_to(context: Context, heard: br.Heard) -> str | None:
    """The point that was reached: what br says, else what was asked for. A log folder's ``backupmeta`` does not know it."""
    asked = str(context.flags.get("pitrRestoredTs") or "0")
    return heard.summary.get("restore-to") or (asked if asked != "0" else None)


def _abort(context: Context, argv: Sequence[str], target: ToolStorage) -> Result:
    context.journal.running()
    context.journal.step("Prune")
    br_run.run(context, br_run.BrRun(argv=argv, env=target.env, reason=ABORT_REASON))
    return Result()
