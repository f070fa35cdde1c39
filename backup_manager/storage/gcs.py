"""Google Cloud Storage, by Google's client.

Objects are listed with their generations and deleted by generation, so that a versioned bucket is emptied too. The mark for a
conditional write is the generation; the content mark of a listing is crc32c, which every object has.
"""

import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, BinaryIO, Final, cast

import google.auth.exceptions
import requests.exceptions
from google.api_core import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2 import service_account

from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
    ThrottledError,
    TransientError,
    UnreachableError,
    UsageError,
)
from backup_manager.storage import gcs_batch
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from backup_manager.storage.patience import delete_all, write_patiently
from backup_manager.storage.settings import GcsSettings
from crds.paths import Location

BATCH: Final = 100
"""What Google recommends for one batch request."""
_PAGE: Final = 1000
_RETRY: Final = DEFAULT_RETRY.with_timeout(30.0)
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_LOOKUPS: Final = 200
_BATCH_SECONDS: Final = 120
_TEMPORARY: Final = frozenset({408, 429, 500, 502, 503, 504})


class GcsStorage:
    """One folder of a bucket."""

    def __init__(self, location: Location, client: Any) -> None:
        self.location = location
        self.batch_size = BATCH
        self.notes: list[str] = []
        self._client = client
        self._bucket = client.bucket(location.bucket)
        self._base = f"{location.prefix}/" if location.prefix else ""
        self._state: StoreState | None = None
        self._lookups = _LOOKUPS
        self._latest_lock: datetime | None = None
        self._mutex = threading.Lock()

    @classmethod
    def connect(cls, location: Location, settings: GcsSettings) -> "GcsStorage":
        """With a service account's key, an emulator, or the identity of the workload. Raises AccessDeniedError."""
        options = {"api_endpoint": settings.endpoint} if settings.endpoint else None
        try:
            client = google_storage.Client(
                project=settings.project or "none", credentials=_credentials(settings), client_options=options
            )
        except google.auth.exceptions.GoogleAuthError as error:
            raise _no_credentials(error) from None
        if settings.ca_bundle:
            client._http.verify = settings.ca_bundle
        return cls(location, client)

    def at(self, location: Location) -> "GcsStorage":
        """The same identity, another folder."""
        return GcsStorage(location, self._client)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every live object under *prefix*."""
        with self._errors("list"):
            for blob in self._client.list_blobs(
                self._bucket,
                prefix=self._base + prefix,
                page_size=_PAGE,
                fields="items(name,size,crc32c,updated),nextPageToken",
                retry=_RETRY,
            ):
                yield ObjectInfo(
                    key=blob.name[len(self._base) :], size=blob.size or 0, etag=blob.crc32c or "", modified=blob.updated
                )

    def stat(self, key: str) -> ObjectInfo:
        """Size and crc32c."""
        with self._errors(key):
            blob = self._blob(key)
            blob.reload(retry=_RETRY)
            return ObjectInfo(key=key, size=blob.size or 0, etag=blob.crc32c or "", modified=blob.updated)

    def read(self, key: str) -> bytes:
        """The whole object."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, str]:
        """The whole object and its generation."""
        with self._errors(key):
            blob = self._blob(key)
            data: bytes = blob.download_as_bytes(retry=_RETRY)
            return data, str(blob.generation)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A stream that reads in chunks."""
        with self._errors(key):
            blob = self._blob(key)
            blob.reload(retry=_RETRY)
            return cast(
                "AbstractContextManager[BinaryIO]", io.BufferedReader(_Translating(blob.open("rb", retry=_RETRY), self))
            )

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store under the condition; the generation is the etag."""
        generation = 0 if if_absent else int(if_match) if if_match is not None else None

        def put() -> str:
            with self._errors(key):
                blob = self._blob(key)
                content = "application/octet-stream"
                blob.upload_from_string(data, content_type=content, if_generation_match=generation, retry=None)
                return str(blob.generation)

        return write_patiently(put, lambda: self.fetch(key), data)

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete live objects, in batches."""
        return delete_all(self.delete_batch, keys, BATCH)

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Every generation of every object; only the live ones where the bucket is known to keep no others."""
        versions = self.state().versioned is not False
        with self._errors("list"):
            listing = self._client.list_blobs(
                self._bucket,
                prefix=self._base + prefix,
                page_size=_PAGE,
                versions=versions,
                fields="items(name,size,generation),nextPageToken",
                retry=_RETRY,
            )
            for page in listing.pages:
                yield [
                    Target(blob.name[len(self._base) :], str(blob.generation) if versions else None, blob.size or 0)
                    for blob in page
                ]

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        """One batch request; each answer is looked at."""
        content_type, body = gcs_batch.request(self.location.bucket, self._base, batch)
        url = f"{self._client._connection.API_BASE_URL}/batch/storage/v1"
        with self._errors("delete"):
            answer = self._client._http.post(url, data=body, headers={"content-type": content_type}, timeout=_BATCH_SECONDS)
            if answer.status_code >= 300:
                errors: Any = google_errors
                raise errors.from_http_response(answer)
        told = gcs_batch.answers(answer.headers.get("content-type", ""), answer.content, len(batch))
        failures = (self._failure(target, part) for target, part in zip(batch, told, strict=True))
        return [failure for failure in failures if failure]

    def _failure(self, target: Target, answer: gcs_batch.Answer) -> DeleteFailure | None:
        if 200 <= answer.status < 300 or answer.status == 404:
            return None
        text = f"{answer.reason} {answer.message}".lower()
        locked = answer.status == 403 and ("retention" in text or "hold" in text)
        return DeleteFailure(
            key=target.key,
            version=target.version,
            code=answer.reason or f"Http{answer.status}",
            message=answer.message[:200],
            retryable=answer.status in _TEMPORARY or answer.status == 0,
            locked=locked,
            locked_until=self._locked_until(target) if locked else None,
        )

    def _locked_until(self, target: Target) -> datetime | None:
        with self._mutex:
            self._lookups -= 1
            if self._lookups < 0:
                return self._latest_lock
        try:
            blob = self._bucket.get_blob(self._base + target.key, generation=target.version, retry=_RETRY)
        except (google_errors.GoogleAPICallError, requests.exceptions.RequestException):
            return None
        until = blob.retention_expiration_time if blob else None
        if until:
            with self._mutex:
                self._latest_lock = max(until, self._latest_lock or until)
        return cast("datetime | None", until)

    def uploads(self) -> Iterator[Upload]:
        """Resumable uploads cannot be listed; Google drops them after a week."""
        return iter(())

    def abort(self, upload: Upload) -> None:
        """Nothing to abort."""

    def tidy(self) -> None:
        """Nothing to do."""

    def state(self) -> StoreState:
        """Versioning, retention and clock; asked once. Without the right to see the bucket they stay unknown."""
        if self._state is None:
            self._state = self._read_state()
        return self._state

    def _read_state(self) -> StoreState:
        try:
            with self._errors("bucket"):
                bucket = self._client.get_bucket(self.location.bucket, retry=_RETRY)
        except AccessDeniedError as error:
            if error.problem().reason != AccessDeniedError.reason:
                raise
            return StoreState()
        period = bucket.retention_period
        kept = getattr(bucket.soft_delete_policy, "retention_duration_seconds", None)
        if kept:
            self.notes.append(f"the bucket's soft delete keeps deleted objects for {int(kept) // 86400} more days")
        return StoreState(
            versioned=bool(bucket.versioning_enabled),
            lock=bool(period) or bool(bucket.object_retention_mode),
            default_lock=f"retention of {period} seconds" if period else "",
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _blob(self, key: str) -> Any:
        return self._bucket.blob(self._base + key)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (
            google_errors.GoogleAPIError,
            google.auth.exceptions.GoogleAuthError,
            requests.exceptions.RequestException,
        ) as error:
            raise translated(error, f"{self.location.url}: {what}", self.location.bucket) from None


class _Translating(io.RawIOBase):
    """A reader whose failures are ours."""

    def __init__(self, inner: Any, storage: GcsStorage) -> None:
        self._inner, self._storage = inner, storage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with self._storage._errors("read"):
            data: bytes = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _credentials(settings: GcsSettings) -> Any:
    """None lets Google's client look for the workload's identity."""
    info: Any = service_account.Credentials  # its methods carry no types
    nobody: Any = AnonymousCredentials
    if settings.endpoint:  # an emulator asks for nobody's name
        return nobody()
    if settings.key_json:
        try:
            return info.from_service_account_info(json.loads(settings.key_json), scopes=[_SCOPE])
        except (ValueError, KeyError, google.auth.exceptions.GoogleAuthError):
            raise UsageError(
                "GCS_SERVICE_ACCOUNT_JSON_KEY is no service account's key",
                hint="The key `credentials` of the Secret named by gcs.secretName holds the JSON file of the account.",
                reason="InvalidCredentials",
            ) from None
    return None


def _no_credentials(error: Exception) -> AccessDeniedError:
    return AccessDeniedError(
        f"no usable Google credentials: {str(error).splitlines()[0][:200]}",
        reason="NoCredentials",
        hint="Set gcs.secretName (key credentials), or give the ServiceAccount a workload identity.",
    )


def translated(error: Exception, what: str, bucket: str) -> ManagerError:
    """Google's error as one of ours."""
    if isinstance(error, google.auth.exceptions.TransportError | requests.exceptions.RequestException):
        return _connection(error, what)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return _no_credentials(error)
    if isinstance(error, google_errors.RetryError):
        return UnreachableError(f"{what}: no answer in time", reason="StorageUnreachable")
    code = int(getattr(error, "code", 0) or 0)
    message = f"{what}: {code} {getattr(error, 'message', '') or error}"[:400].splitlines()[0]
    return _answer(code, message, bucket)


def _answer(code: int, message: str, bucket: str) -> ManagerError:
    if code == 404 and "bucket" in message.lower():
        hint = "Create it, or correct gcs.bucket and gcs.projectId."
        return NotFoundError(f"bucket {bucket} does not exist", reason="BucketNotFound", hint=hint)
    if code in {401, 403}:
        hint = f"Give the account roles/storage.objectAdmin on bucket {bucket}."
        return AccessDeniedError(message, reason="InvalidCredentials" if code == 401 else "", hint=hint)
    if code in {429, 503}:
        return ThrottledError(message)
    if code in _TEMPORARY:
        return TransientError(message, reason="StorageUnavailable")
    kind = {404: NotFoundError, 412: PreconditionError}.get(code, StorageError)
    return kind(message)


def _connection(error: Exception, what: str) -> ManagerError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StorageError(
            f"{what}: the certificate is not trusted",
            reason="UntrustedCertificate",
            hint="Mount the authority's PEM file and name it in SSL_CERT_FILE (spec.env).",
        )
    return UnreachableError(
        f"{what}: cannot be reached ({type(error).__name__})",
        reason="StorageUnreachable",
        hint="Check network policies, the cluster's DNS and proxies.",
    )
