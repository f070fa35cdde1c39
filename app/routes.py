"""The routes of the webhook: three POST routes for each kind of CR, one for Namespaces; and health and metrics.

Only 200 is obeyed by Metacontroller. Whatever is wrong is answered 4xx (the request), 503 (no room) or 500 (us), in one line of
JSON, because that line ends up in a Kubernetes Event.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response

from app import logs, openapi
from app.credentials import Certificate, Tokens, watch
from app.hooks import backupschedule
from app.hooks import request as wire
from app.hooks import response as answer
from app.hooks.request import RequestError
from app.intake import Bodies, BodyReader, CallerGone, Share
from app.metrics import CONTENT_TYPE, Metrics
from app.service import Handle, Service, handlers
from app.settings import Settings

CONNECTION: Final = "tidb_backup.connection"
"""Key of the ASGI scope under which ``python -m app`` hands over the connection: ``trusted`` is set on it."""
_JSON: Final = "application/json"
_IN_THREAD: Final = 512 * 1024
"""Bodies from this size on are handled in a thread, so that a big schedule does not hold up small CRs."""
_UNAUTHORIZED: Final = 401
_GONE: Final = 499
"""What is counted for a caller that closed its connection; nobody gets it."""

_OPTIONS: Final[dict[str, Any]] = {"telemetry": {"tracing": False, "metrics": False, "logs": False}}
"""Metrics are our own, and no SDK that could export anything is installed: FastAPI need not look for one at every request. A
version without that option ignores it."""

GC_THRESHOLD: Final = (50_000, 20, 100)
"""A decoded request is a tree without cycles, and a big one has a million nodes: Python's default thresholds would walk over it
dozens of times, which takes twice as long as decoding it."""


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


def error_body(message: str) -> bytes:
    """One line of JSON that says what is wrong."""
    return orjson.dumps({"error": " ".join(message.split())})


class Webhook:
    """The webhook under *settings*; *clock* tells the present, for tests. Raises CredentialsError when the file of the tokens
    cannot be used."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings = settings
        self.log = logs.configure(settings.log_level, settings.log_format)
        self.metrics = Metrics(series_ttl=settings.series_ttl, max_crs=settings.max_crs, now=clock)
        self.tokens = Tokens(settings.token_file) if settings.token_file else None
        self.certificate: Certificate | None = None
        """Set by whoever serves it; renewed with the tokens."""
        self._bodies = Bodies(settings.max_bodies)
        self._service = Service(config=settings.config(), metrics=self.metrics, clock=clock, log=self.log)

    def hooks_app(self) -> FastAPI:
        """An application with the hooks alone, and their documentation where everybody may call them."""
        open_to_all = self.tokens is None
        app = FastAPI(
            **openapi.APPLICATION,
            lifespan=self._serving,
            docs_url="/docs" if open_to_all else None,
            redoc_url="/redoc" if open_to_all else None,
            openapi_url="/openapi.json" if open_to_all else None,
            **_OPTIONS,
        )
        self._add_hooks(app)
        return app

    def _add_hooks(self, app: FastAPI) -> None:
        settings = self.settings
        usual = partial(BodyReader, seconds=settings.body_timeout, bodies=self._bodies)
        others = usual(limit=settings.max_body)
        # Thousands of children come with a schedule alone.
        readers = {backupschedule.KIND.path: usual(limit=settings.max_schedule_body, lean=backupschedule.KIND.lean)}
        for hook, handle in handlers(self._service).items():
            self._add_hook(app, hook, handle, readers.get(hook[0], others))
        # The examples are answered by a service of their own, so that they leave no metrics.
        metrics = Metrics(series_ttl=settings.series_ttl, max_crs=settings.max_crs)
        openapi.describe(app, handlers(Service(config=settings.config(), metrics=metrics, clock=lambda: openapi.NOW)))

    def _add_hook(self, app: FastAPI, hook: tuple[str, str], handle: Handle, reader: BodyReader) -> None:
        path, operation = hook
        log, answered = self.log.bind(path=f"/{path}/{operation}"), self.metrics.answered

        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            response = await self._respond(request, handle, reader, log)
            answered(path, operation, response.status_code, time.perf_counter() - began)
            return response

        # A plain Starlette route: FastAPI has no parameters to find in a request that is read raw.
        app.add_route(f"/{path}/{operation}", endpoint, methods=["POST"])

    async def _respond(self, request: Request, handle: Handle, reader: BodyReader, log: Any) -> Response:
        """Answer *request*; every failure becomes one line that may stand in an Event."""
        try:
            self._check_caller(request)
            return Response(await _answer(request, handle, reader), media_type=_JSON)
        except RequestError as error:
            if error.status != _UNAUTHORIZED:  # counted alone: a stranger must not fill the log
                log.warning("refused", status=error.status, reason=error.message)
            return Response(error_body(error.message), error.status, error.headers, _JSON)
        except CallerGone:
            return Response(status_code=_GONE)
        except answer.AnswerError as error:
            log.error("no answer", reason=str(error))
            return Response(error_body(f"internal error: {error}"), status_code=500, media_type=_JSON)
        except Exception as error:  # noqa: BLE001 - its text may quote a spec, and Starlette would print it
            log.error("no answer", error=type(error).__name__, at=logs.place(error))
            text = f"internal error: {type(error).__name__}; the webhook's log says where"
            return Response(error_body(text), status_code=500, media_type=_JSON)

    def _check_caller(self, request: Request) -> None:
        """Before a byte of the body is read. Raises RequestError."""
        if self.tokens is None:
            return
        if not self.tokens.accept(request.scope["headers"]):
            text = "this hook answers Metacontroller alone: the header Authorization has no accepted token"
            raise RequestError(_UNAUTHORIZED, text, {"WWW-Authenticate": "Bearer"})
        if connection := request.scope.get(CONNECTION):
            connection.trusted = True

    @asynccontextmanager
    async def _serving(self, _app: FastAPI) -> AsyncIterator[None]:
        """Set the garbage collector to long-lived code and short-lived trees, and keep the credentials fresh, while the hooks
        are served."""
        if self.tokens is None:
            self.log.warning("the hooks answer everybody who reaches them; set TIDB_BACKUP_TOKEN_FILE to a file with a token")
        watching = asyncio.create_task(watch([part for part in (self.tokens, self.certificate) if part], self.log))
        thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        yield
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    def add_status_routes(self, app: FastAPI, *, ready: Callable[[], bool] = lambda: True) -> None:
        """Put ``/healthz``, ``/readyz`` and ``/metrics`` into *app*. The hooks need no other service: they are ready while they
        listen, which *ready* tells."""

        async def health() -> Response:
            """Answers as long as the process does."""
            return Response(b'{"status":"ok"}', media_type=_JSON)

        async def readiness() -> Response:
            """200 while the hooks take requests, else 503."""
            if ready():
                return Response(b'{"status":"ok"}', media_type=_JSON)
            return Response(error_body("the hooks do not listen"), status_code=503, media_type=_JSON)

        def exposition() -> Response:
            """Metrics in the text format of Prometheus."""
            return Response(self.metrics.exposition(), media_type=CONTENT_TYPE)

        for path, endpoint, summary in (
            ("/healthz", health, "Alive?"),
            ("/readyz", readiness, "Ready?"),
            # No coroutine: thousands of series are written in another thread.
            ("/metrics", exposition, "Metrics"),
        ):
            app.add_api_route(path, endpoint, summary=summary, tags=["operation"], response_class=Response)


async def _answer(request: Request, handle: Handle, reader: BodyReader) -> bytes:
    share = Share()
    try:
        body = await reader.read(request, share)
        if body.size < _IN_THREAD:
            return handle(wire.decode(body))
        return await asyncio.to_thread(lambda: handle(wire.decode(body)))
    finally:
        if share.counted:
            reader.bodies.release(share)
