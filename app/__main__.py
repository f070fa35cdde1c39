"""``python -m app``: serve the webhook as the settings say."""

import uvicorn

from app.settings import Settings

KEEP_ALIVE = 120
"""Seconds. Metacontroller keeps an idle connection for 90: closed any earlier, it might be just about to use it."""


def main() -> None:
    """Serve until told to stop."""
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
