"""Restore to a point in time: a base snapshot, or a start, and what the log holds after it.

Whether the point can be reached is asked before the cluster is touched: ``br log metadata`` says how far the log reaches. br
itself checks the same, but only in the middle of its run, and names no time that would do. br sums up twice, the base snapshot
and then the log: only the second one means success.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backup_manager.catalog import audit_log, readers
from backup_manager.content import NAMED, Asked, Content, Item, first_named
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import NotFoundError, PermanentError, UsageError
from backup_manager.locking import lease
from backup_manager.storage import pitr as point_storage
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import for_br
from backup_manager.tidb import gc_life_time, target_content, target_lock
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access, Database, connect
from backup_manager.tools import backupmeta, br, br_runner, flag_probe
from crds.contract import paths, tso

REASON: Final = "RestoreDataFromRemoteFailed"
NO_PROGRESS_HINT: Final = "Choose a time in between, or wait until the log backup has come so far (status.logCheckpointTs)."


class PointUnreachableError(PermanentError):
    """The log does not hold what the restore would need."""

    reason = "PointInTimeUnreachable"


@dataclass(slots=True, kw_only=True)
class Point:
    """What the steps hand to each other. *target* is 0 for the newest."""

    binary: str
    cluster: Cluster
    storages: point_storage.PointStorage
    target: int
    start: int
    base: Storage | None = None
    database: Database | None = None
    wanted: Sequence[Item] = ()
    """What the base snapshot holds of what the spec names."""
    content: Content = field(default_factory=Content)
    details: dict[str, Any] = field(default_factory=dict)
    heard: br.BrOutput = field(default_factory=br.BrOutput)


def run(context: Context, cluster: Cluster, log: Storage) -> Result:
    """Restore to ``--pitrRestoredTs``, else ``spec.pitrRestoredTs``, else the newest point."""
    spec = context.resource.spec
    base = spec.get("pitrFullBackupStorageProvider") or {}
    where = _location(base) if paths.provider_of(base) else None
    state = Point(
        binary=br_runner.find(context),
        cluster=cluster,
        storages=_storages(context, log, base, where),
        target=_time(str(context.flags.get("pitrRestoredTs") or ""), "--pitrRestoredTs")
        or _time(spec.get("pitrRestoredTs"), "spec.pitrRestoredTs"),
        start=0 if where else _time(spec.get("logRestoreStartTs"), "spec.logRestoreStartTs"),
        base=open_storage(base, location=where, env=point_storage.base_environment(context.env)) if where else None,
    )
    _argv(context, state)  # a spec that br would refuse is told at once
    _must_know_phases(context, state.binary)
    context.journal.note(source=log.location.url)
    sources = [log, state.base] if state.base else [log]
    with (
        audit_log.restoring(context, log, "pitr restore") as told,
        readers.reading(context, *sources),
        lease.held(context, cluster.namespace, cluster.name),
    ):
        run_steps(context, (PREPARE, LOOK), state)
        with target_lock.held(context, database=state.database, pd=cluster):
            run_steps(context, (PUT, CHECK), state)
        told.content, told.commit_ts = state.content, state.content.end_ts
    return Result(commit_ts=state.content.end_ts, details=state.details)


def prepare(context: Context, state: Point) -> None:
    """The database answers, when one is named."""
    if access := context.resource.access("to"):
        state.database = connect(context, Access.of(access, name="to", env=context.env, flags=context.flags))


def look(context: Context, state: Point) -> None:
    """The base is whole, and the log reaches from its time to the target. Afterwards *target* is a time, never 0."""
    if state.base:
        readers.refuse_incomplete(context, state.base)
    argv = br.log(br.LogCommand.METADATA, "", context.resource.spec, state.cluster, state.storages.log.br_arguments)
    work = br_runner.BrRun(argv=[state.binary, *argv], env=state.storages.log.env, reason=REASON, asked=True)
    facts = br_runner.run(context, work).facts
    if state.base:
        _look_at_base(context, state, state.base)
    try:
        oldest, newest = int(facts["log-min-ts"]), int(facts["log-max-ts"])
    except (KeyError, ValueError):
        context.log("br did not say how far the log reaches; it will check the time itself")
        return
    state.target = checked(state.start, state.target, oldest, newest, base=state.base is not None)
    context.journal.note(logMinTs=str(oldest), logMaxTs=str(newest), restoreTo=str(state.target))


def checked(start: int, target: int, oldest: int, newest: int, *, base: bool) -> int:
    """The point to restore to: *target*, or *newest* for 0. *start* 0 is not known. Raises PointUnreachableError."""
    reach = f"the log reaches from {said(oldest)} to {said(newest)}"
    if start and start < oldest:
        name = "the base snapshot" if base else "spec.logRestoreStartTs"
        raise PointUnreachableError(
            f"there is a gap: {name} is of {said(start)}, but {reach}",
            hint=f"Take a base snapshot of {said(oldest)} or later: the log before it was truncated or never written.",
        )
    if start > newest:
        raise PointUnreachableError(f"the start, {said(start)}, is later than the log: {reach}", hint=NO_PROGRESS_HINT)
    first = max(start, oldest)
    if target and not first <= target <= newest:
        nearest = first if target < first else newest
        raise PointUnreachableError(
            f"{said(target)} cannot be restored: {reach}" + (f", the start is {said(start)}" if start else ""),
            hint=f"The nearest point is {said(nearest)}; any from {said(first)} to {said(newest)} will do. {NO_PROGRESS_HINT}",
        )
    return target or newest


def said(point: int) -> str:
    """A TSO for people."""
    return f"{point} ({tso.to_datetime(point):%Y-%m-%d %H:%M:%S.%f}Z)"


def put(context: Context, state: Point) -> None:
    """Run br with the GC life time raised."""
    work = br_runner.BrRun(argv=_argv(context, state), env=state.storages.log.env, reason=REASON)
    with gc_life_time.raised(context, state.database, context.resource.spec.get("tikvGCLifeTime")):
        state.heard = br_runner.run(context, work)
    # The first phase of a restore beside a compaction restores the base alone.
    if not state.heard.log_restored and int(context.flags.get("replicationPhase") or 0) != 1:
        raise PermanentError(
            f"br ended with 0, but never said `{br.RESTORED_LOG}`: the log was not restored to its end",
            reason=REASON,
            retryable=True,
            hint="br goes on from its checkpoint in a retry; its log says where it stopped (kubectl logs).",
        )


def check(context: Context, state: Point) -> None:
    """The target lists what it must, with ``spec.to``: after the first phase of a restore beside a compaction the whole base;
    after the log what :func:`.target_content.after_log` can know."""
    summary = state.heard.summary
    start = summary.get("source-start-point") or (str(state.start) if state.start else None)
    state.content = Content(start_ts=start, end_ts=summary.get("source-end-point") or str(state.target))
    if state.database is None:
        return
    if int(context.flags.get("replicationPhase") or 0) == 1:
        target_content.require(state.database, state.wanted)
        found, lacking = list(state.wanted), list[str]()
    else:
        found, lacking = target_content.after_log(state.database, state.wanted, _asked(context))
    held = Content.of(found)
    state.content = held.but(start_ts=start, end_ts=state.content.end_ts, files=0, rows=None, bytes=None)
    state.details = {"schemas": held.schemas, "tables": held.tables}
    if lacking:
        context.log(
            f"not in the target, though in the base snapshot: {first_named(lacking)}; the log may have dropped or renamed it"
        )
        state.details |= {"goneSinceBase": lacking[:NAMED], "goneSinceBaseCount": len(lacking)}


PREPARE: Final = Step(name="Prepare", work=prepare)
LOOK: Final = Step(name="Look", work=look)
PUT: Final = Step(name="Restore", work=put)
CHECK: Final = Step(name="Check", work=check)


def _argv(context: Context, state: Point) -> list[str]:
    told = br.restore_point(
        context.resource.spec,
        state.cluster,
        state.storages.log.br_arguments,
        restored_ts=str(state.target),
        full_backup=state.storages.base_url,
        replication_phase=int(context.flags.get("replicationPhase") or 0),
    )
    return [state.binary, *told]


def _must_know_phases(context: Context, binary: str) -> None:
    """Without these flags one phase would be the whole restore, so a br that lacks one of them must not begin."""
    wanted = br.replication(int(context.flags.get("replicationPhase") or 0))
    if wanted:
        flag_probe.require(
            [binary, "restore", "point", *wanted],
            needed_by="a restore beside a compaction (spec.replicationConfig)",
            hint="Set spec.toolImage to a br that knows it, or make a Restore without replicationConfig.",
            env=context.env,
            cwd=context.scratch,
        )


def _storages(
    context: Context, log: Storage, base: Mapping[str, Any], where: paths.Location | None
) -> point_storage.PointStorage:
    spec, env, scratch = context.resource.spec, context.env, context.scratch
    if where is None:
        return point_storage.PointStorage(log=for_br(spec, log.location, env=env, scratch=scratch))
    return point_storage.resolve_pitr_storages(spec, log.location, base, where, env=env, scratch=scratch)


def _look_at_base(context: Context, state: Point, base: Storage) -> None:
    """Of which time the base snapshot is and what it holds; its files are there. Of an encrypted one nothing is known: br alone
    can read it."""
    try:
        data = base.read(backupmeta.NAME)
    except NotFoundError as error:
        if error.problem().reason == "BucketNotFound":
            raise
        raise PermanentError(
            f"{base.location.url} holds no {backupmeta.NAME}",
            reason="SourceNotFound",
            hint="Give the path of a finished snapshot in spec.pitrFullBackupStorageProvider.",
        ) from None
    if br.encrypts(context.resource.spec):
        return
    state.start = backupmeta.parse(data).end_version
    items, files = br_runner.read_content(base, data)
    if damage := br_runner.damage(files, base.list()):
        raise PermanentError(
            f"the base snapshot is damaged: {damage}; nothing was restored",
            reason="SourceDamaged",
            hint="Restore from another snapshot; an older version of the object in a versioned bucket may bring this one back.",
        )
    state.wanted = backupmeta.users(_asked(context).select(items))


def _asked(context: Context) -> Asked:
    return Asked(rules=[str(rule) for rule in context.resource.spec.get("tableFilter") or ()])


def _location(base: Mapping[str, Any]) -> paths.Location:
    try:
        return paths.location_of(base)
    except paths.PathError as error:
        raise UsageError(f"pitrFullBackupStorageProvider: {error}", hint="Correct the storage in the spec.") from None


def _time(text: Any, name: str) -> int:
    try:
        return tso.parse(str(text or ""))
    except tso.TimestampError as error:
        raise UsageError(f"{name}: {error}", hint="Write a TSO, or a time like 2006-01-02T15:04:05+08:00.") from None
