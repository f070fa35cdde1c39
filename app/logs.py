"""Logging of the webhook: one line for each decision that changes something, never a body, never a secret."""

import logging
import sys
import traceback
from typing import Any, Final, Literal, TextIO, cast

import structlog

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Stderr:
    """Whatever ``sys.stderr`` is when a line is written."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(level: Literal["debug", "info", "warning", "error"], style: Literal["auto", "json", "plain"]) -> Any:
    """Set the log up and return it: JSON lines on stderr, or plain text where *style* says so or a terminal listens."""
    plain = style == "plain" or (style == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if plain else structlog.processors.JSONRenderer(sort_keys=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger()


def place(error: BaseException) -> list[str]:
    """Where *error* came from, as ``file:line function``, innermost last. Its text is left out: it may quote a spec."""
    return [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
