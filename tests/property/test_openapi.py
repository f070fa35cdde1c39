"""What the API's own document allows, thrown at it: nothing of it may end in an error of ours."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from app.main import create_app
from app.settings import Settings

SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", create_app(Settings(log_level="error")))


@SCHEMA.exclude(path="/metrics").parametrize()
@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_answers_what_it_documents(case: schemathesis.Case[Any]) -> None:
    response = case.call()
    assert response.status_code in {200, 400, 405, 422}, response.text
    if response.status_code != 200:
        assert "\n" not in response.text
