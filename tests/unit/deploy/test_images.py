"""Dockerfile, build context and compose file: confined, pinned, and in step with the project."""

import asyncio
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.main import app
from backup_manager.kubernetes.resource import choose
from crds.contract.paths import export_location
from crds.v1alpha1 import spec_problems

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION: str = PROJECT["project"]["version"]


def stages() -> dict[str, str]:
    """Text of each build stage, by name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {name: f"FROM {base}\n{text}" for base, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


def test_both_images_run_without_rights_on_the_same_runtime() -> None:
    assert "USER 65532:65532" in stages()["runtime"]
    for image in ("webhook", "backup-manager"):
        assert stages()[image].startswith("FROM runtime\n")
        assert "USER" not in stages()[image].partition("\n")[2]


@pytest.mark.parametrize(
    ("image", "entrypoint"), [("webhook", ["python", "-m", "app"]), ("backup-manager", ["backup-manager"])]
)
def test_the_program_is_process_1_and_gets_the_signals(image: str, entrypoint: list[str]) -> None:
    (line,) = re.findall(r"^ENTRYPOINT (.*)$", stages()[image], flags=re.MULTILINE)
    assert json.loads(line) == entrypoint


def test_nothing_of_the_build_is_copied_but_the_environment() -> None:
    copied = [
        line for name in ("webhook", "backup-manager") for line in re.findall(r"^COPY (.*)$", stages()[name], re.MULTILINE)
    ]
    assert sorted(line.split()[-1] for line in copied) == ["/opt/venv", "/opt/venv", "/usr/local/bin/"]
    assert all(line.startswith("--from=") for line in copied)


def test_versions_are_those_of_the_project() -> None:
    (uv,) = (pin.partition("==")[2] for pin in PROJECT["dependency-groups"]["dev"] if pin.startswith("uv=="))
    assert f"ARG UV_VERSION={uv}\n" in DOCKERFILE
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE
    assert {service["image"].rpartition(":")[2] for service in COMPOSE["services"].values() if "build" in service} == {VERSION}


def test_no_address_and_no_credential_is_built_in() -> None:
    assert not re.search(r"https?://(?!127\.0\.0\.1)", DOCKERFILE)
    assert not re.search(r"(?i)ARG \w*(password|token|secret|key)", DOCKERFILE)


def test_the_build_context_is_a_list_of_what_is_needed() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    sources = {
        name
        for _, stage in stages().items()
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", stage, re.MULTILINE)
        for name in line.split()
    }
    assert {name for name in sources if not name.startswith("$")} <= allowed
    assert not allowed & {".git", ".venv", "tests", "sandbox"}


@pytest.mark.parametrize("name", ["webhook", "prepare", "export", "import"])
def test_a_service_of_ours_is_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_ports_are_open_on_this_machine_alone() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize(("verb", "kind"), [("export", "Backup"), ("import", "Restore")])
def test_the_crs_of_the_compose_file_are_sound(verb: str, kind: str) -> None:
    assert COMPOSE["services"][verb]["command"][:2] == [verb, f"--from-file=/examples/{verb}.yaml"]
    document = yaml.safe_load((ROOT / "examples" / "compose" / f"{verb}.yaml").read_text())
    assert spec_problems(kind, document["spec"]) == []
    assert choose([document], kinds=(kind,)).name == "compose"


def test_each_run_of_the_compose_export_is_a_backup_of_its_own_that_import_can_name() -> None:
    """A pinned uid would make the second run of a cron job no backup at all."""
    export, back = (
        yaml.safe_load((ROOT / "examples" / "compose" / f"{verb}.yaml").read_text()) for verb in ("export", "import")
    )
    assert "uid" not in export["metadata"]
    written = export_location(export["spec"], export["metadata"]["name"], "0f5e9c1a-77")
    assert written.parent.url == f"s3://{back['spec']['s3']['path']}"
    assert "--backupPath=${EXPORT:-}" in COMPOSE["services"]["import"]["command"]


def test_the_example_request_is_answered_with_a_job() -> None:
    body = (ROOT / "examples" / "hooks" / "backup-sync.json").read_bytes()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://hooks") as client:
            return await client.post("/backup/sync", content=body)

    answer = asyncio.run(ask())
    assert answer.status_code == 200
    (job,) = answer.json()["children"]
    assert (job["kind"], job["metadata"]["name"]) == ("Job", "backup-export-s3")
