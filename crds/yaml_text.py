"""Writes YAML that people read in a diff: block style, short texts bare, long ones folded.

Only for plain data (dicts with string keys, lists, strings, numbers, booleans). The contract may not depend on a YAML library,
so this is the one that it needs; a test reads its output back with a real one.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_WIDTH: Final = 120
_BARE: Final = re.compile(r"[A-Za-z.$/][A-Za-z0-9_.$/()<>=+-]*(?:[ ,;]+[A-Za-z0-9_.$/(<][A-Za-z0-9_.$/()<>=+-]*)*[,.;)]*")
"""Texts that need no quotes wherever they stand, unless they are one of the words below."""
_WORDS: Final = re.compile(r"(?:y|yes|n|no|true|false|on|off|null|\.nan|[-+]?\.inf)", re.IGNORECASE)
_NUMBER_LIKE: Final = re.compile(r"[-+.]?[0-9].*")
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may hold as it is, and YAML may not."""


def dump(data: Mapping[str, Any]) -> str:
    """*data* as a YAML document, keys in their order.

    >>> print(dump({"kind": "X", "list": [{"a": 1, "b": "no"}, {}], "text": "a: b"}), end="")
    kind: X
    list:
      - a: 1
        b: "no"
      - {}
    text: "a: b"
    """
    return "".join(f"{line}\n" for line in _block(data, 0))


def _block(value: Any, indent: int) -> Iterator[str]:
    pad = " " * indent
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{pad}{_scalar(key)}:", item, indent)
    else:
        for item in value:
            yield from _item(pad, item, indent)


def _entry(head: str, value: Any, indent: int) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from _block(value, indent + 2)
    elif isinstance(value, str) and _folds(value, len(head) + 1):
        yield f"{head} >-"
        width = max(_WIDTH - indent - 2, 40)
        yield from (f"{' ' * (indent + 2)}{line}" for line in _folded(value, width))
    else:
        yield f"{head} {_scalar(value)}"


def _item(pad: str, value: Any, indent: int) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        lines = _block(value, indent + 2)
        yield f"{pad}- {next(lines).lstrip()}"
        yield from lines
    else:
        yield f"{pad}- {_scalar(value)}"


def _folds(text: str, used: int) -> bool:
    """Whether *text* is a long line of plain words, which a folded block gives back unchanged."""
    return used + len(text) > _WIDTH and text.isprintable() and text == " ".join(text.split())


def _folded(text: str, width: int) -> Sequence[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value) and not _WORDS.fullmatch(value) and not _NUMBER_LIKE.fullmatch(value):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
