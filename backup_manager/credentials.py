"""Credentials as the Job gets them, cleaned once: the preflight, our own clients and the tools then use the same values.

``kubectl create secret --from-file`` keeps the newline that ends the file, and some editors put a byte order mark in front.
Cleaned on one side only, such a key passes every check and is refused when the tool uses it. So the environment is cleaned
before anything reads it, and what cannot be a credential is refused with the name of the variable.
"""

import re
from collections.abc import Mapping
from typing import Final

from backup_manager.errors import UsageError
from crds import names

_BYTE_ORDER_MARK: Final = "\ufeff"
_ONE_LINE: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
)
"""None of these may hold whitespace or a control character: they go into headers and URLs."""
_TEXTS: Final = ("GCS_SERVICE_ACCOUNT_JSON_KEY", "GOOGLE_APPLICATION_CREDENTIALS")
"""JSON (whose lines may be many) and a file's name: only their ends are cleaned."""
_SOURCES: Final = {
    "AWS_ACCESS_KEY_ID": "key access_key of the Secret named by s3.secretName",
    "AWS_SECRET_ACCESS_KEY": "key secret_key of the Secret named by s3.secretName",
}
_FORBIDDEN: Final = re.compile(r"[\s\x00-\x1f\x7f]")
_LINE_ENDS: Final = "\r\n"


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """*env* with its credentials cleaned; every other variable as it is.

    Storage credentials lose whitespace and a byte order mark at both ends. The database's password loses a byte order mark and
    the line ends that close it, nothing else: it may begin and end with spaces. Variables of a point-in-time restore's base
    snapshot (:data:`crds.names.ENV_FULL_BACKUP`) are treated like those without the prefix. Raises UsageError for a storage
    credential with whitespace or a control character inside.
    """
    cleaned = dict(env)
    for prefix in ("", names.ENV_FULL_BACKUP):
        for name in (*_ONE_LINE, *_TEXTS):
            if (value := env.get(prefix + name)) is not None:
                cleaned[prefix + name] = value.strip().removeprefix(_BYTE_ORDER_MARK).strip()
        for name in _ONE_LINE:
            _require_one_word(prefix + name, cleaned.get(prefix + name, ""), name)
    if names.ENV_PASSWORD in env:
        cleaned[names.ENV_PASSWORD] = env[names.ENV_PASSWORD].removeprefix(_BYTE_ORDER_MARK).rstrip(_LINE_ENDS)
    return cleaned


def _require_one_word(variable: str, value: str, name: str) -> None:
    if found := _FORBIDDEN.search(value):
        source = _SOURCES.get(name, "Secret of the storage")
        raise UsageError(
            f"{variable} holds {'a line end' if found[0] in _LINE_ENDS else 'whitespace or a control character'} in its middle",
            reason="InvalidCredentials",
            hint=f"Correct the {source}: it holds more than the credential.",
        )
