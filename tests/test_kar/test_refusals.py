"""Calls that the real KAR repeats without an end, damages or loses are refused at once."""

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from support.http2 import async_http2_client, http2_client
from support.kar import Kar, Sidecar
from support.kar_service import Service
from support.processes import free_port, wait_until

pytestmark = pytest.mark.embedded_only

Headers = list[tuple[bytes, bytes]]


def told(**response: Any) -> bytes:
    """Return the body of a request that tells the service echo how to respond on /spec."""
    return json.dumps(response).encode()


def assert_refused(service: Service, call: Callable[[], Any], reason: str, requests: int) -> None:
    """Assert that a call is refused with a reason, on standard error as well.

    The service must have seen so many requests.
    """
    seen = service.requests_seen()
    lines = len(service.sidecar.process.stderr_lines())
    response = call()
    assert (response.status_code, reason in response.text) == (501, True), response.text
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    (line,) = service.sidecar.process.stderr_lines()[lines:]
    assert " [ERROR] " in line
    assert line.endswith(response.text.rstrip("\n"))
    # The service's kar copies the output of the service later.
    wait_until(lambda: service.requests_seen() >= seen + requests, "the service's output")
    assert service.requests_seen() == seen + requests


@pytest.mark.parametrize("http_version", ["HTTP/1.1", "HTTP/2"])
def test_head_is_refused_without_a_body(echo: Service, http_version: str) -> None:
    seen = echo.requests_seen()
    response = echo.call("HEAD", "/head", http_version=http_version)
    assert (response.status_code, response.content) == (501, b"")
    assert echo.requests_seen() == seen
    echo.sidecar.process.wait_for_line("HEAD /kar/v1/service/echo/call/head: ")


@pytest.mark.parametrize("value", [b"close", b"foo", b"keep-alive, x"])
def test_connection_header_is_refused_over_h2c(h2c_echo: Service, value: bytes) -> None:
    headers = [(b"connection", value)]
    assert_refused(
        h2c_echo,
        lambda: h2c_echo.call("GET", "/", headers, http_version="HTTP/1.1"),
        "header Connection",
        requests=0,
    )


def test_te_header_is_refused_over_h2c(h2c_echo: Service) -> None:
    headers = [(b"te", b"deflate")]
    assert_refused(
        h2c_echo,
        lambda: h2c_echo.call("GET", "/", headers, http_version="HTTP/1.1"),
        "the request is invalid",
        requests=0,
    )


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_upgrade_of_post_is_refused_over_h2c(h2c_echo: Service, protocol: bytes) -> None:
    headers = [(b"connection", b"upgrade"), (b"upgrade", protocol)]
    assert_refused(
        h2c_echo,
        lambda: h2c_echo.call("POST", "/", headers, b"x", http_version="HTTP/1.1"),
        "header Upgrade",
        requests=0,
    )


def send_upgrade(service: Service) -> socket.socket:
    """Send a GET request as curl --http2 does. Hypercorn accepts it, and responds over HTTP/2."""
    connection = socket.create_connection(("127.0.0.1", service.sidecar.port), 10)
    connection.sendall(
        b"GET /kar/v1/service/echo/call/upgrade HTTP/1.1\r\nHost: x\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    )
    return connection


def test_upgrade_as_curl_sends_it_is_refused_over_h2c(h2c_echo: Service) -> None:
    seen = h2c_echo.requests_seen()
    with send_upgrade(h2c_echo):
        line = "GET /kar/v1/service/echo/call/upgrade: KAR cannot pass the header Upgrade on"
        h2c_echo.sidecar.process.wait_for_line(line)
    assert h2c_echo.requests_seen() == seen


def test_upgrade_as_curl_sends_it_to_a_service_without_h2c(
    echo_services: dict[str, Service],
) -> None:
    received = b""
    with send_upgrade(echo_services["http1"]) as connection:
        while b'"path":"/upgrade"' not in received:
            data = connection.recv(65536)
            assert data, received
            received += data


def test_websocket_is_refused(h2c_echo: Service) -> None:
    headers = [
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"sec-websocket-version", b"13"),
        (b"host", b"x"),
    ]
    assert_refused(
        h2c_echo,
        lambda: h2c_echo.call("GET", "/x", headers, http_version="HTTP/1.1"),
        "WebSocket",
        requests=0,
    )


def test_ten_redirects_are_refused(echo: Service) -> None:
    assert_refused(
        echo, lambda: echo.call("GET", "/redirects/10"), "more than 9 times", requests=10
    )


def test_redirects_in_a_circle_are_refused(echo: Service) -> None:
    body = told(status=307, headers={"location": "/spec"})
    assert_refused(
        echo, lambda: echo.call("POST", "/spec", body=body), "more than 9 times", requests=10
    )


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{}/x", "https://127.0.0.1:{}/x", "//127.0.0.1:{}"]
)
@pytest.mark.parametrize("status", [302, 307])
def test_redirect_to_another_port_is_refused(echo: Service, status: int, location: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        body = told(status=status, headers={"location": location.format(other.getsockname()[1])})
        assert_refused(
            echo, lambda: echo.call("POST", "/spec", body=body), "another server", requests=1
        )
        with pytest.raises(TimeoutError):
            other.accept()


def test_redirect_to_an_invalid_url_is_refused(echo: Service) -> None:
    body = told(status=302, headers={"location": "http://[::1"})
    assert_refused(
        echo,
        lambda: echo.call("POST", "/spec", body=body),
        "redirect to a path of the service",
        requests=1,
    )


@pytest.mark.parametrize("accepted", [b"gzip", b"br, gzip"])
def test_compressed_response_is_refused_if_the_caller_accepts_it(
    echo: Service, accepted: bytes
) -> None:
    body = told(hex=gzip.compress(b"hello", mtime=0).hex(), headers={"content-encoding": "gzip"})
    headers = [(b"accept-encoding", accepted)]
    assert_refused(
        echo,
        lambda: echo.call("POST", "/spec", headers, body),
        "Accept-Encoding: identity",
        requests=1,
    )


def test_request_body_that_is_not_utf8_is_refused(echo: Service) -> None:
    assert_refused(echo, lambda: echo.call("POST", "/", body=b"\xff"), "Base64", requests=0)


def test_response_body_that_is_not_utf8_is_refused(echo: Service) -> None:
    body = told(hex=bytes(range(256)).hex())
    assert_refused(echo, lambda: echo.call("POST", "/spec", body=body), "Base64", requests=1)


@pytest.mark.parametrize("content", [b"hello", gzip.compress(b"hello", mtime=0)[:-4]])
def test_damaged_gzip_is_refused(echo: Service, content: bytes) -> None:
    body = told(hex=content.hex(), headers={"content-encoding": "gzip"})
    assert_refused(
        echo, lambda: echo.call("POST", "/spec", body=body), "it is not gzip", requests=1
    )


@pytest.mark.parametrize(
    "response",
    [
        {"repeat": 999_802, "headers": {"content-type": "text/plain"}},
        {"repeat": 1_000_000},
        {"repeat": 2_500_000},
        {"repeat": 500_000, "text": '"'},
        {"hex": gzip.compress(b"x" * 1_000_001).hex(), "headers": {"content-encoding": "gzip"}},
    ],
    ids=["20 bytes over", "1 MB", "2.5 MB", "escaped", "unpacked"],
)
def test_response_over_the_limit_is_refused(echo: Service, response: dict[str, Any]) -> None:
    body = told(**response)
    assert_refused(echo, lambda: echo.call("POST", "/spec", body=body), "would exit", requests=1)


def test_response_just_below_the_limit_is_passed_on(echo: Service) -> None:
    response = echo.call("POST", "/spec", body=told(repeat=998_900))
    assert (response.status_code, len(response.content)) == (200, 998_900)


def test_refused_asynchronous_call_is_logged(h2c_echo: Service) -> None:
    process = h2c_echo.sidecar.process
    lines = len(process.stderr_lines())
    body = told(repeat=1_000_000)
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
    yield Service(module_kar, replica, sidecar, h2c=True)
    replica.process.end_session()


def test_post_is_refused_if_a_living_service_breaks_its_connection(breaking: Service) -> None:
    response = breaking.call("POST", "/abort/1", body=b"x")
    assert (response.status_code, "without its body" in response.text) == (501, True)
    process = breaking.replica.process
    process.wait_for_line("[STDOUT] POST /abort/1")
    assert process.stdout_lines().count("[STDOUT] POST /abort/1 x") == 1


@pytest.mark.slow
def test_post_is_refused_if_a_shell_outlives_its_service(kar: Kar) -> None:
    """The kar of the service does not exit, so the real one would not deliver the call again."""
    program = "tests/support/echo_service.py"
    replica = kar.start_replica("echo", "-h2c", "sh", "-c", f"python {program}; sleep 1000")
    sidecar = kar.start_sidecar()

    async def call_and_crash() -> httpx.Response:
        async with async_http2_client() as client:
            body = told(delays={str(replica.port): 1000})
            call = asyncio.create_task(
                client.post(sidecar.service_url("echo") + "/spec", content=body)
            )
            await asyncio.to_thread(replica.process.wait_for_line, "POST /spec")
            replica.process.descendant(program).kill()
            return await call

    response = asyncio.run(call_and_crash())
    assert (response.status_code, "without its body" in response.text) == (501, True)


@pytest.mark.slow
def test_requests_without_a_body_are_repeated(breaking: Service) -> None:
    for method in ("GET", "POST"):
        response = breaking.call(method, f"/abort/2/{method}")
        assert (response.status_code, response.text) == (200, "3")


@pytest.mark.slow
def test_get_is_refused_if_it_breaks_each_connection(breaking: Service) -> None:
    response = breaking.call("GET", "/abort/999")
    assert response.status_code == 501
    assert "broke the connection" in response.text


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


def test_reset_during_a_body_does_not_break_other_calls(breaking: Service) -> None:
    process = breaking.replica.process
    url = breaking.sidecar.service_url("breaking")

    async def call_next_to_a_reset() -> tuple[httpx.Response, httpx.Response]:
        # httpx stalls if it sends a large body next to another request on one connection.
        async with async_http2_client() as client, async_http2_client() as other_client:
            waiting = asyncio.create_task(client.post(url + "/wait/0", content="x"))
            await asyncio.to_thread(process.wait_for_line, "waiting")
            reset = await other_client.post(url + "/reset/0", content="x" * 100_000)
            return await waiting, reset

    waiting, reset = asyncio.run(call_next_to_a_reset())
    assert (waiting.status_code, waiting.text) == (200, "1")
    assert reset.status_code == 501


def test_responses_before_the_whole_body_do_not_use_up_a_connection(breaking: Service) -> None:
    url = breaking.sidecar.service_url("breaking") + "/early/0"
    with http2_client() as client:
        statuses = [client.post(url, content="x" * 100_000).status_code for _ in range(120)]
    assert statuses == [200] * 120


def test_malformed_response_does_not_fail_other_calls(breaking: Service) -> None:
    process = breaking.replica.process
    url = breaking.sidecar.service_url("breaking")

    async def call_next_to_a_malformed_response() -> tuple[httpx.Response, list[httpx.Response]]:
        async with async_http2_client() as client:
            others = [
                asyncio.create_task(client.post(f"{url}/slow/0", content="x")) for _ in range(5)
            ]
            await asyncio.to_thread(process.wait_for_line, "POST /slow/0 x", 5)
            malformed = await client.post(f"{url}/malformed/0", content="x")
            return malformed, await asyncio.gather(*others)

    malformed, others = asyncio.run(call_next_to_a_malformed_response())
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


RAW_RESPONSES = {
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "status 204"),
    "304 with a body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "status 304"),
    "no HTTP": (b"HTTP/1.1 OK\r\n\r\n", "the response is malformed"),
    "endless body": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_100_000, "would exit"),
    "HTTP/2": (b"\0\0\0\x04\0\0\0\0\0", "start kar with -h2c"),
}


@contextlib.contextmanager
def raw_service(kar: Kar, response: bytes, *flags: str) -> Iterator[None]:
    """Provide the service raw, which sends some bytes to a caller and does not disconnect."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def serve() -> None:
            connection = stack.enter_context(listener.accept()[0])
            connection.recv(65536)
            with contextlib.suppress(OSError):
                connection.sendall(response)

        thread = threading.Thread(target=serve)
        thread.start()
        port = str(listener.getsockname()[1])
        process = kar.run("-service", "raw", "-app_port", port, *flags, "sleep", "1000")
        process.child()
        yield
        thread.join()
        process.end_session()


@pytest.mark.parametrize(("response", "reason"), RAW_RESPONSES.values(), ids=RAW_RESPONSES)
def test_unusable_response_over_http1_is_refused(
    module_kar: Kar, sidecar: Sidecar, response: bytes, reason: str
) -> None:
    with raw_service(module_kar, response), http2_client() as client:
        result = client.post(sidecar.service_url("raw") + "/", content="x")
    assert (result.status_code, reason in result.text) == (501, True), result.text


def test_http1_service_with_h2c_is_refused(module_kar: Kar, sidecar: Sidecar) -> None:
    response = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with raw_service(module_kar, response, "-h2c"), http2_client() as client:
        result = client.post(sidecar.service_url("raw") + "/", content="x")
    assert (result.status_code, "start kar without -h2c" in result.text) == (501, True)


def test_deadline_expires_if_a_service_does_not_appear(kar: Kar) -> None:
    sidecar = kar.start_sidecar("-missing_component_timeout", "500ms")
    start = time.monotonic()
    with http2_client() as client:
        response = client.get(sidecar.service_url("missing") + "/")
    assert response.status_code == 500
    assert response.text.startswith("failed to send message: deadline expired: ")
    assert 0.5 <= time.monotonic() - start < 5


@pytest.mark.slow
def test_waiting_caller_names_what_it_waits_for(kar: Kar) -> None:
    sidecar = kar.start_sidecar("-missing_component_timeout", "6s")
    with http2_client() as client:
        client.post(sidecar.service_url("missing") + "/")
    lines = [line for line in sidecar.process.stderr_lines() if "waiting for service" in line]
    assert len(lines) == 1
    for name in ("'missing'", kar.app, str(kar.processes.directory / "embedded-kar")):
        assert name in lines[0]


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
