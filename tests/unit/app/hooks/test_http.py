"""The webhook over HTTP: what is refused, what is answered, and what nobody gets to see."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from fastapi import FastAPI

from app import openapi, routes, service
from app.domain.observed import Observed
from app.domain.schedule.children import BACKUPS, COMPACTIONS
from app.hooks import request as wire
from app.hooks import response as answer
from app.hooks.backupschedule import KIND
from app.main import create_app
from app.settings import Settings
from tests.support.asgi import Client
from tests.support.schedules import BR, LOG, backup, log_backup, schedule

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
HOOKS = [(path, operation) for path in wire.KINDS for operation in ("customize", "sync", "finalize")]
SECRET = "hunter2-do-not-show"
KIBIBYTE = 1024


SETTINGS = Settings(max_body=64 * KIBIBYTE, max_schedule_body=512 * KIBIBYTE, log_format="json")


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(SETTINGS, clock=lambda: NOW)


@pytest.fixture
def fresh() -> Iterator[Client]:
    """A client of an application that nobody asked anything yet."""
    with Client(create_app(SETTINGS, clock=lambda: NOW)) as client:
        yield client


@pytest.fixture
def client(app: FastAPI) -> Iterator[Client]:
    with Client(app) as client:
        yield client


def request(path: str, operation: str) -> dict[str, Any]:
    return openapi.example(path, operation)


def one_line(text: str) -> str:
    error: str = orjson.loads(text)["error"]
    assert "\n" not in text
    assert len(text) < 400
    return error


@pytest.mark.parametrize(("path", "operation"), HOOKS)
class TestRefusals:
    """A 200 would be obeyed: everything that is not a sound request must be something else."""

    @pytest.mark.parametrize(
        "case",
        [
            (b"", 400, "empty"),
            (b"junk", 400, "not JSON"),
            (b'{"parent": ', 400, "not JSON"),
            (b"\xff\xfe", 400, "not JSON"),
            (b'{"parent": NaN}', 400, "not JSON"),
            (b"[" * 100_00, 400, "not JSON"),
            (b"null", 422, "an object with parent"),
            (b"[]", 422, "an object with parent"),
            (b"{}", 422, "parent is missing"),
            (b'{"parent": null}', 422, "parent is missing"),
            (b'{"parent": []}', 422, "parent is missing"),
            (b'{"parent": {}}', 422, "parent.metadata.name"),
            (b'{"parent": {"metadata": []}, "children": {}}', 422, "parent.metadata"),
            (b'{"parent": {"metadata": {"name": "x", "uid": "../../x"}}, "children": {}}', 422, "uid"),
            (b'{"parent": {"metadata": {"name": "x", "uid": ["x"]}}, "children": {}}', 422, "uid"),
            (b'{"parent": {"metadata": {"name": "x"}, "spec": 7}, "children": {}}', 422, "parent.spec"),
            (b'{"parent": {"metadata": {"name": "x"}, "kind": "Pod"}, "children": {}}', 422, "parent.kind"),
            (b'{"parent": {"metadata": {"name": "x"}, "kind": {}}, "children": {}}', 422, "parent.kind"),
            (b'{"parent": {"metadata": {"name": "x", "labels": [1]}}, "children": {}}', 422, "labels"),
        ],
    )
    def test_bodies(self, client: Client, path: str, operation: str, case: tuple[bytes, int, str]) -> None:
        body, status, says = case
        response = client.post(f"/{path}/{operation}", content=body)
        assert response.status_code == status
        assert says in one_line(response.text)

    def test_too_long(self, client: Client, path: str, operation: str) -> None:
        response = client.post(f"/{path}/{operation}", content=b"x" * 600 * KIBIBYTE)
        assert response.status_code == 413
        assert "longer than" in one_line(response.text)

    def test_too_long_without_saying_so(self, client: Client, path: str, operation: str) -> None:
        response = client.post_stream(f"/{path}/{operation}", [b"x" * 100 * KIBIBYTE] * 6)
        assert response.status_code == 413

    def test_a_failure_of_ours_shows_neither_text_nor_trace(
        self,
        fresh: Client,
        path: str,
        operation: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(*_args: object, **_more: object) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr(answer, "build_response", fail)
        monkeypatch.setattr(answer, "plain", fail)
        response = fresh.post(f"/{path}/{operation}", json=request(path, operation))
        assert response.status_code == 500
        assert "internal error: RuntimeError" in one_line(response.text)
        shown = response.text + "".join(capsys.readouterr())
        assert SECRET not in shown
        assert "Traceback" not in shown


@pytest.mark.parametrize(("path", "operation"), [hook for hook in HOOKS if hook[1] != "customize"])
@pytest.mark.parametrize(
    "case",
    [
        ("children", None, "children is missing"),
        ("children", [], "children is missing"),
        ("children", {"Job.batch/v1": None}, "Job.batch/v1"),
        ("children", {"Job.batch/v1": {"db/x": None}}, "db/x"),
        ("children", {"Job.batch/v1": {"db/x": {"metadata": {}}}}, "db/x"),
        ("children", {"Job.batch/v1": {"db/x": {"metadata": {"name": "y"}}}}, "db/x"),
        ("related", [7], "related is missing or no object"),
        ("related", {"TidbCluster.pingcap.com/v1alpha1": []}, "TidbCluster"),
        ("finalizing", "yes", "finalizing"),
    ],
)
def test_half_a_request_is_refused(client: Client, path: str, operation: str, case: tuple[str, Any, str]) -> None:
    field, value, says = case
    response = client.post(f"/{path}/{operation}", json={**request(path, operation), field: value})
    assert response.status_code == 422
    assert says in one_line(response.text)


def test_finalize_must_say_so(client: Client) -> None:
    body = {**request("backup", "finalize"), "finalizing": False}
    assert client.post("/backup/finalize", json=body).status_code == 422


@pytest.mark.parametrize(("path", "operation"), HOOKS)
def test_the_documented_examples_are_answered(client: Client, path: str, operation: str) -> None:
    response = client.post(f"/{path}/{operation}", json=request(path, operation))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    if operation == "customize":
        assert isinstance(found["relatedResources"], list)
    else:
        assert isinstance(found["children"], list)
        assert found["status"]["observedGeneration"] == 1
        assert b"null" not in response.content


def test_finalized_only_when_finalizing(client: Client) -> None:
    assert client.post("/backupschedule/finalize", json=request("backupschedule", "finalize")).json()["finalized"] is True
    assert "finalized" not in client.post("/backupschedule/sync", json=request("backupschedule", "sync")).json()


def test_a_wrong_cr_is_answered_with_every_child(client: Client) -> None:
    children = [backup(NOW - timedelta(days=age)) for age in range(1, 4)] + [log_backup(NOW)]
    body = {
        "parent": schedule({"schedule": "0 0 30 2 *", "backupTemplate": BR, "maxBackups": 1}),
        "children": {"Backup.pingcap.com/v1alpha1": {f"db/{item['metadata']['name']}": item for item in children}},
    }
    response = client.post("/backupschedule/sync", json=body)
    assert response.status_code == 200
    assert response.json()["status"]["conditions"][0]["type"] == "Invalid"
    assert [child["metadata"]["name"] for child in response.json()["children"]] == sorted(
        item["metadata"]["name"] for item in children
    )


def test_a_big_schedule_is_answered_from_a_thread(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_IN_THREAD", 1)
    assert client.post("/backupschedule/sync", json=request("backupschedule", "sync")).status_code == 200
    assert client.post("/backupschedule/sync", content=b"junk").status_code == 400


def test_a_schedule_too_big_to_be_kept_whole_is_answered_all_the_same() -> None:
    items = [backup(NOW - timedelta(hours=age)) for age in range(1, 3001)] + [log_backup(NOW - timedelta(days=200), NOW)]
    # Metacontroller sorts them.
    children = {f"db/{item['metadata']['name']}": item for item in sorted(items, key=lambda item: item["metadata"]["name"])}
    policy = {"schedule": "0 2 * * *", "backupTemplate": BR, "logBackupTemplate": LOG, "maxReservedTime": "2880h"}
    body = {**request("backupschedule", "sync"), "parent": schedule(policy)}
    body["children"] = {BACKUPS: children, COMPACTIONS: {}}
    text = orjson.dumps(body)
    assert len(text) > 1024 * KIBIBYTE
    with Client(create_app(Settings(log_format="json"), clock=lambda: NOW)) as client:
        answered = client.post("/backupschedule/sync", content=text)
    seen = Observed(parent=body["parent"], children=body["children"])
    assert answered.content == answer.render(KIND, seen, KIND.decide(seen, NOW, Settings().config()), Settings().config())
    assert len(answered.json()["children"]) > 2900


def test_an_answer_that_would_lose_a_child_is_not_given(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "_stubs", lambda _observed, _drops: {})
    item = backup(NOW - timedelta(days=1))
    body = request("backupschedule", "sync")
    body["children"] = {"Backup.pingcap.com/v1alpha1": {f"db/{item['metadata']['name']}": item}}
    response = client.post("/backupschedule/sync", json=body)
    assert response.status_code == 500
    assert "would delete" in one_line(response.text)


def test_other_methods_and_paths(client: Client) -> None:
    assert client.get("/backup/sync").status_code == 405
    assert client.post("/backup/nothing", json={}).status_code == 404


def test_health_and_metrics(fresh: Client) -> None:
    assert fresh.get("/healthz").json() == fresh.get("/readyz").json() == {"status": "ok"}
    fresh.post("/backup/sync", json=request("backup", "sync"))
    fresh.post("/backup/sync", content=b"")
    text = fresh.get("/metrics").text
    assert 'tidb_backup_hook_requests_total{code="200",kind="backup",operation="sync"} 1.0' in text
    assert 'tidb_backup_hook_requests_total{code="400",kind="backup",operation="sync"} 1.0' in text
    assert "tidb_backup_hook_duration_seconds_bucket" in text


def test_namespaces(client: Client) -> None:
    assert client.post("/namespace/sync", json=request("namespace", "sync")).json()["attachments"]
    refused = client.post("/namespace/sync", json={"object": None})
    assert refused.status_code == 422
    assert "object" in one_line(refused.text)


class TestDocument:
    def test_every_hook_has_words_an_example_and_its_real_answer(self, client: Client) -> None:
        paths = client.get("/openapi.json").json()["paths"]
        for path, operation in [*HOOKS, ("namespace", "sync")]:
            described = paths[f"/{path}/{operation}"]["post"]
            assert described["summary"]
            assert described["description"]
            assert described["requestBody"]["content"]["application/json"]["example"] == request(path, operation)
            assert described["responses"]["200"]["content"]["application/json"]["example"]
            assert set(described["responses"]) >= {"200", "400", "413", "422", "500"}

    def test_reading_it_leaves_no_metrics(self, fresh: Client) -> None:
        fresh.get("/openapi.json")
        assert "tidb_backup_phase{" not in fresh.get("/metrics").text

    def test_the_page(self, client: Client) -> None:
        assert client.get("/docs").status_code == 200


class TestLog:
    def lines(self, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]

    def test_one_line_for_what_changes_something_none_for_the_rest(
        self, fresh: Client, capsys: pytest.CaptureFixture[str]
    ) -> None:
        body = request("backupschedule", "sync")
        body["parent"]["metadata"]["managedFields"] = [{"manager": "metacontroller", "time": "2026-01-31T12:00:00Z"}]
        found = fresh.post("/backupschedule/sync", json=body).json()
        first = self.lines(capsys)
        assert [line["event"] for line in first] == ["sync"]
        assert first[0]["cr"] == "backupschedule/shop/nightly"
        assert first[0]["create"] == ["Backup nightly-2026-01-31t02-00-00"]
        name = "nightly-2026-01-31t02-00-00"
        child = {**found["children"][0], "status": {}}
        child["metadata"]["creationTimestamp"] = "2026-01-31T12:00:00Z"
        child["metadata"]["ownerReferences"] = [{"controller": True, "uid": body["parent"]["metadata"]["uid"]}]
        body["children"]["Backup.pingcap.com/v1alpha1"] = {f"shop/{name}": child}
        body["parent"]["status"] = found["status"]
        body["parent"]["status"] = fresh.post("/backupschedule/sync", json=body).json()["status"]
        capsys.readouterr()
        fresh.post("/backupschedule/sync", json=body)
        assert self.lines(capsys) == []

    def test_no_body_is_logged(self, fresh: Client, capsys: pytest.CaptureFixture[str]) -> None:
        body = request("backup", "sync")
        body["parent"]["spec"] = {"azblob": {"sasToken": SECRET}, "unknown": SECRET}
        response = fresh.post("/backup/sync", json=body)
        assert response.status_code == 200
        assert SECRET not in response.text + "".join(capsys.readouterr())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDB_BACKUP_MANAGER_IMAGE", "registry:5000/manager@sha256:aa")
    monkeypatch.setenv("TIDB_BACKUP_CLUSTER_KINDS", '["clusters.core.pingcap.com/v1alpha1"]')
    monkeypatch.setenv("TIDB_BACKUP_MAX_DELETIONS", "7")
    config = Settings().config()
    assert config.manager_image == "registry:5000/manager@sha256:aa"
    assert [str(kind) for kind in config.cluster_kinds] == ["clusters.core.pingcap.com/v1alpha1"]
    assert config.max_deletions == 7


def test_every_kind_has_its_routes() -> None:
    assert [kind.path for kind in service.KINDS] == list(wire.KINDS)


def test_a_time_out_of_the_calendar_is_no_error_but_that_child_s_trouble(fresh: Client) -> None:
    body = request("backupschedule", "sync")
    name = "nightly-2026-01-31t02-00-00"
    annotations = {"tidb.pingcap.com/scheduled-time": "0001-01-01T00:00:00+14:00"}
    child = {"kind": "Backup", "metadata": {"name": name, "namespace": "shop", "annotations": annotations}}
    body["children"]["Backup.pingcap.com/v1alpha1"] = {f"shop/{name}": child}
    response = fresh.post("/backupschedule/sync", json=body)
    assert response.status_code == 200
    assert [item["metadata"]["name"] for item in response.json()["children"]] == [name]


def test_a_wrong_type_is_left_out_and_its_place_logged(fresh: Client, capsys: pytest.CaptureFixture[str]) -> None:
    body = request("backup", "sync")
    name = "backup-nightly"
    uid = body["parent"]["metadata"]["uid"]
    owned = {"labels": {"tidb.pingcap.com/cr-uid": uid}, "ownerReferences": [{"controller": True, "uid": uid}]}
    job = {"kind": "Job", "metadata": {"name": name, "namespace": "shop", **owned}, "status": ["x"]}
    body["children"]["Job.batch/v1"] = {f"shop/{name}": job}
    response = fresh.post("/backup/sync", json=body)
    assert response.status_code == 200
    assert [item["metadata"]["name"] for item in response.json()["children"]] == [name]
    assert "child Job shop/backup-nightly.status" in "".join(capsys.readouterr())


@pytest.mark.parametrize("operation", ["customize", "sync"])
def test_a_spec_that_cannot_be_read_is_invalid(fresh: Client, operation: str) -> None:
    body = request("backup", operation)
    body["parent"]["spec"] = {**body["parent"]["spec"], "br": ["x"], "backoffRetryPolicy": "x"}
    response = fresh.post(f"/backup/{operation}", json=body)
    assert response.status_code == 200
    if operation == "sync":
        assert response.json()["status"]["phase"] == "Invalid"
        assert response.json()["children"] == []


@pytest.mark.parametrize("phase", [[], ["Complete"], {"x": 1}, 5, True])
@pytest.mark.parametrize("path", list(wire.KINDS))
def test_a_phase_of_any_type_is_answered(fresh: Client, path: str, phase: Any) -> None:
    body = request(path, "sync")
    body["parent"]["status"] = {"phase": phase, "state": phase}
    assert fresh.post(f"/{path}/sync", json=body).status_code == 200
