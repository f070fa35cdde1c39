"""What a variable of the Job that holds a credential means: one function decides it, and whoever reads one asks it.

``kubectl create secret --from-file`` keeps the newline that ends the file, and some editors put a byte order mark in front.
Cleaned on one side only, such a key passes every check and is refused when the tool uses it. So the preflight, our own clients
and the tools get what :func:`value` says, and what cannot be a credential is refused with the name of the variable.
"""

import re
from collections.abc import Mapping
from typing import Final

from backup_manager.errors import UsageError
from crds.contract import names

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
_SENT: Final = ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")
"""These are in a header of each request as they are, so that none can hold a letter beyond ASCII."""
_FORBIDDEN: Final = re.compile(r"[\s\x00-\x1f\x7f]")
_LINE_ENDS: Final = "\r\n"


def value(env: Mapping[str, str], variable: str) -> str:
    """The credential in *variable* of *env*; empty when there is none.

    A storage's loses whitespace and a byte order mark at both ends. The database's password loses a byte order mark and the
    line ends that close it, nothing else: it may begin and end with spaces. Variables of the base snapshot of a restore to a
    point in time (:data:`crds.contract.names.ENV_FULL_BACKUP`) are treated like those without the prefix. Raises UsageError for
    a storage's with whitespace or a control character inside, or that no request can send.
    """
    name, found = variable.removeprefix(names.ENV_FULL_BACKUP), env.get(variable, "")
    if name == names.ENV_PASSWORD:
        return found.removeprefix(_BYTE_ORDER_MARK).rstrip(_LINE_ENDS)
    found = trimmed(found)
    if name in _ONE_LINE:
        _require_one_word(variable, found, name)
    if name in _SENT and not found.isascii():
        raise _refused(f"{variable} holds a letter that no request can have", name)
    return found


def trimmed(text: str) -> str:
    """*text* without whitespace and a byte order mark at its ends."""
    return text.strip().removeprefix(_BYTE_ORDER_MARK).strip()


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """*env* as a tool gets it: each credential as :func:`value` says, every other variable as it is. Raises UsageError."""
    known = {names.ENV_PASSWORD, *(prefix + name for prefix in ("", names.ENV_FULL_BACKUP) for name in (*_ONE_LINE, *_TEXTS))}
    return {**env, **{name: value(env, name) for name in env if name in known}}


def _require_one_word(variable: str, text: str, name: str) -> None:
    if found := _FORBIDDEN.search(text):
        what = "a line end" if found[0] in _LINE_ENDS else "whitespace or a control character"
        raise _refused(f"{variable} holds {what} in its middle", name)


def _refused(message: str, name: str) -> UsageError:
    source = _SOURCES.get(name, "Secret of the storage")
    return UsageError(message, reason="InvalidCredentials", hint=f"Correct the {source}: it holds more than the credential.")
