"""Free ports of the loopback interface, each given to one asker of this user only, in whatever process."""

import fcntl
import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

HOST = "127.0.0.1"
_RANGE: Final = range(15_000, 32_000)
"""Below the range that the kernel gives to outgoing connections, so that nobody takes a port between our choice and its use."""


def free_ports(count: int) -> list[int]:
    """*count* different ports that nobody listens on just now.

    They are given in turn, so that a port comes again after some hundred sandboxes only: a server that is slow to start, or
    is started again, still finds its own free. Where the turn stands is in a file of the temporary folder.
    """
    found: list[int] = []
    with _turn().open("a+") as turn, ExitStack() as held:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.seek(0)
        place = _place(turn.read())
        while len(found) < count:
            candidate = _RANGE[place % len(_RANGE)]
            place += 1
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            found.append(candidate)
        turn.truncate(0)
        turn.write(str(place % len(_RANGE)))
        turn.flush()
    return found


def free_port() -> int:
    """One of :func:`free_ports`."""
    return free_ports(1)[0]


def _turn() -> Path:
    return Path(tempfile.gettempdir()) / f"tidb-backup-ports-{os.getuid()}"


def _place(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # new, or broken: start anywhere
        return int.from_bytes(os.urandom(2))
