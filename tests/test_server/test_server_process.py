"""server.py as a process: how it starts, speaks HTTP, stops, and follows kar's end."""

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

import h2.connection
import h2.events
import httpx
import psutil
import pytest
from support.http2 import async_http2_client, http2_client
from support.processes import TIMEOUT as PATIENCE
from support.processes import Processes, free_port, wait_until

JOHN = {"name": "John", "surname": "Doe"}
AUTHORITY = [(":scheme", "http"), (":authority", "localhost")]
STOPS = [signal.SIGTERM, signal.SIGINT]


def refuses(address: str) -> bool:
    url = httpx.URL(address)
    try:
        socket.create_connection((url.host, url.port), 1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "-1", "80.5", "1e4", "8080 9090"])
def test_a_port_that_is_none_ends_the_start(processes: Processes, port: str) -> None:
    server = processes.start(sys.executable, "server.py", KAR_APP_PORT=port)
    assert server.wait() == 2
    assert len(server.stderr_lines()) == 1
    assert "KAR_APP_PORT" in server.stderr_lines()[0]


def test_a_missing_port_ends_the_start(processes: Processes) -> None:
    server = processes.start(sys.executable, "server.py")
    assert server.wait() == 2
    assert len(server.stderr_lines()) == 1
    assert "KAR_APP_PORT" in server.stderr_lines()[0]


@pytest.mark.parametrize("delay", ["", "x", "-1", "nan", "inf", "1e999"])
def test_a_delay_that_is_none_ends_the_start(processes: Processes, delay: str) -> None:
    environment = {"KAR_APP_PORT": str(free_port()), "HELLO_DELAY": delay}
    server = processes.start(sys.executable, "server.py", **environment)
    assert server.wait() == 2
    assert len(server.stderr_lines()) == 1
    assert "HELLO_DELAY" in server.stderr_lines()[0]


def test_a_port_in_use_ends_the_start(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = processes.start(sys.executable, "server.py", KAR_APP_PORT=port)
        assert server.wait() == 1
    assert len(server.stderr_lines()) == 1
    assert port in server.stderr_lines()[0]


def test_importing_does_nothing(processes: Processes) -> None:
    process = processes.start(sys.executable, "-c", "from server import app", HELLO_DELAY="x")
    assert (process.wait(), process.stdout_lines(), process.stderr_lines()) == (0, [], [])


def test_http1_and_http2_share_the_port(processes: Processes) -> None:
    running = processes.start_server(HELLO_DELAY="0")
    server, address = running.process, running.url
    with http2_client(address) as client:
        answer = client.post("helloJson", json=JOHN)
    assert answer.http_version == "HTTP/2"
    assert "server" not in answer.headers
    with httpx.Client(base_url=address, trust_env=False) as browser:
        assert browser.post("helloJson", json=JOHN).http_version == "HTTP/1.1"
        assert "/openapi.json" in browser.get("docs").text
    assert server.stdout_lines() == ["HTTP version: 2", "HTTP version: 1.1"]
    assert "Running on http://" in server.stderr_lines()[0]


def test_it_listens_on_loopback_only(processes: Processes) -> None:
    running = processes.start_server()
    server, address = running.process, running.url
    connections = psutil.Process(server.pid).net_connections()
    assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {"127.0.0.1"}
    running = processes.start_server(KAR_APP_HOST="0.0.0.0")
    server, _ = running.process, running.url
    connections = psutil.Process(server.pid).net_connections()
    assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {"0.0.0.0"}
    assert not refuses(address)


async def greet_from_own_clients(address: str, count: int, started: asyncio.Event) -> list[str]:
    async def greet(number: int) -> str:
        async with async_http2_client(address) as client:
            person = {"name": "John", "surname": str(number)}
            return str((await client.post("helloJson", json=person)).json()["message"])

    calls = [asyncio.create_task(greet(number)) for number in range(count)]
    await started.wait()
    return list(await asyncio.gather(*calls))


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_answers_the_calls_in_flight(processes: Processes, stop: signal.Signals) -> None:
    running = processes.start_server(HELLO_DELAY="5")
    server, address = running.process, running.url

    async def main() -> list[str]:
        started = asyncio.Event()
        calls = asyncio.create_task(greet_from_own_clients(address, 100, started))
        await asyncio.to_thread(server.wait_for_line, "HTTP version: 2", 100)
        server.send_signal(stop)
        await asyncio.to_thread(wait_until, lambda: refuses(address), "a refused connection", 2)
        assert server.is_running()
        started.set()
        return await calls

    assert asyncio.run(main()) == [f"Hello John {number}" for number in range(100)]
    assert server.wait(5) == 0
    assert len(server.stderr_lines()) == 1  # Running on


def http2_requests(sock: socket.socket, count: int) -> h2.connection.H2Connection:
    """Send so many helloJson requests over one connection."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    for _ in range(count):
        send_greeting(connection)
    sock.sendall(connection.data_to_send())
    return connection


def send_greeting(connection: h2.connection.H2Connection, body: bytes | None = None) -> int:
    stream = connection.get_next_available_stream_id()
    headers = [(":method", "POST"), (":path", "/helloJson"), *AUTHORITY]
    connection.send_headers(stream, [*headers, ("content-type", "application/json")])
    connection.send_data(stream, body or b'{"name": "John", "surname": "Doe"}', end_stream=True)
    return stream


def answers(sock: socket.socket, connection: h2.connection.H2Connection) -> list[str]:
    """Read until the server closes the connection; return the statuses that came."""
    statuses = []
    while data := sock.recv(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                statuses.append(dict(event.headers)[b":status"].decode())
        sock.sendall(connection.data_to_send())
    return statuses


def connect(address: str) -> socket.socket:
    url = httpx.URL(address)
    return socket.create_connection((url.host, url.port), PATIENCE)


def test_a_stop_answers_the_calls_on_one_shared_connection(processes: Processes) -> None:
    running = processes.start_server(HELLO_DELAY="2")
    server, address = running.process, running.url
    with connect(address) as sock:
        connection = http2_requests(sock, 99)
        server.wait_for_line("HTTP version: 2", 99)
        server.terminate()
        wait_until(lambda: refuses(address), "a refused connection", 2)
        send_greeting(connection)  # a caller has not heard of the stop
        sock.sendall(connection.data_to_send())
        assert answers(sock, connection) == ["200"] * 100
    assert server.wait(5) == 0
    assert len(server.stderr_lines()) == 1


def test_callers_that_have_gone_do_not_hold_up_a_stop(processes: Processes) -> None:
    running = processes.start_server(HELLO_DELAY="1")
    server, address = running.process, running.url
    for _ in range(20):
        with connect(address) as sock:
            http2_requests(sock, 5)
    server.wait_for_line("HTTP version: 2", 100)
    start = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert time.monotonic() - start < 4  # the deadline would be 6 s


@pytest.mark.parametrize("stop", STOPS)
def test_half_a_request_does_not_hold_up_a_stop(processes: Processes, stop: signal.Signals) -> None:
    running = processes.start_server(HELLO_DELAY="0.5")
    server, address = running.process, running.url
    with connect(address) as half, connect(address) as half2:
        half.sendall(b"POST /helloText HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nJohn")
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        connection.send_headers(1, [(":method", "POST"), (":path", "/helloText")] + AUTHORITY)
        half2.sendall(connection.data_to_send())
        with http2_client(address) as client:
            assert client.get("health").status_code == 200
        start = time.monotonic()
        server.send_signal(stop)
        assert server.wait(15) == 0
        assert time.monotonic() - start < 10
    assert len(server.stderr_lines()) == 1


def test_a_second_signal_ends_at_once(processes: Processes) -> None:
    running = processes.start_server(HELLO_DELAY="50")
    server, address = running.process, running.url
    with connect(address) as sock:
        http2_requests(sock, 1)
        server.wait_for_line("HTTP version: 2")
        server.terminate()
        wait_until(lambda: refuses(address), "a refused connection", 2)
        server.terminate()
        assert server.wait(2) != 0
    assert len(server.stderr_lines()) == 1


def test_an_orphan_of_kar_ends(processes: Processes) -> None:
    """The parent is a shell here, and its death is noticed since KAR_RUNTIME_PORT is set."""
    port = str(free_port())
    environment = {"KAR_APP_PORT": port, "KAR_RUNTIME_PORT": "1", "HELLO_DELAY": "50"}
    command = f"{sys.executable} server.py; true"
    parent = processes.start("sh", "-c", command, **environment)
    parent.wait_for_line("Running on")
    child = parent.child()
    with connect(f"http://127.0.0.1:{port}") as sock:
        http2_requests(sock, 1)
        parent.wait_for_line("HTTP version: 2")
        parent.kill()
        child.wait(2)
    assert refuses(f"http://127.0.0.1:{port}")


def test_without_kar_a_server_outlives_its_parent(processes: Processes) -> None:
    port = str(free_port())
    parent = processes.start("sh", "-c", f"{sys.executable} server.py; true", KAR_APP_PORT=port)
    parent.wait_for_line("Running on")
    child = parent.child()
    parent.kill()
    with pytest.raises(psutil.TimeoutExpired):
        child.wait(1.5)
    child.terminate()
    child.wait(5)


@pytest.mark.parametrize("closed", [">&-", "> /dev/full", "| true"])
def test_greetings_go_on_without_standard_output(processes: Processes, closed: str) -> None:
    if closed == "> /dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    port = str(free_port())
    command = f"exec {sys.executable} server.py {closed}"
    environment = {"KAR_APP_PORT": port, "HELLO_DELAY": "0"}
    server = processes.start("sh", "-c", command, **environment)
    server.wait_for_line("Running on")
    with http2_client(f"http://127.0.0.1:{port}") as client:
        for _ in range(20):
            assert client.post("helloJson", json=JOHN).status_code == 200
    if closed != "| true":
        server.terminate()
        assert server.wait() == 0
    else:
        for child in psutil.Process(server.pid).children():
            child.terminate()
        server.wait()
    assert len(server.stderr_lines()) == 1


def test_idle_connections_stay(processes: Processes) -> None:
    running = processes.start_server(HELLO_DELAY="0")
    _, address = running.process, running.url
    with connect(address) as sock:
        connection = http2_requests(sock, 1)
        for pause in (0.0, 4.9, 5.1, 12.0):
            time.sleep(pause)
            send_greeting(connection)
            sock.sendall(connection.data_to_send())
            data = sock.recv(65536)
            assert data
            connection.receive_data(data)


def test_closed_connections_leave_nothing(processes: Processes) -> None:
    running = processes.start_server()
    server, address = running.process, running.url
    process = psutil.Process(server.pid)
    before = process.num_fds()
    for number in range(100):
        with httpx.Client(
            base_url=address, http1=number % 2 == 0, http2=number % 2 == 1, trust_env=False
        ) as client:
            assert client.get("health").status_code == 200
    wait_until(lambda: process.num_fds() <= before, "the connections to be forgotten")


def test_two_servers_on_one_port(processes: Processes) -> None:
    running = processes.start_server()
    _, address = running.process, running.url
    port = str(httpx.URL(address).port)
    second = processes.start(sys.executable, "server.py", KAR_APP_PORT=port)
    assert second.wait() == 1
    assert len(second.stderr_lines()) == 1
    assert "-app_port" in second.stderr_lines()[0]
