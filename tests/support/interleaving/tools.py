"""dumpling, br and lightning as far as a path and a target can see them: which calls they make, in which order.

Each object of data says in its bytes which snapshot it is of (:data:`SNAPSHOT`: CR and time). br follows the source of v8.5:
it refuses a path with a ``backupmeta``, leaves ``backup.lock``, goes on from its checkpoint with the checkpoint's time, and
guards that with a lock of five minutes, which it looks at every four.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from backup_manager.errors import ManagerError, NotFoundError
from backup_manager.masking import Masker
from backup_manager.signals import StopSignal
from backup_manager.tools import backupmeta
from backup_manager.tools.dumpling import SUCCESS as DUMPLING_SUCCESS
from backup_manager.tools.lightning import SUCCESS as LIGHTNING_SUCCESS
from backup_manager.tools.process import LineHandler, ProcessResult, Stream
from crds.contract.paths import Location
from tests.support.interleaving.scheduler import Process, Scheduler
from tests.support.interleaving.store import ScheduledStorage

SNAPSHOT: Final = re.compile(rb"@@snapshot (\w+@\d+)@@")
DUMP_FILES: Final = ("shop-schema-create.sql", "shop.t-schema.sql", "shop.t.000000000.sql", "shop.t.000000001.sql")
FILES: Final = re.compile(rb"@@files ([^@]*)@@")
"""What a ``backupmeta`` lists, in its bytes."""
SSTS: Final = 3
CHECKPOINTS: Final = "checkpoints/"
"""br's own notes, which it removes at its end: no part of a backup."""
_LOCK_SECONDS: Final = 300.0
_LOCK_LOOK: Final = 240.0
_LOCK: Final = "backup.lock"
_CHECKPOINT: Final = f"{CHECKPOINTS}backup/checkpoint.meta"
_CHECKPOINT_LOCK: Final = f"{CHECKPOINTS}backup/checkpoint.lock"


class _Failed(Exception):
    """The tool ends with 1 and says this."""


class Tools:
    """In place of :func:`backup_manager.tools.process.run`. *owner* names the CR that runs now, *load* takes what is loaded,
    *loaded* is told when a tool has ended, *is_readable* says whether a complete backup lies in a folder."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        storage: Callable[[Location], ScheduledStorage],
        owner: Callable[[], str],
        load: Callable[[str], None],
        loaded: Callable[[Process], None],
        is_readable: Callable[[Location], bool],
    ) -> None:
        self._scheduler = scheduler
        self._storage = storage
        self._owner = owner
        self._load = load
        self._loaded = loaded
        self._is_readable = is_readable
        self._time = 400_000

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stop: StopSignal,
        mask: Masker,
        log: Callable[[str], None],
        on_line: LineHandler = lambda _stream, _line: None,
        cwd: Path | None = None,
        **_rest: Any,
    ) -> ProcessResult:
        """Run the tool that *argv* names, in the process of its manager."""
        stop.check()
        work = {"dumpling": self._dumpling, "br": self._br, "tidb-lightning": self._lightning}[argv[0]]
        try:
            for line in work(argv, stop):
                on_line(Stream.OUT, line)
        except _Failed as error:
            return ProcessResult(code=1, stopped=stop.requested, out=(str(error),), err=(str(error),))
        except ManagerError as error:
            text = f"status code: 503 {error.message}"
            return ProcessResult(code=1, stopped=stop.requested, out=(text,), err=(text,))
        finally:
            assert self._scheduler.current is not None
            self._loaded(self._scheduler.current)
        return ProcessResult(code=0, stopped=stop.requested, out=(), err=())

    def _now(self) -> int:
        self._time += 1
        return self._time

    def _mark(self, time: int) -> bytes:
        return f"@@snapshot {self._owner()}@{time}@@".encode()

    def _write(self, storage: ScheduledStorage, stop: StopSignal, key: str, data: bytes) -> None:
        if stop.requested:
            raise _Failed("was ended by SIGTERM")
        storage.put(key, data)

    def _dumpling(self, argv: Sequence[str], stop: StopSignal) -> list[str]:
        output = next(word.partition("=")[2] for word in argv if word.startswith("--output="))
        storage, time = self._storage(Location.parse(output.partition("?")[0])), self._now()
        mark = self._mark(time)
        for name in DUMP_FILES:
            self._write(storage, stop, name, b"-- " + name.encode() + mark)
        text = f"Started dump at: x\nSHOW MASTER STATUS:\n\tLog: tidb-binlog\n\tPos: {time}\n\nFinished dump at: x\n"
        self._write(storage, stop, "metadata", text.encode() + mark)
        return [DUMPLING_SUCCESS]

    def _br(self, argv: Sequence[str], stop: StopSignal) -> list[str]:
        url = next(word.partition("=")[2] for word in argv if word.startswith("--storage="))
        storage = self._storage(Location.parse(url.partition("?")[0]))
        if argv[1] == "restore":
            return self._br_restore(storage, stop)
        checkpoints = "--use-checkpoint=false" not in argv
        if _exists(storage, backupmeta.NAME):
            raise _Failed(f"[BR:Common:ErrInvalidArgument] backup meta file exists in {url}")
        known = _document(storage, _CHECKPOINT)
        if known is None and _exists(storage, _LOCK) and any(item.key.endswith(".sst") for item in storage.list()):
            raise _Failed("[BR:Common:ErrInvalidArgument] backup lock file and sst file exist")
        self._write(storage, stop, _LOCK, b"DO NOT DELETE")
        time = int(known["ts"]) if known else self._now()
        lock = _CheckpointLock(self, storage, stop, self._now())
        files: list[str] = []
        if checkpoints:
            if known is None:
                self._write(storage, stop, _CHECKPOINT, json.dumps({"ts": time}).encode())
            else:
                files = [storage.read(item.key).decode() for item in list(storage.list()) if item.key.endswith(".cpt")]
            lock.take()
        for number in range(len(files), SSTS):
            lock.look()
            name = f"{number}_{lock.number}.sst"
            self._write(storage, stop, name, b"sst " + self._mark(time))
            files.append(name)
            if checkpoints:
                self._write(storage, stop, f"{CHECKPOINTS}backup/data/{number}.cpt", name.encode())
        self._write(storage, stop, backupmeta.NAME, _meta(time, self._mark(time) + f"@@files {','.join(files)}@@".encode()))
        if checkpoints:
            storage.delete([item.key for item in storage.list() if item.key.startswith(CHECKPOINTS)])
        return [f'["Full Backup success summary"] [BackupTS={time}]']

    def _br_restore(self, storage: ScheduledStorage, stop: StopSignal) -> list[str]:
        judged = self._is_readable(storage.location)
        for item in list(storage.list()):
            if stop.requested:
                raise _Failed("was ended by SIGTERM")
            if item.key.endswith(".sst"):
                self._read(storage, item.key, judged)
                self._scheduler.call(f"loads {item.key}", partial(self._load, item.key))
        return ['["Full Restore success summary"]']

    def _lightning(self, argv: Sequence[str], stop: StopSignal) -> list[str]:
        config = Path(argv[argv.index("--config") + 1]).read_text(encoding="utf-8")
        found = re.search(r'data-source-dir = "([^"?]+)', config)
        assert found is not None
        storage, snapshots = self._storage(Location.parse(found[1])), set()
        judged = self._is_readable(storage.location)
        for item in list(storage.list()):
            if stop.requested:
                raise _Failed("was ended by SIGTERM")
            data = self._read(storage, item.key, judged)
            snapshots |= set(SNAPSHOT.findall(data))
            if re.search(r"\d+\.sql$", item.key):
                self._scheduler.call(f"loads {item.key}", partial(self._load, item.key))
        if len(snapshots) != 1:
            raise _Failed(f"the dump holds {len(snapshots)} snapshots")
        return [LIGHTNING_SUCCESS]

    def _read(self, storage: ScheduledStorage, key: str, judged: bool) -> bytes:
        """Read what was listed. Of a complete backup (*judged*) nobody may delete anything while the reader keeps its mark."""
        try:
            return storage.read(key)
        except NotFoundError:
            current = self._scheduler.current
            assert current is not None
            if judged and not current.stop.requested and not any(renewal.why for renewal in current.renewals):
                self._scheduler.fail(f"{key} vanished from {storage.location.prefix} while {current.name} read it")
            raise

    @property
    def clock(self) -> float:
        """Virtual seconds."""
        return self._scheduler.clock

    def wait(self, seconds: float) -> None:
        """br's own sleeping."""
        self._scheduler.wait(seconds)


class _CheckpointLock:
    """br's lock on its checkpoint; *number* is its time of start and names what this br writes."""

    def __init__(self, tools: Tools, storage: ScheduledStorage, stop: StopSignal, number: int) -> None:
        self.number = number
        self._tools, self._storage, self._stop = tools, storage, stop
        self._looked: float | None = None

    def take(self) -> None:
        self._check()
        self._flush()
        self._tools.wait(3)
        self._check()

    def look(self) -> None:
        """What its ticker does."""
        if self._looked is not None and self._tools.clock - self._looked >= _LOCK_LOOK:
            self._check()
            self._flush()

    def _check(self) -> None:
        there = _document(self._storage, _CHECKPOINT_LOCK)
        if there is None:
            if self._looked is not None:
                raise _Failed("failed to update checkpoint lock: the file is gone")
            return
        left = there["expires"] - self._tools.clock
        if left <= 0 and there["id"] > self.number:
            raise _Failed("There are another BR running after but setting lock before this one")
        if left > 0 and there["id"] != self.number:
            raise _Failed(f"The existing lock will expire in {left:.0f} seconds. There may be another BR running")

    def _flush(self) -> None:
        self._looked = self._tools.clock
        document = {"id": self.number, "expires": self._tools.clock + _LOCK_SECONDS}
        self._tools._write(self._storage, self._stop, _CHECKPOINT_LOCK, json.dumps(document).encode())


def _meta(time: int, mark: bytes) -> bytes:
    """A ``backupmeta``: the end version, the size, and an unknown field with *mark*."""
    return b"".join(
        [_varint(6 << 3), _varint(time), _varint(25 << 3), _varint(5000), _varint(99 << 3 | 2), _varint(len(mark)), mark]
    )


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _exists(storage: ScheduledStorage, key: str) -> bool:
    try:
        storage.stat(key)
    except NotFoundError:
        return False
    return True


def _document(storage: ScheduledStorage, key: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(storage.read(key))
    except NotFoundError:
        return None
    return found
