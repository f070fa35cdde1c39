"""The Backups and compactions that a schedule makes, from its templates (reference 5.5).

Every run of BR gets a folder of its own, named after its slot, under the template's prefix; a log backup one named after the
time it was first asked for, and its compactions the same. Exports need none: each writes to a folder with its own uid. What the
schedule says about pull secrets replaces the templates', what it says about volumes only fills gaps of export templates.
"""

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.builders.labels import own
from app.domain.config import Config
from app.domain.observed import Observed, metadata
from app.domain.recorded import parent_as_recorded
from app.domain.schedule import compaction
from app.domain.schedule.reconcile import CompactLog, LogBackup, ScheduleIntent, Snapshot
from app.domain.times import stamp
from crds.contract import names
from crds.contract.paths import normalise, provider_of

_LAYOUT: Final = "%Y-%m-%dt%H-%M-%S"
_PD_PORT: Final = 2379
_PLACE: Final = ("bucket", "container", "volume", "volumeMount", "prefix")
_EXPORT_FALLBACKS: Final = ("storageClassName", "volumeAttributesClassName", "storageSize")


def build(observed: Observed, intent: ScheduleIntent, _config: Config) -> dict[str, Any]:
    """The child that *intent* asks for."""
    if isinstance(intent, Snapshot):
        spec = _snapshot(observed, intent.slot)
        return _child(observed, "Backup", intent.name, spec, {names.SLOT_ANNOTATION: stamp(intent.slot)})
    if isinstance(intent, LogBackup):
        spec = _template(observed, "logBackupTemplate")
        _append(spec, f"log-{intent.since.strftime(_LAYOUT)}")
        return _child(observed, "Backup", intent.name, spec, {})
    return _child(observed, "CompactBackup", intent.name, _compaction(observed, intent), {})


def _snapshot(observed: Observed, slot: datetime) -> dict[str, Any]:
    spec = _template(observed, "backupTemplate")
    if br := spec.get("br"):
        namespace = br.get("clusterNamespace") or observed.namespace
        _append(spec, f"{br['cluster']}-pd.{namespace}-{_PD_PORT}-{slot.strftime(_LAYOUT)}")
        return spec
    for field in _EXPORT_FALLBACKS:
        if not spec.get(field) and observed.spec.get(field):
            spec[field] = observed.spec[field]
    return spec


def _compaction(observed: Observed, intent: CompactLog) -> dict[str, Any]:
    """The compaction works in the folder that the log backup began in, whatever its spec and the template say since."""
    spec = _template(observed, "compactBackupTemplate")
    log_spec = parent_as_recorded(intent.log).get("spec") or {}
    theirs, ours = provider_of(log_spec), provider_of(spec)
    if theirs and theirs is ours:
        place = {field: log_spec[theirs][field] for field in _PLACE if log_spec[theirs].get(field)}
        spec[ours] = {**spec[ours], **place}
    spec["startTs"], spec["endTs"] = compaction.text(intent.stretch.start), compaction.text(intent.stretch.end)
    return spec


def _template(observed: Observed, field: str) -> dict[str, Any]:
    spec: dict[str, Any] = copy.deepcopy(dict(observed.spec[field]))
    if observed.spec.get("imagePullSecrets") is not None:
        spec["imagePullSecrets"] = copy.deepcopy(observed.spec["imagePullSecrets"])
    return spec


def _append(spec: dict[str, Any], folder: str) -> None:
    """Put *folder* under the prefix of the storage that *spec* names."""
    provider = provider_of(spec)
    if provider:
        storage: Mapping[str, Any] = spec[provider]
        spec[provider] = {**storage, "prefix": normalise(f"{storage.get('prefix') or ''}/{folder}")}


def _child(observed: Observed, kind: str, name: str, spec: dict[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    meta = metadata(observed.parent)
    schedule = names.fit(observed.name)
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if own(key)}
    inherited = {key: value for key, value in (meta.get("annotations") or {}).items() if own(key)} | dict(annotations)
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": observed.namespace,
            "labels": {
                **labels,
                names.NAME_LABEL: "backup-schedule",
                names.MANAGED_BY_LABEL: "backup-schedule-operator",
                names.INSTANCE_LABEL: schedule,
                names.SCHEDULE_LABEL: schedule,
            },
            **({"annotations": inherited} if inherited else {}),
        },
        "spec": spec,
    }
