"""Every lock of the manager, in histories: who is next, who crashes, freezes and thaws, and which write is lost.

Runs are driven one call at a time. The clock of each one has an offset of its own, and stands still while it is frozen.
"""

from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from backup_manager.errors import ManagerError, TransientError
from backup_manager.locking.lock import Entry, Lock, LockLostError, Note, Pace

PACE = Pace()
RUNS = 4


@dataclass
class Memory:
    """A place with conditional writes; *fault* is what the next call meets."""

    entry: Entry | None = None
    writes: int = 0
    fault: str = ""
    shown: str = "memory"

    def look(self) -> Entry | None:
        self._fail("look")
        return self.entry

    def write(self, note: Note, version: str | None) -> Entry | None:
        self._fail("before")
        if (self.entry.version if self.entry else None) != version:
            return None
        self.writes += 1
        written = Entry(version=str(self.writes), note=note)
        self.entry = written if note.holder else None
        self._fail("after")
        return written

    def _fail(self, when: str) -> None:
        if self.fault == when:
            self.fault = ""
            raise TransientError("no answer")


@dataclass
class Process:
    """One run: a lock, and a tool that works while it is held. *dead_at* is when the tool has ended, in the world's time."""

    lock: Lock
    offset: float
    working: bool = False
    dead_at: float = 0.0
    frozen_since: float | None = None
    asleep: float = 0.0
    crashed: bool = False


@dataclass
class Cluster:
    """The world: its time, the place, the runs."""

    now: float = 1000.0
    place: Memory = field(default_factory=Memory)
    runs: list[Process] = field(default_factory=list)
    taken: int = 0

    def add(self, number: int) -> None:
        note = Note(holder=f"pod-{number}", owner=f"Restore ns/r{number}", owner_uid=f"uid-{number}")
        lock = Lock(place=self.place, we=note, pace=PACE, ended=lambda _pod: False)
        process = Process(lock=lock, offset=number * 7777.0)
        lock.clock = lambda: self.clock(process)
        self.runs.append(process)

    def clock(self, process: Process) -> float:
        frozen = self.now - process.frozen_since if process.frozen_since is not None else 0.0
        return self.now + process.offset - process.asleep - frozen

    def working(self) -> list[str]:
        """Runs whose tool may still be writing. A frozen one's tool is frozen with it (a paused node)."""
        return [p.lock.we.holder for p in self.runs if p.frozen_since is None and (p.working or p.dead_at > self.now)]

    def pass_time(self, seconds: float) -> None:
        """Time passes; whoever is awake is watched by its fence all the while."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            for process in self.runs:
                self.watch(process)

    def watch(self, process: Process) -> None:
        if process.working and process.frozen_since is None and self.clock(process) - process.lock.renewed_at >= PACE.fence:
            self.end_tool(process)

    def end_tool(self, process: Process) -> None:
        process.working, process.dead_at = False, self.now + PACE.grace

    def step(self, process: Process) -> None:
        """What the run would do next."""
        if process.crashed or process.frozen_since is not None:
            return
        try:
            if process.working:
                process.lock.renew()
            elif process.dead_at <= self.now and process.lock.try_acquire():
                self.taken += 1
                process.working = True
        except LockLostError:
            self.end_tool(process)
        except ManagerError:
            pass

    def finish(self, process: Process) -> None:
        """The tool ends by itself, and the lock is freed."""
        if not process.working or process.frozen_since is not None:
            return
        process.working = False
        with suppress(ManagerError):
            process.lock.release()

    def crash(self, process: Process) -> None:
        process.crashed, process.working = True, False

    def freeze(self, process: Process) -> None:
        if process.frozen_since is None and not process.crashed:
            process.frozen_since = self.now

    def thaw(self, process: Process) -> None:
        """The node goes on: its tool is ended by the fence at once when the lock was lost meanwhile."""
        if process.frozen_since is None:
            return
        process.asleep += self.now - process.frozen_since
        process.frozen_since = None


ACTION = st.one_of(
    st.tuples(st.just("step"), st.integers(0, RUNS - 1)),
    st.tuples(st.just("step"), st.integers(0, RUNS - 1)),
    st.tuples(st.just("time"), st.sampled_from([1, 4, 9, 15, 30, 61])),
    st.tuples(st.just("finish"), st.integers(0, RUNS - 1)),
    st.tuples(st.just("crash"), st.integers(0, RUNS - 1)),
    st.tuples(st.just("fault"), st.sampled_from([0, 1, 2])),
)
FAULTS = ("look", "before", "after")


def play(world: Cluster, action: tuple[str, int]) -> None:
    kind, number = action
    match kind:
        case "time":
            world.pass_time(number)
        case "fault":
            world.place.fault = FAULTS[number]
        case "step":
            world.step(world.runs[number])
        case "finish":
            world.finish(world.runs[number])
        case "crash":
            world.crash(world.runs[number])


@settings(max_examples=1000, deadline=None)
@given(st.lists(ACTION, max_size=60))
def test_two_tools_never_work_at_once_whatever_crashes_or_fails(actions: list[tuple[str, int]]) -> None:
    world = Cluster()
    for number in range(RUNS):
        world.add(number)
    for action in actions:
        play(world, action)
        assert len(world.working()) <= 1, world.working()


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTION, max_size=40))
def test_after_every_history_whoever_is_left_gets_its_turn(actions: list[tuple[str, int]]) -> None:
    world = Cluster()
    for number in range(RUNS + 1):
        world.add(number)
    for action in actions:
        play(world, action)
    world.place.fault = ""
    last = world.runs[RUNS]
    for process in world.runs[:RUNS]:
        world.crash(process)
    for _ in range(8):
        world.step(last)
        if last.lock.we.holder in world.working():
            return
        world.pass_time(31)
    raise AssertionError(f"nobody holds the lock: {world.place.entry}")


def test_a_run_that_thaws_after_somebody_took_over_is_stopped_at_its_first_look() -> None:
    world = Cluster()
    for number in range(2):
        world.add(number)
    first, second = world.runs
    world.step(first)
    world.freeze(first)
    world.step(second)
    assert [p.working for p in world.runs] == [True, False], "an entry counts for all of its duration"
    world.pass_time(61)
    world.step(second)
    world.thaw(first)
    world.step(first)
    assert [p.working for p in world.runs] == [False, True]
    world.step(second)
    assert [p.working for p in world.runs] == [False, True], "and takes nothing from the one that holds it"
