"""The preflight: what is wrong shows in seconds, with the next step, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backup_manager.errors import AccessDeniedError, ManagerError, StorageError
from backup_manager.storage import retry as patience
from backup_manager.storage.http_pool import Answer
from backup_manager.storage.local import LocalStorage
from backup_manager.storage.memory import MemoryStorage
from backup_manager.storage.preflight import PROBE, Check, Status, details, preflight, require, table
from crds.contract.paths import Location, Provider
from tests.support.fake_s3 import FakeS3, Request, error


def outcome(checks: list[Check]) -> dict[str, Status]:
    return {check.name: check.status for check in checks}


ALL_WELL = dict.fromkeys(("reach", "list", "write", "read", "delete", "versioning", "lock", "clock"), Status.OK)


def test_all_is_well() -> None:
    for versioning in ("", "Enabled", "Suspended"):
        server = FakeS3(versioning=versioning)
        checks = preflight(server.storage())
        assert outcome(checks) == ALL_WELL
        require(checks)
        assert not server.names()


def test_in_memory_and_on_a_volume(tmp_path: Path) -> None:
    assert outcome(preflight(MemoryStorage())) == ALL_WELL
    storage = LocalStorage(Location(provider=Provider.LOCAL, bucket=str(tmp_path), prefix="p"))
    assert outcome(preflight(storage)) == ALL_WELL
    assert not list(tmp_path.rglob(f"{PROBE}*"))


def test_a_reader_writes_nothing() -> None:
    server = FakeS3()
    assert set(outcome(preflight(server.storage(), write=False))) == {"reach", "list", "versioning", "lock", "clock"}
    assert server.count("PUT") == 0


def test_a_bad_key_ends_it_at_once() -> None:
    server = FakeS3(faults=[lambda _request: error(403, "InvalidAccessKeyId")])
    checks = preflight(server.storage())
    assert outcome(checks) == {
        "reach": Status.FAILED,
        "list": Status.SKIPPED,
        "write": Status.SKIPPED,
        "read": Status.SKIPPED,
        "delete": Status.SKIPPED,
    }
    with pytest.raises(AccessDeniedError, match="InvalidAccessKeyId"):
        require(checks)
    assert len(server.requests) == 1


def denied(wanted: Callable[[Request], bool]) -> Callable[[Request], Answer | None]:
    return lambda request: error(403, "AccessDenied") if wanted(request) else None


@pytest.mark.parametrize(
    ("wanted", "failed", "hint"),
    [
        (lambda r: "list-type" in r.query, {"list": Status.FAILED}, "s3:ListBucket"),
        (
            lambda r: r.method == "PUT",
            {"write": Status.FAILED, "read": Status.SKIPPED, "delete": Status.SKIPPED},
            "s3:PutObject",
        ),
        (lambda r: r.method == "GET" and PROBE in r.key, {"read": Status.FAILED}, "s3:GetObject"),
        (lambda r: "delete" in r.query, {"delete": Status.FAILED}, "s3:DeleteObject"),
        (
            lambda r: "versioning" in r.query,
            {"versioning": Status.WARNING, "clock": Status.SKIPPED},
            "s3:GetBucketVersioning",
        ),
    ],
)
def test_each_missing_right(wanted: Callable[[Request], bool], failed: dict[str, Status], hint: str) -> None:
    server = FakeS3(faults=[denied(wanted)])
    checks = preflight(server.storage())
    found = outcome(checks)
    assert bool(server.names()) == ("delete" in failed and "write" not in failed)
    assert {name: status for name, status in found.items() if status is not Status.OK} == failed
    first = next(check for check in checks if check.name in failed)
    assert hint in first.hint


def test_key_that_may_write_and_not_delete() -> None:
    server = FakeS3(key_errors=lambda _key: ("AccessDenied", "no"))
    checks = preflight(server.storage())
    assert outcome(checks)["delete"] is Status.FAILED
    with pytest.raises(AccessDeniedError) as caught:
        require(checks)
    assert "s3:DeleteObject" in caught.value.hint


def test_deletion_that_fails_for_a_moment_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.0)
    answers = iter([error(503, "SlowDown"), error(500, "InternalError")])
    server = FakeS3(faults=[lambda r: next(answers, None) if "delete" in r.query else None])
    assert outcome(preflight(server.storage())) == ALL_WELL
    assert not server.names()


def test_store_that_loses_or_keeps() -> None:
    garbled = FakeS3(faults=[lambda r: Answer(200, {"etag": '"x"'}, b"else") if r.method == "GET" and PROBE in r.key else None])
    assert outcome(preflight(garbled.storage()))["read"] is Status.FAILED
    keeping = FakeS3(drop=lambda _key: True)
    assert outcome(preflight(keeping.storage()))["delete"] is Status.FAILED


@pytest.mark.parametrize(
    ("skew", "status"), [(0, Status.OK), (30, Status.OK), (-120, Status.WARNING), (1000, Status.FAILED), (-5000, Status.FAILED)]
)
def test_clock(skew: float, status: Status) -> None:
    checks = preflight(FakeS3(skew=skew).storage())
    clock = next(check for check in checks if check.name == "clock")
    assert clock.status is status
    if status is Status.FAILED:
        assert "NTP" in clock.hint
        with pytest.raises(StorageError) as caught:
            require(checks)
        assert caught.value.problem().reason == "ClockSkew"


def test_bucket_that_locks_new_objects_gets_no_probe() -> None:
    body = b"<C><ObjectLockEnabled>Enabled</ObjectLockEnabled><Mode>COMPLIANCE</Mode><Days>30</Days></C>"
    server = FakeS3(versioning="Enabled", faults=[lambda r: Answer(200, {}, body) if "object-lock" in r.query else None])
    checks = preflight(server.storage())
    assert server.count("PUT") == 0
    assert outcome(checks)["write"] is Status.SKIPPED
    lock = next(check for check in checks if check.name == "lock")
    assert (lock.status, lock.message) == (Status.WARNING, "COMPLIANCE 30 days")
    require(checks)


def test_volume_that_is_not_mounted(tmp_path: Path) -> None:
    storage = LocalStorage(Location(provider=Provider.LOCAL, bucket=str(tmp_path / "absent"), prefix="p"))
    checks = preflight(storage)
    assert outcome(checks)["reach"] is Status.FAILED
    with pytest.raises(ManagerError, match="no folder"):
        require(checks)


def test_forms_of_the_table() -> None:
    checks = preflight(FakeS3(skew=-120).storage())
    lines = table(checks)
    assert lines[0] == "OK      reach       s3://bucket/p/q answers"
    assert lines[-1].startswith("WARNING clock       12")
    assert lines[-1].endswith("-> Fix NTP on the node.")
    assert details(checks)["checks"][0] == {"name": "reach", "status": "OK", "message": "s3://bucket/p/q answers"}


def test_a_store_that_enforces_conditional_writes() -> None:
    server = FakeS3()
    checks = preflight(server.storage(), conditions=True)
    assert outcome(checks) == {**ALL_WELL, "conditions": Status.OK}
    assert not server.names()


@pytest.mark.parametrize("how", ["ignores the header", "refuses the header"])
def test_a_store_without_conditional_writes_is_a_warning(how: str) -> None:
    def answer(request: Request) -> Answer | None:
        if request.method != "PUT" or "if-none-match" not in request.headers:
            return None
        if how == "refuses the header":
            return error(501, "NotImplemented")
        server.put(request.key, request.body)
        return Answer(200, {"etag": '"x"'}, b"")

    server = FakeS3(faults=[answer])
    (check,) = [check for check in preflight(server.storage(), conditions=True) if check.name == "conditions"]
    assert check.status is Status.WARNING
    assert "a prefix of its own" in check.hint
    require(preflight(server.storage(), conditions=True))
    assert not server.names()
