"""A secret among the user's options reaches the tool, and neither its argv nor another account."""

import stat
from pathlib import Path

import pytest

from backup_manager.errors import UsageError
from backup_manager.storage.settings import AzureSettings
from backup_manager.tools import secret_options

KEY = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("flag", ["--crypter.key", "--log.crypter.key"])
@pytest.mark.parametrize("form", ["=", " "])
def test_a_cipher_key_goes_into_a_file_that_nobody_else_may_read(tmp_path: Path, flag: str, form: str) -> None:
    given = ["br", "backup", "full", f"{flag}={KEY}" if form == "=" else flag, *([KEY] if form == " " else []), "--last=1"]
    told = secret_options.told(given, tmp_path)
    (file,) = tmp_path.iterdir()
    assert told.argv == ["br", "backup", "full", f"{flag}-file={file}", "--last=1"]
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode), told.env) == (KEY, 0o600, {})


def test_of_several_keys_the_last_counts_as_it_does_for_br(tmp_path: Path) -> None:
    told = secret_options.told(["br", "--crypter.key=old", "--crypter.key", KEY], tmp_path)
    assert {Path(word.partition("=")[2]).read_text() for word in told.argv[1:]} == {KEY}


def test_a_key_and_a_file_of_one_are_refused_as_br_does(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        secret_options.told(["br", f"--crypter.key={KEY}", "--crypter.key-file", "/key"], tmp_path)
    assert KEY not in str(caught.value.problem())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--azblob.encryption-key", KEY], [f"--azblob.encryption-key={KEY}"]])
def test_an_encryption_key_of_azure_goes_into_the_environment(tmp_path: Path, words: list[str]) -> None:
    told = secret_options.told(["dumpling", *words, "-B", "shop"], tmp_path)
    assert told == secret_options.Told(argv=["dumpling", "-B", "shop"], env={"AZURE_ENCRYPTION_KEY": KEY})
    assert KEY not in repr(told)


@pytest.mark.parametrize("tool", ["br", "dumpling"])
def test_an_account_key_in_the_options_is_what_our_own_client_uses_too(tmp_path: Path, tool: str) -> None:
    application = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s", "AZURE_STORAGE_KEY": "other"}
    options = ["--azblob.account-key", KEY, "--azblob.sas-token=sig=x"]
    env = secret_options.environment({"AZURE_STORAGE_ACCOUNT": "a", **application}, {tool: {"options": options}})
    azure = AzureSettings.of({}, env)
    assert (azure.account_key, azure.sas_token, azure.application) == (KEY, "sig=x", False)
    assert secret_options.told([tool, *options], tmp_path).argv == [tool]


@pytest.mark.parametrize("words", [["--crypter.key"], ["--crypter.key="], ["--crypter.key-file=/k"], ["--filter", "a.b"], []])
def test_what_holds_no_secret_stays_as_it_is(tmp_path: Path, words: list[str]) -> None:
    assert secret_options.told(["br", *words], tmp_path) == secret_options.Told(argv=["br", *words])
