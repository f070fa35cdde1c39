"""Volumes as directories."""

import base64
from pathlib import Path
from typing import Any

import pytest

from sandbox.api import Object
from sandbox.standins.kubelet.volumes import VolumeError, Volumes


def lookup(kind: str, name: str) -> Object | None:
    if name != "there":
        return None
    value = "v"
    return {"kind": kind, "data": {"k": base64.b64encode(value.encode()).decode() if kind == "Secret" else value}}


def prepare(tmp_path: Path, **volume: Any) -> Path:
    pod = {"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": [{"name": "v", **volume}], "containers": []}}
    volumes = Volumes(pod, tmp_path / "volumes", tmp_path / "claims", lookup, lambda source: f"token for {source['path']}")
    return volumes.prepare()["v"]


def test_an_empty_dir_is_kept_over_a_retry(tmp_path: Path) -> None:
    first = prepare(tmp_path, emptyDir={})
    (first / "file").touch()
    assert (prepare(tmp_path, emptyDir={}) / "file").exists()


def test_secret_items_and_modes(tmp_path: Path) -> None:
    folder = prepare(tmp_path, secret={"secretName": "there", "defaultMode": 0o400, "items": [{"key": "k", "path": "a/b"}]})
    assert (folder / "a/b").read_text() == "v"
    assert (folder / "a/b").stat().st_mode & 0o777 == 0o400
    assert (prepare(tmp_path, configMap={"name": "there"}) / "k").read_text() == "v"


@pytest.mark.parametrize(
    "source",
    [
        {"secret": {"secretName": "absent"}},
        {"configMap": {"name": "absent"}},
        {"secret": {"secretName": "there", "items": [{"key": "no", "path": "x"}]}},
        {"hostPath": {"path": "/no/such/place"}},
        {"nfs": {"server": "s", "path": "/"}},
        {"projected": {"sources": [{"clusterTrustBundle": {}}]}},
    ],
)
def test_what_cannot_be_set_up(tmp_path: Path, source: dict[str, Any]) -> None:
    with pytest.raises(VolumeError):
        prepare(tmp_path, **source)


def test_an_optional_secret_is_an_empty_folder(tmp_path: Path) -> None:
    assert list(prepare(tmp_path, secret={"secretName": "absent", "optional": True}).iterdir()) == []


def test_projected(tmp_path: Path) -> None:
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "there", "items": [{"key": "k", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    folder = prepare(tmp_path, projected={"sources": sources})
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "token": "token for token",
        "ca.crt": "v",
        "namespace": "n",
    }


def test_a_claim_is_one_place_for_all_pods(tmp_path: Path) -> None:
    folder = prepare(tmp_path, persistentVolumeClaim={"claimName": "data"})
    assert folder == tmp_path / "claims" / "n" / "data"
    assert folder.is_dir()


def test_host_path_is_made_only_on_demand(tmp_path: Path) -> None:
    wanted = tmp_path / "new"
    assert prepare(tmp_path, hostPath={"path": str(wanted), "type": "DirectoryOrCreate"}) == wanted
    assert wanted.is_dir()
