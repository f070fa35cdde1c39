"""Restoring to a point in time: what must hold beyond a sound spec before its Job may run.

==================================================== ===================================================
observed                                             answer
==================================================== ===================================================
the target lies outside what can be restored         ``Invalid`` with the nearest times that can be
TiKV may still collect versions while they come back ``Waiting`` with what to set, until it is set
==================================================== ===================================================

The first is known where the Restore carries the label ``tidb.pingcap.com/backup-schedule``: the schedule's status says what can
be restored. Without the label, and where that schedule is lost with its cluster, the manager asks the storage before it begins.

The second is TiDB Operator's gate: it overrides ``gc.ratio-threshold`` of a TidbCluster while such a Restore runs. No hook
edits a cluster, so here the cluster says so itself, or an annotation of the Restore does.
"""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.domain.cluster import Cluster
from app.domain.observed import Observed, metadata
from app.domain.times import moment, stamp
from app.domain.validation import Admission
from crds.contract import names, tso

GC_ANNOTATION: Final = "tidb.pingcap.com/gc-ratio-threshold-set"
"""``"true"`` on a Restore: gc.ratio-threshold has been set by other means than the cluster's object."""
_GC_OFF: Final = -1.0


def is_pitr(spec: Mapping[str, Any]) -> bool:
    """Whether *spec* restores to a point in time."""
    return bool(spec.get("restoreMode") == "pitr")


def related(spec: Mapping[str, Any], labels: Mapping[str, Any], namespace: str) -> list[dict[str, Any]]:
    """The customize rule that brings the schedule that made the log."""
    schedule = labels.get(names.SCHEDULE_LABEL)
    if not schedule or not is_pitr(spec):
        return []
    return [{"apiVersion": names.API_VERSION, "resource": "backupschedules", "namespace": namespace, "names": [schedule]}]


def judge(admission: Admission, observed: Observed) -> Admission:
    """*admission*, unless this is a point-in-time restore that may not begin."""
    if admission.invalid or not is_pitr(observed.spec):
        return admission
    if problem := _outside(observed):
        return Admission(invalid=problem)
    if admission.waiting or admission.cluster is None or _gc_is_off(observed, admission.cluster):
        return admission
    return Admission(waiting=("GCNotSwitchedOff", _what_to_set(admission.cluster)))


def _outside(observed: Observed) -> str:
    """Why the target cannot be restored; empty when it can, or nothing here tells."""
    spec = observed.spec
    target, start = _tso(spec.get("pitrRestoredTs")), _tso(spec.get("logRestoreStartTs"))
    if not target:
        return ""
    if start and target <= start:
        return f"pitrRestoredTs {_told(target)} is not after logRestoreStartTs {_told(start)}; set a later one"
    schedule, window = _window(observed)
    problem = _outside_window(_second(target), window, f"what BackupSchedule {schedule} can restore")
    return f"{problem}; or remove label {names.SCHEDULE_LABEL}, if the log is not of that schedule" if problem else ""


def _outside_window(time: datetime, window: Mapping[str, Any], where: str) -> str:
    begin, end = moment(window.get("from")), moment(window.get("to"))
    if begin is None or end is None:
        return ""
    if time > end:
        return f"pitrRestoredTs {stamp(time)} is after {where}; the latest is {stamp(end)}; set that, or wait for the log"
    if time < begin:
        return f"pitrRestoredTs {stamp(time)} is before {where}; the earliest is {stamp(begin)}"
    for gap in window.get("gaps") or ():
        left, right = moment(gap.get("from")), moment(gap.get("to"))
        if left and right and left < time < right:
            return f"pitrRestoredTs {stamp(time)} is in a gap of {where}; the nearest are {stamp(left)} and {stamp(right)}"
    return ""


def _window(observed: Observed) -> tuple[str, Mapping[str, Any]]:
    """The related schedule's name and ``status.recoveryWindow``."""
    name = (metadata(observed.parent).get("labels") or {}).get(names.SCHEDULE_LABEL)
    schedules = observed.related.get("BackupSchedule.pingcap.com/v1alpha1") or {}
    schedule = schedules.get(f"{observed.namespace}/{name}") or {}
    return str(name), (schedule.get("status") or {}).get("recoveryWindow") or {}


def _tso(text: Any) -> int:
    try:
        return tso.parse(str(text or ""))
    except tso.TimestampError:
        return 0


def _second(timestamp: int) -> datetime:
    """The time of *timestamp* as precise as the window is told."""
    return tso.to_datetime(timestamp).replace(microsecond=0)


def _told(timestamp: int) -> str:
    return f"{timestamp} ({stamp(tso.to_datetime(timestamp))})"


def _gc_is_off(observed: Observed, cluster: Cluster) -> bool:
    confirmed = (metadata(observed.parent).get("annotations") or {}).get(GC_ANNOTATION) == "true"
    return confirmed or gc_ratio_threshold(cluster.tikv_config) == _GC_OFF


def gc_ratio_threshold(config: object) -> float | None:
    """``gc.ratio-threshold`` in TiKV's *config*: TOML, or (older TidbClusters) an object. None when it does not say.

    >>> gc_ratio_threshold("[gc]\\nratio-threshold = -1"), gc_ratio_threshold({"gc": {"ratio-threshold": 1.1}})
    (-1.0, 1.1)
    >>> gc_ratio_threshold("[gc") is gc_ratio_threshold(None) is None
    True
    """
    if isinstance(config, str):
        try:
            config = tomllib.loads(config)
        except tomllib.TOMLDecodeError:
            return None
    section = config.get("gc") if isinstance(config, Mapping) else None
    value = section.get("ratio-threshold") if isinstance(section, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _what_to_set(cluster: Cluster) -> str:
    where = f"{cluster.config_field} of cluster {cluster.namespace}/{cluster.name}"
    in_object = f"set ratio-threshold = -1.0 under [gc] in {where}; or " if cluster.config_field else ""
    return (
        "while a point in time is restored, TiKV must not collect old versions: "
        f"{in_object}run SET CONFIG tikv `gc.ratio-threshold` = -1 in TiDB and annotate this Restore "
        f'{GC_ANNOTATION}="true". Put the old value back (by default 1.1) when it is complete'
    )
