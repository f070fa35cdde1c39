"""An in-memory Metacontroller with one parent, as its documentation and code describe a CompositeController.

Per pass: read parent and children from caches (the parent may be one write behind, a new child may not be there yet), call the
hook through the real answer in bytes, then delete observed children that are not in the answer, create those that are not
observed (a name that exists already is no error), leave the rest alone (``OnDelete``), and replace the whole status with the
answer's plus ``observedGeneration``. What Kubernetes, its users and the managers do to Jobs is up to the test.
"""

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from app.domain.config import Config
from app.domain.decision import Decision
from app.domain.observed import Observed
from app.hooks.answer import render
from app.hooks.kind import Kind
from tests.support.objects import NOW, at

JOB = "Job.batch/v1"


@dataclass
class Metacontroller:
    """The model; *clock* is in seconds after :data:`NOW`."""

    kind: Kind[Any]
    parent: dict[str, Any]
    related: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: Config = field(default_factory=Config)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock: float = 0
    gone: bool = False
    created: list[str] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    wait: float | None = None
    namespace_ends: bool = False
    _before: dict[str, Any] | None = None
    _unseen: set[str] = field(default_factory=set)

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.parent.get("status") or {}
        return found

    def observe(self, *, stale: bool = False) -> Observed:
        """What the hook would see now."""
        parent = self._before if stale and self._before else self.parent
        children = {f"db/{name}": job for name, job in self.jobs.items() if name not in self._unseen}
        deleting = bool(parent["metadata"].get("deletionTimestamp"))
        return copy.deepcopy(Observed(parent=parent, children={JOB: children}, related=self.related, finalizing=deleting))

    def sync(self, *, stale: bool = False, lag: bool = False, status_lost: bool = False) -> Decision[Any] | None:
        """One pass. *stale*: the parent's cache is one write behind; *lag*: Jobs made now are not observed by the next pass;
        *status_lost*: the status write ends in a conflict, which Metacontroller ignores."""
        if self.gone:
            return None
        observed = self.observe(stale=stale)
        decision = self.kind.decide(observed, self.now, self.config)
        body: dict[str, Any] = orjson.loads(render(self.kind, observed, decision, self.config))
        self._unseen.clear()
        self.wait = body.get("resyncAfterSeconds")
        if body.get("finalized"):
            self.gone = True
            return decision
        self._manage(observed, body["children"], lag=lag)
        if not status_lost:
            self._write_status(body["status"], observed)
        return decision

    def _manage(self, observed: Observed, answered: list[dict[str, Any]], *, lag: bool) -> None:
        names = {child["metadata"]["name"] for child in answered}
        seen = set(observed.of_kind(JOB))
        for name in sorted(seen - names):
            if self.jobs.pop(name, None):
                self.dropped.append((name, "answer"))
        if self.namespace_ends:
            return
        for child in answered:
            name = child["metadata"]["name"]
            if name not in seen and name not in self.jobs:
                self._create(child)
                if lag:
                    self._unseen.add(name)

    def _create(self, child: dict[str, Any]) -> None:
        job = copy.deepcopy(child)
        assert "spec" in job, f"a stub for {child['metadata']['name']}, which is not observed"
        job["metadata"] |= {"creationTimestamp": at(self.clock), "uid": f"uid-{len(self.created)}"}
        job["metadata"]["labels"]["controller-uid"] = self.parent["metadata"]["uid"]
        job["status"] = {"startTime": at(self.clock), "active": 1, "ready": 0}
        self.jobs[job["metadata"]["name"]] = job
        self.created.append(job["metadata"]["name"])

    def _write_status(self, status: dict[str, Any], observed: Observed) -> None:
        status = {**status, "observedGeneration": observed.parent["metadata"].get("generation")}
        if status != self.parent.get("status"):
            self._before = copy.deepcopy(self.parent)
            self.parent["status"] = status

    def settle(self, limit: int = 20) -> None:
        """Sync until nothing changes any more; fails when that does not come to pass."""
        for _ in range(limit):
            before = orjson.dumps([self.parent, self.jobs], option=orjson.OPT_SORT_KEYS)
            self.sync()
            if self.gone or before == orjson.dumps([self.parent, self.jobs], option=orjson.OPT_SORT_KEYS):
                return
        raise AssertionError(f"not settled after {limit} passes: {self.parent.get('status')}")

    def caches_catch_up(self) -> None:
        """No read is behind any more."""
        self._before = None
        self._unseen.clear()

    def edit(self, **spec: Any) -> None:
        """A user edits the spec."""
        self.caches_catch_up()
        self.parent["spec"] |= spec
        self.parent["metadata"]["generation"] += 1

    def delete(self) -> None:
        """A user deletes the CR."""
        self.caches_catch_up()
        self.parent["metadata"].setdefault("deletionTimestamp", at(self.clock))

    def finish(self, name: str, *, said: str | None, complete: bool, pods_left: bool = False) -> None:
        """The Job *name* ends."""
        kind = "Complete" if complete else "Failed"
        job = self.jobs[name]
        job["status"] = {
            "startTime": job["status"]["startTime"],
            "terminating": 1 if pods_left else 0,
            "conditions": [{"type": kind, "status": "True", "reason": "Test", "lastTransitionTime": at(self.clock)}],
        }
        self.say(name, said)

    def say(self, name: str, said: str | None) -> None:
        """The manager of *name* reports."""
        if said is not None:
            self.jobs[name]["metadata"].setdefault("annotations", {})["tidb.pingcap.com/report"] = said
            self.jobs[name]["status"]["ready"] = 1

    def unfinished(self) -> list[str]:
        """Jobs that have not ended."""
        return [name for name, job in self.jobs.items() if not job["status"].get("conditions")]
