"""Files of tokens and certificates: what is accepted, what is refused, and what a renewal may not break."""

import asyncio
import os
from pathlib import Path

import pytest
import structlog

from app.credentials import Certificate, CredentialsError, Tokens, watch
from tests.support.certificates import self_signed

TOKEN = b"6f1d0c8a7b9e4d21"
OTHER = b"aaaaaaaaaaaaaaaaaaaaaaaa"


def bearer(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", value)]


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokens"
    path.write_bytes(TOKEN + b"\r\n\n  " + OTHER + b"  \n")
    return Tokens(path)


@pytest.mark.parametrize("value", [b"Bearer " + TOKEN, b"bearer " + OTHER, b"BEARER  " + TOKEN + b" "])
def test_each_line_is_a_token(tokens: Tokens, value: bytes) -> None:
    assert tokens.accept(bearer(value))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer(b""),
        bearer(b"Bearer"),
        bearer(b"Bearer "),
        bearer(TOKEN),
        bearer(b"Basic " + TOKEN),
        bearer(b"Bearer " + TOKEN[:-1]),
        bearer(b"Bearer " + TOKEN + b"0"),
        bearer(b"Bearer " + TOKEN + b"\n" + OTHER),
        bearer(b"Bearer " + TOKEN + b" " + OTHER),
        bearer("Bearer pässwört-pässwört".encode()),
        [*bearer(b"Bearer " + TOKEN), *bearer(b"Bearer " + TOKEN)],
    ],
)
def test_anything_else_is_no_token(tokens: Tokens, headers: list[tuple[bytes, bytes]]) -> None:
    assert not tokens.accept(headers)


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), (b"", "is empty"), (b" \n\n", "is empty"), (TOKEN + b"\nshort\n", "line 2")]
)
def test_a_file_that_would_let_nobody_or_anybody_in_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialsError, match=says) as caught:
        Tokens(path)
    assert "short" not in str(caught.value)
    assert "TIDB_BACKUP_TOKEN_FILE" in str(caught.value)


def test_a_broken_renewal_keeps_the_tokens_from_before(tokens: Tokens) -> None:
    tokens._path.write_bytes(b"")
    with pytest.raises(CredentialsError):
        tokens.reload()
    assert tokens.accept(bearer(b"Bearer " + TOKEN))


class TestCertificates:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Certificate:
        self_signed(tmp_path, "one")
        return Certificate(tmp_path / "one.crt", tmp_path / "one.key")

    def test_a_key_of_another_certificate_is_refused(self, tmp_path: Path, certificate: Certificate) -> None:
        self_signed(tmp_path, "two")
        with pytest.raises(CredentialsError, match="TIDB_BACKUP_TLS_KEY_FILE"):
            Certificate(certificate._cert, tmp_path / "two.key")

    def test_an_encrypted_key_is_refused_and_nobody_asked_for_its_password(self, tmp_path: Path) -> None:
        self_signed(tmp_path, "locked", password=b"open sesame")
        with pytest.raises(CredentialsError, match="encrypted"):
            Certificate(tmp_path / "locked.crt", tmp_path / "locked.key")

    def test_a_broken_renewal_keeps_the_certificate_from_before(self, certificate: Certificate) -> None:
        before = certificate.context
        certificate._cert.write_text("junk")
        with pytest.raises(CredentialsError):
            certificate.reload()
        assert certificate.context is before


def test_files_are_read_again_when_they_are_replaced(tmp_path: Path, tokens: Tokens) -> None:
    """A Secret is renewed by a link that points elsewhere at once."""

    async def replace() -> None:
        watching = asyncio.create_task(watch([tokens], structlog.get_logger(), seconds=0.01))
        await asyncio.sleep(0.03)
        for content in (b"", b"bbbbbbbbbbbbbbbbbbbb"):
            fresh = tmp_path / "fresh"
            fresh.write_bytes(content)
            os.replace(fresh, tokens._path)
            await asyncio.sleep(0.1)
        watching.cancel()

    asyncio.run(replace())
    assert tokens.accept(bearer(b"Bearer bbbbbbbbbbbbbbbbbbbb"))
    assert not tokens.accept(bearer(b"Bearer " + TOKEN))


def test_a_file_that_could_not_be_read_once_is_tried_again(tokens: Tokens) -> None:
    content = tokens._path.read_bytes()
    tokens._path.unlink()
    with pytest.raises(CredentialsError):
        tokens.reload()
    assert tokens.stale
    tokens._path.write_bytes(content)
    assert tokens.stale
    tokens.reload()
    assert not tokens.stale
