"""The ASGI application, everything on one port, to try it out: ``uvicorn app.main:app --timeout-keep-alive 120``.

A cluster runs ``python -m app``, which serves the same hooks within bounds and with TLS (:mod:`app.server`).
"""

from collections.abc import Callable
from datetime import datetime

from fastapi import FastAPI

from app.routes import Webhook, utc_now
from app.settings import Settings


def create_app(settings: Settings | None = None, *, clock: Callable[[], datetime] = utc_now) -> FastAPI:
    """Hooks, health and metrics under *settings* (else those of the environment); *clock* tells the present, for tests.

    Raises CredentialsError when the file of the tokens cannot be used.
    """
    webhook = Webhook(settings or Settings(), clock=clock)
    app = webhook.hooks_app()
    webhook.add_status_routes(app)
    return app


app = create_app()
