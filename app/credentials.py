"""The files that say who may call the hooks and how they are served: tokens, certificate and key.

Kubernetes renews a mounted Secret in place, so the files are read again when they change. What cannot be read then leaves
what was read before in force, and is logged.
"""

import asyncio
import hmac
import ssl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

LOOK_SECONDS: Final = 5.0
"""How often the files are looked at."""
_SHORTEST_TOKEN: Final = 16
"""Characters. Anything shorter can be guessed, or is half of a file."""


class CredentialsError(Exception):
    """A file of the settings cannot be used; the text names the setting, and holds nothing of the file."""


class Tokens:
    """The tokens that a caller may present: one a line in *path*.

    Raises CredentialsError when the file cannot be read, holds none, or one of less than 16 characters.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reload()

    def reload(self) -> None:
        """Read the file again. Raises CredentialsError, and keeps what it had."""
        sign = _sign(self._path)
        self._accepted = _read_tokens(self._path)
        self._sign = sign

    @property
    def stale(self) -> bool:
        """Whether the file is another one than the one that was read last."""
        return self._sign != _sign(self._path)

    def accept(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether *headers* of a request (lower-case names) carry one ``Authorization: Bearer`` with an accepted token."""
        found = [value for name, value in headers if name == b"authorization"]
        if len(found) != 1:
            return False
        scheme, _, token = found[0].partition(b" ")
        token = token.strip()
        # Every one is compared, so that the time tells nothing.
        matches = [hmac.compare_digest(token, accepted) for accepted in self._accepted]
        return scheme.lower() == b"bearer" and any(matches)


def _read_tokens(path: Path) -> tuple[bytes, ...]:
    try:
        lines = [line.strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise CredentialsError(f"TIDB_BACKUP_TOKEN_FILE={path}: {error.strerror}; it must hold one token a line") from None
    tokens = tuple(line for line in lines if line)
    if not tokens:
        raise CredentialsError(f"TIDB_BACKUP_TOKEN_FILE={path} is empty; it must hold one token a line")
    if short := next((number for number, line in enumerate(lines, 1) if line and len(line) < _SHORTEST_TOKEN), 0):
        raise CredentialsError(
            f"TIDB_BACKUP_TOKEN_FILE={path}, line {short}: a token has at least {_SHORTEST_TOKEN} characters; "
            "make one with: openssl rand -hex 32"
        )
    return tokens


class Certificate:
    """The certificate in *cert* with its *key* (PEM files), and the *context* in which connections are served with it.

    Raises CredentialsError when they cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self.reload()

    def reload(self) -> None:
        """Serve new connections with what the files hold now. Raises CredentialsError, and keeps what it had."""
        sign = _sign(self._cert, self._key)
        # A context of its own: one that failed to load is left with half of the new pair.
        self.context = self._fresh_context()
        self._sign = sign

    @property
    def stale(self) -> bool:
        """Whether the files are others than those that were read last."""
        return self._sign != _sign(self._cert, self._key)

    def _fresh_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        where = f"TIDB_BACKUP_TLS_CERT_FILE={self._cert}, TIDB_BACKUP_TLS_KEY_FILE={self._key}"
        try:
            # An encrypted key must not ask for its password on a terminal.
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except ssl.SSLError as error:
            raise CredentialsError(f"{where}: no certificate with its key in PEM ({error.reason or 'unreadable'})") from None
        except OSError as error:
            raise CredentialsError(f"{where}: {error.strerror}") from None
        except _EncryptedKey:
            raise CredentialsError(f"{where}: the key is encrypted; give it without a password") from None
        return context


class _EncryptedKey(Exception):
    pass


def _no_password() -> bytes:
    raise _EncryptedKey


async def watch(parts: Iterable[Tokens | Certificate], log: Any, *, seconds: float = LOOK_SECONDS) -> None:
    """Reload each of *parts* when one of its files changed, and again until that works, until cancelled."""
    watched = list(parts)
    told = [""] * len(watched)
    while True:
        await asyncio.sleep(seconds)
        for number, part in enumerate(watched):
            if not part.stale:
                continue
            try:
                part.reload()
            except CredentialsError as error:
                if told[number] != str(error):
                    told[number] = str(error)
                    log.error("credentials cannot be read, those from before stay in force", reason=told[number])
            else:
                told[number] = ""
                log.info("credentials were read again")


def _sign(*paths: Path) -> list[tuple[int, int, int]]:
    """What changes with the content of the files: a Secret is renewed by another file in place of the first."""
    found = []
    for path in paths:
        with suppress(OSError):
            stat = path.stat()
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return found
