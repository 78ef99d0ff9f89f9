"""server.py under abuse over raw sockets: a normal caller is still served, and memory stays."""

import contextlib
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx
import psutil
import pytest
from support.http2 import http2_client
from support.processes import Processes, wait_until
from support.raw_http2 import AUTHORITY, beside_greetings, opened

Connect = Callable[[], socket.socket]
Attack = Callable[[Connect, threading.Event], None]

MEMORY = 40 * 1024 * 1024  # bytes that the server may grow by
PATIENCE = 2.0  # seconds for a normal call meanwhile


def garbage(connect: Connect, stop: threading.Event) -> None:
    """Bytes that are no request, before any preface, again and again."""
    chance = random.Random(0)
    for size in (1, 100, 10_000, 100_000) * 25:
        with contextlib.suppress(OSError), connect() as sock:
            sock.sendall(chance.randbytes(size))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)


def half_requests(connect: Connect, stop: threading.Event) -> None:
    """Requests that stop in the middle of their head or body, and stay."""
    with contextlib.ExitStack() as stack:
        for number in range(200):
            sock = stack.enter_context(connect())
            if number % 3 == 0:
                sock.sendall(
                    b"POST /helloText HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nJohn"
                )
            elif number % 3 == 1:
                sock.sendall(b"POST /helloText HTTP/1.1\r\nhost: x\r\ncont")
            else:
                connection = opened(sock)
                connection.send_headers(
                    1, [(":method", "POST"), (":path", "/helloText")] + AUTHORITY
                )
                connection.send_data(1, b"John")
                sock.sendall(connection.data_to_send())
        stop.wait(2)


def rapid_reset(connect: Connect, stop: threading.Event) -> None:
    """10,000 streams of one connection, reset as soon as they have headers; half are requests."""
    with connect() as sock:
        connection = opened(sock)
        for number in range(10_000):
            stream = connection.get_next_available_stream_id()
            head = [(":method", "POST"), (":path", "/helloText"), *AUTHORITY]
            connection.send_headers(stream, head, end_stream=number % 2 == 0)
            connection.reset_stream(stream)
            sock.sendall(connection.data_to_send())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.receive_data(sock.recv(65536))
            sock.setblocking(True)


def idle_connections(connect: Connect, stop: threading.Event) -> None:
    """1,000 connections on which nothing comes; half of them have spoken HTTP/2."""
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            sock = stack.enter_context(connect())
            if number % 2:
                opened(sock)
        stop.wait(2)


def large_headers(connect: Connect, stop: threading.Event) -> None:
    """Lists of headers over the limit, of 64 KiB for HTTP/2 and 16 KiB for HTTP/1.1."""
    for number in range(20):
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError), connect() as sock:
            if number % 2:
                connection = opened(sock)
                fields = [(f"x-{each}", "x" * 1000) for each in range(1000)]
                head = [(":method", "GET"), (":path", "/health"), *AUTHORITY, *fields]
                connection.send_headers(1, head, end_stream=True)
                sock.sendall(connection.data_to_send())
            else:
                sock.sendall(b"GET /health HTTP/1.1\r\n" + b"x: " + b"y" * 1_000_000)
            sock.recv(1)


def endless_body(connect: Connect, stop: threading.Event) -> None:
    """A body that does not end, as fast as the server takes it, over either protocol."""
    with connect() as sock1, connect() as sock2:
        sock1.sendall(b"POST /helloText HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        connection = opened(sock2)
        connection.send_headers(1, [(":method", "POST"), (":path", "/helloText"), *AUTHORITY])
        sock2.sendall(connection.data_to_send())
        end = time.monotonic() + 5
        while time.monotonic() < end and not stop.is_set():
            sock1.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            while connection.local_flow_control_window(1) < 0x4000:
                connection.receive_data(sock2.recv(65536))
            connection.send_data(1, b"x" * 0x4000)
            sock2.sendall(connection.data_to_send())


ATTACKS = [garbage, half_requests, rapid_reset, idle_connections, large_headers, endless_body]


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process and the server have 1,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_normal_caller_is_served_meanwhile(processes: Processes, attack: Attack) -> None:
    running = processes.start_server(HELLO_DELAY="0.01")
    server, address = running.process, running.url
    url = httpx.URL(address)
    process = psutil.Process(server.pid)
    stop = threading.Event()
    with ThreadPoolExecutor() as pool, http2_client(address) as client:
        person = {"name": "John", "surname": "Doe"}
        for _ in range(100):
            client.post("helloJson", json=person)
        before = most = process.memory_info().rss

        def connect() -> socket.socket:
            return socket.create_connection((url.host, url.port), 30)

        attacker = pool.submit(attack, connect, stop)
        try:
            while not attacker.done():
                start = time.monotonic()
                assert client.post("helloJson", json=person).status_code == 200
                assert time.monotonic() - start < PATIENCE
                most = max(most, process.memory_info().rss)
                time.sleep(0.01)
        finally:
            stop.set()
        attacker.result()
    assert server.stderr_lines() == server.stderr_lines()[:1], "an attack is nothing to report"
    assert most - before < MEMORY
    with http2_client(address) as client:
        assert client.get("health").status_code == 200
    wait_until(
        lambda: len(process.net_connections()) == 1,
        f"the connections to go: {process.net_connections()}",
        10,
    )


REFUSED = {
    "404": ("POST", "/nowhere", b"x"),
    "405": ("PUT", "/helloText", b"x"),
    "413": ("POST", "/helloText", b"x" * 65_537),
    "413, far over": ("POST", "/helloText", b"x" * 5_000_000),
    "422": ("POST", "/helloJson", b"{}"),
    "400": ("POST", "/helloText", b"\xff" * 60_000),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_request_costs_no_greeting_beside_it(processes: Processes, case: str) -> None:
    """50 greetings are in flight on the same connection."""
    running = processes.start_server(HELLO_DELAY="1")
    _, address = running.process, running.url
    status, greetings = beside_greetings(address, "/helloText", *REFUSED[case])
    assert status == case[:3]
    assert greetings == ["200"] * 50


def test_no_server_header_on_any_answer(processes: Processes) -> None:
    running = processes.start_server(HELLO_DELAY="0")
    _, address = running.process, running.url
    with http2_client(address) as client:
        for method, path, body in REFUSED.values():
            assert "server" not in client.request(method, path, content=body[:70_000]).headers


def test_streams_are_limited_to_100(processes: Processes) -> None:
    running = processes.start_server()
    _, address = running.process, running.url
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), 30) as sock:
        connection = opened(sock)
        connection.receive_data(sock.recv(65536))
        assert connection.remote_settings.max_concurrent_streams == 100
