"""What an S3 error code means to us, and what the user does about it. One table."""

from collections.abc import Iterable, Mapping
from typing import Final

from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
    ThrottledError,
    TransientError,
)
from backup_manager.storage import s3_xml

THROTTLED: Final = frozenset(
    {
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
    }
)
TEMPORARY: Final = THROTTLED | {
    "BadGateway",
    "GatewayTimeout",
    "IncompleteBody",
    "InternalError",
    "InternalServerError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "ServerBusy",
    "XMinioServerNotInitialized",
}
GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchUpload"})
_WRONG_REGION: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect"}
)
_PRECONDITION: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_KEYS_HINT: Final = "Check access_key and secret_key in the Secret named by s3.secretName."
_DENIED: Final[Mapping[str, tuple[str, str]]] = {
    "InvalidAccessKeyId": ("InvalidCredentials", f"The access key does not exist at this store. {_KEYS_HINT}"),
    "SignatureDoesNotMatch": ("InvalidCredentials", f"The secret key does not belong to the access key. {_KEYS_HINT}"),
    "InvalidSecurity": ("InvalidCredentials", _KEYS_HINT),
    "ExpiredToken": (
        "ExpiredToken",
        "The temporary credentials ran out. Renew the Secret, or use the ServiceAccount's own role.",
    ),
    "InvalidToken": (
        "ExpiredToken",
        "The session token is not valid here. Renew the Secret, or use the ServiceAccount's own role.",
    ),
    "TokenRefreshRequired": ("ExpiredToken", "Renew the temporary credentials."),
    "RequestTimeTooSkewed": (
        "ClockSkew",
        "The clock of this node and the store's differ by more than 15 minutes. Fix NTP on the node.",
    ),
    "AccountProblem": ("StorageAccessDenied", "The store has blocked the account; ask its owner."),
}
_BY_QUERY: Final = {
    "list-type": "s3:ListBucket",
    "versions": "s3:ListBucketVersions",
    "versioning": "s3:GetBucketVersioning",
    "object-lock": "s3:GetBucketObjectLockConfiguration",
    "uploads": "s3:ListBucketMultipartUploads",
    "uploadId": "s3:AbortMultipartUpload",
    "retention": "s3:GetObjectRetention",
    "legal-hold": "s3:GetObjectLegalHold",
    "versionId": "s3:DeleteObjectVersion",
    "delete": "s3:DeleteObject and s3:DeleteObjectVersion",
}
_BY_METHOD: Final = {"PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
_BY_STATUS: Final = {400: "BadRequest", 403: "AccessDenied", 404: "NotFound", 409: "Conflict", 412: "PreconditionFailed"}
_BY_STATUS_TEMPORARY: Final = {
    429: "TooManyRequests",
    500: "InternalError",
    502: "BadGateway",
    503: "SlowDown",
    504: "GatewayTimeout",
}


def code_of(status: int, body: str) -> str:
    """The error code of an answer; made from the *status* when the body names none (HEAD, proxies)."""
    named = s3_xml.field(body, "Code") if "<Error>" in body else ""
    return named or _BY_STATUS_TEMPORARY.get(status) or _BY_STATUS.get(status) or f"Http{status}"


def action(method: str, key: str, query: Iterable[tuple[str, str]]) -> str:
    """The right that a call needs, as policies name it.

    >>> action("GET", "", [("list-type", "2"), ("prefix", "p/")]), action("PUT", "p/a", [])
    ('s3:ListBucket', 's3:PutObject')
    """
    asked = {name for name, _ in query}
    named = next((right for name, right in _BY_QUERY.items() if name in asked), "")
    return named or _BY_METHOD.get(method, "s3:GetObject")


def of_answer(
    status: int, headers: Mapping[str, str], body: str, *, what: str, action: str, bucket: str, region: str
) -> ManagerError:
    """The error for an answer that is none of the good ones. *what* says which call on which path, *action* its right."""
    code = code_of(status, body)
    said = s3_xml.field(body, "Message") if "<Error>" in body else ""
    message = f"{what}: {code}" + (f": {said[:300]}" if said else "")
    if code in TEMPORARY or status in _BY_STATUS_TEMPORARY:
        if code in THROTTLED or status in {429, 503}:
            return ThrottledError(message, hint="The store asks to slow down; lower the concurrency if this goes on.")
        return TransientError(message, reason="StorageUnavailable")
    if (
        status == 400 and "<Error>" not in body and "https" in body.lower()
    ):  # Go's and nginx's words for plain HTTP on such a port
        return StorageError(message, reason="TLSFailed", hint="The port of s3.endpoint speaks TLS: write https:// there.")
    right = headers.get("x-amz-bucket-region") or s3_xml.field(body, "Region")
    if code in _WRONG_REGION or status == 301 or (status == 400 and right and right != region):
        return _wrong_region(message, bucket, region, right)
    return _permanent(code, status, message, action, bucket)


def _wrong_region(message: str, bucket: str, region: str, right: str) -> ManagerError:
    if not right:
        return StorageError(
            message, reason="WrongRegion", hint=f"{region} is not the bucket's region, or s3.endpoint is not its address."
        )
    return StorageError(
        f"bucket {bucket} is in region {right}, not {region}", reason="WrongRegion", hint=f"Set s3.region: {right}."
    )


def _permanent(code: str, status: int, message: str, action: str, bucket: str) -> ManagerError:
    if code == "NoSuchBucket":
        return NotFoundError(
            f"bucket {bucket} does not exist",
            reason="BucketNotFound",
            hint="Create it, or correct s3.bucket, s3.endpoint or s3.region.",
        )
    if code in GONE or status == 404:
        return NotFoundError(message)
    if code in _PRECONDITION or status == 412:
        return PreconditionError(message)
    if code in _DENIED:
        reason, hint = _DENIED[code]
        return AccessDeniedError(message, reason=reason, hint=hint)
    if code == "AllAccessDisabled" or status in {401, 403}:
        return AccessDeniedError(
            message,
            hint=f"Allow {action} in the policy of the key or role, and check that bucket {bucket} is yours.",
        )
    return StorageError(message, reason="StorageFailed", hint="See the store's log for the request.")
