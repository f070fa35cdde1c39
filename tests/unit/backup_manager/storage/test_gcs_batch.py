"""Google's batches: answers are found by name, whatever their order."""

from email import message_from_bytes

from backup_manager.storage.base import Target
from backup_manager.storage.gcs_batch import answers, request


def part(number: int, status: str, body: str = "") -> str:
    return (
        f"--x\r\nContent-Type: application/http\r\nContent-ID: <response-item+{number}>\r\n\r\n"
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n{body}\r\n"
    )


DENIED = '{"error": {"code": 403, "message": "under retention", "errors": [{"reason": "retentionPolicyNotMet"}]}}'


def test_request_names_each_deletion() -> None:
    content_type, body = request("b", "p/q/", [Target("a b/é%", "17"), Target("..")])
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    parts = [p for p in message.walk() if p.get_content_type() == "application/http"]
    assert [p["Content-ID"] for p in parts] == ["<item+0>", "<item+1>"]
    lines = [p.get_payload().splitlines()[0] for p in parts]  # type: ignore[union-attr]
    assert lines[0] == "DELETE /storage/v1/b/b/o/p%2Fq%2Fa%20b%2F%C3%A9%25?generation=17 HTTP/1.1"
    assert lines[1] == "DELETE /storage/v1/b/b/o/p%2Fq%2F.. HTTP/1.1"


def test_answers_in_any_order() -> None:
    body = (part(1, "403 Forbidden", DENIED) + part(0, "204 No Content") + "--x--").encode()
    found = answers("multipart/mixed; boundary=x", body, 3)
    assert [answer.status for answer in found] == [204, 403, 0]
    assert found[1].reason == "retentionPolicyNotMet"
    assert found[2].reason == "NoAnswer"


def test_garbage_is_no_success() -> None:
    for content_type, body in (("text/html", b"<html>"), ("multipart/mixed; boundary=x", b""), ("", b"HTTP/1.1 204")):
        assert [answer.status for answer in answers(content_type, body, 2)] == [0, 0]
    assert answers("multipart/mixed; boundary=x", part(0, "oops").encode() + b"--x--", 1)[0].reason == "BadAnswer"
