"""Where data lies: one place that turns a storage spec into a location, and a location into text and back.

The text is TiDB Operator 1.6's ``status.backupPath``: ``s3://bucket/prefix``, ``gcs://bucket/prefix/``,
``azure://container/prefix/``, ``local:///mount/prefix``. Unlike there, one rule serves the status, the tools and our own
storage drivers, and a prefix that could leave its bucket (``..``) is refused instead of collapsed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from posixpath import dirname, normpath
from typing import Any, Final, Self


class PathError(ValueError):
    """A storage path that cannot be used; the text names the field and the fix."""


class Provider(StrEnum):
    """Field name of a storage in the spec. The order is the order of precedence upstream."""

    S3 = "s3"
    GCS = "gcs"
    AZBLOB = "azblob"
    LOCAL = "local"


RECORD_SUFFIX: Final = ".record.json"
OBJECTS_SUFFIX: Final = ".objects.gz"
CONTENT_SUFFIX: Final = ".content.gz"
READERS_SUFFIX: Final = ".readers"
HISTORY_FOLDER: Final = ".history"
PROBE: Final = ".tidb-backup-probe-"
"""How the name of an object begins that only tries what may be done: it is deleted at once, unless its run is killed."""
ARCHIVE_SUFFIX: Final = ".tgz"
"""TiDB Operator exports one archive; its path is an object, not a folder."""
RESERVED_SUFFIXES: Final = (RECORD_SUFFIX, OBJECTS_SUFFIX, CONTENT_SUFFIX, READERS_SUFFIX)
RESERVED_NAMES: Final = (HISTORY_FOLDER,)
"""Parts of a path that name objects of our own beside the data: no data may be written under them, nor be cleaned there."""
ATTEMPT_FOLDER: Final = "attempt-"
"""With a number: the folder of a later attempt, and a part of the name of its list of objects."""
_ATTEMPT_LIST: Final = re.compile(rf"\.{ATTEMPT_FOLDER}\d+$")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_SCHEMES: Final = {Provider.S3: "s3", Provider.GCS: "gcs", Provider.AZBLOB: "azure", Provider.LOCAL: "local"}
_PROVIDERS: Final = {scheme: provider for provider, scheme in _SCHEMES.items()}
_TRAILING_SLASH: Final = frozenset({Provider.GCS, Provider.AZBLOB})


_USER: Final = re.compile(r"^((?:[\w+.-]*:)?//)?[^/?#]*@")


def without_user(endpoint: str) -> str:
    """*endpoint* without a user's name and password before its host. They serve nobody: a request to a storage is signed. So
    they are in no status, Job, message or argv.

    >>> without_user("https://user:password@minio:9000/x"), without_user("user@minio"), without_user("http://minio/a@b")
    ('https://minio:9000/x', 'minio', 'http://minio/a@b')
    """
    return _USER.sub(r"\1", endpoint) if "@" in endpoint else endpoint


def normalise(prefix: str, *, field: str = "prefix") -> str:
    """*prefix* without empty parts and outer slashes.

    Raises PathError for ``.`` and ``..`` parts and control characters, naming *field*.

    >>> normalise("/p//q/")
    'p/q'
    """
    parts = [part for part in prefix.split("/") if part]
    if "." in parts or ".." in parts:
        raise PathError(f"{field} {prefix!r} has a '.' or '..' part; write the plain path inside the bucket")
    if _CONTROL.search(prefix):
        raise PathError(f"{field} {prefix!r} has a control character; remove it")
    return "/".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A folder of objects: *bucket* (for a local volume: the mount path) and *prefix* in it, both without outer slashes."""

    provider: Provider
    bucket: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """The text form.

        >>> Location(provider=Provider.S3, bucket="b", prefix="p/q").url
        's3://b/p/q'
        >>> Location(provider=Provider.GCS, bucket="b").url
        'gcs://b/'
        >>> Location.parse("local:///nfs/p").url
        'local:///nfs/p'
        """
        if self.provider is Provider.LOCAL:
            inside = "/".join(part for part in (self.bucket.strip("/"), self.prefix) if part)
            return f"local://{normpath(f'/{inside}')}"
        joined = "/".join(part for part in (self.bucket, self.prefix) if part)
        return f"{_SCHEMES[self.provider]}://{joined}{'/' if self.provider in _TRAILING_SLASH else ''}"

    def child(self, name: str) -> Self:
        """The folder *name* inside this one."""
        return replace(self, prefix=normalise(f"{self.prefix}/{name}"))

    @property
    def parent(self) -> Self:
        """The folder that this one lies in; a bucket itself for a folder at its top, and for a bucket."""
        return replace(self, prefix=dirname(self.prefix))

    def parents(self) -> Iterator[Self]:
        """Every folder that this one lies in, the nearest first and the bucket last.

        >>> [place.prefix for place in Location(provider=Provider.S3, bucket="b", prefix="p/q/r").parents()]
        ['p/q', 'p', '']
        """
        place = self
        while place.prefix:
            place = place.parent
            yield place

    def contains(self, other: "Location") -> bool:
        """Whether *other* is this folder or lies inside it."""
        return (self.provider, self.bucket) == (other.provider, other.bucket) and (
            not self.prefix or f"{other.prefix}/".startswith(f"{self.prefix}/")
        )

    @classmethod
    def parse(cls, url: str, *, mount_path: str = "") -> Self:
        """Read the text form back; a local path needs the *mount_path* it lies under. Raises PathError.

        >>> Location.parse("s3://b/p/q")
        Location(provider=<Provider.S3: 's3'>, bucket='b', prefix='p/q')
        >>> Location.parse("local:///nfs/p", mount_path="/nfs").prefix
        'p'
        """
        scheme, separator, rest = url.partition("://")
        provider = _PROVIDERS.get(scheme)
        if not separator or provider is None:
            raise PathError(f"{url!r} is no storage path; expected {', '.join(f'{s}://' for s in _PROVIDERS)}...")
        if provider is not Provider.LOCAL:
            bucket, _, prefix = rest.partition("/")
            if not bucket:
                raise PathError(f"{url!r} names no bucket")
            return cls(provider=provider, bucket=bucket, prefix=normalise(prefix, field="path"))
        path, mount = normalise(rest, field="path"), normalise(mount_path, field="mountPath")
        if mount and not f"{path}/".startswith(f"{mount}/"):
            raise PathError(f"{url!r} is outside the mounted volume {mount_path!r}")
        return cls(provider=provider, bucket=f"/{mount}", prefix=path[len(mount) :].strip("/"))


def reserved_part(prefix: str, *, archive: bool = False) -> str:
    """The first part of *prefix* that is reserved for our own objects, or empty. With *archive* a path that ends like an
    archive of TiDB Operator is reserved too: its clean would delete an object of that name.

    >>> reserved_part("p/nightly.record.json/x"), reserved_part("p/.history"), reserved_part("p/x.tgz", archive=True)
    ('nightly.record.json', '.history', 'x.tgz')
    >>> reserved_part("p/nightly.attempt-2")  # its list of objects would be that of the second attempt at p/nightly
    'nightly.attempt-2'
    >>> reserved_part("p/history"), reserved_part("p/x.tgz")
    ('', '')
    """
    parts = [part for part in prefix.split("/") if part]
    for part in parts:
        if part in RESERVED_NAMES or part.endswith(RESERVED_SUFFIXES) or _ATTEMPT_LIST.search(part):
            return part
    return parts[-1] if archive and parts and parts[-1].endswith(ARCHIVE_SUFFIX) else ""


def provider_of(spec: Mapping[str, Any]) -> Provider | None:
    """The storage that *spec* names, in upstream's order; None when it names none."""
    return next((provider for provider in Provider if spec.get(provider)), None)


def location_of(spec: Mapping[str, Any]) -> Location:
    """The folder that *spec* (a Backup or Restore spec, or anything holding a storage) points at.

    A bucket written as ``bucket/a`` carries the start of the prefix, as br reads it. Raises PathError naming the field.

    >>> location_of({"s3": {"bucket": "b/a", "prefix": "/p//q/"}}).url
    's3://b/a/p/q'
    """
    provider = provider_of(spec)
    if provider is None:
        raise PathError("no storage: set one of s3, gcs, azblob, local")
    storage: Mapping[str, Any] = spec[provider]
    prefix = str(storage.get("prefix") or "")
    if provider is Provider.LOCAL:
        mount = str((storage.get("volumeMount") or {}).get("mountPath") or "")
        if not mount:
            raise PathError("local.volumeMount.mountPath is empty")
        return Location(
            provider=provider, bucket=f"/{normalise(mount, field='mountPath')}", prefix=normalise(prefix, field="local.prefix")
        )
    field = "container" if provider is Provider.AZBLOB else "bucket"
    named = normalise(str(storage.get(field) or ""), field=f"{provider}.{field}")
    if not named:
        raise PathError(f"{provider}.{field} is empty")
    bucket, _, start = named.partition("/")
    return Location(provider=provider, bucket=bucket, prefix=normalise(f"{start}/{prefix}", field=f"{provider}.prefix"))


def export_location(spec: Mapping[str, Any], name: str, uid: str) -> Location:
    """Where an export of the Backup *name* writes: its own folder under the prefix, known before the Job exists.

    >>> export_location({"s3": {"bucket": "b", "prefix": "p"}}, "daily", "0f5e9c1a-77").url
    's3://b/p/daily-0f5e9c1a'
    """
    return location_of(spec).child(f"{name}-{uid[:8]}")
