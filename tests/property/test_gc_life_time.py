"""The GC life time under any history of runs that begin, renew, end, are killed, freeze and thaw, of two clocks.

Every transaction on the database is one step; hypothesis decides who goes next and how the clocks move.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backup_manager.locking.lock import LockLostError
from backup_manager.tidb.gc_life_time import PACE, VARIABLE, Mark
from crds.contract import durations
from tests.support.manager import FakeDatabase, World, world

ORIGINAL = "10m0s"
FOLDER = Path(mkdtemp(prefix="gc-life-time-"))
CRS = tuple("abcd")


@dataclass
class Running:
    """One attempt that believes that it holds the life time raised."""

    mark: Mark
    wanted: str
    here: World
    frozen: bool = False


@dataclass
class Clocks:
    now: float = 1000.0
    database: FakeDatabase = field(default_factory=FakeDatabase)

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        self.database.milliseconds += int(seconds * 1000)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.database = FakeDatabase({VARIABLE: (ORIGINAL, "")})
        self.clock = Clocks(database=self.database)
        self.runs: dict[str, Running] = {}
        self.left_behind: set[str] = set()

    def world(self, cr: str) -> World:
        here = world(FOLDER, {}, uid=f"{cr}-0000-0000")
        here.context.stop.wait = self.step  # type: ignore[method-assign]
        return here

    def step(self, seconds: float) -> None:
        """Time goes on; who lives renews when it is due, as its thread does."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.pass_seconds(min(PACE.renew, end - self.clock.now))
            for cr, run in list(self.runs.items()):
                if not run.frozen and self.clock.now - run.mark.renewed_at >= PACE.renew:
                    self.renew(cr)

    def renew(self, cr: str) -> None:
        run = self.runs[cr]
        if self.clock.now - run.mark.renewed_at >= PACE.fence:
            del self.runs[cr]  # its watch has stopped the tool
            return
        try:
            run.mark.renew()
        except LockLostError:
            del self.runs[cr]

    @rule(cr=st.sampled_from(CRS), wanted=st.sampled_from(["24h", "72h", "100h"]))
    def begin(self, cr: str, wanted: str) -> None:
        """A run; an earlier attempt of the same CR, killed or frozen, may be there."""
        here = self.world(cr)
        mark = Mark.of(here.context, self.database, clock=self.clock)  # type: ignore[arg-type]
        mark.enter(wanted, durations.parse(wanted))
        self.runs[cr] = Running(mark=mark, wanted=wanted, here=here)
        self.left_behind.discard(cr)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        run = self.runs.pop(data.draw(st.sampled_from(sorted(self.runs))))
        run.mark.leave(run.here.context)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        cr = data.draw(st.sampled_from(sorted(self.runs)))
        del self.runs[cr]
        self.left_behind.add(cr)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def freeze_or_thaw(self, data: st.DataObject) -> None:
        cr = data.draw(st.sampled_from(sorted(self.runs)))
        self.runs[cr].frozen = not self.runs[cr].frozen
        if not self.runs[cr].frozen:
            self.renew(cr)

    @rule(seconds=st.sampled_from([1.0, 59.0, 300.0, 700.0, 7200.0]))
    def time_passes(self, seconds: float) -> None:
        self.step(seconds)

    @rule(hours=st.integers(min_value=0, max_value=24 * 400))
    def pds_clock_jumps_ahead(self, hours: int) -> None:
        self.database.milliseconds += hours * 3_600_000

    @precondition(lambda self: self.left_behind)
    @rule(data=st.data())
    def the_job_of_the_hook(self, data: st.DataObject) -> None:
        """Once no run of the CR is left."""
        cr = data.draw(st.sampled_from(sorted(self.left_behind)))
        here = self.world(cr)
        Mark.of(here.context, self.database, clock=self.clock).leave(here.context, any_attempt=True)  # type: ignore[arg-type]
        self.left_behind.discard(cr)

    @invariant()
    def who_renews_has_what_it_wants(self) -> None:
        now = durations.parse(self.database.life_time)
        for cr, run in self.runs.items():
            if not run.frozen and self.clock.now - run.mark.renewed_at < PACE.fence:
                assert now >= durations.parse(run.wanted), f"{cr} wants {run.wanted}, there is {self.database.life_time}"

    @invariant()
    def nobody_left_means_restored(self) -> None:
        if not self.database.holders:
            assert (self.database.life_time, self.database.marker) == (ORIGINAL, None)
        assert durations.parse(self.database.life_time) >= timedelta(minutes=10)

    def teardown(self) -> None:
        """Every history ends well: the runs end, the killed ones are dead after their duration, and one more run restores."""
        while self.runs:
            _, run = self.runs.popitem()
            run.mark.leave(run.here.context)
        self.clock.pass_seconds(PACE.duration + 1)
        here = self.world("z")
        last = Mark.of(here.context, self.database, clock=self.clock)  # type: ignore[arg-type]
        last.enter("24h", durations.parse("24h"))
        last.leave(here.context)
        assert (self.database.life_time, self.database.marker, self.database.holders) == (ORIGINAL, None, [])


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
