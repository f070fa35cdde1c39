"""AWS Signature Version 4 for S3, in the few lines it takes.

Not botocore's, because importing that costs more than the whole start of a manager may take, and a clean signs thousands of
requests. A test compares every signature with botocore's.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote

_SAFE: Final = "-._~"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class Keys(NamedTuple):
    """An access key. ``repr`` hides the secret parts."""

    access: str
    secret: str
    token: str = ""

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Keys(access={self.access!r})"


def encode_path(path: str) -> str:
    """*path* percent-encoded as S3 wants it in the URL and in the signature: once, slashes kept."""
    return quote(path, safe=_SAFE + "/", errors="surrogateescape")


def encode_query(query: Iterable[tuple[str, str]]) -> str:
    """The query string, sorted, as it is signed and sent."""
    encoded = ((quote(name, safe=_SAFE), quote(value, safe=_SAFE, errors="surrogateescape")) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


@lru_cache(maxsize=16)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signed_headers(
    keys: Keys,
    *,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """*headers* and the ones that authorise the request. *path* and *query* are encoded already; *now* is aware UTC."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    signed = {name.lower(): value.strip() for name, value in headers.items()}
    signed |= {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    if keys.token:
        signed["x-amz-security-token"] = keys.token
    names = sorted(signed)
    listed = ";".join(names)
    canonical = "\n".join((method, path, query, *(f"{name}:{signed[name]}" for name in names), "", listed, digest))
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = hmac.digest(_signing_key(keys.secret, stamp[:8], region), text.encode(), "sha256").hex()
    signed["authorization"] = f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={listed}, Signature={signature}"
    del signed["host"]
    return signed
