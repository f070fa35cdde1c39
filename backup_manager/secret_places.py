"""Where a secret is expected, whatever its value: after a name that promises one, and between a user's name and a host.

Tools print what they were given in their own way: ``--password=x``, ``"sas-token":"x"``, ``AWS_SECRET_ACCESS_KEY=x``,
``Authorization: Bearer x``, ``user:x@host``. Every expression begins with fixed letters and is left as soon as it cannot match,
so that a line costs linear time whatever it holds. Nothing reaches beyond the end of a line.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from backup_manager import secret_forms

NAMES: Final = (
    "authorization",
    "client-secret",
    "connection-string",
    "credential",
    "credentials",
    "access-key",
    "account-key",
    "crypter-key",
    "encryption-key",
    "json-key",
    "master-key",
    "private-key",
    "secret-key",
    "storage-key",
    "storage-base64",
    "passwd",
    "password",
    "pwd",
    "sig",
    "signature",
    "token",
)
"""How every name ends whose value is a secret: of a flag (``--azblob.account-key``), a variable (``AWS_SECRET_ACCESS_KEY``), a
parameter of a URL (``sig``), a header, a field of JSON (``secretAccessKey``). Letter case, and what stands between the words
(``-``, ``_``, ``.`` or nothing), make no difference."""
_WHOLE: Final = ("pwd", "sig")
"""These are also the ends of harmless names ("design"), so no letter may stand before them."""

_BY_STEM: Final = {
    stem: [name for name in NAMES if name.rpartition("-")[2].startswith(stem)]
    for stem in ("authorization", "base64", "credential", "key", "passw", "pwd", "secret", "sig", "string", "token")
}
"""The names by the letters that their last word begins with: these are looked for first, and few texts hold them."""
_SECRET_NAME: Final = re.compile(
    "|".join(("(?<![a-z0-9])" if name in _WHOLE else "") + name.replace("-", "-?") + "$" for name in NAMES)
)
_FOLD: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_.", b"abcdefghijklmnopqrstuvwxyz--")
_NAME_BYTES: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_LONGEST_NAME: Final = 64
_BLANK: Final = rb"[ \t\r\v\f]"
_QUOTE: Final = rb"\\{0,7}[\"']?"
_SCHEMES: Final = rb"(?:bearer|basic|digest|negotiate|sharedkey(?:lite)?|aws4-hmac-sha256)"
_ASSIGN: Final = rb"(?:(?:=>|:=)(?=\s)|[=:]|%(?:25){0,2}3d|\\{1,7}u003d)"
_ASSIGNED: Final = 5
"""Groups of :func:`_value`."""
_DELIMITERS: Final = (b" ", b"\t", b"\n", b"\r", b"\v", b"\f", b'"', b"'")
_HOST: Final = rb"@(?=[\w\[(./\-\x80-\xff])"
_USER_INFO: Final = re.compile(rb":[^\s\"':]*" + _HOST)
"""The last colon before a host. A run without blanks and quotes has one exactly when a colon stands before a host somewhere."""
_TO_LAST_DELIMITER: Final = re.compile(rb"(?s:.*)[\s\"']")
_TO_LAST_HOST: Final = re.compile(rb"[^\s\"']*" + _HOST)

Span = tuple[int, int]


def is_secret(name: str) -> bool:
    """Whether a flag, variable or field of this *name* holds a secret.

    >>> [is_secret(name) for name in ("--s3.access-key", "sasToken", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "design")]
    [True, True, True, False, False]
    """
    return _SECRET_NAME.search(name.lower().replace("_", "-").replace(".", "-")) is not None


class Places:
    """Finds the places. *short* are known values that are too short to be looked for everywhere."""

    def __init__(self, short: Sequence[str] = ()) -> None:
        values = sorted({secret for secret in short if secret}, key=len, reverse=True)
        folded = _any(secret.lower().replace("_", "-").replace(".", "-") for secret in values)
        self._named = [(stem.encode(), re.compile(_named(stem, names, folded))) for stem, names in _BY_STEM.items()]
        known = _any(values)
        at_host, after_flag = rb":(%b)%b" % (known, _HOST), rb"-p(?<![^\s\"'\[(,]-p)[ =]?(%b)(?=[\s\"'\]),]|\Z)" % known
        self._short = re.compile(b"%b|%b" % (at_host, after_flag)) if values else None

    def spans(self, text: bytes) -> Iterator[Iterator[Span]]:
        """One iterator over places, in order, for each expression. An empty place counts as work done, and hides nothing."""
        folded = text.translate(_FOLD)
        for stem, pattern in self._named:
            if stem in folded:
                yield _values(pattern, text, folded)
        if b"@" in text:
            yield _user_infos(text)
        if self._short:
            yield (found.span(found.lastindex or 0) for found in self._short.finditer(text))


def unfinished(text: bytes) -> int:
    """From where on *text*, the beginning of a longer line, may be a user's password whose host has not come yet."""
    start = max(text.rfind(delimiter) for delimiter in _DELIMITERS) + 1
    colon = text.find(b":", start)
    return colon + 1 if colon >= 0 else len(text)


def _any(secrets: Iterable[str]) -> bytes:
    return b"|".join(secret_forms.written(secret)[0] for secret in secrets)


def _name(stem: str, names: Sequence[str]) -> bytes:
    """An expression for *names*, whose last word begins with *stem*: fixed letters are found fastest."""
    word = stem.encode()
    ends = b"|".join(sorted({name.rpartition("-")[2].removeprefix(stem).encode() for name in names}, reverse=True))
    if stem in _WHOLE:
        return rb"%b(?:(?<![a-z0-9]%b)|(?<=u00[0-9a-f][0-9a-f]%b)|(?<=%%[0-9a-f][0-9a-f]%b))(?:%b)" % (
            word,
            word,
            word,
            word,
            ends,
        )
    if "-" not in names[0]:
        return b"%b(?:%b)" % (word, ends)
    ahead = rb"%b(?=[\\\"'\s=:,%%\x80-\xff])" % word
    return ahead + b"(?:%b|%b)" % tuple(
        _after([name.replace("-", joint) for name in names], word, joint) for joint in ("-", "")
    )


def _after(names: Sequence[str], word: bytes, joint: str) -> bytes:
    """A condition on what stands before the end of *word*: one of *names*. Most texts are told apart by one letter."""
    letters = b"".join(sorted({name.encode().removesuffix(word)[-1 - len(joint)].to_bytes(1, "big") for name in names}))
    by_length = groupby(sorted(names, key=len), key=len)
    whole = b"|".join(b"(?<=%b)" % b"|".join(name.encode() for name in group) for _, group in by_length)
    return b"(?<=[%b]%b%b)(?:%b)" % (letters, joint.encode(), word, whole)


def _named(stem: str, names: Sequence[str], short: bytes) -> bytes:
    """An expression for a name and its value, on folded text. Groups 1 to 5 are a value that is assigned, 6 to 10 one that only
    follows: it counts after a flag alone, and is not consumed, since it may be a name itself."""
    value = _value(short)
    assigned = rb"[ \t\r\v\f\x80-\xff]*+%b%b*+%b" % (_ASSIGN, _BLANK, value)
    follows = rb"(?:%b*+,%b*+|%b++)(?=%b)" % (_BLANK, _BLANK, _BLANK, value)
    return rb"%b%b(?:%b|%b)" % (_name(stem, names), _QUOTE, assigned, follows)


def _value(short: bytes) -> bytes:
    """An expression for a value: to its closing quote, else to what ends a value in a URL, a list or a log's field."""
    escaped = rb"\\{1,7}\"((?:[^\"\\\n]++|\\{3}\"|\\(?!\"))++)"
    double = rb"\"((?:[^\"\\\n]++|\\[^\n])++)"
    single = rb"\\{0,7}'((?:[^'\\\n]++|\\[^\n]|'(?:\"'\"'|\\''|'))++)"
    plain = rb"[^\s&\"'\\,\]})]"
    known = rb"(%b)(?=[\s&\"',\]})]|\Z)" % (short or b"(?!)")
    bare = rb"\\{0,7}((?:[\[({<]{0,3}%b%b++)?%b++)" % (_SCHEMES, _BLANK, plain)
    return rb"(?:%b|(?:[\[({<]|\xc2\xa0){0,3}+(?:%b|%b|%b)|%b)" % (known, escaped, double, single, bare)


def _values(pattern: re.Pattern[bytes], text: bytes, folded: bytes) -> Iterator[Span]:
    at = 0
    while found := pattern.search(folded, at):
        group = found.lastindex or 0
        start, end = found.span(group)
        follows = group > _ASSIGNED and not _is_flag(folded, found.start())
        answer = text[start:end] in (b"YES", b"NO") and text[end : end + 1] == b")"  # "(using password: YES)"
        yield (start, start) if follows or answer else (start, end)
        at = max(found.start() + 1, found.end() - _LONGEST_NAME)  # what was taken for a value may end with a name


def _is_flag(folded: bytes, end: int) -> bool:
    """Whether the name that goes on at *end* begins with a dash."""
    before = folded[max(0, end - _LONGEST_NAME) : end]
    return before[len(before.rstrip(_NAME_BYTES)) :].startswith(b"-")


def _user_infos(text: bytes) -> Iterator[Span]:
    """From the first colon of a run without blanks and quotes to the last host in it: a password may hold colons and ``@``."""
    done = 0
    while found := _USER_INFO.search(text, done):
        before = _TO_LAST_DELIMITER.match(text, done, found.start())
        start = text.index(b":", before.end() if before else done) + 1
        end = (_TO_LAST_HOST.match(text, found.start()) or found).end() - 1
        yield start, max(start, end)
        done = end
