"""Running a tool: streams, long lines, memory, signals, and what is left behind (nothing)."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_manager import log_lines
from backup_manager.errors import RunInterruptedError, ToolError
from backup_manager.masking import LEFT_OUT, Masker
from backup_manager.signals import StopSignal
from backup_manager.tools import process
from backup_manager.tools.process import ProcessResult, Stream
from sandbox.patience import PATIENCE, until
from tests.support.fake_tool import FakeTool, alive


def run(
    tool: Path, *, stop: StopSignal | None = None, on_up: Callable[[], None] | None = None, grace: float = PATIENCE
) -> tuple[ProcessResult, list[tuple[Stream, str]], list[str]]:
    """How *tool* ended, its lines, and ours. As soon as it says that it is ``up``, *on_up* is called, else *stop* requested."""
    seen: list[tuple[Stream, str]] = []
    logged: list[str] = []

    def on_line(stream: Stream, line: str) -> None:
        seen.append((stream, line))
        if stop and line == "up":
            (on_up or stop.request)()

    ended = process.run(
        [str(tool), "--password=hunter22"],
        env={"PATH": os.environ["PATH"]},
        stop=stop or StopSignal(),
        mask=Masker(["hunter22"]),
        log=logged.append,
        on_line=on_line,
        grace=grace,
    )
    return ended, seen, logged


def test_lines_of_both_streams_arrive_with_their_names(tmp_path: Path) -> None:
    tool = FakeTool(folder=tmp_path).install("tool", out=["a", "b\r"], err=["c"], code=3)
    ended, seen, _ = run(tool)
    assert (ended.code, ended.how) == (3, "ended with exit status 3")
    assert [line for stream, line in seen if stream is Stream.OUT] == ["a", "b"]
    assert [line for stream, line in seen if stream is Stream.ERR] == ["c"]
    assert (ended.out, ended.err) == (("a", "b"), ("c",))


def test_a_line_of_5_mib_is_passed_over_and_those_after_it_arrive(tmp_path: Path) -> None:
    long = "x" * (5 * 1024 * 1024)
    script = tmp_path / "long"
    script.write_text(f"#!{sys.executable} -S\nimport sys\nsys.stdout.write('x' * {len(long)} + '\\nlast, without its end')\n")
    script.chmod(0o755)
    ended, seen, logged = run(script)
    (_, begun), (_, last) = seen
    assert long.startswith(begun)
    assert log_lines.LONGEST <= len(begun) < log_lines.LONGEST + log_lines.SIZE
    assert last == "last, without its end"
    assert [line for line in logged if line.endswith(LEFT_OUT)] == [logged[1]]
    assert max(len(line) for line in ended.out) == 2000


def test_a_secret_in_a_line_without_end_is_not_printed(tmp_path: Path) -> None:
    """The line is cut amid the secret; neither its beginning nor its end is shown."""
    before = log_lines.LONGEST - 20
    script = tmp_path / "long"
    script.write_text(f"#!{sys.executable} -S\nimport sys\nsys.stdout.write('x ' * {before // 2} + 'hunter22 ' * 100_000)\n")
    script.chmod(0o755)
    ended, _, logged = run(script)
    assert "hunt" not in "".join((*logged, *ended.out))
    assert "er22" not in "".join((*logged, *ended.out))


def test_secrets_are_masked_in_the_log_and_the_tails_but_not_for_the_handler(tmp_path: Path) -> None:
    tool = FakeTool(folder=tmp_path).install("tool", out=["connecting with hunter22"])
    ended, seen, logged = run(tool)
    assert "hunter22" not in "".join((*logged, *ended.out))
    assert "--password=******" in logged[0]
    assert seen == [(Stream.OUT, "connecting with hunter22")]


def test_memory_stays_flat_on_a_huge_log(tmp_path: Path) -> None:
    script = tmp_path / "chatty"
    script.write_text(
        f"#!{sys.executable} -S\nimport sys\nline = '[2026/01/01] [INFO] [x.go:1] [message] ' + 'y' * 4000 + '\\n'\n"
        "for _ in range(20): sys.stdout.write(line * 1250)\n"
    )
    script.chmod(0o755)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 0

    def one(_stream: Stream, _line: str) -> None:
        nonlocal count
        count += 1

    ended = process.run(
        [str(script)], env={}, stop=StopSignal(), mask=Masker(["secret-value"]), log=lambda _: None, on_line=one
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (ended.code, count) == (0, 25_000)
    assert grown < 20 * 1024, f"{grown} KiB more for a log of 100 MB"


def test_sigterm_is_forwarded_and_the_tool_ends_first(tmp_path: Path) -> None:
    stop = StopSignal()
    tool = FakeTool(folder=tmp_path).install("tool", out=["up"], sleep=2 * PATIENCE, term_says="bye", term_code=0)
    ended, seen, _ = run(tool, stop=stop)
    assert ended.stopped
    assert seen[-1] == (Stream.OUT, "bye")


def test_a_tool_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    stop = StopSignal()
    tool = FakeTool(folder=tmp_path).install("tool", out=["up"], sleep=2 * PATIENCE, ignore_term=True)
    ended, _, _ = run(tool, stop=stop, grace=0.5)
    assert ended.killed_by is signal.SIGKILL
    assert ended.stopped


def test_a_tool_gets_no_more_time_than_the_pod_has_left(tmp_path: Path) -> None:
    """A grace period of half a second, of which a tool may use a third: it is killed long before its own 3600 s."""
    stop = StopSignal(grace=0.5)
    tool = FakeTool(folder=tmp_path).install("tool", out=["up"], sleep=2 * PATIENCE, ignore_term=True)
    ended, _, logged = run(tool, stop=stop, on_up=stop.terminate, grace=3600)
    assert ended.killed_by is signal.SIGKILL
    assert any("SIGKILL in 0 s" in line for line in logged)


def test_the_drain_of_a_stopped_tool_stays_within_its_share() -> None:
    """Both pipes held open by a grandchild: two waits for both together, not four."""
    waited: list[float] = []

    class Reader(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            waited.append(timeout or 0.0)

        def is_alive(self) -> bool:
            return True

    now = [0.0]
    stop = StopSignal(grace=60, clock=lambda: now[0])
    stop.terminate()
    now[0] = 26.0  # the tool took all that it may
    gone = subprocess.Popen(["true"], process_group=0)
    gone.wait()
    process._settle(gone, [Reader(), Reader()], stop)
    assert max(waited[:2]) <= 2.0
    assert max(waited[2:]) <= 4.0


def test_a_stop_before_the_start_starts_nothing(tmp_path: Path) -> None:
    fake, stop = FakeTool(folder=tmp_path), StopSignal()
    stop.request()
    with pytest.raises(RunInterruptedError):
        run(fake.install("tool"), stop=stop)
    assert fake.called("tool") == []


def test_a_tool_killed_by_the_system_says_so(tmp_path: Path) -> None:
    ended, _, _ = run(FakeTool(folder=tmp_path).install("tool", kill_itself=signal.SIGKILL))
    assert ended.killed_by is signal.SIGKILL
    assert "want of memory" in ended.how


def test_a_grandchild_that_keeps_the_pipe_does_not_hang_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_DRAIN_SECONDS", 0.3)
    script = tmp_path / "parent"
    pid_file = tmp_path / "pid"
    script.write_text(f"#!/bin/sh\nsleep 3600 &\necho $! > {pid_file}\nexit 0\n")
    script.chmod(0o755)
    ended, _, _ = run(script)
    assert ended.code == 0
    until(lambda: not alive(int(pid_file.read_text())), "the grandchild is gone, an hour before its own end")


def test_the_tool_dies_with_a_manager_that_is_killed(tmp_path: Path) -> None:
    fake = FakeTool(folder=tmp_path)
    tool = fake.install("tool", out=["up"], sleep=3600)
    code = (
        "from backup_manager.tools import process\nfrom backup_manager.signals import StopSignal\n"
        "from backup_manager.masking import Masker\n"
        f"process.run([{str(tool)!r}], env={{}}, stop=StopSignal(), mask=Masker(), log=lambda l: None)\n"
    )
    manager = subprocess.Popen([sys.executable, "-c", code])
    called = until(lambda: fake.called("tool") or manager.poll() is not None, "the tool runs")
    assert called is not True, "the manager ended before it ran the tool"
    pid = called[0]["pid"]
    assert alive(pid)
    manager.kill()
    manager.wait()
    until(lambda: not alive(pid), "the tool is gone")


def test_a_missing_tool_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        process.find_tool("dumpling", "/nowhere", {"PATH": str(tmp_path)})
    problem = caught.value.problem()
    assert (problem.reason, problem.retryable) == ("ToolMissing", False)
    assert "spec.toolImage" in problem.hint


def test_the_folder_of_the_init_container_comes_before_path(tmp_path: Path) -> None:
    copied = FakeTool(folder=tmp_path / "bin").install("br")
    FakeTool(folder=tmp_path / "path").install("br")
    assert process.find_tool("br", str(tmp_path / "bin"), {"PATH": str(tmp_path / "path")}) == str(copied)
    assert process.find_tool("br", "/nowhere", {"PATH": str(tmp_path / "path")}) == str(tmp_path / "path" / "br")


def test_a_file_that_is_no_program_is_told_in_words(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\x7fELFnonsense")
    bad.chmod(0o755)
    with pytest.raises(ToolError) as caught:
        run(bad)
    assert caught.value.problem().reason == "ToolNotStarted"


def test_a_handler_that_fails_does_not_stop_the_tool(tmp_path: Path) -> None:
    def broken(_stream: Stream, _line: str) -> None:
        raise ValueError("misread")

    logged: list[str] = []
    tool = FakeTool(folder=tmp_path).install("tool", out=["one", "two"])
    ended = process.run([str(tool)], env={}, stop=StopSignal(), mask=Masker(), log=logged.append, on_line=broken)
    assert ended.code == 0
    assert sum("could not read a line" in line for line in logged) == 2


def test_a_password_with_a_quote_is_masked_before_the_command_line_is_quoted() -> None:
    logged = list[str]()
    argv = ["/bin/true", "--password=it's-a-SecretTail-987", "--crypter.key", "0123abcd", "it's-a-SecretTail-987"]
    process.run(argv, env={}, stop=StopSignal(), mask=Masker(["it's-a-SecretTail-987"]), log=logged.append)
    assert "SecretTail" not in "\n".join(logged)
    assert "0123abcd" not in "\n".join(logged)
