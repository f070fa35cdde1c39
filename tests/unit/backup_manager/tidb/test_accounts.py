"""Users, roles and grants: what is written of them, and that nothing in it can be taken for something else."""

import json

import pytest

from backup_manager.errors import PermanentError
from backup_manager.tidb import accounts
from backup_manager.tidb.accounts import KEY, Account, Accounts, Grant, Held, Role
from tests.support.manager import FakeDatabase

HASH = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
SALTED = "$A$005$\x01'\\\n\"end"
TAIL = "REQUIRE NONE PASSWORD EXPIRE DEFAULT ACCOUNT UNLOCK PASSWORD HISTORY DEFAULT PASSWORD REUSE INTERVAL DEFAULT"
SHOP = Held(schemas=frozenset({"shop"}), tables=frozenset({("shop", "o")}))


def database() -> FakeDatabase:
    """As a real TiDB shows it: without quoting."""
    return FakeDatabase(
        shown={
            "select user, host, authentication_string from mysql.user": [
                ("root", "%", HASH),
                ("bk", "%", HASH),
                ("o'brien", "10.%", SALTED),
                ("reader", "%", ""),
            ],
            "show create user 'bk'@'%'": [
                (f"CREATE USER 'bk'@'%' IDENTIFIED WITH 'mysql_native_password' AS '{HASH}' {TAIL}",)
            ],
            "show create user 'o'brien'@'10.%'": [
                (
                    f"CREATE USER 'o'brien'@'10.%' IDENTIFIED WITH 'caching_sha2_password' AS '{SALTED}' {TAIL} ATTRIBUTE "
                    '\'{"comment": "it\'s \\"his\\""}\'',
                )
            ],
            "show create user 'reader'@'%'": [
                (f"CREATE USER 'reader'@'%' IDENTIFIED WITH 'mysql_native_password' AS '' {TAIL}",)
            ],
            "show grants for 'bk'@'%'": [("GRANT USAGE ON *.* TO 'bk'@'%'",), ("GRANT 'reader'@'%' TO 'bk'@'%'",)],
            "show grants for 'o'brien'@'10.%'": [
                ("GRANT PROCESS ON *.* TO 'o'brien'@'10.%' WITH GRANT OPTION",),
                ("GRANT SELECT,INSERT ON `shop`.* TO 'o'brien'@'10.%'",),
                ("GRANT SELECT ON `els``e`.`t` TO 'o'brien'@'10.%'",),
                ("GRANT SELECT(we`ird) ON `shop`.`o` TO 'o'brien'@'10.%'",),
                ("GRANT BACKUP_ADMIN,RESTORE_ADMIN ON *.* TO 'o'brien'@'10.%'",),
            ],
            "show grants for 'reader'@'%'": [("GRANT SELECT ON `mysql`.* TO 'reader'@'%'",)],
            "select user, host, db, table_name": [("o'brien", "10.%", "shop", "o", "we`ird", "Select,Update")],
            "select to_user": [("bk", "%", "reader", "%"), ("bk", "%", "gone", "%")],
            "select user, host, default_role_user": [("bk", "%", "reader", "%")],
        }
    )


def test_what_tidb_shows_unquoted_is_written_quoted() -> None:
    found = accounts.collect(database().ask, SHOP)
    reader, bk, brien = found.accounts.accounts
    assert (reader.user, bk.user, brien.user) == ("reader", "bk", "o'brien"), "roles come first, and root not at all"
    assert bk.create == f"CREATE USER IF NOT EXISTS 'bk'@'%' IDENTIFIED WITH 'mysql_native_password' AS '{HASH}' {TAIL}"
    assert bk.roles == (Role(user="reader", host="%", sql="GRANT 'reader'@'%' TO 'bk'@'%'"),)
    assert bk.statements == ["GRANT 'reader'@'%' TO 'bk'@'%'", "SET DEFAULT ROLE 'reader'@'%' TO 'bk'@'%'"]
    assert brien.create == (
        "CREATE USER IF NOT EXISTS 'o''brien'@'10.%' IDENTIFIED WITH 'caching_sha2_password' AS "
        f'0x{SALTED.encode().hex()} {TAIL} ATTRIBUTE \'{{"comment": "it\'\'s \\\\"his\\\\""}}\''
    )
    assert [grant.sql for grant in brien.grants] == [
        "GRANT PROCESS ON *.* TO 'o''brien'@'10.%' WITH GRANT OPTION",
        "GRANT SELECT,INSERT ON `shop`.* TO 'o''brien'@'10.%'",
        "GRANT BACKUP_ADMIN,RESTORE_ADMIN ON *.* TO 'o''brien'@'10.%'",
        "GRANT SELECT(`we``ird`), UPDATE(`we``ird`) ON `shop`.`o` TO 'o''brien'@'10.%'",
    ]


def test_grants_on_what_is_not_exported_are_told_and_not_written() -> None:
    found = accounts.collect(database().ask, SHOP)
    assert found.left_out == ("grants on what is not in it: 2 (els`e, mysql)",)


@pytest.mark.parametrize(
    "line",
    [
        f"CREATE USER 'bk'@'%' IDENTIFIED WITH 'mysql_native_password' AS 'another' {TAIL}",
        f"CREATE USER 'bk'@'%' IDENTIFIED WITH 'mysql_native_password' AS '{HASH}' REQUIRE SUBJECT 'O'Brien' ACCOUNT LOCK",
        f"CREATE USER 'b'@'%' IDENTIFIED WITH 'mysql_native_password' AS '{HASH}' {TAIL}",
    ],
)
def test_a_definition_that_cannot_be_taken_apart_is_left_out_by_name(line: str) -> None:
    here = database()
    here.shown = {**here.shown, "show create user 'bk'@'%'": [(line,)]}
    found = accounts.collect(here.ask, SHOP)
    assert [one.user for one in found.accounts.accounts] == ["o'brien", "reader"]
    assert found.left_out[0] == "user 'bk'@'%': TiDB shows its definition in no form that can be run"


def test_the_issuer_of_a_token_is_quoted() -> None:
    here = database()
    line = "CREATE USER 'bk'@'%' IDENTIFIED WITH 'tidb_auth_token' AS '' " + TAIL.replace("NONE", "NONE token_issuer me", 1)
    here.shown = {**here.shown, "show create user 'bk'@'%'": [(line,)]}
    here.shown["select user, host, authentication_string from mysql.user"][1:2] = [("bk", "%", "")]  # type: ignore[index]
    (bk,) = (one for one in accounts.read_accounts(here.ask).accounts if one.user == "bk")
    assert "IDENTIFIED WITH 'tidb_auth_token' AS '' REQUIRE TOKEN_ISSUER 'me' PASSWORD EXPIRE" in bk.create


def test_users_that_changed_while_the_export_ran_are_told() -> None:
    here = database()
    before = accounts.digest(here.ask)
    assert accounts.collect(here.ask, SHOP, before=before).left_out == accounts.collect(here.ask, SHOP).left_out
    here.shown = {**here.shown, "select * from mysql.role_edges": [("%", "reader", "%", "late")]}
    assert (
        accounts.collect(here.ask, SHOP, before=before).left_out[-1].startswith("users as of the snapshot: some were changed")
    )
    assert HASH not in before


@pytest.mark.parametrize(
    ("schema", "table", "covered"),
    [("", "", True), ("Shop", "", True), ("sh%", "", True), ("sh\\%", "", False), ("s_op", "", True), ("mysql", "", False),
     ("shop", "O", True), ("shop", "p", False)],
)  # fmt: skip
def test_a_grant_is_covered_by_what_is_held(schema: str, table: str, covered: bool) -> None:
    assert SHOP.covers(Grant(sql="GRANT", schema=schema, table=table)) is covered


def test_the_document_comes_back_the_same_and_shows_no_hash_when_printed() -> None:
    written = accounts.collect(database().ask, SHOP).accounts
    assert accounts.of_dump([KEY], lambda _key: written.to_json(), "s3://b/p", recorded=3) == written
    assert HASH not in repr(written)


@pytest.mark.parametrize(
    ("keys", "data", "recorded", "reason"),
    [
        ([], b"", None, "UsersNotExported"),
        ([KEY], b'{"v": 1, "accounts": [{"us', None, "SourceDamaged"),
        ([KEY], json.dumps({"v": 2, "accounts": []}).encode(), None, "SourceDamaged"),
        ([KEY], json.dumps({"accounts": [{"user": "a", "host": "%", "create": "DROP USER x"}]}).encode(), 1, "SourceDamaged"),
        ([KEY], Accounts(accounts=(Account(user="a", host="%", create="CREATE USER IF NOT EXISTS x"),)).to_json(), 2,
         "SourceDamaged"),
    ],
    ids=["missing", "cut", "newer", "no user", "fewer than recorded"],
)  # fmt: skip
def test_a_document_that_is_not_the_exported_one_is_refused(
    keys: list[str], data: bytes, recorded: int | None, reason: str
) -> None:
    with pytest.raises(PermanentError) as caught:
        accounts.of_dump(keys, lambda _key: data, "s3://b/p", recorded=recorded)
    assert caught.value.problem().reason == reason
    assert "spec.users" in caught.value.message + caught.value.hint
