"""Settings of the webhook, from environment variables that start with ``TIDB_BACKUP_`` (``TIDB_BACKUP_PORT=8080``).

``python -m app`` obeys all of them; under ``uvicorn app.main:app`` address and workers are uvicorn's own arguments.
"""

from dataclasses import fields
from typing import Final, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.config import ClusterKind, Config

_DEFAULT: Final = Config()
_MIB: Final = 1024 * 1024


class Settings(BaseSettings):
    """All settings; those that :class:`app.domain.config.Config` has too are explained there."""

    model_config = SettingsConfigDict(env_prefix="TIDB_BACKUP_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    workers: int = Field(default=1, ge=1)
    """Processes. More than one share nothing, so each answers ``/metrics`` for itself alone; prefer more replicas."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "plain"] = "auto"
    """auto: plain text on a terminal, one JSON object a line elsewhere."""
    max_body: int = Field(default=8 * _MIB, ge=1024)
    """Bytes of a request that are read, more is answered 413."""
    max_schedule_body: int = Field(default=64 * _MIB, ge=1024)
    """The same for BackupSchedules, which come with all their Backups."""
    series_ttl: int = Field(default=3600, ge=60)
    """Seconds after which the metrics of a CR that no request spoke of any more are dropped."""

    manager_image: str = Field(default=_DEFAULT.manager_image, min_length=1)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    service_account: str = Field(default=_DEFAULT.service_account, min_length=1)
    time_zone: str = _DEFAULT.time_zone
    cluster_kinds: tuple[ClusterKind, ...] = _DEFAULT.cluster_kinds
    job_ttl: int = Field(default=_DEFAULT.job_ttl, ge=0)
    start_deadline: int = Field(default=_DEFAULT.start_deadline, ge=1)
    resync: int = Field(default=_DEFAULT.resync, ge=1)
    clean_attempts: int = Field(default=_DEFAULT.clean_attempts, ge=1)
    clean_retry_delay: int = Field(default=_DEFAULT.clean_retry_delay, ge=1)
    max_deletions: int = Field(default=_DEFAULT.max_deletions, ge=1)

    def config(self) -> Config:
        """The part that decisions and builders see."""
        return Config(**{field.name: getattr(self, field.name) for field in fields(Config)})
