"""A process that may know a password, a token or a key leaves no core file, whatever limit it is started with."""

import resource
import subprocess
import sys

import pytest

_RAISE = "import resource as r, sys; r.setrlimit(r.RLIMIT_CORE, (r.getrlimit(r.RLIMIT_CORE)[1],) * 2)"
_SHOW = "print(r.getrlimit(r.RLIMIT_CORE))"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("app.__main__", []),  # ends for a wrong setting
        ("rotator.__main__", ["--life-days=1", "--renew-days=1"]),  # ends for wrong arguments
        ("cli.main", ["plan", "--help"]),
    ],
)
def test_it_forbids_core_files_before_it_knows_a_secret(module: str, words: list[str]) -> None:
    """In a process of its own: the limit cannot be raised again."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core files are forbidden here for every process")
    code = (
        f"{_RAISE}\nsys.argv = ['it', *{words!r}]\nfrom {module} import main\ntry:\n  main()\nexcept SystemExit: pass\n{_SHOW}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"TIDB_BACKUP_PORT": "none"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "(0, 0)"
