"""Image names taken apart, and TiKV versions compared.

TiDB Operator 1.6 takes the text after the last colon for the tag, which breaks on ``registry:5000/br`` and on digests; here an
image has a repository, a tag and a digest, each of which may be missing.
"""

import re
from dataclasses import dataclass
from typing import Final

_VERSION: Final = re.compile(
    r"v?(?P<major>[0-9]{1,9})(?:\.(?P<minor>[0-9]{1,9}))?(?:\.(?P<patch>[0-9]{1,9}))?"
    r"(?:-(?P<pre>[0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
_DIGITS: Final = 100
"""Python refuses to read a number of thousands of digits."""
_Key = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A container image; *tag* and *digest* (``sha256:...``) are empty when not given."""

    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def pinned(self) -> bool:
        """Whether the name says which build is meant, so that no tag may be added."""
        return bool(self.tag or self.digest)

    def with_tag(self, tag: str) -> str:
        """The image's name, with *tag* when it has neither tag nor digest of its own and *tag* is not empty.

        >>> split_image("registry:5000/pingcap/br").with_tag("v8.5.0")
        'registry:5000/pingcap/br:v8.5.0'
        >>> split_image("pingcap/br:nightly").with_tag("v8.5.0")
        'pingcap/br:nightly'
        """
        return str(self) if self.pinned or not tag else f"{self.repository}:{tag}"

    def __str__(self) -> str:
        """The name as it is written in a Pod."""
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{self.repository}{tag}{digest}"


def split_image(image: str) -> Image:
    """Take the name *image* apart.

    >>> split_image("localhost:5000/pingcap/tikv:v8.5.0")
    Image(repository='localhost:5000/pingcap/tikv', tag='v8.5.0', digest='')
    >>> split_image("pingcap/tikv:v8.5.0@sha256:abc")
    Image(repository='pingcap/tikv', tag='v8.5.0', digest='sha256:abc')
    """
    name, _, digest = image.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return Image(repository=f"{path}{slash}{last}", tag=tag, digest=digest)


def at_least(version: str, minimum: str, *, unparsable: bool = True) -> bool:
    """Whether *version* is *minimum* or newer, by the rules of semantic versions; a missing part is 0.

    A version that is none (``nightly``, ``latest``, empty) answers *unparsable*: TiDB Operator's checks take such a build for
    new, so that is the default.

    >>> at_least("v8.5.0", "v6.5.1"), at_least("v6.5.0", "v6.5.1"), at_least("nightly", "v6.5.1")
    (True, False, True)
    >>> at_least("v6.1.0-alpha", "v6.1.0"), at_least("v6.1.0-alpha", "v6.1.0-0")
    (False, True)
    """
    key, floor = _key(version), _key(minimum)
    if floor is None:
        raise ValueError(f"{minimum!r} is no version")
    return unparsable if key is None else key >= floor


def _key(version: str) -> _Key | None:
    match = _VERSION.fullmatch(version)
    if match is None:
        return None
    major, minor, patch = (int(match[part] or 0) for part in ("major", "minor", "patch"))
    before = (match["pre"] or "").split(".") if match["pre"] else []
    # Numbers sort before words, and a release after everything that precedes it.
    parts = tuple((not part.isdigit(), int(part[:_DIGITS]) if part.isdigit() else 0, part) for part in before)
    return major, minor, patch, not before, parts
