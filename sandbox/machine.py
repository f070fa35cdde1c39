"""What this machine can do at once."""

import math
import os
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup/cpu.max")


def cores(quota: Path = _CGROUP) -> int:
    """Processors that this process may use, at least 1: its affinity (``taskset``), or the container's quota where that is
    less. *quota* is the file ``cpu.max`` of cgroup v2: microseconds of processor time, and of the period."""
    found = len(os.sched_getaffinity(0))
    try:
        amount, period = quota.read_text().split()
        found = min(found, math.ceil(int(amount) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # "max 100000", or no such cgroup
        pass
    return max(1, found)
