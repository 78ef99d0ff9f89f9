"""sidecar_client() of client.py: what it sends, and that its calls do not disturb each other."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from support.kar import Kar
from support.kar_service import Service, start_service
from support.processes import wait_until

from client import sidecar_client

BODY = {"name": "John", "surname": "Doe"}


@pytest.fixture(scope="module")
def service(module_kar: Kar) -> Iterator[Service]:
    """The service echo, which the clients of these tests call through its sidecar."""
    service = start_service(module_kar, h2c=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KAR_RUNTIME_PORT", str(service.sidecar.port))
        yield service
    # Callers that disconnect in the middle of a call are nothing to report.
    assert service.sidecar.process.stderr_lines() == []


def delayed(seconds: float, padding: int = 0) -> dict[str, Any]:
    """Return a request body for which echo takes so many seconds."""
    return {"delay": seconds, "body": "done", "padding": "x" * padding}


async def timed_post(echo: httpx.AsyncClient, body: dict[str, Any]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    response = await echo.post("/spec", json=body)
    assert response.text == "done"
    return time.perf_counter() - start


@pytest.mark.usefixtures("service")
def test_request_arrives_at_the_service() -> None:
    async def call_echo() -> list[dict[str, Any]]:
        async with sidecar_client("echo") as echo:
            responses = [
                await echo.post("/a/b", json={"x": 1}),
                await echo.put("/items:search", content="text"),
                await echo.get("/d"),
            ]
        assert all(response.elapsed for response in responses)
        return [response.json() for response in responses]

    posted, put, got = asyncio.run(call_echo())
    assert (posted["method"], posted["path"], posted["body"]) == ("POST", "/a/b", '{"x":1}')
    assert posted["headers"]["content-type"] == "application/json"
    assert posted["headers"]["accept-encoding"] == "identity"
    assert (put["method"], put["path"], put["body"]) == ("PUT", "/items:search", "text")
    assert (got["method"], got["path"], got["body"]) == ("GET", "/d", "")


@pytest.mark.usefixtures("service")
def test_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def call_echo() -> int:
        async with sidecar_client("echo") as echo:
            return (await echo.get("/")).status_code

    assert asyncio.run(call_echo()) == 200


@pytest.mark.slow
def test_endless_calls_do_not_delay_others(service: Service) -> None:
    """Over one connection of httpx, neither all requests arrive nor all responses."""

    async def call_echo() -> list[float]:
        before = service.requests_seen()
        async with sidecar_client("echo") as echo:
            endless = [
                asyncio.create_task(timed_post(echo, delayed(1000, 10_000))) for _ in range(100)
            ]
            await asyncio.to_thread(
                wait_until, lambda: service.requests_seen() == before + 100, "100 requests"
            )
            times = await asyncio.gather(*[timed_post(echo, delayed(0.5)) for _ in range(50)])
            for call in endless:
                call.cancel()
            return times

    assert len(asyncio.run(call_echo())) == 50


def sidecar_sockets() -> int:
    """Return how many connections this process has."""
    return len(psutil.Process().net_connections(kind="tcp"))


@pytest.mark.usefixtures("service")
def test_connections_that_a_client_keeps() -> None:
    """It keeps 100 after 120 calls at once, and none after 120 timeouts, or at its end."""
    before = sidecar_sockets()

    async def call_echo() -> None:
        async with sidecar_client("echo") as echo:
            calls = [echo.post("/spec", json=delayed(1), timeout=0.1) for _ in range(120)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, httpx.TimeoutException) for result in results)
            assert sidecar_sockets() == before
            await asyncio.gather(*[timed_post(echo, delayed(0.5)) for _ in range(120)])
            assert sidecar_sockets() == before + 100
        assert sidecar_sockets() == before

    asyncio.run(call_echo())


@pytest.mark.usefixtures("service")
def test_client_that_is_closed_while_calls_are_in_flight() -> None:
    before = sidecar_sockets()

    async def call_echo() -> None:
        async with sidecar_client("echo") as echo:
            calls = [asyncio.create_task(timed_post(echo, delayed(0.5))) for _ in range(20)]
            await asyncio.sleep(0.2)
        assert sidecar_sockets() == before + 20
        await asyncio.gather(*calls)
        assert sidecar_sockets() == before

    asyncio.run(call_echo())


@pytest.mark.slow
@pytest.mark.usefixtures("service")
def test_100_calls_after_177_cancelled_ones() -> None:
    async def call_echo() -> list[float]:
        async with sidecar_client("echo") as echo:
            calls = [asyncio.create_task(timed_post(echo, delayed(2))) for _ in range(177)]
            await asyncio.wait(calls, timeout=1)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert all(call.cancelled() for call in calls)
            return await asyncio.gather(*[timed_post(echo, delayed(0)) for _ in range(100)])

    assert len(asyncio.run(call_echo())) == 100


@pytest.mark.slow
@pytest.mark.usefixtures("service")
def test_timeout_of_one_call_next_to_20_others() -> None:
    async def call_echo() -> list[float]:
        async with sidecar_client("echo") as echo:
            others = [asyncio.create_task(timed_post(echo, delayed(2))) for _ in range(20)]
            with pytest.raises(httpx.ReadTimeout):
                await echo.post("/spec", json=delayed(4), timeout=1)
            return await asyncio.gather(*others)

    assert len(asyncio.run(call_echo())) == 20


@pytest.mark.usefixtures("service")
def test_invalid_header_next_to_20_calls() -> None:
    async def call_echo() -> list[float]:
        async with sidecar_client("echo") as echo:
            others = [asyncio.create_task(timed_post(echo, delayed(0.5))) for _ in range(20)]
            await asyncio.sleep(0.2)
            with pytest.raises(httpx.HTTPError):
                await echo.post("/spec", json=delayed(0), headers={"x-a": "1\r\n2"})
            return await asyncio.gather(*others)

    assert len(asyncio.run(call_echo())) == 20
