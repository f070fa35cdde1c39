"""Free ports of the loopback interface."""

import random
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
_RANGE = range(15_000, 32_000)
"""Below the range that the kernel gives to outgoing connections, so that nobody takes a port between our choice and its use."""


def free_ports(count: int) -> list[int]:
    """*count* different ports that nobody listens on just now."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            candidate = random.choice(_RANGE)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            found.append(candidate)
    return found
