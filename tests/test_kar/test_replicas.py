"""The replicas of a service: how calls are spread over them, and what happens when one crashes."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter

import httpx
import psutil
import pytest
from support.http2 import async_http2_client
from support.kar import Kar, Replica, Sidecar
from support.processes import free_port, wait_until


async def call_echo(
    sidecar: Sidecar, count: int, slow: Replica | None = None
) -> list[httpx.Response]:
    """Make calls at once and return all responses; a slow replica would take 1,000 s for each."""
    body = json.dumps({"delays": {str(slow.port): 1000}}) if slow else ""
    path = "/spec" if slow else "/"
    async with async_http2_client(sidecar.service_url("echo")) as client:
        return await asyncio.gather(*[client.post(path, content=body) for _ in range(count)])


def calls_by_port(sidecar: Sidecar, count: int) -> Counter[int]:
    """Make calls at once and return how many of them the replica on each port has received."""
    responses = asyncio.run(call_echo(sidecar, count))
    return Counter(int(response.json()["port"]) for response in responses)


@pytest.mark.slow
def test_two_replicas_share_the_calls(kar: Kar) -> None:
    first = kar.start_echo("-h2c")
    second = kar.start_echo("-h2c")
    sidecar = kar.start_sidecar()
    kar.wait_until_called(sidecar, first, second)
    shares = calls_by_port(sidecar, 200)
    assert shares.keys() == {first.port, second.port}
    assert min(shares.values()) >= 60

    second.process.child().kill()
    second.process.wait()
    assert calls_by_port(sidecar, 50) == {first.port: 50}

    third = kar.start_echo("-h2c")
    kar.wait_until_called(sidecar, third)
    assert calls_by_port(sidecar, 200)[third.port] >= 60


@pytest.mark.slow
def test_applications_do_not_see_each_other(kar: Kar) -> None:
    other_kar = kar.other_application()
    replica = kar.start_echo("-h2c")
    other_replica = other_kar.start_echo("-h2c")
    assert calls_by_port(kar.start_sidecar(), 20) == {replica.port: 20}
    assert calls_by_port(other_kar.start_sidecar(), 20) == {other_replica.port: 20}


@pytest.mark.slow
def test_call_before_its_service_listens(kar: Kar) -> None:
    port = free_port()
    command = "sleep 2; exec python tests/support/echo_service.py"
    flags = ["-h2c", "-service", "echo", "-app_port", str(port)]
    kar.run(*flags, "sh", "-c", command).child()
    assert calls_by_port(kar.start_sidecar(), 3) == {port: 3}


def crash(replica: Replica, part: str) -> psutil.Process:
    """Kill the process of a replica, its sidecar, or both; return the process."""
    child = replica.process.child()
    if part in ("sidecar", "both"):
        replica.process.kill()
    if part in ("process", "both"):
        child.kill()
    replica.process.wait()
    return child


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "other_replica", "flag"),
    [
        ("process", "running", "-h2c"),
        ("process", "running", "-h2c=false"),
        ("both", "running", "-h2c"),
        ("sidecar", "running", "-h2c"),
        ("sidecar", "running", "-h2c=false"),
        ("both", "started later", "-h2c"),
    ],
)
async def test_calls_in_flight_when_a_replica_crashes(
    kar: Kar, part: str, other_replica: str, flag: str
) -> None:
    replica = kar.start_echo(flag)
    calls = asyncio.create_task(call_echo(kar.start_sidecar(), 20, slow=replica))
    await asyncio.to_thread(replica.process.wait_for_line, "POST /spec", 20)
    if other_replica == "running":
        await asyncio.to_thread(kar.start_echo, flag)
    await asyncio.to_thread(crash, replica, part)
    if other_replica == "started later":
        await asyncio.to_thread(kar.start_echo, flag)
    assert [response.status_code for response in await calls] == [200] * 20


@pytest.mark.slow
def test_suspended_replica(kar: Kar) -> None:
    """The other replica gets its calls, and it gets calls again when it continues."""
    suspended = kar.start_echo("-h2c")
    other = kar.start_echo("-h2c")
    sidecar = kar.start_sidecar()
    kar.wait_until_called(sidecar, suspended, other)
    os.killpg(suspended.process.pid, signal.SIGSTOP)
    assert calls_by_port(sidecar, 20) == {other.port: 20}
    os.killpg(suspended.process.pid, signal.SIGCONT)
    wait_until(lambda: suspended.port in calls_by_port(sidecar, 5), "a response of the replica")


@pytest.mark.slow
def test_process_without_its_sidecar_gets_no_calls(kar: Kar) -> None:
    """The process goes on serving, but another replica has to be called."""
    abandoned = kar.start_echo("-h2c")
    sidecar = kar.start_sidecar()
    assert calls_by_port(sidecar, 5) == {abandoned.port: 5}
    process = crash(abandoned, "sidecar")
    replica = kar.start_echo("-h2c")
    assert process.is_running()
    assert httpx.get(abandoned.url, trust_env=False).status_code == 200
    assert calls_by_port(sidecar, 20) == {replica.port: 20}


@pytest.mark.slow
@pytest.mark.embedded_only  # the response of the real KAR comes through the kar that was killed
async def test_error_of_a_process_without_its_kar_is_not_a_response(kar: Kar) -> None:
    """It cannot print any more, so that a greeting fails, until the callers notice the crash."""
    victim = kar.start_server(HELLO_DELAY="0")
    kar.start_server(HELLO_DELAY="0")
    async with async_http2_client(kar.start_sidecar().service_url("async-server")) as client:

        async def greet_200_times() -> list[int]:
            return [(await client.post("/helloText", content="x")).status_code for _ in range(200)]

        calls = asyncio.create_task(greet_200_times())
        await asyncio.to_thread(victim.process.wait_for_line, "HTTP version: 2", 20)
        victim.process.kill()
        assert await calls == [200] * 200


@pytest.mark.slow
def test_call_whose_caller_has_disconnected(kar: Kar) -> None:
    sidecar = kar.start_sidecar()
    for http2 in (True, False):
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.Client(http1=not http2, http2=http2, trust_env=False, timeout=1) as client,
        ):
            client.post(sidecar.service_url("echo") + f"/late/{http2}")
    echo = kar.start_echo("-h2c")
    for http2 in (True, False):
        echo.process.wait_for_line(f"[STDOUT] POST /late/{http2}")


ASYNC_CALL = """
import os, sys, time, httpx
time.sleep(float(sys.argv[1]))
url = f"http://127.0.0.1:{os.environ['KAR_RUNTIME_PORT']}/kar/v1/service/echo/call/late"
print(httpx.post(url, headers={"Pragma": "async"}, trust_env=False).status_code)
"""


@pytest.mark.slow
def test_async_call_of_a_program_that_has_exited(kar: Kar) -> None:
    caller = kar.run("python", "-c", ASYNC_CALL, str(kar.lifetime))
    caller.wait_for_line("[STDOUT] 202")
    kar.start_echo("-h2c").process.wait_for_line("[STDOUT] POST /late")
    assert caller.wait() == 0


@pytest.mark.slow
@pytest.mark.embedded_only
def test_sidecars_leave_no_files(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    replica = kar.start_echo("-h2c")
    assert len(list(directory.iterdir())) == 1
    replica.process.terminate()
    replica.process.wait()
    assert list(directory.iterdir()) == []

    crashed = kar.start_echo("-h2c")
    with contextlib.suppress(psutil.NoSuchProcess):
        crash(crashed, "both")
    kar.start_echo("-h2c")
    assert len(list(directory.iterdir())) == 1
