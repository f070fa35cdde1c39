"""What must hold: looked at with each change of the bucket, and once more when everybody has ended."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from backup_manager.catalog.record import SUFFIX, unpack_objects
from backup_manager.storage.memory import etag_of
from backup_manager.tools import backupmeta
from crds.contract.paths import CONTENT_SUFFIX, OBJECTS_SUFFIX, Location
from tests.support.interleaving.tools import CHECKPOINTS, FILES, SNAPSHOT

OURS: Final = (SUFFIX, OBJECTS_SUFFIX, CONTENT_SUFFIX)


@dataclass(slots=True, eq=False)
class Watch:
    """Watches one bucket. *may_clean* says whether the clean of the CR with a uid was asked for; *fail* takes what is wrong."""

    objects: dict[str, bytes]
    may_clean: Callable[[str], bool]
    fail: Callable[[str], None]
    kept: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Key of each object of a complete backup: uid of its owner, etag."""
    complete: dict[str, str] = field(default_factory=dict)
    """Path of each complete backup: uid of its owner."""
    readable: set[str] = field(default_factory=set)
    """Paths that are complete, or are being cleaned after they were."""

    def keep(self, uid: str, objects: Mapping[str, bytes]) -> None:
        """*objects* are the complete backup of the CR with *uid*, which has no record."""
        self.kept |= {key: (uid, etag_of(data)) for key, data in objects.items()}

    def is_readable(self, location: Location) -> bool:
        """Whether a complete backup lies there, in the path or in the folder of an attempt."""
        return any(f"{location.prefix}/".startswith(f"{path}/") for path in self.readable)

    def changed(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """An object was written or deleted."""
        uid, etag = self.kept.get(key, ("", ""))
        if uid and not self.may_clean(uid) and (after is None or etag_of(after) != etag):
            if self._is_as_good(key, before, after):
                self.kept[key] = (uid, etag_of(after or b""))
            else:
                self.fail(f"{key} belongs to the complete backup of {uid} and was {'overwritten' if after else 'deleted'}")
        if key.endswith(SUFFIX) and "/.history/" not in key:
            self._record(key, before, after)

    def _is_as_good(self, key: str, before: bytes | None, after: bytes | None) -> bool:
        """Whether a br that was frozen, and continued when its successor had completed the same checkpoint, wrote its own list
        of the same snapshot's files, all of which are there: what docs/adr/0001-path-ownership.md says remains."""
        folder, _, name = key.rpartition("/")
        if name != backupmeta.NAME or not before or not after or SNAPSHOT.findall(before) != SNAPSHOT.findall(after):
            return False
        files = FILES.findall(after)[0].decode().split(",")
        return all(f"{folder}/{file}" in self.objects for file in files)

    def _record(self, key: str, before: bytes | None, after: bytes | None) -> None:
        then, now = _parsed(before), _parsed(after)
        if then.get("state") == "Complete":
            owner = str(then["owner"]["uid"])
            stays = now.get("state") == "Complete" and now["owner"]["uid"] == owner
            if not stays and not self.may_clean(owner):
                self.fail(f"the record of the complete backup of {owner} became {now.get('state')} of {_owner(now)}")
            if not stays:
                self._forget(owner)
        if now.get("state") == "Cleaned":
            self.readable.discard(key.removesuffix(SUFFIX))
        if now.get("state") == "Complete":
            self._complete(now)
        elif now.get("state") in {"Cleaned", "Cleaning"} and not now.get("withdrawn") and not self.may_clean(_owner(now)):
            self.fail(f"the record became {now['state']} of {_owner(now)}, whose clean nobody asked for")

    def _complete(self, record: dict[str, Any]) -> None:
        owner, location = _owner(record), Location.parse(record["backupPath"])
        path = location.prefix
        for other, uid in self.complete.items():
            nested = f"{other}/".startswith(f"{path}/") or f"{path}/".startswith(f"{other}/")
            if uid != owner and nested and not self.may_clean(uid):
                self.fail(f"{path} of {owner} and {other} of {uid} are both complete")
        listed = self._listed(record, location)
        gone = [key for key, etag in listed.items() if key not in self.objects or etag_of(self.objects[key]) != etag]
        if gone:
            self.fail(f"the record of {path} is complete and lists {gone[0]}, which is another one or not there")
        snapshots = {mark for key in listed for mark in SNAPSHOT.findall(self.objects.get(key, b""))}
        if len(snapshots) != 1:
            self.fail(f"the complete backup of {owner} at {path} holds {len(snapshots)} snapshots")
        self.complete[path] = owner
        self.readable.add(path)
        self.kept |= {key: (owner, etag) for key, etag in listed.items()}

    def _listed(self, record: dict[str, Any], location: Location) -> dict[str, str]:
        """Absolute key and etag of each object that the record lists. They lie in the folder of an attempt, if it says so."""
        key = f"{location.prefix.rpartition('/')[0]}/{record['objects']}".lstrip("/")
        packed = self.objects.get(key)
        if packed is None:
            self.fail(f"the record of {location.prefix} is complete and its list of objects is not there")
            return {}
        self.kept[key] = (_owner(record), etag_of(packed))
        listed = {name: etag for name, (_, etag) in unpack_objects(packed).items() if not name.startswith(CHECKPOINTS)}
        folder = "/".join(filter(None, (location.prefix, record.get("data"))))
        return {f"{folder}/{name}": etag for name, etag in listed.items()}

    def unrecorded(self, uids: Iterable[str]) -> list[str]:
        """Those of *uids*, of CRs that are Complete, of which no record is."""
        return [f"{uid} is Complete and its record is not" for uid in uids if uid not in self.complete.values()]

    def _forget(self, owner: str) -> None:
        self.kept = {key: kept for key, kept in self.kept.items() if kept[0] != owner}
        self.complete = {path: uid for path, uid in self.complete.items() if uid != owner}


def _parsed(data: bytes | None) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(data) if data else {}
    return found


def _owner(record: dict[str, Any]) -> str:
    return str((record.get("owner") or {}).get("uid") or "")
