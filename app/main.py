"""The ASGI application: ``uvicorn app.main:app --timeout-keep-alive 120``, or ``python -m app``.

Three POST routes for each kind of CR, one for Namespaces, and health and metrics. Handlers are pure: body and clock in, body
out, so a call that Metacontroller gave up on may safely run on. Only 200 is obeyed; whatever is wrong is answered 4xx (the
request) or 500 (us), in one line of JSON, because that line ends up in a Kubernetes Event.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response

from app import logs, openapi
from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Observed
from app.hooks import answer, backup, backupschedule, compactbackup, namespace, restore, sound, wire
from app.hooks.kind import Kind
from app.hooks.pieces import Body, Lean, whole
from app.hooks.wire import RequestError
from app.metrics import CONTENT_TYPE, Metrics
from app.settings import Settings

KINDS: Final[Sequence[Kind[Any]]] = (backup.KIND, restore.KIND, backupschedule.KIND, compactbackup.KIND)
_JSON: Final = "application/json"
_SHOWN_PLACES: Final = 20
_IN_THREAD: Final = 512 * 1024
"""Bodies from this size on are handled in a thread, so that a big schedule does not hold up health checks and small CRs."""

_OPTIONS: Final[dict[str, Any]] = {"telemetry": {"tracing": False, "metrics": False, "logs": False}}
"""Metrics are our own, and no SDK that could export anything is installed: FastAPI need not look for one at every request. A
version without that option ignores it."""

GC_THRESHOLD: Final = (50_000, 20, 100)
"""A decoded request is a tree without cycles, and a big one has a million nodes: Python's default thresholds would walk over it
dozens of times, which takes twice as long as decoding it."""

Handle = Callable[[dict[str, Any]], bytes]
"""A decoded request to the body of its answer; raises RequestError."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def error_body(message: str) -> bytes:
    """One line of JSON that says what is wrong."""
    return orjson.dumps({"error": " ".join(message.split())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """How the requests of one route are read: no more than *limit* bytes, and of the children what *lean* keeps."""

    limit: int
    lean: Lean = whole

    async def read(self, request: Request) -> Body:
        """The body of *request*, a big one parsed while it comes in. Raises RequestError when it is too long."""
        announced = request.headers.get("content-length", "")
        too_long = RequestError(413, f"the request body is longer than {self.limit} bytes")
        if announced.isdigit() and int(announced) > self.limit:
            raise too_long
        body = Body(lean=self.lean)
        async for chunk in request.stream():
            if body.add(chunk):
                await asyncio.to_thread(body.work)
            if body.size > self.limit:
                raise too_long
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the handlers share."""

    config: Config
    metrics: Metrics
    clock: Callable[[], datetime]
    log: Any = None
    """None for examples, of which no line is written."""

    def customize(self, kind: Kind[Any], document: dict[str, Any]) -> bytes:
        """Which related objects a CR needs."""
        cr = wire.parent(document, kind.path)
        try:
            rules = answer.plain(kind.related(cr, self.config))
        except Exception:  # noqa: BLE001 - a spec that cannot be read: sync calls it Invalid, a deletion goes on
            rules = answer.plain(kind.related(sound.parent_of(cr, kind.path), self.config))
        return orjson.dumps({"relatedResources": rules}, option=orjson.OPT_SORT_KEYS)

    def decide(self, kind: Kind[Any], document: dict[str, Any], *, finalize: bool) -> bytes:
        """Children and status of a CR."""
        observed = wire.observed(document, kind.path, finalize=finalize)
        decided = sound.decide(kind, observed, self.clock(), self.config)
        if decided.places and self.log is not None:
            cr = f"{kind.path}/{observed.namespace}/{observed.name}"
            self.log.warning("values of a wrong type were left out", cr=cr, places=decided.places[:_SHOWN_PLACES])
        self._note(kind, decided.observed, decided.decision, decided.answer)
        return answer.encode(decided.answer)

    def namespace(self, document: dict[str, Any]) -> bytes:
        """The account that Jobs run as, in a Namespace that asked for it."""
        try:
            return namespace.sync(document, self.config)
        except namespace.NamespaceRequestError as error:
            raise RequestError(422, str(error)) from None

    def _note(self, kind: Kind[Any], observed: Observed, decision: Decision[Any], composed: answer.Answer) -> None:
        """Metrics of the CR, and one log line if the decision changes anything."""
        status = composed.body["status"]
        self.metrics.note(kind.path, observed, status, gone=composed.finalized)
        for drop in decision.drop:
            self.metrics.dropped(drop.kind, drop.rule)
        # Metacontroller writes observedGeneration itself.
        same = {**observed.status, "observedGeneration": None} == {**status, "observedGeneration": None}
        if self.log is None or (same and not composed.created and not decision.drop and not composed.finalized):
            return
        facts: dict[str, Any] = {"cr": f"{kind.path}/{observed.namespace}/{observed.name}"}
        if phase := status.get("phase") or status.get("state"):
            facts["phase"] = phase
        if composed.created:
            facts["create"] = composed.created
        if decision.drop:
            facts["drop"] = [f"{drop.name} ({drop.rule})" for drop in decision.drop]
        if decision.warnings:
            facts["warnings"] = list(decision.warnings)
        self.log.info("let go" if composed.finalized else "finalize" if observed.finalizing else "sync", **facts)


async def _answer(request: Request, handle: Handle, intake: Intake) -> bytes:
    body = await intake.read(request)
    if body.size < _IN_THREAD:
        return handle(wire.decode(body))
    return await asyncio.to_thread(lambda: handle(wire.decode(body)))


async def _respond(request: Request, handle: Handle, intake: Intake, log: Any) -> Response:
    """Answer *request*; every failure becomes one line that may stand in an Event."""
    try:
        return Response(await _answer(request, handle, intake), media_type=_JSON)
    except RequestError as error:
        log.warning("refused", status=error.status, reason=error.message)
        return Response(error_body(error.message), status_code=error.status, media_type=_JSON)
    except answer.AnswerError as error:
        log.error("no answer", reason=str(error))
        return Response(error_body(f"internal error: {error}"), status_code=500, media_type=_JSON)
    except Exception as error:  # noqa: BLE001 - its text may quote a spec, and Starlette would print it
        log.error("no answer", error=type(error).__name__, at=logs.place(error))
        text = f"internal error: {type(error).__name__}; the webhook's log says where"
        return Response(error_body(text), status_code=500, media_type=_JSON)


def _add_hook(app: FastAPI, hook: tuple[str, str], handle: Handle, *, intake: Intake, metrics: Metrics, log: Any) -> None:
    path, operation = hook
    log = log.bind(path=f"/{path}/{operation}")

    async def endpoint(request: Request) -> Response:
        began = time.perf_counter()
        response = await _respond(request, handle, intake, log)
        metrics.answered(path, operation, response.status_code, time.perf_counter() - began)
        return response

    # A plain Starlette route: FastAPI has no parameters to find in a request that is read raw.
    app.add_route(f"/{path}/{operation}", endpoint, methods=["POST"])


def _handlers(service: Service) -> dict[tuple[str, str], Handle]:
    """Every hook, by its path and operation; those first that are called most, for a route is looked for in this order."""
    handlers: dict[tuple[str, str], Handle] = {}
    for kind in KINDS:
        handlers[kind.path, "sync"] = partial(service.decide, kind, finalize=False)
    for kind in KINDS:
        handlers[kind.path, "customize"] = partial(service.customize, kind)
        handlers[kind.path, "finalize"] = partial(service.decide, kind, finalize=True)
    handlers["namespace", "sync"] = service.namespace
    return handlers


@asynccontextmanager
async def _serving(_app: FastAPI) -> AsyncIterator[None]:
    """Set the garbage collector to long-lived code and short-lived trees, while the application is served."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def create_app(settings: Settings | None = None, *, clock: Callable[[], datetime] = _utc_now) -> FastAPI:
    """The application under *settings* (else those of the environment); *clock* tells the present, for tests."""
    settings = settings or Settings()
    log = logs.configure(settings.log_level, settings.log_format)
    metrics, config = Metrics(series_ttl=settings.series_ttl, now=clock), settings.config()
    app = FastAPI(**openapi.APPLICATION, lifespan=_serving, **_OPTIONS)
    # Thousands of children come with a schedule alone.
    intakes = {backupschedule.KIND.path: Intake(limit=settings.max_schedule_body, lean=backupschedule.KIND.lean)}
    for hook, handle in _handlers(Service(config=config, metrics=metrics, clock=clock, log=log)).items():
        intake = intakes.get(hook[0], Intake(limit=settings.max_body))
        _add_hook(app, hook, handle, intake=intake, metrics=metrics, log=log)
    _add_status_routes(app, metrics)
    # The examples are answered by a service of their own, so that they leave no metrics.
    unseen = Service(config=config, metrics=Metrics(series_ttl=settings.series_ttl), clock=lambda: openapi.NOW)
    openapi.describe(app, _handlers(unseen))
    return app


def _add_status_routes(app: FastAPI, metrics: Metrics) -> None:
    async def health() -> Response:
        """Answers as long as the process does."""
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def exposition() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    # The hooks hold no state and need no other service: who answers is ready.
    app.add_api_route("/healthz", health, summary="Alive?", tags=["operation"], response_class=Response)
    app.add_api_route("/readyz", health, summary="Ready?", tags=["operation"], response_class=Response, name="ready")
    app.add_api_route("/metrics", exposition, summary="Metrics", tags=["operation"], response_class=Response)


app = create_app()
