"""A service's replicas: the choice among them, their coming and going, and the calls meanwhile."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import httpx
import psutil
import pytest
from support.http2 import async_http2_client
from support.kar import Kar
from support.processes import Process, free_port, wait_until

ECHO = ["-h2c", "-service", "echo", "-app_port"]


def echo(kar: Kar) -> tuple[Process, str]:
    """Start a replica of the echo service; return it and its port."""
    port = str(free_port())
    process = kar.run(*ECHO, port, "python", "tests/support/echo_service.py")
    process.wait_for_line("Running on")
    return process, port


def ask(
    sidecar: str, count: int, delays: dict[str, float] | None = None
) -> Coroutine[Any, Any, list[httpx.Response]]:
    """Return a coroutine that makes calls at once and returns all answers.

    Each replica takes as many seconds for a call as delays says for its port.
    """

    async def calls() -> list[httpx.Response]:
        async with async_http2_client(sidecar) as client:
            path = "/kar/v1/service/echo/call/" + ("spec" if delays else "")
            content = json.dumps({"delays": delays})
            calls = [client.post(path, content=content) for _ in range(count)]
            return list(await asyncio.gather(*calls))

    return calls()


def ports(sidecar: str, count: int) -> Counter[str]:
    """Return how many of the calls each replica has answered, by its port."""
    return Counter(answer.json()["port"] for answer in asyncio.run(ask(sidecar, count)))


def test_two_replicas_share_the_calls(kar: Kar) -> None:
    replicas = dict([echo(kar)[::-1], echo(kar)[::-1]])
    sidecar = kar.start_sidecar().url
    shares = ports(sidecar, 200)
    assert shares.keys() == replicas.keys()
    assert min(shares.values()) >= 60
    dead = replicas.popitem()
    dead[1].child().kill()
    dead[1].wait()
    assert ports(sidecar, 50) == {next(iter(replicas)): 50}
    _, new = echo(kar)
    assert ports(sidecar, 200)[new] >= 60


def test_applications_do_not_see_each_other(kar: Kar) -> None:
    _, port = echo(kar)
    other = Kar(kar.path, kar.processes)
    _, other_port = echo(other)
    assert ports(kar.start_sidecar().url, 20) == {port: 20}
    assert ports(other.start_sidecar().url, 20) == {other_port: 20}


def test_a_call_waits_for_a_service_that_does_not_exist_yet(kar: Kar) -> None:
    sidecar = kar.start_sidecar().url

    async def main() -> list[httpx.Response]:
        calls = asyncio.create_task(ask(sidecar, 10))
        await asyncio.sleep(1)
        assert not calls.done()
        await asyncio.to_thread(echo, kar)
        return await calls

    assert [answer.status_code for answer in asyncio.run(main())] == [200] * 10


def test_a_call_waits_for_a_process_that_listens_late(kar: Kar) -> None:
    port = str(free_port())
    late = kar.run(*ECHO, port, "sh", "-c", "sleep 5; exec python tests/support/echo_service.py")
    wait_until(late.child, "the process")
    assert ports(kar.start_sidecar().url, 3) == {port: 3}


def kill(replica: Process, what: str) -> None:
    """Kill with SIGKILL: "server", "sidecar", or "both"; what the sidecar leaves goes after."""
    child = replica.child()
    if what != "server":
        replica.kill()
    if what != "sidecar":
        child.kill()
    replica.wait()


@pytest.mark.parametrize("what", ["server", "both", "sidecar"])
@pytest.mark.parametrize("other", ["there", "later"])
def test_a_call_survives_its_replica(kar: Kar, what: str, other: str) -> None:
    first, port = echo(kar)
    sidecar = kar.start_sidecar().url

    async def main() -> list[httpx.Response]:
        calls = asyncio.create_task(ask(sidecar, 20, {port: 1000}))
        await asyncio.to_thread(first.wait_for_line, "POST /spec", 20)
        if other == "there":
            await asyncio.to_thread(echo, kar)
        await asyncio.to_thread(kill, first, what)
        if other == "later":
            await asyncio.to_thread(echo, kar)
        return await calls

    orphan = first.child()
    assert [answer.status_code for answer in asyncio.run(main())] == [200] * 20
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan.kill()


def test_200_calls_in_flight_survive_one_of_two_replicas(kar: Kar) -> None:
    first, port = echo(kar)
    second, second_port = echo(kar)
    sidecar = kar.start_sidecar().url

    def all_in_flight() -> bool:
        return (
            sum(
                line.endswith("POST /spec") for line in first.stdout_lines() + second.stdout_lines()
            )
            == 200
        )

    async def main() -> list[httpx.Response]:
        delays = {port: 1000.0, second_port: 5.0}
        calls = [asyncio.create_task(ask(sidecar, 100, delays)) for _ in range(2)]
        await asyncio.to_thread(wait_until, all_in_flight, "all 200 calls")
        await asyncio.to_thread(kill, first, "both")
        return sum(await asyncio.gather(*calls), [])

    assert [answer.status_code for answer in asyncio.run(main())] == [200] * 200


def test_a_process_that_its_sidecar_has_left_is_called_no_more(kar: Kar) -> None:
    """An orphan that goes on serving, as the echo service does, must not answer."""
    left, port = echo(kar)
    orphan = left.child()
    sidecar = kar.start_sidecar().url
    assert ports(sidecar, 5) == {port: 5}
    left.kill()
    _, new = echo(kar)
    assert orphan.is_running()
    assert httpx.get(f"http://127.0.0.1:{port}", trust_env=False).status_code == 200
    assert ports(sidecar, 20) == {new: 20}
    orphan.kill()


@pytest.mark.parametrize("http2", [True, False])
def test_a_call_is_made_when_its_caller_has_disconnected(kar: Kar, http2: bool) -> None:
    sidecar = kar.start_sidecar()
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(http1=not http2, http2=http2, trust_env=False, timeout=1) as client,
    ):
        client.post(sidecar.service_url("echo") + "/late")
    kar.start_echo("-h2c").process.wait_for_line("[STDOUT] POST /late")


@pytest.mark.embedded_only
def test_sidecars_leave_no_file(kar: Kar) -> None:
    process, _ = echo(kar)
    folder = kar.processes.directory / "embedded-kar"
    assert len(list(folder.iterdir())) == 1
    process.terminate()
    process.wait()
    assert list(folder.iterdir()) == []
    killed, _ = echo(kar)
    orphan: psutil.Process = killed.child()
    killed.kill()
    orphan.kill()
    kar.start_sidecar()
    wait_until(lambda: len(list(folder.iterdir())) == 1, "the dead sidecar's file to go")
