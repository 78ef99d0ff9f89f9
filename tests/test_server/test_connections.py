"""What run() of server.py does for connections that carry many calls, and for odd requests."""

import time

import pytest
from support.http2 import FrameConnection, http2_client, send_next_to_greetings
from support.kar import Kar
from support.processes import Processes, Server, free_port

from server import MAX_BODY_SIZE

IDLE_SECONDS = 6  # Hypercorn's default closes a connection after 5


@pytest.fixture(scope="module")
def server(module_processes: Processes) -> Server:
    """A server.py without kar."""
    return module_processes.start_server(HELLO_DELAY="0.5")


@pytest.mark.slow
def test_3000_calls_over_one_connection(processes: Processes) -> None:
    """Hypercorn's defaults would close it after 1,000 requests, and after some idle seconds."""
    server = processes.start_server(HELLO_DELAY="0")
    with FrameConnection(server.url) as connection:

        def greet(*surnames: int) -> None:
            streams = {
                connection.open_stream("POST", "/helloText", b"%d" % surname): surname
                for surname in surnames
            }
            connection.flush()
            connection.wait_for(*streams)
            for stream, surname in streams.items():
                assert connection.bodies[stream] == b'"Hello %d"' % surname

        for first in range(0, 3000, 50):
            greet(*range(first, first + 50))
        time.sleep(IDLE_SECONDS)
        greet(3000)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/nowhere", b"x", 404),
        ("PUT", "/helloText", b"x", 405),
        ("POST", "/helloText", b"x" * (5 * MAX_BODY_SIZE), 413),
        ("POST", "/helloJson", b"{}", 422),
    ],
    ids=["404", "405", "413", "422"],
)
def test_refused_request_next_to_50_greetings(
    server: Server, method: str, path: str, body: bytes, status: int
) -> None:
    """Without ReadRequestFirst the connection would be closed with all its greetings."""
    responses = send_next_to_greetings(server.url, "/helloText", method, path, body)
    assert responses == (status, [200] * 50)


def test_unfinished_requests_next_to_50_greetings(processes: Processes) -> None:
    server = processes.start_server(HELLO_DELAY="0.5")
    with FrameConnection(server.url) as connection:
        greetings = [connection.open_stream("POST", "/helloText", b"John") for _ in range(50)]
        for stream in [connection.open_stream("POST", "/helloText") for _ in range(40)]:
            connection.h2.reset_stream(stream)
        connection.open_stream("POST", "/helloText")
        connection.flush()
        connection.wait_for(*greetings)
        assert [connection.statuses[stream] for stream in greetings] == [200] * 50
    with http2_client(server.url) as client:  # after the other client has disconnected
        assert client.get("health").status_code == 200
    (line,) = server.process.stderr_lines()
    assert "Running on" in line


@pytest.mark.parametrize("order", ["at once", "after the server has read it"])
def test_1100_requests_that_are_given_up(processes: Processes, order: str) -> None:
    """Hypercorn ends a connection with 1,000 streams on which nothing was sent."""
    server = processes.start_server(HELLO_DELAY="0")
    with FrameConnection(server.url) as connection:
        for _ in range(22):
            streams = [connection.open_stream("POST", "/helloText") for _ in range(50)]
            for stream in streams:
                connection.h2.send_data(stream, b"half")
            if order != "at once":
                connection.ping()
            for stream in streams:
                connection.h2.reset_stream(stream)
            connection.ping()
        greeting = connection.open_stream("POST", "/helloText", b"John")
        connection.flush()
        connection.wait_for(greeting)
        assert connection.statuses == {greeting: 200}
    assert server.process.stdout_lines() == ["HTTP version: 2"]  # no half-sent request was executed


def test_unread_body_does_not_stall_the_connection(processes: Processes) -> None:
    """Hypercorn stops reading a connection while ten messages of one request are unread."""
    port = free_port()
    service = processes.start("python", "tests/support/own_service.py", KAR_APP_PORT=str(port))
    service.wait_for_line("Running on")
    with FrameConnection(f"http://127.0.0.1:{port}") as connection:
        slow = connection.open_stream("POST", "/unread")
        connection.send_body(slow, b"x" * 300_000)
        service.wait_for_line("unread")
        health = connection.open_stream("GET", "/health", b"")
        connection.flush()
        connection.wait_for(health)
        assert slow not in connection.statuses
        connection.wait_for(slow)
        assert connection.bodies[slow] == b"300000"


def test_service_of_ones_own(kar: Kar) -> None:
    command = ("-h2c", "python", "tests/support/own_service.py")
    replica = kar.start_replica("own", *command)
    sidecar = kar.start_sidecar()
    with http2_client(sidecar.service_url("own")) as client:
        response = client.post("/items/7", headers={"x-user": "John"})
        assert response.json() == {"number": 7, "user": "John"}
        assert client.get("/stream").text == "one two three"
    replica.process.wait_for_line("[STDOUT] added 7")
