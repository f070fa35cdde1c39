"""From a spec to a driver. A driver and its SDK are imported only when they are asked for."""

import os
from collections.abc import Mapping
from typing import Any

from backup_manager.errors import UsageError
from backup_manager.storage.base import Storage
from crds.contract.paths import Location, PathError, Provider, location_of, provider_of


def open_storage(spec: Mapping[str, Any], *, location: Location | None = None, env: Mapping[str, str] = os.environ) -> Storage:
    """The storage that *spec* (anything with one of ``s3``, ``gcs``, ``azblob``, ``local``) describes.

    *location* overrides where in it: a recorded path decides over an edited spec. When the spec meanwhile names another
    provider, the environment alone says how to connect. Raises UsageError; connects to nothing yet.
    """
    try:
        place = location or location_of(spec)
    except PathError as error:
        raise UsageError(str(error), hint="Correct the storage in the spec.") from None
    storage: Mapping[str, Any] = (spec.get(place.provider) or {}) if provider_of(spec) is place.provider else {}
    return _OPENERS[place.provider](place, storage, env)


def _s3(location: Location, storage: Mapping[str, Any], env: Mapping[str, str]) -> Storage:
    from backup_manager.storage.s3 import S3Storage  # noqa: PLC0415
    from backup_manager.storage.s3_client import S3Client  # noqa: PLC0415
    from backup_manager.storage.settings import S3Settings  # noqa: PLC0415

    return S3Storage(location, S3Client(location.bucket, S3Settings.of(storage, env)))


def _gcs(location: Location, storage: Mapping[str, Any], env: Mapping[str, str]) -> Storage:
    from backup_manager.storage.gcs import GcsStorage  # noqa: PLC0415
    from backup_manager.storage.settings import GcsSettings  # noqa: PLC0415

    return GcsStorage.connect(location, GcsSettings.of(storage, env))


def _azblob(location: Location, storage: Mapping[str, Any], env: Mapping[str, str]) -> Storage:
    from backup_manager.storage.azblob import AzblobStorage  # noqa: PLC0415
    from backup_manager.storage.settings import AzureSettings  # noqa: PLC0415

    return AzblobStorage.connect(location, AzureSettings.of(storage, env))


def _local(location: Location, _storage: Mapping[str, Any], _env: Mapping[str, str]) -> Storage:
    from backup_manager.storage.local import LocalStorage  # noqa: PLC0415

    return LocalStorage(location)


_OPENERS = {Provider.S3: _s3, Provider.GCS: _gcs, Provider.AZBLOB: _azblob, Provider.LOCAL: _local}
