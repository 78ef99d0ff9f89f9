"""The routes of server.py, in process: their responses to good and to bad input."""

from collections.abc import Callable

import httpx
import pytest

from server import app

CallApp = Callable[..., httpx.Response]

JSON = {"content-type": "application/json"}
PERSON = {"name": "John", "surname": "Doe"}


def test_hello_json_with_a_person(call_app: CallApp) -> None:
    response = call_app("POST", "/helloJson", json=PERSON)
    assert response.status_code == 200
    assert response.json() == {"message": "Hello John Doe"}


def test_hello_text_responds_with_a_json_string(call_app: CallApp) -> None:
    response = call_app("POST", "/helloText", content="John Doe")
    assert response.status_code == 200
    assert response.text == '"Hello John Doe"'


def test_health(call_app: CallApp) -> None:
    response = call_app("GET", "/health")
    assert response.status_code == 200
    assert response.json() == {"message": "I am healthy"}


def test_names_are_stripped(call_app: CallApp) -> None:
    response = call_app("POST", "/helloJson", json={"name": " John\t", "surname": "\nDoe "})
    assert response.json() == {"message": "Hello John Doe"}
    assert call_app("POST", "/helloText", content=" John Doe\n").json() == "Hello John Doe"


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "x/y", ""])
def test_hello_text_ignores_the_content_type(call_app: CallApp, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = call_app("POST", "/helloText", content='{"a": 1}', headers=headers)
    assert response.json() == 'Hello {"a": 1}'


UNPROCESSABLE_JSON = {
    "no body": b"",
    "not JSON": b"{",
    "no name": b'{"surname": "Doe"}',
    "no surname": b'{"name": "John"}',
    "a blank name": b'{"name": " \\t", "surname": "Doe"}',
    "an empty surname": b'{"name": "John", "surname": ""}',
    "a number as name": b'{"name": 1, "surname": "Doe"}',
    "null as name": b'{"name": null, "surname": "Doe"}',
    "a list": b"[]",
    "a string": b'"John Doe"',
    "NaN": b'{"name": NaN, "surname": "Doe"}',
    "infinity": b'{"name": -Infinity, "surname": 1e999}',
    "a lone surrogate": b'{"name": "\\ud800", "surname": "Doe"}',
    "a lone surrogate in an unknown field": b'{"name": 1, "surname": "Doe", "\\udfff": "\\ud800"}',
    "a lone surrogate as the whole body": b'"\\ud800"',
}


@pytest.mark.parametrize("body", UNPROCESSABLE_JSON.values(), ids=UNPROCESSABLE_JSON)
def test_hello_json_with_invalid_person(call_app: CallApp, body: bytes) -> None:
    response = call_app("POST", "/helloJson", content=body, headers=JSON)
    assert response.status_code == 422, response.text
    assert_is_validation_error(response)


UNREADABLE_JSON = {
    "not UTF-8": b'{"name": "\xff", "surname": "Doe"}',
    "5,000 digits": b'{"name": ' + b"1" * 5000 + b', "surname": "Doe"}',
    "deep nesting": b"[" * 60_000,
    "deep nesting in a name": b'{"name": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}


@pytest.mark.parametrize("body", UNREADABLE_JSON.values(), ids=UNREADABLE_JSON)
def test_hello_json_with_unreadable_body(call_app: CallApp, body: bytes) -> None:
    response = call_app("POST", "/helloJson", content=body, headers=JSON)
    assert response.status_code == 400, response.text
    assert isinstance(response.json()["detail"], str)


def test_validation_error_names_the_field(call_app: CallApp) -> None:
    response = call_app("POST", "/helloJson", json={"name": "John"})
    assert response.json() == {
        "detail": [{"type": "missing", "loc": ["body", "surname"], "msg": "Field required"}]
    }


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        (b"", "string_too_short"),
        (b" \n\t", "string_too_short"),
        ("\u00a0\u2003".encode(), "string_too_short"),
        (b"\xff", "string_unicode"),
        (b"\xed\xa0\x80", "string_unicode"),
        (b"John \xc3", "string_unicode"),
    ],
)
def test_hello_text_with_invalid_body(call_app: CallApp, body: bytes, error_type: str) -> None:
    response = call_app("POST", "/helloText", content=body)
    assert response.status_code == 422
    assert_is_validation_error(response)
    assert response.json()["detail"][0]["type"] == error_type
    assert response.json()["detail"][0]["loc"] == ["body"]


def test_hello_text_with_unicode(call_app: CallApp) -> None:
    assert call_app("POST", "/helloText", content="Zoë 🦀").json() == "Hello Zoë 🦀"


def assert_is_validation_error(response: httpx.Response) -> None:
    """Check for the shape of FastAPI's own errors."""
    for error in response.json()["detail"]:
        assert error.keys() == {"type", "loc", "msg"}


@pytest.mark.parametrize(("size", "status"), [(65_535, 200), (65_536, 200), (65_537, 413)])
@pytest.mark.parametrize(
    ("path", "prefix", "suffix"),
    [("/helloText", b"", b""), ("/helloJson", b'{"name": "John", "surname": "', b'"}')],
)
def test_body_size_limit(
    call_app: CallApp, path: str, prefix: bytes, suffix: bytes, size: int, status: int
) -> None:
    body = prefix + b"x" * (size - len(prefix) - len(suffix)) + suffix
    response = call_app("POST", path, content=body, headers=JSON)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/hello", 404),
        ("GET", "/helloJson", 405),
        ("PUT", "/helloText", 405),
        ("POST", "/health", 405),
        ("TRACE", "/health", 405),
        ("HEAD", "/health", 405),
    ],
)
def test_unknown_route_or_method(call_app: CallApp, method: str, path: str, status: int) -> None:
    response = call_app(method, path)
    assert response.status_code == status
    assert ("allow" in response.headers) == (status == 405)


def test_application_has_no_other_routes() -> None:
    paths = {getattr(route, "path", "") for route in app.routes}
    documentation = {"/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"}
    assert paths - documentation == {"/helloJson", "/helloText", "/health"}
