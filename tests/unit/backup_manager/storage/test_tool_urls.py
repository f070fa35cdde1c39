"""What br, dumpling and lightning are told, for every provider and every way in; and our driver reads the same settings."""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from backup_manager.errors import AccessDeniedError, UsageError
from backup_manager.storage.factory import open_storage
from backup_manager.storage.tool_urls import for_br, for_dumpling, for_lightning
from crds.contract.paths import Location, location_of

S3_KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "S3cr3tKey"}
SAS = "sv=2020&sig=a+b/c=="
SERVICE_ACCOUNT = json.dumps({"type": "service_account", "private_key": "PRIVATE"})
AZURE_KEY = "QXp1cmVLZXk="
AAD = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "ApplicationSecret"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A spec and an environment, and what each tool gets for them. *adds* is put into the tool's environment."""

    name: str
    spec: Mapping[str, Any]
    env: Mapping[str, str]
    br: list[str]
    dumpling: list[str]
    lightning: str
    adds: Mapping[str, str] = field(default_factory=dict)


CASES = (
    Case(
        name="s3, keys of a Secret, aws",
        spec={"s3": {"provider": "aws", "region": "us-west-2", "bucket": "b", "prefix": "p"}},
        env={**S3_KEYS, "AWS_STORAGE_CLASS": "STANDARD_IA", "AWS_ACL": "private", "S3_PROVIDER": "aws"},
        br=["--storage=s3://b/p", "--s3.region=us-west-2", "--s3.provider=aws"],
        dumpling=[
            "s3://b/p",
            "--s3.region=us-west-2",
            "--s3.provider=aws",
            "--s3.acl=private",
            "--s3.storage-class=STANDARD_IA",
        ],
        lightning="s3://b/p?provider=aws&region=us-west-2",
    ),
    Case(
        name="s3, keys, ceph, endpoint completed",
        spec={"s3": {"provider": "ceph", "endpoint": "10.0.0.1", "bucket": "test1-demo1"}},
        env=S3_KEYS,
        br=["--storage=s3://test1-demo1", "--s3.provider=ceph", "--s3.endpoint=http://10.0.0.1"],
        dumpling=["s3://test1-demo1", "--s3.provider=ceph", "--s3.endpoint=http://10.0.0.1"],
        lightning="s3://test1-demo1?endpoint=http%3A%2F%2F10.0.0.1&provider=ceph",
    ),
    Case(
        name="s3, encryption, class, acl and style of the spec",
        spec={
            "s3": {
                "provider": "minio",
                "endpoint": "https://minio:9000/",
                "bucket": "b/a",
                "prefix": "/p//q/",
                "sse": "aws:kms",
                "options": ["--s3-sse-kms-key-id=key"],
                "acl": "bucket-owner-full-control",
                "storageClass": "STANDARD",
                "forcePathStyle": True,
            }
        },
        env=S3_KEYS,
        br=[
            "--storage=s3://b/a/p/q?force-path-style=true",
            "--s3.provider=minio",
            "--s3.endpoint=https://minio:9000",
            "--s3.sse=aws:kms",
            "--s3.sse-kms-key-id=key",
            "--s3.acl=bucket-owner-full-control",
            "--s3.storage-class=STANDARD",
        ],
        dumpling=[
            "s3://b/a/p/q?force-path-style=true",
            "--s3.provider=minio",
            "--s3.endpoint=https://minio:9000",
            "--s3.sse=aws:kms",
            "--s3.sse-kms-key-id=key",
            "--s3.acl=bucket-owner-full-control",
            "--s3.storage-class=STANDARD",
        ],
        lightning="s3://b/a/p/q?force-path-style=true&endpoint=https%3A%2F%2Fminio%3A9000&provider=minio",
    ),
    Case(
        name="s3, prefix with characters that a URL changes",
        spec={"s3": {"provider": "x", "bucket": "b", "prefix": "a%2Fb c+d?é#"}},
        env=S3_KEYS,
        br=["--storage=s3://b/a%252Fb%20c%2Bd%3F%C3%A9%23", "--s3.provider=x"],
        dumpling=["s3://b/a%252Fb%20c%2Bd%3F%C3%A9%23", "--s3.provider=x"],
        lightning="s3://b/a%252Fb%20c%2Bd%3F%C3%A9%23?provider=x",
    ),
    Case(
        name="s3, role of the ServiceAccount: identity by AWS's chain, nothing to hand over",
        spec={"s3": {"provider": "aws", "region": "eu-west-1", "bucket": "b", "prefix": "p"}},
        env={"AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"},
        br=["--storage=s3://b/p", "--s3.region=eu-west-1", "--s3.provider=aws"],
        dumpling=["s3://b/p", "--s3.region=eu-west-1", "--s3.provider=aws"],
        lightning="s3://b/p?provider=aws&region=eu-west-1",
    ),
    Case(
        name="s3, temporary keys with a session token",
        spec={"s3": {"provider": "aws", "bucket": "b"}},
        env={**S3_KEYS, "AWS_SESSION_TOKEN": "S3cr3tKey-session"},
        br=["--storage=s3://b", "--s3.provider=aws"],
        dumpling=["s3://b", "--s3.provider=aws"],
        lightning="s3://b?provider=aws",
    ),
    Case(
        name="s3, all of it in the environment",
        spec={"s3": {"bucket": "b", "prefix": "p"}},
        env={**S3_KEYS, "S3_PROVIDER": "minio", "S3_ENDPOINT": "http://minio:9000", "AWS_REGION": "x"},
        br=["--storage=s3://b/p", "--s3.region=x", "--s3.provider=minio", "--s3.endpoint=http://minio:9000"],
        dumpling=["s3://b/p", "--s3.region=x", "--s3.provider=minio", "--s3.endpoint=http://minio:9000"],
        lightning="s3://b/p?endpoint=http%3A%2F%2Fminio%3A9000&provider=minio&region=x",
    ),
    Case(
        name="s3, a store that takes the bucket in its host name",
        spec={"s3": {"provider": "alibaba", "endpoint": "https://oss.example.com", "bucket": "b", "forcePathStyle": False}},
        env=S3_KEYS,
        br=["--storage=s3://b?force-path-style=false", "--s3.provider=alibaba", "--s3.endpoint=https://oss.example.com"],
        dumpling=["s3://b?force-path-style=false", "--s3.provider=alibaba", "--s3.endpoint=https://oss.example.com"],
        lightning="s3://b?force-path-style=false&endpoint=https%3A%2F%2Foss.example.com&provider=alibaba",
    ),
    Case(
        name="gcs, key of a Secret",
        spec={"gcs": {"projectId": "pr", "bucket": "b", "prefix": "p", "storageClass": "NEARLINE", "objectAcl": "private"}},
        env={"GCS_SERVICE_ACCOUNT_JSON_KEY": SERVICE_ACCOUNT},
        br=["--storage=gcs://b/p/", "--gcs.storage-class=NEARLINE", "--gcs.predefined-acl=private"],
        dumpling=["gcs://b/p/", "--gcs.storage-class=NEARLINE", "--gcs.predefined-acl=private"],
        lightning="gcs://b/p/",
        adds={"GOOGLE_APPLICATION_CREDENTIALS": "<scratch>/gcs-credentials.json"},
    ),
    Case(
        name="gcs, workload identity",
        spec={"gcs": {"projectId": "pr", "bucket": "b"}},
        env={"GCS_SERVICE_ACCOUNT_JSON_KEY": "", "GCS_STORAGE_CLASS": "COLDLINE"},
        br=["--storage=gcs://b/"],
        dumpling=["gcs://b/", "--gcs.storage-class=COLDLINE"],
        lightning="gcs://b/",
    ),
    Case(
        name="gcs, emulator",
        spec={"gcs": {"projectId": "pr", "bucket": "b"}},
        env={"STORAGE_EMULATOR_HOST": "127.0.0.1:4443", "GOOGLE_APPLICATION_CREDENTIALS": "/k.json"},
        br=["--storage=gcs://b/", "--gcs.endpoint=http://127.0.0.1:4443/storage/v1/"],
        dumpling=["gcs://b/", "--gcs.endpoint=http://127.0.0.1:4443/storage/v1/"],
        lightning="gcs://b/?endpoint=http%3A%2F%2F127.0.0.1%3A4443%2Fstorage%2Fv1%2F",
        adds={"STORAGE_EMULATOR_HOST": ""},
    ),
    Case(
        name="gcs, key file: identity by Google's chain",
        spec={"gcs": {"projectId": "pr", "bucket": "b", "prefix": "p"}},
        env={"GOOGLE_APPLICATION_CREDENTIALS": "/var/run/key.json"},
        br=["--storage=gcs://b/p/"],
        dumpling=["gcs://b/p/"],
        lightning="gcs://b/p/",
    ),
    Case(
        name="azblob, SAS token of the environment",
        spec={"azblob": {"container": "c"}},
        env={"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_SAS_TOKEN": SAS},
        br=["--storage=azure://c/?account-name=acc&sas-token=sv%3D2020%26sig%3Da%2Bb%2Fc%3D%3D"],
        dumpling=["azure://c/?account-name=acc&sas-token=sv%3D2020%26sig%3Da%2Bb%2Fc%3D%3D"],
        lightning="azure://c/?account-name=acc&sas-token=sv%3D2020%26sig%3Da%2Bb%2Fc%3D%3D",
        adds={"AZURE_STORAGE_ACCOUNT": "acc"},
    ),
    Case(
        name="azblob, AAD application before the shared key",
        spec={"azblob": {"container": "c"}},
        env={**AAD, "AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": AZURE_KEY},
        br=["--storage=azure://c/"],
        dumpling=["azure://c/"],
        lightning="azure://c/",
        adds={"AZURE_STORAGE_ACCOUNT": "acc"},
    ),
    Case(
        name="azblob, shared key",
        spec={"azblob": {"container": "c", "prefix": "p", "accessTier": "Hot"}},
        env={"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": AZURE_KEY},
        br=["--storage=azure://c/p/", "--azblob.access-tier=Hot"],
        dumpling=["azure://c/p/", "--azblob.access-tier=Hot"],
        lightning="azure://c/p/",
        adds={"AZURE_STORAGE_ACCOUNT": "acc"},
    ),
    Case(
        name="azblob, AAD application, account of the spec, tier of the environment",
        spec={"azblob": {"container": "c", "storageAccount": "acc"}},
        env={**AAD, "AZURE_ACCESS_TIER": "Cool"},
        br=["--storage=azure://c/?account-name=acc"],
        dumpling=["azure://c/?account-name=acc", "--azblob.access-tier=Cool"],
        lightning="azure://c/?account-name=acc",
        adds={"AZURE_STORAGE_ACCOUNT": "acc"},
    ),
    Case(
        name="azblob, SAS token before everything else",
        spec={"azblob": {"container": "c", "storageAccount": "acc", "sasToken": SAS}},
        env={"AZURE_STORAGE_KEY": AZURE_KEY},
        br=["--storage=azure://c/?account-name=acc&sas-token=sv%3D2020%26sig%3Da%2Bb%2Fc%3D%3D"],
        dumpling=["azure://c/?account-name=acc&sas-token=sv%3D2020%26sig%3Da%2Bb%2Fc%3D%3D"],
        lightning="azure://c/?account-name=acc&sas-token=sv%3D2020%26sig%3Da%2Bb%2Fc%3D%3D",
        adds={"AZURE_STORAGE_ACCOUNT": "acc"},
    ),
    Case(
        name="azblob, endpoint of an emulator",
        spec={"azblob": {"container": "c"}},
        env={"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": AZURE_KEY, "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1/a"},
        br=["--storage=azure://c/", "--azblob.endpoint=http://127.0.0.1:1/a"],
        dumpling=["azure://c/", "--azblob.endpoint=http://127.0.0.1:1/a"],
        lightning="azure://c/?endpoint=http%3A%2F%2F127.0.0.1%3A1%2Fa",
        adds={"AZURE_STORAGE_ACCOUNT": "a"},
    ),
    Case(
        name="local",
        spec={"local": {"prefix": "p q", "volumeMount": {"mountPath": "/nfs"}}},
        env={},
        br=["--storage=local:///nfs/p%20q"],
        dumpling=["/nfs/p q"],
        lightning="/nfs/p q",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tools(case: Case, tmp_path: Path) -> None:
    location = location_of(case.spec)
    br = for_br(case.spec, location, env=case.env, scratch=tmp_path)
    dumpling = for_dumpling(case.spec, location, env=case.env, scratch=tmp_path)
    lightning = for_lightning(case.spec, location, env=case.env, scratch=tmp_path)
    assert br.br_arguments == case.br
    assert [dumpling.url, *dumpling.flags] == case.dumpling
    assert lightning.url == case.lightning
    assert not lightning.flags
    adds = {name: value.replace("<scratch>", str(tmp_path)) for name, value in case.adds.items()}
    assert br.env == dumpling.env == lightning.env == adds
    assert decoded(br.url) == decoded(lightning.url if "://" in lightning.url else f"local://{lightning.url}")


def decoded(url: str) -> str:
    """The folder as tidb's reader sees it: the path decoded once, a plus left alone."""
    parts = urlsplit(url.replace("+", "%2B"))
    return unquote(f"{parts.netloc}/{parts.path}").replace("//", "/").strip("/")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tools_and_driver_mean_the_same_folder(case: Case, tmp_path: Path) -> None:
    location = location_of(case.spec)
    folder = f"{location.bucket}/{location.prefix}".strip("/")
    assert decoded(for_br(case.spec, location, env=case.env, scratch=tmp_path).url) == folder
    if "identity" not in case.name and "key of a Secret" not in case.name:  # these ask Google, or need a whole key
        assert open_storage(case.spec, env=case.env).location == location


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_secrets_stay_out_of_argv(case: Case, tmp_path: Path) -> None:
    """All but a SAS token, which the tools take in no other way, and which is therefore named as a secret."""
    location = location_of(case.spec)
    for build in (for_br, for_dumpling, for_lightning):
        told = build(case.spec, location, env=case.env, scratch=tmp_path)
        argv = " ".join([told.url, *told.flags])
        for secret in ("S3cr3tKey", "PRIVATE", AZURE_KEY, "ApplicationSecret"):
            assert secret not in argv
            assert secret not in repr(told)
        if "SAS" in case.name:
            assert SAS in told.secrets
            assert SAS not in repr(told)
        else:
            assert not told.secrets


def test_google_key_is_private(tmp_path: Path) -> None:
    spec = {"gcs": {"projectId": "p", "bucket": "b"}}
    for_br(spec, location_of(spec), env={"GCS_SERVICE_ACCOUNT_JSON_KEY": SERVICE_ACCOUNT}, scratch=tmp_path)
    file = tmp_path / "gcs-credentials.json"
    assert file.read_text() == SERVICE_ACCOUNT
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_sas_at_an_endpoint_is_part_of_it(tmp_path: Path) -> None:
    """tidb's reader takes an endpoint for the whole address and adds no token to it."""
    spec = {"azblob": {"container": "c", "storageAccount": "a", "sasToken": f"?{SAS}"}}
    env = {"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1/a"}
    told = for_dumpling(spec, location_of(spec), env=env, scratch=tmp_path)
    assert told.flags == [f"--azblob.endpoint=http://127.0.0.1:1/a/?{SAS}"]
    assert parse_qs(urlsplit(told.url).query.replace("+", "%2B"))["sas-token"] == [SAS]


def test_azure_without_credentials(tmp_path: Path) -> None:
    spec = {"azblob": {"container": "c", "storageAccount": "a"}}
    for half in ({}, {**AAD, "AZURE_CLIENT_SECRET": ""}):
        with pytest.raises(AccessDeniedError, match="no credentials for the storage account a"):
            for_br(spec, location_of(spec), env=half, scratch=tmp_path)
        with pytest.raises(AccessDeniedError, match="no credentials"):
            open_storage(spec, env=half)


def test_azure_without_account() -> None:
    with pytest.raises(UsageError, match="no storage account"):
        open_storage({"azblob": {"container": "c"}}, env={"AZURE_STORAGE_KEY": AZURE_KEY})


def test_recorded_path_of_another_provider_uses_the_environment_alone() -> None:
    """A spec that was edited to another provider does not lend its endpoint to the old path."""
    spec = {"gcs": {"projectId": "p", "bucket": "new"}}
    storage = open_storage(spec, location=Location.parse("s3://old/p"), env={**S3_KEYS, "S3_ENDPOINT": "http://old:1"})
    assert storage.location.url == "s3://old/p"
    assert storage._client.settings.endpoint == "http://old:1"  # type: ignore[attr-defined]
