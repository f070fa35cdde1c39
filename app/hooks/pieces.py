"""Decode a request while it comes in, so that neither the text of a big one nor its whole tree ever stands in memory.

A JSON parser needs several times the text while it works, and a schedule comes with thousands of Backups. Their map is cut
where one child seems to end and the next to begin (``},"namespace/``), each piece is parsed as an object of its own, and what
nobody asks of a child is dropped before the next piece is looked at. That is exact, not a guess. What stands before the map
is an object once a mark and three braces are put behind it, with the mark alone in a map of children, which it cannot be when
it ends in a string or elsewhere.
A piece that begins between two members and is an object by itself also ends between two members, for a cut inside a string
or a nested value leaves something open. Where no such piece is found the rest is decoded at once.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import orjson

from app.domain.observed import Object

Lean = Callable[[Object], Object]
"""A child to what is to be kept of it, by its name and namespace at least."""


def whole(child: Object) -> Object:
    """*child*, with all there is."""
    return child


PIECE: Final = 128 * 1024
"""Small enough for the processor's cache: the same text takes a third longer in pieces of 1 MiB."""
_BATCH: Final = 8
"""Pieces to be parsed at a time, which makes it worth to go to another thread."""
_CHILDREN: Final = b'"children":{"'
_MEMBER: Final = b'":{"'
_MARK: Final = "\ufffe the members before"
_TRIES: Final = 16
_LAST_APPLIED: Final = "metacontroller.k8s.io/last-applied-configuration"


class NotJSON(ValueError):
    """A request body that is no JSON; the text says what is wrong, and where."""


class Body:
    """A request body: :meth:`add` what comes in, :meth:`work` when that says so, :meth:`value` at the end. *text* has come.

    *size* is the number of bytes so far. A body of a megabyte or less is parsed as it is; of a bigger one *lean* says what is
    kept of each child.
    """

    def __init__(self, text: bytes = b"", *, lean: Lean = whole, piece: int = PIECE) -> None:
        self.size = len(text)
        self._lean = lean
        self._piece = piece
        self._text: bytes | bytearray = text
        """What is not parsed yet. Once the map is open it begins with a brace in front of the next member."""
        self._due: float = _BATCH * piece
        self._outer: dict[str, Any] | None = None
        self._kind = ""
        self._separator = b""
        self._members: dict[str, Any] = {}

    def add(self, chunk: bytes) -> bool:
        """Take *chunk*. True when there is enough for :meth:`work`."""
        self.size += len(chunk)
        if not self._text:
            self._text = chunk
        else:
            if isinstance(self._text, bytes):
                self._text = bytearray(self._text)
            self._text += chunk
        return len(self._text) >= self._due

    def work(self) -> None:
        """Parse the children that have come in, all but the last few. Takes some milliseconds."""
        text = self._text if isinstance(self._text, bytearray) else bytearray(self._text)
        self._text = text
        if self._outer is None and not self._open(text):
            self._due = math.inf
            return
        while len(text) >= 2 * self._piece and self._due < math.inf and self._cut(text):
            pass

    def value(self) -> Any:
        """The value of the whole, as ``orjson.loads`` gives it, but for what only Metacontroller and the API server ask of a
        child in a big request (``metadata.managedFields``, which is more than half of it, and the last applied configuration),
        and what *lean* leaves out.

        Raises NotJSON.
        """
        if self._outer is None:
            return _parse(self._text)
        start = b'{"children":{%b:{%b:{},' % (orjson.dumps(self._kind), orjson.dumps(_MARK))
        # The rest begins with a member of the map, and closes what the start opens.
        rest = _parse(start + self._text[1:], before=self.size - len(self._text) + 1 - len(start))
        children = rest.pop("children")
        last = children.pop(self._kind, None) if isinstance(children, dict) else None
        # A parser takes the last of two, so the members that were cut out would be lost without a word.
        if not isinstance(last, dict) or last.pop(_MARK, None) != {}:
            raise NotJSON("a key is twice in the map of children")
        self._keep(last)
        self._outer["children"] |= {self._kind: self._members} | children
        return self._outer | rest

    def _open(self, text: bytearray) -> bool:
        """Parse what is before the first child, and drop it from *text*. False when that place is not found."""
        children = text.find(_CHILDREN)
        member = text.find(_MEMBER, children + len(_CHILDREN)) if children >= 0 else -1
        slash = text.find(b"/", member + len(_MEMBER)) if member >= 0 else -1
        if slash < 0:
            return False
        begin = member + len(_MEMBER) - 1
        try:
            outer = orjson.loads(bytes(text[:begin]) + orjson.dumps(_MARK) + b":{}}}}")
        except orjson.JSONDecodeError:
            return False
        groups = outer["children"] if isinstance(outer, dict) and list(outer)[-1:] == ["children"] else None
        marked = [kind for kind, group in groups.items() if group == {_MARK: {}}] if isinstance(groups, dict) else []
        if len(marked) != 1:
            return False
        self._outer, self._kind = outer, marked[0]
        self._separator = b"}," + bytes(text[begin : slash + 1])
        del text[: begin - 1]
        text[0] = ord("{")
        return True

    def _cut(self, text: bytearray) -> bool:
        """Parse one piece, and drop it from *text*. False when there is nowhere to cut yet."""
        cut = self._piece
        for _ in range(_TRIES):
            cut = text.find(self._separator, cut)
            if cut < 0:
                # Perhaps further on; looked for less and less often, for each time begins from the start.
                self._due = max(self._due, 2 * len(text))
                return False
            kept, text[cut + 1] = text[cut + 1], ord("}")
            try:
                with memoryview(text) as view, view[: cut + 2] as piece:
                    part = orjson.loads(piece)
            except orjson.JSONDecodeError:
                text[cut + 1] = kept
                cut += 1
                continue
            self._keep(part)
            del text[: cut + 1]
            text[0] = ord("{")
            return True
        # A text that leads astray every time is parsed as a whole in the end.
        self._due = math.inf
        return False

    def _keep(self, group: dict[str, Any]) -> None:
        for key, child in group.items():
            self._members[key] = _strip(self._lean(child)) if isinstance(child, dict) else child


def _parse(text: bytes | bytearray, *, before: int = 0) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJSON(f"{error.msg}, at character {before + error.pos + 1}") from None


def _strip(child: Object) -> Object:
    if isinstance(meta := child.get("metadata"), dict):
        meta.pop("managedFields", None)
        if isinstance(annotations := meta.get("annotations"), dict):
            annotations.pop(_LAST_APPLIED, None)
    return child
