"""A secret that a user wrote into a CR is in no status and in no error that the webhook answers."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from app import openapi
from app.main import create_app
from app.settings import Settings
from tests.support.asgi import Client
from tests.support.objects import NOW

SECRET = "canary-5f2b9c7d"
S3 = {"provider": "aws", "bucket": "b", "prefix": "p", "secretName": "s"}
WRONG: list[Any] = [SECRET, f"{SECRET}\n", [SECRET], {"x": SECRET}, {SECRET: 1}]


def places(value: Any) -> dict[str, dict[str, Any]]:
    """Specs that hold *value* where secrets are, or where they are put by mistake."""
    return {
        "endpoint": {"s3": {**S3, "endpoint": f"https://user:{value}@host"}},
        "endpoint without scheme": {"s3": {**S3, "endpoint": f"user:{value}@host:9000"}},
        "endpoint of ceph": {"s3": {**S3, "provider": "ceph", "endpoint": f"https://user:{value}@host"}},
        "endpoint without host": {"s3": {**S3, "endpoint": f"https://user:{value}@"}},
        "token": {"azblob": {"container": "c", "prefix": "p", "storageAccount": "a", "sasToken": value}},
        "options of br": {"br": {"cluster": "c", "options": ["--crypter.key", value]}},
        "options of dumpling": {"dumpling": {"options": [f"--password={value}"]}},
        "env": {"env": [{"name": "TOKEN", "value": value}]},
        "env without a name": {"env": [{"value": value}]},
        "password": {"from": {"host": "h", "secretName": "s", "password": value}},
    }


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(create_app(Settings(log_format="json"), clock=lambda: NOW)) as client:
        yield client


@pytest.mark.parametrize("mistake", [{}, {"backupType": "nosuch"}, {"cleanPolicy": 5}, {"backoffRetryPolicy": "x"}])
@pytest.mark.parametrize("place", places(""))
@pytest.mark.parametrize("path", ["backup", "restore"])
def test_no_answer_holds_a_secret_of_the_spec(
    client: Client, path: str, place: str, mistake: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for value in WRONG:
        request = copy.deepcopy(openapi.example(path, "sync"))
        request["parent"]["spec"] |= {"s3": S3} | places(value)[place] | mistake
        answer = client.post(f"/{path}/sync", json=request)
        shown = json.dumps(answer.json()["status"]) if answer.status_code == 200 else answer.text
        assert SECRET not in shown, (value, shown)
        jobs = [child for child in answer.json().get("children", ()) if child["kind"] == "Job"]
        assert "endpoint" not in place or SECRET not in json.dumps(jobs)
    assert SECRET not in "".join(capsys.readouterr())
