"""Google Cloud Storage, by Google's client.

Objects are listed with their generations and deleted by generation, so that a versioned bucket is emptied too. The mark for a
conditional write is the generation; the content mark of a listing is crc32c, which every object has.
"""

import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, BinaryIO, Final, cast

import google.auth
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
    UsageError,
)
from backup_manager.storage import gcs_batch
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from backup_manager.storage.listing import cut_short, relative
from backup_manager.storage.retention import LockDates
from backup_manager.storage.retry import conditional_put, delete_all
from backup_manager.storage.sdk_errors import Reader, connection_failed, untrusted
from backup_manager.storage.settings import GcsSettings
from crds.contract.paths import Location

BATCH: Final = 100
"""What Google recommends for one batch request."""
_PAGE: Final = 1000
_RETRY: Final = DEFAULT_RETRY.with_timeout(30.0).with_predicate(
    lambda error: not untrusted(error) and DEFAULT_RETRY._predicate(error)
)
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
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
        self._locks = LockDates()

    @classmethod
    def connect(cls, location: Location, settings: GcsSettings) -> "GcsStorage":
        """With a key, a file that holds one, an emulator, or the identity of the workload. Raises AccessDeniedError."""
        options = {"api_endpoint": settings.endpoint} if settings.endpoint else None
        try:
            client = google_storage.Client(
                project=settings.project or "none", credentials=_credentials(settings), client_options=options
            )
        except google.auth.exceptions.GoogleAuthError as error:
            raise _no_credentials(error) from None
        if settings.ca_bundle:
            # Tokens are fetched by a session of their own, and a proxy that needs the authority stands before both.
            client._http.verify = client._http._auth_request_session.verify = settings.ca_bundle
        return cls(location, client)

    def at(self, location: Location) -> "GcsStorage":
        """The same identity, another folder."""
        return GcsStorage(location, self._client)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every live object under *prefix*."""
        with self._errors("list", in_bucket=True):
            for blob in self._client.list_blobs(
                self._bucket,
                prefix=self._base + prefix,
                page_size=_PAGE,
                fields="items(name,size,crc32c,updated),nextPageToken",
                retry=_RETRY,
            ):
                yield ObjectInfo(
                    key=self._relative(blob.name), size=blob.size or 0, etag=blob.crc32c or "", modified=blob.updated
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
            inner = blob.open("rb", retry=_RETRY)
        reader = io.BufferedReader(Reader(inner, self._errors, inner.close))
        return cast("AbstractContextManager[BinaryIO]", reader)

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store under the condition; the generation is the etag."""
        generation = 0 if if_absent else int(if_match) if if_match is not None else None

        def put() -> str:
            with self._errors(key, in_bucket=True):
                blob = self._blob(key)
                content = "application/octet-stream"
                blob.upload_from_string(data, content_type=content, if_generation_match=generation, retry=None)
                return str(blob.generation)

        return conditional_put(put, lambda: self.fetch(key), data)

    def enforces_conditions(self, key: str) -> bool:
        """Always."""
        return True

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete live objects, in batches."""
        return delete_all(self.delete_batch, keys, BATCH)

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Every generation of every object; only the live ones where the bucket is known to keep no others."""
        versions = self.state().versioned is not False
        with self._errors("list", in_bucket=True):
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
                    Target(self._relative(blob.name), str(blob.generation) if versions else None, blob.size or 0)
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
        if not self._locks.may_ask():
            return self._locks.latest
        try:
            blob = self._bucket.get_blob(self._base + target.key, generation=target.version, retry=_RETRY)
        except (google_errors.GoogleAPICallError, requests.exceptions.RequestException):
            return None
        return self._locks.note(blob.retention_expiration_time if blob else None)

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
            with self._errors("bucket", in_bucket=True):
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

    def _relative(self, key: str) -> str:
        return relative(key, self._base, self.location.url)

    def _blob(self, key: str) -> Any:
        return self._bucket.blob(self._base + key)

    @contextmanager
    def _errors(self, what: str, *, in_bucket: bool = False) -> Iterator[None]:
        """Google's errors as ours. *in_bucket*: the call names no object that must exist, so what is missing is the bucket."""
        try:
            yield
        except (
            google_errors.GoogleAPIError,
            google.auth.exceptions.GoogleAuthError,
            requests.exceptions.RequestException,
        ) as error:
            raise translated(error, f"{self.location.url}: {what}", self.location.bucket, in_bucket=in_bucket) from None


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
    if settings.key_file:
        load: Any = google.auth.load_credentials_from_file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of files from strangers: this one is the administrator's
            return load(settings.key_file, scopes=[_SCOPE])[0]
    return None


_LOGIN: Final[Mapping[str, tuple[str, str]]] = {
    "reasonable timeframe": ("ClockSkew", "The clock of this node and Google's differ by minutes. Fix NTP on the node."),
    "invalid_grant": (
        "InvalidCredentials",
        "Google no longer knows the key, or its account: make a new key and put it into the Secret named by gcs.secretName.",
    ),
    "expired": ("ExpiredToken", "The workload's token ran out and could not be renewed; is its identity still bound?"),
}
_NO_LOGIN: Final = ("NoCredentials", "Set gcs.secretName (key credentials), or give the ServiceAccount a workload identity.")


def _no_credentials(error: Exception) -> AccessDeniedError:
    text = str(error)
    reason, hint = next((told for part, told in _LOGIN.items() if part in text), _NO_LOGIN)
    return AccessDeniedError(f"no usable Google credentials: {(text.splitlines() or [''])[0][:200]}", reason=reason, hint=hint)


def translated(error: Exception, what: str, bucket: str, *, in_bucket: bool = False) -> ManagerError:
    """Google's error as one of ours; *in_bucket* as in :meth:`GcsStorage._errors`."""
    if isinstance(error, google_errors.RetryError):
        cause = error.cause
        return translated(cause, what, bucket) if isinstance(cause, Exception) else connection_failed(error, what, _CHECK)
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return cut_short(what, "Google Cloud Storage", "STORAGE_EMULATOR_HOST, if it is set,")
    if isinstance(error, google.auth.exceptions.TransportError | requests.exceptions.RequestException):
        return connection_failed(error, what, _CHECK)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return _no_credentials(error)
    code = int(getattr(error, "code", 0) or 0)
    said = _REQUEST.sub("", str(getattr(error, "message", "") or error))
    if code == 404 and (in_bucket or "bucket does not exist" in said):  # an object's own 404 names its bucket too
        hint = "Create it, or correct gcs.bucket and gcs.projectId."
        return NotFoundError(f"bucket {bucket} does not exist", reason="BucketNotFound", hint=hint)
    return _answer(code, f"{what}: {code} {said}"[:400].splitlines()[0], bucket)


_CHECK: Final = "network policies, the cluster's DNS and proxies"
_REQUEST: Final = re.compile(r"^[A-Z]+ https?://\S+: ")
"""Google's client puts the whole request before what the store said."""


def _answer(code: int, message: str, bucket: str) -> ManagerError:
    if code == 401:
        hint = "Check the key `credentials` of the Secret named by gcs.secretName, or the workload identity."
        return AccessDeniedError(message, reason="InvalidCredentials", hint=hint)
    if code == 403:
        hint = f"Give the account roles/storage.objectAdmin on bucket {bucket}, and check that the bucket is yours."
        return AccessDeniedError(message, hint=hint)
    if code in {429, 503}:
        return ThrottledError(message, hint="The store asks to slow down; lower the concurrency if this goes on.")
    if code in _TEMPORARY:
        return TransientError(message, reason="StorageUnavailable")
    kind = {404: NotFoundError, 412: PreconditionError}.get(code, StorageError)
    return kind(message)
