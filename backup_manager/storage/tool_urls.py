"""How br, dumpling and lightning are told where a storage is and how to enter it.

They read the same URLs by the same code (tidb's ``br/pkg/storage``), which settles the rules here: a path is percent-encoded,
since it is decoded once (a prefix ``a%2Fb`` would otherwise become another folder); a query uses ``%20``, as a ``+`` stays a
plus; credentials come from the environment. The one exception is an Azure SAS token, which these tools take in the URL only:
the URL is then a secret, and :attr:`ToolStorage.secrets` says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from backup_manager import private_files
from backup_manager.storage.settings import AzureSettings, GcsSettings, S3Settings
from crds.contract.paths import Location, Provider, provider_of

_SAFE: Final = "/-._~"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStorage:
    """*url* for ``--storage``, ``--output`` or ``data-source-dir``; *flags* go beside it; *env* is added to the tool's.

    *secrets* are texts to mask, wherever they appear.
    """

    url: str = field(repr=False)
    flags: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)

    @property
    def br_arguments(self) -> list[str]:
        """``--storage`` and what goes with it."""
        return [f"--storage={self.url}", *self.flags]


def for_br(spec: Mapping[str, Any], location: Location, *, env: Mapping[str, str], scratch: Path) -> ToolStorage:
    """For ``br``. ACL, storage class and tier only as the spec says them, without the defaults of TiDB Operator's copies."""
    provider, storage = _storage(spec, location)
    written = {name: value for name, value in env.items() if name not in _COPY_DEFAULTS}
    if provider is Provider.LOCAL:
        return ToolStorage(url=f"local://{quote(_folder(location), safe=_SAFE)}")
    return _BUILDERS[provider](location, storage, written, scratch)


def for_dumpling(spec: Mapping[str, Any], location: Location, *, env: Mapping[str, str], scratch: Path) -> ToolStorage:
    """For ``dumpling``: *url* is its ``--output``. New objects get the class and ACL that the environment says."""
    provider, storage = _storage(spec, location)
    if provider is Provider.LOCAL:
        return ToolStorage(url=_folder(location))
    return _BUILDERS[provider](location, storage, env, scratch)


def for_lightning(spec: Mapping[str, Any], location: Location, *, env: Mapping[str, str], scratch: Path) -> ToolStorage:
    """For ``tidb-lightning``: *url* is its ``data-source-dir``, which takes everything in the query and has no flags."""
    told = for_dumpling(spec, location, env=env, scratch=scratch)
    options = [flag.partition(".")[2].partition("=") for flag in told.flags]
    query = {name: value for name, _, value in options if name in _READING}
    if not query:
        return ToolStorage(url=told.url, env=told.env, secrets=told.secrets)
    separator = "&" if "?" in told.url else "?"
    return ToolStorage(url=f"{told.url}{separator}{_query(query)}", env=told.env, secrets=told.secrets)


def with_query(url: str, values: Mapping[str, str]) -> str:
    """*url* with exactly *values* for its query; an empty value is said too."""
    return f"{url.partition('?')[0]}?{_query(values)}"


_COPY_DEFAULTS: Final = frozenset({"AWS_ACL", "AWS_STORAGE_CLASS", "AZURE_ACCESS_TIER", "GCS_STORAGE_CLASS", "GCS_OBJECT_ACL"})
_READING: Final = frozenset({"endpoint", "region", "provider"})
"""What a reader needs; class, ACL and encryption are a writer's."""


def _storage(spec: Mapping[str, Any], location: Location) -> tuple[Provider, Mapping[str, Any]]:
    same = provider_of(spec) is location.provider
    return location.provider, (spec.get(location.provider) or {}) if same else {}


def _folder(location: Location) -> str:
    return location.url.removeprefix("local://")


def _url(scheme: str, location: Location, *, slash: bool, query: Mapping[str, str]) -> str:
    path = quote("/".join(part for part in (location.bucket, location.prefix) if part), safe=_SAFE)
    return f"{scheme}://{path}{'/' if slash else ''}{f'?{_query(query)}' if query else ''}"


def _query(values: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(values.items()))


def _flags(group: str, values: Mapping[str, str]) -> list[str]:
    return [f"--{group}.{name}={value}" for name, value in values.items() if value]


def _s3(location: Location, storage: Mapping[str, Any], env: Mapping[str, str], _scratch: Path) -> ToolStorage:
    s3 = S3Settings.of(storage, env)
    style = {"force-path-style": str(s3.path_style).lower()} if s3.path_style_set else {}
    flags = _flags(
        "s3",
        {
            "region": s3.region,
            "provider": s3.provider,
            "endpoint": s3.endpoint,
            "sse": s3.sse,
            "sse-kms-key-id": s3.sse_kms_key_id,
            "acl": s3.acl,
            "storage-class": s3.storage_class,
        },
    )
    return ToolStorage(url=_url("s3", location, slash=False, query=style), flags=flags)


def _gcs(location: Location, storage: Mapping[str, Any], env: Mapping[str, str], scratch: Path) -> ToolStorage:
    gcs = GcsSettings.of(storage, env)
    endpoint = f"{gcs.endpoint}/storage/v1/" if gcs.endpoint else ""
    flags = _flags("gcs", {"endpoint": endpoint, "storage-class": gcs.storage_class, "predefined-acl": gcs.object_acl})
    added = {}
    if gcs.key_json:
        added["GOOGLE_APPLICATION_CREDENTIALS"] = str(private_files.write(scratch / "gcs-credentials.json", gcs.key_json))
    if gcs.endpoint:  # with it, Go's client refuses any credentials; the endpoint above says the same
        added["STORAGE_EMULATOR_HOST"] = ""
    return ToolStorage(url=_url("gcs", location, slash=True, query={}), flags=flags, env=added)


def _azblob(location: Location, storage: Mapping[str, Any], env: Mapping[str, str], _scratch: Path) -> ToolStorage:
    azure = AzureSettings.of(storage, env)
    query = {"account-name": azure.account} if azure.sas_token or azure.account_in_spec else {}
    endpoint, secrets = azure.endpoint, []
    if azure.sas_token:
        query["sas-token"] = azure.sas_token
        secrets = [azure.sas_token, quote(azure.sas_token, safe="")]
        # A tool that is given an endpoint takes it for the whole address, token included.
        endpoint = f"{endpoint}/?{azure.sas_token}" if endpoint else ""
    elif not (azure.application or azure.account_key):
        raise azure.missing()
    added = {"AZURE_STORAGE_ACCOUNT": azure.account}
    flags = _flags("azblob", {"endpoint": endpoint, "access-tier": azure.access_tier})
    return ToolStorage(url=_url("azure", location, slash=True, query=query), flags=flags, env=added, secrets=secrets)


_Builder = Callable[[Location, Mapping[str, Any], Mapping[str, str], Path], ToolStorage]
_BUILDERS: Final[Mapping[Provider, _Builder]] = {Provider.S3: _s3, Provider.GCS: _gcs, Provider.AZBLOB: _azblob}
