"""What one kind of CR brings to the webhook. :mod:`app.routes` turns each :class:`Kind` into its three routes; nothing else
there knows what a Backup is."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Object, Observed
from app.hooks.pieces import Lean, whole


class Named(Protocol):
    """An intent: something to be built, identified by the name that the child will have."""

    @property
    def name(self) -> str:
        """``metadata.name`` of the child."""
        ...


Intent = TypeVar("Intent", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[Intent]):
    """One kind of CR.

    *path* is its name in the URL. *related* answers customize: a list of ``relatedResources`` rules, a function of the spec
    alone (Metacontroller caches it by generation). *decide* answers sync and finalize (``observed.finalizing``); *now* is
    aware, UTC. *build* turns an intent into a Kubernetes object. *child_kind* is the kind of the children
    (``Job.batch/v1``); where intents are of several kinds, *kind_of* names each one's. *lean* leaves out of a child what
    *decide* does not look at; it is asked about the children of a big request.
    """

    path: str
    related: Callable[[Object, Config], list[dict[str, Any]]]
    decide: Callable[[Observed, datetime, Config], Decision[Intent]]
    build: Callable[[Observed, Intent, Config], dict[str, Any]]
    child_kind: str
    kind_of: Callable[[Intent], str] | None = None
    lean: Lean = whole

    def kind(self, intent: Intent) -> str:
        """Kind of the child that *intent* becomes, as a key of ``children``."""
        return self.kind_of(intent) if self.kind_of else self.child_kind
