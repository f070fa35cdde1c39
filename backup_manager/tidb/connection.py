"""The connection to TiDB: who we are there, TLS as TiDB Operator sets it up, and waiting for a server that is not there yet.

A wrong password is told at once: no waiting helps against it. A server that cannot be reached is waited for, since a cluster
may be restarting while its backup starts.
"""

import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from backup_manager import credentials
from backup_manager.context import Context
from backup_manager.errors import ManagerError, PermanentError, TransientError, UnreachableError, UsageError
from crds.contract import durations, names

if TYPE_CHECKING:
    import pymysql
    from pymysql.cursors import Cursor

POLL_SECONDS: Final = 5.0
ENV_WAIT: Final = "BACKUP_MANAGER_DB_WAIT"
"""How long to wait for the database, as a Go duration."""
ENV_KMS: Final = f"KMS_ENCRYPTED_{names.ENV_PASSWORD}"
DEFAULT_WAIT: Final = timedelta(minutes=30)
DEFAULT_PORT: Final = 4000
DEFAULT_USER: Final = "root"

_CONNECT_SECONDS: Final = 5
_QUERY_SECONDS: Final = 25
_CREDENTIALS: Final = frozenset({1045, 1698, 1862, 3118, 8141})
"""Server error codes: access denied, denied without a password, password expired, account locked."""
_NO_RIGHT: Final = frozenset({1044, 1142, 1143, 1227, 8121})
_BUSY: Final = frozenset({1040, 1203, 1226, 9001, 9002, 9005})
"""Too many connections, or PD or TiKV not answering yet."""
_CONFLICT: Final = frozenset({1205, 1213, 8002, 8005, 8022, 9007})
"""Another transaction held the row, or was faster."""
_UNKNOWN_HOST: Final = re.compile(
    r"Name or service not known|nodename nor servname|No address associated|Temporary failure in name"
)


class DatabaseError(PermanentError):
    """The database refused a statement."""

    reason = "DatabaseFailed"


class LoginError(PermanentError):
    """The database is there and does not let us in."""

    reason = "DatabaseAccessDenied"


class DatabaseUnreachableError(UnreachableError):
    """The database does not answer."""

    reason = "DatabaseUnreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The mounted client certificate; *verify* is false with ``--skipClientCA``."""

    folder: Path
    verify: bool = True

    @property
    def ca(self) -> Path:
        """The authority that signed the server's certificate."""
        return self.folder / "ca.crt"

    @property
    def cert(self) -> Path:
        """Our certificate."""
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / "tls.key"

    def context(self) -> ssl.SSLContext:
        """For a Python client: chain and host name are verified unless *verify* is off. Raises PermanentError."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.verify:
                context.load_verify_locations(self.ca)
            else:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise PermanentError(
                f"the TLS files under {self.folder} cannot be read: {error}",
                reason="TlsFilesUnusable",
                hint="The Secret named by tlsClientSecretName needs ca.crt, tls.crt and tls.key.",
            ) from None
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a TiDB."""

    host: str
    port: int = DEFAULT_PORT
    user: str = DEFAULT_USER
    password: str = field(default="", repr=False)
    tls: TlsFiles | None = None

    @property
    def shown(self) -> str:
        """``user@host:port``, for messages."""
        return f"{self.user}@{self.host}:{self.port}"

    @classmethod
    def of(cls, spec: Mapping[str, Any], *, name: str, env: Mapping[str, str], flags: Mapping[str, Any]) -> Self:
        """From ``spec.from`` or ``spec.to`` (*name*), the password from the environment. Raises UsageError."""
        host = str(spec.get("host") or "")
        if not host:
            raise UsageError(f"spec.{name}.host is empty", hint=f"Set spec.{name}.host to the TiDB service.")
        try:
            port = int(spec.get("port") or DEFAULT_PORT)
        except (TypeError, ValueError):
            raise UsageError(f"spec.{name}.port {spec.get('port')!r} is no number", hint="Write it like 4000.") from None
        if ENV_KMS in env and names.ENV_PASSWORD not in env:
            raise UsageError(
                "useKMS is not offered: the password arrived encrypted", hint="Use a Secret that holds it in plain."
            )
        tls = (
            TlsFiles(folder=Path(names.CLIENT_TLS_DIR), verify=not flags.get("skipClientCA"))
            if flags.get("client-tls")
            else None
        )
        user = str(spec.get("user") or DEFAULT_USER)
        return cls(host=host, port=port, user=user, password=credentials.value(env, names.ENV_PASSWORD), tls=tls)


class Rows(Protocol):
    """What a query returns."""

    def __call__(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Run *statement*. Raises only :mod:`backup_manager.errors`."""


class Database:
    """A TiDB, one short connection at a time: a dump may run for hours, and no session survives that for certain."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._ssl = access.tls.context() if access.tls else None

    @contextmanager
    def session(self, *, seconds: int = _QUERY_SECONDS) -> Iterator["Cursor"]:
        """A cursor on the database ``mysql``; leaving it commits. Raises only :mod:`backup_manager.errors`."""
        connection = self._connect(seconds)
        import pymysql  # noqa: PLC0415  (a clean and a verify never need it)

        try:
            with connection.cursor() as cursor:
                yield cursor
            connection.commit()
        except (pymysql.Error, OSError) as error:
            raise _translated(error, self.access) from None
        finally:
            connection.close()

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """What a query returns."""
        with self.session() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    @contextmanager
    def connection(self) -> Iterator[Rows]:
        """As :meth:`rows`, all on one connection, each statement a transaction of its own: for many short queries in a row. A
        statement that the server refuses does not end it."""
        connection = self._connect(_QUERY_SECONDS, autocommit=True)
        import pymysql  # noqa: PLC0415  (a clean and a verify never need it)

        def rows(statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(statement, parameters)
                    return cursor.fetchall()
            except (pymysql.Error, OSError) as error:
                raise _translated(error, self.access) from None

        try:
            yield rows
        finally:
            connection.close()

    def _connect(self, seconds: int, *, autocommit: bool = False) -> "pymysql.Connection[Cursor]":
        import pymysql  # noqa: PLC0415  (a clean and a verify never need it)

        try:
            return pymysql.connect(
                host=self.access.host,
                port=self.access.port,
                user=self.access.user,
                password=self.access.password.encode("utf-8", "surrogateescape"),  # of a text the driver makes latin-1
                database="mysql",
                charset="utf8mb4",
                connect_timeout=min(_CONNECT_SECONDS, seconds),
                read_timeout=seconds,
                write_timeout=seconds,
                ssl=self._ssl,
                ssl_disabled=self._ssl is None,
                autocommit=autocommit,
            )
        except (pymysql.Error, OSError, RuntimeError) as error:
            raise _translated(error, self.access) from None


def connect(
    context: Context, access: Access, *, limit: timedelta | None = None, clock: Callable[[], float] = time.monotonic
) -> Database:
    """The database, once it answers. Waits up to *limit*, else :data:`ENV_WAIT`; reports ``Waiting`` meanwhile.

    Each try may itself take the time of :data:`_CONNECT_SECONDS` and :data:`_QUERY_SECONDS`: it counts too.
    """
    database, waited = Database(access), False
    deadline = clock() + (_wait_limit(context.env) if limit is None else limit).total_seconds()
    while True:
        try:
            database.rows("select 1")
        except DatabaseUnreachableError as error:
            if (left := deadline - clock()) <= 0:
                raise
            context.journal.waiting(error.problem())
            context.log(f"waiting for {access.shown}: {error.message}")
            context.stop.wait(min(POLL_SECONDS, left))
            waited = True
        else:
            if waited:
                context.journal.running()
            return database


def _wait_limit(env: Mapping[str, str]) -> timedelta:
    text = env.get(ENV_WAIT)
    try:
        return durations.parse(text) if text else DEFAULT_WAIT
    except durations.DurationError as error:
        raise UsageError(f"{ENV_WAIT}: {error}") from None


def _translated(error: Exception, access: Access) -> ManagerError:
    """What the driver said, as an error of ours. The driver never repeats the password."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[-1] if error.args else error)
    if code in _CREDENTIALS or (isinstance(error, RuntimeError) and "auth" in text):
        return LoginError(
            f"{access.shown} refused the login: {text}",
            hint="Check the user in the spec, and the key `password` of the Secret named by secretName.",
        )
    if code in _NO_RIGHT:
        return DatabaseError(
            f"{access.shown}: {text}", reason="DatabaseAccessDenied", hint=f"Grant {access.user} this privilege."
        )
    if code in _CONFLICT:
        return TransientError(f"{access.shown}: {text}", reason="DatabaseConflict", hint="The same can be tried again.")
    if code in _BUSY or 2000 <= code < 3000 or isinstance(error, OSError):
        if "SSL" in text or "certificate" in text.lower():
            return LoginError(
                f"{access.shown}: TLS failed: {text}",
                reason="DatabaseTlsFailed",
                hint="Check that the client certificate and the CA in tlsClientSecretName belong to this cluster.",
            )
        fix = (
            "Check the host name."
            if _UNKNOWN_HOST.search(text)
            else "Check that TiDB runs and that no network policy is between."
        )
        return DatabaseUnreachableError(f"{access.shown} does not answer: {text}", hint=fix)
    return DatabaseError(f"{access.shown}: {text}")
