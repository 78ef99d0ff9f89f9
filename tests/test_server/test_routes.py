"""The routes of server.py, in process: their responses to good and to bad input."""

import pytest
from fastapi.testclient import TestClient

from server import MAX_BODY_SIZE, app

JSON = {"content-type": "application/json"}
PERSON = {"name": "John", "surname": "Doe"}


def test_hello_json_with_a_person(client: TestClient) -> None:
    response = client.post("/helloJson", json=PERSON)
    assert response.status_code == 200
    assert response.json() == {"message": "Hello John Doe"}


@pytest.mark.parametrize("content_type", ["text/plain", "x/y", ""])
def test_hello_text_responds_with_a_json_string(client: TestClient, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = client.post("/helloText", content="John Doe", headers=headers)
    assert response.status_code == 200
    assert response.text == '"Hello John Doe"'


def test_health(client: TestClient) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert response.json() == {"message": "I am healthy"}


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
    "no body": (b"", 422),
    "not JSON": (b"{", 422),
    "no surname": (b'{"name": "John"}', 422),
    "blank name": (b'{"name": " \\t", "surname": "Doe"}', 422),
    "number as name": (b'{"name": 1, "surname": "Doe"}', 422),
    "list": (b"[]", 422),
    "NaN": (b'{"name": NaN, "surname": "Doe"}', 422),
    "infinity": (b'{"name": -Infinity, "surname": 1e999}', 422),
    "lone surrogate": (b'{"name": "\\ud800", "surname": "Doe"}', 422),
    "lone surrogate in an unknown field": (b'{"name": 1, "\\udfff": "\\ud800"}', 422),
    "lone surrogate as the whole body": (b'"\\ud800"', 422),
    "not UTF-8": (b'{"name": "\xff", "surname": "Doe"}', 400),
    "5,000 digits": (b'{"name": ' + b"1" * 5000 + b', "surname": "Doe"}', 400),
    "30,000 brackets": (b'{"name": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
    "unclosed brackets": (b"[" * MAX_BODY_SIZE, 400),
}
INVALID_TEXT = {
    "empty": b"",
    "blank": b" \n\t",
    "Unicode blanks": "\u00a0\u2003".encode(),
    "not UTF-8": b"John \xff",
    "lone surrogate": b"\xed\xa0\x80",
}


@pytest.mark.parametrize(("body", "status"), INVALID_JSON.values(), ids=INVALID_JSON)
def test_hello_json_with_invalid_body(client: TestClient, body: bytes, status: int) -> None:
    response = client.post("/helloJson", content=body, headers=JSON)
    assert response.status_code == status
    assert response.json()["detail"]


@pytest.mark.parametrize("body", INVALID_TEXT.values(), ids=INVALID_TEXT)
def test_hello_text_with_invalid_body(client: TestClient, body: bytes) -> None:
    response = client.post("/helloText", content=body)
    assert response.status_code == 422
    assert response.json()["detail"]


def test_hello_text_with_json(client: TestClient) -> None:
    assert client.post("/helloText", content="John Doe", headers=JSON).status_code == 422


@pytest.mark.parametrize(("size", "status"), [(MAX_BODY_SIZE, 200), (MAX_BODY_SIZE + 1, 413)])
def test_body_size_limit(client: TestClient, size: int, status: int) -> None:
    response = client.post("/helloText", content=b"x" * size)
    assert response.status_code == status
    assert ("detail" in response.json()) == (status == 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/hello", 404),
        ("GET", "/helloJson", 405),
        ("HEAD", "/health", 405),
    ],
)
def test_unknown_route_or_method(client: TestClient, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status


def test_openapi_describes_the_text(client: TestClient) -> None:
    document = app.openapi()
    body = document["paths"]["/helloText"]["post"]["requestBody"]
    assert list(body["content"]) == ["text/plain"]
    assert "/openapi.json" in client.get("/docs").text
