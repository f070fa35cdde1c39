"""Where a value that is known to be secret stands in a text, in whatever form a program wrote it.

One expression a value takes each character raw, percent-encoded (once or more), or escaped as a shell, JSON, Go's ``%q``, Rust,
Python, C or XML do it, in any mixture; three more take the value inside base64, one for each place of its first byte in a group
of three. What makes the search fast: letters and digits are the same in all of these forms, so a text that holds no long run of
them holds no form either, and four bytes at every fourth place of the text are enough to know.
"""

import base64
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

SHORTEST: Final = 4
"""Characters. A shorter value (a password "a") would blank half of every line and so tell more than it hides: it is masked only
where a secret is expected (:mod:`backup_manager.secret_places`)."""
_WIDEST: Final = 40
"""Bytes that one character takes at most, in any form."""
_GRAM: Final = 4
_SAMPLED: Final = 2 * _GRAM - 1
"""A run of so many bytes holds four that begin at a multiple of four in the text."""
_RUN: Final = re.compile(rb"[A-Za-z0-9]+")
_LEAST: Final = 3
"""A shorter run of letters and digits is in too many texts to tell anything."""
_LETTERS: Final = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v", "\0": "0", "\x1b": "e"}
_ENTITIES: Final = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
_AMBIGUOUS: Final = re.compile(r"[%\\&']")
"""In :func:`_character` each character decides for itself; one that looks like the begin of a form could be missed."""
_PERCENT: Final = rb"%(?:25){0,2}"


class Known:
    """Values that are secret. *longest* is the number of bytes that a form of one of them takes at most."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.longest = 0
        self._patterns: list[re.Pattern[bytes]] = []
        self._by_gram: dict[int, set[int]] = {}
        self._by_run: list[tuple[bytes, int]] = []
        unguarded: list[bytes] = []
        for secret in sorted(set(secrets)):
            self.longest = max(self.longest, sum(1 if _plain(char) else _WIDEST for char in secret), 2 * len(_raw(secret)) + 8)
            for pattern, fixed in (written(secret), *_base64(secret)):
                run = max(_RUN.findall(fixed), key=len, default=b"")
                if len(run) < _LEAST:
                    unguarded.append(pattern)
                else:
                    self._guard(pattern, run)
        self._grams = frozenset(self._by_gram)
        self._always = re.compile(b"|".join(unguarded)) if unguarded else None

    def _guard(self, pattern: bytes, run: bytes) -> None:
        index = len(self._patterns)
        self._patterns.append(re.compile(pattern))
        if len(run) < _SAMPLED:
            self._by_run.append((run, index))
            return
        for start in range(_GRAM):
            gram = int.from_bytes(run[start : start + _GRAM], sys.byteorder)
            self._by_gram.setdefault(gram, set()).add(index)

    def patterns(self, text: bytes) -> Iterator[re.Pattern[bytes]]:
        """The expressions that *text* may match."""
        sample = memoryview(text)[: len(text) // _GRAM * _GRAM].cast("I")
        found = {index for gram in self._grams.intersection(sample) for index in self._by_gram[gram]}
        found.update(index for run, index in self._by_run if run in text)
        yield from (self._patterns[index] for index in sorted(found))
        if self._always:
            yield self._always


def written(secret: str) -> tuple[bytes, bytes]:
    """An expression for *secret* in every form but base64, and the bytes that letters and digits have in all of them.

    >>> expression, fixed = written("it's")
    >>> all(re.fullmatch(expression, form) for form in (b"it's", b"it%27s", rb"it\\u0027s", b"it&#39;s"))
    True
    """
    fixed = b"".join(char.encode() if _plain(char) else b" " for char in secret)
    if all(_plain(char) for char in secret):
        return fixed, fixed
    first, *rest = (_character(char, before) for char, before in zip(secret, ("", *secret), strict=False))
    tail = b"".join(b"(?>%b)" % b"|".join(forms) for forms in rest)
    whole = sorted(_whole(secret), key=len, reverse=True) if _AMBIGUOUS.search(secret) else ()
    # Every alternative begins with a fixed byte: the search then passes over all others quickly.
    return b"(?:%b)" % b"|".join((*map(re.escape, whole), *(form + tail for form in first))), fixed


def _plain(char: str) -> bool:
    """Whether nothing ever writes *char* in another way."""
    return char.isascii() and char.isalnum()


def _raw(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _whole(secret: str) -> set[bytes]:
    """*secret* as it is, and as a shell and a URL have it."""
    raw = _raw(secret)
    shell = {_raw(form) for form in (shlex.quote(secret), secret.replace("'", "'\"'\"'"), secret.replace("'", "'\\''"))}
    urls = {form.encode() for form in (quote(raw, safe=""), quote(raw), quote_plus(raw))}
    return {raw, secret.encode("utf-8", "surrogatepass"), *shell, *urls}


def _character(char: str, before: str) -> list[bytes]:
    """Expressions for *char*, longest first. The first that fits is taken for good, which keeps the search linear.

    A backslash *before* it in the secret has taken all backslashes of the text. Of several that stand before the first
    character of a secret the last is enough.
    """
    raw, number = _raw(char), ord(char)
    if _plain(char):
        return [raw]
    slashes = rb"\\\\{0,6}+" if before else rb"\\"
    letter = _LETTERS.get(char, "").encode()
    written = b"|".join((_numbered(number), *_bytewise(raw), *([letter] if letter else [])))
    escapes = b"(?=[uUxX0-3%b])(?i:%b)" % (letter, written)
    ahead = b"%%(?=[2%b%b])" % (b"%x" % (raw[0] >> 4), b"%X" % (raw[0] >> 4))  # fails soonest in a text of many "%"
    forms = [ahead + b"(?:25){0,2}(?i:%b)" % _PERCENT.join(b"%02x" % byte for byte in raw)]
    if char == "\\":
        return [*forms, slashes + escapes, rb"\\\\{0,7}+"] if before != char else [*forms, rb"\\{0,8}+"]
    forms.append(slashes + escapes)
    if before == "\\":
        forms.append(escapes)
    if char in _ENTITIES:
        forms.append(b"&(?i:(?:amp;)?(?:%b|#0*%d|#x0*%x);)" % (_ENTITIES[char].encode(), number, number))
    if char == "'":
        forms += [b"""'"'"'""", rb"'\\{1,7}+''"]
    if char == " ":
        forms.append(rb"\+")
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        forms += [char.encode("utf-8", "surrogatepass"), "\ufffd".encode(), slashes + b"ufffd"]
    if before and char.isascii():
        forms.append(slashes + re.escape(raw))
    return [*forms, re.escape(raw)]


def _numbered(number: int) -> bytes:
    """``u00e9``, ``U000000e9``, ``u{e9}``; a pair of surrogates beyond U+FFFF; ``xe9`` where Python writes so."""
    forms = [rb"U%08x" % number, rb"u\{0*%x\}" % number]
    if number > 0xFFFF:
        high, low = divmod(number - 0x10000, 0x400)
        forms.append(rb"u%04x\\{1,7}u%04x" % (0xD800 + high, 0xDC00 + low))
    else:
        forms.append(b"u%04x" % number)
    if number <= 0xFF:
        forms.append(b"x%02x" % number)
    return b"|".join(forms)


def _bytewise(raw: bytes) -> Iterator[bytes]:
    r"""``xc3\xa9`` and ``303\251``."""
    yield rb"\\{1,7}".join(b"x%02x" % byte for byte in raw)
    yield rb"\\{1,7}".join(b"%03o" % byte for byte in raw)


def _base64(secret: str) -> Iterator[tuple[bytes, bytes]]:
    """Expressions for *secret* inside base64 of a longer text, and what is the same in both alphabets.

    A base64 character holds six bits: those that the value shares with its neighbours are left out.
    """
    raw = _raw(secret)
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw)
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        core, rest = coded[first:last], coded[last:]
        fixed = re.sub(rb"[+/]", b" ", core)
        end = rest.rstrip(b"=")
        tail = rb"(?:%b(?:=|%b3[dD]|\\{1,7}u003[dD]){0,2})?" % (_base64_text(end), _PERCENT) if end else b""
        yield _base64_text(core) + tail, fixed


def _base64_text(coded: bytes) -> bytes:
    plus = rb"(?:[+-]|%b2[bB]|\\{1,7}u002[bB])" % _PERCENT
    slash = rb"(?:\\{0,7}[/_]|%b2[fF])" % _PERCENT
    return b"".join({b"+": plus, b"/": slash}.get(byte, byte) for byte in (coded[at : at + 1] for at in range(len(coded))))
