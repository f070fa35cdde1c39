"""Secrets never leave the process: every line that is logged, reported or raised goes through one :class:`Masker`.

Two nets. Values that we were given as secrets (passwords, keys, tokens from the environment and the CR) are replaced wherever
they appear, in every form that a program gives them (:mod:`backup_manager.secret_forms`); and the well-known places of a secret
are blanked whatever stands there, since tools print what they were given in their own form
(:mod:`backup_manager.secret_places`).

Both look at UTF-8 bytes, at a whole block of lines at once, and only tell where something is; it is cut out in one go.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Final
from urllib.parse import unquote

from backup_manager.secret_forms import SHORTEST, Known
from backup_manager.secret_places import Places, Span, is_secret, unfinished

MASK: Final = "******"
MOST: Final = 300
"""Places that are masked one by one in a line; what comes after them is left out. Nobody reads such a line, and a hostile one
that consists of nothing else would cost three times what any other does."""
LEFT_OUT: Final = f"{MASK} (the rest of this line is left out)"

SECRET_VARIABLES: Final = (
    "BACKUP_MANAGER_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GCS_SERVICE_ACCOUNT_JSON_KEY",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
)
_SHORT_FLAG: Final = re.compile(r"-(?!pd-urls\b)[dmVW]*p")
"""dumpling's password, also behind switches that take no value (``-Wp``); ``-pd-urls`` is a flag of lightning."""
_SHORTEST_LINE: Final = 16
"""Characters: a shorter line of a secret of several lines (``}``, ``"type": "x",``) stands in too many texts."""


class Masked(str):
    """Text that went through a :class:`Masker`: whoever logs it need not do it again. Anything made from it is a plain text."""

    __slots__ = ()


class Masker:
    """Replaces secrets in text.

    >>> Masker(["hunter22"])("--password=abc and hunter22")
    '--password=****** and ******'
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        values = set(secrets)
        self._known = Known(secret for secret in values if len(secret) >= SHORTEST)
        self._expected = Places([secret for secret in values if len(secret) < SHORTEST])

    def __call__(self, text: str) -> str:
        """*text* without secrets."""
        return self._masked(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """*argv* without secrets, argument by argument: quoting first would change the look of a known value."""
        starts = _secret_parts(argv)
        return [
            self(argument) if start is None else argument[:start] + MASK for argument, start in zip(argv, starts, strict=True)
        ]

    def block(self, block: bytes, *, cut: bool = False) -> Masked:
        """*block* (whole lines of a log) without secrets. When it is *cut* it is the beginning of a line, and its last part is
        left out: a secret may begin there whose end is not known."""
        shown = self._masked(block)
        if cut:
            shown = shown[: max(0, len(shown) - self._known.longest)]
            shown = shown[: unfinished(shown)] + LEFT_OUT.encode()
        return Masked(shown.decode("utf-8", "replace"))

    def value(self, value: Any) -> Any:
        """*value* (JSON-like) with every text in it masked."""
        match value:
            case str():
                return self(value)
            case dict():
                return {key: MASK if _is_secret_field(key, item) else self.value(item) for key, item in value.items()}
            case list() | tuple() if value and all(isinstance(item, str) for item in value):
                return self.argv(value)
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def _masked(self, text: bytes) -> bytes:
        places = sorted(self._places(text))
        if len(places) <= MOST:
            return _without(text, places)
        middle = len(text) // 2
        if (at := text.find(b"\n", middle)) >= 0 or (at := text.rfind(b"\n", 0, middle)) >= 0:
            return b"\n".join((self._masked(text[:at]), self._masked(text[at + 1 :])))
        return _without(text[: places[MOST][0]], places[:MOST]) + LEFT_OUT.encode()

    def _places(self, text: bytes) -> Iterator[Span]:
        """Where secrets are, in any order; of each kind at most one more than :data:`MOST`."""
        known = ((found.span() for found in pattern.finditer(text)) for pattern in self._known.patterns(text))
        for places in chain(known, self._expected.spans(text)):
            yield from islice(places, MOST + 1)


def _without(text: bytes, places: Iterable[Span]) -> bytes:
    """*text* with *places* (in order; they may overlap) masked."""
    shown, done = list[bytes](), -1
    for start, end in places:
        if start > done and end > start:
            shown += text[max(done, 0) : start], MASK.encode()
        if end > start:
            done = max(done, end)
    return b"".join((*shown, text[max(done, 0) :]))


def _is_secret_field(name: Any, item: Any) -> bool:
    return isinstance(item, str) and bool(item) and isinstance(name, str) and is_secret(name)


def _secret_parts(argv: Sequence[str]) -> Iterator[int | None]:
    """For each argument the index from which on it is the value of a secret flag, or None."""
    after = False
    for argument in argv:
        flag, assigned, _ = argument.partition("=")
        start: int | None = None
        if after:
            start, after = 0, False
        elif short := _SHORT_FLAG.match(argument):
            after = short.end() == len(argument)
            start = None if after else short.end() + argument.startswith("=", short.end())
        elif flag.startswith("-") and is_secret(flag):
            after = not assigned
            start = len(flag) + 1 if assigned else None
        yield start


def secrets_of(env: Mapping[str, str], spec: Mapping[str, Any]) -> list[str]:
    """The secret values that this run knows: from the environment, and those that the CR itself holds (an Azure ``sasToken``, a
    secret flag among the options of a tool)."""
    variables = [f"{prefix}{name}" for prefix in ("", "FULL_BACKUP_") for name in SECRET_VARIABLES]
    found = [*(env[name] for name in variables if env.get(name)), *_values_in(spec)]
    found += [stripped for secret in found if (stripped := secret.strip()) != secret]  # as it is used
    return list(dict.fromkeys(chain(found, *(_parts(secret) for secret in found))))


def _values_in(document: Any) -> Iterator[str]:
    match document:
        case Mapping():
            for name, item in document.items():
                if _is_secret_field(name, item):
                    yield item
                else:
                    yield from _values_in(item)
            if _is_secret_field(document.get("name"), document.get("value")):  # a variable of the Pod
                yield document["value"]
        case list() | tuple() if all(isinstance(item, str) for item in document):
            parts = zip(document, _secret_parts(document), strict=True)
            yield from (argument[start:] for argument, start in parts if start is not None and argument[start:])
        case list() | tuple():
            for item in document:
                yield from _values_in(item)


def _parts(secret: str) -> Iterator[str]:
    """What tools log alone: the signature in an Azure SAS token, as written and decoded, the key in a connection string or in a
    document, and the lines of a secret that has several."""
    for part in re.split(r"[;&?]", secret):
        name, _, value = part.partition("=")
        if value and is_secret(name):
            yield from (value, unquote(value))
    if secret.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            for value in _values_in(json.loads(secret)):
                yield value
                yield from _lines(value)
    yield from _lines(secret)


def _lines(secret: str) -> Iterator[str]:
    if "\n" in secret:
        yield from (line for line in map(str.strip, secret.splitlines()) if len(line) >= _SHORTEST_LINE)
