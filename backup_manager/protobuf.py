"""The wire format of Protocol Buffers, as far as two messages of br need it; a library would cost more than it gives."""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def walk(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: varints as int, strings and messages as bytes; fixed-width fields are passed over.

    Raises ValueError on what is no message.

    >>> [(number, value if isinstance(value, int) else bytes(value)) for number, value in walk(bytes.fromhex("089601120161"))]
    [(1, 150), (2, b'a')]
    """
    view, position = memoryview(data), 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == _VARINT:
            value, position = _varint(view, position)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length, position = _varint(view, position)
        if length is None:
            raise ValueError(f"wire type {kind}")
        if position + length > len(view):
            raise ValueError("cut short")
        if kind == _BYTES:
            yield number, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(view):
            raise ValueError("cut short")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number too long")
