"""Secrets never leave the process: every line that is logged, reported or raised goes through one :class:`Masker`.

Two nets. Values that we were given as secrets (passwords, keys, tokens from the environment and the CR) are replaced wherever
they appear; and well-known places of a secret (``--password=``, ``sas-token=``, ``--crypter.key=``, ``access-key=`` ...) are
blanked whatever stands there, since tools print what they were given in their own form.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from backup_manager import log_blocks

MASK: Final = "******"
_SHORTEST: Final = 4
"""A shorter value (a password "a") would blank half of every line and so tell more than it hides; the patterns still apply."""

SECRET_VARIABLES: Final = (
    "BACKUP_MANAGER_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GCS_SERVICE_ACCOUNT_JSON_KEY",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
)

_NAMES: Final = (
    r"(?:tidb-|s3-)?password|passwd|pwd|sas-token|sastoken|sig|crypter\.key|log\.crypter\.key|"
    r"access-key|secret-access-key|access_key|secret_access_key|secret_key|session-token|account-key|accountkey|"
    r"credentials|client_secret|x-amz-signature|x-amz-credential|authorization|token"
)
_ASSIGNED: Final = re.compile(
    rf"(?i)(?:(?<![\w])|(?<=\\u0026))((?:{_NAMES})\\?\"?\s*[=:]\s*\\?\"?)(?!(?-i:YES|NO)\))((?:bearer\s+)?[^\s&\"'\\,\]}})]+)"
)
_WORDS: Final = ("passw", "pwd", "sig", "key", "token", "credential", "secret", "authorization")
"""Most lines of a log have none of these: substring search is a hundred times cheaper than the expression above."""
_DSN: Final = re.compile(r"(?<=[/\s\"'=\[(])([^:/@\s\"'\[(]+):([^@\s\"']+)@(?=[\w\[(.-]+)")


class Masked(str):
    """Text that went through a :class:`Masker`: whoever logs it need not do it again. Anything made from it is a plain text."""

    __slots__ = ()


class Masker:
    """Replaces secrets in text.

    >>> Masker(["hunter22"])("--password=abc and hunter22")
    '--password=****** and ******'
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {
            form for secret in secrets if len(secret) >= _SHORTEST for form in (secret, quote(secret, safe=""), quote(secret))
        }
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(form) for form in longest_first)) if longest_first else None
        lowered = (form.encode("utf-8", "replace").lower() for form in longest_first if "\n" not in form)
        self._needles = (*(word.encode() for word in _WORDS), b"@", *lowered)

    def __call__(self, text: str) -> str:
        """*text* without secrets."""
        if self._known:
            text = self._known.sub(MASK, text)
        lowered = text.lower()
        if any(word in lowered for word in _WORDS):
            text = _ASSIGNED.sub(rf"\g<1>{MASK}", text)
        return _DSN.sub(rf"\g<1>:{MASK}@", text) if "@" in text else text

    def block(self, block: bytes) -> Masked:
        """*block* (whole lines of a log) without secrets: the lines that may hold one are treated alone, the others stay."""
        shown, done = list[str](), 0
        for span in log_blocks.spans(block.lower(), self._needles):
            shown += block[done : span.start].decode("utf-8", "replace"), self(block[span].decode("utf-8", "replace"))
            done = span.stop
        return Masked("".join((*shown, block[done:].decode("utf-8", "replace"))))

    def value(self, value: Any) -> Any:
        """*value* (JSON-like) with every text in it masked."""
        match value:
            case str():
                return self(value)
            case dict():
                return {key: self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value


def secrets_of(env: Mapping[str, str], spec: Mapping[str, Any]) -> list[str]:
    """The secret values that this run knows: from the environment, and an Azure ``sasToken`` in the CR."""
    variables = [f"{prefix}{name}" for prefix in ("", "FULL_BACKUP_") for name in SECRET_VARIABLES]
    found = [env[name] for name in variables if env.get(name)]
    for holder in (spec, spec.get("pitrFullBackupStorageProvider") or {}):
        if token := (holder.get("azblob") or {}).get("sasToken"):
            found.append(str(token))
    found += [stripped for secret in found if (stripped := secret.strip()) != secret]  # as it is used
    return [*found, *(part for secret in found for part in _signatures(secret))]


def _signatures(secret: str) -> list[str]:
    """The signature in an Azure SAS token, as written and decoded: the tools log a token in parts and in forms of their own."""
    parts = (part.partition("=") for part in secret.lstrip("?").split("&"))
    written = [value for name, _, value in parts if name == "sig"]
    return [form for value in written for form in (value, unquote(value))]
