"""Metrics of the webhook: how hooks are answered, and how each CR stands.

The gauges of a CR are made from what its last sync saw, when somebody scrapes; so a CR that is finalized, or that nobody
spoke of for a while, has no series any more. Names and labels are a promise to alert rules and dashboards. With several
replicas each knows the syncs that it answered: take the maximum over instances.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.domain.observed import Observed, metadata
from app.domain.schedule import cron
from app.domain.schedule.children import BACKUPS, state_of
from app.domain.times import moment
from crds.contract import names, tso

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LOG_ENDS: Final = frozenset({"Stopped", "Clean", "CleanFailed"})
"""Phases of a log backup that no longer is to follow its cluster. A failed one still should."""
_RUN: Final = ("kind", "namespace", "name", "schedule")
_SCHEDULE: Final = ("namespace", "schedule")
_LONGEST_VALUE: Final = 64
_LONGEST_NAME: Final = 253
"""Characters, as Kubernetes has it."""

_NUMBERS: Final = frozenset({int, float})
_RUN_FIELDS: Final = (
    ("phase", "phase"),
    ("started", "timeStarted"),
    ("completed", "timeCompleted"),
    ("bytes", "backupSize"),
)
Values = Mapping[str, Any]
"""What is kept of a status: numbers and short texts, by our names for them."""


class _Unfit:
    """Stands for a value that is neither a number nor a short text."""


_UNFIT: Final = _Unfit()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the last sync of one CR left behind; small, whatever its status was."""

    kind: str
    namespace: str
    name: str
    schedule: str
    values: Values
    at: float


def _scalar(status: Any, *path: str) -> Any:
    """The value at *path*, None when nothing is there."""
    for field in path:
        if status is None:
            return None
        if not isinstance(status, dict):
            return _UNFIT
        status = status.get(field)
    fits = status is None or isinstance(status, int | float) or (isinstance(status, str) and len(status) <= _LONGEST_VALUE)
    return status if fits else _UNFIT


def _run_values(status: Mapping[str, Any]) -> Values:
    found = {}
    for name, field in _RUN_FIELDS:
        if (value := status.get(field)) is not None:
            found[name] = value if type(value) in _NUMBERS else _scalar(status, field)
    if status.get("cleanStatus"):
        found |= {"deleted": _scalar(status, "cleanStatus", "deleted"), "failed": _scalar(status, "cleanStatus", "failed")}
    if not found.get("phase") and (state := _scalar(status, "state")):
        found["phase"] = state
    if status.get("logSubCommandStatuses") and found.get("phase") not in _LOG_ENDS:
        # Before the first look the start stands for it, so that a watch that never looks is noticed too.
        found["checkpoint"] = _scalar(status, "logCheckpointTs") or _scalar(status, "commitTs")
    return found


def _schedule_values(observed: Observed, status: Mapping[str, Any]) -> Values:
    spec, meta = observed.spec, metadata(observed.parent)
    window, gaps = status.get("recoveryWindow"), []
    if isinstance(window, dict) and isinstance(window.get("gaps"), list):
        gaps = window["gaps"]
    found = {
        "last_success": _scalar(status, "lastSuccessTime"),
        "next_run": _scalar(status, "nextBackupTime"),
        "oldest": _scalar(status, "retention", "oldest"),
        "kept": _scalar(status, "retention", "kept"),
        "window_from": _scalar(status, "recoveryWindow", "from"),
        "window_to": _scalar(status, "recoveryWindow", "to"),
        "last_gap": _scalar(gaps[-1], "to") if gaps else None,
        "state": _last_state(observed, status),
        "cron": _scalar(spec, "schedule"),
        "zone": _scalar(spec, "timeZone"),
        "created": _scalar(meta, "creationTimestamp"),
        "paused": _has_condition(status, "Paused"),
        "stalled": _has_condition(status, "ScheduleStalled"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _has_condition(status: Mapping[str, Any], kind: str) -> Any:
    conditions = status.get("conditions") or []
    if not isinstance(conditions, list) or not all(isinstance(item, dict) for item in conditions):
        return _UNFIT
    return any(item.get("type") == kind for item in conditions)


def _last_state(observed: Observed, status: Mapping[str, Any]) -> str:
    """State of the schedule's newest Backup."""
    key = f"{observed.namespace}/{_scalar(status, 'lastBackup')}"
    backup = (observed.children.get(BACKUPS) or {}).get(key)
    return str(state_of(backup)) if backup else ""


Compute = Callable[[Values, datetime], float | None]
"""Values and the present to a gauge: None where there is nothing to show; raises where what there is makes no sense."""


def _number(name: str) -> Compute:
    def compute(values: Values, _now: datetime) -> float | None:
        value = values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is no number")
        return float(value)

    return compute


def _read_time(values: Values, name: str) -> datetime | None:
    if not (value := values.get(name)):
        return None
    if (time := moment(value)) is None:
        raise ValueError(f"{name} is no time")
    return time


def _time(name: str) -> Compute:
    def compute(values: Values, _now: datetime) -> float | None:
        time = _read_time(values, name)
        return time.timestamp() if time else None

    return compute


def _duration(values: Values, _now: datetime) -> float | None:
    started, completed = _read_time(values, "started"), _read_time(values, "completed")
    return (completed - started).total_seconds() if started and completed else None


def _checkpoint(values: Values, _now: datetime) -> float | None:
    value = values.get("checkpoint")
    if value is None or not (reached := tso.parse(str(value))):
        return None
    return tso.to_datetime(reached).timestamp()


def _succeeded(values: Values, _now: datetime) -> float | None:
    state = values.get("state")
    return float(state == "complete") if state in {"complete", "failed"} else None


def _interval(values: Values, now: datetime) -> float | None:
    try:
        anchor = _read_time(values, "created") or now
        timetable = cron.parse(str(values.get("cron", "")), anchor=anchor, tz=cron.zone(str(values.get("zone", ""))))
        return cron.interval(timetable, now).total_seconds()
    except cron.CronError:
        return None  # the CR says so in its condition Invalid


def _window(values: Values, _now: datetime) -> float | None:
    begin, end = _read_time(values, "window_from"), _read_time(values, "window_to")
    # Only the last stretch is without gaps.
    last_gap = _read_time(values, "last_gap")
    return (end - (last_gap or begin)).total_seconds() if begin and end else None


def _flag(name: str) -> Compute:
    def compute(values: Values, _now: datetime) -> float | None:
        if not isinstance(value := values[name], bool):
            raise TypeError(f"{name} cannot be told")
        return float(value)

    return compute


_RUN_GAUGES: Final[Mapping[str, tuple[str, Compute]]] = {
    "run_duration_seconds": ("How long the run took, once it ended.", _duration),
    "run_bytes": ("Size of the data.", _number("bytes")),
    "run_completed_timestamp_seconds": ("When the run ended.", _time("completed")),
    "log_checkpoint_timestamp_seconds": ("Up to when a log backup that should be running has the log.", _checkpoint),
    "clean_objects_deleted": ("Objects that the clean deleted.", _number("deleted")),
    "clean_objects_failed": ("Objects that the clean could not delete.", _number("failed")),
}
_SCHEDULE_GAUGES: Final[Mapping[str, tuple[str, Compute]]] = {
    "schedule_last_success_timestamp_seconds": ("When a Backup of the schedule was last complete.", _time("last_success")),
    "schedule_last_status": ("1 when the newest Backup is complete, 0 when it failed; absent while it runs.", _succeeded),
    "schedule_next_run_timestamp_seconds": (
        "When the next run is due; in the past while it is kept from beginning.",
        _time("next_run"),
    ),
    "schedule_expected_interval_seconds": ("The longest wait between two of the coming runs.", _interval),
    "schedule_kept_backups": ("Complete Backups that retention keeps.", _number("kept")),
    "schedule_oldest_kept_timestamp_seconds": (
        "Age of the oldest complete Backup, as the time of its data.",
        _time("oldest"),
    ),
    "schedule_recovery_window_seconds": ("How far back one can go to any point in time.", _window),
    "schedule_paused": ("1 while the schedule is paused.", _flag("paused")),
    "schedule_stalled": ("1 while a run that is due is kept from beginning.", _flag("stalled")),
}
_SCHEDULE_KIND: Final = "backupschedule"


class _Fleet(Collector):
    """The CRs seen, at most *most* of a kind, and their gauges.

    A CR that is new when there are as many is left out: were the oldest left out instead, a flood of new ones would silence
    the alerts of those that are there.
    """

    def __init__(
        self,
        *,
        ttl: float,
        most: int,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
        errors: Counter,
        left_out: Counter,
    ) -> None:
        self._ttl, self._most, self._monotonic, self._now = ttl, most, monotonic, now
        self._errors, self._left_out = errors, left_out
        self._seen: dict[str, dict[tuple[str, str], _Seen]] = {}
        """By kind; the one seen last comes last."""
        self._lock = threading.Lock()

    def note(self, kind: str, observed: Observed, status: Mapping[str, Any]) -> None:
        key = (observed.namespace, observed.name)
        if max(map(len, key)) > _LONGEST_NAME:
            return
        labels = metadata(observed.parent).get("labels") or {}
        schedule = labels.get(names.SCHEDULE_LABEL)
        seen = _Seen(
            kind=kind,
            namespace=key[0],
            name=key[1],
            schedule=schedule if isinstance(schedule, str) and len(schedule) <= _LONGEST_NAME else "",
            values=_schedule_values(observed, status) if kind == _SCHEDULE_KIND else _run_values(status),
            at=self._monotonic(),
        )
        with self._lock:
            crs = self._seen.setdefault(kind, {})
            known = crs.pop(key, None)
            if known is None and len(crs) >= self._most:
                self._expire(crs)
            if known is None and len(crs) >= self._most:
                self._left_out.labels(kind).inc()
                return
            crs[key] = seen

    def drop(self, kind: str, observed: Observed) -> None:
        with self._lock:
            self._seen.get(kind, {}).pop((observed.namespace, observed.name), None)

    def _expire(self, crs: dict[tuple[str, str], _Seen]) -> None:
        oldest = self._monotonic() - self._ttl
        while crs and (first := next(iter(crs.values()))).at < oldest:
            del crs[first.namespace, first.name]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            for crs in self._seen.values():
                self._expire(crs)
            current = [seen for kind in sorted(self._seen) for _, seen in sorted(self._seen[kind].items())]
        runs = [seen for seen in current if seen.kind != _SCHEDULE_KIND]
        schedules = [seen for seen in current if seen.kind == _SCHEDULE_KIND]
        # One family at a time: all of them together would be many times what is kept.
        phases = GaugeMetricFamily("tidb_backup_phase", "1 for the phase that the CR is in.", labels=[*_RUN, "phase"])
        for seen in runs:
            if isinstance(phase := seen.values.get("phase"), str):
                phases.add_metric([seen.kind, seen.namespace, seen.name, seen.schedule, phase], 1)
            elif phase is not None:
                self._errors.labels("phase").inc()
        yield phases
        for name, (text, compute) in _RUN_GAUGES.items():
            family = GaugeMetricFamily(f"tidb_backup_{name}", text, labels=_RUN)
            for seen, value in self._computed(name, compute, runs):
                family.add_metric([seen.kind, seen.namespace, seen.name, seen.schedule], value)
            yield family
        for name, (text, compute) in _SCHEDULE_GAUGES.items():
            family = GaugeMetricFamily(f"tidb_backup_{name}", text, labels=_SCHEDULE)
            for seen, value in self._computed(name, compute, schedules):
                family.add_metric([seen.namespace, seen.name], value)
            yield family

    def _computed(self, name: str, compute: Compute, crs: Iterable[_Seen]) -> Iterator[tuple[_Seen, float]]:
        """Each of *crs* that has the gauge *name*, with its value. One that cannot be computed is left out and counted."""
        now = self._now()
        for seen in crs:
            try:
                value = compute(seen.values, now)
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError):  # TimestampError is a ValueError
                self._errors.labels(name).inc()
                continue
            if value is not None:
                yield seen, value


class Metrics:
    """Everything that ``/metrics`` shows. *series_ttl*: seconds that a CR's series outlive its last sync; *max_crs*: CRs of a
    kind that have series; *monotonic* and *now* are clocks, for tests."""

    def __init__(
        self,
        *,
        series_ttl: float,
        max_crs: int = 10_000,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = CollectorRegistry()
        errors = Counter(
            "tidb_backup_metric_errors",
            "Series left out because a value of the CR makes no sense, at each look at /metrics.",
            ("metric",),
            registry=self._registry,
        )
        left_out = Counter(
            "tidb_backup_crs_left_out",
            "Syncs of CRs that have no series because there are too many of their kind (TIDB_BACKUP_MAX_CRS).",
            ("kind",),
            registry=self._registry,
        )
        self._fleet = _Fleet(ttl=series_ttl, most=max_crs, monotonic=monotonic, now=now, errors=errors, left_out=left_out)
        self._registry.register(self._fleet)
        labels = ("kind", "operation")
        self._requests = Counter(
            "tidb_backup_hook_requests", "Hook requests answered.", (*labels, "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "tidb_backup_hook_duration_seconds", "Time to answer.", labels, registry=self._registry, buckets=_SECONDS
        )
        self._dropped = Counter(
            "tidb_backup_children_dropped",
            "Children left out of an answer, by rule.",
            ("kind", "rule"),
            registry=self._registry,
        )
        self._connections = Counter(
            "tidb_backup_connections_dropped",
            "Connections to the hooks that were closed before their time, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self._codes: dict[tuple[str, str, int], Counter] = {}
        self._timers: dict[tuple[str, str], Histogram] = {}

    def answered(self, kind: str, operation: str, code: int, seconds: float) -> None:
        """Count one request."""
        counter = self._codes.get((kind, operation, code))
        if counter is None:
            counter = self._codes[kind, operation, code] = self._requests.labels(kind, operation, str(code))
        timer = self._timers.get((kind, operation))
        if timer is None:
            timer = self._timers[kind, operation] = self._seconds.labels(kind, operation)
        counter.inc()
        timer.observe(seconds)

    def note(self, kind: str, observed: Observed, status: Mapping[str, Any], *, gone: bool) -> None:
        """Remember how a CR stands; *gone*: it was let go, forget it."""
        if gone:
            self._fleet.drop(kind, observed)
        else:
            self._fleet.note(kind, observed, status)

    def dropped(self, kind: str, rule: str) -> None:
        """Count one child that a rule let go."""
        self._dropped.labels(kind, rule).inc()

    def count_connections(self, count: Callable[[], int]) -> None:
        """Show how many connections to the hooks are open; *count* tells."""
        gauge = Gauge("tidb_backup_connections", "Connections to the hooks that are open.", registry=self._registry)
        gauge.set_function(count)

    def connection_dropped(self, reason: str) -> None:
        """Count one connection that was closed for *reason*."""
        self._connections.labels(reason).inc()

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
