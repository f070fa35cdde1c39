"""Our signatures are botocore's, request by request."""

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_manager.storage.sigv4 import Keys, encode_path, encode_query, signed_headers

NOW = datetime(2026, 1, 31, 2, 3, 4, tzinfo=UTC)
REGION = "eu-west-1"
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


def botocores(method: str, url: str, headers: dict[str, str], body: bytes, token: str) -> str:
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    request.context["payload_signing_enabled"] = True
    signer = S3SigV4Auth(Credentials("AK", "S/K+y", token or None), "s3", REGION)
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        signer.add_auth(request)
    return str(request.headers["Authorization"])


def ours(method: str, url: str, headers: dict[str, str], body: bytes, token: str) -> str:
    parts = urlsplit(url)
    signed = signed_headers(
        Keys("AK", "S/K+y", token),
        method=method,
        host=parts.netloc,
        path=parts.path,
        query=parts.query,
        headers=headers,
        body=body,
        region=REGION,
        now=NOW,
    )
    return signed["authorization"]


@settings(max_examples=150, deadline=None)
@given(
    key=TEXT,
    query=st.dictionaries(st.sampled_from(["prefix", "versions", "continuation-token", "delete"]), TEXT),
    body=st.binary(max_size=30),
    token=st.sampled_from(["", "tok/en=="]),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
)
def test_any_request(key: str, query: dict[str, str], body: bytes, token: str, method: str) -> None:
    asked = encode_query(query.items())
    url = f"https://s3.example.com:8443{encode_path(f'/bucket/{key}')}" + (f"?{asked}" if asked else "")
    request = (method, url, {"content-type": "text/plain", "if-none-match": "*"}, body, token)
    assert ours(*request) == botocores(*request)


def test_keys_hide_their_secret() -> None:
    assert "S3cret" not in repr(Keys("AK", "S3cret", "T0ken"))
    assert "T0ken" not in repr(Keys("AK", "S3cret", "T0ken"))


@pytest.mark.parametrize(
    ("path", "encoded"),
    [("/b/a b", "/b/a%20b"), ("/b/a+b", "/b/a%2Bb"), ("/b/ü~", "/b/%C3%BC~"), ("/b/%2F", "/b/%252F"), ("/b//x", "/b//x")],
)
def test_paths_are_encoded_once(path: str, encoded: str) -> None:
    assert encode_path(path) == encoded
