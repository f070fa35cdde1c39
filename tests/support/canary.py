"""Secrets that betray where they went: each is random and unlike any other text, so that one hit anywhere is a leak.

Nothing here uses the code that masks: a form that it forgets must be found.
"""

import base64
import gzip
import json
import os
import re
import secrets
import shlex
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, quote_plus

from tests.support.argv_exceptions import Allowed, allowed

_POLL: Final = 0.01
_SETTLED: Final = 50
"""A process that was looked at so often has the argv that it keeps: it forked, and then began its program."""
_TOOLS: Final = frozenset({"br", "dumpling", "tidb-lightning", "tikv-ctl"})


def password() -> str:
    """One with what a shell, SQL, a URL, JSON and TOML take for something else."""
    return f" pässwört-日本 {secrets.token_hex(8)} '\"\\&<%41+;#$(x)` "


def key() -> str:
    """One without white space, as keys of a storage are: some stores take any letters in it. It has no double quote: br prints
    the keys of a running log backup as ``"[REDACTED]"``, followed by what comes after the quote."""
    return f"+/='\\,]}}){secrets.token_hex(8)}%41&<é日"


def token() -> str:
    """One that can be sent in a header."""
    return f"+/={secrets.token_hex(8)}/+=="


def hexadecimal() -> str:
    """A cipher key of br, for AES-128."""
    return secrets.token_hex(16)


def forms(secret: str) -> set[str]:
    """*secret* as programs write it, and its random part alone."""
    raw = secret.encode()
    quoted = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    quoted |= {re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text) for text in quoted}
    urls = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    urls |= {quote(url, safe="") for url in urls}  # a URL inside of a URL
    coded = {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
    random = re.search(r"[0-9a-f]{16}", secret)
    return {
        secret,
        shlex.quote(secret),
        *quoted,
        *urls,
        *(url.lower() for url in urls),
        *coded,
        *([random[0]] if random else ()),
    }


class Aviary:
    """All canaries of one test: what each is called in ``docs/secrets.md`` (for those that it names), and its value."""

    def __init__(self, **named: str) -> None:
        self.values = {name.replace("_", " "): value for name, value in named.items()}
        found = {form: name for name, value in self.values.items() for form in forms(value)}
        self._names = {form.encode("utf-8", "surrogateescape"): name for form, name in found.items()}
        self._pattern = re.compile(b"|".join(re.escape(form) for form in sorted(self._names, key=len, reverse=True)))

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def within(self, content: bytes | str) -> set[str]:
        """Names of the canaries in *content*; of packed content too."""
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        if data[:2] == b"\x1f\x8b":
            with suppress(OSError, EOFError):
                data += gzip.decompress(data)
        return {self._names[found] for found in set(self._pattern.findall(data))}

    def under(self, folder: Path) -> dict[str, set[str]]:
        """Files below *folder* with a canary in their name or content."""
        found: dict[str, set[str]] = {}
        for path in folder.rglob("*"):
            with suppress(OSError):
                content = path.read_bytes() if path.is_file() else b""
                if hits := self.within(content) | self.within(str(path.relative_to(folder))):
                    found[str(path.relative_to(folder))] = hits
        return found


@dataclass
class Watch:
    """Looks, while it is entered, at the argv of every process of this machine, at the limits of the tools that were started
    from here, and at the rights of the files in *folders*."""

    aviary: Aviary
    folders: Iterable[Path] = ()
    argv: set[tuple[str, str, str]] = field(default_factory=set)
    """Tool, argument and name of the secret of each that was seen."""
    programs: set[str] = field(default_factory=set)
    core_limits: set[tuple[str, str]] = field(default_factory=set)
    readable: set[str] = field(default_factory=set)
    """Files with a canary that other accounts may read."""

    def __enter__(self) -> Self:
        self._looks: dict[int, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="canary-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def unexpected(self) -> set[tuple[str, str, str]]:
        """What the page does not allow."""
        return {seen for seen in self.argv if Allowed(*seen) not in allowed()}

    def _watch(self) -> None:
        turn = 0
        while not self._end.wait(_POLL):
            there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
            self._looks = {pid: self._looks.get(pid, 0) + 1 for pid in there}
            for pid, looks in self._looks.items():
                if looks <= _SETTLED:
                    with suppress(OSError):
                        self._look(pid)
            turn += 1
            if turn % 10 == 0:
                self._look_at_files()

    def _look(self, pid: int) -> None:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
        words = [word.decode("utf-8", "surrogateescape") for word in content.split(b"\0")]
        tool = program_of(words)
        if tool in _TOOLS and _ours(pid):
            self.programs.add(tool)
            limits = Path(f"/proc/{pid}/limits").read_text()
            self.core_limits |= {(tool, found) for found in re.findall(r"^Max core file size +\S+ +(\S+)", limits, re.M)}
        for index, word in enumerate(words):
            flag = word.partition("=")[0] if word.startswith("-") else words[index - 1] if index else word
            self.argv |= {(tool, flag, name) for name in self.aviary.within(word)}

    def _look_at_files(self) -> None:
        for folder in self.folders:
            for path in folder.rglob("*"):
                with suppress(OSError):
                    if path.is_file() and path.stat().st_mode & 0o077 and self.aviary.within(path.read_bytes()):
                        self.readable.add(path.name)


def program_of(words: list[str]) -> str:
    """The name of the program in an argv: of the script, not of its interpreter. ``cp /br DIR`` is a copy, not br."""
    names = [Path(word).name for word in words[:2]]
    return names[1] if len(names) > 1 and names[0].startswith("python") and names[1] in _TOOLS else names[0]


def _ours(pid: int) -> bool:
    """Whether this process, or one that it started, started *pid*."""
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid > 1
