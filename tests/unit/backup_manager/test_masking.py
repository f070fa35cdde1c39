"""Secrets, in every dress that the tools and providers give them."""

import pytest

from backup_manager.masking import Masker, secrets_of

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
