"""Reports as they come from outside: whatever cannot be true is left out, and the rest counts."""

import pytest

from crds.contract.report import Report


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:58-14:00", "2026-01-31T02:00:00"])
def test_a_time_that_no_run_has_is_left_out_of_a_report(time: str) -> None:
    """It could not be written in UTC, or compared with others, and would make the CR unusable."""
    text = (
        f'{{"v":1,"seq":1,"phase":"Complete","commitTs":"4","timeStarted":"{time}","timeCompleted":"{time}","eta":"{time}",'
        f'"progress":[{{"step":"Work","progress":100,"lastTransitionTime":"{time}"}}]}}'
    )
    found = Report.parse(text)
    assert found is not None
    assert found.final
    assert found.commit_ts == "4"
    assert found.time_started is found.time_completed is found.eta is None
    assert found.progress[0].last_transition_time is None
