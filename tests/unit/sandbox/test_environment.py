"""A container's environment, command line and downward API."""

import base64
from typing import Any

import pytest

from sandbox.api import Object
from sandbox.standins.kubelet.environment import ConfigError, command_line, field, resolve, resource_field

POD: Object = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a/b": "1"}, "annotations": {"x": "y"}},
    "spec": {"nodeName": "laptop", "serviceAccountName": "sa"},
}


def lookup(kind: str, name: str) -> Object | None:
    data = {"key": base64.b64encode(b"secret").decode()} if kind == "Secret" else {"key": "plain"}
    return {"kind": kind, "data": data} if name == "there" else None


def env(*entries: dict[str, Any], **container: Any) -> dict[str, str]:
    return resolve({"env": list(entries), **container}, POD, lookup, {"BASE": "b"})


def reference(kind: str, name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"name": "V", "valueFrom": {kind: {"name": name, "key": key, **more}}}


def test_literals_see_what_came_before() -> None:
    assert env({"name": "A", "value": "$(BASE)1"}, {"name": "B", "value": "$(A)-$(LATER)"}, {"name": "C"}) == {
        "BASE": "b",
        "A": "b1",
        "B": "b1-$(LATER)",
        "C": "",
    }


def test_secret_and_config_map_keys() -> None:
    assert env(reference("secretKeyRef", "there", "key"))["V"] == "secret"
    assert env(reference("configMapKeyRef", "there", "key"))["V"] == "plain"


@pytest.mark.parametrize(
    ("name", "key", "problem"), [("absent", "key", 'secret "absent" not found'), ("there", "no", "couldn't find key no")]
)
def test_a_missing_reference_waits_unless_optional(name: str, key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        env(reference("secretKeyRef", name, key))
    assert "V" not in env(reference("secretKeyRef", name, key, optional=True))


def test_env_from() -> None:
    found = env(
        envFrom=[{"prefix": "P_", "secretRef": {"name": "there"}}, {"configMapRef": {"name": "absent", "optional": True}}]
    )
    assert found == {"BASE": "b", "P_key": "secret"}
    with pytest.raises(ConfigError, match='configmap "absent" not found'):
        env(envFrom=[{"configMapRef": {"name": "absent"}}])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "n"),
        ("metadata.uid", "u"),
        ("metadata.labels['a/b']", "1"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['x']", "y"),
        ("metadata.labels", 'a/b="1"'),
        ("spec.nodeName", "laptop"),
        ("spec.serviceAccountName", "sa"),
        ("status.podIP", "127.0.0.1"),
    ],
)
def test_fields(path: str, value: str) -> None:
    assert field(POD, path) == value


def test_an_unknown_field() -> None:
    with pytest.raises(ConfigError, match=r"spec\.nothing"):
        field(POD, "spec.nothing")


def test_resource_fields() -> None:
    container = {"resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}
    assert resource_field(container, {"resource": "limits.cpu"}) == "2"
    assert resource_field(container, {"resource": "limits.cpu", "divisor": "1m"}) == "1500"
    assert resource_field(container, {"resource": "limits.memory", "divisor": "1Mi"}) == "1024"
    assert resource_field(container, {"resource": "requests.cpu"}) == "0"


def test_command_line() -> None:
    assert command_line({"args": ["$(A)"]}, ("/entry",), {"A": "1"}) == ["/entry", "1"]
    assert command_line({"command": ["c"], "args": ["a"]}, ("/entry",), {}) == ["c", "a"]
    with pytest.raises(ConfigError, match="no command"):
        command_line({}, (), {})
