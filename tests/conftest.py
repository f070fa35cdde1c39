"""How a run of the tests is bounded by the machine: the number of workers, the order of the files, whose turn it is, and how
long a test may take. ``docs/architecture.md`` ("Tests") describes it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

from sandbox.machine import cores, room
from sandbox.patience import PATIENCE
from tests.support import turns

_LONG: Final = (
    "test_schedule_slots.py",
    "test_demo.py",
    "test_br.py",
    "test_pitr.py",
    "test_round_trips.py",
    "test_scenarios.py",
    "test_troubles.py",
    "test_canary.py",
    "test_examples.py",
    "test_readme.py",
    "test_log_backup.py",
    "test_br_retries.py",
    "test_sandbox_stand_in.py",
    "test_sandbox.py",
    "test_export_import.py",
    "test_outages.py",
    "test_every_store.py",
    "test_manifests_on_apiserver.py",
)
_ON_SERVERS: Final = ("integration", "e2e")
"""Markers and folders of the tests that start real servers."""
_HANGS: Final = 3 * PATIENCE
"""Seconds after which a test with real servers is taken to hang: it waits for one thing at a time, and starts servers twice at
most."""
_RETRIED: Final = "setup tried again, alone"

# How long an example takes says something about the machine, not about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means: a worker for each processor, two for tests with servers."""
    on_servers = any(folder in argument for argument in config.args for folder in _ON_SERVERS)
    return turns.workers() if on_servers else min(cores(), room(0.5))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first, so that none of them begins when the others are about to end; tests of one file keep their
    order."""
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(_LONG)))
    for item in items:
        if any(map(item.get_closest_marker, _ON_SERVERS)):
            item.add_marker(pytest.mark.timeout(_HANGS), append=False)


class _Turn:
    """The test that runs now, and the tokens that it holds."""

    def __init__(self) -> None:
        self.bounds = turns.of_this_run()
        self.item: pytest.Item | None = None
        self.held = ExitStack()
        self.alone = False
        self._starting = False

    def begin(self, item: pytest.Item) -> None:
        """Wait for a token, if the test needs servers."""
        if any(map(item.get_closest_marker, _ON_SERVERS)):
            self.item = item
            if self.bounds:
                self.held.enter_context(self.bounds.running.one())

    def end(self) -> None:
        """Give it back."""
        self.held.close()
        self.item, self.alone = None, False

    @contextmanager
    def starting(self, scope: str) -> Iterator[None]:
        """Hold a token for starts while a fixture of that *scope* is set up: those of a file or of the run start servers."""
        if self.item is None or self.bounds is None or scope == "function" or self.alone or self._starting:
            yield
            return
        with self.bounds.starting.one():
            self._starting = True
            try:
                yield
            finally:
                self._starting = False

    def take_all(self) -> None:
        """Have the machine for oneself until the test ends. Its own token goes first: nobody waits while he holds one."""
        self.held.close()
        if self.bounds:
            self.held.enter_context(self.bounds.running.all())
        self.alone = True


_turn: Final = _Turn()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold a token for as long as the test runs. The clock of its timeout begins after that."""
    _turn.begin(item)
    try:
        return (yield)
    finally:
        _turn.end()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: "pytest.FixtureDef[Any]", request: pytest.FixtureRequest) -> Iterator[None]:
    """A fixture of a test with real servers that cannot be set up is tried once more, with the machine for itself."""
    try:
        with _turn.starting(request.scope):
            return (yield)
    except Exception as error:
        if _turn.item is None or _turn.alone:
            raise
        _turn.item.user_properties.append((_RETRIED, f"{fixturedef.argname}: {type(error).__name__}: {error}"))
    _turn.take_all()
    return request.node.ihook.pytest_fixture_setup(fixturedef=fixturedef, request=request)  # type: ignore[no-any-return]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Setups that needed a second try: they are no failures, and nobody should get used to them."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for name, text in report.user_properties:
                    if name == _RETRIED:
                        terminalreporter.write_line(f"{report.nodeid}: {_RETRIED}: {text}")


def pytest_sessionfinish() -> None:
    """The end of what all workers share."""
    from tests.support.sandboxes import stop_shared_sandboxes  # unit tests alone need not import it before they begin

    stop_shared_sandboxes()
    turns.end_of_run()
