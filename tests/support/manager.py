"""What unit tests of the manager share: a context on a local folder, a reporter that remembers, a database in memory."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup_manager.context import Context
from backup_manager.errors import ManagerError
from backup_manager.kubernetes.resource import Resource
from backup_manager.masking import Masker, secrets_of
from backup_manager.reporting.journal import Journal
from backup_manager.signals import StopSignal
from backup_manager.tidb import gc_life_time
from backup_manager.tidb.connection import Access
from crds.contract.report import Report

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UID = "0f5e9c1a-7777-4444-8888-000000000001"


@dataclass
class RememberingReporter:
    """Keeps every report."""

    offered: list[Report] = field(default_factory=list)
    stored: list[Report] = field(default_factory=list)

    def offer(self, report: Report) -> None:
        self.offered.append(report)

    def store(self, report: Report) -> None:
        self.stored.append(report)

    def close(self) -> None:
        pass


@dataclass
class World:
    """A context and what one may ask it afterwards."""

    context: Context
    reporter: RememberingReporter
    lines: list[str]

    @property
    def report(self) -> Report:
        return self.context.journal.report


def world(
    tmp_path: Path,
    spec: Mapping[str, Any],
    *,
    kind: str = "Backup",
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    uid: str = UID,
    stop: StopSignal | None = None,
) -> World:
    """A context for *spec*; its log lines and reports are kept."""
    reporter, lines = RememberingReporter(), list[str]()
    mask = Masker(secrets_of(env or {}, spec))
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    context = Context(
        resource=Resource(kind=kind, namespace="ns", name="cr", uid=uid, spec=spec, annotations=annotations or {}),
        journal=Journal(reporter, masker=mask, clock=lambda: NOW),
        scratch=scratch,
        stop=stop or StopSignal(),
        env=env or {},
        flags=flags or {},
        mask=mask,
        log=lambda line: lines.append(mask(line)),
        now=lambda: NOW,
    )
    return World(context=context, reporter=reporter, lines=lines)


def local_storage(tmp_path: Path, prefix: str = "backups") -> dict[str, Any]:
    """``spec.local`` on a folder of the test."""
    mount = tmp_path / "volume"
    mount.mkdir(exist_ok=True)
    return {"prefix": prefix, "volumeMount": {"name": "v", "mountPath": str(mount)}, "volume": {"name": "v"}}


@dataclass
class FakeDatabase:
    """``mysql.tidb`` and the answers to a few queries, in memory. *failures* are raised by the next sessions, one each."""

    rows_of_tidb: dict[str, tuple[str, str]] = field(default_factory=lambda: {gc_life_time.VARIABLE: ("10m0s", "")})
    schemas: Sequence[str] = ("shop", "test", "mysql", "INFORMATION_SCHEMA")
    filled: Sequence[tuple[str, str]] = ()
    present: Sequence[tuple[str, str]] = (("shop", "o"),)
    """What the target lists after a restore."""
    objects: Sequence[tuple[str, str, str]] = ()
    """Views and sequences: schema, name, type."""
    shown: Mapping[str, Sequence[tuple[Any, ...]]] = field(default_factory=dict)
    """Answers to statements by how they begin."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows of a table, by its name in a statement."""
    connections: int = 0
    executed: list[str] = field(default_factory=list)
    """Statements about users, with their parameters in them."""
    refused: Mapping[str, ManagerError] = field(default_factory=dict)
    """What such statements are refused with, by how they begin."""
    schema_version: int = 64
    pd: Sequence[str] = ()
    failures: list[ManagerError | None] = field(default_factory=list)
    access: Access = field(default_factory=lambda: Access(host="db"))
    history: list[str] = field(default_factory=list)
    mutex: threading.Lock = field(default_factory=threading.Lock)
    milliseconds: int = 1_767_323_045_000
    """PD's time."""

    @property
    def holders(self) -> list[str]:
        """Uids of the CRs whose runs note that they need the raised life time."""
        start = gc_life_time.HOLDER
        return sorted(name.removeprefix(start) for name in self.rows_of_tidb if name.startswith(start))

    @property
    def life_time(self) -> str:
        return self.rows_of_tidb[gc_life_time.VARIABLE][0]

    @property
    def marker(self) -> tuple[str, str] | None:
        return self.rows_of_tidb.get(gc_life_time.MARKER)

    @contextmanager
    def session(self, *, seconds: int = 1) -> Iterator["_Cursor"]:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        with self.mutex:
            cursor = _Cursor(dict(self.rows_of_tidb), now=self.milliseconds, ask=self._of_users)
            yield cursor
            life_time = cursor.rows.get(gc_life_time.VARIABLE)
            if life_time and life_time != self.rows_of_tidb.get(gc_life_time.VARIABLE):
                self.history.append(life_time[0])
            self.rows_of_tidb = cursor.rows

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        if (answer := self._of_objects(statement)) is not None:
            return answer
        if "information_schema.schemata" in statement:
            return [(name,) for name in self.schemas]
        if "information_schema.tables" in statement:
            return list(self.filled if "table_type" in statement else self.present)
        if "cluster_info" in statement:
            return [(address,) for address in self.pd]
        return [(1,)]

    @contextmanager
    def connection(self) -> Iterator[Callable[..., Sequence[tuple[Any, ...]]]]:
        self.connections += 1
        yield self.ask

    def ask(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """What :meth:`connection` yields."""
        answer = self._of_users(statement, parameters)
        return self.rows(statement, parameters) if answer is None else answer

    def _of_users(self, statement: str, parameters: Sequence[str]) -> Sequence[tuple[Any, ...]] | None:
        """Answers to ``tidb.accounts`` and ``tidb.account_plan``; None for any other statement."""
        text = statement % tuple(f"'{one}'" for one in parameters) if parameters and "@%s" in statement else statement
        known = any(word in text for word in _OF_USERS)
        if not known:
            return None
        self.executed.append(text)
        if (failure := next((told for start, told in self.refused.items() if text.startswith(start)), None)) is not None:
            raise failure
        default = [(self.schema_version,)] if text == "admin show ddl" else []
        return next((answer for start, answer in self.shown.items() if text.startswith(start)), default)

    def _of_objects(self, statement: str) -> Sequence[tuple[Any, ...]] | None:
        """Answers to :mod:`backup_manager.tidb.schema_objects`; None for any other statement."""
        if "count(*)" in statement:
            return [(self.counts.get(statement.split()[3], 0),)]
        if "table_type = 'VIEW'" in statement:
            return [(schema, name) for schema, name, kind in self.objects if kind == "VIEW"]
        if "'VIEW', 'SEQUENCE'" in statement:
            return list(self.objects)
        if "information_schema.placement_policies" in statement:
            return []
        return next((answer for start, answer in self.shown.items() if statement.startswith(start)), None)


_OF_USERS = (
    "set sql_mode", "set tidb_snapshot", "admin show ddl", "show create user", "show grants", "show columns from mysql.user",
    "mysql.user", "mysql.db", "mysql.tables_priv", "mysql.columns_priv", "mysql.global_", "mysql.role_edges",
    "mysql.default_roles", "CREATE USER", "ALTER USER", "GRANT ", "SET DEFAULT ROLE",
)  # fmt: skip


@dataclass
class _Cursor:
    """Understands the statements of ``tidb.gc_life_time`` and ``tidb.target_lock``, and what *ask*
    answers."""

    rows: dict[str, tuple[str, str]]
    ask: Callable[[str, Sequence[str]], Sequence[tuple[Any, ...]] | None] = lambda _statement, _parameters: None
    now: int = 0
    answer: tuple[object, ...] | None = None
    found: list[tuple[object, ...]] = field(default_factory=list)
    before: dict[str, tuple[str, str]] = field(default_factory=dict)

    def execute(self, statement: str, parameters: Sequence[str] | None = ()) -> None:
        parameters = parameters or ()
        if (answer := self.ask(statement, parameters)) is not None:
            self.found = list(answer)
            return
        verb = statement.split(maxsplit=1)[0]
        if verb == "begin":
            self.before = dict(self.rows)
        elif verb == "rollback":
            self.rows = dict(self.before)
        elif "tidb_current_ts" in statement:
            self.answer = (str(self.now << 18),)
        elif verb == "select" and len(parameters) == 2:
            first, last = parameters
            self.found = [(name, *row) for name, row in sorted(self.rows.items()) if first < name < last]
        elif verb == "select":
            self.answer = self.rows.get(parameters[0])
        elif verb == "update":
            value, name = parameters
            self.rows[name] = (value, self.rows[name][1])
        elif verb == "replace":
            name, value, comment = parameters
            self.rows[name] = (value, comment)
        elif verb == "delete":
            self.rows.pop(parameters[0], None)
        else:
            raise AssertionError(f"unexpected statement {statement}")

    def fetchone(self) -> tuple[object, ...] | None:
        return self.answer

    def fetchall(self) -> list[tuple[object, ...]]:
        return self.found
