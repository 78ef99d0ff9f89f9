"""Responses of services that are odd, but that KAR passes on."""

import gzip
import json
from collections.abc import Callable

import pytest
from support.kar import Kar
from support.kar_service import Service

IDENTITY = [(b"accept-encoding", b"identity")]
TWO_MEMBERS = gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0)
# The bytes of a response over HTTP/1.1, and the status and the body that the caller gets.
HTTP1_RESPONSES = {
    "304 with Content-Encoding": (b"304 x\r\nContent-Encoding: gzip\r\n\r\n", 304, ""),
    "204 with Content-Encoding": (b"204 x\r\nContent-Encoding: gzip\r\n\r\n", 204, ""),
    "empty with Content-Encoding": (
        b"200 x\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        200,
        "",
    ),
    "Content-Encoding: utf-8": (
        b"200 x\r\nContent-Encoding: utf-8\r\nContent-Length: 5\r\n\r\nhello",
        200,
        "hello",
    ),
    "body after 204": (b"204 x\r\n\r\nhello", 204, ""),
    "line break after the body": (b"200 x\r\nContent-Length: 5\r\n\r\nhello\r\n", 200, "hello"),
    "bytes after the body": (
        b"200 x\r\nContent-Length: 5\r\n\r\nhello" + b"x" * 200_000,
        200,
        "hello",
    ),
    "chunks": (b"200 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello"),
    "large headers": (
        b"200 x\r\nX: " + b"x" * 200_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
        200,
        "hello",
    ),
}
# A header of a response over HTTP/2, and how often its value is repeated.
HTTP2_HEADERS = [
    ("connection", "close", 1),
    ("keep-alive", "timeout=5", 1),
    ("transfer-encoding", "chunked", 1),
    ("x-a", " 1 ", 1),
    ("x-a", "x", 70_000),
]
INVALID_HTTP2_HEADERS = [("X-A", "1", 1), ("x-a", "1\n2", 1), ("x-a", "\x01", 1)]


@pytest.fixture(scope="module")
def start_service(module_kar: Kar) -> Callable[..., Service]:
    """A function that starts one of the services in support/ and a sidecar to call it."""

    def start(program: str, *flags: str) -> Service:
        kar = module_kar.other_application()
        replica = kar.start_replica("odd", *flags, "python", f"tests/support/{program}")
        service = Service(kar, replica, kar.start_sidecar(), h2c=bool(flags))
        kar.wait_until_called(service.sidecar, replica, path="/headers/0")
        return service

    return start


@pytest.fixture(scope="module")
def http1(start_service: Callable[..., Service]) -> Service:
    return start_service("raw_service.py")


@pytest.fixture(scope="module")
def http2(start_service: Callable[..., Service]) -> Service:
    return start_service("breaking_service.py", "-h2c")


@pytest.mark.parametrize(
    ("response", "status", "body"), HTTP1_RESPONSES.values(), ids=HTTP1_RESPONSES
)
def test_http1_response(http1: Service, response: bytes, status: int, body: str) -> None:
    """The second call would use the same connection, if it is not broken by the first one."""
    sent = (b"HTTP/1.1 " + response).hex().encode()
    for headers in (IDENTITY, []):
        received = http1.call("POST", "/", headers, sent)
        assert (received.status_code, received.text) == (status, body)


def test_gzip_of_two_members(http1: Service) -> None:
    head = b"HTTP/1.1 200 x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    sent = (head % len(TWO_MEMBERS) + TWO_MEMBERS).hex().encode()
    assert http1.call("POST", "/", [], sent).text == "one two"


@pytest.mark.parametrize("header", HTTP2_HEADERS)
def test_http2_response_header(http2: Service, header: tuple[str, str, int]) -> None:
    received = http2.call("POST", "/headers/0", body=json.dumps([header]).encode())
    assert (received.status_code, received.text) == (200, "headers")


@pytest.mark.embedded_only
@pytest.mark.parametrize("header", INVALID_HTTP2_HEADERS)
def test_invalid_http2_response_header(http2: Service, header: tuple[str, str, int]) -> None:
    received = http2.call("POST", "/headers/0", body=json.dumps([header]).encode())
    assert (received.status_code, "is invalid" in received.text) == (501, True)
