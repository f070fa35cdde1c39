"""Decode a big request piece by piece, so that it never stands in memory twice.

A JSON parser needs several times the text while it works, and a schedule comes with thousands of Backups. Their map is cut
where one child seems to end and the next to begin (``},"namespace/``), and each piece is parsed as an object of its own. That
is exact, not a guess: a piece that begins between two members and is an object by itself also ends between two members, for a
cut inside a string or a nested value leaves something open. Where no such piece is found the request is decoded as a whole.
"""

from collections.abc import Iterator
from typing import Any, Final

import orjson

PIECE: Final = 1024 * 1024
_CHILDREN: Final = b'"children":{"'
_MEMBER: Final = b'":{"'
_MARK: Final = "\ufffe the members cut out"
_TRIES: Final = 16


def decode(body: bytes | bytearray, *, piece: int = PIECE) -> Any:
    """The value of *body*, as ``orjson.loads`` gives it, but without ``metadata.managedFields`` of the children: who wrote
    what is more than half of an object's nodes, and no decision asks for a child's. Raises ``orjson.JSONDecodeError``."""
    begin = _first_member(body) if len(body) > 2 * piece else None
    if begin is None:
        return orjson.loads(body)
    members: dict[str, Any] = {}
    position = begin
    for part, position in _parts(body, begin, piece):  # noqa: B007 - the last one is where the rest begins
        _strip(part)
        members.update(part)
    rest = _with_rest(body, begin, position, members)
    return orjson.loads(body) if rest is None else rest


def _first_member(body: bytes | bytearray) -> int | None:
    """Where the first child of the first kind that has one begins."""
    children = body.find(_CHILDREN)
    member = body.find(_MEMBER, children + len(_CHILDREN)) if children >= 0 else -1
    return member + len(_MEMBER) - 1 if member >= 0 else None


def _parts(body: bytes | bytearray, begin: int, piece: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Pieces of about *piece* bytes from *begin* on, each with the position after it; the last part of the body is left."""
    slash = body.find(b"/", begin)
    if slash < 0:
        return
    separator = b"}," + bytes(body[begin : slash + 1])
    while len(body) - begin > 2 * piece:
        cut = body.find(separator, begin + piece)
        for _ in range(_TRIES):
            if cut < 0:
                return
            try:
                part = orjson.loads(b"{%b}" % bytes(body[begin : cut + 1]))
                break
            except orjson.JSONDecodeError:
                cut = body.find(separator, cut + 1)
        else:
            return
        begin = cut + 2
        yield part, begin


def _with_rest(body: bytes | bytearray, begin: int, position: int, members: dict[str, Any]) -> Any:
    """The value of everything but what was cut out between *begin* and *position*, with *members* put back in its place.

    None when that place is not the map of some kind of children: a mark in it tells.
    """
    mark = orjson.dumps(_MARK)
    try:
        value: Any = orjson.loads(b"%b%b:{},%b" % (bytes(body[:begin]), mark, bytes(body[position:])))
    except orjson.JSONDecodeError:
        return None
    children = value.get("children") if isinstance(value, dict) else None
    if not isinstance(children, dict):
        return None
    for kind, group in children.items():
        if isinstance(group, dict) and group.pop(_MARK, None) is not None:
            _strip(group)
            members.update(group)
            children[kind] = members
            return value
    return None


def _strip(group: dict[str, Any]) -> None:
    for child in group.values():
        if isinstance(child, dict) and isinstance(meta := child.get("metadata"), dict):
            meta.pop("managedFields", None)
