"""Whether a tool knows the words of a command line: it is asked, with ``--help`` at the end, before anything is begun.

Which release brought a flag is not known for every build, and some flags are in no help text. But br (cobra) and tikv-ctl
(clap) read a command line up to ``--help`` first, so they refuse what they do not know, and otherwise only print their help.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from backup_manager.errors import PermanentError

_SECONDS: Final = 20
REFUSAL: Final = re.compile(
    r"unknown (?:shorthand )?flag: (?P<cobra>\S+)"
    r"|(?:Found argument|unexpected argument|[Ss]ubcommand|unrecognized subcommand) '(?P<clap>[^']+)'"
)
"""How the two say it; clap's words in its releases 2 and 4."""


def require(argv: Sequence[str], *, needed_by: str, hint: str, env: Mapping[str, str], cwd: Path) -> None:
    """Raises PermanentError when the tool does not know all of *argv*: what it leaves out would change what it does."""
    if missing := unknown(argv, env=env, cwd=cwd):
        raise PermanentError(
            f"this {Path(argv[0]).name} does not know {missing}, which {needed_by} needs", reason="ToolFlagUnknown", hint=hint
        )


def unknown(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> str:
    """The first flag or command of *argv* (with the tool in front) that the tool does not know; empty when it knows all.

    A tool that fails for another reason is not judged: its run will tell.
    """
    try:
        asked = subprocess.run(  # noqa: S603  (argv is a list of ours, no shell reads it)
            [*argv, "--help"], env=env, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = REFUSAL.search(asked.stderr) if asked.returncode else None
    return (found["cobra"] or found["clap"]) if found else ""
