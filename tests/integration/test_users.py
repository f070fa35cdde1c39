"""Users, roles and grants on real TiDBs: exported with the data, made in an empty target, and used there."""

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest

from backup_manager.errors import PermanentError
from backup_manager.tidb import accounts
from backup_manager.tidb.accounts import KEY
from crds.contract.report import Report
from sandbox.patience import PATIENCE
from tests.integration.test_export_import import PASSWORD, Stage, path_of
from tests.support import servers

pytestmark = pytest.mark.integration

UNICODE = "pässwörd 💾 密码"
ODD = 'o\'br\\ien `x` "y" ; -- Ж'
SQL_ODD = "'o''br\\\\ien `x` \"y\" ; -- Ж'@'%'"
SETUP = (
    "create database shop",
    "create table shop.orders (id int primary key, `we``ird col` int, secret int)",
    "insert into shop.orders values (1, 2, 3)",
    "create view shop.seen as select id from shop.orders",
    "create database elsewhere",
    "create table elsewhere.t (id int primary key)",
    "create user 'bk'@'%' identified by '{password}'",
    "grant all on *.* to 'bk'@'%' with grant option",
    "create role 'read er''s', 'writers'@'%'",
    "grant select on shop.* to 'read er''s'",
    "grant insert on shop.orders to 'writers'",
    "grant 'writers' to 'read er''s'",
    f"create user {SQL_ODD} identified with 'caching_sha2_password' by '{UNICODE}' attribute "
    '\'{{"note": "it\'\'s \\\\"his\\\\" \\\\\\\\ one"}}\'',
    f"grant 'read er''s' to {SQL_ODD}",
    f"set default role 'read er''s' to {SQL_ODD}",
    "create user native@'127.0.0.%' identified with 'mysql_native_password' by 'péssword' "
    "password expire interval 90 day failed_login_attempts 3 password_lock_time 2",
    "grant select (`we``ird col`), select (id) on shop.orders to native@'127.0.0.%'",
    "grant backup_admin, restricted_tables_admin on *.* to native@'127.0.0.%'",
    "grant select on elsewhere.t to native@'127.0.0.%'",
    "grant select on `el%`.* to native@'127.0.0.%'",
    "grant select on shop.seen to native@'127.0.0.%' with grant option",
    "create user locked account lock password expire",
    "create user token identified with 'tidb_auth_token' require token_issuer 'me@x' attribute '{{\"email\": \"a@b\"}}'",
    "create user certified require subject '/CN=a/O=b' issuer '/CN=c'",
    "create user ''@'10.0.0.1'",
    "grant 'read er''s' to root",
)
NUMBER = 9


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("users")
    with (
        servers.tidb(folder / "source") as source,
        servers.tidb(folder / "target") as target,
        servers.seaweed(folder / "s3") as s3,
    ):
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        source.execute(*(statement.format(password=quoted) for statement in SETUP))
        s3.client().create_bucket(Bucket="backups")
        yield Stage(source=source, target=target, s3=s3, folder=folder)


@pytest.fixture(scope="module")
def exported(stage: Stage) -> Report:
    """An export with users, shared by the tests that restore it."""
    code, report = stage.run("export", stage.backup("users", tableFilter=["shop.*"], dumpling={"users": True}))
    assert (code, report.phase) == (0, "Complete"), report
    return report


@pytest.fixture
def empty(stage: Stage) -> Stage:
    """With a target that has nobody but root, and no table."""
    clear(stage.target)
    return stage


def clear(target: servers.Tidb) -> None:
    target.execute("drop database if exists shop")
    for user, host in target.execute("select user, host from mysql.user where user <> 'root'"):
        target.execute(f"drop user {accounts.account(user, host)}")


def restore(stage: Stage, exported: Report, mode: str = "create") -> Report:
    code, report = stage.run("import", stage.restore(path_of(exported), users=mode), BACKUP_MANAGER_PASSWORD="")
    assert (code, report.phase) == (0, "Complete"), report
    return report


def login(server: servers.Tidb, user: str, password: str, query: str, *, socket: Path | None = None) -> list[tuple[Any, ...]]:
    """What *query* gives to *user* on a connection of its own; TiDB takes a salted password only over TLS or a *socket*."""
    connection = pymysql.connect(
        host=server.host,
        port=server.port,
        user=user,
        password=password.encode(),
        charset="utf8mb4",
        unix_socket=str(socket) if socket else None,
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def shown(server: servers.Tidb) -> dict[str, Any]:
    """All that TiDB shows of every account but root's."""
    names = server.execute("select user, host, authentication_string from mysql.user where user <> 'root' order by 1, 2")
    found: dict[str, Any] = {}
    for user, host, told in names:
        name = accounts.account(user, host)
        found[name] = (told, server.execute(f"show create user {name}"), sorted(server.execute(f"show grants for {name}")))
    found["default"] = server.execute("select user, host, default_role_user from mysql.default_roles order by 1, 2, 3")
    return found


def test_users_log_in_with_their_old_passwords_and_use_their_grants(empty: Stage, exported: Report) -> None:
    report = restore(empty, exported)
    assert (exported.result["users"], report.result["users"], report.result["usersKept"]) == (NUMBER, NUMBER, 0)
    target = empty.target
    socket = empty.folder / "target" / "tidb.sock"
    assert login(target, ODD, UNICODE, "select id from shop.orders", socket=socket) == [(1,)]
    with pytest.raises(pymysql.Error, match="denied"):
        login(target, ODD, UNICODE, "delete from shop.orders", socket=socket)
    with pytest.raises(pymysql.Error, match="denied"):
        login(target, ODD, UNICODE + "x", "select 1", socket=socket)
    assert login(target, "native", "péssword", "select id from shop.seen") == [(1,)]
    with pytest.raises(pymysql.Error, match="denied"):
        login(target, "native", "péssword", "select id from shop.orders")
    with pytest.raises(pymysql.Error, match="denied"):
        login(target, "native", "another", "select 1")


def test_every_account_is_shown_as_in_the_source(empty: Stage, exported: Report) -> None:
    restore(empty, exported)
    before, after = shown(empty.source), shown(empty.target)
    native = before["'native'@'127.0.0.%'"][2]
    gone = [line for line in native if "elsewhere" in line[0] or "`el%`" in line[0]]
    assert len(gone) == 2
    for line in gone:
        native.remove(line)
    assert after == before
    assert exported.result["leftOut"][:1] == ["grants on what is not in it: 2 (el%, elsewhere)"]
    assert not [line for line in exported.result["leftOut"] if line.startswith("users and roles")]


def test_the_same_restore_can_be_made_again(empty: Stage, exported: Report) -> None:
    restore(empty, exported)
    before = shown(empty.target)
    empty.target.execute("drop database shop", "revoke backup_admin on *.* from native@'127.0.0.%'")
    assert restore(empty, exported).result["usersKept"] == 0
    assert shown(empty.target) == before


def test_an_account_with_another_password_is_kept_and_told_unless_the_spec_says_update(empty: Stage, exported: Report) -> None:
    empty.target.execute("create user native@'127.0.0.%' identified by 'theirs'")
    report = restore(empty, exported)
    assert report.result["leftOut"] == ["user 'native'@'127.0.0.%': the target has it with another password"]
    assert report.result["users"] == NUMBER - 1
    assert login(empty.target, "native", "theirs", "select 1") == [(1,)]
    empty.target.execute("drop database shop")
    assert restore(empty, exported, "update").result["usersKept"] == 0
    assert login(empty.target, "native", "péssword", "select id from shop.seen") == [(1,)]
    assert shown(empty.target)["'native'@'127.0.0.%'"][1] == shown(empty.source)["'native'@'127.0.0.%'"][1]


def test_the_account_that_restores_keeps_its_password(empty: Stage, exported: Report) -> None:
    empty.target.execute("create user bk identified by 'of the target'", "grant all on *.* to bk with grant option")
    cr = empty.restore(path_of(exported), users="update")
    cr["spec"]["to"]["user"] = "bk"
    code, report = empty.run("import", cr, BACKUP_MANAGER_PASSWORD="of the target")
    assert (code, report.result["leftOut"]) == (0, ["user 'bk'@'%': it runs the restore"]), report
    assert login(empty.target, "bk", "of the target", "select 1") == [(1,)]


def test_an_account_that_may_not_create_users_is_refused_before_anything_is_written(empty: Stage, exported: Report) -> None:
    empty.target.execute("create user weak", "grant select, insert, create, create view, alter, index on *.* to weak")
    cr = empty.restore(path_of(exported), users="create")
    cr["spec"]["to"]["user"] = "weak"
    code, report = empty.run("import", cr, BACKUP_MANAGER_PASSWORD="")
    assert code != 0
    assert report.error is not None
    assert report.error.reason == "DatabaseAccessDenied"
    assert "CREATE USER" in report.error.hint
    assert empty.target.execute("show databases like 'shop'") == []


def test_an_export_with_views_and_users_verifies(stage: Stage, exported: Report) -> None:
    cr = stage.backup("users", tableFilter=["shop.*"], dumpling={"users": True})
    code, report = stage.run("verify", cr, BACKUP_PATH=path_of(exported))
    assert (code, report.phase) == (0, "Complete"), report
    assert (report.result["content"]["views"], report.result["content"]["users"]) == (1, NUMBER)


@pytest.mark.skipif(shutil.which("jq") is None, reason="the documented command is jq's")
def test_the_documented_command_gives_statements_in_an_order_that_works(empty: Stage, exported: Report) -> None:
    """That of docs/export-contents.md, up to the pipe."""
    told = re.search(r"jq -r '(?P<program>.*?)' ", (servers.ROOT / "docs" / "export-contents.md").read_text(), re.DOTALL)
    assert told is not None
    key = f"{path_of(exported).removeprefix('s3://backups/')}/{KEY}"
    document = empty.s3.client().get_object(Bucket="backups", Key=key)["Body"].read()
    argv = ["jq", "-r", told["program"]]
    lines = subprocess.run(argv, input=document, capture_output=True, check=True, timeout=PATIENCE).stdout.decode().splitlines()
    code, _ = empty.run("import", empty.restore(path_of(exported)), BACKUP_MANAGER_PASSWORD="")
    assert code == 0
    empty.target.execute(*lines)
    assert shown(empty.target)["default"] == shown(empty.source)["default"]
    socket = empty.folder / "target" / "tidb.sock"
    assert login(empty.target, ODD, UNICODE, "select id from shop.orders", socket=socket) == [(1,)]


def test_without_the_option_no_user_is_made(empty: Stage, exported: Report) -> None:
    code, report = empty.run("import", empty.restore(path_of(exported)), BACKUP_MANAGER_PASSWORD="")
    assert (code, "users" in report.result) == (0, False)
    assert empty.target.execute("select user from mysql.user") == [("root",)]


def test_hashes_lie_beside_the_data_and_nowhere_else(stage: Stage, exported: Report) -> None:
    hashes = [row[0] for row in stage.source.execute("select authentication_string from mysql.user") if len(row[0]) > 4]
    assert len(hashes) >= 3
    marks = [form for told in hashes for form in (told, told.encode().hex())]
    client, found = stage.s3.client(), set[str]()
    for key in stage.s3.keys("backups", "users/"):
        data = client.get_object(Bucket="backups", Key=key)["Body"].read()
        text = (gzip.decompress(data) if key.endswith(".gz") else data).decode("utf-8", "replace")
        if any(mark in text for mark in marks):
            found.add(key.rpartition("/")[2])
    assert found == {KEY}
    assert not any(mark in exported.to_json() for mark in marks)
    record = json.loads(
        client.get_object(Bucket="backups", Key=path_of(exported).removeprefix("s3://backups/") + ".record.json")["Body"].read()
    )
    assert (record["content"]["users"], record["leftOut"]) == (NUMBER, exported.result["leftOut"])


def test_a_file_of_users_that_is_damaged_or_gone_is_refused_before_anything_is_written(empty: Stage) -> None:
    cr = empty.backup("users-damaged", tableFilter=["shop.*"], dumpling={"users": True})
    code, report = empty.run("export", cr)
    assert code == 0
    key = f"{path_of(report).removeprefix('s3://backups/')}/{KEY}"
    client = empty.s3.client()
    data = client.get_object(Bucket="backups", Key=key)["Body"].read()
    for damaged in (data[:-200], None):
        if damaged is None:
            client.delete_object(Bucket="backups", Key=key)
        else:
            client.put_object(Bucket="backups", Key=key, Body=damaged)
        again = empty.restore(path_of(report), users="create")
        assert empty.fails("import", again, BACKUP_MANAGER_PASSWORD="") == "SourceDamaged"
        assert empty.target.execute("show databases like 'shop'") == []


def test_what_the_server_says_of_a_statement_with_a_hash_holds_none(stage: Stage) -> None:
    """The server quotes what it could not read."""
    told = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
    with pytest.raises(pymysql.Error, match="near") as caught:
        stage.target.execute(f"create user x identified with 'mysql_native_password' as '{told}' nonsense '{told}'")
    assert told in str(caught.value)
    assert ' near "' in str(caught.value)
    assert PermanentError(str(caught.value)).message.partition(' near "')[0].count(told) == 0
