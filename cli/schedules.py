"""BackupSchedules with all that belongs to them, read as the hook reads them; and specs changed on the command line."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import yaml

from app.domain.config import Config
from app.domain.observed import Observed, metadata
from app.domain.schedule import cron, slots
from app.domain.schedule import reconcile as schedule
from app.domain.schedule.children import Children
from app.domain.schedule.cron import Timetable
from app.domain.schedule.log import Log
from app.domain.schedule.retention import Coming, Verdict, plan
from app.domain.schedule.slots import Slots
from app.domain.schedule.spec import Schedule, ScheduleError
from app.domain.times import moment
from backup_manager.errors import NotFoundError, UsageError
from cli.documents import Object, Source, key_of, shown
from cli.requests import observe, request


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One schedule as the hook sees it at *now*."""

    observed: Observed
    schedule: Schedule
    children: Children
    log: Log | None
    created: datetime
    now: datetime
    config: Config

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return f"{self.observed.namespace}/{self.observed.name}"

    def verdicts(self) -> list[Verdict]:
        """What retention says: the very function that the hook asks."""
        hold = schedule.clock_hold(self.observed.status)
        return plan(self.children.items, self.schedule.policy, self.now, coming=self._coming(), hold=hold)

    def _coming(self) -> Coming | None:
        """The time of the n-th run from now; nobody knows it of a paused schedule."""
        if self.schedule.pause:
            return None
        times: list[datetime] = []
        following = cron.upcoming(self.schedule.timetable, self.now)

        def coming(count: int) -> datetime | None:
            if count < 1:
                return None
            times.extend(islice(following, max(0, count - len(times))))
            return times[count - 1]

        return coming

    def due(self) -> Slots:
        """Which run is due now."""
        terms = schedule.terms(self.observed, self.created, self.now, self.children)
        return slots.evaluate(self.schedule, self.children, self.observed.status, self.observed.name, terms)

    @property
    def timetable(self) -> Timetable:
        """When it runs."""
        return self.schedule.timetable


def load_schedule(parent: Object, objects: Sequence[Object], config: Config, now: datetime) -> ScheduleView:
    """*parent* among *objects*. Raises UsageError when its spec cannot work."""
    observed = observe(request(parent, objects, config))
    # As the hook: a CR that was never in a cluster begins now.
    created = moment(metadata(parent).get("creationTimestamp")) or now.replace(microsecond=0)
    try:
        found, children, log = schedule.load_schedule(observed, created, config)
    except ScheduleError as error:
        hint = "Nothing is made and nothing deleted while it is Invalid; correct the spec."
        raise UsageError(f"{shown(parent)}: {error}", hint=hint) from None
    return ScheduleView(observed=observed, schedule=found, children=children, log=log, created=created, now=now, config=config)


def load_schedules(
    parents: Sequence[Object], objects: Sequence[Object], config: Config, now: datetime, *, lenient: bool = False
) -> tuple[list[ScheduleView], list[str]]:
    """Every one of *parents* that can work, and what is wrong with the others. One alone raises UsageError instead."""
    subjects, problems = [], []
    for parent in parents:
        try:
            subjects.append(load_schedule(parent, objects, config, now))
        except UsageError as error:
            if len(parents) == 1 and not lenient:
                raise
            problems.append(error.message)
    return subjects, problems


def choose(source: Source, name: str, *, everywhere: bool = False) -> list[Object]:
    """The schedule *name* (``NAME`` or ``NAMESPACE/NAME``), or all there are. Raises NotFoundError when there is none."""
    found = source.list("BackupSchedule", everywhere=everywhere or "/" in name)
    if not name and not found:
        raise NotFoundError(
            f"no BackupSchedule in {source.namespace}", hint="Look elsewhere with -n NAMESPACE, or give -f FILE."
        )
    if not name:
        return found
    namespace, _, short = name.rpartition("/")
    chosen = [item for item in found if key_of(item)[2] == short and (not namespace or key_of(item)[1] == namespace)]
    if not chosen:
        there = ", ".join(key_of(item)[2] for item in found) or "none"
        raise NotFoundError(f"no BackupSchedule {name!r} in {source.namespace}", hint=f"There are: {there}.")
    return chosen


def owned_objects(source: Source, *, everywhere: bool = False) -> list[Object]:
    """What schedules may own."""
    return [*source.list("Backup", everywhere=everywhere), *source.list("CompactBackup", everywhere=everywhere)]


def changed(parent: Object, assignments: Sequence[str]) -> Object:
    """*parent* with ``retention.keepDaily=7`` and the like set in its spec; ``null`` removes. Raises UsageError."""
    spec = copy.deepcopy(dict(parent.get("spec") or {}))
    for assignment in assignments:
        path, value = _assignment(assignment)
        place: Any = spec
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {assignment}: {part} is no object", hint="Write it like --set retention.keepDaily=7.")
        if value is None:
            place.pop(path[-1], None)
        else:
            place[path[-1]] = value
    if spec.get("retention") == {}:
        del spec["retention"]
    return {**parent, "spec": spec}


def _assignment(text: str) -> tuple[list[str], Any]:
    name, separator, value = text.partition("=")
    path = name.removeprefix("spec.").split(".")
    if not separator or not all(path):
        raise UsageError(f"--set {text!r} is no assignment", hint="Write it like --set retention.keepDaily=7.")
    try:
        return path, yaml.safe_load(value)
    except yaml.YAMLError:
        return path, value


def cluster_of(parent: Object) -> str:
    """The TiDB cluster that the schedule's Backups work on: the one br names, else the one behind the database's address.

    TiDB Operator calls a cluster's service ``<cluster>-tidb``; any other address stands for itself.
    """
    template = (parent.get("spec") or {}).get("backupTemplate") or {}
    br, access = template.get("br") or {}, template.get("from") or {}
    namespace = key_of(parent)[1]
    if br.get("cluster"):
        return f"{br.get('clusterNamespace') or namespace}/{br['cluster']}"
    host, _, rest = str(access.get("host") or "").partition(".")
    if host.endswith("-tidb"):
        return f"{rest.partition('.')[0] or namespace}/{host.removesuffix('-tidb')}"
    return f"{access['host']}:{access.get('port') or 4000}" if host else ""
