"""The launcher of containers: namespaces, mounts at their real places, exit codes, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.patience import PATIENCE, until
from sandbox.processes import start_time
from sandbox.standins.kubelet.container import LAUNCHER
from tests.support.process_tree import descendants

pytestmark = pytest.mark.e2e


def spec(tmp_path: Path, script: str, **changes: Any) -> Path:
    (tmp_path / "root").mkdir(exist_ok=True)
    launch = {
        "argv": ["/bin/sh", "-c", script],
        "env": {"PATH": "/usr/bin:/bin"},
        "mounts": [],
        "root": str(tmp_path / "root"),
        "readOnlyRoot": False,
        "workingDir": "/",
        "error": str(tmp_path / "error"),
        **changes,
    }
    path = tmp_path / "launch.json"
    path.write_text(json.dumps(launch))
    return path


def launch(path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    argv = [*(command or (sys.executable, "-I", "-S", str(LAUNCHER))), str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-I", "-S", str(LAUNCHER), str(path)], stdout=subprocess.PIPE, text=True)


def mount(source: Path, target: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"source": str(source), "target": target, "readOnly": read_only}


def test_exit_codes_come_through(tmp_path: Path) -> None:
    assert launch(spec(tmp_path, "exit 0")).returncode == 0
    assert launch(spec(tmp_path, "exit 42")).returncode == 42
    assert (
        launch(spec(tmp_path, "exec sh -c 'ulimit -c 0; kill -9 1; sleep 1; exit 3'")).returncode == 3
    )  # 1 is shielded inside


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    done = launch(spec(tmp_path, "", argv=["/no/such/command"]))
    assert done.returncode == 128
    assert (tmp_path / "error").read_text() == "exec '/no/such/command': No such file or directory"


def test_mounts_at_places_that_do_not_exist_outside(tmp_path: Path) -> None:
    for name in ("data", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret" / "key").write_text("hidden")
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool\n")
    (tmp_path / "tool").chmod(0o755)
    mounts = [
        mount(tmp_path / "data", "/var/lib/some-new/place"),
        mount(tmp_path / "secret", "/sandbox-secret", read_only=True),
        mount(tmp_path / "tool", "/sandbox-tool", read_only=True),
    ]
    script = "set -e; echo x > /var/lib/some-new/place/file; cat /sandbox-secret/key; /sandbox-tool; ls /usr/bin/env"
    script += "; if echo y > /sandbox-secret/key; then exit 9; fi"
    done = launch(spec(tmp_path, script, mounts=mounts))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hiddentool\n/usr/bin/env\n"
    assert (tmp_path / "data" / "file").read_text() == "x\n"
    assert not Path("/var/lib/some-new").exists()
    assert not Path("/sandbox-secret").exists()


def test_the_machine_is_read_only_and_tmp_is_private(tmp_path: Path) -> None:
    script = f"touch {tmp_path}/no 2>/dev/null && exit 1; touch /etc/no 2>/dev/null && exit 2; ls -A /tmp; touch /tmp/yes /yes"
    done = launch(spec(tmp_path, script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""
    assert not Path("/tmp/yes").exists()


def test_a_read_only_root_takes_nothing_but_mounts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script = "touch /yes 2>/dev/null && exit 1; touch /tmp/yes 2>/dev/null && exit 2; touch /data/yes && echo > /dev/null"
    mounts = [mount(tmp_path / "data", "/data")]
    assert launch(spec(tmp_path, script, mounts=mounts, readOnlyRoot=True)).returncode == 0


def test_it_is_process_one_among_its_own(tmp_path: Path) -> None:
    done = launch(spec(tmp_path, "echo $$; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l"))
    first, name, count = done.stdout.split()
    assert (first, name) == ("1", "sh")
    assert int(count) <= 4


def test_sigterm_reaches_the_command(tmp_path: Path) -> None:
    process = start(spec(tmp_path, "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.05; done"))
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE)[0] == "stopping\n"
    assert process.returncode == 7


def test_killing_the_launcher_kills_everything_inside(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    # A grandchild in a session of its own, as a tool that a manager started.
    script = "setsid sh -c 'while :; do date +%s%N > /data/beat; sleep 0.02; done' & echo started; sleep 60"
    process = start(spec(tmp_path, script, mounts=[mount(tmp_path / "data", "/data")]))
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    beat = tmp_path / "data" / "beat"
    until(beat.exists, "the grandchild works")
    inside = descendants(process.pid)
    assert len(inside) >= 3, "shell, grandchild and what they run"
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not any(map(start_time, inside)), "nothing of it is left")
    assert start_time(process.pid) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_works_without_root_rights(tmp_path: Path) -> None:
    """In a user namespace. Everything it needs is put where another user can read it."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    candidates = [str(Path(sys.executable).resolve()), "/usr/bin/python3", "/usr/local/bin/python3"]
    readable = [path for path in candidates if subprocess.run([*nobody, "test", "-x", path], check=False).returncode == 0]
    if not readable:
        pytest.skip("no Python here that another user may run")
    place = Path("/var/tmp") / f"sandbox-launch-{os.getpid()}"
    (place / "data").mkdir(parents=True)
    try:
        launcher = shutil.copy(LAUNCHER, place / "launch.py")
        path = spec(place, "id -u; echo x > /data/file; cat /proc/1/comm", mounts=[mount(place / "data", "/data")])
        for item in (place, *place.rglob("*")):
            os.chown(item, 65534, 65534)
        done = launch(path, *nobody, readable[0], "-I", "-S", str(launcher))
        error = place / "error"
        assert done.returncode == 0, done.stderr + (error.read_text() if error.exists() else "")
        assert done.stdout.split() == ["0", "sh"]
        assert (place / "data" / "file").read_text() == "x\n"
    finally:
        shutil.rmtree(place)
