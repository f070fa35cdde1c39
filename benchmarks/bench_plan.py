"""What retention costs: :func:`~app.domain.schedule.retention.plan` of 100,000 Backups against a tenth; exit 1 over a limit.

The rival is sorting the same Backups by age, the least that any plan has to do. Each is measured with the garbage collector
on, as in the user's command, and off, as good as in the webhook, which sets it off rarely: a plan must be linear in both.
``python -m benchmarks.bench_plan``
"""

import gc
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from time import process_time
from typing import Any, Final

from app.domain.schedule.retention import Item, Policy, Rule, State, plan

COUNT: Final = 100_000
ROUNDS: Final = 5
SECONDS: Final = 0.5
TIMES: Final = {True: 20.0, False: 15.0}
"""Ten times the Backups may take a little more than ten times as long: the larger set does not fit into the caches, and with
the garbage collector on (True) it alone is large enough for a full collection."""
NEWEST: Final = datetime(2026, 1, 31, tzinfo=UTC)
NOW: Final = NEWEST + timedelta(hours=12)
POLICIES: Final = {
    "maxBackups": Policy(max_backups=COUNT // 2),
    "maxReservedTime, with a log": Policy(max_reserved_time=timedelta(days=30), pitr=True),
    "keepHourly, Daily, Monthly, Yearly": Policy(
        counts={Rule.KEEP_HOURLY: 24, Rule.KEEP_DAILY: 7, Rule.KEEP_MONTHLY: 12, Rule.KEEP_YEARLY: 10}
    ),
}


def backups(count: int) -> list[Item]:
    """One every seven minutes, the oldest first."""
    times = [NEWEST - number * timedelta(minutes=7) for number in range(count - 1, -1, -1)]
    return [Item(f"b-{time:%Y%m%d%H%M}", State.COMPLETE, time, time, time) for time in times]


def seconds(work: Callable[[], Any], *, collector: bool) -> float:
    """Processor time, the best of :data:`ROUNDS`, with the garbage collector on or off."""

    def once() -> float:
        gc.collect()
        if not collector:
            gc.disable()
        try:
            began = process_time()
            work()
            return process_time() - began
        finally:
            gc.enable()

    return min(once() for _ in range(ROUNDS))


def main() -> int:
    """Measure and print; 0 when the limits are kept."""
    tenth, whole = backups(COUNT // 10), backups(COUNT)
    kept = True
    for collector in (True, False):
        measured = partial(seconds, collector=collector)
        sorting = measured(lambda: sorted(whole, key=lambda item: (item.time, item.name), reverse=True))
        collected = f"garbage collector {'on' if collector else 'off'}"
        sys.stdout.write(f"{COUNT:,} Backups, {collected}: sorting them {sorting:.3f} s\n")
        for name, policy in POLICIES.items():
            little, much = (measured(partial(plan, items, policy, NOW)) for items in (tenth, whole))
            kept &= much <= SECONDS and much <= TIMES[collector] * little
            sys.stdout.write(
                f"plan, {name}, {collected}: {much:.3f} s (limit {SECONDS}), {much / little:.1f} times a tenth of "
                f"them (limit {TIMES[collector]:.0f})\n"
            )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
