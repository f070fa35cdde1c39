"""Secrets never leave the process: every line that is logged, reported or raised goes through one :class:`Masker`.

Two nets. Values that we were given as secrets (passwords, keys, tokens from the environment and the CR) are replaced wherever
they appear; and well-known places of a secret (``--password=``, ``sas-token=``, ``--crypter.key=``, ``access-key=`` ...) are
blanked whatever stands there, since tools print what they were given in their own form.
"""

import base64
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

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
_USER: Final = re.compile(r"(?:^|(?<=[/=\[(]))[^:/=\[(]+:(?=.)")
"""A user's name and the colon after it, in what stands before an ``@`` without a blank or a quote."""
_DELIMITER: Final = re.compile(r"[\s\"']")

SECRET_FLAGS: Final = frozenset(
    {
        "--password",
        "-p",
        "--tidb-password",
        "--crypter.key",
        "--master-key",
        "--log.crypter.key",
        "--azblob.account-key",
        "--azblob.sas-token",
        "--azblob.encryption-key",
        "--s3.access-key",
        "--s3.secret-access-key",
        "--s3.session-token",
    }
)
"""Flags of br, dumpling and lightning whose value is a secret, also when it is the argument after the flag."""


class Masked(str):
    """Text that went through a :class:`Masker`: whoever logs it need not do it again. Anything made from it is a plain text."""

    __slots__ = ()


class Masker:
    """Replaces secrets in text.

    >>> Masker(["hunter22"])("--password=abc and hunter22")
    '--password=****** and ******'
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= _SHORTEST for form in _forms(secret)}
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
        return _without_passwords(text) if "@" in text else text

    def argv(self, argv: Sequence[str]) -> list[str]:
        """*argv* without secrets, argument by argument: quoting first would change the look of a known value."""
        shown, after = list[str](), False
        for argument in argv:
            flag, assigned, _ = argument.partition("=")
            secret = flag in SECRET_FLAGS
            shown.append(MASK if after else f"{flag}={MASK}" if secret and assigned else self(argument))
            after = secret and not assigned and not after
        return shown

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
            case list() | tuple() if value and all(isinstance(item, str) for item in value):
                return self.argv(value)
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value


def _forms(secret: str) -> set[str]:
    """*secret* as it is written in a shell, a URL, JSON, Go's ``%q`` and base64."""
    raw = secret.encode("utf-8", "surrogateescape")
    urls = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    lower = {re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), url) for url in urls}
    quoted = {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)}
    go = {re.sub(r"[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text) for text in quoted}
    shell = {shlex.quote(secret), secret.replace("'", "'\"'\"'"), secret.replace("'", "'\\''")}
    coded = {form.decode() for form in (base64.b64encode(raw), base64.urlsafe_b64encode(raw))}
    return {secret, *urls, *lower, *quoted, *go, *shell, *coded, *(form.rstrip("=") for form in coded)}


def _without_passwords(text: str) -> str:
    """*text* with ``user:password@host`` masked. Each character is looked at a fixed number of times."""
    pieces = text.split("@")
    for index, following in enumerate(pieces[1:]):
        run = _DELIMITER.split(pieces[index])[-1]
        if (found := _USER.search(run)) and following and (following[0].isalnum() or following[0] in "_[(.-"):
            pieces[index] = pieces[index][: len(pieces[index]) - len(run) + found.end()] + MASK
    return "@".join(pieces)


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
