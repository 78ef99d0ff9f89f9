"""The OpenAPI document of server.py, and generated requests that have to match it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import settings
from schemathesis.checks import CHECKS

from server import app

schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.slow
@pytest.mark.usefixtures("call_app")
@schema.parametrize()
@settings(max_examples=200, deadline=None, derandomize=True)
def test_generated_requests_get_documented_responses(case: Any) -> None:
    case.call_and_validate(checks=CHECKS.get_all())


def test_document_describes_bodies_with_examples(call_app: Callable[..., httpx.Response]) -> None:
    document = call_app("GET", "/openapi.json").json()
    assert document["info"]["title"] == "Greeting service"
    assert document["info"]["description"]
    text = document["paths"]["/helloText"]["post"]["requestBody"]["content"]["text/plain"]
    assert text["schema"]["type"] == "string"
    assert text["example"] == "John Doe"
    person = document["components"]["schemas"]["Person"]["properties"]
    assert person["name"]["examples"] == ["John"]
    assert person["surname"]["examples"] == ["Doe"]
