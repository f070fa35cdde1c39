"""The processes that a process started."""

from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Every process that *pid*, or a child of it, started and that has not ended, parents first. Those that end meanwhile are
    left out."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                children += map(int, (task / "children").read_text().split())
    return [found for child in children for found in (child, *descendants(child))]
