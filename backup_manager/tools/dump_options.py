"""The user's options of dumpling: which kinds of objects they leave out, and which of them no import could follow.

An export that lightning cannot load, or loads wrongly, is refused before the dump.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backup_manager.errors import UsageError

_SHORT: Final = {"-W": "--no-views", "-m": "--no-schemas", "-S": "--sql", "-o": "--output", "-L": "--logfile"}
_OURS: Final = frozenset({"--no-views", "--no-sequences"})
_FORMAT: Final = "the import reads dumpling's default format, and would load other rows than were exported"
_REFUSED: Final[Mapping[str, str]] = {
    "--sql": "the result of a query belongs to no table, so no import can load it; use --where or spec.tableFilter",
    "--output": "the spec's storage decides where the export goes",
    "--output-filename-template": "the import finds tables by dumpling's default file names",
    "--csv-separator": _FORMAT,
    "--csv-delimiter": _FORMAT,
    "--csv-null-value": _FORMAT,
    "--csv-line-terminator": _FORMAT,
    "--csv-output-dialect": _FORMAT,
    "--no-header": _FORMAT,
    "--logfile": "dumpling's log on its output says whether it succeeded",
}
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """*words* are those for dumpling itself. *views*, *sequences*: whether the export holds them."""

    words: Sequence[str]
    views: bool = True
    sequences: bool = True
    schemas: bool = True


def read(spec: Mapping[str, Any], default: Sequence[str]) -> DumpOptions:
    """From ``spec.dumpling.options``. Raises UsageError for one that no import could follow.

    >>> read({"dumpling": {"options": ["--threads=4", "--no-views", "--no-sequences=false"]}}, ())
    DumpOptions(words=['--threads=4'], views=False, sequences=True, schemas=True)
    """
    given = [str(word) for word in (spec.get("dumpling") or {}).get("options") or default]
    words: list[str] = []
    said = {"--no-views": False, "--no-sequences": False, "--no-schemas": False}
    for word, flag, value in _flags(given):
        if flag in said:
            said[flag] = _boolean(word, value)
        if flag == "--escape-backslash" and not _boolean(word, value):
            _refuse(word, _FORMAT)
        if (why := _REFUSED.get(flag)) and not (flag == "--no-header" and not _boolean(word, value)):
            _refuse(word, why)
        if flag not in _OURS:
            words.append(word)
    return DumpOptions(
        words=words,
        views=not (said["--no-views"] or said["--no-schemas"]),
        sequences=not (said["--no-sequences"] or said["--no-schemas"]),
        schemas=not said["--no-schemas"],
    )


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Each word, the long name of the flag in it (empty for a value that stands alone), and the value after ``=``."""
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-") and not word.startswith("--"):
            name, equals, value = word[:2], "=" if word[2:] else "", word[2:].removeprefix("=")
        yield word, _SHORT.get(name, name if name.startswith("--") else ""), value if equals else None


def _boolean(word: str, value: str | None) -> bool:
    if value is None or value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise UsageError(f"spec.dumpling.options: {word!r} is neither true nor false", hint="Write =true or =false.")


def _refuse(word: str, why: str) -> None:
    raise UsageError(f"spec.dumpling.options: {word!r} is refused: {why}", hint="Remove this option; nothing was dumped.")
