"""Reading the text log that br, dumpling and lightning share: ``[time] [LEVEL] [file:line] [message] [key=value] ...``."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

_ERROR_LEVELS: Final = frozenset({"ERROR", "FATAL", "PANIC"})
_FIELD: Final = re.compile(r'"?(?P<key>[^"=]+)"?=(?P<value>.*)', re.DOTALL)
_OPERATION_KEY: Final = re.compile(r"[A-Za-z0-9_]+")
_PROGRESS: Final = re.compile(r'\[progress\] \[step=(?:"(?P<quoted>.*?)"|(?P<plain>[^\]"]*))\] \[progress=(?P<percent>.*?)%\]')
_REMAINING: Final = re.compile(r"\[remaining=(?P<remaining>[^\]]+)\]")
_OPERATION: Final = "BR operation started"


def tokens(line: str) -> Iterator[str]:
    """The bracketed parts of a log line. A ``]`` inside double quotes ends nothing; a backslash escapes only there.

    >>> list(tokens('[a] x ["b]c"] [d="e\\\\"]f"] [open'))
    ['a', '"b]c"', 'd="e\\\\"]f"']
    """
    position = 0
    while (start := line.find("[", position)) >= 0:
        index, quoted = start + 1, False
        while index < len(line):
            char = line[index]
            if char == "\\" and quoted:
                index += 1
            elif char == '"':
                quoted = not quoted
            elif char == "]" and not quoted:
                break
            index += 1
        else:
            return
        if index >= len(line):
            return
        yield line[start + 1 : index]
        position = index + 1


def is_error_line(line: str) -> bool:
    """Whether *line* is logged at ERROR, FATAL or PANIC. A JSON line never is.

    >>> is_error_line('[2026/01/01 00:00:00.000 +00:00] [ERROR] [main.go:1] ["br failed"]')
    True
    """
    return any(token.strip().upper() in _ERROR_LEVELS for token in tokens(line)) if "[" in line else False


def fields(line: str) -> dict[str, str]:
    """The ``key=value`` parts, values unquoted.

    >>> fields('[x] [progress] ["finished rows"=12] [step="Full Backup"]')
    {'finished rows': '12', 'step': 'Full Backup'}
    """
    found = {}
    for token in tokens(line):
        if match := _FIELD.fullmatch(token):
            found[match["key"]] = unquote(match["value"])
    return found


def unquote(text: str) -> str:
    """*text* without Go's quotes and escapes, as it is when it has none."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text[1:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One progress line of br; *percent* is None where br prints ``?``."""

    step: str
    percent: float | None
    remaining: str = ""


def progress(line: str) -> Progress | None:
    """The progress that *line* tells, its step quoted or (``step=Checksum``) not.

    >>> progress('[progress] [step="Full Restore"] [progress=10.9%] [remaining=2.5s]')
    Progress(step='Full Restore', percent=10.9, remaining='2.5s')
    >>> progress('[progress] [step=Checksum] [progress=?%]')
    Progress(step='Checksum', percent=None, remaining='')
    """
    match = _PROGRESS.search(line)
    if match is None:
        return None
    try:
        percent: float | None = float(match["percent"])
    except ValueError:
        percent = None
    rest = _REMAINING.search(line, match.end())
    step = match["quoted"] if match["quoted"] is not None else match["plain"]
    return Progress(step=step, percent=percent, remaining=rest["remaining"] if rest else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation that a newer br announces, for ``status.brOperations``."""

    operation_id: str
    command: str = ""
    started_at: str = ""
    observed_at: str = field(default="")


def operation(line: str) -> Operation | None:
    """The operation that *line* announces: the unquoted message ``BR operation started`` with an ``operation_id``."""
    if _OPERATION not in line:
        return None
    announced, observed, found = False, "", dict[str, str]()
    for token in tokens(line):
        key, equals, value = token.partition("=")
        if equals and _OPERATION_KEY.fullmatch(key):
            found[key] = unquote(value)
        elif unquote(token) == _OPERATION:
            announced = True
        elif moment := _time(token):
            observed = moment
    if not announced or not found.get("operation_id"):
        return None
    return Operation(
        operation_id=found["operation_id"],
        command=found.get("command", ""),
        started_at=found.get("operation_started_at", ""),
        observed_at=observed,
    )


def _time(token: str) -> str:
    try:
        return datetime.strptime(token, "%Y/%m/%d %H:%M:%S.%f %z").isoformat()
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(token).isoformat() if "T" in token else ""
    except ValueError:
        return ""
