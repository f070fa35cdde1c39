"""S3 and everything that speaks it: AWS, Ceph, MinIO, SeaweedFS and the clouds' compatible stores.

Plain signed HTTP instead of boto3: importing boto3 and making a client costs more than a second in a Job, and its parsed
listings cost more than the deletions of a clean. boto3's credential chain is still used where the environment has no keys.
"""

import base64
import hashlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import BinaryIO, Final, cast

import urllib3

from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
    TransientError,
    UnreachableError,
)
from backup_manager.storage import s3_errors, s3_xml
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from backup_manager.storage.listing import cut_short, relative
from backup_manager.storage.retention import LockDates
from backup_manager.storage.retry import ATTEMPTS, conditional_put, delete_all
from backup_manager.storage.s3_client import Query, S3Client
from crds.contract.paths import Location

BATCH: Final = 1000
"""What DeleteObjects takes, and what a listing page holds."""
CLEAN_BATCH: Final = 250
"""What a clean puts into one: servers work through a batch key by key, so more and smaller ones keep them busier (a quarter
less time for 100,000 objects on SeaweedFS, with as many keys under way)."""
_NO_BATCH: Final = (
    "MissingContentMD5",
    "NotImplemented",
    "MethodNotAllowed",
    "MalformedXML",
    "InvalidRequest",
    "Http405",
    "Http501",
)
_BUFFER: Final = 1 << 20


class S3Storage:
    """One folder of a bucket."""

    def __init__(self, location: Location, client: S3Client) -> None:
        self.location = location
        self.batch_size = CLEAN_BATCH
        self.notes: list[str] = []
        self._client = client
        self._base = f"{location.prefix}/" if location.prefix else ""
        self._batches = True
        self._state: StoreState | None = None
        self._locks = LockDates()
        self._mutex = threading.Lock()

    def at(self, location: Location) -> "S3Storage":
        """The same store and keys, another folder (of another bucket too)."""
        if location.bucket == self.location.bucket:
            return S3Storage(location, self._client)
        return S3Storage(location, S3Client(location.bucket, self._client.settings))

    # Reading

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix*."""
        for page in self._pages(prefix):
            for info in s3_xml.objects(page):
                yield ObjectInfo(key=self._relative(info.key), size=info.size, etag=info.etag, modified=info.modified)

    def stat(self, key: str) -> ObjectInfo:
        """Size and etag by HEAD."""
        headers = self._client.call("HEAD", self._base + key).headers
        return ObjectInfo(key=key, size=int(headers.get("content-length", 0)), etag=headers.get("etag", "").strip('"'))

    def read(self, key: str) -> bytes:
        """The whole object."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, str]:
        """The whole object and its etag."""
        answer = self._client.call("GET", self._base + key)
        return answer.body, answer.headers.get("etag", "").strip('"')

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A buffered stream that goes on where it was when the connection breaks."""
        return cast("AbstractContextManager[BinaryIO]", io.BufferedReader(_Body(self._client, self._base + key), _BUFFER))

    def _pages(self, prefix: str = "") -> Iterator[str]:
        """The XML of each page of a listing, complete and decoded."""
        token, encoded = "", False
        while True:
            query = [("list-type", "2"), ("prefix", self._base + prefix), ("max-keys", str(BATCH))]
            query += [("continuation-token", token)] if token else []
            query += [("encoding-type", "url")] if encoded else []
            text = self._listing(query, "ListBucketResult")
            if s3_xml.REPLACEMENT in text and not encoded:
                encoded = True  # some key cannot be written in XML: ask for this page again in the other form
                continue
            yield s3_xml.decode_keys(text) if encoded else text
            encoded = False
            if s3_xml.field(text, "IsTruncated") != "true":
                return
            token = self._next(text, "NextContinuationToken")

    def _listing(self, query: Query, root: str) -> str:
        text = self._client.call("GET", query=query).body.decode("utf-8", "surrogateescape")
        if f"</{root}>" not in text and f"<{root} />" not in text:
            raise cut_short(self.location.url, "S3", "s3.endpoint")
        return text

    def _next(self, text: str, tag: str) -> str:
        """The marker of the next page. A listing that says there is more but not where must not pass for a whole one."""
        if marker := s3_xml.field(text, tag):
            return marker
        raise cut_short(self.location.url, "S3", "s3.endpoint", f"it says there is more, but not where: {tag} is missing")

    def _relative(self, key: str) -> str:
        return relative(key, self._base, self.location.url)

    # Writing

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store a small object.

        The condition is checked before and then enforced by the store: some stores ignore it silently, and for those a window
        of milliseconds remains instead of a blind overwrite.
        """
        if if_absent or if_match is not None:
            self._check(key, if_match)
        headers = self._write_headers()
        if if_absent:
            headers["if-none-match"] = "*"
        elif if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        return conditional_put(lambda: self._put(key, data, headers), lambda: self.fetch(key), data, sleep=self._client.sleep)

    def _put(self, key: str, data: bytes, headers: dict[str, str]) -> str:
        try:
            answer = self._client.call("PUT", self._base + key, headers=headers, body=data, attempts=1)
        except StorageError as error:
            if "AccessControlListNotSupported" in error.message and headers.pop("x-amz-acl", ""):
                return self._put(key, data, headers)
            if "NotImplemented" in error.message and (headers.pop("if-none-match", "") or headers.pop("if-match", "")):
                return self._put(key, data, headers)
            raise
        return answer.headers.get("etag", "").strip('"')

    def _check(self, key: str, if_match: str | None) -> None:
        try:
            there = self.stat(key).etag
        except NotFoundError:
            there = None
        except AccessDeniedError:  # without the right to list, a missing object answers 403; the store will decide
            return
        if there != if_match:
            raise PreconditionError(f"{self.location.url}: {key} " + ("exists already" if if_match is None else "was changed"))

    def enforces_conditions(self, key: str) -> bool:
        """Whether a PUT of *key* with ``If-None-Match`` is refused. Stores that do not know the header answer 501, or write."""
        headers = {**self._write_headers(), "if-none-match": "*"}
        try:
            self._client.call("PUT", self._base + key, headers=headers, body=b"", attempts=1)
        except PreconditionError:
            return True
        except StorageError as error:
            if "NotImplemented" not in error.message:
                raise
        return False

    def _write_headers(self) -> dict[str, str]:
        """ACL and encryption as the CR wants them. No storage class: a record in an archive could not be read again."""
        settings = self._client.settings
        headers = {"content-type": "application/octet-stream"}
        if settings.acl and settings.acl != "private":  # private is what every store does by itself; some refuse ACLs at all
            headers["x-amz-acl"] = settings.acl
        if settings.sse:
            headers["x-amz-server-side-encryption"] = settings.sse
        if settings.sse_kms_key_id:
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = settings.sse_kms_key_id
        return headers

    # Deleting

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete current objects, in batches."""
        return delete_all(self.delete_batch, keys, BATCH, sleep=self._client.sleep)

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Every object; every version and marker when the bucket is, or was, versioned."""
        versioned = self.state().versioned
        if versioned is False:
            yield from self._plain_targets(prefix)
            return
        pages = self._version_targets(prefix)
        try:
            first = next(pages, ())
        except (AccessDeniedError, StorageError) as error:
            if versioned or isinstance(error, NotFoundError):
                raise
            self._note("the bucket's versioning could not be read: older versions, if any, were left alone")
            yield from self._plain_targets(prefix)
            return
        yield first
        yield from pages

    def _plain_targets(self, prefix: str) -> Iterator[Sequence[Target]]:
        cut = len(self._base)
        for page in self._pages(prefix):
            found = s3_xml.keys_and_sizes(page)
            for key, _ in found:
                if not key.startswith(self._base):
                    self._relative(key)  # raises
            yield [Target(key[cut:], None, size) for key, size in found]

    def _version_targets(self, prefix: str) -> Iterator[Sequence[Target]]:
        marks: list[tuple[str, str]] = []
        encoded = False
        while True:
            query = [("versions", ""), ("prefix", self._base + prefix), ("max-keys", str(BATCH)), *marks]
            text = self._listing([*query, ("encoding-type", "url")] if encoded else query, "ListVersionsResult")
            if s3_xml.REPLACEMENT in text and not encoded:
                encoded = True
                continue
            plain = s3_xml.decode_keys(text) if encoded else text
            encoded = False
            yield [Target(self._relative(key), version, size) for key, version, size in s3_xml.versions(plain)]
            if s3_xml.field(text, "IsTruncated") != "true":
                return
            marks = [("key-marker", self._next(plain, "NextKeyMarker"))]
            if version := s3_xml.field(plain, "NextVersionIdMarker"):
                marks.append(("version-id-marker", version))

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        """One DeleteObjects, or single deletes where the store or a key's characters leave no other way."""
        if self.batch_size == 1:
            return [failure for target in batch if (failure := self._delete_one(target))]
        if s3_xml.writable("".join([target.key for target in batch])):
            return self._delete_many(batch)
        by_url = [target for target in batch if not s3_xml.writable(target.key)]
        in_xml = [target for target in batch if s3_xml.writable(target.key)]
        failures = [failure for target in by_url if (failure := self._delete_one(target))]
        return [*failures, *self._delete_many(in_xml)] if in_xml else failures

    def _delete_many(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        body = s3_xml.delete_body([(self._base + target.key, target.version) for target in batch])
        # Content-MD5 from the start: every store takes it, and many clones refuse a batch without it.
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"content-md5": digest, "content-type": "application/xml"}
        try:
            answer = self._client.call("POST", query=[("delete", "")], headers=headers, body=body, attempts=1)
        except StorageError as error:
            if any(code in error.message for code in _NO_BATCH):
                return self._one_by_one(batch, error)
            raise
        text = answer.body.decode("utf-8", "surrogateescape")
        if "DeleteResult" not in text:  # a 200 whose body is an error
            raise s3_errors.of_answer(
                503 if s3_errors.code_of(200, text) in s3_errors.TEMPORARY else 500,
                answer.headers,
                text,
                what="POST ?delete",
                action="s3:DeleteObject",
                bucket=self._client.bucket,
                region=self._client.region,
            )
        return [] if "<Error>" not in text else [f for e in s3_xml.failures(text) if (f := self._failure(e))]

    def _one_by_one(self, batch: Sequence[Target], why: ManagerError) -> Sequence[DeleteFailure]:
        self.batch_size, self._batches = 1, False
        self._note(f"the store refuses batch deletion ({why.message}); objects are deleted one by one")
        return [failure for target in batch if (failure := self._delete_one(target))]

    def _delete_one(self, target: Target) -> DeleteFailure | None:
        key = self._base + target.key
        if any(part in {".", ".."} for part in key.split("/")):
            # In a URL, something between us and the store may resolve the dots, and then another object would go.
            if self._batches and s3_xml.writable(key):
                return next(iter(self._delete_many([target])), None)
            return DeleteFailure(
                key=target.key,
                version=target.version,
                code="UnsafeName",
                message="a '.' or '..' part in the name: delete it with the store's own tool",
            )
        query = [("versionId", target.version)] if target.version else []
        try:
            self._client.call("DELETE", key, query, attempts=1)
        except NotFoundError as error:
            if error.problem().reason == "BucketNotFound":
                raise
        except AccessDeniedError as error:
            if error.problem().reason != AccessDeniedError.reason:
                raise
            return self._failure(s3_xml.Failure(key, target.version, "AccessDenied", error.message))
        except StorageError as error:
            return DeleteFailure(key=target.key, version=target.version, code=error.problem().reason, message=error.message)
        return None

    def _failure(self, error: s3_xml.Failure) -> DeleteFailure | None:
        if error.code in s3_errors.GONE:
            return None
        locked, until = (
            self._lock_of(error) if error.code in {"AccessDenied", "ObjectLocked", "InvalidRequest"} else (False, None)
        )
        return DeleteFailure(
            key=self._relative(error.key),
            version=error.version,
            code=error.code,
            message=error.message[:200],
            retryable=error.code in s3_errors.TEMPORARY,
            locked=locked,
            locked_until=until,
        )

    def _lock_of(self, error: s3_xml.Failure) -> tuple[bool, datetime | None]:
        """Whether a lock is why the deletion of one version was denied, and until when."""
        says_so = "object lock" in error.message.lower() or "worm" in error.message.lower()
        if not says_so and not self.state().lock:
            return False, None
        if not self._locks.may_ask():
            return True, self._locks.latest
        until = self._locks.note(self._retained_until(error.key, error.version))
        if until is None:
            return says_so or self._held(error.key, error.version), None
        return until > datetime.now(UTC), until

    def _retained_until(self, key: str, version: str | None) -> datetime | None:
        text = self._ask(key, version, "retention")
        try:
            return datetime.fromisoformat(s3_xml.field(text, "RetainUntilDate")).astimezone(UTC)
        except ValueError:
            return None

    def _held(self, key: str, version: str | None) -> bool:
        return s3_xml.field(self._ask(key, version, "legal-hold"), "Status") == "ON"

    def _ask(self, key: str, version: str | None, what: str) -> str:
        query = [(what, ""), *([("versionId", version)] if version else [])]
        try:
            return self._client.call("GET", key, query).body.decode("utf-8", "replace")
        except (StorageError, TransientError):
            return ""

    # Multipart uploads

    def uploads(self) -> Iterator[Upload]:
        """Unfinished uploads under the folder."""
        marks: list[tuple[str, str]] = []
        while True:
            text = self._listing([("uploads", ""), ("prefix", self._base), *marks], "ListMultipartUploadsResult")
            for key, upload_id in s3_xml.uploads(text):
                yield Upload(key=self._relative(key), upload_id=upload_id)
            if s3_xml.field(text, "IsTruncated") != "true":
                return
            marks = [("key-marker", self._next(text, "NextKeyMarker"))]
            if mark := s3_xml.field(text, "NextUploadIdMarker"):
                marks.append(("upload-id-marker", mark))

    def abort(self, upload: Upload) -> None:
        """Abort one; an upload that is gone is fine."""
        try:
            self._client.call("DELETE", self._base + upload.key, [("uploadId", upload.upload_id)])
        except NotFoundError:
            return

    def tidy(self) -> None:
        """S3 has no folders."""

    # The bucket

    def state(self) -> StoreState:
        """Versioning, lock and clock; asked once."""
        if self._state is None:
            self._state = self._read_state()
        return self._state

    def _read_state(self) -> StoreState:
        versioned = None
        try:
            answer = self._client.call("GET", query=[("versioning", "")])
            versioned = s3_xml.field(answer.body.decode("utf-8", "replace"), "Status") in {"Enabled", "Suspended"}
        except AccessDeniedError as error:
            if error.problem().reason != AccessDeniedError.reason:
                raise
        except NotFoundError:
            raise
        except StorageError as error:
            if error.problem().reason != "StorageFailed":
                raise
        lock, default = self._lock_state()
        return StoreState(versioned=versioned, lock=lock, default_lock=default, clock_skew=self._client.skew)

    def _lock_state(self) -> tuple[bool | None, str]:
        try:
            text = self._client.call("GET", query=[("object-lock", "")]).body.decode("utf-8", "replace")
        except NotFoundError:  # ObjectLockConfigurationNotFoundError
            return False, ""
        except StorageError:
            return None, ""
        if s3_xml.field(text, "ObjectLockEnabled") != "Enabled":
            return False, ""
        days, years = s3_xml.field(text, "Days"), s3_xml.field(text, "Years")
        span = f"{days} days" if days else f"{years} years" if years else ""
        return True, f"{s3_xml.field(text, 'Mode')} {span}".strip() if span else ""

    def _note(self, text: str) -> None:
        with self._mutex:
            if text not in self.notes:
                self.notes.append(text)

    def close(self) -> None:
        """Close the connections; folders made with :meth:`at` in the same bucket share them."""
        self._client.close()


class _Body(io.RawIOBase):
    """An object's bytes. A connection that breaks is opened again at the same place, as long as the object is the same."""

    def __init__(self, client: S3Client, key: str) -> None:
        self._client, self._key, self._offset, self._etag = client, key, 0, ""
        self._failures = 0
        self._answer = self._connect()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            try:
                data: bytes = self._answer.read(len(buffer))
            except urllib3.exceptions.HTTPError as error:
                self._resume(error)
                continue
            buffer[: len(data)] = data
            self._offset += len(data)
            return len(data)

    def _connect(self) -> urllib3.BaseHTTPResponse:
        headers: Mapping[str, str] = {"range": f"bytes={self._offset}-", "if-match": self._etag} if self._offset else {}
        for attempt in range(ATTEMPTS):
            try:
                answer: urllib3.BaseHTTPResponse = self._client.stream(self._key, headers)
            except TransientError:
                if attempt + 1 == ATTEMPTS:
                    raise
                self._client.rest(attempt)
            else:
                self._etag = answer.headers.get("etag", "")
                return answer
        raise AssertionError("ATTEMPTS is at least 1")

    def _resume(self, error: Exception) -> None:
        self._failures += 1
        self._answer.close()
        if self._failures > ATTEMPTS:
            raise UnreachableError(
                f"{self._key}: the download broke {self._failures} times ({type(error).__name__})", reason="StorageUnreachable"
            )
        self._client.rest(self._failures)
        self._answer = self._connect()

    def close(self) -> None:
        if not self.closed:
            self._answer.close()
        super().close()
