"""How often a log backup's task is looked at. What a look finds is in ``test_pd.py``, its life in the integration tests."""

import pytest

from backup_manager.errors import UsageError
from backup_manager.operations.watch_log import ENV_INTERVAL, INTERVAL, interval


@pytest.mark.parametrize(("text", "seconds"), [("", INTERVAL), ("15s", 15), ("1s", 1), ("2m30s", 150)])
def test_the_interval(text: str, seconds: float) -> None:
    assert interval({ENV_INTERVAL: text}) == seconds
    assert interval({}) == INTERVAL


@pytest.mark.parametrize("text", ["0s", "999ms", "-1m", "often", "60"])
def test_an_interval_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        interval({ENV_INTERVAL: text})
    assert ENV_INTERVAL in caught.value.message
    assert caught.value.hint
