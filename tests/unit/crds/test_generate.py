"""The generated CRDs: current, small enough to apply, structural, complete."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from crds import generate
from crds.v1alpha1 import KINDS
from crds.v1alpha1.common import Model

CRDS = {kind: generate.crd(model) for kind, model in KINDS.items()}
ANNOTATION_LIMIT = 256 * 1024
COLUMNS = {
    "Backup": "Type Mode Status Progress BackupPath BackupSize IncrementalBackupSize CommitTS LogTruncateUntil Started"
    " Completed TimeTaken Age",
    "Restore": "Status Progress Started Completed TimeTaken CommitTS Age",
    "BackupSchedule": "Schedule MaxBackups MaxReservedTime LastBackup LastBackupTime Age",
    "CompactBackup": "Status EndTs Progress Message",
}


def _version(kind: str) -> dict[str, Any]:
    (version,) = CRDS[kind]["spec"]["versions"]
    assert isinstance(version, dict)
    return version


def _schema(kind: str, path: str) -> dict[str, Any]:
    node: dict[str, Any] = _version(kind)["schema"]["openAPIV3Schema"]
    for part in path.split("."):
        node = node["properties"][part]
    return node


def _nodes(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield schema
    for part in schema.get("properties", {}).values():
        yield from _nodes(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from _nodes(schema[key])


def test_the_committed_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_drift_is_told_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    current = generate.files()
    moved = {tmp_path / path.name: text for path, text in current.items()}
    monkeypatch.setattr(generate, "files", lambda: moved)
    for path, text in moved.items():
        path.write_text(text)
    (tmp_path / "backups.yaml").write_text("old")
    assert generate.main(["--check"]) == 1
    assert "not current: backups.yaml" in capsys.readouterr().out
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_reads_back(kind: str) -> None:
    text = generate.files()[generate.FOLDER / f"{KINDS[kind].PLURAL}.yaml"]
    assert yaml.load(text, Loader=yaml.CSafeLoader) == CRDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_fits_the_annotation_of_kubectl_apply(kind: str) -> None:
    assert len(json.dumps(CRDS[kind])) < 250_000 < ANNOTATION_LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_is_structural(kind: str) -> None:
    for node in _nodes(_version(kind)["schema"]["openAPIV3Schema"]):
        assert not {"$ref", "allOf", "oneOf", "title", "const", "$defs", "exclusiveMinimum"} & set(node)
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node)
        assert not ("properties" in node and "additionalProperties" in node)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_and_status_subresource(kind: str) -> None:
    version = _version(kind)
    assert [column["name"] for column in version["additionalPrinterColumns"]] == COLUMNS[kind].split()
    assert version["subresources"] == {"status": {}}
    for column in version["additionalPrinterColumns"]:
        if column["name"] != "Age":
            _schema(kind, column["jsonPath"].removeprefix("."))


@pytest.mark.parametrize("kind", KINDS)
def test_names(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    expected = {"Backup": "bk", "Restore": "rt", "BackupSchedule": "bks", "CompactBackup": "cpbk"}
    assert spec["names"]["shortNames"] == [expected[kind]]
    assert CRDS[kind]["metadata"]["name"] == f"{spec['names']['plural']}.pingcap.com"


@pytest.mark.parametrize("kind", KINDS)
def test_every_status_has_the_observed_generation(kind: str) -> None:
    schema = _schema(kind, "status.observedGeneration")
    assert (schema["type"], schema["format"]) == ("integer", "int64")


@pytest.mark.parametrize(
    ("path", "default"),
    [
        ("Backup spec.backupMode", "snapshot"),
        ("Backup spec.cleanPolicy", "Retain"),
        ("Backup spec.calcSizeLevel", "all"),
        ("Backup spec.volumeBackupInitJobMaxActiveSeconds", 600),
        ("Backup spec.cleanOption.retryCount", 5),
        ("Backup spec.cleanOption.snapshotsDeleteRatio", 1),
        ("Backup spec.backoffRetryPolicy", {}),
        ("Backup spec.backoffRetryPolicy.minRetryDuration", "300s"),
        ("Backup spec.backoffRetryPolicy.maxRetryTimes", 2),
        ("Backup spec.backoffRetryPolicy.retryTimeout", "30m"),
        ("Restore spec.restoreMode", "snapshot"),
        ("Restore spec.warmupStrategy", "hybrid"),
        ("CompactBackup spec.concurrency", 4),
        ("CompactBackup spec.maxRetryTimes", 6),
        ("BackupSchedule spec.backupTemplate.cleanPolicy", "Retain"),
        ("BackupSchedule spec.concurrencyPolicy", "Forbid"),
        ("BackupSchedule spec.failedHistoryLimit", 5),
        ("BackupSchedule spec.retention.minKeep", 1),
    ],
)
def test_defaults(path: str, default: object) -> None:
    kind, _, field = path.partition(" ")
    assert _schema(kind, field)["default"] == default


def test_only_those_defaults() -> None:
    unset = ["Backup spec.useKMS", "Backup spec.cleanOption", "Backup spec.from.port", "Restore spec.backoffLimit"]
    for path in unset:
        kind, _, field = path.partition(" ")
        assert "default" not in _schema(kind, field)


@pytest.mark.parametrize("kind", KINDS)
def test_every_own_field_is_described(kind: str) -> None:
    model = KINDS[kind]
    waiting: list[Any] = [model]
    seen: set[type] = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, type) and issubclass(part, Model) and part not in seen:
            seen.add(part)
            assert all(field.description for field in part.model_fields.values()), part
            waiting += [field.annotation for field in part.model_fields.values()]
        else:
            waiting += getattr(part, "__args__", ())
    assert len(seen) > 5


def test_core_types_are_whole() -> None:
    affinity = _schema("Backup", "spec.affinity")
    assert set(affinity["properties"]) == {"nodeAffinity", "podAffinity", "podAntiAffinity"}
    volume = _schema("Backup", "spec.local.volume")
    assert {"nfs", "persistentVolumeClaim", "csi", "hostPath", "projected"} <= set(volume["properties"])
    assert volume["properties"]["emptyDir"]["properties"]["sizeLimit"]["x-kubernetes-int-or-string"] is True
