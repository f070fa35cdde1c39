"""What retention costs: :func:`app.domain.retention.plan` over 100,000 Backups, against a tenth of them; exit 1 over a limit.

The rival is sorting the same Backups by age, the least that any plan has to do. ``python -m benchmarks.bench_plan``
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from time import process_time
from typing import Any, Final

from app.domain.retention import Item, Policy, Rule, State, plan

COUNT: Final = 100_000
ROUNDS: Final = 5
LIMITS: Final = {"seconds": 0.5, "times": 15.0}
"""Ten times the Backups may take a little more than ten times as long: the larger set does not fit into the caches."""
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


def seconds(work: Callable[[], Any]) -> float:
    """Processor time, the best of :data:`ROUNDS`."""

    def once() -> float:
        began = process_time()
        work()
        return process_time() - began

    return min(once() for _ in range(ROUNDS))


def main() -> int:
    """Measure and print; 0 when the limits are kept."""
    tenth, whole = backups(COUNT // 10), backups(COUNT)
    sorting = seconds(lambda: sorted(whole, key=lambda item: (item.time, item.name), reverse=True))
    sys.stdout.write(f"{COUNT:,} Backups: sorting them {sorting:.3f} s\n")
    kept = True
    for name, policy in POLICIES.items():
        little, much = (seconds(partial(plan, items, policy, NOW)) for items in (tenth, whole))
        kept &= much <= LIMITS["seconds"] and much <= LIMITS["times"] * little
        sys.stdout.write(
            f"plan, {name}: {much:.3f} s (limit {LIMITS['seconds']}), {much / little:.1f} times a tenth of them "
            f"(limit {LIMITS['times']:.0f})\n"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
