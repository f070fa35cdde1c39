"""Secrets in the user's options of br and dumpling (``spec.br.options``, ``spec.dumpling.options``).

Whoever sees a process sees its argv, so a secret goes to the tool by a file or a variable wherever the tool reads one. The
account key and the token of Azure go into the environment of the whole run: our own client then enters with what the tool
enters with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backup_manager import private_files
from backup_manager.errors import UsageError

_FILES: Final = {"--crypter.key": "--crypter.key-file", "--log.crypter.key": "--log.crypter.key-file"}
"""br takes the content of the file for the key."""
_VARIABLES: Final = {"--azblob.encryption-key": "AZURE_ENCRYPTION_KEY"}
"""br and dumpling read the variable when there is no flag."""
_OF_THE_STORAGE: Final = {"--azblob.account-key": "AZURE_STORAGE_KEY", "--azblob.sas-token": "AZURE_STORAGE_SAS_TOKEN"}
_WEAKER: Final = {"AZURE_STORAGE_KEY": ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID")}
"""The tools prefer the key of a flag to an application, and an application to the key of the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How a tool is told the same without a secret in its argv; *env* is added to its environment."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def environment(env: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, str]:
    """*env* with the keys of a storage that the options of *spec* hold.

    >>> environment({}, {"br": {"options": ["--azblob.account-key", "a2V5", "--ratelimit=5"]}})["AZURE_STORAGE_KEY"]
    'a2V5'
    """
    found = dict(env)
    for tool in ("br", "dumpling"):
        for flag, value, _ in _flags([str(word) for word in (spec.get(tool) or {}).get("options") or ()]):
            if value and (variable := _OF_THE_STORAGE.get(flag)):
                found |= {variable: value} | dict.fromkeys(_WEAKER.get(variable, ()), "")
    return found


def told(argv: Sequence[str], folder: Path) -> Told:
    """*argv* with its secrets in *folder* and in variables. As with the flags themselves, the last of several counts.

    Raises UsageError where both a key and its file are given, which br refuses too.
    """
    words: list[str] = []
    env: dict[str, str] = {}
    given = {flag for flag, _, _ in _flags(argv)}
    for flag, value, same in _flags(argv):
        if flag in _FILES and value:
            if _FILES[flag] in given:
                raise UsageError(f"spec.br.options: {flag} and {_FILES[flag]} are both given", hint="Remove one of them.")
            name = flag.removeprefix("--")
            words.append(f"{_FILES[flag]}={private_files.write(folder / name, value)}")
        elif flag in _VARIABLES and value:
            env[_VARIABLES[flag]] = value
        elif not (flag in _OF_THE_STORAGE and value):
            words += same
    return Told(argv=words, env=env)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Each flag with its value and the words that it was given in; of a flag that is none of ours, the word alone."""
    known = {*_FILES, *_VARIABLES, *_OF_THE_STORAGE}
    left = iter(words)
    for word in left:
        flag, equals, value = word.partition("=")
        if flag in known and not equals:
            following = next(left, None)
            yield flag, following or "", [word] if following is None else [word, following]
        else:
            yield flag, value, [word]
