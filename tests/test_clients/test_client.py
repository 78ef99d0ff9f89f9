"""client.py where something fails: one line that says what and why, and its exit status."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest
from support.processes import TIMEOUT, Processes, free_port

import client

Handler = Callable[[httpx.Request], httpx.Response]


def test_missing_sidecar_port(processes: Processes) -> None:
    line = processes.start("python", "client.py").error_line()
    assert line == "client.py: KAR_RUNTIME_PORT is not set: start this program with kar run"


@pytest.mark.parametrize("port", ["tcp://10.0.0.1:80", "abc", "70000"])
def test_invalid_sidecar_port(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("KAR_RUNTIME_PORT", port)
    with pytest.raises(ValueError, match=f"KAR_RUNTIME_PORT={port} is not a valid port"):
        client.sidecar_client("async-server")


def test_no_sidecar(processes: Processes) -> None:
    line = processes.start("python", "client.py", KAR_RUNTIME_PORT=str(free_port())).error_line()
    assert line.startswith("client.py: the connection to the sidecar failed (ConnectError(")
    assert line.endswith("is kar still running?")


def respond(status: int, text: str) -> Handler:
    return lambda request: httpx.Response(status, text=text)


def time_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("", request=request)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (respond(503, "Out of\norder"), r"/helloText: status 503, 'Out of\norder'"),
        (respond(422, "x" * 70_000), "/helloText: status 422, '" + "x" * 500 + "'"),
        (respond(302, ""), "/helloText: status 302, ''"),
        (respond(200, "no JSON"), "the response has no message: 'no JSON'"),
        (respond(200, '{"no": 1}'), "the response has no message: '{\"no\": 1}'"),
        (respond(200, "[]"), "the response has no message: '[]'"),
        (respond(200, "[" * 100_000), "the response has no message: '" + "[" * 500 + "'"),
        (
            time_out,
            "/helloText: no response in time: "
            "is the service running in the same application (-app)?",
        ),
    ],
)
def test_unusable_response(monkeypatch: pytest.MonkeyPatch, handler: Handler, message: str) -> None:
    transport = httpx.MockTransport(handler)
    monkeypatch.setattr(
        client,
        "sidecar_client",
        lambda service: httpx.AsyncClient(transport=transport, base_url="http://sidecar"),
    )
    with pytest.raises((httpx.HTTPError, ValueError)) as error:
        asyncio.run(client.main())
    assert client.describe(error.value) == message


@pytest.fixture
def sidecar() -> Iterator[socket.socket]:
    """A socket that accepts calls as a sidecar does, and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        yield listener


def test_sidecar_killed_during_a_call(processes: Processes, sidecar: socket.socket) -> None:
    port = str(sidecar.getsockname()[1])
    process = processes.start("python", "client.py", KAR_RUNTIME_PORT=port)
    connection, _ = sidecar.accept()
    connection.recv(65536)
    connection.close()
    assert "the connection to the sidecar failed" in process.error_line()


@pytest.mark.parametrize("script", ["client.py", "timed-client.py"])
def test_interrupt_is_silent(processes: Processes, sidecar: socket.socket, script: str) -> None:
    port = str(sidecar.getsockname()[1])
    process = processes.start("python", script, KAR_RUNTIME_PORT=port)
    with sidecar.accept()[0]:
        process.send_signal(signal.SIGINT)
        assert process.wait() == -signal.SIGINT
    assert process.stdout_lines() == []
    assert process.stderr_lines() == []
