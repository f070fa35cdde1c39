"""Connection settings of each provider: the CR's words first, then the Job's environment.

One reading for our own drivers and for br, dumpling and lightning (:mod:`backup_manager.storage.tool_urls`), so that what we
can read the tools can write. The environment is TiDB Operator 1.6's (S3_ENDPOINT, AWS_REGION, AZURE_STORAGE_KEY, ...).
Secrets never show in ``repr``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

from backup_manager import credentials
from backup_manager.errors import AccessDeniedError, UsageError
from crds.contract.paths import without_user

_HOST_STYLE: Final = frozenset({"alibaba", "netease"})
"""Providers that refuse path-style addresses, as br has it."""


def _endpoint(text: str, *, name: str, default_scheme: str = "") -> str:
    """*text* as ``scheme://host[:port][/path]`` without a user and a trailing slash; empty stays empty. Raises UsageError."""
    text = without_user(text.strip()).rstrip("/")
    if text and default_scheme and "://" not in text:
        text = f"{default_scheme}://{text}"
    parts = urlsplit(text)
    if text and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise UsageError(
            f"{name} {text!r} is no http:// or https:// address",
            hint=f"Write the scheme too, for example {name}: https://{parts.path or parts.hostname or 's3.example.com'}",
            reason="InvalidEndpoint",
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """An S3-compatible store. *region* is empty when none was given; the driver then signs for ``us-east-1``."""

    provider: str = ""
    endpoint: str = ""
    region: str = ""
    path_style: bool = True
    path_style_set: bool = False
    acl: str = ""
    storage_class: str = ""
    sse: str = ""
    sse_kms_key_id: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    ca_bundle: str = ""

    @classmethod
    def of(cls, storage: Mapping[str, Any], env: Mapping[str, str]) -> Self:
        """From ``spec.s3`` and the environment. Raises UsageError."""

        def text(field_name: str, variable: str) -> str:
            return str(storage.get(field_name) or env.get(variable) or "").strip()

        provider = text("provider", "S3_PROVIDER")
        access, secret = credentials.value(env, "AWS_ACCESS_KEY_ID"), credentials.value(env, "AWS_SECRET_ACCESS_KEY")
        if bool(access) != bool(secret):
            missing = "AWS_SECRET_ACCESS_KEY" if access else "AWS_ACCESS_KEY_ID"
            raise UsageError(
                f"{missing} is empty, its counterpart is not",
                hint="The Secret named by s3.secretName needs both keys, access_key and secret_key.",
                reason="InvalidCredentials",
            )
        styled = storage.get("forcePathStyle")
        options = _rclone_options(storage.get("options") or ())
        return cls(
            provider=provider,
            endpoint=_endpoint(
                text("endpoint", "S3_ENDPOINT"), name="s3.endpoint", default_scheme="http" if provider == "ceph" else ""
            ),
            region=text("region", "AWS_REGION"),
            path_style=provider not in _HOST_STYLE if styled is None else bool(styled),
            path_style_set=styled is not None,
            acl=text("acl", "AWS_ACL"),
            storage_class=text("storageClass", "AWS_STORAGE_CLASS"),
            sse=str(storage.get("sse") or options.get("s3-server-side-encryption", "")),
            sse_kms_key_id=options.get("s3-sse-kms-key-id", ""),
            access_key=access,
            secret_key=secret,
            session_token=credentials.value(env, "AWS_SESSION_TOKEN"),
            ca_bundle=env.get("AWS_CA_BUNDLE") or env.get("SSL_CERT_FILE") or "",
        )


def _rclone_options(options: Any) -> dict[str, str]:
    """``spec.s3.options`` are rclone flags upstream; the encryption ones among them still count."""
    flags = (str(option).strip().lstrip("-").partition("=") for option in options)
    return {name: value.strip() for name, _, value in flags}


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsSettings:
    """Google Cloud Storage. *key_json* is a service account's key; empty: the workload's own identity."""

    project: str = ""
    storage_class: str = ""
    object_acl: str = ""
    endpoint: str = ""
    key_json: str = field(default="", repr=False)
    key_file: str = ""
    ca_bundle: str = ""

    @classmethod
    def of(cls, storage: Mapping[str, Any], env: Mapping[str, str]) -> Self:
        """From ``spec.gcs`` and the environment; an empty key (a mounted but empty Secret) counts as none."""

        def text(field_name: str, variable: str) -> str:
            return str(storage.get(field_name) or env.get(variable) or "").strip()

        return cls(
            project=text("projectId", "GCS_PROJECT_ID"),
            storage_class=text("storageClass", "GCS_STORAGE_CLASS"),
            object_acl=text("objectAcl", "GCS_OBJECT_ACL"),
            endpoint=_endpoint(env.get("STORAGE_EMULATOR_HOST", ""), name="STORAGE_EMULATOR_HOST", default_scheme="http"),
            key_json=credentials.value(env, "GCS_SERVICE_ACCOUNT_JSON_KEY"),
            key_file=credentials.value(env, "GOOGLE_APPLICATION_CREDENTIALS"),
            ca_bundle=env.get("REQUESTS_CA_BUNDLE") or env.get("SSL_CERT_FILE") or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSettings:
    """Azure Blob Storage. The order of precedence is upstream's and the tools': SAS token, AAD application, shared key."""

    account: str = ""
    sas_token: str = field(default="", repr=False)
    account_key: str = field(default="", repr=False)
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    access_tier: str = ""
    endpoint: str = ""
    account_in_spec: bool = False
    ca_bundle: str = ""

    @property
    def application(self) -> bool:
        """Whether all three values of an AAD application are there."""
        return bool(self.tenant_id and self.client_id and self.client_secret)

    def missing(self) -> AccessDeniedError:
        """The error for no usable credentials."""
        return AccessDeniedError(
            f"no credentials for the storage account {self.account}",
            reason="NoCredentials",
            hint="Put AZURE_STORAGE_KEY, or AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID, into the Secret named by "
            "azblob.secretName; or set azblob.sasToken.",
        )

    @classmethod
    def of(cls, storage: Mapping[str, Any], env: Mapping[str, str]) -> Self:
        """From ``spec.azblob`` and the environment. Raises UsageError when no account is named."""
        account = str(storage.get("storageAccount") or "").strip() or credentials.value(env, "AZURE_STORAGE_ACCOUNT")
        token = credentials.trimmed(str(storage.get("sasToken") or "")) or credentials.value(env, "AZURE_STORAGE_SAS_TOKEN")
        if not account:
            raise UsageError(
                "azblob: no storage account",
                hint="Set azblob.storageAccount, or the key AZURE_STORAGE_ACCOUNT of the Secret named by azblob.secretName.",
            )
        return cls(
            account=account,
            account_in_spec=bool(storage.get("storageAccount")),
            sas_token=token.lstrip("?"),
            account_key=credentials.value(env, "AZURE_STORAGE_KEY"),
            tenant_id=credentials.value(env, "AZURE_TENANT_ID"),
            client_id=credentials.value(env, "AZURE_CLIENT_ID"),
            client_secret=credentials.value(env, "AZURE_CLIENT_SECRET"),
            access_tier=str(storage.get("accessTier") or env.get("AZURE_ACCESS_TIER") or "").strip(),
            endpoint=_endpoint(env.get("AZURE_STORAGE_ENDPOINT", ""), name="AZURE_STORAGE_ENDPOINT"),
            ca_bundle=env.get("REQUESTS_CA_BUNDLE") or env.get("SSL_CERT_FILE") or "",
        )
