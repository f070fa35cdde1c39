"""Users, roles and grants of an export (:mod:`backup_manager.tidb.accounts`) on their way into a target.

What is done to each account is decided before anything is written; it is done after the load, since a grant needs the table
that it is about; and then the target itself is asked. Everything can be repeated: what is there already stays. No message
repeats what the server says of a statement that holds the hash of a password.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from backup_manager.content import first_named
from backup_manager.errors import ManagerError, PermanentError
from backup_manager.tidb.accounts import GRANT, KEY, Account, Accounts, Grant, Held, Name, read_accounts, shown, without
from backup_manager.tidb.connection import Database

_PRIVILEGE: Final = re.compile(r"\s*(?P<name>[A-Za-z_ ]*[A-Za-z_])\s*(?P<column>\(`(?:[^`]|``)*`\))?\s*(?:,|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a restore does with the accounts of an export. *definitions*: the statement that gives an account its definition,
    none for one that has it already. *kept*: accounts of the target that get nothing, with the reason. *left_out*: grants on
    what is not restored."""

    accounts: Sequence[Account] = ()
    definitions: Mapping[Name, str] = field(default_factory=dict)
    kept: Sequence[str] = ()
    left_out: Sequence[Grant] = ()

    @property
    def lines(self) -> list[str]:
        """A line for each account that is kept, and one for the grants that are left out."""
        return [*(f"user {line}" for line in self.kept), *([without(self.left_out)] if self.left_out else [])]


def plan(database: Database, document: Accounts, held: Held, *, update: bool) -> Plan:
    """Compare the *document* with the target, before anything is written. An account that is there with another definition is
    kept, unless *update*; the account that restores always is. Raises PermanentError when the login may not make accounts."""
    mine = str(database.rows("select current_user()")[0][0])
    if not any(_makes_users(str(row[0])) for row in database.rows("show grants")):
        raise PermanentError(
            f"{database.access.shown} may not create users, so spec.users cannot be followed; nothing was imported",
            reason="DatabaseAccessDenied",
            hint=f"Grant {database.access.user} CREATE USER and ROLE_ADMIN on *.*, or leave spec.users away.",
        )
    there = _there(database, document.accounts)
    wanted, definitions, kept, left_out = [], dict[Name, str](), [], list[Grant]()
    for one in document.accounts:
        before = there.get(one.name)
        if f"{one.user}@{one.host}" == mine:
            kept.append(f"{shown(one.name)}: it runs the restore")
        elif before is not None and before.create != one.create and not update:
            kept.append(f"{shown(one.name)}: the target has it with another {_difference(before, one)}")
        else:
            left_out += [grant for grant in one.grants if not held.covers(grant)]
            if before is None or before.create != one.create:
                definitions[one.name] = one.create if before is None else one.alter
            wanted.append(msgspec.structs.replace(one, grants=tuple(filter(held.covers, one.grants))))
    return Plan(accounts=wanted, definitions=definitions, kept=kept, left_out=left_out)


def _there(database: Database, wanted: Iterable[Account]) -> dict[Name, Account]:
    """Those of the *wanted* accounts that the target has, as it has them."""
    with database.connection() as rows:
        return {one.name: one for one in read_accounts(rows, {one.name for one in wanted}).accounts}


def _difference(before: Account, exported: Account) -> str:
    return "password" if before.login != exported.login else "definition"


def _makes_users(line: str) -> bool:
    """Whether a line of ``SHOW GRANTS`` allows ``CREATE USER``."""
    match = GRANT.match(line)
    if match is None or match["schema"] is not None:
        return False
    return bool({"ALL PRIVILEGES", "CREATE USER"} & {word.strip() for word in match["what"].split(",")})


def apply(database: Database, todo: Plan) -> None:
    """Make the accounts, then what each has; then look whether the target shows them all. Raises PermanentError naming the
    accounts that are not as they were, after everything that could be done: the rest of the import is done by then."""
    problems: dict[str, str] = {}
    for one in (one for one in todo.accounts if one.name in todo.definitions):
        try:
            with database.session() as cursor:
                cursor.execute("set sql_mode = ''")
                cursor.execute(todo.definitions[one.name])
        except PermanentError as error:
            problems[shown(one.name)] = _without_hash(error, one)
    for one in (one for one in todo.accounts if shown(one.name) not in problems):
        try:
            with database.session() as cursor:
                cursor.execute("set sql_mode = ''")
                for statement in one.statements:
                    cursor.execute(statement)
        except PermanentError as error:
            problems[shown(one.name)] = error.message
    there = _there(database, todo.accounts)
    for one in todo.accounts:
        if lack := _lacks(there.get(one.name), one):
            problems.setdefault(shown(one.name), f"the target shows {lack}")
    if problems:
        raise _not_restored(problems, len(todo.accounts))


def _lacks(found: Account | None, wanted: Account) -> str:
    """What the target shows otherwise than *wanted*; empty when nothing. It may have more than that."""
    if found is None:
        return "no such user"
    if found.login != wanted.login:
        return "another password"
    if missing := {role.name for role in wanted.roles} - {role.name for role in found.roles}:
        return f"it without the role {shown(min(missing))}"
    have = _privileges(found.grants)
    for place, wanted_there in _privileges(wanted.grants).items():
        if not ("ALL PRIVILEGES" in have.get(place, ()) or wanted_there <= have.get(place, set())):
            return f"it without a privilege on {'.'.join(filter(None, place)) or 'everything'}"
    return ""


def _privileges(grants: Iterable[Grant]) -> dict[tuple[str, str], set[str]]:
    """Privileges by the object that they are on."""
    found: dict[tuple[str, str], set[str]] = {}
    for grant in grants:
        match = GRANT.match(grant.sql)
        names = {one[0].strip(" ,") for one in _PRIVILEGE.finditer(match["what"])} if match else set()
        found.setdefault((grant.schema.lower(), grant.table.lower()), set()).update(names - {"USAGE"})
    return found


def _not_restored(problems: dict[str, str], number: int) -> ManagerError:
    names = list(problems)
    return PermanentError(
        f"all tables were imported, but {len(names)} of {number} users are not as they were: {first_named(names)}; "
        f"{problems[names[0]]}",
        reason="UsersNotRestored",
        hint="Remove the cause (a missing privilege of the account in spec.to, a password plugin), then restore once more with "
        f"a tableFilter that names one small table, or run the statements of {KEY}; or leave spec.users away.",
    )


def _without_hash(error: ManagerError, one: Account) -> str:
    """What the server said of a statement with a hash in it. Of a text that may quote the statement only its beginning."""
    said = error.message.partition(' near "')[0]
    told = one.login.rpartition(" AS ")[2].strip("'")
    return "the server refused its definition" if len(told) > 3 and told in said else said
