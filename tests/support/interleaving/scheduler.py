"""Processes of which exactly one runs at a time, in virtual time.

A process is a thread that works only while it holds the baton. Before each call (:meth:`Scheduler.call`) and in each wait the
scheduler may pass the baton on. Threads are pooled: a history takes milliseconds, a new thread a tenth of one.

A process that is killed raises :class:`Killed` at its next call and at every later one, so that no ``finally`` of it has an
effect any more, as after SIGKILL.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from backup_manager.errors import ManagerError, TransientError, UnreachableError
from backup_manager.signals import StopSignal

T = TypeVar("T")
STEP_LIMIT: Final = 60_000
"""A history that takes more steps does not end by itself."""


class Killed(BaseException):
    """The process is gone: no handler of ours catches this."""


class Broken(Exception):
    """Something that must hold does not."""


class State(StrEnum):
    """What a process does."""

    READY = "ready"
    WAITING = "waiting"
    FROZEN = "frozen"
    ENDED = "ended"


class _Worker:
    """A pooled thread."""

    def __init__(self, idle: list["_Worker"]) -> None:
        self.baton = threading.Lock()
        self.baton.acquire()
        self.work: Callable[[], Callable[[], None]] | None = None
        self._idle = idle
        threading.Thread(target=self._loop, name="process", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.baton.acquire()
            assert self.work is not None
            pass_on = self.work()
            self.work = None
            self._idle.append(self)
            pass_on()


_IDLE: Final[list[_Worker]] = []


@dataclass(slots=True, eq=False)
class Process:
    """One process. *asks* is the call it is about to make; *outage* counts further calls of it that the other side refuses;
    *late*: its call fails, and takes effect some time later; *stop_after* so many calls it is told to stop; *renewals* are of
    the locks that it holds."""

    name: str
    work: Callable[[], None]
    stop: "VirtualStop"
    state: State = State.READY
    until: float = 0.0
    doomed: bool = False
    outage: int = 0
    stop_after: int = -1
    late: bool = False
    renewals: list[Any] = field(default_factory=list)
    frozen_at: float = 0.0
    asks: str = ""
    error: BaseException | None = None
    worker: _Worker | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.state is not State.ENDED


class VirtualStop(StopSignal):
    """Waits take no real time."""

    def __init__(self, scheduler: "Scheduler") -> None:
        super().__init__(clock=lambda: scheduler.clock)
        self._scheduler = scheduler

    def monotonic(self) -> float:
        """Virtual time."""
        return self._scheduler.clock

    def wait(self, seconds: float) -> None:
        """Let virtual time pass."""
        if not self.requested:
            self._scheduler.wait(seconds)
        self.check()


class Decider:
    """What a plan has to say. The default lets everybody go on."""

    def before(self, scheduler: "Scheduler", process: Process, text: str) -> bool | None:
        """Called before a call. True: it fails after it took effect; False: it fails before; None: nothing of it."""
        return None

    def idle(self, scheduler: "Scheduler") -> bool:
        """Nobody is ready; whether something was done that may have changed this."""
        return False


@dataclass(slots=True, eq=False)
class Scheduler:
    """The one who decides who runs."""

    decider: Decider
    ended: Callable[[Process], None] = lambda _process: None
    thawed: Callable[[Process, float], None] = lambda _process, _seconds: None
    clock: float = 0.0
    steps: int = 0
    next_step: int = 0
    processes: list[Process] = field(default_factory=list)
    current: Process | None = None
    trace: list[str] | None = None
    broken: str = ""
    aborting: bool = False
    manual: bool = False
    _delayed: list[tuple[int, str, Callable[[], object]]] = field(default_factory=list)
    _main: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._main.acquire()

    def spawn(self, name: str, work: Callable[[], None]) -> Process:
        """A new process, ready to run."""
        process = Process(name=name, work=work, stop=VirtualStop(self))
        self.processes.append(process)
        return process

    def say(self, text: str) -> None:
        """Add to the trace, when one is kept."""
        if self.trace is not None:
            self.trace.append(text)

    # What the processes call.

    def call(self, text: str, do: Callable[[], T], *, error: type[TransientError] = UnreachableError) -> T:
        """Make one call, whose effect is *do*, when it is this process's turn and nothing goes wrong."""
        me = self.current
        assert me is not None
        if me.doomed:
            raise Killed
        self.steps += 1
        fails: bool | None = None
        if self.manual or self.steps >= self.next_step:
            me.asks = text
            fails = self._decide(me, text)
        if me.stop_after >= 0:
            me.stop_after -= 1
            if me.stop_after < 0:
                self.say(f"{me.name} is told to stop")
                me.stop.request()
        if fails is None and me.outage:
            me.outage -= 1
            fails = False
        if me.late:
            self._delay(me, text, do)
        if fails is False:
            self.say(f"{me.name} {text}: 503, without effect")
            raise error("503 Service Unavailable", reason="StorageUnreachable")
        if self._delayed:
            self._deliver()
        if self.trace is not None:
            self.trace.append(f"{me.name} {text}{': takes effect, the answer is lost' if fails else ''}")
        result = do()
        if self.broken:
            self._to_main(me)
        if fails:
            raise error("no answer in time", reason="StorageUnreachable")
        return result

    def _delay(self, me: Process, text: str, do: Callable[[], object]) -> None:
        """The request is under way for longer than its sender waits. Only conditional writes are delayed: nobody can call back
        another one, and docs/adr/0001-path-ownership.md does not promise it."""
        me.late = False
        if " if " in text:
            self._delayed.append((self.steps + 1 + len(text) % 40, f"late: {me.name} {text}", do))

    def _deliver(self) -> None:
        for due in [item for item in self._delayed if item[0] <= self.steps]:
            self._delayed.remove(due)
            self.say(due[1])
            with suppress(ManagerError):
                due[2]()

    def wait(self, seconds: float) -> None:
        """Let virtual time pass for the running process."""
        me = self.current
        assert me is not None
        if me.doomed:
            raise Killed
        self.steps += 1
        if self.manual:
            me.asks = f"waits {seconds:g} s"
            self._decide(me, me.asks)
            self.clock += seconds
            return
        if self.steps > STEP_LIMIT:
            self.fail(f"no end after {STEP_LIMIT} steps")
        if self.steps >= self.next_step:
            self._decide(me, f"waits {seconds:g} s")
        if not me.stop.requested:
            me.state, me.until = State.WAITING, self.clock + seconds
            self.yield_from(me)

    def _decide(self, me: Process, text: str) -> bool | None:
        fails = self.decider.before(self, me, text)
        if self.broken:
            self._to_main(me)
        if me.doomed:
            raise Killed
        return fails

    def fail(self, text: str) -> None:
        """Note that something that must hold does not; the history ends at the call that did it."""
        if not self.broken:
            self.broken = text
            self.say(f"BROKEN: {text}")

    # Passing the baton.

    def go_to(self, other: Process) -> None:
        """The running process gives the baton to *other* and goes on when it gets it back."""
        me = self.current
        assert me is not None
        if other is not me:
            self._hand(other)
            assert me.worker is not None
            me.worker.baton.acquire()

    def yield_from(self, me: Process) -> None:
        """*me* cannot go on: somebody else does, until it is its turn again."""
        other = self.pick()
        if other is None:
            self.fail(f"{me.name} can never go on")
            self._to_main(me)
            return
        self.go_to(other)
        if me.doomed:
            raise Killed

    def pick(self) -> Process | None:
        """Who runs next by itself: the first that is ready, else who is first to wake; None when all have ended."""
        while True:
            for process in self.processes:
                if process.state is State.READY:
                    return process
            if self.decider.idle(self):
                continue
            sleeping = [p for p in self.processes if p.state in {State.WAITING, State.FROZEN}]
            if not sleeping:
                return None
            first = min(sleeping, key=lambda process: process.until)
            self.clock = max(self.clock, first.until)
            self.wake(first)

    def wake(self, process: Process) -> None:
        """It is ready again."""
        if process.state is State.FROZEN:
            frozen = self.clock - process.frozen_at
            self.say(f"{process.name} thaws after {frozen:g} s")
            self.thawed(process, frozen)
        process.state = State.READY

    def interrupt(self, process: Process) -> None:
        """SIGTERM."""
        process.stop.request()
        if process.state is State.WAITING:
            process.state = State.READY

    def kill(self, process: Process) -> None:
        """SIGKILL: it has ended for everybody else at once; its thread unwinds at its next call."""
        if process.alive:
            process.doomed = True
            process.state = State.ENDED
            self.ended(process)

    def _hand(self, other: Process) -> None:
        self.current = other
        if other.worker is None:
            other.worker = _IDLE.pop() if _IDLE else _Worker(_IDLE)
            other.worker.work = lambda: self._body(other)
        other.worker.baton.release()

    def _body(self, process: Process) -> Callable[[], None]:
        """All that *process* does; what is returned passes the baton on."""
        try:
            process.work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  (a defect of the harness, or of the code: told by the main thread)
            process.error = error
            self.fail(f"{process.name} ended with {type(error).__name__}: {error}")
        process.worker = None
        if process.alive:
            process.state = State.ENDED
            if not self.aborting:
                self.ended(process)
        following = None if self.aborting or self.broken or self.manual else self.pick()
        if following is None:
            return self._main.release
        return lambda: self._hand(following)

    def _to_main(self, me: Process) -> None:
        assert me.worker is not None
        baton = me.worker.baton
        self._main.release()
        baton.acquire()
        if me.doomed:
            raise Killed

    # What the main thread calls.

    def run(self) -> None:
        """Run until all have ended. Raises Broken."""
        first = self.pick()
        if first is not None:
            self._hand(first)
            self._main.acquire()
        self.close()
        if self.broken:
            raise Broken(self.broken)

    def step_into(self, process: Process) -> None:
        """Give the baton to *process* until it comes back."""
        self._hand(process)
        self._main.acquire()

    def park(self, me: Process) -> None:
        """Give the baton back to the main thread, until it comes again."""
        self._to_main(me)

    def close(self) -> None:
        """End every thread that is still in a process."""
        self.aborting = True
        for process in self.processes:
            process.doomed = True
            if process.worker is not None:
                process.state = State.ENDED
                self.step_into(process)
