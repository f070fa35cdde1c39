"""What each hook does with a decoded request: CR and children in, body of the answer out.

Handlers are pure but for the clock, so a call that Metacontroller gave up on may safely run on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import orjson

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Observed
from app.hooks import backup, backupschedule, compactbackup, namespace, restore, sanitize
from app.hooks import request as wire
from app.hooks import response as answer
from app.hooks.request import RequestError
from app.hooks.resource import Kind
from app.metrics import Metrics

KINDS: Final[Sequence[Kind[Any]]] = (backup.KIND, restore.KIND, backupschedule.KIND, compactbackup.KIND)
Handle = Callable[[dict[str, Any]], bytes]
"""A decoded request to the body of its answer; raises RequestError."""
_SHOWN_PLACES: Final = 20


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
            rules = answer.plain(kind.related(sanitize.parent_of(cr, kind.path), self.config))
        return orjson.dumps({"relatedResources": rules}, option=orjson.OPT_SORT_KEYS)

    def decide(self, kind: Kind[Any], document: dict[str, Any], *, finalize: bool) -> bytes:
        """Children and status of a CR."""
        observed = wire.observed(document, kind.path, finalize=finalize)
        decided = sanitize.decide(kind, observed, self.clock(), self.config)
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

    def _note(self, kind: Kind[Any], observed: Observed, decision: Decision[Any], composed: answer.HookResponse) -> None:
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


def handlers(service: Service) -> dict[tuple[str, str], Handle]:
    """Every hook, by its path and operation; those first that are called most, for a route is looked for in this order."""
    found: dict[tuple[str, str], Handle] = {}
    for kind in KINDS:
        found[kind.path, "sync"] = partial(service.decide, kind, finalize=False)
    for kind in KINDS:
        found[kind.path, "customize"] = partial(service.customize, kind)
        found[kind.path, "finalize"] = partial(service.decide, kind, finalize=True)
    found["namespace", "sync"] = service.namespace
    return found
