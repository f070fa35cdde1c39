"""Where S3 keys come from: the Job's environment, else AWS's own chain (IRSA, Pod identity, instance role).

The chain is botocore's: it refreshes tokens before they run out. It is imported only when the environment holds no keys.
"""

from collections.abc import Callable
from typing import Any, Final

from backup_manager.errors import AccessDeniedError, ManagerError, UnreachableError
from backup_manager.storage import s3_errors
from backup_manager.storage.settings import S3Settings
from backup_manager.storage.sigv4 import Keys

KeySource = Callable[[], Keys]
"""Called for every request, so that refreshed keys are used at once."""


def key_source(settings: S3Settings) -> KeySource:
    """The keys of *settings*, or AWS's chain. Raises AccessDeniedError when there is none."""
    if settings.access_key:
        keys = Keys(settings.access_key, settings.secret_key, settings.session_token)
        return lambda: keys
    return _chain()


def _chain() -> KeySource:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  (slow, and seldom needed)
    from botocore.session import get_session  # noqa: PLC0415

    session = get_session()
    # Keys in the environment were looked at already: these are empty, or another storage's.
    session.get_component("credential_provider").remove("env")
    try:
        credentials: Any = session.get_credentials()
    except (BotoCoreError, ClientError) as error:
        raise _denied(error) from None
    if credentials is None:
        raise _denied("none in the environment, no web identity, no instance role")

    def fresh() -> Keys:
        try:
            frozen = credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise _denied(error) from None
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or "")

    return fresh


def _denied(error: object) -> ManagerError:
    """Why there are no keys. A token service that refuses the role says so by a code; one out of reach may come back."""
    answer = getattr(error, "response", None) or {}
    code = str((answer.get("Error") or {}).get("Code") or "")
    message = f"no usable S3 credentials: {code or error}"
    if code in s3_errors.TEMPORARY or type(error).__name__ in _OUT_OF_REACH:
        return UnreachableError(message, reason="StorageUnreachable", hint="Check network policies and proxies to AWS STS.")
    if code.startswith("ExpiredToken"):
        hint = "The token of the ServiceAccount ran out: does its Pod still get a new one, and is the node's clock right?"
        return AccessDeniedError(message, reason="ExpiredToken", hint=hint)
    if code:
        hint = "AWS refuses the role: check its name in the ServiceAccount's annotation, and the trust policy of the role."
        return AccessDeniedError(message, reason="NoCredentials", hint=hint)
    hint = "Set s3.secretName (keys access_key and secret_key), or give the ServiceAccount an AWS role."
    return AccessDeniedError(message, reason="NoCredentials", hint=hint)


_OUT_OF_REACH: Final = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"}
)
"""By name, since botocore is imported only where it is needed."""
