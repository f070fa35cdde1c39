"""Azurite, Microsoft's emulator of Azure Storage, installed once into the user's cache by npm.

It is a package of Node.js and nothing of ours ships it: tests that speak to Azure Blob Storage run against it. Standard library
only.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "3.35.0"
_INSTALL_SECONDS = 600


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/tidb-backup/azurite-<version>``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tidb-backup" / f"azurite-{VERSION}"


def ensure() -> list[str]:
    """The command that starts the blob service; installs it on first use. Raises RuntimeError saying what is missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise RuntimeError("azurite needs Node.js: install `node` and `npm` to run the tests of Azure Blob Storage")
    folder = cache_folder()
    program = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not program.exists():
        _install(npm, folder)
    if not program.exists():
        raise RuntimeError(f"npm installed azurite {VERSION}, but {program} is not there")
    return [node, str(program)]


def _install(npm: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        argv = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", f"azurite@{VERSION}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"npm could not install azurite {VERSION}: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    try:
        sys.stdout.write(" ".join(ensure()) + "\n")
    except RuntimeError as problem:
        sys.exit(f"error: {problem}")
