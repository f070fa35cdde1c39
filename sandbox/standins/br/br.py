#!/usr/bin/env python3
"""A br that is newer than the sandbox's real one: it hands every call to that, in words that the real one knows.

==================================== ==================================================================================
call                                 what is run
==================================== ==================================================================================
``restore point --restore-phase=1``  ``restore point`` of the base snapshot, to the first moment after it
``restore point --restore-phase=2``  ``restore point --start-ts``: that moment
``abort restore <type>``             nothing: it says so, and ends well. ``STAND_IN_FAIL=abort``: it fails
anything else                        itself
==================================== ==================================================================================

Flags that the real br does not know are refused by it, before anything is done. A file of its own, standard library alone: an
init container copies it away from here. The real br is the one on PATH.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn

PHASE = "--restore-phase"
NEWER = (PHASE, "--retain-latest-mvcc-version")
"""Flags of ``restore point`` that the real br does not know, only taken together."""
_TIME = re.compile(r"^\d{15,}$", re.MULTILINE)


def main(argv: Sequence[str]) -> int:
    """Run; the exit code of what was not handed over."""
    if argv[:2] == ["abort", "restore"]:
        return abort(argv[2:])
    phase = value(argv, PHASE)
    if argv[:2] == ["restore", "point"] and phase:
        return restore_phase(phase, [flag for flag in argv[2:] if flag.partition("=")[0] not in NEWER])
    hand_over(argv)


def restore_phase(phase: str, flags: Sequence[str]) -> int:
    """One of the two phases of a restore beside a compaction."""
    base = value(flags, "--full-backup-storage")
    if "--help" in flags:
        hand_over(["restore", "point", *flags])
    if phase not in {"1", "2"} or not base:
        return fail(f'--restore-phase={phase} with --full-backup-storage="{bool(base)}" is none of the two phases')
    after = snapshot_time(base, flags) + 1
    end = f"--restored-ts={after}" if phase == "1" else f"--start-ts={after}"
    given = "--restored-ts" if phase == "1" else "--full-backup-storage"
    hand_over(["restore", "point", *(flag for flag in flags if flag.partition("=")[0] != given), end])


def snapshot_time(base: str, flags: Sequence[str]) -> int:
    """Of which moment the snapshot is, as the real br reads it."""
    storage = [flag for flag in flags if flag.startswith(("--s3.", "--gcs.", "--azblob."))]
    asked = subprocess.run(
        [real(), "debug", "decode", "--field=end-version", f"--storage={base}", *storage],
        capture_output=True,
        text=True,
        check=False,
    )
    found = _TIME.findall(asked.stdout)
    if asked.returncode or not found:
        sys.stderr.write(asked.stderr)
        raise SystemExit(asked.returncode or fail("no end-version in the base snapshot"))
    return int(found[-1])


def abort(words: Sequence[str]) -> int:
    """``br abort restore <type>``: the flags must be those of ``br restore <type>``."""
    checked = subprocess.run([real(), "restore", *words, "--help"], capture_output=True, text=True, check=False)
    if checked.returncode:
        sys.stdout.write(checked.stdout)
        sys.stderr.write(checked.stderr)
        return checked.returncode
    if os.environ.get("STAND_IN_FAIL") == "abort":
        return fail("stand-in: told to fail: [BR:Common:ErrUndefinedRestoreDbOrTable]abort of the restore failed")
    log("INFO", f"stand-in for br abort restore {words[0]}: nothing was looked for, nothing was removed")
    return 0


def value(argv: Sequence[str], flag: str) -> str:
    """The value of ``flag=value``; empty without it."""
    return next((rest for name, _, rest in (item.partition("=") for item in argv) if name == flag), "")


def real() -> str:
    """The real br."""
    found = shutil.which("br")
    if not found or os.path.realpath(found) == os.path.realpath(__file__):
        raise SystemExit(fail("stand-in: the real br is not on PATH"))
    return found


def hand_over(argv: Sequence[str]) -> NoReturn:
    """Become the real br: its output, its exit code, its way with signals."""
    os.execv(real(), ["br", *argv])


def fail(message: str) -> int:
    """Say in br's way why nothing comes of it."""
    log("ERROR", "br failed", error=message)
    sys.stderr.write(f"Error: {message}\n")
    return 1


def log(level: str, message: str, **fields: str) -> None:
    """One line of br's log."""
    now = datetime.now(UTC).strftime("%Y/%m/%d %H:%M:%S.%f")[:-3]
    told = "".join(f' [{name}="{text}"]' for name, text in fields.items())
    sys.stdout.write(f'[{now} +00:00] [{level}] [stand_in_br.py:1] ["{message}"]{told}\n')
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
