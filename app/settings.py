"""Settings of the webhook, from environment variables that start with ``TIDB_BACKUP_`` (``TIDB_BACKUP_PORT=8080``).

``python -m app`` obeys all of them; under ``uvicorn app.main:app`` addresses, TLS and connections are uvicorn's own matter.
"""

from dataclasses import fields
from pathlib import Path
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
    """Port of the hooks."""
    status_port: int = Field(default=8081, ge=0, le=65535)
    """Port of ``/metrics``, ``/healthz`` and ``/readyz``, without TLS and token."""
    token_file: Path | None = None
    """File with the tokens that callers of a hook may present, one a line; read again when it changes. Without it everybody may
    call."""
    tls_cert_file: Path | None = None
    """File with the certificate (and its chain) in PEM, read again when it changes; needs tls_key_file. Without it the hooks
    are served as plain HTTP."""
    tls_key_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "plain"] = "auto"
    """auto: plain text on a terminal, one JSON object a line elsewhere."""
    max_body: int = Field(default=8 * _MIB, ge=1024)
    """Bytes of a request that are read, more is answered 413."""
    max_schedule_body: int = Field(default=64 * _MIB, ge=1024)
    """The same for BackupSchedules, which come with all their Backups."""
    max_bodies: int = Field(default=80 * _MIB, ge=1024)
    """Bytes of all requests together that are held at a time; what does not fit is answered 503."""
    max_connections: int = Field(default=128, ge=8)
    """Connections to the port of the hooks. When one more comes, the one that has been idle for longest is closed, one without
    a token first."""
    header_timeout: int = Field(default=10, ge=1)
    """Seconds for the TLS handshake, and for the head of a request."""
    body_timeout: int = Field(default=30, ge=1)
    """Seconds for the body of a request. Metacontroller gives up after 30 itself."""
    max_crs: int = Field(default=10_000, ge=1)
    """CRs of a kind that have metrics of their own; more are left out, and counted."""
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
