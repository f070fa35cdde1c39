"""Secrets, in every dress that the tools and providers give them."""

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_manager import masking
from backup_manager.masking import MASK, Masker, secrets_of

SECRET = "S3cr3t/+value=="


@pytest.mark.parametrize(
    "text",
    [
        f"--password={SECRET}",
        f"--tidb-password={SECRET} --host=x",
        f"password: {SECRET}",
        f'{{"password":"{SECRET}"}}',
        f'{{\\"secret-access-key\\":\\"{SECRET}\\"}}',
        f"azure://c/p/?account-name=a&sas-token={SECRET}",
        f"https://a.blob.core.windows.net/c?sv=2020&sig={SECRET}&se=1",
        f"--crypter.key={SECRET}",
        f"s3://b/p?access-key=AK&secret-access-key={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"user:{SECRET}@tcp(host:4000)/mysql",
        f"dsn=user:{SECRET}@(host:4000)/mysql",
    ],
)
def test_a_secret_in_a_known_place_is_masked_without_being_told(text: str) -> None:
    assert SECRET not in Masker()(" " + text)


@pytest.mark.parametrize("text", [SECRET, f"x{SECRET}y", "S3cr3t%2F%2Bvalue%3D%3D", "S3cr3t/%2Bvalue%3D%3D"])
def test_a_known_secret_is_masked_anywhere_and_encoded(text: str) -> None:
    assert Masker([SECRET])(f"somewhere {text} else").count("******") == 1


@pytest.mark.parametrize(
    "text",
    [
        "[INFO] [x.go:1] [key=5] [keys=10] [tokens=3]",
        "Access denied for user 'root'@'127.0.0.1' (using password: YES)",
        "s3://bucket/prefix/file.sql",
        "monkey=1 hockey=2",
        "2026-01-02T03:04:05Z user@host:4000",
        "",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert Masker([SECRET])(text) == text


def test_a_short_secret_does_not_blank_everything() -> None:
    assert Masker(["a"])("a banana") == "a banana"
    assert Masker(["a"])("--password=a") == "--password=******"


def test_what_counts_as_secret() -> None:
    env = {"BACKUP_MANAGER_PASSWORD": "pw", "AWS_SECRET_ACCESS_KEY": "sk", "AWS_ACCESS_KEY_ID": "public", "PATH": "/bin"}
    spec = {"azblob": {"sasToken": "sas1"}, "pitrFullBackupStorageProvider": {"azblob": {"sasToken": "sas2"}}}
    assert sorted(secrets_of(env, spec)) == ["pw", "sas1", "sas2", "sk"]


def test_whole_documents() -> None:
    assert Masker(["hunter22"]).value({"a": ["hunter22", 1, None], "b": ("x",)}) == {"a": ["******", 1, None], "b": ["x"]}


@pytest.mark.parametrize(
    "line",
    [
        r'{"sas-token":"sv=1\u0026sig=a%2Bb%2FcDEFG%3D\u0026se=2"}',
        "signature a+b/cDEFG= was refused",
        "https://a.blob.core.windows.net/c?sv=1&sig=a%2Bb%2FcDEFG%3D",
        "sas-token=sv%3D1%26sig%3Da%252Bb%252FcDEFG%253D",
    ],
)
def test_parts_of_a_sas_token(line: str) -> None:
    """The tools log a token whole, in parts, decoded, or inside JSON."""
    mask = Masker(secrets_of({}, {"azblob": {"sasToken": "?sv=1&sig=a%2Bb%2FcDEFG%3D&se=2"}}))
    assert "cDEFG" not in mask(line)


def test_a_signature_that_nobody_told_us_of() -> None:
    assert "abcdef" not in Masker()(r'"x?sv=1\u0026sig=abcdef%3D\u0026se"')


FLAGS = sorted(masking.SECRET_FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
def test_the_value_of_a_secret_flag_is_masked_in_both_forms(flag: str) -> None:
    assert Masker().argv(["br", flag, "0123abc", "--pd", "pd:2379"]) == ["br", flag, MASK, "--pd", "pd:2379"]
    assert Masker().argv(["br", f"{flag}=0123abc", "--pd", "pd:2379"]) == ["br", f"{flag}={MASK}", "--pd", "pd:2379"]


def test_options_in_a_document_are_masked_like_arguments() -> None:
    spec = {"br": {"options": ["--crypter.key", "0123abc"]}, "dumpling": {"options": ["--password", "0123abc", "--rows=10"]}}
    assert Masker().value(spec) == {
        "br": {"options": ["--crypter.key", MASK]},
        "dumpling": {"options": ["--password", MASK, "--rows=10"]},
    }


@given(secret=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=4, max_size=40))
def test_no_known_value_survives_in_any_of_its_forms(secret: str) -> None:
    raw, mask = secret.encode(), Masker([secret])
    percent = quote(raw, safe="")
    for form in (
        shlex.quote(secret),
        percent,
        quote_plus(raw),
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    ):
        bare = form[1:-1] if form[0] == form[-1] == '"' else form
        assert bare not in mask(f"<{form}>").replace(MASK, "\0")
        assert bare not in mask.block(f"<{form}>".encode()).replace(MASK, "\0")


@pytest.mark.parametrize("secret", ["PÄSSwort-Ä", "it's-a-tail", "ПАРОЛЬ"])
def test_a_known_value_is_masked_in_a_block_whatever_its_letters(secret: str) -> None:
    shown = Masker([secret]).block(f"one\ntwo {secret} {shlex.quote(secret)}\nthree".encode())
    assert secret not in shown
    assert "tail" not in shown


def test_a_password_before_a_host_is_looked_for_once_in_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched is never longer in all than the line: the former expression began again at each separator."""
    searched = list[int]()

    class Counted:
        def search(self, run: str) -> None:
            searched.append(len(run))

    monkeypatch.setattr(masking, "_USER", Counted())
    for line in ("@ " + "=a:" * 20_000, "=a:@" * 16_000, "/x:y@ " * 10_000, "a" * 65_000 + "@"):
        searched.clear()
        Masker()(line)
        assert sum(searched) <= len(line)
