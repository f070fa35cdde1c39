"""An S3 server inside the process, with every fault that a test asks for. It reads requests with strict parsers of its own."""

import base64
import hashlib
import itertools
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from backup_manager.storage.http_pool import Answer
from backup_manager.storage.s3 import S3Storage
from backup_manager.storage.s3_client import S3Client
from backup_manager.storage.settings import S3Settings
from backup_manager.storage.sigv4 import Keys
from crds.contract.paths import Location, Provider

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass
class Version:
    """One version of a key; ``data`` None is a delete marker."""

    version: str
    data: bytes | None
    until: datetime | None = None
    hold: bool = False


@dataclass
class Request:
    """What a fault sees."""

    method: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


Fault = Callable[[Request], Answer | None]


@dataclass
class FakeS3:
    """One bucket. Its keys are flat strings, as in AWS; listings are in byte order."""

    bucket: str = "bucket"
    versioning: str = ""
    lock: bool = False
    page: int = 1000
    encode_replacement: bool = False
    """Whether a listing shows U+FFFD for characters that XML cannot carry (Go servers), instead of a reference (AWS)."""
    require_md5: bool = False
    key_errors: Callable[[str], tuple[str, str] | None] = lambda _key: None
    """For a key in a batch: the code and message that its deletion answers."""
    drop: Callable[[str], bool] = lambda _key: False
    """For a key in a batch: whether the server lies and keeps it."""
    faults: list[Fault] = field(default_factory=list)
    skew: float = 0.0
    keys: dict[str, list[Version]] = field(default_factory=dict)
    multipart: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._mutex = threading.RLock()

    # What tests look at

    def put(self, key: str, data: bytes = b"x", *, until: datetime | None = None, hold: bool = False) -> None:
        """Store an object."""
        versions = self.keys.setdefault(key, [])
        if not self.versioning:
            versions.clear()
        name = f"v{next(self._ids):06d}" if self.versioning == "Enabled" else "null"
        if name == "null":
            versions[:] = [version for version in versions if version.version != "null"]
        versions.append(Version(name, data, until, hold))

    def current(self, key: str) -> bytes | None:
        """The data a GET shows."""
        versions = self.keys.get(key)
        return versions[-1].data if versions else None

    def names(self) -> set[str]:
        """Every key that holds any version."""
        return {key for key, versions in self.keys.items() if versions}

    def count(self, method: str, *query: str) -> int:
        """Requests of *method* with all of *query*."""
        return sum(r.method == method and all(name in r.query for name in query) for r in self.requests)

    def storage(self, prefix: str = "p/q", settings: S3Settings | None = None) -> S3Storage:
        """The driver under test, connected to this fake."""
        client = S3Client(
            self.bucket,
            settings or S3Settings(endpoint="http://s3.test"),
            transport=self,
            keys=lambda: Keys("AK", "SK"),
            sleep=lambda _seconds: None,
        )
        return S3Storage(Location(provider=Provider.S3, bucket=self.bucket, prefix=prefix), client)

    # The transport

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        path, _, query = target.partition("?")
        start = f"/{self.bucket}"
        decoded = unquote(path, errors="surrogateescape")
        assert decoded == start or decoded.startswith(f"{start}/"), decoded
        request = Request(
            method,
            decoded[len(start) + 1 :],
            dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape")),
            headers,
            body,
        )
        with self._mutex:
            self.requests.append(request)
            for fault in self.faults:
                if (answer := fault(request)) is not None:
                    return answer
            return self._dispatch(request)

    def stream(self, method: str, target: str, headers: Mapping[str, str]) -> object:
        raise NotImplementedError("use a real server for streams")

    def close(self) -> None: ...

    def _dispatch(self, request: Request) -> Answer:  # noqa: PLR0911  (a switch)
        query = request.query
        if request.key:
            return self._object(request)
        if "versioning" in query:
            return self._ok(f"<VersioningConfiguration><Status>{self.versioning}</Status></VersioningConfiguration>")
        if "object-lock" in query:
            if not self.lock:
                return error(404, "ObjectLockConfigurationNotFoundError")
            return self._ok("<C><ObjectLockEnabled>Enabled</ObjectLockEnabled></C>")
        if "delete" in query:
            return self._delete_many(request)
        if "uploads" in query:
            found = sorted((k, u) for u, k in self.multipart.items() if k.startswith(query["prefix"]))
            body = "".join(f"<Upload><Key>{xml(k)}</Key><UploadId>{u}</UploadId></Upload>" for k, u in found)
            return self._ok(f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{body}</ListMultipartUploadsResult>")
        return self._versions(query) if "versions" in query else self._list(query)

    def _object(self, request: Request) -> Answer:
        key, query = request.key, request.query
        if request.method == "DELETE" and "uploadId" in query:
            return Answer(204, {}, b"") if self.multipart.pop(query["uploadId"], None) else error(404, "NoSuchUpload")
        if request.method == "DELETE":
            refused = self._remove(key, query.get("versionId"))
            return error(403, *refused) if refused else Answer(204, {}, b"")
        if request.method == "PUT":
            return self._put(request)
        if "retention" in query or "legal-hold" in query:
            return self._protection(key, query)
        data = self.current(key)
        if data is None:
            return error(404, "NoSuchKey") if request.method == "GET" else Answer(404, {}, b"")
        headers = {"etag": f'"{md5(data)}"', "content-length": str(len(data))}
        return Answer(200, headers, data if request.method == "GET" else b"")

    def _put(self, request: Request) -> Answer:
        data = self.current(request.key)
        if request.headers.get("if-none-match") == "*" and data is not None:
            return error(412, "PreconditionFailed")
        wanted = request.headers.get("if-match")
        if wanted is not None and (data is None or wanted != f'"{md5(data)}"'):
            return error(412, "PreconditionFailed")
        self.put(request.key, request.body)
        return Answer(200, {"etag": f'"{md5(request.body)}"'}, b"")

    def _protection(self, key: str, query: Mapping[str, str]) -> Answer:
        found = next((v for v in self.keys.get(key, []) if v.version == query.get("versionId", v.version)), None)
        if found is None:
            return error(404, "NoSuchKey")
        if "legal-hold" in query:
            return self._ok(f"<LegalHold><Status>{'ON' if found.hold else 'OFF'}</Status></LegalHold>")
        if found.until is None:
            return error(404, "NoSuchObjectLockConfiguration")
        return self._ok(f"<Retention><RetainUntilDate>{found.until:%Y-%m-%dT%H:%M:%SZ}</RetainUntilDate></Retention>")

    def _delete_many(self, request: Request) -> Answer:
        digest = request.headers.get("content-md5")
        if digest != base64.b64encode(hashlib.md5(request.body).digest()).decode():
            return error(400, "MissingContentMD5" if digest is None else "BadDigest")
        entries = ElementTree.fromstring(request.body).findall(f"{NAMESPACE}Object")
        if not 1 <= len(entries) <= 1000:
            return error(400, "MalformedXML")
        errors = []
        for entry in entries:
            key = entry.findtext(f"{NAMESPACE}Key") or ""
            version = entry.findtext(f"{NAMESPACE}VersionId")
            if self.drop(key):
                continue
            if refused := self.key_errors(key) or self._remove(key, version):
                errors.append(
                    f"<Error><Key>{xml(key)}</Key>{f'<VersionId>{version}</VersionId>' if version else ''}"
                    f"<Code>{refused[0]}</Code><Message>{refused[1]}</Message></Error>"
                )
        return self._ok(f"<DeleteResult>{''.join(errors)}</DeleteResult>")

    def _remove(self, key: str, version: str | None) -> tuple[str, str] | None:
        versions = self.keys.get(key)
        if not versions:
            return None
        if version is None and self.versioning:
            versions.append(Version(f"v{next(self._ids):06d}", None))
            return None
        gone = [v for v in versions if version is None or v.version == version]
        if any(v.hold or (v.until and v.until > datetime.now(UTC)) for v in gone):
            return "AccessDenied", "Access Denied"
        versions[:] = [v for v in versions if v not in gone]
        if not versions:
            del self.keys[key]
        return None

    def _list(self, query: Mapping[str, str]) -> Answer:
        after = query.get("continuation-token", "")
        found = sorted(
            (k for k in self.keys if k.startswith(query["prefix"]) and k > after and self.current(k) is not None),
            key=lambda k: k.encode(errors="surrogateescape"),
        )
        shown, more = found[: self.page], len(found) > self.page
        encoded = query.get("encoding-type") == "url"
        parts = [self._entry(key, encoded) for key in shown]
        token = f"<NextContinuationToken>{xml(shown[-1])}</NextContinuationToken>" if more else ""
        kind = "<EncodingType>url</EncodingType>" if encoded else ""
        return self._ok(
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{kind}{''.join(parts)}{token}</ListBucketResult>"
        )

    def _entry(self, key: str, encoded: bool) -> str:
        data = self.current(key) or b""
        name = quote_plus(key, safe="/", errors="surrogateescape") if encoded else self._shown(key)
        return (
            f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{md5(data)}&quot;</ETag><Size>{len(data)}</Size></Contents>"
        )

    def _shown(self, key: str) -> str:
        return xml(_UNWRITABLE.sub("\ufffd", key)) if self.encode_replacement else xml(key)

    def _versions(self, query: Mapping[str, str]) -> Answer:
        mark = (query.get("key-marker", ""), query.get("version-id-marker", ""))
        rows = [
            (key, version)
            for key in sorted(self.keys, key=lambda k: k.encode(errors="surrogateescape"))
            for version in sorted(self.keys[key], key=lambda v: v.version)
            if key.startswith(query["prefix"]) and (key, version.version) > mark
        ]
        shown, more = rows[: self.page], len(rows) > self.page
        parts = [
            f"<DeleteMarker><Key>{xml(k)}</Key><VersionId>{v.version}</VersionId></DeleteMarker>"
            if v.data is None
            else f"<Version><Key>{xml(k)}</Key><VersionId>{v.version}</VersionId><Size>{len(v.data)}</Size></Version>"
            for k, v in shown
        ]
        marks = ""
        if more:
            last = shown[-1]
            marks = f"<NextKeyMarker>{xml(last[0])}</NextKeyMarker><NextVersionIdMarker>{last[1].version}</NextVersionIdMarker>"
        return self._ok(
            f"<ListVersionsResult><IsTruncated>{str(more).lower()}</IsTruncated>{marks}{''.join(parts)}</ListVersionsResult>"
        )

    def _ok(self, body: str) -> Answer:
        date = datetime.fromtimestamp(datetime.now(UTC).timestamp() + self.skew, UTC)
        return Answer(200, {"date": format_datetime(date, usegmt=True)}, body.encode("utf-8", "surrogateescape"))


def xml(text: str) -> str:
    """Escaped as AWS does it: what XML forbids becomes a reference all the same."""
    return re.sub("[\x00-\x1f]", lambda match: f"&#x{ord(match[0]):x};", escape(text))


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def error(status: int, code: str, message: str = "", **fields: str) -> Answer:
    """An error answer; *fields* become elements, ``x_amz_*`` ones headers."""
    headers = {name.replace("_", "-"): value for name, value in fields.items() if name.startswith("x_amz")}
    extra = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items() if not name.startswith("x_amz"))
    return Answer(status, headers, f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>".encode())


def sometimes(rate: float, seed: int = 1, answer: Callable[[], Answer] = lambda: error(503, "SlowDown")) -> Fault:
    """Refuse that share of all requests."""
    chance = random.Random(seed)
    return lambda _request: answer() if chance.random() < rate else None
