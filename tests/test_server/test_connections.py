"""What server.py does for the connections that carry many calls, and for refused requests."""

import asyncio
import socket
import time

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from support.http2 import FrameConnection, async_http2_client, send_next_to_greetings
from support.processes import Processes

from server import ReadRequestBeforeResponse, hypercorn_config


@pytest.mark.slow
def test_8000_calls_over_one_connection(processes: Processes) -> None:
    """Hypercorn's default would end the connection after 1,000 requests."""
    server = processes.start_server(HELLO_DELAY="0")
    connections = set()
    surnames = iter(range(8000))

    async def greet(client: httpx.AsyncClient) -> None:
        for surname in surnames:
            person = {"name": "John", "surname": str(surname)}
            response = await client.post("helloJson", json=person)
            assert response.json() == {"message": f"Hello John {surname}"}
            stream = response.extensions["network_stream"]
            connections.add(stream.get_extra_info("client_addr"))

    async def greet_with_50_in_flight() -> None:
        async with async_http2_client(server.url) as client:
            await asyncio.gather(*[greet(client) for _ in range(50)])

    asyncio.run(greet_with_50_in_flight())
    assert len(connections) == 1


@pytest.mark.slow
def test_idle_connection_stays_open(processes: Processes) -> None:
    """Hypercorn's default would end the connection after 5 seconds."""
    server = processes.start_server(HELLO_DELAY="0")
    with FrameConnection(server.url) as connection:
        for pause in (0, 6):
            time.sleep(pause)
            stream = connection.open_stream("GET", "/health", end_stream=True)
            connection.flush()
            connection.wait_for(stream)
            assert connection.statuses[stream] == 200


REFUSED = {
    "404": ("POST", "/nowhere", b"x", 404),
    "405": ("PUT", "/helloText", b"x", 405),
    "413": ("POST", "/helloText", b"x" * 65_537, 413),
    "413 far over the limit": ("POST", "/helloText", b"x" * 5_000_000, 413),
    "422": ("POST", "/helloJson", b"{}", 422),
    "422 not UTF-8": ("POST", "/helloText", b"\xff" * 60_000, 422),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_refused_request_next_to_50_greetings(processes: Processes, case: str) -> None:
    """Without ReadRequestBeforeResponse the connection would end with all its greetings."""
    method, path, body, expected_status = REFUSED[case]
    server = processes.start_server(HELLO_DELAY="1")
    status, greetings = send_next_to_greetings(server.url, "/helloText", method, path, body)
    assert status == expected_status
    assert greetings == [200] * 50


def test_application_that_receives_while_it_sends() -> None:
    """Like a StreamingResponse, which waits for a disconnection, to a request with a long body."""
    messages = iter([b"x", b"y", b"z"])

    async def receive() -> Message:
        await asyncio.sleep(0)
        body = next(messages, None)
        if body is None:
            await asyncio.Event().wait()  # the client stays connected
        return {"type": "http.request", "body": body, "more_body": body != b"z"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_until_disconnected() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        listener = asyncio.create_task(receive_until_disconnected())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        listener.cancel()

    async def respond() -> None:
        async with asyncio.timeout(10):
            await ReadRequestBeforeResponse(application)({"type": "http"}, receive, send)

    asyncio.run(respond())
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert next(messages, None) is None


def test_reset_request_next_to_50_greetings(processes: Processes) -> None:
    server = processes.start_server(HELLO_DELAY="1")
    with FrameConnection(server.url) as connection:
        greetings = [connection.open_stream("POST", "/helloText", body=b"John") for _ in range(50)]
        for stream in [connection.open_stream("POST", "/helloText") for _ in range(40)]:
            connection.h2.reset_stream(stream)
        connection.flush()
        connection.wait_for(*greetings)
        assert [connection.statuses[stream] for stream in greetings] == [200] * 50


def test_closed_connections_stay_below_the_file_limit() -> None:
    """Hypercorn keeps a connection that its client has closed until keep_alive_timeout."""
    seconds_between_health_checks = 10
    config = hypercorn_config(socket.socket())
    assert config.keep_alive_timeout / seconds_between_health_checks < 1024 / 2
