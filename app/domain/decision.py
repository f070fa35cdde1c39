"""What a hook decided. In Metacontroller a child that is not in the answer is deleted, so a decision is stated the other way
round: *every observed child stays* unless a :class:`Drop` names it together with the rule that allows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Intent = TypeVar("Intent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """One observed child that is to be deleted, and the named rule that decided it."""

    kind: str
    name: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[Intent]):
    """The outcome of one pass.

    *status* replaces the parent's whole status. *create* are intents that the builders turn into objects; an intent whose
    name is observed already is only kept (children are ``OnDelete``). *resync_after* is in seconds, None for none.
    *finalized* only counts while finalizing. *warnings* are short lines for the log.
    """

    status: Mapping[str, Any]
    create: Sequence[Intent] = ()
    drop: Sequence[Drop] = ()
    resync_after: float | None = None
    finalized: bool = False
    warnings: Sequence[str] = field(default_factory=tuple)
