"""The routes of server.py, in process: what they answer to good and to bad input."""

import asyncio
from typing import Any

import httpx
import pytest

from server import app

JSON = {"content-type": "application/json"}
JOHN = {"name": "John", "surname": "Doe"}


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELLO_DELAY", "0")


def ask(method: str, path: str, **content: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **content)

    return asyncio.run(request())


def test_hello_json_greets_by_name_and_surname() -> None:
    answer = ask("POST", "/helloJson", json=JOHN)
    assert (answer.status_code, answer.json()) == (200, {"message": "Hello John Doe"})


def test_hello_text_answers_a_json_string() -> None:
    answer = ask("POST", "/helloText", content="John Doe")
    assert (answer.status_code, answer.text) == (200, '"Hello John Doe"')


def test_health() -> None:
    answer = ask("GET", "/health")
    assert (answer.status_code, answer.json()) == (200, {"message": "I am healthy"})


def test_a_greeting_prints_the_http_version_and_no_input(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask("POST", "/helloJson", json=JOHN)
    ask("POST", "/helloText", content="John Doe")
    ask("GET", "/health")
    assert capsys.readouterr().out == "HTTP version: 1.1\n" * 2


BAD_JSON = {
    "no body": b"",
    "no JSON": b"{",
    "no name": b'{"surname": "Doe"}',
    "no surname": b'{"name": "John"}',
    "a blank name": b'{"name": " \\t", "surname": "Doe"}',
    "an empty surname": b'{"name": "John", "surname": ""}',
    "a number as a name": b'{"name": 1, "surname": "Doe"}',
    "null as a name": b'{"name": null, "surname": "Doe"}',
    "a list": b"[]",
    "a string": b'"John Doe"',
    "NaN": b'{"name": NaN, "surname": "Doe"}',
    "infinity": b'{"name": -Infinity, "surname": 1e999}',
    "half a surrogate pair": b'{"name": "\\ud800", "surname": "Doe"}',
    "half a surrogate pair elsewhere": b'{"name": 1, "surname": "Doe", "\\udfff": "\\ud800"}',
    "not UTF-8": b'{"name": "\xff", "surname": "Doe"}',
    "5,000 digits": b'{"name": ' + b"1" * 5000 + b', "surname": "Doe"}',
    "deep nesting": b"[" * 60_000,
    "deep nesting in a name": b'{"name": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_is_unprocessable(body: bytes) -> None:
    answer = ask("POST", "/helloJson", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], str)
    assert answer.json()["detail"]


def test_detail_names_the_field() -> None:
    answer = ask("POST", "/helloJson", json={"name": "John"})
    assert answer.json()["detail"] == "body.surname: Field required"


@pytest.mark.parametrize(
    ("text", "status"),
    [(b"", 422), (b" \n\t", 422), ("\u00a0\u2003".encode(), 422), (b"\xff", 400)]
    + [(b"\xed\xa0\x80", 400), (b"John \xc3", 400), ("Zo\u00eb \U0001f980".encode(), 200)],
)
def test_text_must_be_utf8_and_not_blank(text: bytes, status: int) -> None:
    answer = ask("POST", "/helloText", content=text)
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == f"Hello {text.decode()}"
    else:
        assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(("size", "status"), [(65535, 200), (65536, 200), (65537, 413)])
@pytest.mark.parametrize("path", ["/helloText", "/helloJson"])
def test_a_body_may_have_64_kib(path: str, size: int, status: int) -> None:
    if path == "/helloText":
        answer = ask("POST", path, content=b"x" * size)
    else:
        body = b'{"name": "John", "surname": "%s"}'
        body %= b"x" * (size - len(body) + 2)
        assert len(body) == size
        answer = ask("POST", path, content=body, headers=JSON)
    assert answer.status_code == status
    if status == 413:
        assert "65536" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/health/", 404), ("POST", "/hello", 404)]
    + [("GET", "/helloJson", 405), ("PUT", "/helloText", 405), ("POST", "/health", 405)]
    + [("TRACE", "/health", 405), ("HEAD", "/health", 405)],
)
def test_other_routes_and_methods_are_refused(method: str, path: str, status: int) -> None:
    answer = ask(method, path)
    assert answer.status_code == status
    assert method == "HEAD" or answer.json()["detail"]
    assert ("allow" in answer.headers) == (status == 405)


def test_the_only_routes_are_the_three_and_the_documentation() -> None:
    paths = {getattr(route, "path", "") for route in app.routes}
    documentation = {"/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"}
    assert paths - documentation == {"/helloJson", "/helloText", "/health"}


def test_openapi_describes_the_bodies_with_examples() -> None:
    document = ask("GET", "/openapi.json").json()
    text = document["paths"]["/helloText"]["post"]["requestBody"]["content"]["text/plain"]
    assert text["schema"]["type"] == "string"
    assert text["example"] == "John Doe"
    person = document["components"]["schemas"]["Person"]["properties"]
    assert (person["name"]["examples"], person["surname"]["examples"]) == (["John"], ["Doe"])
