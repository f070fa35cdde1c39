"""Values from outside that are not of the type that they should be: each is left out, for that one item, and the rest goes on.

The API server checks most of what a hook is sent, but a CRD may be older than the webhook, or another's, and a request may come
from anywhere. A wrong type that a decision trips over would be answered 500 at every sync, and the CR would be stuck. So
only then, since it costs as much as the decision itself, the request is compared with what its objects may look like: CRs with
their own schema, others with the fields that decisions look at. What does not fit is left out, with its place, and is thereby
unknown; every child stays under its name. A spec that does not fit is refused as ``Invalid``, never run without the part.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any, Final

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Object, Observed
from app.domain.status import Phase, StatusBuilder, outcome_of
from app.domain.times import edited_at
from app.hooks.request import KINDS as KIND_NAMES
from app.hooks.resource import Kind
from app.hooks.response import HookResponse, build_response
from crds.generate import openapi_schema
from crds.v1alpha1 import KINDS, spec_problems

Schema = Mapping[str, Any]
_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "integer"}
_FLAG: Final[Schema] = {"type": "boolean"}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_MAX_INT: Final = 2**63
_DEEPEST: Final = 64
_MAX_MESSAGE: Final = 1024


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_METADATA: Final = _object(
    name=_TEXT,
    namespace=_TEXT,
    uid=_TEXT,
    generation=_NUMBER,
    creationTimestamp=_TEXT,
    deletionTimestamp=_TEXT,
    labels=_TEXTS,
    annotations=_TEXTS,
    finalizers=_list(_TEXT),
    ownerReferences=_list(_object(kind=_TEXT, name=_TEXT, uid=_TEXT, controller=_FLAG)),
    managedFields=_list(_object(manager=_TEXT, time=_TEXT, subresource=_TEXT)),
)
_CONDITIONS: Final = _list(_object(type=_TEXT, status=_TEXT, reason=_TEXT, message=_TEXT, lastTransitionTime=_TEXT))
_POD: Final = _object(containers=_list(_object(args=_list(_TEXT))))
_ENABLED: Final = _object(enabled=_FLAG)
_SPECS: Final[Mapping[str, Schema]] = {
    "Job": _object(completions=_NUMBER, template=_object(spec=_POD)),
    "TidbCluster": _object(
        version=_TEXT,
        tidb=_object(tlsClient=_object(enabled=_FLAG, skipInternalClientCA=_FLAG)),
        tlsCluster=_ENABLED,
        tikv=_object(version=_TEXT, image=_TEXT, baseImage=_TEXT, config={}),
    ),
    "Cluster": _object(tlsCluster=_ENABLED),
    "TiKVGroup": _object(cluster=_object(name=_TEXT), template=_object(spec=_object(version=_TEXT, config={}))),
}
_STATUSES: Final[Mapping[str, Schema]] = {
    "Job": _object(
        startTime=_TEXT,
        completionTime=_TEXT,
        active=_NUMBER,
        ready=_NUMBER,
        failed=_NUMBER,
        succeeded=_NUMBER,
        terminating=_NUMBER,
        completedIndexes=_TEXT,
        failedIndexes=_TEXT,
        conditions=_CONDITIONS,
    ),
    "Cluster": _object(pd=_TEXT, conditions=_CONDITIONS),
    "Namespace": _object(phase=_TEXT),
}


@cache
def _schema(kind: str) -> Schema:
    """What an object of *kind* may look like, as far as anybody looks at it."""
    if kind in KINDS:
        properties = openapi_schema(KINDS[kind])["properties"]
        return _object(**{**properties, "metadata": _METADATA})
    others = _object(conditions=_CONDITIONS)
    status = _STATUSES.get(kind, others)
    return _object(apiVersion=_TEXT, kind=_TEXT, metadata=_METADATA, spec=_SPECS.get(kind, _object()), status=status)


@dataclass(slots=True)
class _Pruning:
    """The places that were left out."""

    places: list[str] = field(default_factory=list)

    def prune(self, value: Any, schema: Schema, place: str, depth: int = _DEEPEST) -> Any:
        """*value* without what does not fit; None when that is all of it."""
        kind = schema.get("type")
        if value is None:
            return None
        if kind is None:
            return value
        if not self._fits(value, str(kind)) or depth == 0:
            self.places.append(place)
            return None
        if isinstance(value, dict):
            return {key: found for key, found in self._members(value, schema, place, depth) if found is not None}
        if isinstance(value, list):
            items = schema.get("items") or {}
            pruned = [self.prune(item, items, f"{place}[{index}]", depth - 1) for index, item in enumerate(value)]
            self.places += [f"{place}[{index}]" for index, item in enumerate(value) if item is None]
            return [item for item in pruned if item is not None]
        return value

    @staticmethod
    def _fits(value: Any, kind: str) -> bool:
        if isinstance(value, bool):
            return kind == "boolean"
        if isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
            return False
        return isinstance(value, _TYPES[kind])

    def _members(self, value: dict[str, Any], schema: Schema, place: str, depth: int) -> Iterator[tuple[str, Any]]:
        known, others = schema.get("properties"), schema.get("additionalProperties")
        for key, item in value.items():
            part = (known or {}).get(key, others)
            if isinstance(part, Mapping):
                yield key, self.prune(item, part, f"{place}.{key}", depth - 1)
            elif known is None:
                yield key, item


def _pruned(pruning: _Pruning, obj: Object, kind: str, place: str) -> dict[str, Any]:
    found = pruning.prune(dict(obj), _schema(kind), place)
    return found if isinstance(found, dict) else {}


def _group(pruning: _Pruning, outer: str, group: Mapping[str, Object], place: str) -> dict[str, Object]:
    kind = outer.partition(".")[0]
    return {key: _pruned(pruning, item, kind, f"{place} {kind} {key}") for key, item in group.items()}


def parent_of(parent: Object, path: str) -> Object:
    """*parent*, a CR of the kind *path*, with only what it may hold."""
    return _pruned(_Pruning(), parent, KIND_NAMES[path], "parent")


def _repair(observed: Observed, path: str) -> tuple[Observed, list[str]]:
    """*observed* with only what its objects may hold, and the places of what was left out."""
    pruning = _Pruning()
    parent = _pruned(pruning, observed.parent, KIND_NAMES[path], "parent")
    children = {outer: _group(pruning, outer, group, "child") for outer, group in observed.children.items()}
    related = {outer: _group(pruning, outer, group, "related") for outer, group in observed.related.items()}
    return replace(observed, parent=parent, children=children, related=related), pruning.places


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision with its answer, what it was about, and the *places* of values that were left out for it."""

    observed: Observed
    decision: Decision[Any]
    answer: HookResponse
    places: Sequence[str] = ()


def decide(kind: Kind[Any], observed: Observed, now: datetime, config: Config) -> Decided:
    """The answer of *kind*, without values of a wrong type if it stumbles over one. Raises what has another cause."""
    try:
        decision = kind.decide(observed, now, config)
        return Decided(observed=observed, decision=decision, answer=build_response(kind, observed, decision, config))
    except Exception:
        repaired, places = _repair(observed, kind.path)
        problems = [str(problem) for problem in spec_problems(KIND_NAMES[kind.path], observed.spec)]
        if not places and not problems:
            raise
    if problems and not observed.finalizing:
        decision = _invalid(repaired, problems, kind.path, config)
    else:
        decision = kind.decide(repaired, now, config)
    return Decided(observed=repaired, decision=decision, answer=build_response(kind, repaired, decision, config), places=places)


def _invalid(observed: Observed, problems: Sequence[str], path: str, config: Config) -> Decision[Any]:
    """A spec that cannot be read runs nothing and deletes nothing."""
    draft = StatusBuilder(observed.status, phase_field="state" if path == "compactbackup" else "phase")
    note = draft.mark if path == "backupschedule" or outcome_of(observed.status) else draft.enter
    rule = "; ".join(problems)[:_MAX_MESSAGE]
    note(Phase.INVALID, at=edited_at(observed.parent), reason="InvalidSpec", message=rule)
    return Decision(status=draft.done(), resync_after=config.resync, warnings=(rule,))
