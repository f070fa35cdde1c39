"""Users, roles and grants of an export: SQL in one document beside the data (:data:`KEY`), and its way into a target.

dumpling leaves schema ``mysql`` out, and what ``SHOW CREATE USER`` and ``SHOW GRANTS`` print cannot be run as it is: TiDB
quotes no name, password hash, attribute or column in it. So the statements are put together here from what these two show and
from ``mysql.user``, ``columns_priv``, ``role_edges`` and ``default_roles``, with everything quoted.

A hash of a password lets its holder log in sooner or later. It stands in the document alone.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from backup_manager.content import first_named
from backup_manager.errors import PermanentError
from backup_manager.table_filter import selects
from backup_manager.tidb.connection import Rows

KEY: Final = "users.json"
"""Its name has one dot, so that lightning takes it for no file of a table."""
ROOT: Final = "(user = 'root' and host in ('%%', 'localhost'))"
"""The accounts that TiDB makes itself, for a query with parameters: a target has its own, with a password of its own."""
_ROOT: Final = frozenset({("root", "%"), ("root", "localhost")})
GRANT: Final = re.compile(
    r"GRANT (?P<what>.+) ON (?:\*\.\*|`(?P<schema>(?:[^`]|``)+)`\.(?:\*|`(?P<table>(?:[^`]|``)+)`))", re.DOTALL
)
_TABLES: Final = "select table_schema, table_name from information_schema.tables"
_TABLES_OF_GRANTS: Final = (
    "global_priv", "global_grants", "db", "tables_priv", "columns_priv", "role_edges", "default_roles",
)  # fmt: skip
_DEFAULT: Final = "SET DEFAULT ROLE "
_OPTION: Final = " WITH GRANT OPTION"
_PLUGIN: Final = re.compile(r"IDENTIFIED WITH '(?P<plugin>[^']*)'")
_TOKEN: Final = re.compile(r" REQUIRE NONE token_issuer (?P<issuer>.*?) (?=PASSWORD EXPIRE)", re.DOTALL)
_SOUND: Final = re.compile(r"(?:[^'\\]|'[^'\\]*')*")
"""Clauses in which every quote is closed, as far as that can be seen from a text in which none is escaped."""
_PLAIN: Final = re.compile(r"[!-&(-\[\]-~]*")
"""Printable ASCII without blanks, quotes and backslashes."""

Name = tuple[str, str]
"""User and host of an account."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has; *sql* gives it."""

    sql: str


class Grant(Given, frozen=True, kw_only=True):
    """Privileges on one object; without *schema* on everything, without *table* on a database (which may be a pattern)."""

    schema: str = ""
    table: str = ""


class Role(Given, frozen=True, kw_only=True):
    """A role that an account has."""

    user: str
    host: str

    @property
    def name(self) -> Name:
        """User and host."""
        return self.user, self.host


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A user, or a role: in TiDB an account that nobody can log in to. *default_roles* is the statement that makes some of its
    roles active after a login."""

    user: str
    host: str
    create: str
    roles: tuple[Role, ...] = ()
    grants: tuple[Grant, ...] = ()
    default_roles: str = ""

    def __repr__(self) -> str:
        """Without the hash of the password."""
        return f"Account({shown(self.name)})"

    @property
    def name(self) -> Name:
        """User and host."""
        return self.user, self.host

    @property
    def login(self) -> str:
        """What decides whether somebody gets in: plugin and hash of the password, as they stand in :attr:`create`."""
        return self.create.partition(" REQUIRE ")[0]

    @property
    def alter(self) -> str:
        """The statement that gives an account which exists this definition."""
        return self.create.replace("CREATE USER IF NOT EXISTS", "ALTER USER", 1)

    @property
    def statements(self) -> Sequence[str]:
        """What to run once all accounts are there: roles, privileges, default roles."""
        return [*(one.sql for one in self.given), *([self.default_roles] if self.default_roles else [])]

    @property
    def given(self) -> Sequence[Given]:
        """Roles, then privileges."""
        return (*self.roles, *self.grants)


class Accounts(msgspec.Struct, frozen=True, kw_only=True):
    """The document; roles come first."""

    v: int = 1
    accounts: tuple[Account, ...] = ()

    def to_json(self) -> bytes:
        """The bytes to store."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Accounts":
        """Raises PermanentError, which quotes nothing of *data*."""
        try:
            found = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        if found is None or found.v != 1 or not all(map(_is_sound, found.accounts)):
            raise PermanentError(
                f"{where} cannot be read; nothing was imported",
                reason="SourceDamaged",
                hint="Restore an older version of this object, import another export, or leave spec.users away.",
            )
        return found


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What an export found: the accounts, and a line for each thing that stays out of it."""

    accounts: Accounts = msgspec.field(default_factory=Accounts)
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The databases, and the tables (schema and name), that an export holds or a restore brings back; all in lower case."""

    schemas: frozenset[str]
    tables: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, places: Iterable[tuple[str, str]]) -> "Held":
        """From schema and name of each object; an empty schema has no name."""
        lowered = frozenset((schema.lower(), name.lower()) for schema, name in places)
        return cls(schemas=frozenset(schema for schema, _ in lowered), tables=lowered)

    def covers(self, grant: Grant) -> bool:
        """Whether *grant* is about everything, or about something that is held."""
        if not grant.schema:
            return True
        schema = grant.schema.lower()
        if grant.table:
            return (schema, grant.table.lower()) in self.tables
        return schema in self.schemas or any(re.fullmatch(_like(schema), name) for name in self.schemas)


def of_dump(keys: Collection[str], read: Callable[[str], bytes], where: str, *, recorded: int | None) -> Accounts:
    """The document of an export in the folder *where*, with as many accounts as were *recorded*. Raises PermanentError."""
    place = f"{where.rstrip('/')}/{KEY}"
    if KEY not in keys:
        raise PermanentError(
            f"spec.users is set, but the export holds no users: there is no {place}; nothing was imported",
            reason="UsersNotExported",
            hint="Remove spec.users, or restore an export that was made with spec.dumpling.users: true.",
        )
    found = Accounts.parse(read(KEY), place)
    if recorded not in {None, len(found.accounts)}:
        raise PermanentError(
            f"{place} holds {len(found.accounts)} users, and {recorded} when it was written; nothing was imported",
            reason="SourceDamaged",
            hint="Restore an older version of this object, import another export, or remove spec.users.",
        )
    return found


def selected(rows: Rows, rules: Sequence[str]) -> Held:
    """What the filter *rules* select of a TiDB."""
    places = [(str(schema), str(name)) for schema, name in rows(_TABLES)]
    # A name that no table has: of the rules for it, only those for every table match.
    empty = [(str(row[0]), "\0") for row in rows("select schema_name from information_schema.schemata")]
    return Held.of(place for place in (*places, *empty) if selects(rules, *place))


def shown(name: Name) -> str:
    """``'user'@'host'``, for messages."""
    return f"'{name[0]}'@'{name[1]}'"


def account(user: str, host: str) -> str:
    r"""The account in SQL.

    >>> print(account("o'brien\\", "10.%"))
    'o''brien\\'@'10.%'
    """
    return f"{_text(user)}@{_text(host)}"


def digest(rows: Rows) -> str:
    """Of all that is known of users, roles and grants, to see whether it changed. Counters of failed logins are no part of it.
    Raises PermanentError when the login may not read accounts: that shows before the dump, not after hours."""
    for name in list(_hashes(rows))[:1]:
        rows("show create user %s@%s", name)
        rows("show grants for %s@%s", name)
    columns = [str(row[0]).lower() for row in rows("show columns from mysql.user")]
    of_user = [f"`{column}`" for column in columns if column not in {"password_last_changed", "user_attributes"}]
    of_user += ["json_extract(user_attributes, '$.metadata')"] if "user_attributes" in columns else []
    queries = [f"select {', '.join(of_user)} from mysql.user", *(f"select * from mysql.{table}" for table in _TABLES_OF_GRANTS)]  # noqa: S608  (names of the server's own columns and tables)
    found = hashlib.sha256()
    for query in queries:
        for row in sorted(map(repr, rows(query))):
            found.update(row.encode())
    return found.hexdigest()


def collect(rows: Rows, held: Held, *, before: str = "") -> Found:
    """All accounts but those of :data:`ROOT`. What the export does not hold is no object of a grant in it.

    TiDB shows them as they are now, not at a snapshot. *before*: their :func:`digest` from before the dump; when it is the same
    now, they are those of the dump's snapshot too.
    """
    read = read_accounts(rows)
    left_out = [f"user {shown(name)}: TiDB shows its definition in no form that can be run" for name in read.unreadable]
    kept, unheld = [], list[Grant]()
    for one in read.accounts:
        grants = tuple(grant for grant in one.grants if held.covers(grant))
        unheld += [grant for grant in one.grants if not held.covers(grant)]
        kept.append(msgspec.structs.replace(one, grants=grants))
    if unheld:
        left_out.append(without(unheld))
    if before and digest(rows) != before:
        left_out.append("users as of the snapshot: some were changed while the export ran, it has them as at its end")
    granted = {role.name for one in kept for role in one.roles}
    kept.sort(key=lambda one: (one.name not in granted, *one.name))
    return Found(accounts=Accounts(accounts=tuple(kept)), left_out=tuple(left_out))


def without(grants: Sequence[Grant]) -> str:
    """The line that tells of *grants* that are left out."""
    return f"grants on what is not in it: {len(grants)} ({first_named(sorted({grant.schema for grant in grants}))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Accounts of a TiDB; *unreadable* are those whose definition cannot be written as SQL."""

    accounts: Sequence[Account]
    unreadable: Sequence[Name] = ()


def read_accounts(rows: Rows, names: Collection[Name] | None = None) -> Read:
    """The accounts of *names*, else all but those of :data:`ROOT`. Raises PermanentError."""
    found, unreadable = [], []
    rows("set sql_mode = ''")  # how names are quoted depends on it
    hashes = _hashes(rows)
    edges, columns, default = _edges(rows), _columns(rows), _default_roles(rows)
    for name in hashes if names is None else (name for name in hashes if name in names):
        create = _create(name, hashes[name], str(rows("show create user %s@%s", name)[0][0]))
        if create is None:
            unreadable.append(name)
            continue
        lines = [str(row[0]) for row in rows("show grants for %s@%s", name)]
        grants = [grant for line in lines if (grant := _grant(name, line))]
        roles = [role for role in edges.get(name, ()) if role in hashes]
        active = [account(*role) for role in roles if role in default.get(name, ())]
        target = account(*name)
        one = Account(
            user=name[0],
            host=name[1],
            create=create,
            roles=tuple(Role(user=role[0], host=role[1], sql=f"GRANT {account(*role)} TO {target}") for role in roles),
            grants=(*grants, *columns.get(name, ())),
            default_roles=f"{_DEFAULT}{', '.join(active)} TO {target}" if active else "",
        )
        found.append(one)
    return Read(accounts=found, unreadable=unreadable)


def _hashes(rows: Rows) -> dict[Name, str]:
    """The hash of the password of each account but those of TiDB itself."""
    found = rows("select user, host, authentication_string from mysql.user order by user, host")
    named = {(str(user), str(host)): str(told or "") for user, host, told in found}
    return {name: told for name, told in named.items() if name not in _ROOT}


def _create(name: Name, told: str, line: str) -> str | None:
    """The definition with everything quoted; None when *line*, which quotes nothing, cannot be taken apart."""
    rest = _cut(line, f"CREATE USER '{name[0]}'@'{name[1]}' ")
    match = _PLUGIN.match(rest) if rest is not None else None
    if rest is None or match is None:
        return None
    rest = rest[match.end() :]
    identified = match[0]
    if (after := _cut(rest, f" AS '{told}'")) is not None:
        identified, rest = f"{match[0]} AS {_hash(told)}", after
    elif rest.startswith(" AS "):
        return None
    rest, attribute, said = rest.partition(" ATTRIBUTE '")
    if token := _TOKEN.match(rest):
        rest = f" REQUIRE TOKEN_ISSUER {_text(token['issuer'])} {rest[token.end() :]}"
    elif not _SOUND.fullmatch(rest):
        return None
    end = f"{attribute[:-1]}{_text(said[:-1])}" if attribute else ""
    return f"CREATE USER IF NOT EXISTS {account(*name)} {identified}{rest}{end}"


def _grant(name: Name, line: str) -> Grant | None:
    """A line of ``SHOW GRANTS``; None for one that gives nothing, names a role, or is about columns (unquoted there)."""
    option = _OPTION if line.endswith(_OPTION) else ""
    target = f" TO '{name[0]}'@'{name[1]}'"
    start = line.removesuffix(_OPTION)
    match = GRANT.fullmatch(start.removesuffix(target)) if start.endswith(target) else None
    if match is None or "(" in match["what"] or (match["what"] == "USAGE" and not option):
        return None
    schema, table = ((match[part] or "").replace("``", "`") for part in ("schema", "table"))
    return Grant(sql=f"{match[0]} TO {account(*name)}{option}", schema=schema, table=table)


def _columns(rows: Rows) -> dict[Name, list[Grant]]:
    found: dict[Name, list[Grant]] = {}
    query = "select user, host, db, table_name, column_name, column_priv from mysql.columns_priv order by 1, 2, 3, 4, 5"
    for user, host, schema, table, column, told in rows(query):
        given = ", ".join(f"{one.upper()}({_identifier(str(column))})" for one in _set(told))
        sql = f"GRANT {given} ON {_identifier(str(schema))}.{_identifier(str(table))} TO {account(str(user), str(host))}"
        found.setdefault((str(user), str(host)), []).append(Grant(sql=sql, schema=str(schema), table=str(table)))
    return found


def _edges(rows: Rows) -> dict[Name, list[Name]]:
    """The roles of each account."""
    return _pairs(rows("select to_user, to_host, from_user, from_host from mysql.role_edges order by 1, 2, 3, 4"))


def _default_roles(rows: Rows) -> dict[Name, list[Name]]:
    return _pairs(rows("select user, host, default_role_user, default_role_host from mysql.default_roles"))


def _pairs(rows: Iterable[tuple[Any, ...]]) -> dict[Name, list[Name]]:
    found: dict[Name, list[Name]] = {}
    for row in rows:
        user, host, role_user, role_host = map(str, row)
        found.setdefault((user, host), []).append((role_user, role_host))
    return found


def _is_sound(one: Account) -> bool:
    """Whether its statements are those that an export writes, and no other."""
    given = all(part.sql.startswith("GRANT ") for part in one.given)
    return (
        given and one.create.startswith("CREATE USER IF NOT EXISTS ") and (one.default_roles or _DEFAULT).startswith(_DEFAULT)
    )


def _hash(told: str) -> str:
    return _text(told) if _PLAIN.fullmatch(told) else f"0x{told.encode().hex()}"


def _text(text: str) -> str:
    """A literal, for any ``sql_mode`` with backslashes in it."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0")
    return f"'{escaped}'"


def _identifier(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _set(told: object) -> list[str]:
    """The members of a ``SET`` column."""
    return [one for one in (told if isinstance(told, (set, frozenset)) else str(told).split(",")) if one]


def _like(pattern: str) -> str:
    r"""A pattern of a database name, as grants have it, as a regular expression.

    >>> _like("a\\_b%"), _like("a_")
    ('a_b.*', 'a.')
    """
    done, escaped = "", False
    for char in pattern:
        if escaped or char not in "\\%_":
            done, escaped = done + re.escape(char), False
        elif char == "\\":
            escaped = True
        else:
            done += ".*" if char == "%" else "."
    return done


def _cut(text: str, start: str) -> str | None:
    return text[len(start) :] if text.startswith(start) else None
