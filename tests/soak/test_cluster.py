"""As many steps of histories as there is patience for: ``SOAK_STEPS=3000000 SOAK_SEED=1 make soak``. On two processors 280,000
take a minute."""

import os
from collections.abc import Callable

import pytest

from tests.support.world import bulk

STEPS = int(os.environ.get("SOAK_STEPS", "3000000"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
BLOCKS = 20
LENGTH = 50


@pytest.mark.parametrize("block", range(BLOCKS))
def test_histories(block: int, record_property: Callable[[str, object], None]) -> None:
    """Longer ones than in ``make test``, from other seeds."""
    count = -(-STEPS // (BLOCKS * LENGTH))
    start = (SEED << 40) + block * count
    tally = bulk.run(range(start, start + count), (*bulk.RUNS, *bulk.SCHEDULES), length=LENGTH)
    record_property("worlds", tally.histories)
    print(f"\n{tally.steps} steps, {tally.passes} passes, {tally.histories} histories")  # noqa: T201 - the counts are the result
    assert tally.steps == count * LENGTH
