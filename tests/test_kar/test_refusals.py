"""Calls that the real KAR repeats without an end, damages or loses are refused at once."""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.http2 import async_http2_client, http2_client
from support.kar import Kar, Service, Sidecar
from support.processes import free_port, wait_until

pytestmark = pytest.mark.embedded_only


def spec(**response: Any) -> bytes:
    """Return the body of a request to /spec of the service echo, which asks for a response."""
    return json.dumps(response).encode()


def gzipped(content: bytes) -> bytes:
    return spec(hex=content.hex(), headers={"content-encoding": "gzip"})


GZIP = gzip.compress(b"hello", mtime=0)
ACCEPT = [(b"accept-encoding", b"br, gzip")]
# The body of a POST to /spec, the reason in the response, and how many requests the service gets.
REFUSED_RESPONSES = {
    "redirects in a circle": (
        spec(status=307, headers={"location": "/spec"}),
        "more than 9 times",
        10,
    ),
    "redirect to no URL": (
        spec(status=302, headers={"location": "http://[::1"}),
        "redirect to a path of the service",
        1,
    ),
    "not UTF-8": (spec(hex=bytes(range(256)).hex()), "Base64", 1),
    "not gzip": (gzipped(b"hello"), "it is not gzip", 1),
    "gzip without its end": (gzipped(GZIP[:-4]), "it is not gzip", 1),
    "20 bytes over the limit": (
        spec(repeat=999_802, headers={"content-type": "text/plain"}),
        "would exit",
        1,
    ),
    "1 MB": (spec(repeat=1_000_000), "would exit", 1),
    "2.5 MB": (spec(repeat=2_500_000), "would exit", 1),
    "escaped 1 MB": (spec(repeat=500_000, text='"'), "would exit", 1),
    "gzip of 1 MB": (gzipped(gzip.compress(b"x" * 1_000_001)), "would exit", 1),
}
UPGRADE = (b"connection", b"upgrade")
# A request over HTTP/1.1 to a service with -h2c, and the reason in the response.
REFUSED_OVER_H2C = {
    "Connection: close": ("GET", [(b"connection", b"close")], "header Connection"),
    "Connection: foo": ("GET", [(b"connection", b"foo")], "header Connection"),
    "Connection: keep-alive, x": ("GET", [(b"connection", b"keep-alive, x")], "header Connection"),
    "TE": ("GET", [(b"te", b"deflate")], "the request is invalid"),
    "POST, Upgrade: h2c": ("POST", [UPGRADE, (b"upgrade", b"h2c")], "header Upgrade"),
    "POST, Upgrade: websocket": ("POST", [UPGRADE, (b"upgrade", b"websocket")], "header Upgrade"),
    "WebSocket": (
        "GET",
        [
            *[UPGRADE, (b"upgrade", b"websocket"), (b"host", b"x")],
            (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            (b"sec-websocket-version", b"13"),
        ],
        "WebSocket",
    ),
}


def assert_refused(
    service: Service, reason: str, requests: int, *call: Any, **options: Any
) -> None:
    """Assert that a call is refused with a reason, on standard error as well.

    The service must have seen so many requests. The rest are the arguments of service.call().
    """
    seen = service.requests_seen()
    lines = len(service.sidecar.process.stderr_lines())
    response = service.call(*call, **options)
    assert (response.status_code, reason in response.text) == (501, True), response.text
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    (line,) = service.sidecar.process.stderr_lines()[lines:]
    assert " [ERROR] " in line
    assert line.endswith(response.text.rstrip("\n"))
    # The service's kar copies the output of the service later.
    wait_until(lambda: service.requests_seen() >= seen + requests, "the service's output")
    assert service.requests_seen() == seen + requests


@pytest.mark.parametrize(
    ("body", "reason", "requests"), REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES
)
def test_response_is_refused(echo: Service, body: bytes, reason: str, requests: int) -> None:
    assert_refused(echo, reason, requests, "POST", "/spec", body=body)


def test_compressed_response_is_refused_if_the_caller_accepts_it(echo: Service) -> None:
    assert_refused(echo, "Accept-Encoding: identity", 1, "POST", "/spec", ACCEPT, gzipped(GZIP))


def test_request_body_that_is_not_utf8_is_refused(echo: Service) -> None:
    assert_refused(echo, "Base64", 0, "POST", "/", body=b"\xff")


@pytest.mark.parametrize("http_version", ["HTTP/1.1", "HTTP/2"])
def test_head_is_refused_without_a_body(echo: Service, http_version: str) -> None:
    seen = echo.requests_seen()
    response = echo.call("HEAD", "/head", http_version=http_version)
    assert (response.status_code, response.content) == (501, b"")
    assert echo.requests_seen() == seen
    echo.sidecar.process.wait_for_line("HEAD /kar/v1/service/echo/call/head: ")


@pytest.mark.parametrize(
    ("method", "headers", "reason"), REFUSED_OVER_H2C.values(), ids=REFUSED_OVER_H2C
)
def test_request_is_refused_over_h2c(
    h2c_echo: Service, method: str, headers: list[tuple[bytes, bytes]], reason: str
) -> None:
    body = b"x" if method == "POST" else b""
    assert_refused(h2c_echo, reason, 0, method, "/", headers, body, "HTTP/1.1")


def test_upgrade_as_curl_sends_it(echo: Service) -> None:
    """Hypercorn accepts it, and responds over HTTP/2; only a service with -h2c cannot have it."""
    seen = echo.requests_seen()
    with socket.create_connection(("127.0.0.1", echo.sidecar.port), 10) as connection:
        connection.sendall(
            b"GET /kar/v1/service/echo/call/upgrade HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
        )
        expected = b"cannot pass the header Upgrade" if echo.h2c else b'"path":"/upgrade"'
        received = b""
        while expected not in received:
            data = connection.recv(65536)
            assert data, received
            received += data
    requests = 0 if echo.h2c else 1
    wait_until(lambda: echo.requests_seen() == seen + requests, "the service's output")


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{}/x", "https://127.0.0.1:{}/x", "//127.0.0.1:{}"]
)
@pytest.mark.parametrize("status", [302, 307])
def test_redirect_to_another_port_is_refused(echo: Service, status: int, location: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        body = spec(status=status, headers={"location": location.format(other.getsockname()[1])})
        assert_refused(echo, "another server", 1, "POST", "/spec", body=body)
        with pytest.raises(TimeoutError):
            other.accept()


def test_response_just_below_the_limit_is_passed_on(echo: Service) -> None:
    response = echo.call("POST", "/spec", body=spec(repeat=998_900))
    assert (response.status_code, len(response.content)) == (200, 998_900)


def test_refused_asynchronous_call_is_logged(h2c_echo: Service) -> None:
    process = h2c_echo.sidecar.process
    lines = len(process.stderr_lines())
    body = spec(repeat=1_000_000)
    assert h2c_echo.call("POST", "/spec", [(b"pragma", b"async")], body).status_code == 202
    wait_until(lambda: len(process.stderr_lines()) > lines, "the error")
    # The response to another call shows that nothing else was logged.
    assert h2c_echo.call("GET", "/").status_code == 200
    (line,) = process.stderr_lines()[lines:]
    assert "would exit" in line


@pytest.fixture(scope="module")
def sidecar(module_kar: Kar) -> Sidecar:
    """A sidecar through which the tests below call services that go wrong."""
    return module_kar.start_sidecar()


@pytest.fixture
def breaking(module_kar: Kar, sidecar: Sidecar) -> Iterator[Service]:
    """The service of breaking_service.py, with connections of the test's own."""
    command = ("python", "tests/support/breaking_service.py")
    replica = module_kar.start_replica("breaking", "-h2c", *command)
    yield Service(module_kar, replica, sidecar)
    replica.process.end_session()


def test_post_is_refused_if_a_living_service_breaks_its_connection(breaking: Service) -> None:
    response = breaking.call("POST", "/abort/1", body=b"x")
    assert (response.status_code, "without its body" in response.text) == (501, True)
    process = breaking.replica.process
    process.wait_for_line("[STDOUT] POST /abort/1")
    assert process.stdout_lines().count("[STDOUT] POST /abort/1 x") == 1


@pytest.mark.slow
async def test_post_is_refused_if_a_shell_outlives_its_service(kar: Kar) -> None:
    """The kar of the service does not exit, so the real one would not deliver the call again."""
    program = "tests/support/echo_service.py"
    replica = kar.start_replica("echo", "-h2c", "sh", "-c", f"python {program}; sleep 1000")
    async with async_http2_client(kar.start_sidecar().service_url("echo")) as client:
        call = asyncio.create_task(client.post("/spec", content=spec(delay=1000)))
        await asyncio.to_thread(replica.process.wait_for_line, "POST /spec")
        replica.process.descendant(program).kill()
        response = await call
    assert (response.status_code, "without its body" in response.text) == (501, True)


@pytest.mark.slow
def test_requests_without_a_body_are_repeated(breaking: Service) -> None:
    for method in ("GET", "POST"):
        response = breaking.call(method, f"/abort/2/{method}")
        assert (response.status_code, response.text) == (200, "3")
    response = breaking.call("GET", "/abort/999")
    assert (response.status_code, "broke the connection" in response.text) == (501, True)


@pytest.mark.parametrize("path", ["/refuse/2", "/goaway/2"])
def test_refused_stream_is_repeated_with_its_body(breaking: Service, path: str) -> None:
    response = breaking.call("POST", path, body=b"x")
    assert (response.status_code, response.text) == (200, "3")
    breaking.replica.process.wait_for_line(f"[STDOUT] POST {path} x", count=3)


def test_refused_stream_after_a_redirect_repeats_only_the_last_request(breaking: Service) -> None:
    response = breaking.call("POST", "/redirect/0", body=b"x")
    assert (response.status_code, response.text) == (200, "2")
    process = breaking.replica.process
    process.wait_for_line("[STDOUT] POST /refuse/1 x", count=2)
    assert process.stdout_lines().count("[STDOUT] POST /redirect/0 x") == 1


async def test_reset_during_a_body_does_not_break_other_calls(breaking: Service) -> None:
    url = breaking.sidecar.service_url("breaking")
    # httpx stalls if it sends a large body next to another request on one connection.
    async with async_http2_client(url) as client, async_http2_client(url) as other_client:
        call = asyncio.create_task(client.post("/wait/0", content="x"))
        await asyncio.to_thread(breaking.replica.process.wait_for_line, "waiting")
        reset = await other_client.post("/reset/0", content="x" * 100_000)
        waiting = await call
    assert (waiting.status_code, waiting.text) == (200, "1")
    assert reset.status_code == 501


def test_responses_before_the_whole_body_do_not_use_up_a_connection(breaking: Service) -> None:
    url = breaking.sidecar.service_url("breaking") + "/early/0"
    with http2_client() as client:
        statuses = [client.post(url, content="x" * 100_000).status_code for _ in range(120)]
    assert statuses == [200] * 120


async def test_malformed_response_does_not_fail_other_calls(breaking: Service) -> None:
    async with async_http2_client(breaking.sidecar.service_url("breaking")) as client:
        calls = [asyncio.create_task(client.post("/slow/0", content="x")) for _ in range(5)]
        await asyncio.to_thread(breaking.replica.process.wait_for_line, "POST /slow/0 x", 5)
        malformed = await client.post("/malformed/0", content="x")
        others = await asyncio.gather(*calls)
    assert (malformed.status_code, "the response is malformed" in malformed.text) == (501, True)
    assert [(response.status_code, response.text) for response in others] == [(200, "late")] * 5


def test_response_after_goaway_is_passed_on(breaking: Service) -> None:
    response = breaking.call("POST", "/drain/0", body=b"x")
    assert (response.status_code, response.text) == (200, "late")
    assert breaking.replica.process.stdout_lines().count("[STDOUT] POST /drain/0 x") == 1


def test_response_is_refused_before_its_end_if_it_is_too_large(breaking: Service) -> None:
    response = breaking.call("GET", "/endless/1100000")
    assert (response.status_code, "would exit" in response.text) == (501, True)


@pytest.mark.slow
def test_response_without_an_end_is_reported(breaking: Service) -> None:
    process = breaking.sidecar.process
    with http2_client(timeout=1) as client, pytest.raises(httpx.ReadTimeout):
        client.get(breaking.sidecar.service_url("breaking") + "/endless/0")
    line = "the body of a response has not ended after 5 s"
    wait_until(lambda: process.has_written(line), line)


@pytest.mark.slow
def test_service_that_does_not_appear(kar: Kar) -> None:
    sidecar = kar.start_sidecar("-missing_component_timeout", "6s")
    with http2_client() as client:
        response = client.get(sidecar.service_url("missing") + "/")
    assert response.status_code == 500
    assert response.text.startswith("failed to send message: deadline expired: ")
    waiting, _ = sidecar.process.stderr_lines()
    assert "waiting for service" in waiting
    for name in ("'missing'", kar.app, str(kar.processes.directory / "embedded-kar")):
        assert name in waiting


@pytest.mark.slow
def test_waiting_rest_names_what_it_waits_for(kar: Kar) -> None:
    process = kar.rest("-missing_component_timeout", "6s", "get", "missing", "x")
    process.wait_for_line("waiting for service 'missing' of application")
    assert process.wait() == 1
    assert "[ERROR] error invoking the service: deadline expired" in process.stdout_lines()[0]


@pytest.mark.slow
def test_caller_of_a_wrong_app_port_is_told(kar: Kar) -> None:
    port = free_port()
    kar.run("-service", "deaf", "-app_port", str(port), "sleep", "1000")
    sidecar = kar.start_sidecar()
    with http2_client(timeout=1) as client, pytest.raises(Exception, match="timed out"):
        client.get(sidecar.service_url("deaf") + "/")
    line = f"nothing accepts connections at 127.0.0.1:{port}"
    wait_until(lambda: any(line in each for each in sidecar.process.stderr_lines()), line)
