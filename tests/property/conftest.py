"""How many random worlds were tried, said at the end: a property test is worth what its worlds are.

A test counts with ``record_property("worlds", number)``.
"""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        counts[report.nodeid.partition("::")[0]] += sum(number for name, number in report.user_properties if name == "worlds")
    for file, number in sorted(counts.items()):
        if number:
            terminalreporter.write_line(f"{file}: {number} random worlds")
