"""sidecar_client() of client.py: what it sends, and that its calls do not disturb each other."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.kar import Kar

from client import sidecar_client

BODY = {"name": "John", "surname": "Doe"}


@pytest.fixture(scope="module")
def echo_port(module_kar: Kar) -> Iterator[str]:
    """The port of a sidecar, through which the service echo can be called."""
    replica = module_kar.start_echo("-h2c")
    sidecar = module_kar.start_sidecar()
    module_kar.wait_until_called(sidecar, replica)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KAR_RUNTIME_PORT", str(sidecar.port))
        yield str(sidecar.port)
    # Callers that disconnect in the middle of a call are nothing to report.
    assert sidecar.process.stderr_lines() == []


def delayed(seconds: float, padding: int = 0) -> dict[str, Any]:
    """Return a request body for which echo takes so many seconds."""
    return {"delay": seconds, "body": "done", "padding": "x" * padding}


async def timed_post(echo: httpx.AsyncClient, body: dict[str, Any]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    response = await echo.post("/spec", json=body)
    assert response.text == "done"
    return time.perf_counter() - start


@pytest.mark.usefixtures("echo_port")
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


@pytest.mark.usefixtures("echo_port")
def test_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def call_echo() -> int:
        async with sidecar_client("echo") as echo:
            return (await echo.get("/")).status_code

    assert asyncio.run(call_echo()) == 200


@pytest.mark.slow
@pytest.mark.usefixtures("echo_port")
def test_slow_calls_do_not_delay_50_short_ones() -> None:
    async def call_echo() -> tuple[list[float], list[float]]:
        async with sidecar_client("echo") as echo:
            slow = asyncio.gather(*[timed_post(echo, delayed(4)) for _ in range(50)])
            short = asyncio.gather(*[timed_post(echo, delayed(0.5)) for _ in range(50)])
            return await slow, await short

    slow, short = asyncio.run(call_echo())
    assert min(slow) >= 4
    assert max(short) < 4


@pytest.mark.slow
@pytest.mark.usefixtures("echo_port")
def test_100_large_requests_at_once() -> None:
    """Over one connection of httpx, they take over a minute."""

    async def call_echo() -> float:
        async with sidecar_client("echo") as echo:
            start = time.perf_counter()
            await asyncio.gather(*[timed_post(echo, delayed(3, 10_000)) for _ in range(100)])
            return time.perf_counter() - start

    assert asyncio.run(call_echo()) < 20


@pytest.mark.slow
@pytest.mark.usefixtures("echo_port")
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
@pytest.mark.usefixtures("echo_port")
def test_timeout_of_one_call_next_to_20_others() -> None:
    async def call_echo() -> list[float]:
        async with sidecar_client("echo") as echo:
            others = [asyncio.create_task(timed_post(echo, delayed(2))) for _ in range(20)]
            with pytest.raises(httpx.ReadTimeout):
                await echo.post("/spec", json=delayed(4), timeout=1)
            return await asyncio.gather(*others)

    assert len(asyncio.run(call_echo())) == 20


@pytest.mark.usefixtures("echo_port")
def test_invalid_header_next_to_20_calls() -> None:
    async def call_echo() -> list[float]:
        async with sidecar_client("echo") as echo:
            others = [asyncio.create_task(timed_post(echo, delayed(0.5))) for _ in range(20)]
            await asyncio.sleep(0.2)
            with pytest.raises(httpx.HTTPError):
                await echo.post("/spec", json=delayed(0), headers={"x-a": "1\r\n2"})
            return await asyncio.gather(*others)

    assert len(asyncio.run(call_echo())) == 20
