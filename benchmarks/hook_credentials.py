"""A certificate and a token for a webhook on the loopback interface."""

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.certificates import make_pair

_TOKEN = "0123456789abcdef" * 4


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The files in *folder*."""

    folder: Path
    token: str = _TOKEN

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client needs."""
        return ssl.create_default_context(cafile=str(self.certificate))

    @property
    def settings(self) -> dict[str, str]:
        """What the webhook needs."""
        return {
            "TIDB_BACKUP_TOKEN_FILE": str(self.folder / "tokens"),
            "TIDB_BACKUP_TLS_CERT_FILE": str(self.certificate),
            "TIDB_BACKUP_TLS_KEY_FILE": str(self.key),
        }


@contextmanager
def temporary_credentials() -> Iterator[Credentials]:
    """Good for a day."""
    with tempfile.TemporaryDirectory() as folder:
        found = Credentials(folder=Path(folder))
        pair = make_pair(["127.0.0.1"], now=datetime.now(UTC), life=timedelta(days=1))
        found.certificate.write_text(pair.certificate)
        found.key.touch(mode=0o600)
        found.key.write_text(pair.key)
        (found.folder / "tokens").write_text(found.token)
        yield found
