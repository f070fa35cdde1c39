"""A tool's log in blocks of whole lines, so that lines which nobody needs cost next to nothing.

A br log has a line for each region, range and file: millions, of which a few tell something. Work in Python on each of them
costs many times what reading them does; a substring search over a whole block runs at the speed of memory.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Final

SIZE: Final = 128 * 1024
"""Bytes asked for at once; a pipe gives what it has, so a line never waits for a block to fill."""
LONGEST: Final = 1024 * 1024
"""Of a longer line the beginning alone is handed over: no line may cost more memory than this, or hold up those after it."""


class Cut(bytes):
    """The beginning of a line whose rest is left out."""


def read(descriptor: int, *, size: int = SIZE, longest: int = LONGEST) -> Iterator[bytes]:
    """Blocks of whole lines, as soon as they are there; only the last may lack its end. Of a line that has no end after
    *longest* bytes the beginning is handed over as :class:`Cut`, and what follows up to its end is read and dropped."""
    held, dropping = bytearray(), False
    while piece := os.read(descriptor, size):
        if dropping:
            _, ended, piece = piece.partition(b"\n")
            dropping = not ended
            if not piece:
                continue
        end = piece.rfind(b"\n") + 1
        if end:
            yield b"".join((held, memoryview(piece)[:end])) if held else piece[:end]
            held = bytearray(memoryview(piece)[end:])
        else:
            held += piece
        if len(held) >= longest:
            yield Cut(held)
            held, dropping = bytearray(), True
    if held:
        yield bytes(held)


def lines(block: bytes) -> list[bytes]:
    """Every line of *block*, without its end.

    >>> lines(b"a\\n\\nb\\r\\nc")
    [b'a', b'', b'b', b'c']
    """
    found = block.split(b"\n")
    if not found[-1]:
        found.pop()
    return [line.rstrip(b"\r") for line in found]


def spans(block: bytes, needles: Sequence[bytes]) -> list[slice]:
    """Where the lines of *block* are that hold one of *needles* (which have no line end in them): in order, each once."""
    found: dict[int, int] = {}
    for needle in needles:
        at = block.find(needle)
        while at >= 0:
            start = block.rfind(b"\n", 0, at) + 1
            end = block.find(b"\n", at)
            found[start] = end if end >= 0 else len(block)
            at = block.find(needle, found[start])
    return [slice(start, found[start]) for start in sorted(found)]


def holding(block: bytes, needles: Sequence[bytes]) -> list[bytes]:
    """The lines of *block* that hold one of *needles*, without their ends.

    >>> holding(b"one\\ntwo\\nthree\\n", [b"e"])
    [b'one', b'three']
    """
    return [block[span].rstrip(b"\r") for span in spans(block, needles)]
