"""The order of the files, and the end of what all workers share. The longest go first, so that none of them begins when the
others are about to end."""

from typing import Final

import pytest

_LONG: Final = (
    "test_schedule_slots.py",
    "test_demo.py",
    "test_br.py",
    "test_pitr.py",
    "test_round_trips.py",
    "test_scenarios.py",
    "test_troubles.py",
    "test_examples.py",
    "test_readme.py",
    "test_log_backup.py",
    "test_br_retries.py",
    "test_sandbox_stand_in.py",
    "test_sandbox.py",
    "test_export_import.py",
    "test_every_store.py",
    "test_manifests_on_apiserver.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort; tests of one file keep their order."""
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(_LONG)))


def pytest_sessionfinish() -> None:
    from tests.support.sandboxes import stop_shared_sandbox  # unit tests alone need not import it before they begin

    stop_shared_sandbox()
