"""A test says what must happen and counts; how long that takes is for ``benchmarks/``. So no test reads a stopwatch, and limits
are in ``sandbox/patience.py`` and ``tests/conftest.py`` alone."""

import re

from tests.support.servers import ROOT

STOPWATCH = re.compile(r"\b(monotonic|perf_counter|process_time|thread_time)\(\)")
OWN_LIMIT = re.compile(r"mark\.timeout\(")
ALLOWED = {
    (
        "support/hook_server.py",
        "return time.monotonic()",
    ): "when calls came, for lower bounds alone, which hold on every machine",
    ("conftest.py", "item.add_marker(pytest.mark.timeout(_HANGS), append=False)"): "the limit",
    (
        "property/test_schedule_world.py",
        "@pytest.mark.timeout(0 if HISTORIES > 1000 else 900)",
    ): "none for a soak of hours",
}


def test_no_test_reads_a_stopwatch_or_has_a_limit_of_its_own() -> None:
    found = {
        (str(path.relative_to(ROOT / "tests")), line.strip())
        for path in (ROOT / "tests").rglob("*.py")
        if path.name != "test_no_seconds.py"
        for line in path.read_text().splitlines()
        if STOPWATCH.search(line) or OWN_LIMIT.search(line)
    }
    assert found == set(ALLOWED)
