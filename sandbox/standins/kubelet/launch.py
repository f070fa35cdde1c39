"""Runs one container: private mount and process namespaces, a root view made of bind mounts, then the command.

Called as ``python -I -S launch.py SPEC.json``; standard library alone, because it starts before every container. The view is
a tmpfs holding read-only binds of the machine's own directories, with the container's mounts put at their real places, a
``/proc`` and ``/dev`` of its own, and private ``/tmp``. Nothing outside the container's mounts can be written, whatever its
securityContext says. Without root rights a user namespace is made first.

This process stays outside as the parent: it passes SIGTERM on and ends with the command's exit code (128 + signal when it was
killed). When it is killed itself, the kernel kills the whole container with it. Failures before the command runs are written
to ``error`` of the spec, with exit code 128.
"""

import ctypes
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_KEPT_FLAGS: Final = {2: MS_NOSUID, 4: MS_NODEV, 8: MS_NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Flags of statvfs -> flags of mount: a user namespace may not drop them in a remount."""
PR_SET_PDEATHSIG: Final = 1
SETUP_FAILED: Final = 128
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
TEMPORARY: Final = ("/tmp", "/var/tmp")
_OWN: Final = ("/dev", "/proc", *TEMPORARY)
"""Never taken from the machine."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(result, f"mount {source} at {target}")


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Bind *source* (with what is mounted below it) at *target*, which must exist and be of the same sort."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        present = os.statvfs(target).f_flag
        kept = sum(flag for bit, flag in _KEPT_FLAGS.items() if present & bit)
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def isolate() -> None:
    """Enter new mount and process namespaces (the next child is process 1), through a user namespace when not root."""
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWUSER if uid else 0)
    _checked(_libc.unshare(flags), "unshare (are unprivileged user namespaces allowed here?)")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    mount("", "/", flags=MS_REC | MS_PRIVATE)


class View:
    """The root file system of one container, built under *root*."""

    def __init__(self, root: str, mounts: list[dict[str, Any]]) -> None:
        self._root = root
        self._mounts = sorted(mounts, key=lambda item: str(item["target"]))
        self._targets = {item["target"] for item in mounts}
        # These directories are put together entry by entry, since something is mounted below them.
        self._split = {"/"} | {parent for target in {*self._targets, *_OWN} for parent in _parents(target)}

    def build(self, *, read_only: bool) -> None:
        """Make it."""
        mount("tmpfs", self._root, "tmpfs", MS_NODEV | MS_NOSUID, "mode=755")
        for directory in sorted(self._split):
            os.makedirs(self._root + directory, exist_ok=True)
            if not _below(directory, _OWN):
                self._fill(directory)
        self._devices()
        self._processes()
        for temporary in TEMPORARY:
            os.makedirs(self._root + temporary, exist_ok=True)
            os.chmod(self._root + temporary, 0o1777)
        for item in self._mounts:
            self._place(item["source"], item["target"], read_only=item["readOnly"])
        if read_only:
            mount("", self._root, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV | MS_NOSUID)

    def _fill(self, directory: str) -> None:
        for name in _entries(directory):
            path = os.path.join(directory, name)
            if path in self._split or path in self._targets or path in _OWN:
                continue
            # What we may not see, the container need not see either.
            with suppress(OSError):
                if os.path.islink(path):
                    os.symlink(os.readlink(path), self._root + path)
                else:
                    self._place(path, path, read_only=True)

    def _place(self, source: str, target: str, *, read_only: bool) -> None:
        inside = self._root + target
        if stat.S_ISDIR(os.stat(source).st_mode):
            os.makedirs(inside, exist_ok=True)
        elif not os.path.lexists(inside):
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            Path(inside).touch()
        bind(source, inside, read_only=read_only)

    def _devices(self) -> None:
        os.makedirs(f"{self._root}/dev", exist_ok=True)
        for name in _DEVICES:
            with suppress(OSError):
                self._place(f"/dev/{name}", f"/dev/{name}", read_only=False)
        for name, target in _DEVICE_LINKS.items():
            os.symlink(target, f"{self._root}/dev/{name}")
        os.makedirs(f"{self._root}/dev/shm", mode=0o1777, exist_ok=True)
        mount("tmpfs", f"{self._root}/dev/shm", "tmpfs", MS_NODEV | MS_NOSUID, "mode=1777")

    def _processes(self) -> None:
        os.makedirs(f"{self._root}/proc", exist_ok=True)
        try:
            mount("proc", f"{self._root}/proc", "proc", MS_NODEV | MS_NOSUID | MS_NOEXEC)
        except OSError:
            bind("/proc", f"{self._root}/proc", read_only=False)


def _parents(path: str) -> Iterator[str]:
    while (path := os.path.dirname(path)) not in {"", "/"}:
        yield path


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def run(spec: dict[str, Any]) -> int:
    """Run the container described by *spec*; its exit code."""
    isolate()
    # A signal that comes before it can be passed on waits; else the command would be killed by the death of this process.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        _become(spec)
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _: _pass_on(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _become(spec: dict[str, Any]) -> None:
    """Turn this process, number 1 of its namespace, into the container's command. Does not return."""
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        View(spec["root"], spec["mounts"]).build(read_only=spec["readOnlyRoot"])
        error = os.open(spec["error"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.chroot(spec["root"])
        os.chdir(spec["workingDir"])
    except OSError as failure:
        Path(spec["error"]).write_text(str(failure))
        os._exit(SETUP_FAILED)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as failure:
        os.write(error, f"exec {spec['argv'][0]!r}: {failure.strerror}".encode())
    os._exit(SETUP_FAILED)


if __name__ == "__main__":
    raise SystemExit(run(json.loads(Path(sys.argv[1]).read_text())))
