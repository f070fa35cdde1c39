"""Many histories from a seed, quickly; the first violation is shortened before it is shown."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.world import users
from tests.support.world.cluster import World
from tests.support.world.histories import Step, begin, play, random_steps
from tests.support.world.invariants import Violation

LENGTH: Final = 20
SCHEDULES: Final = tuple(number for number, cast in enumerate(users.CASTS) if cast[0][0] == "BackupSchedule")
RUNS: Final = tuple(number for number in range(len(users.CASTS)) if number not in SCHEDULES)


@dataclass(slots=True)
class Tally:
    """What was run."""

    histories: int = 0
    steps: int = 0
    passes: int = 0
    children: int = 0
    actions: Counter[str] = field(default_factory=Counter)

    def add(self, world: World, steps: Sequence[Step]) -> None:
        """Count one history."""
        self.histories += 1
        self.steps += len(steps)
        self.passes += world.counts.passes
        self.children += world.counts.created
        self.actions.update(name for name, _ in steps)


def run(seeds: Iterable[int], casts: Sequence[int], *, length: int = LENGTH) -> Tally:
    """One history for each of *seeds*, with one of *casts*. Raises Violation with the shortest history that was found."""
    tally = Tally()
    for seed in seeds:
        chance = random.Random(seed)
        cast, steps = chance.choice(casts), random_steps(chance, length)
        world = begin(cast)
        try:
            play(world, steps)
        except Violation as violation:
            raise shortened(cast, steps, violation) from None
        tally.add(world, steps)
    return tally


def shortened(cast: int, steps: Sequence[Step], found: Violation) -> Violation:
    """A violation of the same kind after as few of *steps* as can be found by leaving them out."""
    kind, shortest = _kind(found), list(steps)
    index = len(shortest) - 1
    while index >= 0:
        fewer = [*shortest[:index], *shortest[index + 1 :]]
        index -= 1
        try:
            play(begin(cast), fewer)
        except Violation as violation:
            if _kind(violation) == kind:
                shortest, found = fewer, violation
        except Exception:  # noqa: BLE001 - another failure than the one looked for
            continue
    return Violation(f"cast {cast}: {found}")


def _kind(violation: Violation) -> str:
    """The first words, without names and numbers."""
    first = str(violation).partition("\n")[0]
    return " ".join(word for word in first.split() if word.isalpha())
