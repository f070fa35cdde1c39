"""Stores, keys and addresses that are wrong, over real HTTP and TLS: each fails in seconds, says why, and names the next step.

SeaweedFS says what it can; what only AWS, Google and Microsoft say is said by a double in their words. Whatever a listing looks
like, a clean that cannot trust it deletes nothing.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import pytest

from backup_manager.catalog.records import Records
from backup_manager.cleaning.cleaner import Cleaner
from backup_manager.errors import ManagerError, NotFoundError
from backup_manager.storage import gcs as gcs_driver
from backup_manager.storage import retry as patience
from backup_manager.storage import s3_client
from backup_manager.storage.azblob import AzblobStorage
from backup_manager.storage.base import Storage
from backup_manager.storage.factory import open_storage
from backup_manager.storage.gcs import GcsStorage
from backup_manager.storage.gcs import _credentials as google_credentials
from backup_manager.storage.preflight import Check, Status, preflight
from backup_manager.storage.settings import AzureSettings, GcsSettings
from crds.contract.paths import Location, Provider
from tests.support.http_double import Asked, Double, Said, double
from tests.support.object_stores import gcs, make_bucket, service_account_key
from tests.support.servers import S3, seaweed

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated calls follow at once, and no authority of this machine is trusted."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.0)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def failed(storage: Storage) -> Check:
    """The first failure of the preflight."""
    checks = preflight(storage)
    found = [check for check in checks if check.status is Status.FAILED]
    assert found, [check.to_dict() for check in checks]
    return found[0]


# S3, on a real server


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with seaweed(tmp_path_factory.mktemp("weed"), tls=True) as server:
        for bucket in ("ours", "theirs"):
            server.client().create_bucket(Bucket=bucket)
        yield server


def s3(server: S3, env: Mapping[str, str], *, endpoint: str = "", bucket: str = "ours") -> Storage:
    spec = {"s3": {"provider": "seaweed", "endpoint": endpoint or server.endpoint, "bucket": bucket, "prefix": "p"}}
    return open_storage(spec, env=env)


def test_keys_that_may_write_and_not_list(weed: S3) -> None:
    storage = s3(weed, weed.writer)
    check = failed(storage)
    assert (check.name, "s3:ListBucket" in check.hint) == ("list", True), check
    storage.write("a", b"1")
    assert s3(weed, weed.env).read("a") == b"1"
    with pytest.raises(ManagerError, match="AccessDenied") as caught:
        Cleaner(storage).run()
    assert "s3:ListBucket" in caught.value.hint


def test_bucket_of_another_owner(weed: S3) -> None:
    check = failed(s3(weed, weed.neighbour))
    assert check.message.startswith("StorageAccessDenied"), check
    assert "bucket ours is yours" in check.hint
    assert not [check for check in preflight(s3(weed, weed.neighbour, bucket="theirs")) if check.status is Status.FAILED]


def test_clock_of_the_node_is_an_hour_off(weed: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(hours=1)

    monkeypatch.setattr(s3_client, "datetime", Late)
    check = failed(s3(weed, weed.env))
    assert check.message.startswith("ClockSkew"), check
    assert "NTP" in check.hint


def test_session_token_that_nobody_issued(weed: S3) -> None:
    check = failed(s3(weed, {**weed.env, "AWS_SESSION_TOKEN": "made-up"}))
    assert check.message.startswith("InvalidCredentials"), check
    assert "made-up" not in f"{check.message}{check.hint}"


def test_unknown_authority_and_its_bundle(weed: S3) -> None:
    check = failed(s3(weed, weed.env, endpoint=weed.https))
    assert check.message.startswith("UntrustedCertificate"), check
    assert "AWS_CA_BUNDLE" in check.hint
    trusted = s3(weed, {**weed.env, "AWS_CA_BUNDLE": weed.authority}, endpoint=weed.https)
    assert not [check for check in preflight(trusted) if check.status is not Status.OK]


@pytest.mark.parametrize(("scheme", "told", "hint"), [("https", "http", "Write http://"), ("http", "https", "write https://")])
def test_wrong_scheme(weed: S3, scheme: str, told: str, hint: str) -> None:
    endpoint = f"{scheme}://" + (weed.endpoint if scheme == "https" else weed.https).partition("://")[2]
    check = failed(s3(weed, {**weed.env, "AWS_CA_BUNDLE": weed.authority}, endpoint=endpoint))
    assert (check.name, check.message.partition(":")[0]) == ("reach", "TLSFailed"), (check, told)
    assert hint in check.hint


def test_endpoint_without_scheme(weed: S3) -> None:
    with pytest.raises(ManagerError, match="no http:// or https:// address") as caught:
        s3(weed, weed.env, endpoint=weed.endpoint.removeprefix("http://"))
    assert "Write the scheme too" in caught.value.hint


# What only the clouds say

XML = {"content-type": "application/xml"}
JSON = {"content-type": "application/json"}
KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "S3cr3t"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A store's answer to everything, and what we make of it."""

    name: str
    said: Said
    reason: str
    hint: str
    starts_well: bool = False
    """Whether the answer begins with objects of our own, which a clean may take before it meets the end."""


def s3_error(status: int, code: str, extra: str = "", **headers: str) -> Said:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said(status=status, body=f"<Error><Code>{code}</Code>{extra}</Error>".encode(), headers=XML | named)


def s3_listing(inside: str) -> Said:
    return Said(body=f"<ListBucketResult>{inside}</ListBucketResult>".encode(), headers=XML)


ENTRY = "<Contents><Key>p/a</Key><Size>1</Size></Contents>"
S3_CASES = (
    Case(
        name="wrong region, the bucket tells the right one",
        said=s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
        reason="WrongRegion",
        hint="Set s3.region: eu-west-1.",
    ),
    Case(
        name="wrong region, seen in the signature",
        said=s3_error(400, "AuthorizationHeaderMalformed", "<Region>ap-south-1</Region>"),
        reason="WrongRegion",
        hint="Set s3.region: ap-south-1.",
    ),
    Case(name="expired token", said=s3_error(400, "ExpiredToken"), reason="ExpiredToken", hint="Renew the Secret"),
    Case(
        name="listing truncated without a token",
        said=s3_listing(f"<IsTruncated>true</IsTruncated>{ENTRY}"),
        reason="TruncatedListing",
        hint="s3.endpoint",
        starts_well=True,
    ),
    Case(
        name="listing cut in its XML",
        said=Said(body=f"<ListBucketResult><IsTruncated>false</IsTruncated>{ENTRY}<Cont".encode(), headers=XML),
        reason="TruncatedListing",
        hint="no proxy in between",
    ),
    Case(
        name="listing cut on the way",
        said=Said(body=b"<ListBucketResult>", headers=XML, lost=500),
        reason="StorageUnreachable",
        hint="s3.endpoint",
    ),
    Case(
        name="listing of another folder",
        said=s3_listing(f"<IsTruncated>false</IsTruncated>{ENTRY.replace('p/a', 'p-b/a')}"),
        reason="ForeignListing",
        hint="Nothing was deleted",
    ),
    Case(name="a web page", said=Said(body=b"<html>welcome</html>"), reason="TruncatedListing", hint="s3.endpoint"),
)


ISSUED = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ISSUED</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
<SessionToken>issued-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def service_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Called with the address of AWS's token service: the environment of a Pod whose ServiceAccount has a role (IRSA)."""

    def set_up(url: str) -> None:
        (tmp_path / "token").write_text("the cluster's token")
        variables = {
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/backup",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ENDPOINT_URL_STS": url,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_up


def test_role_of_the_service_account(service_account: Callable[[str], None]) -> None:
    def answer(asked: Asked) -> Said:
        if asked.method == "POST":
            return Said(body=ISSUED.encode(), headers={"content-type": "text/xml"})
        return s3_listing(f"<IsTruncated>false</IsTruncated>{ENTRY}")

    with double(answer) as server:
        service_account(server.url)
        storage = open_storage({"s3": {"provider": "aws", "endpoint": server.url, "bucket": "b", "prefix": "p"}}, env={})
        assert [info.key for info in storage.list()] == ["a"]
        assert "Credential=ISSUED/" in server.asked[-1].headers["authorization"]
        assert server.asked[-1].headers["x-amz-security-token"] == "issued-token"


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        ("ExpiredTokenException", "ExpiredToken", "ServiceAccount"),
        ("AccessDenied", "NoCredentials", "trust policy"),
        ("InvalidIdentityToken", "NoCredentials", "trust policy"),
    ],
)
def test_role_that_is_refused(service_account: Callable[[str], None], code: str, reason: str, hint: str) -> None:
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>Not authorized</Message></Error></ErrorResponse>"
    with double(lambda _asked: Said(status=403, body=body.encode(), headers={"content-type": "text/xml"})) as server:
        service_account(server.url)
        storage = open_storage({"s3": {"provider": "aws", "endpoint": server.url, "bucket": "b", "prefix": "p"}}, env={})
        check = failed(storage)
        assert check.message.startswith(reason), check
        assert code in check.message
        assert hint in check.hint
        assert "the cluster's token" not in f"{check.message}{check.hint}"


def google_error(status: int, message: str) -> Said:
    body = {"error": {"code": status, "message": message, "errors": [{"message": message, "reason": "x"}]}}
    return Said(status=status, body=json.dumps(body).encode(), headers=JSON)


GCS_CASES = (
    Case(
        name="no right to list, or the bucket of another owner",
        said=google_error(403, "b@p.iam.gserviceaccount.com does not have storage.objects.list access to the bucket."),
        reason="StorageAccessDenied",
        hint="check that the bucket is yours",
    ),
    Case(
        name="no bucket",
        said=google_error(404, "The specified bucket does not exist."),
        reason="BucketNotFound",
        hint="gcs.bucket",
    ),
    Case(
        name="login that Google no longer takes",
        said=google_error(401, "Invalid Credentials"),
        reason="InvalidCredentials",
        hint="gcs.secretName",
    ),
    Case(
        name="listing cut in its JSON",
        said=Said(body=b'{"items": [{"name": "p/a", "si', headers=JSON),
        reason="TruncatedListing",
        hint="no proxy in between",
    ),
    Case(
        name="listing of another folder",
        said=Said(body=b'{"items": [{"name": "other/a", "size": "1", "generation": "1"}]}', headers=JSON),
        reason="ForeignListing",
        hint="Nothing was deleted",
    ),
    Case(name="a web page", said=Said(body=b"<html>welcome</html>"), reason="TruncatedListing", hint="no proxy in between"),
)


def azure_error(status: int, code: str, detail: str = "") -> Said:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>no</Message>{detail}</Error>'
    return Said(status=status, body=body.encode(), headers={**XML, "x-ms-error-code": code})


def azure_detail(text: str) -> Said:
    return azure_error(403, "AuthenticationFailed", f"<AuthenticationErrorDetail>{text}</AuthenticationErrorDetail>")


def azure_listing(key: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://x" ContainerName="c"><Blobs><Blob>'
        f"<Name>{key}</Name><Properties><Content-Length>3</Content-Length><BlobType>BlockBlob</BlobType></Properties>"
        "</Blob></Blobs><NextMarker /></EnumerationResults>"
    ).encode()


AZURE_CASES = (
    Case(
        name="expired SAS token",
        said=azure_detail("Signature not valid in the specified time frame: Start [Mon] - Expiry [Tue] - Current [Wed]"),
        reason="ExpiredToken",
        hint="azblob.sasToken",
    ),
    Case(
        name="clock skew",
        said=azure_detail("Request date header too old: 'Mon, 01 Jan 2024 00:00:00 GMT'"),
        reason="ClockSkew",
        hint="NTP",
    ),
    Case(
        name="wrong key",
        said=azure_detail("The MAC signature found in the HTTP request 'abc=' is not the same as any computed signature."),
        reason="InvalidCredentials",
        hint="Check the account's key",
    ),
    Case(
        name="no right to list",
        said=azure_error(403, "AuthorizationPermissionMismatch"),
        reason="StorageAccessDenied",
        hint="Storage Blob Data Contributor",
    ),
    Case(
        name="account of another owner, or behind a firewall",
        said=azure_error(403, "AuthorizationFailure"),
        reason="StorageAccessDenied",
        hint="firewall",
    ),
    Case(name="no container", said=azure_error(404, "ContainerNotFound"), reason="BucketNotFound", hint="azblob.container"),
    Case(
        name="listing cut in its XML",
        said=Said(body=azure_listing("p/a")[:180], headers=XML),
        reason="TruncatedListing",
        hint="no proxy in between",
    ),
    Case(
        name="listing of another folder",
        said=Said(body=azure_listing("other/a"), headers=XML),
        reason="ForeignListing",
        hint="Nothing was deleted",
    ),
    Case(name="empty answer", said=Said(headers=XML), reason="TruncatedListing", hint="no proxy in between"),
    Case(name="a web page", said=Said(body=b"<html>welcome</html>"), reason="TruncatedListing", hint="no proxy in between"),
)

FLAVOR = {"metadata-flavor": "Google"}
TOKEN = json.dumps({"access_token": "t", "token_type": "Bearer", "expires_in": 3600}).encode()


@pytest.fixture(scope="module")
def account() -> str:
    """A service account's key; making one takes a while."""
    return service_account_key("http://token.invalid")


def google(server: Double, account: str) -> GcsStorage:
    """The driver with a key (or, without, the workload's identity), as in a Job, at the double. Google's address is no
    setting, so the client is made here."""
    from google.cloud import storage as google_storage

    key = json.dumps(json.loads(account) | {"token_uri": f"{server.url}/token"}) if account else ""
    settings = GcsSettings(key_json=key)
    client: Any = google_storage.Client(
        project="p", credentials=google_credentials(settings), client_options={"api_endpoint": server.url}
    )
    return GcsStorage(Location(provider=Provider.GCS, bucket="b", prefix="p"), client)


def azure(server: Double, **settings: str) -> AzblobStorage:
    known: dict[str, Any] = {"account": "a", "account_key": "d3Jvbmc=", "endpoint": f"{server.url}/a", **settings}
    return AzblobStorage.connect(Location(provider=Provider.AZBLOB, bucket="c", prefix="p"), AzureSettings(**known))


def aws(server: Double) -> Storage:
    return open_storage({"s3": {"provider": "aws", "endpoint": server.url, "bucket": "b", "prefix": "p"}}, env=KEYS)


def judge(case: Case, storage: Storage, server: Double) -> None:
    """Listing says what is wrong, and a clean gives up having changed nothing."""
    with pytest.raises(ManagerError) as caught:
        list(storage.list())
    problem = caught.value.problem()
    assert (problem.reason, case.hint in problem.hint) == (case.reason, True), problem
    with pytest.raises(ManagerError):
        Cleaner(storage).run()
    assert case.starts_well or not [request for request in server.changes if "/token" not in request.path]


@pytest.mark.parametrize("case", S3_CASES, ids=lambda case: case.name)
def test_what_aws_says(case: Case) -> None:
    with double(lambda _asked: case.said) as server:
        judge(case, aws(server), server)


@pytest.mark.parametrize("case", GCS_CASES, ids=lambda case: case.name)
def test_what_google_says(case: Case, account: str) -> None:
    with double(lambda asked: Said(body=TOKEN, headers=JSON) if "/token" in asked.path else case.said) as server:
        judge(case, google(server, account), server)


@pytest.mark.parametrize("case", AZURE_CASES, ids=lambda case: case.name)
def test_what_microsoft_says(case: Case) -> None:
    with double(lambda _asked: case.said) as server:
        judge(case, azure(server), server)


def test_workload_identity_of_google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Pod without a key asks the metadata server, which knows its ServiceAccount."""

    def answer(asked: Asked) -> Said:
        if asked.path.startswith("/computeMetadata/v1/instance/service-accounts/default/token"):
            return Said(body=TOKEN, headers=JSON | FLAVOR)
        if asked.path.startswith("/storage/"):
            return Said(body=b'{"items": [{"name": "p/a", "size": "1"}]}', headers=JSON)
        if "universe" in asked.path:
            return Said(body=b"googleapis.com", headers={**FLAVOR, "content-type": "text/plain"})
        account = {"email": "backup@test.iam.gserviceaccount.com", "scopes": ["s"], "aliases": ["default"]}
        return Said(body=json.dumps(account).encode(), headers=JSON | FLAVOR)

    with double(answer) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
        monkeypatch.setenv("GCE_METADATA_IP", server.url.removeprefix("http://"))
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        assert [info.key for info in google(server, "").list()] == ["a"]
        assert server.asked[-1].headers["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("grant", "reason", "hint"),
    [
        (
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
            "ClockSkew",
            "NTP",
        ),
        ("Invalid JWT Signature.", "InvalidCredentials", "make a new key"),
    ],
)
def test_key_that_google_refuses(account: str, grant: str, reason: str, hint: str) -> None:
    body = json.dumps({"error": "invalid_grant", "error_description": grant}).encode()
    with double(lambda _asked: Said(status=400, body=body, headers=JSON)) as server:
        check = failed(google(server, account))
        assert check.message.startswith(reason), check
        assert hint in check.hint


def test_google_asks_to_slow_down(account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_driver, "_RETRY", gcs_driver._RETRY.with_timeout(0.2).with_delay(0.01, 0.05))
    said = google_error(429, "rate limit")
    with double(lambda asked: Said(body=TOKEN, headers=JSON) if "/token" in asked.path else said) as server:
        check = failed(google(server, account))
        assert check.message.startswith("StorageThrottled"), check


def test_missing_object_is_no_missing_bucket(tmp_path: Path) -> None:
    """Google's 404 of an object names its bucket, and a bucket may have any name."""
    with gcs(tmp_path) as store:
        make_bucket(store, "backup-bucket")
        spec = {"gcs": {**store.spec["gcs"], "bucket": "backup-bucket", "prefix": "p"}}
        storage = open_storage(spec, env=store.env)
        for call in (storage.stat, storage.fetch):
            with pytest.raises(NotFoundError) as caught:
                call("absent")
            assert caught.value.problem().reason == "StorageNotFound"
        assert Records(storage).load() is None


def test_every_generation_goes(account: str) -> None:
    """fake-gcs-server keeps no older generations, so Google's way of telling and deleting them is shown by the double."""
    kept = {("p/a", "1"), ("p/a", "2"), ("p/b c", "3")}

    def answer(asked: Asked) -> Said:
        if "/token" in asked.path:
            return Said(body=TOKEN, headers=JSON)
        if asked.method == "POST":
            gone = re.findall(rb"Content-ID: <item\+(\d+)>\r\n\r\nDELETE \S*/o/(\S+)\?generation=(\d+) ", asked.body)
            kept.difference_update({(unquote(key.decode()), generation.decode()) for _, key, generation in gone})
            parts = b"".join(b"--B\r\nContent-ID: <response-item+%s>\r\n\r\nHTTP/1.1 204 x\r\n\r\n" % part[0] for part in gone)
            return Said(body=parts + b"--B--", headers={"content-type": "multipart/mixed; boundary=B"})
        if "/o?" not in asked.path:
            return Said(body=b'{"versioning": {"enabled": true}}', headers=JSON)
        items = [{"name": key, "generation": generation, "size": "1"} for key, generation in sorted(kept)]
        shown = items if "versions=True" in asked.path else items[:0]
        return Said(body=json.dumps({"items": shown}).encode(), headers=JSON)

    with double(answer) as server:
        assert Cleaner(google(server, account)).run().deleted == 3
    assert not kept


@pytest.mark.parametrize("provider", ["gcs", "azblob"])
def test_unknown_authority_of_the_clouds(provider: str, tmp_path: Path) -> None:
    empty = {"gcs": Said(body=b"{}", headers=JSON), "azblob": Said(body=azure_listing("p/a"), headers=XML)}[provider]
    with double(lambda _asked: empty, tls=tmp_path) as server:
        env = {
            "STORAGE_EMULATOR_HOST": server.url,
            "AZURE_STORAGE_ENDPOINT": f"{server.url}/a",
            "AZURE_STORAGE_ACCOUNT": "a",
            "AZURE_STORAGE_KEY": "d3Jvbmc=",
        }
        spec = (
            {"gcs": {"projectId": "p", "bucket": "b"}} if provider == "gcs" else {"azblob": {"container": "c", "prefix": "p"}}
        )
        check = failed(open_storage(spec, env=env))
        assert check.message.startswith("UntrustedCertificate"), check
        assert "SSL_CERT_FILE" in check.hint
        trusted = open_storage(spec, env={**env, "SSL_CERT_FILE": server.authority})
        assert [info.key for info in trusted.list()] == (["a"] if provider == "azblob" else [])


APPLICATION = {"account_key": "", "tenant_id": "adfs", "client_id": "c", "client_secret": "S3cr3t"}


def test_unknown_authority_of_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with double(lambda _asked: Said(), tls=tmp_path) as server:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
        assert failed(azure(server, **APPLICATION)).message.startswith("UntrustedCertificate")


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [("AADSTS7000222", "ExpiredToken", "AZURE_CLIENT_SECRET"), ("AADSTS7000215", "InvalidCredentials", "the application")],
)
def test_application_that_microsoft_refuses(
    code: str, reason: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login of an application, behind an authority of its own."""

    def login(asked: Asked) -> Said:
        if asked.method == "GET":
            places = {
                "token_endpoint": f"{server.url}/token",
                "authorization_endpoint": f"{server.url}/x",
                "issuer": server.url,
            }
            return Said(body=json.dumps(places).encode(), headers=JSON)
        error = {"error": "invalid_client", "error_description": f"{code}: The secret S3cr3t is not right."}
        return Said(status=401, body=json.dumps(error).encode(), headers=JSON)

    with double(login, tls=tmp_path) as server:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
        check = failed(azure(server, **APPLICATION, ca_bundle=server.authority))
        assert check.message.startswith(reason), check
        assert code in check.message
        assert hint in check.hint
        assert "S3cr3t" not in f"{check.message}{check.hint}"
