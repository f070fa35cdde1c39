"""Objects from files: documents, lists, dumps; wrong ones are named."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from backup_manager.errors import NotFoundError, UsageError
from cli.documents import Files, key_of, read_files

BACKUP: dict[str, Any] = {"apiVersion": "pingcap.com/v1alpha1", "kind": "Backup", "metadata": {"name": "a"}, "spec": {}}


def put(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_documents_lists_json_and_folders(tmp_path: Path) -> None:
    put(tmp_path, "a.yaml", "kind: Backup\nmetadata: {name: a}\n---\n---\nkind: Job\nmetadata: {name: j}\n")
    put(tmp_path, "b.json", json.dumps({"kind": "List", "items": [BACKUP, {**BACKUP, "metadata": {"name": "b"}}]}))
    put(tmp_path, "ignored.txt", "nonsense: [")
    found = read_files([str(tmp_path)])
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [
        ("Backup", "a"),
        ("Job", "j"),
        ("Backup", "a"),
        ("Backup", "b"),
    ]


def test_times_stay_texts(tmp_path: Path) -> None:
    path = put(tmp_path, "a.yaml", "kind: Backup\nmetadata: {name: a, creationTimestamp: 2026-01-31T02:00:00Z}\n")
    assert read_files([path])[0]["metadata"]["creationTimestamp"] == "2026-01-31T02:00:00Z"


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(BACKUP)))
    assert read_files(["-"]) == [BACKUP]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is no YAML"),
        ("{", "is no JSON"),
        ("", "no object in it"),
        ("- 1", "no Kubernetes object"),
        ("metadata: {}", "no Kubernetes object"),
        ("kind: Backup", "has no metadata.name"),
        ("kind: Backup\nmetadata: {name: a, namespace: 7}", "Backup 'a': metadata.namespace is no text"),
        ("kind: Backup\nmetadata: {name: a, labels: [x]}", "metadata.labels is no list of names and texts"),
        ("kind: Backup\nmetadata: {name: a, annotations: {x: 1}}", "metadata.annotations is no list"),
        ("kind: Backup\nmetadata: {name: a, ownerReferences: [x]}", "ownerReferences is no list of objects"),
        ("kind: Backup\nmetadata: {name: a}\nspec: yes please", "spec is no object"),
        ("kind: Backup\nmetadata: {name: a}\nstatus: [1]", "status is no object"),
        ("kind: Backup\nmetadata: {name: a}\nstatus: {conditions: {a: b}}", "conditions is no list of objects"),
        ("kind: Backup\nmetadata: {name: a}\nstatus: {phase: {a: b}}", "status.phase is no text"),
        ("kind: Backup\nmetadata: {name: a}\nspec: {n: 1000000000000000000000}", "64-bit"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_files([put(tmp_path, "x.yaml", text)])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_files([str(tmp_path / "absent")])
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no UTF-8"):
        read_files([str(tmp_path / "b.yaml")])


def test_objects_without_a_namespace_are_in_the_chosen_one() -> None:
    assert [key_of(item) for item in Files([BACKUP], namespace="db").list("Backup")] == [("Backup", "db", "a")]
    assert Files([BACKUP]).namespace == "default"
    elsewhere = {**BACKUP, "metadata": {"name": "a", "namespace": "db"}}
    assert Files([elsewhere]).namespace == "db"
    assert Files([elsewhere], namespace="other").list("Backup") == []
    node = {"kind": "Namespace", "metadata": {"name": "db"}}
    assert Files([node]).list("Namespace") == [node]


def test_one_object_by_name() -> None:
    two = [{**BACKUP, "metadata": {"name": "a", "namespace": place}} for place in ("x", "y")]
    assert key_of(Files(two, namespace="y").get("Backup", "a")) == ("Backup", "y", "a")
    with pytest.raises(UsageError, match="several"):
        Files(two).get("Backup", "a")
    with pytest.raises(NotFoundError, match="hold no Backup 'b'"):
        Files(two).get("Backup", "b")
