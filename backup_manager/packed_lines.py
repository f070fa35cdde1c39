"""Lists of our own beside the data: one JSON value a line, compressed by gzip. The same lines give the same bytes."""

import gzip
import io
from collections.abc import Iterable, Iterator


def pack_lines(lines: Iterable[bytes]) -> bytes:
    """*lines*, which hold no line end, in order."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed:
        for line in lines:
            packed.write(line + b"\n")
    return buffer.getvalue()


def unpack_lines(data: bytes) -> Iterator[bytes]:
    """The lines that :func:`pack_lines` was given, one at a time: a list may have millions. Raises OSError, EOFError or
    zlib.error for other bytes."""
    with gzip.open(io.BytesIO(data)) as lines:
        yield from lines
