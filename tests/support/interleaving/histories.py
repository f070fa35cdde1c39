"""Plans at random, played, judged, and made short when they fail."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tests.support.interleaving.patches import new_world
from tests.support.interleaving.plan import Act, Interference, Kind, Plan, Planned, Wanted
from tests.support.interleaving.scheduler import Broken, Scheduler

KINDS: Final = (
    *(Kind.SWITCH,) * 10,
    *(Kind.USER,) * 4,
    *(Kind.CRASH,) * 2,
    *(Kind.LOSE,) * 3,
    Kind.FREEZE,
    Kind.FORCE,
    Kind.FORGET,
    Kind.FAIL,
    *(Kind.LOSE_ANSWER,) * 2,
    Kind.DELAY,
    Kind.TERMINATE,
)
GAPS: Final = (0, 1, 1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 90)
WHENS: Final = ("", "", "", "record.json if", "deletes", "clean-", "puts", "loads", "lists", "asks")
"""Where histories part: with these a short plan gets to the point, which few random counts do."""
TURNS: Final = (0, 0, 0, 1, 3, 7, 12, 25)
PATHS: Final = ("p", "p", "p", "p/x", "p/x", "p-x", "p/x/y")
POLICIES: Final = ("Delete", "Delete", "Delete", "Retain", "OnFailure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One history. *broken* is empty when all held."""

    plan: Plan
    broken: str
    trace: tuple[str, ...]
    steps: int

    def __str__(self) -> str:
        return f"{self.broken}\n{self.plan}\n  " + "\n  ".join(self.trace)


def play(plan: Plan, *, traced: bool = False) -> Played:
    """Play *plan* to its end."""
    planned = Planned(plan)
    scheduler = Scheduler(planned)
    scheduler.trace = [] if traced else None
    world = new_world(scheduler, plan.crs)
    planned.start(scheduler, world)
    try:
        scheduler.run()
    except Broken as error:
        return Played(plan=plan, broken=str(error), trace=tuple(scheduler.trace or ()), steps=scheduler.steps)
    wrong = world.wrong()
    return Played(plan=plan, broken="; ".join(wrong), trace=tuple(scheduler.trace or ()), steps=scheduler.steps)


def random_plan(chance: random.Random) -> Plan:
    """A plan with two to four CRs and up to eight interferences."""
    paths = PATHS if chance.random() < 0.6 else (chance.choice(PATHS),)
    crs = tuple(_wanted(chance, paths) for _ in range(chance.choice((1, 2, 2, 3, 3))))
    if chance.random() < 0.3:
        source, target = chance.randrange(len(crs)), chance.choice(("one", "two"))
        crs += tuple(_restore(crs, source, target) for _ in range(chance.choice((1, 2, 2))))
    acts = [Act("apply", number, at_once=number > 0 and chance.random() < 0.4) for number in range(len(crs))]
    for number, cr in enumerate(crs):
        if cr.kind.startswith("br") and number == 0 and chance.random() < 0.15:
            acts[0] = Act("adopt", 0)
        if chance.random() < 0.5:
            at = chance.randint(number + 1, len(acts))
            acts.insert(at, Act("delete", number, chance.random() < 0.2))
            if chance.random() < 0.1:
                acts.insert(chance.randint(at + 1, len(acts)), Act("confirm", number))
    number = chance.randint(1, 8)
    interferences = tuple(_interference(chance) for _ in range(number))
    return Plan(crs=crs, acts=tuple(acts), interferences=interferences, turn=chance.choice(TURNS))


def _wanted(chance: random.Random, paths: tuple[str, ...]) -> Wanted:
    kind = chance.choice(("export", "export", "br", "br", "br-old"))
    return Wanted(kind, chance.choice(paths), chance.choice(POLICIES), chance.choice(("one", "two")), chance.random() < 0.15)


def _restore(crs: tuple[Wanted, ...], source: int, target: str) -> Wanted:
    return Wanted("restore" if crs[source].kind == "export" else "br-restore", str(source), "", target)


def _interference(chance: random.Random) -> Interference:
    return Interference(chance.choice(GAPS), chance.choice(KINDS), chance.randrange(12), chance.choice(WHENS))


def search(seeds: Iterator[int] | range) -> Played | None:
    """Play a plan a seed; the first that fails, made short and with its trace; None when all hold."""
    for seed in seeds:
        plan = random_plan(random.Random(seed))
        if play(plan).broken:
            return play(shortened(plan, lambda candidate: bool(play(candidate).broken)), traced=True)
    return None


def shortened(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """A plan that still fails, with less in it."""
    while True:
        smaller = next((candidate for candidate in _smaller(plan) if fails(candidate)), None)
        if smaller is None:
            return plan
        plan = smaller


def _smaller(plan: Plan) -> Iterator[Plan]:
    for number in range(len(plan.crs)):
        used = any(cr.kind.endswith("restore") and cr.path == str(number) for cr in plan.crs)
        if len(plan.crs) > 1 and not used and any(act.cr == number for act in plan.acts):
            yield replace(plan, acts=tuple(act for act in plan.acts if act.cr != number))
    for number in range(len(plan.acts)):
        yield replace(plan, acts=plan.acts[:number] + plan.acts[number + 1 :])
    if plan.turn:
        yield replace(plan, turn=0)
    todo = plan.interferences
    for number, item in enumerate(todo):
        rest = todo[number + 1 :]
        yield replace(plan, interferences=todo[:number] + rest)
        if rest:
            longer = rest[0]._replace(gap=rest[0].gap + item.gap)
            yield replace(plan, interferences=(*todo[:number], longer, *rest[1:]))
    for number, item in enumerate(todo):
        if item.when:
            yield replace(plan, interferences=(*todo[:number], item._replace(when=""), *todo[number + 1 :]))
        for arg in range(item.arg):
            yield replace(plan, interferences=(*todo[:number], item._replace(arg=arg), *todo[number + 1 :]))
