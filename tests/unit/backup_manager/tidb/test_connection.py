"""Reaching the database: who we are, what a refusal means, and how long we wait."""

from pathlib import Path
from typing import Any

import pymysql
import pytest

from backup_manager.errors import ManagerError, PermanentError, RunInterruptedError, UsageError
from backup_manager.signals import StopSignal
from backup_manager.tidb import connection as database
from backup_manager.tidb.connection import Access, Database, DatabaseUnreachableError, LoginError, TlsFiles, connect
from crds.contract.report import Phase
from sandbox.ports import free_port
from tests.support.manager import world

ACCESS = Access(host="db", password="hunter22")


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (
            pymysql.err.OperationalError(1045, "Access denied for user 'u'@'h' (using password: YES)"),
            "DatabaseAccessDenied",
            False,
        ),
        (pymysql.err.OperationalError(1142, "SELECT command denied"), "DatabaseAccessDenied", False),
        (
            pymysql.err.OperationalError(2003, "Can't connect to MySQL server on 'db' ([Errno 111] refused)"),
            "DatabaseUnreachable",
            True,
        ),
        (pymysql.err.OperationalError(2013, "Lost connection"), "DatabaseUnreachable", True),
        (pymysql.err.OperationalError(1040, "Too many connections"), "DatabaseUnreachable", True),
        (pymysql.err.OperationalError(9001, "PD server timeout"), "DatabaseUnreachable", True),
        (pymysql.err.OperationalError(2003, "SSL: CERTIFICATE_VERIFY_FAILED"), "DatabaseTlsFailed", False),
        (ConnectionResetError(104, "reset"), "DatabaseUnreachable", True),
        (pymysql.err.ProgrammingError(1146, "Table doesn't exist"), "DatabaseFailed", False),
    ],
)
def test_what_the_server_says(error: Exception, reason: str, retryable: bool) -> None:
    problem = database._translated(error, ACCESS).problem()
    assert (problem.reason, problem.retryable) == (reason, retryable)
    assert "hunter22" not in problem.message


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"host": "db"}, ("db", 4000, "root")),
        ({"host": "db", "port": 4001, "user": "bk"}, ("db", 4001, "bk")),
        ({"host": "db", "port": "4001"}, ("db", 4001, "root")),
    ],
)
def test_defaults(spec: dict[str, Any], expected: tuple[str, int, str]) -> None:
    access = Access.of(spec, name="from", env={"BACKUP_MANAGER_PASSWORD": "hunter22"}, flags={})
    assert (access.host, access.port, access.user) == expected
    assert access.tls is None
    assert "hunter22" not in repr(access)


@pytest.mark.parametrize("skip", [True, False])
def test_tls_is_asked_for_by_flags(skip: bool) -> None:
    access = Access.of({"host": "db"}, name="from", env={}, flags={"client-tls": True, "skipClientCA": skip})
    assert access.tls is not None
    assert (access.tls.verify, str(access.tls.cert)) == (not skip, "/var/lib/tidb-client-tls/tls.crt")


def test_tls_files_that_are_not_there_are_no_reason_to_wait(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        Database(Access(host="db", tls=TlsFiles(folder=tmp_path)))
    assert caught.value.problem().reason == "TlsFilesUnusable"


def test_a_server_that_comes_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception | None] = [DatabaseUnreachableError("down"), DatabaseUnreachableError("down"), None]

    def rows(_self: Database, _statement: str) -> list[tuple[int]]:
        if error := answers.pop(0):
            raise error
        return [(1,)]

    monkeypatch.setattr(Database, "rows", rows)
    monkeypatch.setattr(database, "POLL_SECONDS", 0.01)
    here = world(tmp_path, {})
    connect(here.context, ACCESS)
    assert [r.phase for r in here.reporter.offered] == [Phase.WAITING, Phase.WAITING, Phase.RUNNING]
    assert here.reporter.offered[0].error is not None
    assert here.report.error is None


def test_a_refused_login_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(_self: Database, _statement: str) -> None:
        raise LoginError("no")

    monkeypatch.setattr(Database, "rows", rows)
    here = world(tmp_path, {})
    with pytest.raises(LoginError):
        connect(here.context, ACCESS)
    assert here.reporter.offered == []


def test_nobody_there_ends_after_the_limit(tmp_path: Path) -> None:
    here = world(tmp_path, {}, env={database.ENV_WAIT: "0s"})
    with pytest.raises(DatabaseUnreachableError) as caught:
        connect(here.context, Access(host="127.0.0.1", port=free_port()))
    assert caught.value.exit_code == 3


def test_the_time_that_the_tries_take_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], list[float]()

    def rows(_self: Database, _statement: str) -> None:
        now[0] += 30  # a packet filter that drops everything: each try runs into its timeouts
        raise DatabaseUnreachableError("down")

    def wait(_self: StopSignal, seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(Database, "rows", rows)
    monkeypatch.setattr(StopSignal, "wait", wait)
    with pytest.raises(DatabaseUnreachableError):
        connect(world(tmp_path, {}, env={database.ENV_WAIT: "30m"}).context, ACCESS, clock=lambda: now[0])
    assert 1800 <= now[0] <= 1830
    assert waits[:-1] == [database.POLL_SECONDS] * (len(waits) - 1)


def test_waiting_ends_when_asked_to(tmp_path: Path) -> None:
    stop = StopSignal()
    stop.request()
    here = world(tmp_path, {}, stop=stop)
    with pytest.raises(RunInterruptedError):
        connect(here.context, Access(host="127.0.0.1", port=free_port()))


def test_a_limit_that_is_no_duration(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        connect(world(tmp_path, {}, env={database.ENV_WAIT: "long"}).context, ACCESS)


def test_kms_is_refused_in_words() -> None:
    with pytest.raises(ManagerError) as caught:
        Access.of({"host": "db"}, name="from", env={"KMS_ENCRYPTED_BACKUP_MANAGER_PASSWORD": "x"}, flags={})
    assert "useKMS" in caught.value.message


@pytest.mark.parametrize("password", ["pässwort", "пароль", "密码🔑", " a`b'c\" d@:/?#% "])
def test_any_unicode_password_is_sent_as_utf8(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """pymysql encodes a text as latin-1; TiDB and the tools take UTF-8."""
    sent = list[bytes]()

    def refuse(connection: Any, *_: object) -> None:
        sent.append(connection.password)
        raise pymysql.err.OperationalError(1045, "Access denied")

    monkeypatch.setattr(pymysql.Connection, "connect", refuse)
    with pytest.raises(LoginError):
        Database(Access(host="db", password=password)).rows("select 1")
    assert sent == [password.encode()]
