"""The class SidecarClient of client.py: what it sends, its timeouts and its errors."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from support.kar import Kar

from client import CallError, ConfigurationError, SidecarClient

StartFakeSidecar = Callable[..., Any]


def test_default_timeout_outlasts_the_failure_of_a_host() -> None:
    """KAR needed 19 seconds to call another host in a test of three hosts."""
    assert inspect.signature(SidecarClient.call).parameters["timeout"].default == 30


def test_request_arrives_at_the_service(kar: Kar, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = kar.start_sidecar()
    kar.wait_until_called(sidecar, kar.start_echo("-h2c"))
    monkeypatch.setenv("KAR_RUNTIME_PORT", str(sidecar.port))

    async def call_echo() -> list[dict[str, Any]]:
        async with SidecarClient("echo") as service:
            responses = [
                await service.call("POST", "a/b", json={"x": 1}),
                await service.call("PUT", "/c", content="text"),
                await service.call("GET", "d"),
            ]
        return [response.json() for response in responses]

    posted, put, got = asyncio.run(call_echo())
    assert (posted["method"], posted["path"], posted["body"]) == ("POST", "/a/b", '{"x":1}')
    assert posted["headers"]["content-type"] == "application/json"
    assert posted["headers"]["accept-encoding"] == "identity"
    assert (put["method"], put["path"], put["body"]) == ("PUT", "/c", "text")
    assert (got["method"], got["path"], got["body"]) == ("GET", "/d", "")


def test_timeout_raises_call_error(
    start_fake_sidecar: StartFakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAR_RUNTIME_PORT", str(start_fake_sidecar("--delay", "50").port))

    async def call_with_timeout() -> None:
        async with SidecarClient("async-server") as service:
            await service.call("GET", "health", timeout=0.2)

    with pytest.raises(CallError, match=r"^health: no response within 0.2 s\. ") as error:
        asyncio.run(call_with_timeout())
    assert error.value.kind == "timeout"
    assert error.value.__cause__ is not None


def test_status_raises_call_error_with_detail(
    start_fake_sidecar: StartFakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '{"detail": [{"msg": "Field\\nrequired"}]}'
    sidecar = start_fake_sidecar("--status", "422", "--body", body)
    monkeypatch.setenv("KAR_RUNTIME_PORT", str(sidecar.port))

    async def call_health() -> None:
        async with SidecarClient("async-server") as service:
            await service.call("GET", "health")

    with pytest.raises(CallError, match=r"^health: status 422, .*Field") as error:
        asyncio.run(call_health())
    assert error.value.kind == "status 422"
    assert "\n" not in str(error.value)


def test_missing_port_raises_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAR_RUNTIME_PORT", raising=False)
    with pytest.raises(ConfigurationError, match="KAR_RUNTIME_PORT"):
        SidecarClient("async-server")


@pytest.mark.slow
@pytest.mark.parametrize("give_up", ["timeout", "cancel"])
def test_calls_succeed_after_177_that_were_given_up(
    start_fake_sidecar: StartFakeSidecar, monkeypatch: pytest.MonkeyPatch, give_up: str
) -> None:
    """A connection that counts the given-up requests would have no free stream left."""
    sidecar = start_fake_sidecar("--delay", "5")
    monkeypatch.setenv("KAR_RUNTIME_PORT", str(sidecar.port))

    async def give_up_177_and_make_100() -> list[httpx.Response]:
        async with SidecarClient("async-server") as service:

            def call(timeout: float) -> Coroutine[Any, Any, httpx.Response]:
                return service.call("GET", "health", timeout=timeout)

            for count in (89, 88):
                calls = [asyncio.create_task(call(0.5)) for _ in range(count)]
                if give_up == "cancel":
                    await asyncio.wait(calls, timeout=0.3)
                    for each in calls:
                        each.cancel()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, BaseException) for result in results)
            return await asyncio.gather(*[call(30) for _ in range(100)])

    responses = asyncio.run(give_up_177_and_make_100())
    assert [response.status_code for response in responses] == [200] * 100


def test_call_in_flight_completes_after_another_times_out(
    start_fake_sidecar: StartFakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = start_fake_sidecar("--delay", "2")
    monkeypatch.setenv("KAR_RUNTIME_PORT", str(sidecar.port))

    async def call_twice() -> httpx.Response:
        async with SidecarClient("async-server") as service:
            slow = asyncio.create_task(service.call("GET", "health"))
            with pytest.raises(CallError):
                await service.call("GET", "health", timeout=0.5)
            return await slow

    assert asyncio.run(call_twice()).status_code == 200
