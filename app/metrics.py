"""Metrics of the webhook: how hooks are answered, and how each CR stands.

The gauges of a CR are made from what its last sync saw, when somebody scrapes; so a CR that is finalized, or that nobody
spoke of for a while, has no series any more. Names and labels are a promise to alert rules and dashboards. With several
replicas each knows the syncs that it answered: take the maximum over instances.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.domain import cron
from app.domain.observed import Observed, metadata
from app.domain.scheduled import BACKUPS, state_of
from app.domain.times import moment
from crds import names, tso

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN: Final = ("kind", "namespace", "name", "schedule")
_SCHEDULE: Final = ("namespace", "schedule")
_LOG_ENDS: Final = frozenset({"Stopped", "Clean", "CleanFailed"})
"""Phases of a log backup that no longer is to follow its cluster. A failed one still should."""
_GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "phase": ("1 for the phase that the CR is in.", (*_RUN, "phase")),
    "run_duration_seconds": ("How long the run took, once it ended.", _RUN),
    "run_bytes": ("Size of the data.", _RUN),
    "run_completed_timestamp_seconds": ("When the run ended.", _RUN),
    "log_checkpoint_timestamp_seconds": ("Up to when a log backup that should be running has the log.", _RUN),
    "clean_objects_deleted": ("Objects that the clean deleted.", _RUN),
    "clean_objects_failed": ("Objects that the clean could not delete.", _RUN),
    "schedule_last_success_timestamp_seconds": ("When a Backup of the schedule was last complete.", _SCHEDULE),
    "schedule_last_status": ("1 when the newest Backup is complete, 0 when it failed; absent while it runs.", _SCHEDULE),
    "schedule_next_run_timestamp_seconds": (
        "When the next run is due; in the past while it is kept from beginning.",
        _SCHEDULE,
    ),
    "schedule_expected_interval_seconds": ("The longest wait between two of the coming runs.", _SCHEDULE),
    "schedule_kept_backups": ("Complete Backups that retention keeps.", _SCHEDULE),
    "schedule_oldest_kept_timestamp_seconds": ("Age of the oldest complete Backup, as the time of its data.", _SCHEDULE),
    "schedule_recovery_window_seconds": ("How far back one can go to any point in time.", _SCHEDULE),
    "schedule_paused": ("1 while the schedule is paused.", _SCHEDULE),
    "schedule_stalled": ("1 while a run that is due is kept from beginning.", _SCHEDULE),
}

Sample = tuple[str, tuple[str, ...], float]
"""A gauge's name, its label values, its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the last sync of one CR left behind."""

    kind: str
    namespace: str
    name: str
    schedule: str
    timetable: tuple[str, str, str]
    status: Mapping[str, Any]
    last_state: str
    at: float


class _Fleet(Collector):
    """The CRs seen, and their gauges."""

    def __init__(self, ttl: float, monotonic: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._ttl, self._monotonic, self._now = ttl, monotonic, now
        self._seen: dict[tuple[str, str, str], _Seen] = {}
        self._lock = threading.Lock()

    def note(self, kind: str, observed: Observed, status: Mapping[str, Any]) -> None:
        meta, spec = metadata(observed.parent), observed.spec
        seen = _Seen(
            kind=kind,
            namespace=observed.namespace,
            name=observed.name,
            schedule=str((meta.get("labels") or {}).get(names.SCHEDULE_LABEL) or ""),
            timetable=(
                str(spec.get("schedule") or ""),
                str(spec.get("timeZone") or ""),
                str(meta.get("creationTimestamp") or ""),
            ),
            status=status,
            last_state=_last_state(observed, status) if kind == "backupschedule" else "",
            at=self._monotonic(),
        )
        with self._lock:
            self._seen[kind, seen.namespace, seen.name] = seen

    def drop(self, kind: str, observed: Observed) -> None:
        with self._lock:
            self._seen.pop((kind, observed.namespace, observed.name), None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        oldest = self._monotonic() - self._ttl
        with self._lock:
            self._seen = {key: seen for key, seen in self._seen.items() if seen.at >= oldest}
            current = [self._seen[key] for key in sorted(self._seen)]
        families = {
            name: GaugeMetricFamily(f"tidb_backup_{name}", text, labels=labels) for name, (text, labels) in _GAUGES.items()
        }
        for seen in current:
            # A status that cannot be read costs the series of its CR, not everybody's.
            with suppress(AttributeError, TypeError, ValueError, OverflowError):
                for name, labels, value in list(_samples(seen, self._now())):
                    families[name].add_metric(labels, value)
        yield from families.values()


def _last_state(observed: Observed, status: Mapping[str, Any]) -> str:
    """State of the schedule's newest Backup."""
    key = f"{observed.namespace}/{status.get('lastBackup')}"
    backup = (observed.children.get(BACKUPS) or {}).get(key)
    return str(state_of(backup)) if backup else ""


def _samples(seen: _Seen, now: datetime) -> Iterable[Sample]:
    return _schedule_samples(seen, now) if seen.kind == "backupschedule" else _run_samples(seen)


def _run_samples(seen: _Seen) -> Iterator[Sample]:
    status = seen.status
    labels = (seen.kind, seen.namespace, seen.name, seen.schedule)
    if phase := status.get("phase") or status.get("state"):
        yield "phase", (*labels, str(phase)), 1
    started, completed = moment(status.get("timeStarted")), moment(status.get("timeCompleted"))
    if completed:
        yield "run_completed_timestamp_seconds", labels, completed.timestamp()
        if started:
            yield "run_duration_seconds", labels, (completed - started).total_seconds()
    for name, part, field in (
        ("run_bytes", status, "backupSize"),
        ("clean_objects_deleted", status.get("cleanStatus") or {}, "deleted"),
        ("clean_objects_failed", status.get("cleanStatus") or {}, "failed"),
    ):
        if isinstance(value := part.get(field), int | float):
            yield name, labels, value

    if status.get("logSubCommandStatuses") and status.get("phase") not in _LOG_ENDS:
        # Before the first look the start stands for it, so that a watch that never looks is noticed too.
        with suppress(tso.TimestampError):
            if reached := tso.parse(str(status.get("logCheckpointTs") or status.get("commitTs") or "")):
                yield "log_checkpoint_timestamp_seconds", labels, tso.to_datetime(reached).timestamp()


def _schedule_samples(seen: _Seen, now: datetime) -> Iterator[Sample]:
    status, labels = seen.status, (seen.namespace, seen.name)
    for name, text in (
        ("schedule_last_success_timestamp_seconds", status.get("lastSuccessTime")),
        ("schedule_next_run_timestamp_seconds", status.get("nextBackupTime")),
        ("schedule_oldest_kept_timestamp_seconds", (status.get("retention") or {}).get("oldest")),
    ):
        if time := moment(text):
            yield name, labels, time.timestamp()
    if seen.last_state in {"complete", "failed"}:
        yield "schedule_last_status", labels, float(seen.last_state == "complete")
    if isinstance(kept := (status.get("retention") or {}).get("kept"), int | float):
        yield "schedule_kept_backups", labels, kept
    window = status.get("recoveryWindow") or {}
    begin, end = moment(window.get("from")), moment(window.get("to"))
    if begin and end:
        # Only the last stretch is without gaps.
        last_gap = moment((window.get("gaps") or [{}])[-1].get("to"))
        yield "schedule_recovery_window_seconds", labels, (end - (last_gap or begin)).total_seconds()
    yield from _expected(seen, now)
    conditions = {item.get("type") for item in status.get("conditions") or ()}
    yield "schedule_paused", labels, float("Paused" in conditions)
    yield "schedule_stalled", labels, float("ScheduleStalled" in conditions)


def _expected(seen: _Seen, now: datetime) -> Iterator[Sample]:
    text, zone, created = seen.timetable
    try:
        timetable = cron.parse(text, anchor=moment(created) or now, tz=cron.zone(zone))
        yield (
            "schedule_expected_interval_seconds",
            (seen.namespace, seen.name),
            cron.interval(timetable, now).total_seconds(),
        )
    except cron.CronError:
        return  # the CR says so in its condition Invalid


class Metrics:
    """Everything that ``/metrics`` shows. *monotonic* and *now* are clocks, for tests."""

    def __init__(
        self,
        *,
        series_ttl: float,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = CollectorRegistry()
        self._fleet = _Fleet(series_ttl, monotonic, now)
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

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
