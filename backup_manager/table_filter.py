"""Whether TiDB's table filter selects a table, for the few decisions that we take ourselves before a tool runs.

The rules are the tools': patterns ``schema.table`` with ``*``, ``?`` and ``[...]``, regular expressions between slashes, ``!``
to leave out, the last match wins, letters compare without case. A rule in a form that is not read here counts as matching,
so that a check can only be too careful.
"""

import re
from collections.abc import Sequence
from typing import Final

_PART: Final = re.compile(
    r"/(?P<regex>(?:[^/\\]|\\.)+)/|\"(?P<double>(?:[^\"]|\"\")*)\"|`(?P<back>(?:[^`]|``)*)`|(?P<glob>[^.\s@][^.\s]*)"
)


def selects(rules: Sequence[str], schema: str, table: str) -> bool:
    """Whether the filter *rules* select *schema*.*table*; no rules select everything.

    >>> selects(["*.*", "!/^(mysql|test)$/.*"], "shop", "orders"), selects(["*.*", "!/^(mysql|test)$/.*"], "Test", "t")
    (True, False)
    """
    for rule in reversed(rules):
        positive = not rule.startswith("!")
        matched = _matches(rule.removeprefix("!"), schema, table)
        if matched is None:
            return True
        if matched:
            return positive
    return not rules


def literal(rule: str) -> bool:
    """Whether *rule* names exactly one table: it has neither wildcard nor regular expression, and does not leave out.

    >>> [literal(rule) for rule in ("shop.orders", '"a.b".`c*`', "shop.*", "/^s/.t", "!a.b", "shop")]
    [True, True, False, False, False, False]
    """
    first = _PART.match(rule)
    if rule.startswith("!") or first is None or rule[first.end() : first.end() + 1] != ".":
        return False
    second = _PART.fullmatch(rule, first.end() + 1)
    return second is not None and all(_is_name(part) for part in (first, second))


def _is_name(part: "re.Match[str]") -> bool:
    if part["regex"] is not None:
        return False
    return part["glob"] is None or not re.search(r"[*?\[]", re.sub(r"\\.", "", part["glob"]))


def _matches(rule: str, schema: str, table: str) -> bool | None:
    """None when *rule* is not understood."""
    first = _PART.match(rule)
    if first is None or rule[first.end() : first.end() + 1] != ".":
        return None
    second = _PART.fullmatch(rule, first.end() + 1)
    if second is None:
        return None
    try:
        return _part(first, schema) and _part(second, table)
    except re.error:
        return None


def _part(pattern: "re.Match[str]", name: str) -> bool:
    if (regex := pattern["regex"]) is not None:
        return re.search(regex, name, re.IGNORECASE) is not None
    for quote, text in (('"', pattern["double"]), ("`", pattern["back"])):
        if text is not None:
            return text.replace(quote * 2, quote).lower() == name.lower()
    return re.fullmatch(_glob(pattern["glob"]), name, re.IGNORECASE) is not None


def _glob(text: str) -> str:
    """A wildcard pattern as a regular expression; a backslash takes the next character as it is."""
    done, index = "", 0
    while index < len(text):
        char = text[index]
        end = text.find("]", index + 2) if char == "[" else -1
        if char == "\\" and index + 1 < len(text):
            index += 1
            done += re.escape(text[index])
        elif end > 0:
            inner = text[index + 1 : end]
            done += f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
            index = end
        else:
            done += {"*": ".*", "?": "."}.get(char) or re.escape(char)
        index += 1
    return done
