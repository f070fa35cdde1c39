"""Secrets, in every dress that the tools and providers give them."""

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_manager import masking, secret_places
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


FLAGS = (
    "--password",
    "-p",
    "--tidb-password",
    "-tidb-password",
    "--crypter.key",
    "--master-key",
    "--log.crypter.key",
    "--azblob.account-key",
    "--azblob.sas-token",
    "--azblob.encryption-key",
    "--s3.access-key",
    "--s3.secret-access-key",
    "--s3.session-token",
)


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


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["-phunter"], ["-p******"]),
        (["-p=hunter"], ["-p=******"]),
        (["-Wphunter"], ["-Wp******"]),
        (["-Wp", "hunter", "-P", "4000"], ["-Wp", "******", "-P", "4000"]),
        (["-pd-urls=127.0.0.1:2379"], ["-pd-urls=127.0.0.1:2379"]),
        (["-pdog"], ["-p******"]),
        (["--pd", "a:1", "--path=x", "-P", "4000", "-u", "root"], ["--pd", "a:1", "--path=x", "-P", "4000", "-u", "root"]),
        (["--password", "-p"], ["--password", "******"]),
    ],
)
def test_a_short_flag_and_its_value_in_one_argument(argv: list[str], shown: list[str]) -> None:
    assert Masker().argv(argv) == shown


@pytest.mark.parametrize("name", secret_places.NAMES)
@pytest.mark.parametrize("joint", ["-", "_", ".", ""])
@pytest.mark.parametrize("before", ["", "--", "--x-", "X_", "&", r"\u0026", "%26"])
def test_every_name_of_a_secret_is_known_in_every_spelling(name: str, joint: str, before: str) -> None:
    spelled = before + name.replace("-", joint)
    for written in (spelled, spelled.upper(), spelled.title()):
        assert Masker()(f"{written}=x9 y") == f"{written}={MASK} y"
    assert secret_places.is_secret(name.replace("-", joint).upper())


@pytest.mark.parametrize("name", masking.SECRET_VARIABLES)
@pytest.mark.parametrize("line", ["{}=x9", "export {}='x9 x9'", '"{}":"x9"', "{{{}:x9}}", "{} = x9"])
def test_a_variable_in_free_text(name: str, line: str) -> None:
    assert "x9" not in Masker()(line.format(name))
    assert "x9" not in Masker()(line.format(f"FULL_BACKUP_{name}"))


@pytest.mark.parametrize(
    "line",
    [
        "--master-key x9",
        "--master-key=x9",
        "-tidb-password x9",
        '["--crypter.key","x9"]',
        '["--crypter.key" "x9"]',
        "['--crypter.key', 'x9']",
        r"[\"--crypter.key\",\"x9\"]",
        "Authorization: Basic x9",
        "Authorization:[Bearer x9]",
        "authorization: SharedKey account:x9",
        "AccountName=a;AccountKey=x9==;EndpointSuffix=core",
        "secretAccessKey:x9",
        '"private_key": "-----BEGIN x9"',
        "password='x 9 x9'",
        r"""password='x'\''x9'""",
        'password="x \\" x9"',
        "root:x@9:x9@tcp(127.0.0.1:4000)/",
        "root:x9@/mysql",
        "root:x/9@x9@host",
        "sig%3Dx9%26se",
        "token => x9",
        "Password:\tx9",
        "secret.access.key=x9",
    ],
)
def test_a_value_that_nobody_told_us_of_in_its_place(line: str) -> None:
    assert "9" not in Masker()(line).replace("4000", "")


@pytest.mark.parametrize(
    "line",
    [
        "the password is wrong, the token has expired",
        "--crypter.key-file=/etc/key --key=/tls.key --gcs.credentials-file=/f --s3.sse-kms-key-id=k1",
        "[start-key=7480] [end-key=7481] [keys=10] [design=1]",
        "access_key_id=AKIA root:@tcp(127.0.0.1:4000)/",
        "127.0.0.1:4000 user@host",
        "-path /x -prefix y",
    ],
)
def test_what_only_looks_like_a_secret_stays(line: str) -> None:
    assert Masker()(line) == line


@pytest.mark.parametrize("secret", ["ab", "é!", "a b", '"', "x"])
@pytest.mark.parametrize(
    "line",
    ["--password={} -h", "password: {}", "root:{}@tcp(h:1)/", '{{"token":"{}"}}', "-p{} -P 1", "sig={}&se=1", "--password {}"],
)
def test_a_short_value_is_masked_where_a_secret_is_expected(secret: str, line: str) -> None:
    mask = Masker([secret])
    assert mask(line.format(json.dumps(secret)[1:-1] if line.startswith("{") else secret)) == mask(line.format("\0")).replace(
        "\0", MASK
    )
    assert mask(f"a sentence {secret}, another") == f"a sentence {secret}, another"


def test_a_field_with_the_name_of_a_secret_is_masked_whatever_its_value() -> None:
    document = {"sasToken": "a", "password": "b", "secretName": "mine", "tokens": 3, "token": None}
    assert Masker().value(document) == {"sasToken": MASK, "password": MASK, "secretName": "mine", "tokens": 3, "token": None}


def test_what_counts_as_secret_in_a_cr() -> None:
    spec = {
        "br": {"options": ["--crypter.key", "k1", "--s3.session-token=k2", "--ratelimit", "5"]},
        "dumpling": {"options": ["-pk3", "-Wp", "k4"]},
        "env": [{"name": "MY_PASSWORD", "value": "k5"}, {"name": "LEVEL", "value": "debug"}],
        "from": {"secretName": "mine"},
    }
    assert sorted(secrets_of({}, spec)) == ["k1", "k2", "k3", "k4", "k5"]


def test_parts_of_a_secret_are_secret() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"
    document = json.dumps({"type": "service_account", "private_key": pem}, indent=1)
    connection = "DefaultEndpointsProtocol=https;AccountName=dev;AccountKey=Eby8vdM02x==;EndpointSuffix=core.windows.net"
    mask = Masker(secrets_of({"GCS_SERVICE_ACCOUNT_JSON_KEY": document, "AZURE_STORAGE_CONNECTION_STRING": connection}, {}))
    for text in (pem, document, json.dumps(document), "the key Eby8vdM02x== is wrong", "line\nMIIEvQIBADANBgkqhkiG9w0B\n"):
        assert not {"MIIEvQ", "AASCBK", "vdM02x"} & {part for part in ("MIIEvQ", "AASCBK", "vdM02x") if part in mask(text)}


@pytest.mark.parametrize(
    "line", ["password ", "key=", "a@", "=a:@", "token   ", ":a", "@ :", "password='", 'x="', "-p", "%25", "\\"]
)
def test_a_line_of_separators_ends(line: str) -> None:
    """A quadratic expression would need hours for 4 MiB; pytest's own limit ends it."""
    assert Masker(["hunter22", "b;b"]).block((line * (4 * 2**20 // len(line))).encode())


def test_a_line_of_nothing_but_secrets_is_left_out_after_the_first_hundreds() -> None:
    shown = Masker(["hunter22"])("token=a hunter22 " * 10_000)
    assert "hunter22" not in shown
    assert shown.endswith(masking.LEFT_OUT)
    assert shown.count(MASK) == masking.MOST + 1


def test_lines_with_a_secret_each_are_all_shown() -> None:
    block = b"\n".join(b"line %d token=a" % number for number in range(5 * masking.MOST))
    assert Masker().block(block) == block.decode().replace("token=a", f"token={MASK}")


@pytest.mark.parametrize("secret", ["hunter22", "it's a p\"ss", "pässwört", "a/b+c==d"])
@pytest.mark.parametrize("before", ["text ", "root:", "x@y:z "])
def test_a_secret_across_the_end_of_a_cut_line(secret: str, before: str) -> None:
    mask = Masker([secret])
    for form in (secret.encode(), quote(secret).encode(), json.dumps(secret).encode()):
        line = b"begin " + before.encode() + form
        for length in range(len(line) + 1):
            shown = mask.block(line[:length], cut=True)
            assert shown.endswith(masking.LEFT_OUT)
            assert (
                "begin text root:x@y:z ".startswith(kept) or before in kept
                if (kept := shown.removesuffix(masking.LEFT_OUT))
                else True
            )
            assert not any(
                form.decode()[:size] in kept.removeprefix("begin ").removeprefix(before) for size in range(1, len(form))
            )


def test_a_user_s_password_whose_host_is_beyond_the_cut() -> None:
    assert "hunter" not in Masker().block(b"begin root:hunter", cut=True)
