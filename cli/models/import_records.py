"""Backups from records: the CRs of a cluster that is gone, complete and never run again (:mod:`app.domain.backup.imported`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.domain.backup.imported import Imported
from app.domain.observed import Object
from backup_manager.catalog.record import Record, State
from backup_manager.masking import MASK
from cli.documents import key_of
from cli.storage_scan import StoredRecord
from crds.contract import names
from crds.v1alpha1 import spec_problems

_NAME_LIMIT: Final = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What becomes of one record: a *backup* to be made, or the reason why not (*skipped*). *notes* say what was left out."""

    record: Record
    backup: dict[str, Any] | None = None
    status: Mapping[str, Any] | None = None
    skipped: str = ""
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """``namespace/name``."""
        if self.backup:
            return "/".join(key_of(self.backup)[1:])
        return f"{self.record.owner.namespace}/{self.record.owner.name}"


def rebuild(
    found: Iterable[StoredRecord], existing: Iterable[Object], *, namespace: str = "", clean_policy: str = "Retain"
) -> list[Rebuilt]:
    """A Backup for every complete record that no CR of *existing* stands for. Of namesakes the newest keeps the name."""
    paths = {str((cr.get("status") or {}).get("backupPath") or "").rstrip("/"): cr for cr in existing}
    taken = {key_of(cr)[1:] for cr in paths.values()} | {key_of(cr)[1:] for cr in existing}
    newest_first = sorted(found, key=lambda filed: filed.record.time_completed or filed.record.time_claimed, reverse=True)
    rebuilt = []
    for filed in newest_first:
        record = filed.record
        if reason := _useless(record):
            rebuilt.append(Rebuilt(record=record, skipped=reason))
        elif (cr := paths.get(record.backup_path.rstrip("/"))) is not None:
            rebuilt.append(Rebuilt(record=record, skipped=f"is there already, as {'/'.join(key_of(cr)[1:])}"))
        else:
            made = _backup(filed, taken, namespace=namespace, clean_policy=clean_policy)
            if made.backup:
                taken.add(key_of(made.backup)[1:])
            rebuilt.append(made)
    return sorted(rebuilt, key=lambda item: (bool(item.skipped), item.name, str(item.record.time_completed)))


def _useless(record: Record) -> str:
    if record.owner.kind != "Backup":
        return f"belongs to a {record.owner.kind}"
    if record.spec.get("backupMode") == "log" or record.operation.startswith("log"):
        return "is a log backup: name its path in a Restore (restoreMode: pitr)"
    if record.state is not State.COMPLETE:
        return f"is {record.state}, not {State.COMPLETE}"
    return "" if record.spec else "keeps no spec"


def _backup(filed: StoredRecord, taken: set[tuple[str, str]], *, namespace: str, clean_policy: str) -> Rebuilt:
    record = filed.record
    imported = Imported(
        record=filed.url,
        path=record.backup_path,
        uid=record.owner.uid,
        commit_ts=record.commit_ts or "",
        size=record.size,
        started=record.time_claimed,
        completed=record.time_completed,
    )
    dropped: list[str] = []
    spec = {**_unmasked(record.spec, "spec", dropped), "cleanPolicy": clean_policy}
    if problems := spec_problems("Backup", spec):
        return Rebuilt(record=record, skipped=f"has a spec that cannot be applied: {problems[0]}")
    place = namespace or record.owner.namespace or "default"
    annotations = {names.IMPORTED_ANNOTATION: imported.to_text()}
    if clean_policy != "Retain":
        # The data is another CR's as far as its record knows; whoever asks for its deletion takes it over.
        annotations[names.CONFIRM_CLEAN_ANNOTATION] = record.owner.uid
    backup = {
        "apiVersion": names.API_VERSION,
        "kind": "Backup",
        "metadata": {"name": _free_name(record, place, taken), "namespace": place, "annotations": annotations},
        "spec": spec,
    }
    notes = [f"{field} was secret and is not kept; set it again before you use it" for field in dropped]
    return Rebuilt(record=record, backup=backup, status=imported.status({}), notes=notes)


def _free_name(record: Record, namespace: str, taken: set[tuple[str, str]]) -> str:
    plain = record.owner.name
    if (namespace, plain) not in taken:
        return plain
    suffix = record.owner.uid.removeprefix("file:").replace("/", "-")[:8].strip("-")
    return f"{names.fit(plain, _NAME_LIMIT - len(suffix) - 1)}-{suffix}"


def _unmasked(value: Any, path: str, dropped: list[str]) -> Any:
    """*value* without what the record had to blank; each place is noted in *dropped*."""
    if isinstance(value, Mapping):
        return dict(_fields(value, path, dropped))
    if isinstance(value, list):
        kept = []
        for index, item in enumerate(value):
            if _is_masked(item):
                dropped.append(f"{path}[{index}]")
            else:
                kept.append(_unmasked(item, f"{path}[{index}]", dropped))
        return kept
    return value


def _fields(value: Mapping[str, Any], path: str, dropped: list[str]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if _is_masked(item):
            dropped.append(f"{path}.{name}")
        elif (kept := _unmasked(item, f"{path}.{name}", dropped)) != [] or item == []:
            yield name, kept


def _is_masked(item: Any) -> bool:
    """Whether *item*, or the value of an environment entry, is blanked."""
    if isinstance(item, Mapping):
        return item.get("value") == MASK
    return isinstance(item, str) and MASK in item
