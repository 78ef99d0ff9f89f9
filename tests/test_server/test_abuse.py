"""server.py under abuse: other callers still get responses, and its memory stays bounded."""

import contextlib
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import h2.exceptions
import psutil
import pytest
from support.http2 import FrameConnection, http2_client
from support.processes import Processes, Server

Attack = Callable[[Server, threading.Event], None]

MEMORY_GROWTH = 80 * 1024 * 1024  # bytes
PERSON = {"name": "John", "surname": "Doe"}


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 30)


def send_garbage(server: Server, stop: threading.Event) -> None:
    """Send bytes that are not a request, on 100 connections."""
    generator = random.Random(0)
    for size in (1, 100, 10_000, 100_000) * 25:
        with contextlib.suppress(OSError), connect(server) as connection:
            connection.sendall(generator.randbytes(size))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)


def send_half_requests(server: Server, stop: threading.Event) -> None:
    """Leave 200 requests unfinished, in the middle of their headers or of their body."""
    body_missing = b"POST /helloText HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nJohn"
    headers_missing = b"POST /helloText HTTP/1.1\r\nhost: x\r\ncont"
    with contextlib.ExitStack() as stack:
        for _ in range(67):
            stack.enter_context(connect(server)).sendall(body_missing)
            stack.enter_context(connect(server)).sendall(headers_missing)
            http2 = stack.enter_context(FrameConnection(server.url))
            http2.h2.send_data(http2.open_stream("POST", "/helloText"), b"John")
            http2.flush()
        stop.wait(2)


def reset_streams(server: Server, stop: threading.Event) -> None:
    """Open 10,000 streams on one connection and reset each at once ("rapid reset").

    Hypercorn ends the connection if that is faster than its send task can forget the streams.
    """
    with contextlib.suppress(OSError), FrameConnection(server.url) as connection:
        for number in range(10_000):
            stream = connection.open_stream("POST", "/helloText", end_stream=number % 2 == 0)
            connection.h2.reset_stream(stream)
            connection.flush()


def hold_idle_connections(server: Server, stop: threading.Event) -> None:
    """Hold 500 connections open without a request; half of them have begun to speak HTTP/2."""
    with contextlib.ExitStack() as stack:
        for _ in range(250):
            stack.enter_context(connect(server))
            stack.enter_context(FrameConnection(server.url))
        stop.wait(2)


def send_large_headers(server: Server, stop: threading.Event) -> None:
    """Send headers over Hypercorn's limits of 16 KiB (HTTP/1.1) and 64 KiB (HTTP/2)."""
    headers = [(f"x-{number}", "x" * 1000) for number in range(1000)]
    for _ in range(10):
        with contextlib.suppress(OSError), connect(server) as http1:
            http1.sendall(b"GET /health HTTP/1.1\r\n" + b"x: " + b"y" * 1_000_000)
            http1.recv(1)
        with (
            contextlib.suppress(OSError, h2.exceptions.ProtocolError),
            FrameConnection(server.url) as http2,
        ):
            http2.open_stream("GET", "/health", *headers, end_stream=True)
            http2.flush()
            http2.receive()


def send_endless_bodies(server: Server, stop: threading.Event) -> None:
    """Send a body without end, as fast as the server reads it, with each protocol."""
    with connect(server) as http1, FrameConnection(server.url) as http2:
        http1.sendall(b"POST /helloText HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        stream = http2.open_stream("POST", "/helloText")
        http2.flush()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not stop.is_set():
            http1.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            while http2.h2.local_flow_control_window(stream) < 0x4000:
                http2.receive()
            http2.h2.send_data(stream, b"x" * 0x4000)
            http2.flush()


ATTACKS = [
    send_garbage,
    send_half_requests,
    reset_streams,
    hold_idle_connections,
    send_large_headers,
    send_endless_bodies,
]


@pytest.fixture(autouse=True)
def _many_open_files() -> Iterator[None]:
    """Let this process and the server hold the connections of an attack."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_other_callers_during_an_attack(processes: Processes, attack: Attack) -> None:
    server = processes.start_server(HELLO_DELAY="0.01")
    process = psutil.Process(server.process.pid)
    stop = threading.Event()
    with ThreadPoolExecutor() as pool, http2_client(server.url) as client:
        for _ in range(100):
            client.post("helloJson", json=PERSON)
        memory_before = process.memory_info().rss
        memory_peak = memory_before
        attacking = pool.submit(attack, server, stop)
        try:
            while not attacking.done():
                assert client.post("helloJson", json=PERSON).status_code == 200
                memory_peak = max(memory_peak, process.memory_info().rss)
                time.sleep(0.01)
        finally:
            stop.set()
        attacking.result()
        assert client.post("helloJson", json=PERSON).status_code == 200
    assert memory_peak - memory_before < MEMORY_GROWTH
