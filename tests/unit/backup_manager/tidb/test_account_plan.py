"""Users on their way into a target: who is made, who is kept, and what is told when one is not as it was."""

import pytest

from backup_manager.errors import ManagerError, PermanentError
from backup_manager.tidb import account_plan
from backup_manager.tidb.account_plan import Plan
from backup_manager.tidb.accounts import Account, Accounts, Grant, Held, Role
from tests.support.manager import FakeDatabase
from tests.unit.backup_manager.tidb.test_accounts import HASH, TAIL

OTHER = "*" + "0" * 40
NOTHING = Held(schemas=frozenset(), tables=frozenset())
SHOP = Held(schemas=frozenset({"shop"}), tables=frozenset())


def definition(told: str = HASH, tail: str = TAIL) -> str:
    return f"'bk'@'%' IDENTIFIED WITH 'mysql_native_password' AS '{told}' {tail}"


BK = Account(
    user="bk",
    host="%",
    create=f"CREATE USER IF NOT EXISTS {definition()}",
    grants=(Grant(sql="GRANT SELECT,INSERT ON `shop`.* TO 'bk'@'%'", schema="shop"),),
    roles=(Role(user="reader", host="%", sql="GRANT 'reader'@'%' TO 'bk'@'%'"),),
    default_roles="SET DEFAULT ROLE 'reader'@'%' TO 'bk'@'%'",
)


def target(*, told: str | None = None, tail: str = TAIL, me: str = "root@%", mine: str = "ALL PRIVILEGES") -> FakeDatabase:
    """With account bk and password *told*, or without it."""
    there = [("bk", "%", told), ("reader", "%", "")] if told is not None else []
    return FakeDatabase(
        shown={
            "select current_user()": [(me,)],
            "show grants for 'bk'@'%'": [
                ("GRANT SELECT,INSERT,UPDATE ON `shop`.* TO 'bk'@'%'",),
                ("GRANT 'reader'@'%' TO 'bk'@'%'",),
            ],
            "show grants": [(f"GRANT {mine} ON *.* TO 'root'@'%' WITH GRANT OPTION",)],
            "select user, host, authentication_string from mysql.user": there,
            "show create user 'bk'@'%'": [(f"CREATE USER {definition(told or '', tail)}",)],
            "select to_user": [("bk", "%", "reader", "%")],
        }
    )


def plan(here: FakeDatabase, *, held: Held = SHOP, update: bool = False) -> Plan:
    return account_plan.plan(here, Accounts(accounts=(BK,)), held, update=update)  # type: ignore[arg-type]


def written(here: FakeDatabase) -> list[str]:
    return [told for told in here.executed if told.split()[0] in {"CREATE", "ALTER", "GRANT", "SET"}]


@pytest.mark.parametrize("told", [None, HASH])
def test_an_account_that_is_missing_or_there_already_as_exported_is_made_with_all_it_has(told: str | None) -> None:
    here = target(told=told)
    todo = plan(here)
    here.shown = target(told=HASH).shown
    account_plan.apply(here, todo)  # type: ignore[arg-type]
    assert written(here) == [
        *([] if told else [f"CREATE USER IF NOT EXISTS {definition()}"]),
        "GRANT 'reader'@'%' TO 'bk'@'%'",
        "GRANT SELECT,INSERT ON `shop`.* TO 'bk'@'%'",
        "SET DEFAULT ROLE 'reader'@'%' TO 'bk'@'%'",
    ]
    assert todo.lines == []


@pytest.mark.parametrize(
    ("there", "why"), [({"told": OTHER}, "password"), ({"told": HASH, "tail": TAIL.replace("UNLOCK", "LOCK")}, "definition")]
)
def test_an_account_with_another_definition_is_kept_unless_the_spec_says_update(there: dict[str, str], why: str) -> None:
    kept = plan(target(**there))
    assert (kept.accounts, kept.kept) == ([], [f"'bk'@'%': the target has it with another {why}"])
    assert OTHER not in str(kept.lines)
    updated = plan(target(**there), update=True)
    assert (list(updated.definitions.values()), updated.kept) == ([f"ALTER USER {definition()}"], [])


def test_the_account_that_restores_is_never_touched() -> None:
    todo = plan(target(told=OTHER, me="bk@%"), update=True)
    assert (todo.accounts, todo.kept) == ([], ["'bk'@'%': it runs the restore"])


@pytest.mark.parametrize("mine", ["SELECT,INSERT", "USAGE"])
def test_a_login_that_may_not_make_users_is_told_before_anything_is_written(mine: str) -> None:
    here = target(mine=mine)
    with pytest.raises(PermanentError) as caught:
        plan(here)
    assert caught.value.problem().reason == "DatabaseAccessDenied"
    assert "CREATE USER" in caught.value.hint
    assert "spec.users" in caught.value.message
    assert written(here) == []


def test_grants_on_what_is_not_restored_are_told() -> None:
    todo = plan(target(), held=NOTHING)
    assert todo.accounts[0].grants == ()
    assert todo.lines == ["grants on what is not in it: 1 (shop)"]


@pytest.mark.parametrize(
    "said",
    [
        f"db: unknown clause in {definition()}",
        f"db: You have an error in your SQL syntax; line 1 column 9 near \"AS '{HASH}' REQUIRE\"",
    ],
)
def test_what_the_server_says_of_a_hash_is_not_repeated(said: str) -> None:
    here = target()
    here.refused = {"CREATE USER": PermanentError(said)}
    with pytest.raises(ManagerError) as caught:
        account_plan.apply(here, plan(here))  # type: ignore[arg-type]
    problem = caught.value.problem()
    assert problem.reason == "UsersNotRestored"
    assert "'bk'@'%'" in problem.message
    assert HASH not in str(problem)
    assert "GRANT" not in " ".join(told for told in written(here) if told.startswith("GRANT"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"show grants for": [("GRANT SELECT ON `shop`.* TO 'bk'@'%'",)]}, "without a privilege on shop"),
        ({"select to_user": []}, "without the role 'reader'@'%'"),
        ({"show create user": [(f"CREATE USER {definition(OTHER)}",)],
          "select user, host, authentication_string": [("bk", "%", OTHER)]}, "another password"),
        ({"select user, host, authentication_string": []}, "no such user"),
    ],
)  # fmt: skip
def test_an_account_that_the_target_shows_otherwise_afterwards_fails_the_restore(
    changes: dict[str, list[tuple[str, ...]]], told: str
) -> None:
    here = target(told=HASH)
    todo = plan(here)
    here.shown = changes | {start: rows for start, rows in here.shown.items() if start not in changes}
    with pytest.raises(ManagerError, match=told) as caught:
        account_plan.apply(here, todo)  # type: ignore[arg-type]
    assert caught.value.problem().reason == "UsersNotRestored"
    assert HASH not in str(caught.value.problem())


def test_a_grant_that_the_server_refuses_leaves_the_others_made() -> None:
    here = target()
    here.refused = {"GRANT 'reader'": PermanentError("db: no such role")}
    z = Account(user="z", host="%", create="CREATE USER IF NOT EXISTS 'z'@'%'")
    second = Plan(accounts=[BK, z], definitions={one.name: one.create for one in (BK, z)})
    with pytest.raises(ManagerError, match="no such role"):
        account_plan.apply(here, second)  # type: ignore[arg-type]
    assert "CREATE USER IF NOT EXISTS 'z'@'%'" in written(here)
