"""The routes of server.py, in process: their responses to good and to bad input."""

import asyncio

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

import server
from server import MAX_BODY_SIZE, app

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("content_type", ["text/plain", "x/y", ""])
def test_hello_text_responds_with_a_json_string(client: TestClient, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = client.post("/helloText", content="John Doe", headers=headers)
    assert response.status_code == 200
    assert response.text == '"Hello John Doe"'


def test_names_are_stripped(client: TestClient) -> None:
    response = client.post("/helloJson", json={"name": " John\t", "surname": "\nDoe "})
    assert response.json() == {"message": "Hello John Doe"}
    assert client.post("/helloText", content=" Zoë 🦀\n").json() == "Hello Zoë 🦀"


def test_validation_error_names_the_field(client: TestClient) -> None:
    response = client.post("/helloJson", json={"name": "John"})
    assert response.status_code == 422
    assert response.json() == {
        "detail": [{"type": "missing", "loc": ["body", "surname"], "msg": "Field required"}]
    }


INVALID_JSON = {
    "no body": b"",
    "not JSON": b"{",
    "no surname": b'{"name": "John"}',
    "blank name": b'{"name": " \\t", "surname": "Doe"}',
    "number as name": b'{"name": 1, "surname": "Doe"}',
    "list": b"[]",
    "NaN": b'{"name": NaN, "surname": "Doe"}',
    "infinity": b'{"name": -Infinity, "surname": 1e999}',
    "lone surrogate": b'{"name": "\\ud800", "surname": "Doe"}',
    "lone surrogate in an unknown field": b'{"name": 1, "\\udfff": "\\ud800"}',
    "lone surrogate as the whole body": b'"\\ud800"',
    "not UTF-8": b'{"name": "\xff", "surname": "Doe"}',
    "5,000 digits": b'{"name": ' + b"1" * 5000 + b', "surname": "Doe"}',
    "30,000 brackets": b'{"name": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "unclosed brackets": b"[" * MAX_BODY_SIZE,
}
INVALID_TEXT = {
    "empty": b"",
    "blank": b" \n\t",
    "Unicode blanks": "\u00a0\u2003".encode(),
    "not UTF-8": b"John \xff",
    "lone surrogate": b"\xed\xa0\x80",
}


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON)
def test_hello_json_with_invalid_body(client: TestClient, body: bytes) -> None:
    """FastAPI responds with 400 where json fails, and with 422 where its result is wrong."""
    response = client.post("/helloJson", content=body, headers=JSON)
    assert response.status_code in (400, 422)
    assert response.json()["detail"]


@pytest.mark.parametrize("body", INVALID_TEXT.values(), ids=INVALID_TEXT)
def test_hello_text_with_invalid_body(client: TestClient, body: bytes) -> None:
    response = client.post("/helloText", content=body)
    assert response.status_code == 422
    assert response.json()["detail"]


def test_hello_text_with_json(client: TestClient) -> None:
    assert client.post("/helloText", content="John Doe", headers=JSON).status_code == 422


@pytest.mark.parametrize(
    ("sizes", "statuses"),
    [([MAX_BODY_SIZE], [200]), ([MAX_BODY_SIZE + 1], [413]), ([MAX_BODY_SIZE, 1], [413])],
)
def test_body_size_limit(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], statuses: list[int]
) -> None:
    """The body arrives in parts, and there is one response."""
    monkeypatch.setattr(server, "HELLO_DELAY", 0)
    messages: list[Message] = [
        {"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes
    ]
    messages.append({"type": "http.request"})
    scope = {
        "type": "http",
        "http_version": "2",
        "method": "POST",
        "path": "/helloText",
        "headers": [],
        "query_string": b"",
    }
    sent: list[int] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    asyncio.run(server.ReadRequestFirst(server.app)(scope, receive, send))
    assert sent == statuses


def test_openapi_describes_the_text(client: TestClient) -> None:
    document = app.openapi()
    body = document["paths"]["/helloText"]["post"]["requestBody"]
    assert list(body["content"]) == ["text/plain"]
    assert "/openapi.json" in client.get("/docs").text
