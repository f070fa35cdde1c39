"""``python -m app``: serve the webhook as the settings say."""

import argparse

import uvicorn

from app.settings import Settings

KEEP_ALIVE = 120
"""Seconds. Metacontroller keeps an idle connection for 90: closed any earlier, it might be just about to use it."""


def main() -> None:
    """Serve until told to stop. There are no arguments: ``--help`` lists the settings."""
    argparse.ArgumentParser(
        prog="python -m app",
        description="Serve the Metacontroller hooks. Every setting is an environment variable:",
        epilog="\n".join(f"  TIDB_BACKUP_{name.upper()}={field.default}" for name, field in Settings.model_fields.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    settings = Settings()
    uvicorn.run(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        timeout_keep_alive=KEEP_ALIVE,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
