"""sidecar_client() of client.py: what it sends, and that its calls do not disturb each other."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psutil
import pytest
from support.kar import Kar, Service, start_echo_service
from support.processes import wait_until

from client import sidecar_client


@pytest.fixture(scope="module")
def service(module_kar: Kar) -> Iterator[Service]:
    """The service echo, which the clients of these tests call through its sidecar."""
    service = start_echo_service(module_kar, "-h2c")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KAR_RUNTIME_PORT", str(service.sidecar.port))
        yield service
    # Callers that disconnect in the middle of a call are nothing to report.
    assert service.sidecar.process.stderr_lines() == []


@pytest.fixture
async def echo(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with sidecar_client("echo") as echo:
        yield echo


def start_calls(
    echo: httpx.AsyncClient, count: int, seconds: float, **options: Any
) -> list[asyncio.Task[httpx.Response]]:
    """Start calls that take so many seconds."""
    body = {"delay": seconds, "body": "done", "padding": "x" * 10_000}
    return [asyncio.create_task(echo.post("/spec", json=body, **options)) for _ in range(count)]


async def assert_done(calls: list[asyncio.Task[httpx.Response]]) -> None:
    for response in await asyncio.gather(*calls):
        assert response.text == "done"


def sidecar_sockets() -> int:
    """Return how many connections this process has."""
    return len(psutil.Process().net_connections(kind="tcp"))


async def test_request_arrives_at_the_service(echo: httpx.AsyncClient) -> None:
    posted = await echo.post("/a/b", json={"x": 1})
    put = await echo.put("/items:search", content="text")
    got = await echo.get("/d")
    assert all(response.elapsed for response in (posted, put, got))
    seen = [posted.json(), put.json(), got.json()]
    assert [(each["method"], each["path"], each["body"]) for each in seen] == [
        ("POST", "/a/b", '{"x":1}'),
        ("PUT", "/items:search", "text"),
        ("GET", "/d", ""),
    ]
    assert seen[0]["headers"]["content-type"] == "application/json"
    assert seen[0]["headers"]["accept-encoding"] == "identity"


@pytest.mark.usefixtures("service")
async def test_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with sidecar_client("echo") as echo:
        assert (await echo.get("/")).status_code == 200


@pytest.mark.slow
async def test_endless_calls_do_not_delay_others(service: Service, echo: httpx.AsyncClient) -> None:
    """Over one connection of httpx, neither all requests arrive nor all responses."""
    before = service.requests_seen()
    endless = start_calls(echo, 100, 1000)
    await asyncio.to_thread(
        wait_until, lambda: service.requests_seen() >= before + 100, "100 requests"
    )
    await assert_done(start_calls(echo, 50, 0.5))
    for call in endless:
        call.cancel()


@pytest.mark.usefixtures("service")
async def test_connections_that_a_client_keeps() -> None:
    """It keeps 100 after 120 calls at once, and none after 120 timeouts, or at its end."""
    before = sidecar_sockets()
    async with sidecar_client("echo") as echo:
        calls = start_calls(echo, 120, 1, timeout=0.1)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, httpx.TimeoutException)
        assert sidecar_sockets() == before
        await assert_done(start_calls(echo, 120, 0.5))
        assert sidecar_sockets() == before + 100
    assert sidecar_sockets() == before


@pytest.mark.usefixtures("service")
async def test_client_that_is_closed_while_calls_are_in_flight() -> None:
    before = sidecar_sockets()
    async with sidecar_client("echo") as echo:
        calls = start_calls(echo, 20, 0.5)
        await asyncio.sleep(0.2)
    assert sidecar_sockets() == before + 20
    await assert_done(calls)
    assert sidecar_sockets() == before


@pytest.mark.slow
async def test_100_calls_after_177_cancelled_ones(echo: httpx.AsyncClient) -> None:
    calls = start_calls(echo, 177, 2)
    await asyncio.wait(calls, timeout=1)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    await assert_done(start_calls(echo, 100, 0))


@pytest.mark.slow
async def test_timeout_of_one_call_next_to_20_others(echo: httpx.AsyncClient) -> None:
    others = start_calls(echo, 20, 2)
    with pytest.raises(httpx.ReadTimeout):
        await echo.post("/spec", json={"delay": 4}, timeout=1)
    await assert_done(others)


async def test_invalid_header_next_to_20_calls(echo: httpx.AsyncClient) -> None:
    others = start_calls(echo, 20, 0.5)
    await asyncio.sleep(0.2)
    with pytest.raises(httpx.HTTPError):
        await echo.post("/", headers={"x-a": "1\r\n2"})
    await assert_done(others)
