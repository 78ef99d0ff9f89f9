"""How server.py ends: on SIGTERM and SIGINT, and when the kar that started it has exited."""

import asyncio
import signal
import socket
import sys
import time

import httpx
import psutil
import pytest
from support.http2 import FrameConnection, async_http2_client
from support.processes import (
    Processes,
    Server,
    accepts_connections,
    free_port,
    wait_until,
)

SIGNALS = [signal.SIGTERM, signal.SIGINT]
PERSON = b'{"name": "John", "surname": "Doe"}'
JSON = ("content-type", "application/json")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_completes_100_greetings(processes: Processes, number: signal.Signals) -> None:
    server = processes.start_server(HELLO_DELAY="5")

    async def greet(client: httpx.AsyncClient, surname: int) -> str:
        person = {"name": "John", "surname": str(surname)}
        return str((await client.post("helloJson", json=person)).json()["message"])

    async def send_signal_to_greetings() -> list[str]:
        async with async_http2_client(server.url) as one, async_http2_client(server.url) as two:
            greetings = [
                asyncio.create_task(greet(one if surname % 2 else two, surname))
                for surname in range(99)
            ]
            await asyncio.to_thread(server.process.wait_for_line, "HTTP version: 2", 99)
            server.process.send_signal(number)
            await asyncio.sleep(1)
            assert server.process.is_running()
            greetings.append(asyncio.create_task(greet(one, 99)))
            return await asyncio.gather(*greetings)

    messages = asyncio.run(send_signal_to_greetings())
    assert messages == [f"Hello John {surname}" for surname in range(100)]
    assert server.process.wait(10) == 0
    assert len(server.process.stderr_lines()) == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_to_idle_server(processes: Processes, number: signal.Signals) -> None:
    server = processes.start_server()
    with FrameConnection(server.url) as connection:
        connection.wait_for(connection.open_stream("GET", "/health", end_stream=True))
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
    assert len(server.process.stderr_lines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_with_half_a_request_open(processes: Processes, number: signal.Signals) -> None:
    server = processes.start_server(HELLO_DELAY="0")
    with (
        socket.create_connection(("127.0.0.1", server.port)) as http1,
        FrameConnection(server.url) as http2,
    ):
        http1.sendall(b"POST /helloText HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nJohn")
        http2.open_stream("POST", "/helloText")
        http2.wait_for(http2.open_stream("GET", "/health", end_stream=True))
        start = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        assert time.monotonic() - start < 8
    assert len(server.process.stderr_lines()) == 1


@pytest.mark.slow
def test_signal_after_client_disconnected_with_requests(processes: Processes) -> None:
    server = processes.start_server(HELLO_DELAY="0.5")
    with FrameConnection(server.url) as connection:
        for _ in range(20):
            connection.open_stream("POST", "/helloJson", JSON, body=PERSON)
        connection.flush()
        server.process.wait_for_line("HTTP version: 2", 20)
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert not any("Traceback" in line for line in server.process.stderr_lines())


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_terminates_immediately(processes: Processes, number: signal.Signals) -> None:
    server = processes.start_server(HELLO_DELAY="1000")
    with FrameConnection(server.url) as connection:
        connection.open_stream("POST", "/helloJson", JSON, body=PERSON)
        connection.flush()
        server.process.wait_for_line("HTTP version: 2")
        server.process.send_signal(number)
        # The handler has run when the signal has its default action again.
        wait_until(lambda: not handles(server, number), "the signal to be handled", 10)
        server.process.send_signal(number)
        assert server.process.wait(5) == -number
    assert len(server.process.stderr_lines()) == 1


def handles(server: Server, number: signal.Signals) -> bool:
    """Return whether a process catches a signal; always False where there is no /proc."""
    if sys.platform != "linux":
        time.sleep(1)
        return False
    with open(f"/proc/{server.process.pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))


@pytest.mark.slow
def test_exit_of_kar_ends_the_server(processes: Processes) -> None:
    """A shell takes the place of kar: it starts the server with KAR_RUNTIME_PORT, and is killed."""
    port = free_port()
    kar = processes.start(
        *["sh", "-c", "python server.py; true"],
        KAR_APP_PORT=str(port),
        KAR_RUNTIME_PORT="1",
        HELLO_DELAY="50",
    )
    kar.wait_for_line("Running on")
    server = kar.child()
    with FrameConnection(f"http://127.0.0.1:{port}") as connection:
        connection.open_stream("POST", "/helloJson", JSON, body=PERSON)
        connection.flush()
        kar.wait_for_line("HTTP version: 2")
        kar.kill()
        server.wait(5)
    assert not accepts_connections(port)


@pytest.mark.slow
def test_server_without_kar_outlives_its_parent(processes: Processes) -> None:
    port = str(free_port())
    parent = processes.start("sh", "-c", "python server.py; true", KAR_APP_PORT=port)
    parent.wait_for_line("Running on")
    server = parent.child()
    parent.kill()
    with pytest.raises(psutil.TimeoutExpired):
        server.wait(1.5)
