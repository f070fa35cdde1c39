"""What each answer of a hook means: the failure table of the wire protocol, over real HTTP."""

import base64
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from sandbox.patience import PATIENCE
from sandbox.standins.metacontroller.answers import RelatedRule, SyncAnswer
from sandbox.standins.metacontroller.webhook import Hook, HookClient, HookError, HookPanic, TooManyRequests, decode, retry_after
from tests.support.hook_server import HookServer, Raw, hook_server


@pytest.fixture(scope="module")
def server() -> Iterator[HookServer]:
    with hook_server() as running:
        yield running


def call(server: HookServer, answer: dict[str, Any] | Raw, *, strict: bool = True, timeout: float = 5.0) -> SyncAnswer:
    server.routes["/sync"] = lambda _: answer
    found = HookClient().call(Hook(url=server.url("/sync"), timeout=timeout, strict=strict), {"parent": {}})
    return SyncAnswer.parse_composite(found, strict=strict)


def test_a_sound_answer(server: HookServer) -> None:
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    body = {"status": {"a": 1}, "children": [child], "resyncAfterSeconds": 2.5, "finalized": True}
    answer = call(server, body)
    assert answer == SyncAnswer(status={"a": 1}, children=[child], resync_after=2.5, finalized=True)


@pytest.mark.parametrize("body", [b"null", b"{}", b'{"children": null, "status": null}'])
def test_nothing_said_means_no_children_and_no_status(server: HookServer, body: bytes) -> None:
    assert call(server, Raw(body=body)) == SyncAnswer()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"status": NaN}',
        b'{"status": []}',
        b'{"children": {}}',
        b'{"children": ["text"]}',
        b'{"children": [{"apiVersion": "v1", "metadata": {"name": "no-kind"}}]}',
        b'{"children": [{"kind": "ConfigMap", "metadata": {"name": "no-version"}}]}',
        b'{"children": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}]}',
        b'{"resyncAfterSeconds": "5"}',
        b'{"resyncAfterSeconds": true}',
        b'{"finalized": "yes"}',
    ],
)
def test_what_does_not_decode_is_an_error(server: HookServer, body: bytes) -> None:
    with pytest.raises(HookError):
        call(server, Raw(body=body))


@pytest.mark.parametrize("body", [b'{"childs": []}', b'{"status": {}, "status": {}}', b'{"status": {"a": 1, "a": 2}}'])
def test_unknown_and_duplicate_fields_are_refused_unless_loose(server: HookServer, body: bytes) -> None:
    with pytest.raises(HookError, match=r"unknown field|duplicate field"):
        call(server, Raw(body=body))
    assert call(server, Raw(body=body), strict=False).children == []


def test_a_null_child_kills_the_real_one(server: HookServer) -> None:
    with pytest.raises(HookPanic):
        call(server, Raw(body=b'{"children": [null]}'))


@pytest.mark.parametrize("status", [201, 204, 301, 400, 404, 500, 503])
def test_only_200_counts_and_the_body_is_quoted(server: HookServer, status: int) -> None:
    answer = Raw(status=status, body=b"" if status == 204 else b"the reason", headers={"Retry-After": "9"})
    with pytest.raises(HookError, match=f"unsupported status code: {status} body: {'' if status == 204 else 'the reason'}"):
        call(server, answer)


def test_429_is_a_wish(server: HookServer) -> None:
    with pytest.raises(TooManyRequests) as caught:
        call(server, Raw(status=429, headers={"Retry-After": "3"}))
    assert caught.value.after == 3.0
    with pytest.raises(TooManyRequests) as caught:
        call(server, Raw(status=429))
    assert caught.value.after == 0.0


def test_retry_after_as_a_date() -> None:
    assert 3600 < retry_after(formatdate(time.time() + 7200, usegmt=True)) <= 7200
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0.0


def test_timeout_and_refusal_are_errors(server: HookServer) -> None:
    given_up = threading.Event()

    def slow(_: dict[str, Any]) -> dict[str, Any]:
        given_up.wait(PATIENCE)
        return {}

    server.routes["/slow"] = slow
    with pytest.raises(HookError, match="http error"):
        HookClient().call(Hook(url=server.url("/slow"), timeout=0.1), {})
    given_up.set()
    with pytest.raises(HookError, match="http error"):
        HookClient().call(Hook(url="http://127.0.0.1:1/sync"), {})


def test_equal_state_gives_equal_bytes(server: HookServer) -> None:
    server.routes["/sync"] = lambda _: {}
    HookClient().call(Hook(url=server.url("/sync")), {"b": 1, "a": {"z": 1, "y": 2}})
    assert list(server.requests("/sync")[-1]) == ["a", "b"]


def test_a_decorator_answer() -> None:
    body = {"labels": {"a": "1", "b": None}, "annotations": {"c": "2"}, "attachments": [], "status": None}
    answer = SyncAnswer.parse_decorator(body, strict=True)
    assert (answer.labels, answer.annotations, answer.status) == ({"a": "1", "b": None}, {"c": "2"}, None)
    with pytest.raises(HookError, match="unknown field 'children'"):
        SyncAnswer.parse_decorator({"children": []}, strict=True)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"names": ["a"], "labelSelector": {}}, "names excludes"),
        ({"names": ["a"], "namespaceSelector": {}}, "names excludes"),
        ({"namespace": "n", "namespaceSelector": {}}, "namespace excludes"),
        ({"labelSelectors": {}}, "unknown field"),
        ({"names": "a"}, "cannot unmarshal"),
    ],
)
def test_related_rules_that_are_refused(rule: dict[str, Any], problem: str) -> None:
    with pytest.raises(HookError, match=problem):
        RelatedRule.parse_all({"relatedResources": [{"apiVersion": "v1", "resource": "pods", **rule}]}, strict=True)


def test_a_bare_list_is_no_customize_answer() -> None:
    with pytest.raises(HookError):
        decode(b"[]", strict=True)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"webhook": {"url": "http://x"}}, "version"),
        ({"version": "v2", "webhook": {"path": "/x"}}, "url, or service"),
        ({"version": "v2", "webhook": {"url": "http://x", "etag": {"enabled": True}}}, "etag"),
        ({"version": "v2", "webhook": {"url": "http://x", "timeout": "soon"}}, "invalid duration"),
    ],
)
def test_what_the_stand_in_cannot_do_is_said(spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(HookError, match=problem):
        Hook.parse(spec, "sync")


def test_a_service_becomes_a_url() -> None:
    service = {"name": "s", "namespace": "n", "port": 8080}
    hook = Hook.parse({"version": "v2", "webhook": {"service": service, "path": "/sync", "timeout": "1m"}}, "sync")
    assert hook == Hook(url="http://s.n:8080/sync", timeout=60.0, strict=True)
    assert Hook.parse(None, "finalize") is None


TOKEN_SECRET = {"data": {"token": base64.b64encode(b" s3cret\n").decode(), "empty": ""}}


def with_authorization(spec: dict[str, Any]) -> dict[str, Any]:
    return {"version": "v2", "webhook": {"url": "https://x", **spec}}


def find_secret(namespace: str, name: str) -> dict[str, Any] | None:
    return TOKEN_SECRET if (namespace, name) == ("system", "hooks") else None


def reference(**changes: str) -> dict[str, str]:
    return {"namespace": "system", "name": "hooks", "key": "token", **changes}


def test_a_token_is_presented_without_the_white_space_around_it(server: HookServer) -> None:
    spec = with_authorization({"authorization": {"secretRef": reference()}})
    hook = Hook.parse(spec, "sync", find_secret)
    assert hook is not None
    assert hook.authorization == "Bearer s3cret"
    server.routes["/sync"] = lambda _: {}
    HookClient().call(replace(hook, url=server.url("/sync")), {})
    assert server.authorizations[-1] == "Bearer s3cret"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"authorization": {"secretRef": reference(name="other")}}, "can't resolve authorization.*system/other"),
        ({"authorization": {"secretRef": reference(key="other")}}, "does not contain key 'other'"),
        ({"authorization": {"secretRef": reference(key="empty")}}, "does not contain key 'empty'"),
        ({"authorization": {"type": "basic", "secretRef": reference()}}, "basicAuth"),
        ({"caBundle": {}}, "exactly one"),
        ({"caBundle": {"inline": "x", "secretRef": reference()}}, "exactly one"),
        ({"caBundle": {"inline": "junk"}}, "no valid PEM"),
        ({"caBundle": {"secretRef": {"namespace": "system", "name": "hooks"}}}, "key 'ca.crt'"),
        ({"clientTLS": {"secretRef": reference()}}, "clientTLS"),
    ],
)
def test_credentials_that_are_not_there_stop_the_controller(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(HookError, match=says):
        Hook.parse(with_authorization(spec), "sync", find_secret)
