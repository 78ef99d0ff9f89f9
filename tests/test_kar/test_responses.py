"""Responses of services that are odd, which KAR passes on, or would wait for without an end."""

import gzip
import json

import httpx
import pytest
from support.kar import Kar, Service

IDENTITY = [(b"accept-encoding", b"identity")]
HELLO = b"Content-Length: 5\r\n\r\nhello"
TWO_MEMBERS = gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0)
# The rest of a response over HTTP/1.1, and the status and the body that the caller gets.
HTTP1_RESPONSES = {
    "304 with Content-Encoding": (b"304 x\r\nContent-Encoding: gzip\r\n\r\n", 304, ""),
    "204 with Content-Encoding": (b"204 x\r\nContent-Encoding: gzip\r\n\r\n", 204, ""),
    "empty with Content-Encoding": (
        b"200 x\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        200,
        "",
    ),
    "Content-Encoding: utf-8": (b"200 x\r\nContent-Encoding: utf-8\r\n" + HELLO, 200, "hello"),
    "body after 204": (b"204 x\r\n\r\nhello", 204, ""),
    "line break after the body": (b"200 x\r\n" + HELLO + b"\r\n", 200, "hello"),
    "bytes after the body": (b"200 x\r\n" + HELLO + b"x" * 200_000, 200, "hello"),
    "chunks": (b"200 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello"),
    "large headers": (b"200 x\r\nX: " + b"x" * 200_000 + b"\r\n" + HELLO, 200, "hello"),
}
# The bytes of a response over HTTP/1.1, how often the last one is repeated, and why it is refused.
REFUSED_HTTP1_RESPONSES = {
    "204 with a body": (b"HTTP/1.1 204 x\r\n" + HELLO, 0, "status 204"),
    "304 with a body": (b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", 0, "status 304"),
    "no HTTP": (b"HTTP/1.1 OK\r\n\r\n", 0, "the response is malformed"),
    "body without an end": (b"HTTP/1.1 200 x\r\n\r\nx", 1_100_000, "would exit"),
    "HTTP/2": (b"\0\0\0\x04\0\0\0\0\0", 0, "start kar with -h2c"),
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


def start_odd_service(module_kar: Kar, program: str, *flags: str) -> Service:
    """Start one of the services in support/ and a sidecar to call it."""
    kar = module_kar.other_application()
    replica = kar.start_replica("odd", *flags, "python", f"tests/support/{program}")
    return Service(kar, replica, kar.start_sidecar())


@pytest.fixture(scope="module")
def http1(module_kar: Kar) -> Service:
    service = start_odd_service(module_kar, "raw_service.py")
    service.kar.wait_until_called(service.sidecar, service.replica)
    return service


@pytest.fixture(scope="module")
def http2(module_kar: Kar) -> Service:
    service = start_odd_service(module_kar, "breaking_service.py", "-h2c")
    service.kar.wait_until_called(service.sidecar, service.replica, path="/headers/0")
    return service


def call_raw(
    service: Service,
    response: bytes,
    repeat: int = 0,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> httpx.Response:
    """Call raw_service.py, which sends some bytes, and the last one more often."""
    return service.call("POST", "/", headers, f"{response.hex()} {repeat}".encode())


@pytest.mark.parametrize(
    ("response", "status", "body"), HTTP1_RESPONSES.values(), ids=HTTP1_RESPONSES
)
def test_http1_response(http1: Service, response: bytes, status: int, body: str) -> None:
    """The second call would use the same connection, if it is not broken by the first one."""
    for headers in (IDENTITY, None):
        received = call_raw(http1, b"HTTP/1.1 " + response, headers=headers)
        assert (received.status_code, received.text) == (status, body)


def test_gzip_of_two_members(http1: Service) -> None:
    head = b"HTTP/1.1 200 x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    assert call_raw(http1, head % len(TWO_MEMBERS) + TWO_MEMBERS).text == "one two"


@pytest.mark.embedded_only
@pytest.mark.parametrize(
    ("response", "repeat", "reason"), REFUSED_HTTP1_RESPONSES.values(), ids=REFUSED_HTTP1_RESPONSES
)
def test_refused_http1_response(http1: Service, response: bytes, repeat: int, reason: str) -> None:
    received = call_raw(http1, response, repeat)
    assert (received.status_code, reason in received.text) == (501, True), received.text


@pytest.mark.embedded_only
def test_http1_service_with_h2c(module_kar: Kar) -> None:
    received = start_odd_service(module_kar, "raw_service.py", "-h2c").call("POST", "/")
    assert (received.status_code, "start kar without -h2c" in received.text) == (501, True)


@pytest.mark.parametrize("header", HTTP2_HEADERS)
def test_http2_response_header(http2: Service, header: tuple[str, str, int]) -> None:
    received = http2.call("POST", "/headers/0", body=json.dumps([header]).encode())
    assert (received.status_code, received.text) == (200, "headers")


@pytest.mark.embedded_only
@pytest.mark.parametrize("header", INVALID_HTTP2_HEADERS)
def test_invalid_http2_response_header(http2: Service, header: tuple[str, str, int]) -> None:
    received = http2.call("POST", "/headers/0", body=json.dumps([header]).encode())
    assert (received.status_code, "is invalid" in received.text) == (501, True)
