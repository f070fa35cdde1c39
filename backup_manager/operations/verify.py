"""Verify: the storage against the record. What is missing, what is extra, what changed; exit 4 when anything differs.

Compared are names, sizes and what the provider gives as a content mark in a listing (etag, crc32c, md5), and the schemas and
tables of the artefact with those of the record. Of the data only ``backupmeta`` and its side files are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backup_manager.catalog.record import Record, State, is_data
from backup_manager.catalog.records import Records
from backup_manager.content import Item
from backup_manager.context import Context, Result
from backup_manager.errors import CheckError, NotFoundError, PermanentError
from backup_manager.storage.base import ObjectInfo, Storage
from backup_manager.storage.factory import open_storage
from backup_manager.tidb import accounts, schema_objects
from backup_manager.tools import backupmeta, br, br_runner, dumpling
from crds.contract import names
from crds.contract.paths import Location, PathError, location_of

STEP: Final = "Verify"
_NAMED: Final = 10


@dataclass(slots=True)
class Differences:
    """What does not match: all counted, the first few named."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"missing": 0, "extra": 0, "changed": 0})

    def add(self, kind: str, what: str) -> None:
        """One difference."""
        self.counts[kind] += 1
        named: list[str] = getattr(self, kind)
        if len(named) < _NAMED:
            named.append(what[:200])

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        named = {"missingKeys": self.missing, "extraKeys": self.extra, "changedKeys": self.changed}
        return {**self.counts, **{name: keys for name, keys in named.items() if keys}}


def compare(kept: Mapping[str, tuple[int, str]], listed: Iterable[ObjectInfo]) -> Differences:
    """What differs between the *kept* list and what is *listed* now.

    >>> compare({"a": (1, "x"), "b": (1, "y")}, [ObjectInfo(key="b", size=2), ObjectInfo(key="c", size=1)]).counts
    {'missing': 1, 'extra': 1, 'changed': 1}
    """
    left, found = dict(kept), Differences()
    for info in listed:
        was = left.pop(info.key, None)
        if was is None:
            found.add("extra", info.key)
        elif was[0] != info.size:
            found.add("changed", f"{info.key}: {was[0]} bytes then, {info.size} now")
        elif was[1] and info.etag and was[1] != info.etag:
            found.add("changed", f"{info.key}: content mark {was[1]} then, {info.etag} now")
    for key in sorted(left):
        found.add("missing", key)
    return found


def run(context: Context) -> Result:
    """Compare, and tell. Raises CheckError when something differs."""
    context.journal.running()
    context.journal.step(STEP)
    location = _location(context)
    storage = open_storage(context.resource.spec, location=location, env=context.env)
    try:
        records = Records(storage, now=context.now)
        record = records.load()
        if record is None:
            raise NotFoundError(
                f"{location.url} has no record",
                reason="NoRecord",
                hint="Data of TiDB Operator, or a run that never began: there is nothing to compare with.",
            )
        _judge_state(record)
        data = records.data_storage(record)
        # Lists of earlier releases name records and histories of other paths too.
        kept = {key: was for key, was in records.objects(record).items() if is_data(key)}
        listed = [info for info in data.list() if is_data(info.key)]
        found = compare(kept, listed)
        held = _content(records, record, data, listed, found)
    finally:
        storage.close()
    where = {"dataPath": data.location.url} if record.data else {}
    context.journal.note(objectCount=record.object_count, **where, **found.to_dict(), content=held)
    context.journal.step(STEP, 100)
    if found.total:
        counts = ", ".join(f"{count} {kind}" for kind, count in found.counts.items() if count)
        first = (*found.missing, *found.changed, *found.extra)[0]
        raise CheckError(
            f"{location.url}: {counts}; first {first}",
            reason="VerifyFailed",
            hint="Do not rely on this backup before you know why; the keys are in the report.",
        )
    return Result(backup_size=record.size, details={"recordedBy": str(record.owner)})


def _content(
    records: Records, record: Record, data: Storage, listed: Sequence[ObjectInfo], found: Differences
) -> dict[str, Any]:
    """What the artefact holds now against what the record tells; differences go to *found*. ``{"known": False}`` for a record
    of a release that did not look. What only its tool can read is not looked into."""
    then = records.items(record)
    if record.content is None or then is None:
        return {"known": False}
    told = {"known": True, **record.content.plain()}
    if not record.content.readable:
        return told
    if record.tool == br.NAME:
        now, files = br_runner.read_content(data)
        now = backupmeta.users(now)
        if damage := br_runner.damage(files, listed):
            found.add("changed", damage)
    else:
        now = [*dumpling.items((info.key, info.size) for info in listed), *_described(record, data, listed, found)]
    before, after = ({(item.kind, item.place, item.files) for item in items} for items in (then, now))
    for kind, place, _ in sorted(before - after):
        found.add("missing", f"{kind} {place}: not as recorded")
    return told


def _described(record: Record, data: Storage, listed: Sequence[ObjectInfo], found: Differences) -> list[Item]:
    """What an export's own documents describe: views and sequences, and users, whose number is compared at once."""
    keys = {info.key for info in listed}
    try:
        if record.content and record.content.users is not None and accounts.KEY in keys:
            accounts.of_dump(keys, data.read, data.location.url, recorded=record.content.users)
        return schema_objects.of_dump(keys & {schema_objects.KEY}, data.read, data.location.url).items()
    except PermanentError as error:
        found.add("changed", error.message)
        return []


def _judge_state(record: Record) -> None:
    """Only a finished backup has an account to compare with."""
    if record.state is State.COMPLETE:
        return
    hints = {
        State.CLAIMED: "Its run has not ended, or was killed.",
        State.FAILED: record.problem.message if record.problem else "Its run failed.",
        State.CLEANING: "Its clean has not ended.",
        State.CLEANED: "The claim on this path was withdrawn before anything was written."
        if record.withdrawn
        else f"Deleted {record.cleaned.at:%Y-%m-%d %H:%M:%S}Z, {record.cleaned.why}."
        if record.cleaned
        else "",
    }
    raise CheckError(
        f"{record.backup_path} is {record.state}, not {State.COMPLETE}", reason="NotComplete", hint=hints[record.state]
    )


def _location(context: Context) -> Location:
    """The recorded path, else the spec's."""
    resource = context.resource
    told = (
        context.flags.get("backupPath")
        or context.env.get(names.ENV_BACKUP_PATH)
        or str(resource.status.get("backupPath") or "")
    )
    mount = ((resource.spec.get("local") or {}).get("volumeMount") or {}).get("mountPath") or ""
    try:
        return Location.parse(told, mount_path=str(mount)) if told else location_of(resource.spec)
    except PathError as error:
        raise NotFoundError(str(error), reason="BackupPathIsEmpty", hint="Correct the recorded path.") from None
