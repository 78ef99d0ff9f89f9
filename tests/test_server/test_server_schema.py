"""server.py in process, with generated input: its own OpenAPI document, all of Unicode."""

import asyncio
import json
import os
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from server import app

schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture(autouse=True, scope="module")
def _no_delay() -> Any:
    before = os.environ.pop("HELLO_DELAY", None)
    os.environ["HELLO_DELAY"] = "0"
    yield
    del os.environ["HELLO_DELAY"]
    if before is not None:
        os.environ["HELLO_DELAY"] = before


@schema.parametrize()
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_answer_matches_the_document(case: Any) -> None:
    case.call_and_validate(checks=CHECKS.get_all())


def ask(path: str, content: bytes, content_type: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post(path, content=content, headers={"content-type": content_type})

    return asyncio.run(request())


any_text = st.text(st.characters(exclude_categories=[]), max_size=50)
generated = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def good(name: str) -> bool:
    return bool(name.strip()) and not any("\ud800" <= each <= "\udfff" for each in name)


@generated
@given(any_text, any_text)
def test_any_names(name: str, surname: str) -> None:
    body = json.dumps({"name": name, "surname": surname}).encode()
    answer = ask("/helloJson", body, "application/json")
    if good(name) and good(surname):
        assert (answer.status_code, answer.json()["message"]) == (200, f"Hello {name} {surname}")
    else:
        assert answer.status_code == 422
        assert isinstance(answer.json()["detail"], str)


@generated
@given(any_text)
def test_any_text(text: str) -> None:
    body = text.encode(errors="surrogatepass")
    answer = ask("/helloText", body, "text/plain")
    if good(text):
        assert (answer.status_code, answer.json()) == (200, f"Hello {text}")
    else:
        assert answer.status_code == (422 if not text.strip() else 400)
        assert isinstance(answer.json()["detail"], str)


@generated
@given(st.binary(max_size=100), st.sampled_from(["/helloJson", "/helloText"]))
def test_any_bytes(body: bytes, path: str) -> None:
    for content_type in ("application/json", "text/plain", "x/y; charset=utf-16", ""):
        answer = ask(path, body, content_type)
        assert answer.status_code in (200, 400, 422)
        answer.json()
