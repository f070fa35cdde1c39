"""Which CR a word on the command line means."""

from collections.abc import Mapping, Sequence
from typing import Final

from backup_manager.errors import NotFoundError, UsageError
from cli.documents import Object, Source, key_of

_SHORT: Final[Mapping[str, frozenset[str]]] = {
    "Backup": frozenset({"bk"}),
    "Restore": frozenset({"rt"}),
    "BackupSchedule": frozenset({"bks", "schedule"}),
    "CompactBackup": frozenset({"cpbk", "compact"}),
}
_NAMED: Final = 10


def choose(source: Source, word: str, kinds: Sequence[str]) -> Object:
    """The CR that *word* means, ``NAME`` or ``KIND/NAME``; without one the only CR of *kinds* there is. Raises UsageError and
    NotFoundError, naming what is there."""
    kind, _, name = word.rpartition("/")
    wanted = [known for known in kinds if not kind or _means(kind, known)]
    if not wanted:
        raise UsageError(f"{kind!r} is none of the kinds that go here", hint=f"Use one of {', '.join(kinds)}, in any case.")
    there = [cr for known in wanted for cr in source.list(known)]
    found = [cr for cr in there if not name or key_of(cr)[2] == name]
    if not found and name:
        raise NotFoundError(f"there is no {word!r} in {source.namespace}", hint=f"There are: {_list(there)}.")
    if not found:
        raise NotFoundError(f"there is no {' or '.join(wanted)} in {source.namespace}", hint="Look with: tidb-backup status -A")
    if len(found) > 1:
        raise UsageError(f"{word!r} means several" if word else "there are several", hint=f"Name one: {_list(found)}.")
    return found[0]


def _means(word: str, kind: str) -> bool:
    return word.lower() in {kind.lower(), f"{kind.lower()}s", *_SHORT[kind]}


def _list(crs: Sequence[Object]) -> str:
    names = [f"{key_of(cr)[0].lower()}/{key_of(cr)[2]}" for cr in crs]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none") + more
