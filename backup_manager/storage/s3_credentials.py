"""Where S3 keys come from: the Job's environment, else AWS's own chain (IRSA, Pod identity, instance role).

The chain is botocore's: it refreshes tokens before they run out. It is imported only when the environment holds no keys.
"""

from collections.abc import Callable
from typing import Any

from backup_manager.errors import AccessDeniedError
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
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415  (slow, and seldom needed)
    from botocore.session import get_session  # noqa: PLC0415

    def denied(error: object) -> AccessDeniedError:
        return AccessDeniedError(
            f"no usable S3 credentials: {error}",
            reason="NoCredentials",
            hint="Set s3.secretName (keys access_key and secret_key), or give the ServiceAccount an AWS role.",
        )

    try:
        credentials: Any = get_session().get_credentials()
    except BotoCoreError as error:
        raise denied(error) from None
    if credentials is None:
        raise denied("none in the environment, no web identity, no instance role")

    def fresh() -> Keys:
        try:
            frozen = credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise denied(error) from None
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or "")

    return fresh
