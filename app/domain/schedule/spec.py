"""The spec of a BackupSchedule, read into what the decisions need, or refused with the field and the fix.

The schema's own rules come first (:func:`crds.v1alpha1.spec_problems`); here is what it cannot say: whether the times can
ever come, whether a limit limits anything, whether the templates have a storage. A spec that is refused creates nothing and
deletes nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final

from app.domain.config import Config
from app.domain.schedule import cron
from app.domain.schedule.cron import Timetable
from app.domain.schedule.retention import Policy, Rule
from crds.contract import durations, tso
from crds.contract.paths import PathError, location_of, normalise, provider_of, reserved_part
from crds.v1alpha1 import spec_problems

_TEMPLATES: Final = ("backupTemplate", "logBackupTemplate", "compactBackupTemplate")
_COUNTS: Final = (
    Rule.KEEP_LAST,
    Rule.KEEP_HOURLY,
    Rule.KEEP_DAILY,
    Rule.KEEP_WEEKLY,
    Rule.KEEP_MONTHLY,
    Rule.KEEP_YEARLY,
)
_ZERO: Final = timedelta(0)


class ScheduleError(ValueError):
    """A spec that cannot work: every problem in one line, each with its field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A sound spec. *compaction* is how much of the log one compaction takes, None without a template for it."""

    timetable: Timetable
    policy: Policy
    pause: bool = False
    immediately: bool = False
    forbid: bool = True
    deadline: timedelta | None = None
    log: bool = False
    compaction: timedelta | None = None
    compaction_from: datetime | None = None

    @property
    def limited(self) -> bool:
        """Whether anything is ever deleted."""
        policy = self.policy
        return bool(policy.max_backups or policy.max_reserved_time or policy.counts or policy.within)


def read(spec: Mapping[str, Any], *, created: datetime, config: Config) -> Schedule:
    """*spec* as a :class:`Schedule`; *created* is where ``@every`` counts from. Raises ScheduleError."""
    problems = [str(problem) for problem in spec_problems("BackupSchedule", spec)] or list(_problems(spec))
    timetable = None
    try:
        zone = cron.zone(str(spec.get("timeZone") or ""))
    except cron.CronError as error:
        raise ScheduleError("; ".join([*problems, f"spec.timeZone: {error}"])) from None
    try:
        timetable = cron.parse(str(spec.get("schedule") or ""), anchor=created, tz=zone)
    except cron.CronError as error:
        problems.append(f"spec.schedule: {error}")
    if problems or timetable is None:
        raise ScheduleError("; ".join(problems))
    deadline = spec.get("startingDeadlineSeconds")
    compacts = bool(spec.get("compactBackupTemplate")) and bool(spec.get("logBackupTemplate"))
    floor = tso.parse(str(spec.get("minCompactStartTs") or ""))
    return Schedule(
        timetable=timetable,
        policy=_policy(spec, zone, config),
        pause=bool(spec.get("pause")),
        immediately=bool(spec.get("runImmediately")),
        forbid=spec.get("concurrencyPolicy") != "Allow",
        deadline=timedelta(seconds=deadline) if deadline else None,
        log=bool(spec.get("logBackupTemplate")),
        compaction=durations.parse(str(spec["compactInterval"])) if compacts else None,
        compaction_from=tso.to_datetime(floor) if floor else None,
    )


def _policy(spec: Mapping[str, Any], zone: tzinfo, config: Config) -> Policy:
    retention: Mapping[str, Any] = spec.get("retention") or {}
    reserved, within = spec.get("maxReservedTime"), retention.get("keepWithin")
    limit = spec.get("failedHistoryLimit")
    return Policy(
        max_backups=spec.get("maxBackups") or None,
        max_reserved_time=durations.parse(reserved) if reserved else None,
        counts={rule: retention[rule] for rule in _COUNTS if retention.get(rule)},
        within=durations.parse_span(within) if within else None,
        min_keep=retention.get("minKeep") or 1,
        failed_history=5 if limit is None else limit,
        zone=zone,
        pitr=bool(spec.get("logBackupTemplate")),
        max_deletions=config.max_deletions,
    )


def _problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """What the schema cannot say about a *spec* that is sound to it."""
    if spec.get("startingDeadlineSeconds") == 0:
        yield "spec.startingDeadlineSeconds: 0 lets no run begin; leave it out, or write 1 or more"
    for field, text, parse in (
        ("maxReservedTime", spec.get("maxReservedTime"), durations.parse),
        ("compactInterval", spec.get("compactInterval"), durations.parse),
        ("retention.keepWithin", (spec.get("retention") or {}).get("keepWithin"), durations.parse_span),
    ):
        if text is not None and (not text or parse(text) <= _ZERO):
            yield f"spec.{field}: {text!r} is no positive duration; leave it out, or write one like 168h"
    for field in _TEMPLATES:
        template = spec.get(field)
        if template is not None:
            try:
                part = reserved_part(location_of(template).prefix)
                # The folder of each run carries the cluster's name.
                normalise(str((template.get("br") or {}).get("cluster") or ""), field="br.cluster")
            except PathError as error:
                yield f"spec.{field}: {error}"
                continue
            if part:
                rule = "is reserved for the records beside backups; choose another prefix"
                yield f"spec.{field}.{provider_of(template)}.prefix: the part {part!r} {rule}"
    if spec.get("logBackupTemplate") and not (spec["logBackupTemplate"].get("br") or {}).get("cluster"):
        yield "spec.logBackupTemplate.br.cluster: is missing; a log backup works through br"
    if spec.get("compactBackupTemplate"):
        if not spec.get("logBackupTemplate"):
            yield "spec.compactBackupTemplate: there is no log to compact; set logBackupTemplate"
        if spec.get("compactInterval") is None:
            yield "spec.compactInterval: is missing; say how much of the log one compaction takes, like 24h"
