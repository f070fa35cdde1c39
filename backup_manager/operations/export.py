"""Export: dumpling writes straight to the storage; then the dump is read back and judged.

An export is good when dumpling ended with 0, said so, wrote its ``metadata`` to the end, every file that it wrote is in the
storage with the bytes that dumpling counted, and the dump holds what the filter names. The path is the CR's own
(``<prefix>/<cr>-<uid>``), known and reported before the first byte, so that a killed run can be found, repeated and cleaned. A
repeated attempt writes into a folder of its own inside that path, ``attempt-<n>``, and the record says where the complete data
lies: an attempt that was believed dead cannot mix its files into it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

from backup_manager.catalog.destination import BackupDestination, CompletedError, already_complete
from backup_manager.content import NAMED, SYSTEM_SCHEMAS, Asked, Content, Item, Kind, judge
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import NotFoundError, PermanentError, UsageError
from backup_manager.masking import Masked
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import ToolStorage, for_dumpling
from backup_manager.table_filter import literal
from backup_manager.tidb import accounts, gc_life_time, schema_objects
from backup_manager.tidb.connection import Access, Database, connect
from backup_manager.tools import dump_options, dumpling, dumpling_watch, process, secret_options
from backup_manager.tools.error_table import failure
from crds.contract import names, paths

REASON: Final = "DumpTidbClusterFailed"
TOOL_STEP: Final = "Dump"


@dataclass(slots=True, kw_only=True)
class Export:
    """What the steps hand to each other."""

    access: Access
    storage: Storage
    folder: BackupDestination
    target: ToolStorage
    binary: str
    database: Database | None = None
    schemas: frozenset[str] = frozenset()
    options: dump_options.DumpOptions
    found: schema_objects.Found = field(default_factory=schema_objects.Found)
    users: accounts.Found | None = None
    schema_version: int | None = None
    users_before: str = ""
    said: dumpling.Metadata | None = None
    argv: Sequence[str] = ()
    version: str = ""
    heard: dumpling.DumplingOutput = field(default_factory=dumpling.DumplingOutput)
    result: Result = field(default_factory=Result)


def run(context: Context) -> Result:
    """Export ``spec.from`` to the storage."""
    location = _location(context)
    access = Access.of(context.resource.access("from"), name="from", env=context.env, flags=context.flags)
    storage = open_storage(context.resource.spec, location=location, env=context.env)
    state = Export(
        access=access,
        storage=storage,
        folder=BackupDestination(context, storage, operation="export"),
        target=for_dumpling(context.resource.spec, location, env=context.env, scratch=context.scratch),
        binary=process.find_tool(dumpling.NAME, names.DUMPLING_BIN_DIR, context.env),
        options=dumpling.options(context.resource.spec),
    )
    context.journal.path(location.url)
    if earlier := state.folder.finished():
        return already_complete(context, earlier, details={"objectCount": earlier.object_count})
    try:
        with state.folder.record_failures():
            run_steps(context, (PREPARE,), state)
            with gc_life_time.raised(context, cast(Database, state.database), context.resource.spec.get("tikvGCLifeTime")):
                run_steps(context, (DUMP, DESCRIBE), state)
            return run_steps(context, (VERIFY,), state).result
    except CompletedError as meanwhile:
        record = meanwhile.record
        return already_complete(context, record, details={"objectCount": record.object_count})


def prepare(context: Context, state: Export) -> None:
    """The database answers; the folder is ours, and where this attempt writes is empty."""
    state.database = connect(context, state.access)
    state.schemas = frozenset(str(row[0]) for row in state.database.rows("select schema_name from information_schema.schemata"))
    with state.database.connection() as rows:
        state.schema_version = schema_objects.require_readable(rows, dumpling.filters(context.resource.spec))
        if _with_users(context):
            state.users_before = accounts.digest(rows)
    state.folder.claim()
    state.storage = state.folder.data
    state.target = for_dumpling(context.resource.spec, state.storage.location, env=context.env, scratch=context.scratch)


def dump(context: Context, state: Export) -> None:
    """Run dumpling; it must end with 0 and say that it succeeded."""
    port = process.free_port()
    state.argv = dumpling.argv(
        state.binary,
        access=state.access,
        output=state.target.url,
        storage_flags=state.target.flags,
        rules=dumpling.filters(context.resource.spec),
        words=state.options.words,
        status_port=port,
    )
    heard = state.heard = dumpling.DumplingOutput()
    with _watched(context, port):
        state.folder.confirm()
        safe = secret_options.told(state.argv, context.scratch)
        ended = process.run(
            safe.argv,
            env={**context.env, **state.target.env, **safe.env},
            stop=context.stop,
            mask=context.mask,
            log=_quiet(context),
            on_line=heard.line,
        )
        if ended.code != 0 or not heard.success:
            raise failure(dumpling.NAME, ended, reason=REASON, mask=context.mask)
    state.version = heard.version


def _quiet(context: Context) -> Callable[[str], None]:
    """The log without the debug lines that only we asked for."""
    if dumpling.says_level(context.resource.spec):
        return context.log

    def log(block: str) -> None:
        if kept := dumpling.without_debug(block):
            context.log(Masked(kept) if isinstance(block, Masked) else kept)

    return log


def describe(context: Context, state: Export) -> None:
    """Write what dumpling cannot dump beside the dump (views, sequences, policies; users where the spec asks for them), and
    find what stays out of the export."""
    options, rules = state.options, dumpling.filters(context.resource.spec)
    said = state.said = dumpling.metadata(_metadata(state.storage))
    with cast(Database, state.database).connection() as rows:
        state.found = schema_objects.collect(
            rows,
            rules,
            snapshot=said.commit_ts,
            version=state.schema_version,
            views=options.views,
            sequences=options.sequences,
        )
        if _with_users(context):
            state.users = accounts.collect(rows, accounts.selected(rows, rules), before=state.users_before)
    if options.schemas and state.found.objects:
        state.folder.confirm()
        state.storage.write(schema_objects.KEY, state.found.objects.to_json())
    if state.users:
        state.folder.confirm()
        state.storage.write(accounts.KEY, state.users.accounts.to_json())


def verify(context: Context, state: Export) -> None:
    """Read back what was written: ``metadata`` to its end, every file with its bytes, and what the filter names."""
    # A later attempt removes the files of one that was frozen: none of them is lost.
    state.folder.confirm()
    said = cast(dumpling.Metadata, state.said)
    if not said.finished:
        raise _incomplete("`metadata` has no end")
    listed = list(state.storage.list())
    keys = [info.key for info in listed]
    if not any(dumpling.is_dump_file(key) for key in keys) and not state.heard.tables:
        raise PermanentError(
            f"no table matched the filter {list(dumpling.filters(context.resource.spec))}, so nothing was exported",
            reason="NothingDumped",
            hint="Correct spec.tableFilter. Without one, every database but the system's own and `test` is exported.",
        )
    stored = dumpling.items((info.key, info.size) for info in listed)
    _compare(state, keys, stored)
    items = [*state.heard.items(stored), *_described(state, stored)]
    unmatched = _judge(context, state, items)
    schemas_left_out = sorted(name for name in state.schemas - dumpling.schemas(keys) if name.lower() not in SYSTEM_SCHEMAS)
    users = state.users
    of_cluster = schema_objects.left_out_of_cluster(cast(Database, state.database), schemas_left_out, users=users is not None)
    left_out = schema_objects.bounded((*state.found.left_out, *(users.left_out if users else ()), *of_cluster))
    held = Content.of(items).but(users=len(users.accounts.accounts) if users else None)
    record = state.folder.complete(
        tool=dumpling.NAME,
        version=state.version,
        argv=state.argv,
        commit_ts=said.commit_ts,
        held=held,
        items=items,
        left_out=left_out,
        listed=listed,
    )
    if record.data:
        context.log(f"the data lies in {state.storage.location.url}; restores of {record.backup_path} find it by its record")
    details = {
        "objectCount": record.object_count,
        **_numbers(held),
        "schemasLeftOut": schemas_left_out,
        "leftOut": left_out,
    }
    if unmatched:
        details["rulesWithoutTable"] = unmatched[:NAMED]
    state.result = Result(commit_ts=said.commit_ts, backup_size=record.size, details=details)


def _with_users(context: Context) -> bool:
    return bool((context.resource.spec.get("dumpling") or {}).get("users"))


def _judge(context: Context, state: Export, items: Sequence[Item]) -> list[str]:
    """Whether the dump holds what the spec names: :func:`backup_manager.content.judge`. Without schema files
    (``--no-schemas``) an empty table leaves nothing to be seen."""
    spec = context.resource.spec
    asked = Asked(rules=spec.get("tableFilter") or (spec.get("dumpling") or {}).get("tableFilter") or ())
    if not state.options.schemas:
        asked = Asked(rules=[rule for rule in asked.rules if not literal(rule)])
    return judge(asked, items, reason="NothingDumped", verb="exported", where="the dump")


def _compare(state: Export, keys: Sequence[str], stored: Sequence[Item]) -> None:
    """What dumpling says it wrote against what the storage lists. Raises DumpIncomplete, naming table and file."""
    if missing := state.heard.missing(keys):
        table = dumpling.table_of(missing[0])
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise _incomplete(f"the storage does not hold {missing[0]}" + (f" of table {table}" if table else "") + more)
    for item in stored:
        written = state.heard.tables.get((item.schema, item.name))
        if written is None or not written.exact or item.kind is not Kind.TABLE:
            continue
        if item.files != written.files or (item.bytes is not None and item.bytes != written.bytes):
            raise _incomplete(
                f"of table {item.place} the storage holds {item.files} files of {item.bytes} bytes, while dumpling wrote "
                f"{written.files} of {written.bytes}"
            )


def _described(state: Export, stored: Sequence[Item]) -> list[Item]:
    """The views and sequences that :func:`describe` wrote, without those that dumpling has a file of."""
    known = {(item.kind, item.schema, item.name) for item in stored}
    if not state.options.schemas:
        return []
    return [item for item in state.found.objects.items() if (item.kind, item.schema, item.name) not in known]


def _numbers(held: Content) -> dict[str, int]:
    """The totals as the report shows them."""
    shown = {"schemas": held.schemas, "tables": held.tables, "views": held.views, "sequences": held.sequences}
    more = {"rows": held.rows, "users": held.users}
    return shown | {name: number for name, number in more.items() if number is not None}


PREPARE: Final = Step(name="Prepare", work=prepare)
DUMP: Final = Step(name=TOOL_STEP, work=dump)
DESCRIBE: Final = Step(name="Describe", work=describe)
VERIFY: Final = Step(name="Verify", work=verify)


def _location(context: Context) -> paths.Location:
    resource = context.resource
    told = context.env.get(names.ENV_BACKUP_PATH)
    try:
        if not told:
            return paths.export_location(resource.spec, resource.name, resource.uid)
        mount = ((resource.spec.get("local") or {}).get("volumeMount") or {}).get("mountPath") or ""
        location = paths.Location.parse(told, mount_path=str(mount))
    except paths.PathError as error:
        raise UsageError(str(error), hint="Correct the storage in the spec.") from None
    if not location.prefix:
        raise UsageError(f"{names.ENV_BACKUP_PATH} {told!r} is a whole bucket", hint="An export needs a folder of its own.")
    return location


@contextmanager
def _watched(context: Context, port: int) -> Iterator[None]:
    """Report dumpling's own numbers while it runs."""

    def tell(numbers: dumpling.Metrics, eta: datetime | None) -> None:
        context.journal.step(TOOL_STEP, numbers.percent or 0.0, done=numbers.size, eta=eta)

    with dumpling_watch.watch(port, now=context.now, tell=tell):
        yield


def _metadata(storage: Storage) -> str:
    try:
        return storage.read(dumpling.METADATA).decode("utf-8", "replace")
    except NotFoundError:
        raise _incomplete(f"{storage.location.url} holds no `metadata`") from None


def _incomplete(what: str) -> PermanentError:
    return PermanentError(
        f"dumpling said it succeeded, but {what}",
        reason="DumpIncomplete",
        retryable=True,
        hint="Its last write was lost; the export can be repeated.",
    )
