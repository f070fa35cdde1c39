"""Import: tidb-lightning reads an export from the storage (or an archive of TiDB Operator, unpacked first) into TiDB.

An import never harms: a table that holds rows is refused before lightning starts, and from that look to the end of the load no
other restore writes there (:mod:`backup_manager.tidb.target_lock`). It is good when lightning ended with 0 *and* said so, since
lightning also ends with 0 after SIGTERM; when the dump was whole and held what the filter names; and when the target lists
every table of it afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from backup_manager import private_files
from backup_manager.catalog import audit_log, readers
from backup_manager.catalog.record import Record, is_attempt_folder
from backup_manager.catalog.records import Records
from backup_manager.content import NAMED, Asked, Content, Item, Kind, first_named, judge
from backup_manager.context import Context, Result, Step, run_steps
from backup_manager.errors import NotFoundError, PermanentError, StorageError, UsageError
from backup_manager.storage.base import ObjectInfo, Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import ToolStorage, for_lightning
from backup_manager.table_filter import selects
from backup_manager.tidb import account_plan, accounts, schema_objects, target_content, target_lock
from backup_manager.tidb.connection import Access, Database, connect
from backup_manager.tools import archive, dumpling, lightning, process
from backup_manager.tools.error_table import failure
from crds.contract import durations, names, paths

REASON: Final = "LoaderBackupDataFailed"
TOOL_STEP: Final = "Load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the data is: a folder of the storage, or one archive in it."""

    folder: paths.Location
    archive: str = ""


@dataclass(slots=True, kw_only=True)
class Import:
    """What the steps hand to each other."""

    access: Access
    source: Source
    storage: Storage
    binary: str
    backend: lightning.Backend
    pd_addr: str
    records: Records = field(init=False)
    record: Record | None = None
    wanted: list[Item] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    reading: ToolStorage | None = None
    database: Database | None = None
    tables: frozenset[tuple[str, str]] = frozenset()
    held: set[tuple[str, str]] = field(default_factory=set)
    """Schema and name of all that comes back."""
    objects: schema_objects.SchemaObjects = field(default_factory=schema_objects.SchemaObjects)
    views_kept: Sequence[str] = ()
    users: accounts.Accounts = field(default_factory=accounts.Accounts)
    plan: account_plan.Plan | None = None
    commit_ts: str = ""
    size: int = 0
    heard: lightning.LightningOutput = field(default_factory=lightning.LightningOutput)


def run(context: Context) -> Result:
    """Import into ``spec.to``."""
    source = _source(context)
    backend, pd_addr = _backend(context.resource.annotations)
    state = Import(
        access=Access.of(context.resource.access("to"), name="to", env=context.env, flags=context.flags),
        source=source,
        storage=open_storage(context.resource.spec, location=source.folder, env=context.env),
        binary=process.find_tool(lightning.NAME, names.LIGHTNING_BIN_DIR, context.env),
        backend=backend,
        pd_addr=pd_addr,
    )
    context.journal.note(source=f"{source.folder.url.rstrip('/')}/{source.archive}" if source.archive else source.folder.url)
    with audit_log.restoring(context, state.storage, "import") as told, readers.reading(context, _read(state)):
        run_steps(context, (PREPARE, UNPACK if source.archive else LOOK), state)
        database = cast(Database, state.database)
        with target_lock.held(context, database=database, pd=target_lock.pd_of(context, database)):
            run_steps(context, (CHECK, BEFORE, LOAD, COMPARE, AFTER, *((USERS,) if _users(context) else ())), state)
        told.content, told.commit_ts = _brought_back(state), state.commit_ts
    details: dict[str, Any] = {
        "tables": len(state.tables),
        "rows": state.heard.rows,
        "backend": state.backend,
        "views": len(state.objects.views),
        "viewsKept": schema_objects.bounded(state.views_kept),
        "sequences": len(state.objects.sequences),
    }
    left_out = [f"view {name}: the target has one already" for name in state.views_kept]
    if state.plan:
        details |= {"users": len(state.plan.accounts), "usersKept": len(state.plan.kept)}
        left_out += state.plan.lines
    if left_out:
        details["leftOut"] = schema_objects.bounded(left_out)
    if state.unmatched:
        details["rulesWithoutTable"] = state.unmatched[:NAMED]
    return Result(commit_ts=state.commit_ts, backup_size=state.size, details=details)


def _brought_back(state: Import) -> Content:
    """What is in the target now that the dump held. The backend local tells keys, not rows."""
    held = Content.of([*state.wanted, *state.objects.items()])
    rows = state.heard.rows if state.backend == "tidb" else None
    return held.but(files=0, bytes=None, rows=rows, users=len(state.plan.accounts) if state.plan else None)


def _read(state: Import) -> Storage:
    """What no clean may delete meanwhile: the folder, or the archive, which is a path of its own."""
    return state.storage.at(state.source.folder.child(state.source.archive)) if state.source.archive else state.storage


def prepare(context: Context, state: Import) -> None:
    """The database answers."""
    state.database = connect(context, state.access)


def look(context: Context, state: Import) -> None:
    """The dump is there: its ``metadata``, its tables, its size. The record says in which folder of the path it lies."""
    _follow_record(context, state)
    try:
        text = state.storage.read(dumpling.METADATA)
    except NotFoundError as error:
        raise _no_dump(state.storage, error) from None
    listed = list(state.storage.list())
    state.size = sum(info.size for info in listed)
    keys = [info.key for info in listed]
    _refuse_ambiguous(state, keys)
    _refuse_damaged(context, state, listed)
    _understand(context, state, text, [(info.key, info.size) for info in listed], state.storage.read)
    state.reading = for_lightning(context.resource.spec, state.storage.location, env=context.env, scratch=context.scratch)


def _follow_record(context: Context, state: Import) -> None:
    """Read from where the record of the path says that the complete data lies; without one, or one that may not be read, from
    the path itself."""
    records = state.records = Records(state.storage, now=context.now)
    try:
        record = records.load()
    except StorageError as error:
        if error.problem().reason == "BucketNotFound":
            raise
        context.log(f"the record of {state.storage.location.url} cannot be read ({error.message}): the path itself is imported")
        return
    if record is None:
        return
    readers.require_complete(record, state.storage.location.url)
    state.record = record
    if record.data:
        state.storage = records.data_storage(record)
        context.log(f"the record says that the data lies in {state.storage.location.url}")
        context.journal.note(source=state.storage.location.url)


def _refuse_ambiguous(state: Import, keys: Sequence[str]) -> None:
    """Attempts of one export may lie inside each other; without the record nobody knows which of them counts."""
    folders = sorted({key.split("/")[0] for key in keys if is_attempt_folder(key.split("/")[0]) and "/" in key})
    if folders and state.record is None:
        url = state.storage.location.url
        raise PermanentError(
            f"{url} holds several attempts of an export ({', '.join(folders[:NAMED])}), and its record cannot be read",
            reason="SourceAmbiguous",
            hint=f"Allow reading {url.rstrip('/')}.record.json; or name the folder of the attempt that completed.",
        )


def unpack(context: Context, state: Import) -> None:
    """Stream the archive into a temporary folder."""
    try:
        state.size = state.storage.stat(state.source.archive).size
    except NotFoundError as error:
        raise _no_dump(state.storage, error) from None
    target = context.scratch / "archive"
    target.mkdir()

    def tell(done: int) -> None:
        context.journal.step(UNPACK.name, 100 * done / state.size if state.size else 100.0, done=done)

    with state.storage.open(state.source.archive) as stream:
        folder = archive.unpack(stream, state.size, target, stop=context.stop, tell=tell)
    files = [(file.name, file.stat().st_size) for file in folder.iterdir()]
    _understand(context, state, (folder / dumpling.METADATA).read_bytes(), files, lambda key: (folder / key).read_bytes())
    state.reading = ToolStorage(url=str(folder))


def check(context: Context, state: Import) -> None:
    """Compare the users with the target's; refuse to write into tables that hold rows, unless an annotation allows it."""
    if mode := _users(context):
        held = accounts.Held.of(state.held)
        state.plan = account_plan.plan(cast(Database, state.database), state.users, held, update=mode == "update")
    if context.resource.annotations.get(names.ALLOW_NON_EMPTY_ANNOTATION) == "true":
        context.log(f"{names.ALLOW_NON_EMPTY_ANNOTATION} is set: tables that hold rows are not looked for")
        return
    filled = _filled(cast(Database, state.database), sorted(state.tables))
    if filled:
        shown = first_named([f"{schema}.{table}" for schema, table in filled])
        raise PermanentError(
            f"{state.access.host} already holds rows in {shown}; nothing was imported",
            reason="TargetNotEmpty",
            hint=f'Drop these tables, import elsewhere, or set the annotation {names.ALLOW_NON_EMPTY_ANNOTATION}: "true".',
        )


def before(context: Context, state: Import) -> None:
    """Placement policies and sequences: tables need them."""
    schema_objects.before_load(cast(Database, state.database), state.objects, context.log)


def after(_context: Context, state: Import) -> None:
    """Views: they need the tables."""
    state.views_kept = schema_objects.after_load(cast(Database, state.database), state.objects)


def users(context: Context, state: Import) -> None:
    """Users, roles and grants: they need the tables and views that they are about."""
    todo = cast(account_plan.Plan, state.plan)
    for line in todo.kept:
        context.log(f"user {line}; it stays as it is")
    account_plan.apply(cast(Database, state.database), todo)


def load(context: Context, state: Import) -> None:
    """Run lightning; it must end with 0 and say that it succeeded."""
    reading = cast(ToolStorage, state.reading)
    work = lightning.Import(
        source=reading.url,
        access=state.access,
        backend=state.backend,
        pd_addr=state.pd_addr,
        filters=_filters(context),
        sorted_kv_dir=context.scratch / "sorted-kv" if state.backend == "local" else None,
    )
    config = private_files.write(context.scratch / "lightning.toml", lightning.toml(work))

    def hear(_stream: process.Stream, line: str) -> None:
        before = state.heard.progress
        state.heard.line(line)
        if (told := state.heard.progress) is not None and told is not before:
            context.journal.step(TOOL_STEP, min(told.percent, 99.0), eta=_eta(context.now(), told.remaining))

    ended = process.run(
        lightning.argv(state.binary, config),
        env={**context.env, **reading.env},
        stop=context.stop,
        mask=context.mask,
        log=context.log,
        on_line=hear,
        select=state.heard.select,
        cwd=context.scratch,
    )
    if ended.code != 0 or not state.heard.success:
        raise failure(lightning.NAME, ended, reason=REASON, mask=context.mask)


def compare(_context: Context, state: Import) -> None:
    """The target lists what was imported, and lightning loaded the rows that the record tells. Raises PermanentError."""
    target_content.require(cast(Database, state.database), state.wanted)
    expected = _rows_recorded(state)
    if state.backend == "tidb" and expected is not None and state.heard.rows < expected:
        raise PermanentError(
            f"lightning loaded {state.heard.rows} rows, while the export holds {expected}",
            reason="RestoreIncomplete",
            hint="A file of the dump is damaged. Import another export; drop what came back first.",
        )


PREPARE: Final = Step(name="Prepare", work=prepare)
LOOK: Final = Step(name="Look", work=look)
UNPACK: Final = Step(name="Unpack", work=unpack)
CHECK: Final = Step(name="Check", work=check)
BEFORE: Final = Step(name="Sequences", work=before)
LOAD: Final = Step(name=TOOL_STEP, work=load)
COMPARE: Final = Step(name="Compare", work=compare)
AFTER: Final = Step(name="Views", work=after)
USERS: Final = Step(name="Users", work=users)


def _source(context: Context) -> Source:
    """``--backupPath``, else ``path`` of the storage, else its prefix."""
    spec = context.resource.spec
    provider = paths.provider_of(spec)
    storage: Mapping[str, Any] = (spec.get(provider) or {}) if provider else {}
    told = str(context.flags.get("backupPath") or storage.get("path") or "")
    try:
        if not told:
            return Source(folder=paths.location_of(spec))
        if "://" not in told and provider:
            told = f"{provider.value}://{told}"
        mount = str((storage.get("volumeMount") or {}).get("mountPath") or "")
        location = paths.Location.parse(told, mount_path=mount)
    except paths.PathError as error:
        raise UsageError(str(error), hint="Correct the storage in the spec, or --backupPath.") from None
    if not location.prefix.endswith(archive.SUFFIXES):
        return Source(folder=location)
    parent, _, name = location.prefix.rpartition("/")
    return Source(folder=paths.Location(provider=location.provider, bucket=location.bucket, prefix=parent), archive=name)


def _backend(annotations: Mapping[str, str]) -> tuple[lightning.Backend, str]:
    backend = annotations.get(names.LIGHTNING_BACKEND_ANNOTATION) or "tidb"
    pd_addr = annotations.get(names.PD_ADDR_ANNOTATION) or ""
    if backend == "tidb":
        return "tidb", pd_addr
    if backend != "local":
        raise UsageError(f"{names.LIGHTNING_BACKEND_ANNOTATION} {backend!r} is unknown", hint="Use tidb or local.")
    if not pd_addr:
        raise UsageError(
            f"the backend local needs the annotation {names.PD_ADDR_ANNOTATION}", hint="Set it like basic-pd.tidb:2379."
        )
    return "local", pd_addr


def _filters(context: Context) -> Sequence[str]:
    return [str(rule) for rule in context.resource.spec.get("tableFilter") or ()]


def _understand(
    context: Context, state: Import, metadata: bytes, files: Sequence[tuple[str, int]], read: Callable[[str], bytes]
) -> None:
    """What the dump holds, and whether what the spec names is in it. Raises PermanentError."""
    keys, where = [key for key, _ in files], state.source.archive or state.storage.location.url
    state.objects = schema_objects.of_dump(keys, read, where)
    if _users(context):
        content = state.record.content if state.record else None
        state.users = accounts.of_dump(keys, read, where, recorded=content.users if content else None)
    state.commit_ts = dumpling.metadata(metadata.decode("utf-8", "replace")).commit_ts
    if not any(dumpling.is_dump_file(key) for key, _ in files):
        raise PermanentError("the dump holds no table", reason="SourceEmpty", hint="Check what the export's filter selected.")
    asked, items = Asked(rules=_filters(context)), [*dumpling.items(files), *state.objects.items()]
    state.unmatched = judge(asked, items, reason="NothingRestored", verb="imported", where="the dump")
    state.wanted = [item for item in asked.select(items) if item.kind in {Kind.SCHEMA, Kind.TABLE}]
    state.objects = state.objects.selected(_filters(context))
    state.held = {(item.schema, item.name) for item in (*state.wanted, *state.objects.items())}
    state.tables = frozenset((item.schema, item.name) for item in state.wanted if item.kind is Kind.TABLE)


def _refuse_damaged(context: Context, state: Import, listed: Sequence[ObjectInfo]) -> None:
    """What the record knows of the files to import against the listing, before anything is written to the target. An export of
    a release that kept no list is not known to be whole. Raises PermanentError."""
    if state.record is None or not state.record.objects:
        context.log("whether files of the dump are missing is not known: no list of objects was kept")
        return
    found = {info.key: info.size for info in listed}
    kept = state.records.objects(state.record)
    for key, (size, _) in sorted(kept.items()):
        if found.get(key) == size or not _needed(context, key) or not _selected(context, key):
            continue
        table = dumpling.table_of(key)
        of = f" of table {table}" if table else ""
        now = f"has {found[key]} bytes, {size} when it was written" if key in found else "is gone"
        raise PermanentError(
            f"{key}{of} {now}; nothing was imported",
            reason="SourceDamaged",
            hint="Import another export; an older version of the object in a versioned bucket may bring this one back.",
        )


def _needed(context: Context, key: str) -> bool:
    return dumpling.is_dump_file(key) or key == schema_objects.KEY or (key == accounts.KEY and bool(_users(context)))


def _users(context: Context) -> str:
    return str(context.resource.spec.get("users") or "")


def _selected(context: Context, key: str) -> bool:
    place = next(iter(dumpling.tables([key])), None)
    return place is None or selects(_filters(context), *place)


def _rows_recorded(state: Import) -> int | None:
    """Rows of the tables to import, as dumpling told them; None when it did not."""
    items = (state.records.items(state.record) if state.record else None) or []
    known = {(item.schema, item.name): item.rows for item in items}
    numbers = [known.get(table) for table in state.tables]
    return None if None in numbers else sum(number or 0 for number in numbers)


def _filled(database: Database, tables: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of *tables* that exist and hold at least one row."""
    wanted = {(schema.lower(), table.lower()): (schema, table) for schema, table in tables}
    rows = database.rows("select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE'")
    present = [(str(schema), str(table)) for schema, table in rows if (str(schema).lower(), str(table).lower()) in wanted]
    return [place for place in sorted(present) if database.rows(f"select 1 from {schema_objects.quoted(*place)} limit 1")]  # noqa: S608  (quoted)


def _eta(now: datetime, remaining: str) -> datetime | None:
    try:
        return now + durations.parse(remaining)
    except durations.DurationError:
        return None


def _no_dump(storage: Storage, error: NotFoundError) -> PermanentError:
    """Nothing to import there; when dumps lie one level down, they are named."""
    if error.problem().reason == "BucketNotFound":
        return error
    folders = {item.key.split("/")[0] for item in storage.list() if item.key.count("/") == 1 and item.key.endswith("/metadata")}
    near = f" Exports found inside it: {', '.join(sorted(folders)[:NAMED])}." if folders else ""
    return PermanentError(
        f"{storage.location.url} holds no export: {error.message}",
        reason="SourceNotFound",
        hint=f"Give the export's own folder (status.backupPath of its Backup).{near}",
    )
