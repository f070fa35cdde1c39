"""What the storages tell: records, and the histories beside them. Read with the credentials of this environment."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import dirname
from typing import Any, Final

from backup_manager.catalog import audit_log
from backup_manager.catalog.audit_log import Audit, AuditLog
from backup_manager.catalog.record import SUFFIX, Record, record_location
from backup_manager.errors import AccessDeniedError, ManagerError, NotFoundError, StorageError, UsageError
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from cli.documents import Object
from crds.contract.paths import Location, PathError, Provider, location_of, provider_of

_AT_ONCE: Final = 16
_CREDENTIALS: Final = (
    "Credentials come from this environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_KEY, "
    "GOOGLE_APPLICATION_CREDENTIALS."
)
_OTHER_NAMES: Final = {"gs": "gcs", "azblob": "azure"}
"""Schemes as the providers' own tools write them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """One record as it lies in the storage: where, and the digest of its bytes."""

    record: Record
    url: str
    folder: Location
    digest: str


@dataclass(slots=True, kw_only=True)
class StorageScan:
    """All that was found; *problems* say what could not be read."""

    stored: list[StoredRecord] = field(default_factory=list)
    accounts: list[Audit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, other: "StorageScan") -> None:
        """Put *other* beside it; what both have counts once."""
        known, folders = {item.url for item in self.stored}, {account.folder.url for account in self.accounts}
        self.stored += [item for item in other.stored if item.url not in known]
        self.accounts += [account for account in other.accounts if account.folder.url not in folders]
        self.problems += [problem for problem in other.problems if problem not in self.problems]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTarget:
    """A folder to look into; *spec* tells how to get there, where a CR does."""

    location: Location
    spec: Mapping[str, Any] = field(default_factory=dict)


def spots(urls: Sequence[str]) -> list[ScanTarget]:
    """The folders that *urls* name. Raises UsageError."""
    written = (url.partition("://") for url in urls)
    try:
        return [
            ScanTarget(location=Location.parse(f"{_OTHER_NAMES.get(head, head)}{mark}{rest}")) for head, mark, rest in written
        ]
    except PathError as error:
        raise UsageError(str(error), hint="Write it like s3://bucket/prefix; the endpoint is in S3_ENDPOINT.") from None


def spots_of(crs: Iterable[Object]) -> list[ScanTarget]:
    """The folders in which the records of *crs* lie: those of schedules whole, of others the one beside their data."""
    found: dict[str, ScanTarget] = {}
    for cr in crs:
        spec, status = cr.get("spec") or {}, cr.get("status") or {}
        if cr.get("kind") == "BackupSchedule":
            spec = spec.get("backupTemplate") or {}
        try:
            if not provider_of(spec):
                continue
            location = location_of(spec)
            if cr.get("kind") == "Backup":
                location = _beside(spec, str(status.get("backupPath") or ""), location)
        except PathError:
            continue
        found.setdefault(location.url, ScanTarget(location=location, spec=spec))
    outer = sorted(found.values(), key=lambda spot: (len(spot.location.url), spot.location.url))
    kept: list[ScanTarget] = []
    for spot in outer:
        if not any(other.location.contains(spot.location) for other in kept):
            kept.append(spot)
    return kept


def _beside(spec: Mapping[str, Any], path: str, location: Location) -> Location:
    if path:
        mount = str(((spec.get("local") or {}).get("volumeMount") or {}).get("mountPath") or "")
        location = Location.parse(path, mount_path=mount)
    elif not spec.get("br"):
        return location
    return location.parent


def read_all(places: Sequence[ScanTarget], env: Mapping[str, str] = os.environ, *, lenient: bool = False) -> StorageScan:
    """What lies in *places*; one that cannot be read becomes a problem. With a single one its error is raised, unless
    *lenient*: then there is more to tell than storages do."""
    scan = StorageScan()
    for place in places:
        try:
            _is_here(place.location)
            with closing(open_storage(place.spec, location=place.location, env=env)) as storage:
                scan.add(read(storage))
        except ManagerError as error:
            if len(places) == 1 and not lenient:
                raise _for_users(error) from None
            scan.problems.append(f"{place.location.url}: {error.message}")
    return scan


def _is_here(location: Location) -> None:
    """A volume that Pods mount is seldom mounted here; an absent folder must not look like an empty one."""
    if location.provider is Provider.LOCAL and not Path(location.url.removeprefix("local://")).is_dir():
        raise NotFoundError(
            f"there is no folder {location.url} on this machine", hint="Mount the volume here, or correct the path."
        )


def _for_users(error: ManagerError) -> ManagerError:
    """The driver's hints speak of the Job; here it is the environment that holds credentials."""
    if isinstance(error, AccessDeniedError):
        error.hint = _CREDENTIALS
    return error


def read(storage: Storage) -> StorageScan:
    """The records and histories in the folder, in all folders in it, and the record of the folder itself. Lists all of it."""
    records, folders = [], set()
    for info in storage.list():
        head, separator, _ = f"/{info.key}".partition(f"/{audit_log.FOLDER}/")
        if separator:
            folders.add(head.strip("/"))
        elif info.key.endswith(SUFFIX):
            records.append((storage.location, info.key))
    if storage.location.prefix:
        records.append(record_location(storage.location))
    scan = StorageScan()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for stored, problem in pool.map(lambda item: _filed(storage, *item), records):
            scan.stored += [stored] if stored else []
            scan.problems += [problem] if problem else []
        chains = [
            AuditLog(storage, storage.location.child(folder) if folder else storage.location) for folder in sorted(folders)
        ]
        scan.accounts = list(pool.map(AuditLog.read, chains))
    return scan


def _filed(storage: Storage, base: Location, key: str) -> tuple[StoredRecord | None, str]:
    folder = base.child(dirname(key)) if dirname(key) else base
    url = f"{base.url.rstrip('/')}/{key}"
    try:
        data = storage.at(base).read(key)
        return StoredRecord(record=Record.parse(data, url), url=url, folder=folder, digest=audit_log.digest(data)), ""
    except NotFoundError:
        return None, ""
    except StorageError as error:
        return None, error.message
