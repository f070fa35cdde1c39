"""One parent of any kind in the in-memory cluster, its Jobs in the hands of the test: what Kubernetes, users and managers do to
them is up to it. See :mod:`cli.simulator.metacontroller` for what a pass does."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from app.domain.config import Config
from app.domain.decision import Decision
from app.hooks.resource import Kind
from cli.simulator.metacontroller import JOBS, Metacontroller, Pass, finalizer
from cli.simulator.store import ApiError, Object, kind_of, uid_of
from tests.support.objects import NOW, at
from tests.support.world.caches import LaggingCaches
from tests.support.world.kubernetes import Faults, Kubernetes


class OneParent:
    """The cluster around *parent*; *clock* is in seconds after :data:`NOW`."""

    def __init__(
        self,
        *,
        kind: Kind[Any],
        parent: Mapping[str, Any],
        related: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        config: Config | None = None,
    ) -> None:
        self.clock: float = 0
        self.config = config or Config()
        self.created: list[str] = []
        self.dropped: list[str] = []
        self.wait: float | None = None
        self._store = Kubernetes(lambda: self.now)
        self._caches = LaggingCaches(self._store)
        self._metacontroller = Metacontroller(self._store, cache=self._caches)
        self._jobs_lag = False
        for group in (related or {}).values():
            for item in group.values():
                self._store.create(item)
        # The finalizer is there from the first pass on; these histories begin right after it.
        meta = {**parent["metadata"], "finalizers": [finalizer(kind_of(parent))]}
        made = self._store.create({**parent, "metadata": meta})
        self._kind, self._key = kind_of(made), f"db/{made['metadata']['name']}"
        assert kind.child_kind == JOBS

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock)

    @property
    def gone(self) -> bool:
        """Whether the CR is gone."""
        return self._store.find(self._kind, self._key) is None

    @property
    def parent(self) -> Object:
        return self._store.get(self._kind, self._key)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (self._store.find(self._kind, self._key) or {}).get("status") or {}
        return found

    @property
    def jobs(self) -> dict[str, Object]:
        """The Jobs by name."""
        return {job["metadata"]["name"]: job for job in self._store.of(JOBS).values()}

    def sync(self, *, stale: bool = False, lag: bool = False, status_lost: bool = False) -> Decision[Any] | None:
        """One pass. *stale*: the parent's cache is one write behind; *lag*: Jobs made now are not observed by the next pass;
        *status_lost*: the status write ends in a conflict, which Metacontroller ignores."""
        if self.gone:
            return None
        for kind in (*self._store.kinds,):
            if kind == self._kind:
                self._caches.catch_up(kind, but=1 if stale else 0)
            elif kind != JOBS or not self._jobs_lag:
                self._caches.catch_up(kind)
        if self._key not in self._caches.of(self._kind):
            self._caches.catch_up(self._kind)
        self._jobs_lag = lag
        current = self._metacontroller.call(self._kind, self._key, self.now, self.config)
        if current is None:
            return None
        self.wait = current.answer.get("resyncAfterSeconds")
        self._settle(current, Faults(status_conflict=status_lost))
        return current.decision

    def _settle(self, current: Pass, faults: Faults) -> None:
        self._store.faults = faults
        outcome = self._metacontroller.settle(current)
        self._store.faults = None
        assert not outcome.errors
        self.dropped += [job["metadata"]["name"] for job in outcome.deleted]
        for job in outcome.created:
            assert "spec" in job, f"a stub for {job['metadata']['name']}, which is not observed"
            self.created.append(job["metadata"]["name"])
            self._store.write(job, status={"startTime": at(self.clock), "active": 1, "ready": 0})

    def settle(self, limit: int = 20) -> None:
        """Sync until nothing changes any more; fails when that does not come to pass."""
        for _ in range(limit):
            before = self._everything()
            self.sync()
            if self.gone or before == self._everything():
                return
        raise AssertionError(f"not settled after {limit} passes: {self.status}")

    def _everything(self) -> bytes:
        found = [None if self.gone else self.parent["metadata"]["resourceVersion"], self.jobs]
        return orjson.dumps(found, option=orjson.OPT_SORT_KEYS)

    def caches_catch_up(self) -> None:
        """No read is behind any more."""
        self._caches.catch_up_all()
        self._jobs_lag = False

    def edit(self, **spec: Any) -> None:
        """A user edits the spec."""
        self._store.write(self.parent, spec={**self.parent["spec"], **spec})
        self.caches_catch_up()

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Another version of the webhook answers."""
        self._store.write(self.parent, status=dict(status))
        self.caches_catch_up()

    def delete(self) -> None:
        """A user deletes the CR."""
        self._store.delete(self._kind, self._key)
        self.caches_catch_up()

    def finish(self, name: str, *, said: str | None, complete: bool, pods_left: bool = False) -> None:
        """The Job *name* ends."""
        kind = "Complete" if complete else "Failed"
        job = self.jobs[name]
        status = {
            "startTime": job["status"]["startTime"],
            "terminating": 1 if pods_left else 0,
            "conditions": [{"type": kind, "status": "True", "reason": "Test", "lastTransitionTime": at(self.clock)}],
        }
        self._store.write(job, status=status)
        self.say(name, said)

    def say(self, name: str, said: str | None) -> None:
        """The manager of *name* reports."""
        if said is None:
            return
        job = self.jobs[name]
        annotations = {**(job["metadata"].get("annotations") or {}), "tidb.pingcap.com/report": said}
        self._store.write(self._store.annotate(job, annotations=annotations), status={**job["status"], "ready": 1})

    def pods_end(self, name: str = "") -> None:
        """No Pod of the Job *name*, or of any, is terminating any more."""
        for job in self.jobs.values():
            if job["metadata"]["name"] == name or not name:
                self._store.write(job, status={**job["status"], "terminating": 0})

    def vanish(self, name: str) -> None:
        """The Job *name* is deleted by its TTL or by hand."""
        job = self.jobs.get(name)
        if job:
            try:
                self._store.delete(JOBS, f"db/{name}", uid=uid_of(job))
            except ApiError as error:
                raise AssertionError(name) from error

    def unfinished(self) -> list[str]:
        """Jobs that have not ended."""
        return [name for name, job in self.jobs.items() if not job["status"].get("conditions")]
