"""What this machine can do at once."""

import math
import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMINFO: Final = Path("/proc/meminfo")
_GIB: Final = 2**20
"""In KiB, as ``/proc/meminfo`` counts."""


def cores(cgroups: Path = _CGROUPS) -> int:
    """Processors that this process may use, at least 1: its affinity (``taskset``), or its container's quota if that is less.

    *cgroups* is where the kernel shows control groups of either version.
    """
    found = len(os.sched_getaffinity(0))
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / file).read_text() for file in files).split()
            if int(quota) > 0:  # -1 in version 1, "max" in version 2: none
                found = min(found, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return max(1, found)


def room(each_gib: float, meminfo: Path = _MEMINFO) -> int:
    """How many times *each_gib* GiB of memory are available now, at least 1."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return max(1, int(int(line.split()[1]) / (each_gib * _GIB)))
    return 1
