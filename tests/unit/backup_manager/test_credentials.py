"""One function says what a credential is, so that what passes the checks is what the tool uses."""

import json
from pathlib import Path

import pytest

from backup_manager import credentials
from backup_manager.errors import UsageError
from backup_manager.masking import Masker, secrets_of
from backup_manager.storage import gcs, s3_credentials
from backup_manager.storage.settings import AzureSettings, GcsSettings, S3Settings
from backup_manager.storage.tool_urls import for_dumpling
from backup_manager.tidb.connection import Access
from crds.contract.paths import location_of

ONE_LINE = credentials._ONE_LINE


@pytest.mark.parametrize("prefix", ["", "FULL_BACKUP_"])
@pytest.mark.parametrize("name", [*ONE_LINE, *credentials._TEXTS])
@pytest.mark.parametrize("value", ["key\n", "key\r\n", " key ", "\ufeffkey\n", "\tkey"])
def test_a_credential_of_the_storage_loses_what_a_file_adds(prefix: str, name: str, value: str) -> None:
    assert credentials.clean_environment({prefix + name: value}) == {prefix + name: "key"}


@pytest.mark.parametrize("name", ONE_LINE)
@pytest.mark.parametrize("value", ["a\nb", "a b", "a\x00b", "access: a\nsecret: b\n"])
def test_a_credential_with_more_than_one_word_is_refused_without_being_shown(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        credentials.clean_environment({name: value})
    problem = caught.value.problem()
    assert problem.reason == "InvalidCredentials"
    assert name in problem.message
    assert value.strip() not in problem.message + problem.hint


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "FULL_BACKUP_AWS_SESSION_TOKEN"])
def test_what_no_request_can_send_is_refused_without_being_shown(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        credentials.clean_environment({name: "ключ日"})
    problem = caught.value.problem()
    assert (problem.reason, name in problem.message) == ("InvalidCredentials", True)
    assert "ключ" not in problem.message + problem.hint


def test_a_secret_key_may_hold_any_letters() -> None:
    """It is never sent: it signs."""
    assert S3Settings.of({}, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "ключ日"}).secret_key == "ключ日"


@pytest.mark.parametrize(
    ("given", "used"),
    [("pw\n", "pw"), ("pw\r\n", "pw"), ("pw\n\n", "pw"), (" p w ", " p w "), (" pw \n", " pw "), ("\ufeffpw", "pw"), ("", "")],
)
def test_a_password_keeps_its_spaces_and_loses_the_line_end_of_its_file(given: str, used: str) -> None:
    env = credentials.clean_environment({"BACKUP_MANAGER_PASSWORD": given})
    assert Access.of({"host": "db"}, name="from", env=env, flags={}).password == used


def test_every_other_variable_stays_as_it_is() -> None:
    env = {"PATH": " /bin ", "TZ": "UTC\n", "AWS_REGION": "eu\n"}
    assert credentials.clean_environment(env) == env


def test_a_json_key_keeps_its_lines() -> None:
    key = json.dumps({"private_key": "-----BEGIN\nline\n"}, indent=2)
    env = credentials.clean_environment({"GCS_SERVICE_ACCOUNT_JSON_KEY": f"\ufeff{key}\n"})
    assert env["GCS_SERVICE_ACCOUNT_JSON_KEY"] == key


def test_preflight_and_tool_use_the_same_keys(tmp_path: Path) -> None:
    raw = {name: f"{name.lower()}\n" for name in (*ONE_LINE, *credentials._TEXTS)}
    env = credentials.clean_environment(raw)
    s3, azure, gcs = S3Settings.of({}, env), AzureSettings.of({}, env), GcsSettings.of({}, env)
    ours = {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_SESSION_TOKEN": s3.session_token,
        "AZURE_STORAGE_ACCOUNT": azure.account,
        "AZURE_STORAGE_KEY": azure.account_key,
        "AZURE_STORAGE_SAS_TOKEN": azure.sas_token,
        "AZURE_TENANT_ID": azure.tenant_id,
        "AZURE_CLIENT_ID": azure.client_id,
        "AZURE_CLIENT_SECRET": azure.client_secret,
        "GCS_SERVICE_ACCOUNT_JSON_KEY": gcs.key_json,
        "GOOGLE_APPLICATION_CREDENTIALS": gcs.key_file,
    }
    spec = {"s3": {"bucket": "b", "prefix": "p"}}
    tool = {**env, **for_dumpling(spec, location_of(spec), env=env, scratch=tmp_path).env}
    assert {name: tool[name] for name in ours} == ours


def test_a_token_in_the_spec_is_masked_as_it_is_used() -> None:
    mask = Masker(secrets_of({}, {"azblob": {"sasToken": "tokenvalue123\n"}}))
    assert mask("x tokenvalue123 y") == "x ****** y"


def test_a_file_of_google_s_is_opened_by_our_client_under_the_name_that_the_tool_gets(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    key = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "t"}
    file.write_text(json.dumps(key))
    settings = GcsSettings.of({}, {"GOOGLE_APPLICATION_CREDENTIALS": f"\ufeff{file}\r\n"})
    assert gcs._credentials(settings).refresh_token == "t"
    assert settings.key_file == str(file)


@pytest.mark.parametrize("others", [{"AWS_ACCESS_KEY_ID": "\n", "AWS_SECRET_ACCESS_KEY": " "}, {}])
def test_the_platform_s_role_is_not_hidden_by_keys_of_another_storage(
    others: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of blank keys the tools make nothing and ask the role; and a base snapshot without keys has not the log's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, others.get(name, "of-the-log"))
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = role\naws_secret_access_key = of-the-role\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    keys = s3_credentials.key_source(S3Settings.of({}, others))()
    assert (keys.access, keys.secret) == ("role", "of-the-role")
