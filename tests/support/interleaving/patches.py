"""The real code, with its ways out led into a :class:`~.world.World`: storage, database, tools, clocks."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, Final

import pytest

from backup_manager.cleaning import cleaner
from backup_manager.cleaning.cleaner import Cleaner
from backup_manager.locking import lock
from backup_manager.operations import br_backup, br_restore, clean, export, import_
from backup_manager.storage.retry import conditional_put, delete_all, with_retries
from backup_manager.storage.tool_urls import ToolStorage
from backup_manager.tidb import gc_life_time, target_lock
from backup_manager.tools import br_runner, dumpling_watch, process
from backup_manager.tools.process import ProcessResult
from crds.contract.paths import Location, location_of
from tests.support.interleaving.locking import FakeRenewal
from tests.support.interleaving.plan import Wanted
from tests.support.interleaving.scheduler import Scheduler
from tests.support.interleaving.target import FakeDatabase, FakePd
from tests.support.interleaving.world import World

_WORLD: Final[list[World]] = []
_ROOT: Final[list[Path]] = []


class InlineExecutor:
    """Does what it is given at once, in the same thread: who runs is the scheduler's to say."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001  (handed on as an executor does)
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass


def new_world(scheduler: Scheduler, wanted: tuple[Wanted, ...]) -> World:
    """A world in which the real code works from now on."""
    assert _ROOT, "only inside real_code()"
    _WORLD[:] = [
        World(scheduler, wanted, Path(mkdtemp(dir=_ROOT[0])) if any("restore" in w.kind for w in wanted) else _ROOT[0])
    ]
    random.seed(0)
    return _WORLD[0]


def _world() -> World:
    return _WORLD[0]


def _open_storage(spec: Any, *, location: Location | None = None, env: Any = None) -> Any:
    return _world().storage(location or location_of(spec))


def _tool_storage(_spec: Any, location: Location, **_: Any) -> ToolStorage:
    return ToolStorage(url=location.url)


def _clock() -> float:
    return _world().scheduler.clock


def _sleep(seconds: float) -> None:
    _world().scheduler.wait(seconds)


def _run_tool(argv: Sequence[str], **rest: Any) -> ProcessResult:
    return _world().tools.run(argv, **rest)


@contextmanager
def real_code() -> Iterator[pytest.MonkeyPatch]:
    """Lead the real code into the world of :func:`new_world`, until the end of the body."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="interleaving-") as root:
        patch.setattr(sys.modules[__name__], "_ROOT", [Path(root)])
        for module in (br_backup, clean, export, import_, br_restore):
            patch.setattr(module, "open_storage", _open_storage, raising=False)
            for name in ("for_br", "for_dumpling", "for_lightning"):
                if hasattr(module, name):
                    patch.setattr(module, name, _tool_storage)
            if hasattr(module, "connect"):
                patch.setattr(module, "connect", lambda _context, access: FakeDatabase(_world().targets, access))
        patch.setattr(process, "run", _run_tool)
        patch.setattr(process, "find_tool", lambda name, *_: name)
        patch.setattr(process, "free_port", lambda: 1)
        patch.setattr(br_runner, "find", lambda _context: "br")
        patch.setattr(dumpling_watch, "watch", lambda *_, **__: nullcontext())
        patch.setattr(gc_life_time, "raised", lambda *_: nullcontext())
        patch.setattr(lock, "_Renewal", lambda **rest: FakeRenewal(_world().scheduler, **rest))
        patch.setattr(target_lock, "Pd", lambda cluster: FakePd(_world().targets, cluster))
        patch.setattr(cleaner, "ThreadPoolExecutor", InlineExecutor)
        for function in (with_retries, conditional_put, delete_all):
            patch.setitem(_defaults(function), "sleep", _sleep)
        patch.setitem(_defaults(Cleaner.__init__), "clock", _clock)
        patch.setitem(_defaults(lock.Lock.__init__), "clock", _clock)
        yield patch


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    defaults = function.__kwdefaults__
    assert defaults is not None
    return defaults
