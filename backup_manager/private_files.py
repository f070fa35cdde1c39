"""Files that only this account may read: what a tool must be told and nobody else may know."""

import os
from pathlib import Path

from backup_manager.errors import UsageError


def write(path: Path, text: str) -> Path:
    """*path*, which now holds *text*. Never through a link that somebody put there. Raises UsageError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="The manager needs a writable temporary folder."
        ) from None
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return path
