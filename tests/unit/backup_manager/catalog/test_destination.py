"""Before a run writes, its rights are tried: what is missing shows at once, and only where it will be needed."""

from pathlib import Path

import pytest

from backup_manager.catalog.destination import BackupDestination
from backup_manager.errors import AccessDeniedError
from backup_manager.storage.preflight import PROBE
from crds.contract import names
from tests.support.fake_s3 import FakeS3, Request
from tests.support.manager import World, world


def claim(tmp_path: Path, server: FakeS3, policy: str, annotations: dict[str, str] | None = None) -> World:
    scene = world(tmp_path, {"cleanPolicy": policy} if policy else {}, annotations=annotations)
    BackupDestination(scene.context, server.storage(), operation="export").claim()
    return scene


def undeletable() -> FakeS3:
    return FakeS3(key_errors=lambda _key: ("AccessDenied", "no"))


@pytest.mark.parametrize("policy", ["Delete", "OnFailure"])
def test_a_backup_that_will_be_deleted_needs_the_right(tmp_path: Path, policy: str) -> None:
    with pytest.raises(AccessDeniedError, match="cannot be deleted") as caught:
        claim(tmp_path, undeletable(), policy)
    assert "s3:DeleteObject" in caught.value.hint


@pytest.mark.parametrize("policy", ["", "Retain"])
def test_one_that_stays_does_not(tmp_path: Path, policy: str) -> None:
    server = undeletable()
    claim(tmp_path, server, policy)
    assert not [request for request in server.requests if PROBE in request.key]


def test_nothing_of_it_is_left(tmp_path: Path) -> None:
    server = FakeS3()
    claim(tmp_path, server, "Delete")
    assert any(PROBE in request.key for request in server.requests)
    assert not [name for name in server.names() if name.startswith("p/q/")]


def test_it_can_be_skipped(tmp_path: Path) -> None:
    server = undeletable()
    scene = claim(tmp_path, server, "Delete", {names.SKIP_PREFLIGHT_ANNOTATION: "true"})
    assert not [request for request in server.requests if PROBE in request.key]
    assert any(names.SKIP_PREFLIGHT_ANNOTATION in line for line in scene.lines)


def test_warnings_are_logged_and_stop_nothing(tmp_path: Path) -> None:
    scene = claim(tmp_path, FakeS3(skew=-120), "Delete")
    assert any(line.startswith("WARNING clock") and "NTP" in line for line in scene.lines)


def test_it_comes_after_the_claim(tmp_path: Path) -> None:
    """So that no probe is written into a folder of somebody else's."""
    server = FakeS3()
    seen: list[str] = []

    def note(request: Request) -> None:
        if request.method == "PUT":
            seen.append(request.key)

    server.faults.append(note)
    claim(tmp_path, server, "Delete")
    written = [key for key in seen if ".history/" not in key]
    assert [key if PROBE not in key else PROBE for key in written] == ["p/q.record.json", PROBE, "p/q.record.json"]
