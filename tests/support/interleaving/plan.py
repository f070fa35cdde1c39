"""A history as data: what users do in order, and where it is interfered with.

Without interference each process runs until it ends or waits, and the user acts when nobody is ready. An interference
is due a number of calls after the one before it, which makes a plan short, easy to shorten, and readable once it has run.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from tests.support.interleaving.scheduler import Decider, Process, Scheduler, State

FREEZES: Final = (0.0, 0.0, 20.0, 150.0, 0.0, 20.0, 150.0, 400.0, 0.0, 20.0, 4000.0, 200_000.0)
"""Seconds that a process is frozen for; 0: until somebody passes the baton to it, or nobody else has anything to do."""
OUTAGES: Final = (1, 1, 2, 4, 9, 14)
"""Calls that fail in a row: one is repeated by the driver, many reach the operation."""
_NEVER: Final = 1 << 60


class Kind(StrEnum):
    """How a plan interferes with the process that is about to make a call."""

    SWITCH = "switch"
    USER = "user"
    CRASH = "crash"
    FREEZE = "freeze"
    LOSE = "lose"
    FORCE = "force"
    FORGET = "forget"
    FAIL = "fail"
    LOSE_ANSWER = "lose answer"
    DELAY = "delay"
    TERMINATE = "terminate"


class Surroundings(Protocol):
    """Those who act on processes from outside."""

    def act(self, act: "Act") -> None:
        """A user acts."""

    def force_delete(self, process: Process) -> None:
        """A user deletes the Pod of a process by force."""

    def forget_pods(self) -> None:
        """Kubernetes forgets the Pods that have ended."""


class Interference(NamedTuple):
    """One of them: at the first call that has *when* in it (``<process> <call>``), *gap* calls or more after the one before.
    *arg* says which process, how long or how often."""

    gap: int
    kind: Kind
    arg: int = 0
    when: str = ""

    def __str__(self) -> str:
        return f"+{self.gap} {self.kind} {self.arg}{f' at {self.when!r}' if self.when else ''}"


class Act(NamedTuple):
    """Something that a user does.

    *verb* is ``apply``, ``delete``, ``adopt`` (a CR of an earlier release with its data, which has no record) or ``confirm``
    (the clean of what another CR left at the same path). *cr* is the index of a CR in the plan. *at_once*: right after the act
    before it, without looking what comes of that.
    """

    verb: str
    cr: int
    at_once: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {chr(ord('A') + self.cr)}{' at once' if self.at_once else ''}"


class Wanted(NamedTuple):
    """A CR of the plan. *kind* is ``export``, ``br``, ``br-old`` (without checkpoints) or ``restore``; *path* its prefix,
    for a restore the index of the Backup it reads; *cluster* the TiDB it works on."""

    kind: str
    path: str
    policy: str = "Delete"
    cluster: str = "one"
    preflight: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole history. *turn*: after so many calls somebody else goes on; 0: only when one ends, waits, or by interference."""

    crs: tuple[Wanted, ...]
    acts: tuple[Act, ...]
    interferences: tuple[Interference, ...] = ()
    turn: int = 0

    def __str__(self) -> str:
        used = sorted({act.cr for act in self.acts})
        lines = [f"{chr(ord('A') + number)}: {' '.join(map(str, self.crs[number]))}" for number in used]
        lines.append("acts: " + ", ".join(map(str, self.acts)))
        lines.append("interferences: " + ", ".join(map(str, self.interferences)))
        if self.turn:
            lines.append(f"turn: {self.turn}")
        return "\n".join(lines)


@dataclass(slots=True, eq=False)
class Planned(Decider):
    """Carries a plan out."""

    plan: Plan
    _surroundings: Surroundings = field(init=False)
    _acts: int = 0
    _next: int = 0
    _due: int = 0
    _turn: int = 0

    def start(self, scheduler: Scheduler, surroundings: Surroundings) -> None:
        """Before the first step."""
        self._surroundings = surroundings
        self._turn = self.plan.turn or _NEVER
        self._plan_next(scheduler)

    def before(self, scheduler: Scheduler, process: Process, text: str) -> bool | None:
        fails: bool | None = None
        if scheduler.steps >= self._turn:
            self._turn = scheduler.steps + self.plan.turn
            scheduler.next_step = min(self._due, self._turn)
            self._take_turns(scheduler, process)
        while scheduler.steps >= self._due and process.alive and fails is None:
            what = self.plan.interferences[self._next]
            if what.when and what.when not in f"{process.name} {text}":
                break
            self._next += 1
            self._plan_next(scheduler)
            fails = self._interfere(scheduler, process, what)
        return fails

    def idle(self, scheduler: Scheduler) -> bool:
        if self._acts >= len(self.plan.acts):
            return False
        self._user()
        return True

    def _plan_next(self, scheduler: Scheduler) -> None:
        left = self._next < len(self.plan.interferences)
        self._due = scheduler.steps + self.plan.interferences[self._next].gap if left else _NEVER
        scheduler.next_step = min(self._due, self._turn)

    def _user(self) -> None:
        self._acts += 1
        self._surroundings.act(self.plan.acts[self._acts - 1])
        if self._acts < len(self.plan.acts) and self.plan.acts[self._acts].at_once:
            self._user()

    def _interfere(self, scheduler: Scheduler, process: Process, what: Interference) -> bool | None:
        if what.kind in {Kind.FAIL, Kind.LOSE_ANSWER}:
            process.outage = OUTAGES[what.arg % len(OUTAGES)] - 1
            return what.kind is Kind.LOSE_ANSWER
        if what.kind is Kind.DELAY:
            process.late = True
            return False
        self._act_on(scheduler, process, what)
        return None

    def _act_on(self, scheduler: Scheduler, process: Process, what: Interference) -> None:
        match what.kind:
            case Kind.TERMINATE:
                scheduler.say(f"{process.name} is told to stop")
                process.stop.request()
            case Kind.SWITCH:
                self._switch(scheduler, process, what.arg)
            case Kind.USER:
                if self._acts < len(self.plan.acts):
                    self._user()
            case Kind.CRASH:
                scheduler.say(f"{process.name} is killed")
                scheduler.kill(process)
            case Kind.FREEZE:
                self._freeze(scheduler, process, what.arg)
            case Kind.LOSE:
                self._surroundings.force_delete(process)
                if what.arg % 3 < 2:  # else the kubelet cannot be reached, and the process goes on
                    self._freeze(scheduler, process, what.arg)
            case Kind.FORCE:
                self._force(scheduler, what.arg)
            case Kind.FORGET:
                self._surroundings.forget_pods()

    @staticmethod
    def _freeze(scheduler: Scheduler, process: Process, arg: int) -> None:
        freeze(scheduler, process, FREEZES[arg % len(FREEZES)])
        scheduler.yield_from(process)

    @staticmethod
    def _take_turns(scheduler: Scheduler, process: Process) -> None:
        ready = [p for p in scheduler.processes if p.state is State.READY]
        if len(ready) > 1:
            scheduler.go_to(ready[(ready.index(process) + 1) % len(ready)])

    def _force(self, scheduler: Scheduler, arg: int) -> None:
        if frozen := [p for p in scheduler.processes if p.state is State.FROZEN]:
            self._surroundings.force_delete(frozen[arg % len(frozen)])

    @staticmethod
    def _switch(scheduler: Scheduler, process: Process, arg: int) -> None:
        others = [p for p in scheduler.processes if p.alive and p is not process]
        if not others:
            return
        other = others[arg % len(others)]
        if other.state is not State.READY:
            if other.state is State.WAITING:
                scheduler.clock = max(scheduler.clock, other.until)
            scheduler.wake(other)
        scheduler.go_to(other)


def freeze(scheduler: Scheduler, process: Process, seconds: float) -> None:
    """The process stands still, and what it holds stays as it is."""
    scheduler.say(f"{process.name} freezes before: {process.asks}")
    process.state = State.FROZEN
    process.frozen_at = scheduler.clock
    process.until = scheduler.clock + (seconds or 1e6)
