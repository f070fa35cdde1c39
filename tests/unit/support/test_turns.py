"""Never more tests with servers than processors, and a failed setup has the machine for itself."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sandbox.patience import PATIENCE, until
from tests.support.turns import Turns, end_of_run

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[3]


class Crowd:
    """Threads that each want their turn; *inside* holds those that have it, *release* ends one's turn."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.most = 0
        self._lock = threading.Lock()
        self._released: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def enter(self, name: str, turn: Callable[[], AbstractContextManager[None]]) -> None:
        released = self._released[name] = threading.Event()

        def work() -> None:
            with turn():
                with self._lock:
                    self.inside.append(name)
                    self.most = max(self.most, len(self.inside))
                assert released.wait(PATIENCE)
                with self._lock:
                    self.inside.remove(name)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def release(self, name: str) -> None:
        self._released[name].set()

    def end(self) -> None:
        for released in self._released.values():
            released.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def test_no_more_at_once_than_there_are_tokens(tmp_path: Path) -> None:
    turns, crowd = Turns(tmp_path / "turns", 2), Crowd()
    for number in range(5):
        crowd.enter(str(number), turns.one)
    until(lambda: len(crowd.inside) == 2, "two have a turn")
    crowd.release(crowd.inside[0])
    until(lambda: crowd.most == 2 and len(crowd.inside) == 2, "a third one follows")
    crowd.end()
    assert (crowd.most, crowd.inside) == (2, [])


def test_who_wants_all_is_alone_and_is_not_passed_by(tmp_path: Path) -> None:
    turns, crowd = Turns(tmp_path / "turns", 2), Crowd()
    crowd.enter("first", turns.one)
    until(lambda: crowd.inside == ["first"], "the first one has its turn")
    wants = threading.Event()

    def asked() -> AbstractContextManager[None]:
        wants.set()
        return turns.all()

    crowd.enter("alone", asked)
    assert wants.wait(PATIENCE)
    crowd.release("first")
    until(lambda: crowd.inside == ["alone"], "it is alone")
    crowd.enter("late", turns.one)
    crowd.release("alone")
    until(lambda: crowd.inside == ["late"], "the next one follows")
    crowd.end()
    assert crowd.most == 1


def test_a_holder_that_dies_gives_its_token_back(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns", 1)
    holder = "import sys, time; from tests.support.turns import Turns; from pathlib import Path\n"
    holder += "with Turns(Path(sys.argv[1]), 1).one(): print('has it', flush=True); time.sleep(3600)"
    argv = [sys.executable, "-c", holder, str(tmp_path / "turns")]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"has it\n"
    crowd = Crowd()
    crowd.enter("next", turns.one)
    assert crowd.inside == []
    process.kill()
    process.communicate()
    until(lambda: crowd.inside == ["next"], "the next one has it")
    crowd.end()


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours, dead, alive = (tmp_path / f"tidb-backup-turns-{os.getuid()}-{run}" for run in (os.getpid(), 2**30, os.getppid()))
    for folder in (ours, dead, alive):
        Turns(folder / "running", 1)
    end_of_run()
    assert [folder.exists() for folder in (ours, dead, alive)] == [False, False, True]


FLAKY = """
import pytest
from pathlib import Path

pytestmark = pytest.mark.{marker}
tries = []

@pytest.fixture(scope="module")
def servers():
    tries.append(1)
    if len(tries) <= {failures}:
        raise RuntimeError(f"ended before it was ready, try {{len(tries)}}")
    yield "up"

def test_one(servers):
    assert servers == "up"

def test_two(servers):
    assert len(tries) == {failures} + 1
"""


def run(pytester: pytest.Pytester, *, failures: int, marker: str = "e2e") -> pytest.RunResult:
    pytester.makeini("[pytest]\nmarkers = e2e: x\n  unit: x\n")
    pytester.makeconftest("from tests.conftest import *\n")
    pytester.makepyfile(FLAKY.format(failures=failures, marker=marker))
    return pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")


def test_a_setup_that_fails_is_tried_once_more_and_that_is_said(pytester: pytest.Pytester) -> None:
    result = run(pytester, failures=1)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*test_one: setup tried again, alone: servers: RuntimeError: ended before it was ready, try 1"]
    )


def test_a_setup_that_fails_twice_is_an_error(pytester: pytest.Pytester) -> None:
    result = run(pytester, failures=9)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*RuntimeError: ended before it was ready, try 2"])


def test_tests_without_servers_get_no_second_try(pytester: pytest.Pytester) -> None:
    run(pytester, failures=1, marker="unit").assert_outcomes(errors=2)
