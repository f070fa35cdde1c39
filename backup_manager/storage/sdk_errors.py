"""What the drivers on a vendor's own client (Google's, Microsoft's) have in common: its failures become ours."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from backup_manager.errors import ManagerError, StorageError, UnreachableError


class Reader(io.RawIOBase):
    """A vendor's download as a stream. *errors* translates, *close* gives the download back."""

    def __init__(
        self, download: Any, errors: Callable[[str], AbstractContextManager[None]], close: Callable[[], None] = lambda: None
    ) -> None:
        self._download, self._errors, self._close = download, errors, close

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The next bytes; 0 at the end."""
        with self._errors("read"):
            data: bytes = self._download.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the download too."""
        if not self.closed:
            self._close()
        super().close()


def untrusted(error: object) -> bool:
    """Whether *error* comes from a certificate that is not trusted, which no repetition changes."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def connection_failed(error: Exception, what: str, hint: str) -> ManagerError:
    """The error for no answer at all. A certificate that is not trusted stays so; the rest may pass."""
    if untrusted(error):
        return StorageError(
            f"{what}: the certificate is not trusted",
            reason="UntrustedCertificate",
            hint="Mount the authority's PEM file and name it in SSL_CERT_FILE (spec.env).",
        )
    return UnreachableError(
        f"{what}: cannot be reached ({type(error).__name__})", reason="StorageUnreachable", hint=f"Check {hint}."
    )
