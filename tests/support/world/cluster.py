"""The world of a history: the cluster, its clock, the webhooks that answer, and what has happened so far.

Every fact in it stands at an even second and every clock of a webhook shows an odd one, so that an odd second in a status can
only be the present. Whoever does something tells :attr:`World.story`; a violated invariant prints it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.config import Config
from app.domain.schedule.children import BACKUPS
from cli.simulator.metacontroller import HOOKS, HookError, Metacontroller, Outcome, Pass, finalizer
from cli.simulator.store import NAMESPACES, ApiError, Object, key_of, kind_of, uid_of
from crds.contract import names
from tests.support.objects import NOW
from tests.support.world.caches import LaggingCaches
from tests.support.world.invariants import Invariants, Violation
from tests.support.world.kubernetes import Died, Faults, Kubernetes
from tests.support.world.managers import Managers

NAMESPACE: Final = "db"
RESTORES: Final = f"Restore.{names.API_VERSION}"
CLUSTERS: Final = "TidbCluster.pingcap.com/v1alpha1"
CONFIGS: Final = (
    Config(max_deletions=3),
    Config(
        max_deletions=3, manager_image="tidb-backup/backup-manager:next", job_ttl=86_400, start_deadline=60, clean_attempts=3
    ),
)
"""The webhook before and after a rollout."""
_GC_OFF: Final = "[gc]\nratio-threshold = -1"


class Dice:
    """Choices out of one number; a smaller number chooses what is simpler."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def roll(self, sides: int) -> int:
        """From 0 to *sides* - 1."""
        self._number, found = divmod(self._number, sides)
        return found

    def pick(self, options: Any) -> Any:
        """One of *options*, a sequence that is not empty."""
        return options[self.roll(len(options))]


@dataclass(slots=True)
class Counts:
    """What was done in a history."""

    passes: int = 0
    created: int = 0
    deleted: int = 0
    jobs: int = 0


class World:
    """A namespace ``db`` with a TidbCluster ``basic``, and whatever CRs a history puts into it."""

    def __init__(self) -> None:
        self.now: datetime = NOW
        self.skew = timedelta(0)
        """How far the webhook's clock is ahead."""
        self.version = 0
        """Which of :data:`CONFIGS` answers."""
        self.story: list[tuple[datetime, str, tuple[Any, ...]]] = []
        self.counts = Counts()
        self.store = Kubernetes(lambda: self.now)
        self.caches = LaggingCaches(self.store)
        self.metacontroller = Metacontroller(self.store, cache=self.caches)
        self.held: list[Pass] = []
        self.waits: dict[tuple[str, str], float] = {}
        self.managers = Managers(self.store, self.tell)
        self.invariants = Invariants(self.store, self.managers, lambda: self.now)
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.put(tidb_cluster("basic"))

    # What is there

    def put(self, obj: Object) -> Object:
        """Apply a new object. Raises ApiError."""
        return self.store.create(obj)

    def crs(self) -> list[Object]:
        """Every CR, in a fixed order."""
        return [obj for kind in HOOKS for _, obj in sorted(self.store.of(kind).items())]

    def tell(self, text: str, *facts: Any) -> None:
        """Note what happens, for the story."""
        self.story.append((self.now, text, facts))

    def printed(self) -> str:
        """The story so far."""
        return "\n".join(f"{time:%m-%dT%H:%M:%S} {text.format(*facts)}" for time, text, facts in self.story)

    @property
    def hook_clock(self) -> datetime:
        """What the webhook takes for the present: an odd second."""
        return self.now + self.skew + timedelta(seconds=1)

    # Passes

    def sync(self, cr: Object, *, faults: Faults | None = None, lag: int = 0) -> Outcome | None:
        """One pass over *cr*; *lag* says how many writes of each kind the caches may be behind."""
        current = self.call(cr, lag=lag)
        return self.settle(current, faults) if current else None

    def call(self, cr: Object, *, lag: int = 0) -> Pass | None:
        """Ask the hook; the answer is still to be settled. A parent is never in two passes at once, so one that is held is
        settled first."""
        self.release(uid_of(cr))
        if lag:
            dice = Dice(lag)
            for kind in (*self.store.kinds,):
                self.caches.catch_up(kind, but=dice.roll(4))
        else:
            self.caches.catch_up_all()
        kind, key = kind_of(cr), key_of(cr)
        self.counts.passes += 1
        try:
            current = self.metacontroller.call(kind, key, self.hook_clock, CONFIGS[self.version])
        except HookError as error:
            raise Violation(f"{kind} {key}: the hook answers {error}") from error
        if current:
            self.invariants.answered(current)
            self.waits[kind, key] = current.wait
            self.tell("{} {}: {}", cr["kind"], cr["metadata"]["name"], _Told(current))
        return current

    def settle(self, current: Pass, faults: Faults | None = None) -> Outcome | None:
        """Do what the answer says; None when Metacontroller dies meanwhile."""
        self.invariants.before(current)
        self.store.faults = faults
        try:
            outcome = self.metacontroller.settle(current)
        except Died:
            self.tell("    Metacontroller dies after {} writes", (faults or Faults()).writes)
            outcome = None
        finally:
            self.store.faults = None
        if outcome:
            self.counts.created += len(outcome.created)
            self.counts.deleted += len(outcome.deleted)
            for error in outcome.errors:
                self.tell("    refused: {}", error)
        self.invariants.after(current)
        return outcome

    def release(self, uid: str = "") -> None:
        """Held answers are settled, or that of the CR with *uid*."""
        due = [current for current in self.held if uid in {"", uid_of(current.parent)}]
        self.held = [current for current in self.held if current not in due]
        for current in due:
            self.tell("the answer that was held for {} comes", current.parent["metadata"]["name"])
            self.settle(current)
            self.controllers()

    def controllers(self) -> None:
        """Everything else in Kubernetes gets its turn."""
        self.store.run_controllers()

    def resync(self) -> None:
        """Metacontroller asks about every CR."""
        for cr in self.crs():
            self.sync(cr)
            self.controllers()

    def wait(self, seconds: float) -> None:
        """Time goes on; to an even second."""
        self.now += timedelta(seconds=2 * round(seconds / 2))

    def quiet(self, limit: int = 40) -> None:
        """Pass after pass with nothing else happening, until nothing changes. Raises Violation when that does not come."""
        for _ in range(limit):
            before = self.store.version
            self.resync()
            if self.store.version == before:
                return
        raise Violation(f"not at rest after {limit} rounds")

    def unfinished(self) -> Iterator[Object]:
        """CRs that have not ended."""
        for cr in self.crs():
            status = cr.get("status") or {}
            if (status.get("phase") or status.get("state")) not in {"Complete", "Failed"}:
                yield cr


class _Told:
    """An answer in words, made when somebody reads them."""

    __slots__ = ("current",)

    def __init__(self, current: Pass) -> None:
        self.current = current

    def __format__(self, _spec: str) -> str:
        current = self.current
        status = current.answer["status"]
        new = [child["metadata"]["name"] for child in current.answer["children"] if "spec" in child]
        kept = [child["metadata"]["name"] for child in current.answer["children"] if "spec" not in child]
        text = f"{'finalize' if current.finalizing else 'sync'} -> {status.get('phase') or status.get('state') or '-'}"
        reasons = [str(item.get("reason") or item.get("type")) for item in (status.get("conditions") or ())[-1:]]
        drops = [f"{drop.name} ({drop.rule})" for drop in current.decision.drop]
        seen = current.parent["metadata"]["resourceVersion"]
        facts = {"condition": reasons, "creates": new, "keeps": kept, "drops": drops}
        text += "".join(f", {name} {', '.join(values)}" for name, values in facts.items() if values)
        text += ", finalized" if current.answer.get("finalized") else ""
        return f"{text} (saw version {seen}, clock {current.now:%m-%dT%H:%M:%S})"


def tidb_cluster(name: str, *, ready: bool = True) -> Object:
    """A TidbCluster of TiDB Operator v1."""
    return {
        "apiVersion": "pingcap.com/v1alpha1",
        "kind": "TidbCluster",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"version": "v8.5.0", "tikv": {"baseImage": "pingcap/tikv", "config": _GC_OFF}},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


__all__ = ["BACKUPS", "CONFIGS", "NAMESPACE", "NAMESPACES", "ApiError", "Dice", "World", "finalizer", "tidb_cluster"]
