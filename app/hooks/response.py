"""From a decision to the bytes of a sync or finalize response.

The only place that can leave a child out, which in Metacontroller deletes it. So the answer is made from what was observed:
every observed child is echoed as a stub (enough under ``OnDelete``) unless a :class:`Drop` names it, new children are added,
and the result is checked once more before it leaves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from app.domain.config import Config
from app.domain.decision import Decision, Drop
from app.domain.observed import Observed, metadata
from app.hooks.resource import Intent, Kind

_MAX_INT: Final = 2**63


class AnswerError(Exception):
    """The decision cannot be put into an answer without harm: a bug of ours, answered 500 so that nothing is touched."""


def plain(value: Any) -> Any:
    """*value* as JSON that Metacontroller compares equal after a round trip: no nulls, whole floats as integers, times as
    RFC3339 in UTC. Raises AnswerError for what has no such form, an integer of more than 64 bits included.

    >>> plain({"a": 1.0, "b": None, "c": [True, 0.5, None]})
    {'a': 1, 'c': [True, 0.5]}
    """
    kind = type(value)
    if kind is str or kind is bool:
        return value
    if kind is dict:
        # Nearly all of a status are texts in a dict: a call for each of them would take most of the time.
        return {
            key if type(key) is str else str(key): item if type(item) is str else plain(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, Mapping):
        return plain(dict(value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value if item is not None]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        if not -_MAX_INT <= value < _MAX_INT:
            raise AnswerError("a number does not fit 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AnswerError(f"number {value} cannot be written as JSON")
        return int(value) if value.is_integer() and -_MAX_INT <= value < _MAX_INT else value
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise AnswerError(f"a value of type {type(value).__name__} cannot be written as JSON")


def _stubs(observed: Observed, drops: frozenset[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """A stub of every observed child that no drop names, by (kind, name)."""
    stubs: dict[tuple[str, str], dict[str, Any]] = {}
    for outer, group in observed.children.items():
        kind, _, api_version = outer.partition(".")
        for key, child in group.items():
            meta = metadata(child)
            name, namespace = meta.get("name"), meta.get("namespace")
            if not name or key.rpartition("/")[2] != name:
                raise AnswerError(f"observed child {outer} {key!r} does not carry the name it is listed under")
            if (outer, name) not in drops:
                reference = {"name": name, "namespace": namespace} if namespace else {"name": name}
                stubs[outer, name] = {"apiVersion": api_version, "kind": kind, "metadata": reference}
    return stubs


def _check(observed: Observed, answered: Mapping[tuple[str, str], object], drops: Mapping[tuple[str, str], Drop]) -> None:
    """Raise AnswerError when the answer would delete a child that no rule named."""
    for outer, group in observed.children.items():
        for key in group:
            child = outer, key.rpartition("/")[2]
            if child not in answered and not ((drop := drops.get(child)) and drop.rule):
                raise AnswerError(f"the answer would delete {outer} {key!r} although no rule decided so")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookResponse:
    """A response, not yet encoded. *created* names the children that are new, *finalized* tells whether the CR is let go."""

    body: dict[str, Any]
    created: list[str]
    finalized: bool


def build_response(kind: Kind[Intent], observed: Observed, decision: Decision[Intent], config: Config) -> HookResponse:
    """The response that *decision* means. Raises AnswerError instead of saying something harmful."""
    drops = {(drop.kind, drop.name): drop for drop in decision.drop}
    children = _stubs(observed, frozenset(drops))
    created = []
    for intent in decision.create:
        key = kind.kind(intent), intent.name
        if key in drops:
            raise AnswerError(f"{key[0]} {key[1]!r} is to be created and dropped at once")
        if key not in children:
            children[key] = plain(kind.build(observed, intent, config))
            created.append(f"{key[0].partition('.')[0]} {key[1]}")
    _check(observed, children, drops)
    status = plain(decision.status)
    if generation := metadata(observed.parent).get("generation"):
        status["observedGeneration"] = generation
    body: dict[str, Any] = {"status": status, "children": [children[key] for key in sorted(children)]}
    if decision.resync_after is not None and decision.resync_after > 0:
        body["resyncAfterSeconds"] = math.ceil(decision.resync_after)
    finalized = decision.finalized and observed.finalizing
    if finalized:
        body["finalized"] = True
    return HookResponse(body=body, created=sorted(created), finalized=finalized)


def encode(answer: HookResponse) -> bytes:
    """The bytes of *answer*: same answer, same bytes."""
    return orjson.dumps(answer.body, option=orjson.OPT_SORT_KEYS)


def render(kind: Kind[Intent], observed: Observed, decision: Decision[Intent], config: Config) -> bytes:
    """The response body of *decision*: same input, same bytes. Raises AnswerError."""
    return encode(build_response(kind, observed, decision, config))
