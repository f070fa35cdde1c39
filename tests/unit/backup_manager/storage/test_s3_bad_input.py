"""What can be wrong with an S3 store, its keys or its address: each has a reason, and a hint that names the next step."""

import ssl
from collections.abc import Callable
from typing import Any

import pytest
import urllib3

from backup_manager.errors import (
    AccessDeniedError,
    ManagerError,
    NotFoundError,
    PreconditionError,
    StorageError,
    ThrottledError,
    UnreachableError,
    UsageError,
)
from backup_manager.storage import http_pool, s3_credentials
from backup_manager.storage.base import Target
from backup_manager.storage.factory import open_storage
from backup_manager.storage.http_pool import Answer
from backup_manager.storage.settings import S3Settings
from tests.support.fake_s3 import FakeS3, Request, error

KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "S3cr3t-value"}


def problem_of(call: Callable[[], Any]) -> Any:
    with pytest.raises(ManagerError) as caught:
        call()
    return caught.value


ANSWERS = [
    # answer, kind, reason, in the message, in the hint
    (
        error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
        StorageError,
        "WrongRegion",
        "eu-west-1",
        "s3.region: eu-west-1",
    ),
    (
        error(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong", Region="ap-south-1"),
        StorageError,
        "WrongRegion",
        "ap-south-1",
        "s3.region: ap-south-1",
    ),
    (error(400, "IllegalLocationConstraintException"), StorageError, "WrongRegion", "Illegal", "region"),
    (error(400, "ExpiredToken"), AccessDeniedError, "ExpiredToken", "ExpiredToken", "Renew the Secret"),
    (error(400, "InvalidToken"), AccessDeniedError, "ExpiredToken", "InvalidToken", "Renew"),
    (error(403, "InvalidAccessKeyId"), AccessDeniedError, "InvalidCredentials", "InvalidAccessKeyId", "s3.secretName"),
    (error(403, "SignatureDoesNotMatch"), AccessDeniedError, "InvalidCredentials", "Signature", "secret_key"),
    (error(403, "RequestTimeTooSkewed"), AccessDeniedError, "ClockSkew", "Skewed", "NTP"),
    (error(403, "AccessDenied"), AccessDeniedError, "StorageAccessDenied", "AccessDenied", "bucket bucket is yours"),
    (error(403, "AllAccessDisabled"), AccessDeniedError, "StorageAccessDenied", "AllAccess", "policy"),
    (error(404, "NoSuchBucket"), NotFoundError, "BucketNotFound", "bucket bucket does not exist", "s3.bucket"),
    (error(412, "PreconditionFailed"), PreconditionError, "StorageConflict", "Precondition", ""),
    (Answer(429, {}, b""), ThrottledError, "StorageThrottled", "TooManyRequests", "concurrency"),
    (error(503, "SlowDown"), ThrottledError, "StorageThrottled", "SlowDown", "concurrency"),
    (Answer(502, {}, b"<html>bad gateway</html>"), ManagerError, "StorageUnavailable", "BadGateway", ""),
    (error(418, "Teapot", "no"), StorageError, "StorageFailed", "Teapot: no", "log"),
]


@pytest.mark.parametrize(("answer", "kind", "reason", "message", "hint"), ANSWERS)
def test_every_refusal_has_a_reason(answer: Answer, kind: type[ManagerError], reason: str, message: str, hint: str) -> None:
    server = FakeS3(faults=[lambda _request: answer])
    found = problem_of(lambda: list(server.storage().list()))
    assert isinstance(found, kind)
    assert found.problem().reason == reason
    assert message in found.message
    assert hint in found.hint


def test_temporary_refusals_are_repeated() -> None:
    answers = iter([error(503, "SlowDown"), Answer(500, {}, b""), None])
    server = FakeS3(faults=[lambda _request: next(answers, None)])
    server.put("p/q/a")
    assert [info.key for info in server.storage().list()] == ["a"]
    assert server.count("GET") == 3


def test_permanent_refusals_are_not() -> None:
    server = FakeS3(faults=[lambda _request: error(403, "AccessDenied")])
    problem_of(lambda: list(server.storage().list()))
    assert len(server.requests) == 1


@pytest.mark.parametrize("endpoint", ["minio:9000", "s3.example.com", "//minio", "ftp://minio", "http://"])
def test_endpoint_without_scheme(endpoint: str) -> None:
    found = problem_of(lambda: S3Settings.of({"endpoint": endpoint}, KEYS))
    assert isinstance(found, UsageError)
    assert found.problem().reason == "InvalidEndpoint"
    assert "https://" in found.hint


@pytest.mark.parametrize(
    "endpoint", ["user:s3cr3t@minio:9000", "s3cr3t@minio", "ftp://user:s3cr3t@minio", "//user:s3cr3t@minio"]
)
def test_a_password_in_an_endpoint_is_not_shown(endpoint: str) -> None:
    problem = problem_of(lambda: S3Settings.of({"endpoint": endpoint}, KEYS)).problem()
    assert "s3cr3t" not in problem.message + problem.hint
    assert "minio" in problem.message


def test_a_password_in_an_endpoint_goes_to_no_tool() -> None:
    """The tools take an endpoint in argv only, and a signed request has no room for it."""
    assert S3Settings.of({"endpoint": "https://user:s3cr3t@minio:9000/x/"}, KEYS).endpoint == "https://minio:9000/x"


def test_ceph_endpoint_gets_its_scheme_as_upstream() -> None:
    assert S3Settings.of({"provider": "ceph", "endpoint": "10.0.0.1:80"}, KEYS).endpoint == "http://10.0.0.1:80"
    assert problem_of(lambda: S3Settings.of({"provider": "ceph", "endpoint": "://10.0.0.1:80"}, KEYS))


@pytest.mark.parametrize("missing", KEYS)
def test_half_a_key_pair(missing: str) -> None:
    found = problem_of(lambda: S3Settings.of({}, {name: value for name, value in KEYS.items() if name != missing}))
    assert missing in found.message


def test_no_keys_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _self: None)
    found = problem_of(lambda: s3_credentials.key_source(S3Settings()))
    assert found.problem().reason == "NoCredentials"
    assert "s3.secretName" in found.hint


def test_role_of_the_service_account_is_asked_for_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.credentials import Credentials

    class Rotating(Credentials):
        def get_frozen_credentials(self) -> Any:
            self.access_key += "+"
            return super().get_frozen_credentials()

    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _self: Rotating("AK", "SK", "T"))
    keys = s3_credentials.key_source(S3Settings())
    assert (keys().access, keys().access, keys().token) == ("AK+", "AK++", "T")


def test_listing_without_an_end() -> None:
    entry = b"<Contents><Key>p/q/a</Key><Size>1</Size></Contents>"
    body = b"<ListBucketResult><IsTruncated>true</IsTruncated>" + entry + b"</ListBucketResult>"
    server = FakeS3(faults=[lambda _request: Answer(200, {}, body)])
    found = problem_of(lambda: list(server.storage().list()))
    assert found.problem().reason == "TruncatedListing"


@pytest.mark.parametrize("body", [b"<ListBucketResult><Contents><Key>p/q/a</Key>", b"<html>welcome</html>", b""])
def test_listing_cut_short_or_no_listing(body: bytes) -> None:
    server = FakeS3(faults=[lambda _request: Answer(200, {}, body)])
    found = problem_of(lambda: list(server.storage().list()))
    assert found.problem().reason == "TruncatedListing"
    assert "s3.endpoint" in found.hint


@pytest.mark.parametrize("key", ["p/other", "p/q-b/x", "p/q", "q/a", ""])
def test_listing_of_foreign_keys_is_not_trusted(key: str) -> None:
    entry = f"<Contents><Key>p/q/a</Key><Size>1</Size></Contents><Contents><Key>{key}</Key><Size>1</Size></Contents>"
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode()
    server = FakeS3(faults=[lambda r: Answer(200, {}, body) if "list-type" in r.query else None])
    for call in (lambda: list(server.storage().list()), lambda: list(server.storage().targets())):
        assert problem_of(call).problem().reason == "ForeignListing"


def test_denied_list_but_not_write() -> None:
    def no_listing(request: Request) -> Answer | None:
        return error(403, "AccessDenied") if "list-type" in request.query else None

    server = FakeS3(faults=[no_listing])
    storage = server.storage()
    storage.write("a", b"1")
    found = problem_of(lambda: list(storage.list()))
    assert "s3:ListBucket" in found.hint


def test_absence_that_looks_like_denial_does_not_stop_a_claim() -> None:
    """Without the right to list, S3 answers 403 for what is not there."""
    server = FakeS3(faults=[lambda r: Answer(403, {}, b"") if r.method == "HEAD" else None])
    assert server.storage().write("claim", b"1", if_absent=True)
    assert problem_of(lambda: server.storage().write("claim", b"2", if_absent=True)).problem().reason == "StorageConflict"


def test_store_that_ignores_conditions_is_checked_before() -> None:
    server = FakeS3()
    server.put("p/q/claim", b"theirs")

    def blind(request: Request) -> Answer | None:
        if request.method == "PUT":
            server.put(request.key, request.body)
            return Answer(200, {"etag": '"x"'}, b"")
        return None

    server.faults.append(blind)
    assert isinstance(problem_of(lambda: server.storage().write("claim", b"ours", if_absent=True)), PreconditionError)
    assert server.current("p/q/claim") == b"theirs"


def test_store_without_conditional_writes() -> None:
    server = FakeS3(faults=[lambda r: error(501, "NotImplemented") if "if-none-match" in r.headers else None])
    assert server.storage().write("claim", b"ours", if_absent=True)
    assert server.current("p/q/claim") == b"ours"


def test_lost_answer_of_our_own_write() -> None:
    server = FakeS3()
    lost = iter([True])

    def swallow(request: Request) -> Answer | None:
        if request.method == "PUT" and next(lost, None):
            server.put(request.key, request.body)
            return error(500, "InternalError")
        return None

    server.faults.append(swallow)
    etag = server.storage().write("claim", b"ours", if_absent=True)
    assert etag == server.storage().stat("claim").etag


def test_the_same_bytes_of_another_writer_are_not_ours() -> None:
    server = FakeS3()

    def overtaken(request: Request) -> Answer | None:
        if request.method == "PUT":
            server.put(request.key, request.body)
            return error(412, "PreconditionFailed")
        return None

    server.faults.append(overtaken)
    assert isinstance(problem_of(lambda: server.storage().write("claim", b"same", if_absent=True)), PreconditionError)


def test_write_headers() -> None:
    options = ["--s3-sse-kms-key-id=arn:key"]
    spec = {"acl": "bucket-owner-full-control", "sse": "aws:kms", "storageClass": "GLACIER", "options": options}
    server = FakeS3()
    server.storage(settings=S3Settings.of({**spec, "endpoint": "http://s3.test"}, KEYS)).write("a", b"")
    sent = server.requests[-1].headers
    assert sent["x-amz-acl"] == "bucket-owner-full-control"
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:key"
    assert "x-amz-storage-class" not in sent  # a record in an archive could not be read again


def test_bucket_without_acls() -> None:
    server = FakeS3(faults=[lambda r: error(400, "AccessControlListNotSupported") if "x-amz-acl" in r.headers else None])
    server.storage(settings=S3Settings(endpoint="http://s3.test", acl="public-read")).write("a", b"1")
    assert server.current("p/q/a") == b"1"


def test_private_acl_is_what_a_store_does_by_itself() -> None:
    server = FakeS3()
    server.storage(settings=S3Settings(endpoint="http://s3.test", acl="private")).write("a", b"1")
    assert "x-amz-acl" not in server.requests[-1].headers


@pytest.mark.parametrize(
    ("raised", "reason", "hint"),
    [
        (
            urllib3.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get issuer"),
            "UntrustedCertificate",
            "AWS_CA_BUNDLE",
        ),
        (ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLSFailed", "http://"),
        (urllib3.exceptions.ConnectTimeoutError("slow"), "StorageUnreachable", "network policies"),
        (urllib3.exceptions.ProtocolError("Connection aborted."), "StorageUnreachable", "s3.endpoint"),
        (OSError("x"), "StorageUnreachable", "s3.endpoint"),
    ],
)
def test_connections_that_fail(raised: Exception, reason: str, hint: str) -> None:
    found = http_pool.unreachable(raised, "https://s3.example.com", "s3.endpoint")
    assert found.problem().reason == reason
    assert hint in found.hint
    assert "https://s3.example.com" in found.message


def test_name_that_does_not_resolve() -> None:
    storage = open_storage({"s3": {"provider": "x", "bucket": "b", "endpoint": "http://no-such-host.invalid"}}, env=KEYS)
    storage._client.sleep = lambda _seconds: None  # type: ignore[attr-defined]
    found = problem_of(lambda: list(storage.list()))
    assert isinstance(found, UnreachableError)
    assert "resolve" in found.message


def test_refused_connection() -> None:
    storage = open_storage({"s3": {"provider": "x", "bucket": "b", "endpoint": "http://127.0.0.1:9"}}, env=KEYS)
    storage._client.sleep = lambda _seconds: None  # type: ignore[attr-defined]
    found = problem_of(lambda: list(storage.list()))
    assert found.problem().reason == "StorageUnreachable"
    assert found.problem().retryable
    assert "object at 0x" not in found.message


def test_ca_bundle_that_is_none(tmp_path: Any) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")
    found = problem_of(
        lambda: open_storage(
            {"s3": {"provider": "x", "bucket": "b", "endpoint": "https://s3.test"}}, env={**KEYS, "AWS_CA_BUNDLE": str(bad)}
        )
    )
    assert found.problem().reason == "InvalidCABundle"


def test_secrets_are_nowhere() -> None:
    settings = S3Settings.of({"provider": "x"}, {**KEYS, "AWS_SESSION_TOKEN": "T0ken-value"})
    assert "S3cr3t-value" not in repr(settings)
    assert "T0ken-value" not in repr(settings)
    server = FakeS3(faults=[lambda _request: error(403, "SignatureDoesNotMatch", "check your key")])
    found = problem_of(lambda: list(server.storage(settings=settings).list()))
    assert "S3cr3t-value" not in f"{found.message}{found.hint}"


def test_clone_that_wants_md5_gets_it_at_once() -> None:
    server = FakeS3()
    for number in range(3):
        server.put(f"p/q/{number}")
    assert not server.storage().delete_batch([Target(str(number)) for number in range(3)])
    assert server.requests[-1].headers["content-md5"]
    assert not server.names()


@pytest.mark.parametrize("code", ["MissingContentMD5", "NotImplemented", "MethodNotAllowed", "MalformedXML"])
def test_clone_that_takes_no_batches(code: str) -> None:
    server = FakeS3(faults=[lambda r: error(400, code) if "delete" in r.query else None])
    for number in range(3):
        server.put(f"p/q/{number}")
    storage = server.storage()
    assert not storage.delete_batch([Target(str(number)) for number in range(3)])
    assert not server.names()
    assert storage.batch_size == 1
    assert len(storage.notes) == 1
    storage.delete_batch([Target("a"), Target("b")])
    assert len(storage.notes) == 1
    assert server.count("POST") == 1


def test_batch_answer_that_is_an_error_in_a_200() -> None:
    server = FakeS3(faults=[lambda r: Answer(200, {}, error(503, "SlowDown").body) if "delete" in r.query else None])
    found = problem_of(lambda: server.storage().delete_batch([Target("a"), Target("b")]))
    assert isinstance(found, ThrottledError)


def test_dots_never_reach_a_url() -> None:
    """With batches refused, the one way left is a URL, and there `..` might delete something else."""
    server = FakeS3(faults=[lambda r: error(400, "NotImplemented") if "delete" in r.query else None])
    server.put("p/q/../x")
    failures = server.storage().delete_batch([Target("../x"), Target("y")])
    assert [failure.code for failure in failures] == ["UnsafeName"]
    assert server.count("DELETE") == 1
    assert server.names() == {"p/q/../x"}
