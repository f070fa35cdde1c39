"""Schedules and all that they make, through whatever a cluster can do to them: no slot twice, none too early, nothing that is
kept is deleted, and they go on. The rules are in :mod:`tests.support.world.invariants`.

``CLUSTER_HISTORIES=100000 pytest tests/property/test_histories_of_schedules.py`` runs more.
"""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.world import bulk
from tests.support.world.histories import ACTIONS, LARGEST, begin, play

HISTORIES = int(os.environ.get("CLUSTER_HISTORIES", "10000")) // 10
"""In a block, of which these are two in ten."""
STEPS = st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, LARGEST)), max_size=40)


@pytest.mark.parametrize("block", range(2))
def test_random_histories(block: int, record_property: Callable[[str, object], None]) -> None:
    first = 10**9 + block * HISTORIES
    tally = bulk.run(range(first, first + HISTORIES), bulk.SCHEDULES)
    record_property("worlds", tally.histories)
    assert tally.children > tally.histories
    assert set(tally.actions) == set(ACTIONS) or HISTORIES < 100


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(bulk.SCHEDULES), STEPS)
def test_histories_that_hypothesis_thinks_of(cast: int, steps: list[tuple[str, int]]) -> None:
    play(begin(cast), steps)
