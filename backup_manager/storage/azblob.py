"""Azure Blob Storage, by Microsoft's client.

Deletion of the current version of a blob makes it an older version; the cleaner's next pass finds and deletes that. Folders of
an account with hierarchical namespace are blobs too, and go once they are empty.
"""

import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Final, cast

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import ContainerClient, ExponentialRetry

from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
    ThrottledError,
    TransientError,
)
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from backup_manager.storage.listing import cut_short, relative
from backup_manager.storage.retention import LockDates
from backup_manager.storage.retry import conditional_put, delete_all
from backup_manager.storage.sdk_errors import Reader, connection_failed, untrusted
from backup_manager.storage.settings import AzureSettings
from crds.contract.paths import Location

BATCH: Final = 256
"""What one batch request takes."""
_PAGE: Final = 1000
_BATCH_FAILURES: Final = 3
_TIMEOUTS: Final[dict[str, Any]] = {"connection_timeout": 10, "read_timeout": 60}
_LOCKED: Final = frozenset({"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold", "ImmutabilityPolicyNotMet"})
_AGAIN: Final = frozenset({"ServerBusy", "OperationTimedOut", "InternalError", "DirectoryIsNotEmpty", "AccountIsDisabled"})
_GONE: Final = frozenset({"BlobNotFound", "ResourceNotFound"})
_PRECONDITION: Final = frozenset({"ConditionNotMet", "BlobAlreadyExists", "TargetConditionNotMet"})
_BAD_LOGIN: Final = frozenset({"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"})


class AzblobStorage:
    """One folder of a container."""

    def __init__(self, location: Location, container: ContainerClient, settings: AzureSettings) -> None:
        self.location = location
        self.batch_size = BATCH
        self.notes: list[str] = []
        self._container = container
        self._settings = settings
        self._base = f"{location.prefix}/" if location.prefix else ""
        self._state: StoreState | None = None
        self._locks = LockDates()
        self._failed_batches = 0
        self._mutex = threading.Lock()

    @classmethod
    def connect(cls, location: Location, settings: AzureSettings) -> "AzblobStorage":
        """With a SAS token, an AAD application or the account's key, in this order. Raises AccessDeniedError."""
        endpoint = settings.endpoint or f"https://{settings.account}.blob.core.windows.net"
        options = {**_TIMEOUTS, **_trust(settings), "retry_policy": _Retries()}
        container = ContainerClient(endpoint, location.bucket, credential=_credential(settings), **options)
        return cls(location, container, settings)

    def at(self, location: Location) -> "AzblobStorage":
        """The same account, another folder."""
        if location.bucket == self.location.bucket:
            return AzblobStorage(location, self._container, self._settings)
        return AzblobStorage.connect(location, self._settings)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every current blob under *prefix*."""
        with self._listing():
            for blob in self._container.list_blobs(name_starts_with=self._base + prefix, results_per_page=_PAGE):
                yield ObjectInfo(
                    key=self._relative(blob.name), size=blob.size or 0, etag=_mark(blob), modified=blob.last_modified
                )

    def stat(self, key: str) -> ObjectInfo:
        """Size and content mark."""
        with self._errors(key):
            blob = self._blob(key).get_blob_properties()
        return ObjectInfo(key=key, size=blob.size or 0, etag=_mark(blob), modified=blob.last_modified)

    def read(self, key: str) -> bytes:
        """The whole blob."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, str]:
        """The whole blob and its etag."""
        with self._errors(key):
            download = self._blob(key).download_blob()
            return download.readall(), str(download.properties.etag)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A stream that reads in chunks."""
        with self._errors(key):
            download = self._blob(key).download_blob()
        return cast("AbstractContextManager[BinaryIO]", io.BufferedReader(Reader(download, self._errors)))

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Store under the condition."""
        condition: dict[str, Any] = {"overwrite": not if_absent}
        if if_match is not None:
            condition |= {"etag": if_match, "match_condition": MatchConditions.IfNotModified}

        def put() -> str:
            with self._errors(key):
                return str(self._blob(key).upload_blob(data, **condition, retry_total=0)["etag"])

        return conditional_put(put, lambda: self.fetch(key), data)

    def enforces_conditions(self, key: str) -> bool:
        """Always."""
        return True

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete current blobs, in batches."""
        return delete_all(self.delete_batch, keys, BATCH)

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        """Every blob, older version and unfinished blob. A snapshot goes with its blob."""
        include = ["uncommittedblobs"] if self.state().versioned is False else ["versions", "uncommittedblobs"]
        with self._listing():
            listing = self._container.list_blobs(name_starts_with=self._base + prefix, include=include, results_per_page=_PAGE)
            for page in listing.by_page():
                yield [
                    Target(self._relative(blob.name), None if blob.is_current_version else blob.version_id, blob.size or 0)
                    for blob in page
                ]

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        """One batch request; each answer is looked at."""
        if self.batch_size == 1:
            return [failure for target in batch if (failure := self._delete_one(target))]
        entries = [self._entry(target) for target in batch]
        try:
            with self._errors("delete"):
                answers = list(self._container.delete_blobs(*entries, raise_on_any_failure=False, retry_total=0))
        except (StorageError, TransientError) as error:
            if not self._gives_up_batches(error):
                raise
            return self.delete_batch(batch)
        failures = []
        for target, answer in zip(batch, answers, strict=True):
            status = int(answer.status_code)
            code = str(answer.headers.get("x-ms-error-code") or f"Http{status}")
            if status >= 300 and (failure := self._failure(target, status, code, str(answer.reason or ""))):
                failures.append(failure)
        return failures

    def _gives_up_batches(self, error: ManagerError) -> bool:
        """Whether batches fail too often for a reason of their own; from then on each blob gets a request."""
        if error.problem().reason not in {"StorageUnavailable", "StorageFailed", "StorageAccessDenied"}:
            return False
        with self._mutex:
            self._failed_batches += 1
            if self._failed_batches < _BATCH_FAILURES:
                return False
            if self.batch_size > 1:
                self.batch_size = 1
                self.notes.append(f"the store refuses batch deletion ({error.message}); blobs are deleted one by one")
        return True

    def _entry(self, target: Target) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self._base + target.key}
        return entry | ({"version_id": target.version} if target.version else {"delete_snapshots": "include"})

    def _delete_one(self, target: Target) -> DeleteFailure | None:
        entry = self._entry(target)
        try:
            with self._errors(target.key):
                self._container.delete_blob(entry.pop("name"), **entry, retry_total=0)
        except NotFoundError as error:
            if error.problem().reason == "BucketNotFound":
                raise
        except StorageError as error:
            code = error.message.rpartition(": ")[2].partition(" ")[0]
            return self._failure(target, 409, code, error.message)
        return None

    def _failure(self, target: Target, status: int, code: str, message: str) -> DeleteFailure | None:
        if code in _GONE or (status == 404 and code.startswith("Http")):
            return None
        locked = code in _LOCKED
        return DeleteFailure(
            key=target.key,
            version=target.version,
            code=code,
            message=message[:200],
            retryable=code in _AGAIN or status in {429, 500, 502, 503, 504},
            locked=locked,
            locked_until=self._locked_until(target) if locked else None,
        )

    def _locked_until(self, target: Target) -> datetime | None:
        if not self._locks.may_ask():
            return self._locks.latest
        try:
            blob = self._container.get_blob_client(self._base + target.key, version_id=target.version)
            return self._locks.note(blob.get_blob_properties().immutability_policy.expiry_time)
        except AzureError:
            return None

    def uploads(self) -> Iterator[Upload]:
        """Unfinished blobs are among :meth:`targets`."""
        return iter(())

    def abort(self, upload: Upload) -> None:
        """Nothing to abort."""

    def tidy(self) -> None:
        """Nothing to do."""

    def state(self) -> StoreState:
        """Whether the container is there, its lock and its clock. Azure says nothing about versioning to a data user."""
        if self._state is None:
            self._state = self._read_state()
        return self._state

    def _read_state(self) -> StoreState:
        try:
            with self._errors("container"):
                properties = self._container.get_container_properties(raw_response_hook=self._hear)
        except AccessDeniedError as error:
            if error.problem().reason != AccessDeniedError.reason:
                raise
            return StoreState(clock_skew=self._skew)  # a container's own SAS token never shows properties
        return StoreState(
            versioned=None if properties.immutable_storage_with_versioning_enabled is None else True,
            lock=bool(properties.has_immutability_policy or properties.has_legal_hold),
            default_lock="immutability policy" if properties.has_immutability_policy else "",
            clock_skew=self._skew,
        )

    _skew: float | None = None

    def _hear(self, answer: Any) -> None:
        try:
            theirs = parsedate_to_datetime(answer.http_response.headers["Date"])
        except (KeyError, ValueError, TypeError):
            return
        self._skew = (theirs - datetime.now(UTC)).total_seconds()

    def close(self) -> None:
        """Close the connections."""
        self._container.close()

    def _relative(self, key: str) -> str:
        return relative(key, self._base, self.location.url)

    def _blob(self, key: str) -> Any:
        return self._container.get_blob_client(self._base + key)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        """As :meth:`_errors`; and what Microsoft's client stumbles over, in a body that is no listing, is told as such."""
        try:
            with self._errors("list"):
                yield
        except (ValueError, TypeError, AttributeError):
            raise cut_short(self.location.url, _SERVICE, _ENDPOINT) from None

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except AzureError as error:
            raise translated(error, f"{self.location.url}: {what}", self.location.bucket) from None


class _Retries(ExponentialRetry):
    """Some fifteen seconds in four tries, where the client's own way takes minutes; and what cannot pass is not repeated."""

    def __init__(self) -> None:
        super().__init__(initial_backoff=1, increment_base=2, random_jitter_range=1, retry_total=3)

    def increment(self, settings: Any, request: Any, response: Any = None, error: Any = None) -> bool:
        if isinstance(error, ClientAuthenticationError) or untrusted(error):
            return False
        return bool(super().increment(settings, request, response, error))


def _mark(blob: Any) -> str:
    """The content's MD5 where the writer gave one, else the etag, which changes with every write."""
    md5 = blob.content_settings.content_md5 if blob.content_settings else None
    return f"md5:{bytes(md5).hex()}" if md5 else str(blob.etag or "").strip('"')


def _trust(settings: AzureSettings) -> dict[str, Any]:
    return {"connection_verify": settings.ca_bundle} if settings.ca_bundle else {}


def _credential(settings: AzureSettings) -> Any:
    if settings.sas_token:
        return settings.sas_token
    if settings.application:
        from azure.identity import ClientSecretCredential  # noqa: PLC0415  (slow, and only for this way in)

        options = _trust(settings) | {"retry_total": 2}
        return ClientSecretCredential(settings.tenant_id, settings.client_id, settings.client_secret, **options)
    if settings.account_key:
        return {"account_name": settings.account, "account_key": settings.account_key}
    raise settings.missing()


_SERVICE: Final = "Azure Blob"
_ENDPOINT: Final = "AZURE_STORAGE_ENDPOINT, if it is set,"
_AAD_CODE: Final = re.compile(r"AADSTS\d+")
_LOGIN: Final[Mapping[str, tuple[str, str]]] = {
    "date header too old": (
        "ClockSkew",
        "The clock of this node and Azure's differ by more than 15 minutes. Fix NTP on the node.",
    ),
    "not valid in the specified time frame": (
        "ExpiredToken",
        "The SAS token's time has passed, or not come: make a new one and set azblob.sasToken.",
    ),
    "token is expired": ("ExpiredToken", "The application's token ran out; is the clock of this node right?"),
    "AADSTS7000222": ("ExpiredToken", "The application's secret ran out: put a new AZURE_CLIENT_SECRET into the Secret."),
}
"""By a part of what Azure said."""
_BAD_LOGIN_HINT: Final = "Check the account's key, the application or the SAS token (its dates and permissions too)."
_FORBIDDEN: Final[Mapping[str, str]] = {
    "AuthorizationFailure": "Does the account's firewall let this cluster in, and has the identity a role there?",
    "AccountIsDisabled": "The storage account is disabled; ask its owner.",
}


def translated(error: AzureError, what: str, container: str) -> ManagerError:
    """Microsoft's error as one of ours. Only its code is repeated: its text may hold parts of the request."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return connection_failed(error, what, "the account's name, network policies and the cluster's DNS")
    named = getattr(error, "error_code", None) or ""
    code = str(getattr(named, "value", named))
    status = int(getattr(error, "status_code", None) or 0)
    message = f"{what}: {code or _aad_code(error) or status or type(error).__name__}"
    if isinstance(error, ClientAuthenticationError) or code in _BAD_LOGIN or status == 401:
        return _bad_login(error, what, message)
    if status == 403:
        role = f"Allow it on container {container}: role Storage Blob Data Contributor, or SAS permissions racwdl."
        return AccessDeniedError(message, hint=_FORBIDDEN.get(code, role))
    if 200 <= status < 300:
        return cut_short(what, _SERVICE, _ENDPOINT)
    return _answer(code, status, message, container)


def _bad_login(error: AzureError, what: str, message: str) -> ManagerError:
    text = str(error)
    if untrusted(error):  # on the way to the login
        return connection_failed(error, what, "")
    reason, hint = next((told for part, told in _LOGIN.items() if part in text), ("InvalidCredentials", _BAD_LOGIN_HINT))
    return AccessDeniedError(message, reason=reason, hint=hint)


def _aad_code(error: AzureError) -> str:
    found = _AAD_CODE.search(str(error))
    return found[0] if found else ""


def _answer(code: str, status: int, message: str, container: str) -> ManagerError:
    if code in {"ContainerNotFound", "ContainerBeingDeleted"}:
        return NotFoundError(
            f"container {container} does not exist", reason="BucketNotFound", hint="Create it, or correct azblob.container."
        )
    if code in _PRECONDITION:
        return PreconditionError(message)
    if status == 404 or code in _GONE:
        return NotFoundError(message)
    if status in {429, 503} or code == "ServerBusy":
        return ThrottledError(message, hint="The store asks to slow down; lower the concurrency if this goes on.")
    if status >= 500:
        return TransientError(message, reason="StorageUnavailable")
    return StorageError(message)
