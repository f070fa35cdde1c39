"""The clusters that Restores write into: TiDB's rows and PD's keys, each call a point of the scheduler.

A row of ``mysql.tidb`` is locked by reading it, so a transaction on it is one step; what may get lost is the answer of its
commit. A holder that runs renews its lock all the time: whoever looks finds a new version of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access, DatabaseUnreachableError
from tests.support.interleaving.scheduler import Process, Scheduler, State
from tests.support.manager import _Cursor


@dataclass(slots=True, eq=False)
class Target:
    """One TiDB cluster. *loaded* has the name of the CR and the file of each load that took effect, *loading* the processes
    whose tool loads now, with the names of their CRs."""

    name: str
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    keys: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    revision: int = 0
    loaded: list[tuple[str, str]] = field(default_factory=list)
    loading: dict[Process, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Targets:
    """All of them. *renews* says whether the holder with a Pod's uid is another process, which runs and so renews;
    *lost* is told of a holder whose entry was replaced by another's; *fail* takes what is wrong."""

    scheduler: Scheduler
    renews: Callable[[str], bool]
    lost: Callable[[str], None]
    fail: Callable[[str], None]
    by_name: dict[str, Target] = field(default_factory=dict)

    def find(self, text: str) -> Target:
        """The one that an address names."""
        name = "two" if "two" in text else "one"
        return self.by_name.setdefault(name, Target(name=name))

    def load(self, target: Target, process: Process, cr: str, what: str) -> None:
        """Load one file.

        What a tool had under way when it was told to stop may still take effect; it is not judged, as nobody can call it back.
        Attempts of one CR are not judged against each other: docs/adr/0002-restore-target.md names what remains there.
        """
        target.loaded.append((cr, what))
        target.loading[process] = cr
        if process.stop.requested:
            return
        for other, owner in target.loading.items():
            running = other.alive and other.state is not State.FROZEN and not other.stop.requested
            if owner != cr and running:
                self.fail(f"{process.name} loads {what} into {target.name} while {other.name} does so too")

    def end(self, process: Process) -> None:
        """The tool of a process has ended."""
        for target in self.by_name.values():
            target.loading.pop(process, None)


class FakeDatabase:
    """In place of :class:`backup_manager.tidb.connection.Database`."""

    def __init__(self, targets: Targets, access: Access) -> None:
        self.access = access
        self._targets = targets
        self._target = targets.find(access.host)

    @contextmanager
    def session(self, **_: Any) -> Iterator[_Cursor]:
        """One transaction, or one look."""
        call, name = self._targets.scheduler.call, self._target.name
        call(f"asks {name} for its rows", self._renew, error=DatabaseUnreachableError)
        cursor = _Cursor(dict(self._target.rows))
        yield cursor
        if cursor.rows != self._target.rows:
            for key, (holder, _text) in self._target.rows.items():
                if cursor.rows.get(key, ("",))[0] not in {holder, ""}:
                    self._targets.lost(holder)
            self._target.rows = cursor.rows
            call(f"has changed rows of {name}", lambda: None, error=DatabaseUnreachableError)

    @contextmanager
    def connection(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """Several queries."""
        yield self.rows

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query returns."""
        call = self._targets.scheduler.call
        return call(f"asks {self._target.name}", lambda: self._answer(statement), error=DatabaseUnreachableError)

    def _answer(self, statement: str) -> list[tuple[Any, ...]]:
        answers: dict[str, list[tuple[Any, ...]]] = {
            "select count(*)": [(0,)],
            "'VIEW'": [],
            "placement_policies": [],
            "schemata": [("shop",)],
            "information_schema.tables": [("shop", "t")],
            "cluster_info": [(f"{self._target.name}-pd:2379",)],
            "limit 1": [(1,)] if self._target.loaded else [],
        }
        return next((rows for words, rows in answers.items() if words in statement), [(1,)])

    def _renew(self) -> None:
        for name, (holder, text) in self._target.rows.items():
            if self._targets.renews(holder):
                self._target.revision += 1
                fresh = {**orjson.loads(text), "token": f"{self._target.revision}"}
                self._target.rows[name] = (holder, orjson.dumps(fresh).decode())


class FakePd:
    """In place of :class:`backup_manager.tidb.pd.Pd`."""

    def __init__(self, targets: Targets, cluster: Cluster) -> None:
        self.urls = [cluster.pd]
        self._targets = targets
        self._target = targets.find(cluster.pd)

    def value(self, key: str) -> tuple[bytes, int] | None:
        """The key, fresh when its holder runs."""

        def do() -> tuple[bytes, int] | None:
            found = self._target.keys.get(key)
            if found and self._targets.renews(_holder(found[0])):
                self._target.revision += 1
                self._target.keys[key] = (found[0], self._target.revision)
            return self._target.keys.get(key)

        return self._targets.scheduler.call(f"asks PD of {self._target.name}", do)

    def swap(self, key: str, value: bytes | None, revision: int) -> int:
        """A transaction of etcd."""

        def do() -> int:
            found = self._target.keys.get(key, (b"", 0))
            if found[1] != revision:
                return 0
            if value and found[0] and _holder(found[0]) != _holder(value):
                self._targets.lost(_holder(found[0]))
            self._target.revision += 1
            if value is None:
                self._target.keys.pop(key, None)
            else:
                self._target.keys[key] = (value, self._target.revision)
            return self._target.revision

        return self._targets.scheduler.call(f"{'writes' if value else 'frees'} the key in PD of {self._target.name}", do)


def _holder(value: bytes) -> str:
    return str(orjson.loads(value)["holder"])
