"""The bills of materials name what the images install, and the audit finds, skips and fails as it says."""

import json
import os
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCK = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
PARTS = ("webhook", "manager", "cli")


def needed(part: str) -> set[str]:
    """The locked packages that the optional dependencies *part* bring, by the lock's own edges; markers are not judged."""
    ours = LOCK["tidb-backup"]
    todo = [*ours["dependencies"], *ours["optional-dependencies"][part]]
    found: set[str] = set()
    while todo:
        edge = todo.pop()
        package = LOCK[edge["name"]]
        extras = [entry for extra in edge.get("extra", ()) for entry in package.get("optional-dependencies", {}).get(extra, ())]
        if edge["name"] not in found or extras:
            todo += [entry for entry in [*package.get("dependencies", ()), *extras] if entry["name"] not in found]
        found.add(edge["name"])
    return found - {"tidb-backup"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["scripts/sbom.sh", str(folder)], cwd=ROOT, check=True, capture_output=True)
    files = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    return {part: next(document for name, document in files.items() if f"-{part}-" in name) for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_a_bill_of_materials_names_each_package_of_its_image_as_locked(documents: dict[str, Any], part: str) -> None:
    document = documents[part]
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["name"] == "tidb-backup"
    listed = {component["name"]: component for component in document["components"] if component["name"] != "tidb-backup"}
    assert set(listed) == needed(part)
    for name, component in listed.items():
        assert component["version"] == LOCK[name]["version"]
        assert component["purl"].partition("?")[0] == f"pkg:pypi/{name}@{component['version']}"
        locked = {entry["hash"].removeprefix("sha256:") for entry in LOCK[name].get("wheels", ())}
        told = {value["content"] for place in component["externalReferences"] for value in place.get("hashes", ())}
        assert locked <= told


@contextmanager
def database(findings: int, status: int = 200) -> Iterator[str]:
    """A database of vulnerabilities that has *findings* for the first package asked about."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            known = [{"id": f"PYSEC-2026-{number}", "modified": "2026-01-01T00:00:00Z"} for number in range(findings)]
            self.answer({"results": [{"vulns": known} if known else {}, *({} for _ in asked[1:])]})

        def do_GET(self) -> None:
            found = self.path.rpartition("/")[2]
            self.answer({"id": found, "modified": "2026-01-01T00:00:00Z", "summary": "made up", "affected": []})

        def answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def audit(url: str) -> "subprocess.CompletedProcess[str]":
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.run(
        ["scripts/audit.sh"], cwd=ROOT, env={**env, "AUDIT_URL": url}, capture_output=True, text=True, check=False
    )


def test_the_audit_fails_on_a_known_vulnerability() -> None:
    with database(findings=1) as url:
        found = audit(url)
    assert found.returncode == 1
    assert "PYSEC-2026-0" in found.stderr


def test_the_audit_passes_when_nothing_is_known() -> None:
    with database(findings=0) as url:
        found = audit(url)
    assert (found.returncode, found.stderr) == (0, "")
    assert "no known vulnerability" in found.stdout


def test_the_audit_says_that_it_was_skipped_when_the_database_cannot_be_reached() -> None:
    with database(findings=0) as gone:
        pass
    found = audit(gone)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith(f"audit: SKIPPED, {gone} cannot be reached (")


def test_an_answer_of_the_database_that_is_none_is_no_skip() -> None:
    with database(findings=0, status=404) as url:
        assert audit(url).returncode == 1


def test_no_room_is_left_out_of_the_security_rules() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in lint["ignore"] if rule.startswith("S")]
    rooms = lint["per-file-ignores"]
    assert not [room for room, rules in rooms.items() if "S" in rules]
    assert not {"app/**", "backup_manager/**", "cli/**", "crds/**"} & rooms.keys(), "what ships gives its reason in the line"
