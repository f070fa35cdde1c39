"""The stand-ins of the sandbox against the real br: where they hand over, what they refuse; they cannot drift from it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backup_manager.tools import br, flag_probe
from backup_manager.tools.tikv_ctl import CompactionOutput, Shard, Work
from sandbox.patience import PATIENCE
from sandbox.standins.kubelet.images import STAND_INS, find_image
from tests.support.servers import ROOT, tool

pytestmark = pytest.mark.integration

STAND_IN = str(STAND_INS / "br.py")
TIKV_CTL = str(STAND_INS / "tikv_ctl.py")
PHASE = ["restore", "point", *br.replication(1)]
TIMES = (100, 101, 102, 103, 104)


@pytest.fixture
def env() -> dict[str, str]:
    """As the node agent gives it: the real tools and this Python first on PATH."""
    path = os.pathsep.join([str(Path(tool("br")).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path}


def run(argv: list[str], env: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(
    ("words", "real", "stand_in"),
    [
        (["restore", "point", "--full-backup-storage=local:///b", "--restored-ts=1", "--start-ts=1"], "", ""),
        (["restore", "point", "--pitr-concurrency=1024", "--metadata-download-batch-size=512"], "", ""),
        (PHASE, "--restore-phase", ""),
        (["restore", "point", "--retain-latest-mvcc-version"], "--retain-latest-mvcc-version", "--retain-latest-mvcc-version"),
        (["restore", "point", "--nonsense"], "--nonsense", "--nonsense"),
        ([*PHASE, "--nonsense=1"], "--restore-phase", "--nonsense"),
        ([*PHASE, "--timeago=5m"], "--restore-phase", "--timeago"),
        (["abort", "restore", "full", "--filter=a.*", "--pd=p:1"], "--filter", ""),
        (["abort", "restore", "full", "--restored-ts=1"], "--restored-ts", "--restored-ts"),
        (["abort", "restore", "db", "--filter=a.*"], "--filter", "--filter"),
    ],
)
def test_what_either_refuses(env: dict[str, str], tmp_path: Path, words: list[str], real: str, stand_in: str) -> None:
    assert flag_probe.unknown([tool("br"), *words], env=env, cwd=tmp_path) == real
    assert flag_probe.unknown([STAND_IN, *words], env=env, cwd=tmp_path) == stand_in


def said(run: subprocess.CompletedProcess[str]) -> str:
    """The start of what it complained of; the log's name tells the second, which may be the next one's."""
    return re.sub(r"br\.log\.\S+", "br.log", run.stderr.replace("\n", ""))[:90]


def test_every_other_word_is_the_real_one_s(env: dict[str, str], tmp_path: Path) -> None:
    for words in (["--version"], ["restore", "point", "--nonsense"], ["log", "metadata", "--storage=local:///absent"]):
        mine, its = (run([binary, *words], env, tmp_path) for binary in (STAND_IN, tool("br")))
        assert mine.returncode == its.returncode
        assert said(mine) == said(its)


def test_abort_does_nothing_and_says_so(env: dict[str, str], tmp_path: Path) -> None:
    words = [STAND_IN, "abort", "restore", "full", "--pd=127.0.0.1:1", "--storage=local:///absent"]
    done = run(words, env, tmp_path)
    assert done.returncode == 0
    assert "nothing was removed" in done.stdout
    failed = run(words, {**env, "STAND_IN_FAIL": "abort"}, tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: stand-in: told to fail")
    real = run([tool("br"), *words[1:4]], env, tmp_path)  # help and exit code 0: that is why the manager looks at what it says
    assert (real.returncode, "Usage:" in real.stdout) == (0, True)


def test_a_phase_that_is_none_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    for words in (["--restore-phase=3", "--full-backup-storage=local:///b"], ["--restore-phase=1"]):
        done = run([STAND_IN, "restore", "point", *words], env, tmp_path)
        assert done.returncode == 1
        assert "none of the two phases" in done.stderr


def test_a_signal_reaches_the_real_br(env: dict[str, str], tmp_path: Path) -> None:
    """It has become the real br: same process, same manners."""
    argv = [STAND_IN, "restore", "full", "--pd=127.0.0.1:1", "--storage=local:///absent"]
    environment = {**env, "BR_LOG_TO_TERM": "1"}
    process = subprocess.Popen(argv, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "Welcome to Backup" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "gracefully shutting down" in err


@pytest.mark.parametrize(
    "work",
    [
        Work(since=1, until=2, concurrency=4, name="weekly"),
        Work(since=1, until=0, concurrency=4, shard=Shard(index=1, count=3, cache="150Gi")),
    ],
)
def test_our_command_lines_for_tikv_ctl(env: dict[str, str], tmp_path: Path, work: Work) -> None:
    """Only against the stand-in: there is no real tikv-ctl here."""
    assert flag_probe.unknown([TIKV_CTL, *work.argv("x")], env=env, cwd=tmp_path) == ""
    assert flag_probe.unknown([TIKV_CTL, *work.argv("x"), "--nonsense"], env=env, cwd=tmp_path) == "--nonsense"
    assert flag_probe.unknown([TIKV_CTL, *work.argv("x"), "--shards", "1/2"], env=env, cwd=tmp_path) == "--shards"


def test_shards_share_a_folder_that_the_real_br_described(env: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    (log / "v1/stand-in").mkdir(parents=True)
    for at in (99, *TIMES, 105):
        (log / f"v1/stand-in/{at}.log").write_text("x" * at)
    storage = run([tool("br"), "operator", "base64ify", f"--storage=local://{log}"], env, tmp_path).stdout.strip()
    for index in range(2):
        work = Work(since=100, until=104, concurrency=1, shard=Shard(index=index, count=2))
        done = run([TIKV_CTL, *work.argv(storage)], env, tmp_path)
        assert done.returncode == 0, done.stderr
        heard = CompactionOutput()
        for line in done.stderr.splitlines():
            heard.line(line)
        assert heard.end == (104, 103)[index]
        assert heard.compacted[0] == heard.compacted[1] > 0
    made = {path.name: path.read_text() for path in log.rglob("*.sst")}
    assert made == {f"{at}-{place % 2 + 1}.sst": "x" * at for place, at in enumerate(TIMES)}
    wrong = run([TIKV_CTL, *work.argv("bm8=")], env, tmp_path)
    assert wrong.returncode == 1
    assert "Compaction aborted." in wrong.stderr


def test_nothing_but_the_node_agent_knows_them() -> None:
    assert find_image("registry:5000/stand-in-br:v1").files == {"/br": STAND_INS / "br.py"}
    for file in ("Dockerfile", "docker-compose.yml"):
        assert "stand" not in (ROOT / file).read_text().replace("standalone", "")
    for folder in ("app", "backup_manager", "crds", "cli", "metacontroller"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert "stand_in_br" not in text, path
            assert "standins" not in text, path
