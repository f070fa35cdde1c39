"""Pod phases and conditions, and the image list."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox.standins.kubelet import images
from sandbox.standins.kubelet.container import Container, waiting
from sandbox.standins.kubelet.status import build, phase


def container(folder: Path, *, code: int | None = None, crashed: bool = False) -> Container:
    made = Container(spec={"name": "c", "image": "busybox"}, folder=folder)
    if code is not None:
        made.state = {"terminated": {"exitCode": code}}
    if crashed:
        made.last_state, made.state = {"terminated": {"exitCode": 1}}, waiting("CrashLoopBackOff")
    return made


@pytest.mark.parametrize(
    ("codes", "policy", "expected"),
    [
        ([None], "Never", "Pending"),
        ([0], "Never", "Succeeded"),
        ([0, 1], "Never", "Failed"),
        ([0, None], "Never", "Running"),
        ([0], "OnFailure", "Succeeded"),
        ([1], "OnFailure", "Running"),
        ([0], "Always", "Running"),
    ],
)
def test_phase(tmp_path: Path, codes: list[int | None], policy: str, expected: str) -> None:
    assert phase([], [container(tmp_path, code=code) for code in codes], policy) == expected


def test_a_failed_init_container_fails_the_pod(tmp_path: Path) -> None:
    assert phase([container(tmp_path, code=1)], [container(tmp_path)], "Never") == "Failed"
    assert phase([container(tmp_path, code=1)], [container(tmp_path)], "OnFailure") == "Pending"


def test_a_pod_that_backs_off_is_running(tmp_path: Path) -> None:
    assert phase([], [container(tmp_path, crashed=True)], "OnFailure") == "Running"


def test_foreign_conditions_and_unchanged_times_are_kept(tmp_path: Path) -> None:
    foreign = {"type": "DisruptionTarget", "status": "True"}
    old = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    pod = {"spec": {"restartPolicy": "Never"}, "status": {"conditions": [foreign, old]}}
    status = build(pod, [], [container(tmp_path, code=0)], started="t", volumes_ready=True)
    found = {item["type"]: item for item in status["conditions"]}
    assert found["DisruptionTarget"] == foreign
    assert found["PodScheduled"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert found["Ready"]["reason"] == "PodCompleted"
    assert status["phase"] == "Succeeded"


def test_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert images.find_image("registry:5000/x/busybox@sha256:0").entrypoint == ()
    assert images.find_image("busybox:1").files == {}
    with pytest.raises(images.ImageError, match="has no image"):
        images.find_image("example.org/nothing:1")
    missing = images.Image(pattern="br", files={"/br": tmp_path / "br"})
    monkeypatch.setattr(images, "IMAGES", (missing,))
    with pytest.raises(images.ImageError, match="make tools"):
        images.find_image("pingcap/br:v8.5.0")
    (tmp_path / "br").touch()
    assert images.find_image("pingcap/br:v8.5.0") == missing


def test_an_image_of_a_tool_brings_what_runs_the_tool_also_as_a_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built, copied = tmp_path / "bin of tools" / "br", tmp_path / "shared" / "br"
    monkeypatch.setattr(images, "TOOLS", built.parent)
    monkeypatch.setattr(images, "LAUNCHERS", tmp_path / "launchers")
    monkeypatch.setattr(images, "IMAGES", (images.Image(pattern="br", files={"/br": images.LAUNCHERS / "br"}),))
    with pytest.raises(images.ImageError, match=r"needs br in \.tools/bin"):
        images.find_image("pingcap/br:v8.5.0")
    built.parent.mkdir()
    built.write_text('#!/bin/sh\necho "br $2"\n')
    built.chmod(0o755)
    (brought,) = images.find_image("pingcap/br:v8.5.0").files.values()
    copied.parent.mkdir()
    shutil.copy(brought, copied)
    done = subprocess.run([copied, "backup", "two words"], capture_output=True, text=True, check=True)
    assert done.stdout == "br two words\n"
    assert [path.name for path in brought.parent.iterdir()] == ["br"]
