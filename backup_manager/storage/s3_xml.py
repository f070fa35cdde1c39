"""The XML of S3, read with patterns instead of a tree.

Two reasons. A clean reads millions of keys, and a tree costs several times more than the keys. And servers answer keys with
control characters as ``&#x1;``, which XML 1.0 forbids and a conforming parser refuses, although the key is there and must go.
The texts that S3 sends have no attributes, comments or CDATA where we look, and never an unescaped ``<``.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from backup_manager.storage.base import ObjectInfo, Target

_KEY: Final = re.compile(r"<Key>([^<]*)</Key>")
_SIZE: Final = re.compile(r"<Size>(\d+)</Size>")
_CONTENTS: Final = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_ENTRY: Final = re.compile(r"<(Version|DeleteMarker)>(.*?)</\1>", re.DOTALL)
_UPLOAD: Final = re.compile(r"<Upload>(.*?)</Upload>", re.DOTALL)
_ERROR: Final = re.compile(r"<Error>(.*?)</Error>", re.DOTALL)
_ENCODED: Final = re.compile(r"<(Key|NextKeyMarker)>([^<]*)</\1>")
_REFERENCE: Final = re.compile(r"&(?:#x([0-9a-fA-F]+)|#(\d+)|(amp|lt|gt|quot|apos));")
_NAMED: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_UNWRITABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
REPLACEMENT: Final = "\ufffd"
"""What some servers write in place of a character that XML cannot carry: the key must then be asked for in another form."""


def unescape(text: str) -> str:
    """*text* with its references resolved, also those that XML 1.0 forbids.

    >>> unescape("a&amp;lt;&#x1;")
    'a&lt;\\x01'
    """
    return _REFERENCE.sub(_resolve, text) if "&" in text else text


def escape(text: str) -> str:
    """*text* as the content of an element."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _resolve(match: re.Match[str]) -> str:
    hexadecimal, decimal, name = match.groups()
    return _NAMED[name] if name else chr(int(hexadecimal, 16) if hexadecimal else int(decimal))


def field(text: str, tag: str) -> str:
    """The first *tag* in *text*, unescaped; empty when there is none."""
    start = text.find(f"<{tag}>")
    if start < 0:
        return ""
    start += len(tag) + 2
    return unescape(text[start : text.find("</", start)])


def decode_keys(text: str) -> str:
    """A page that was asked for with ``encoding-type=url``, in the ordinary form; unchanged when the server ignored it."""
    if field(text, "EncodingType") != "url":
        return text
    return _ENCODED.sub(
        lambda match: f"<{match[1]}>{escape(unquote_plus(match[2], errors='surrogateescape'))}</{match[1]}>", text
    )


def writable(key: str) -> bool:
    """Whether *key* survives the way through XML. Others are named in a URL instead."""
    return key.isprintable() or not _UNWRITABLE.search(key)  # the first is quick, and true of most


def keys_and_sizes(text: str) -> list[tuple[str, int]]:
    """Key and size of every object of a page: the fast lane of a clean."""
    keys, sizes = _KEY.findall(text), _SIZE.findall(text)
    if len(keys) != len(sizes):  # an object without a size, or a key elsewhere: take the slow lane
        return [(info.key, info.size) for info in objects(text)]
    if "&" in text:
        keys = [unescape(key) for key in keys]
    return list(zip(keys, map(int, sizes), strict=True))


def objects(text: str) -> Iterator[ObjectInfo]:
    """Every object of a page."""
    for part in _CONTENTS.findall(text):
        yield ObjectInfo(
            key=field(part, "Key"),
            size=int(field(part, "Size") or 0),
            etag=field(part, "ETag").strip('"'),
            modified=_time(field(part, "LastModified")),
        )


def versions(text: str) -> Iterator[Target]:
    """Every version and delete marker of a page."""
    for _, part in _ENTRY.findall(text):
        yield Target(field(part, "Key"), field(part, "VersionId") or None, int(field(part, "Size") or 0))


def uploads(text: str) -> Iterator[tuple[str, str]]:
    """Key and id of every unfinished upload of a page."""
    for part in _UPLOAD.findall(text):
        yield field(part, "Key"), field(part, "UploadId")


class Failure(NamedTuple):
    """One error of a batch deletion."""

    key: str
    version: str | None
    code: str
    message: str


def failures(text: str) -> list[Failure]:
    """The errors inside a batch deletion's 200."""
    return [
        Failure(field(part, "Key"), field(part, "VersionId") or None, field(part, "Code"), field(part, "Message"))
        for part in _ERROR.findall(text)
    ]


def delete_body(keys: Sequence[tuple[str, str | None]]) -> bytes:
    """The request of a batch deletion; *keys* are :func:`writable`. Quiet: only errors come back."""
    text = "".join([key for key, _ in keys])
    if any(mark in text for mark in "&<>"):  # looked for in all keys at once, which costs less than in each
        keys = [(escape(key), version) for key, version in keys]
    parts = [
        f"<Object><Key>{key}</Key></Object>"
        if version is None
        else f"<Object><Key>{key}</Key><VersionId>{escape(version)}</VersionId></Object>"
        for key, version in keys
    ]
    head = '<?xml version="1.0" encoding="UTF-8"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>'
    return f"{head}{''.join(parts)}</Delete>".encode()


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
