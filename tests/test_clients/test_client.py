"""client.py where something fails: one line that says what and why, and its exit status."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.kar import Kar
from support.processes import Process, Processes, free_port, wait_until

from client import ConfigurationError, sidecar_port

StartFakeSidecar = Callable[..., Any]


def run_client(processes: Processes, port: int) -> Process:
    return processes.start("python", "client.py", KAR_RUNTIME_PORT=str(port))


def error_line(process: Process, status: int = 1) -> str:
    """Return the only line on standard error of a client that exits with the status."""
    assert process.wait() == status
    lines = process.stderr_lines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("port", ["", "x", "0", "65536"])
def test_invalid_sidecar_port(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("KAR_RUNTIME_PORT", port)
    with pytest.raises(ConfigurationError, match=f"KAR_RUNTIME_PORT is '{port}'.*kar run"):
        sidecar_port()


def test_missing_sidecar_port(processes: Processes) -> None:
    line = error_line(processes.start("python", "client.py"))
    assert line.startswith("client.py: KAR_RUNTIME_PORT is ''")
    assert "kar run -h2c -app hello-async python client.py" in line


def test_no_sidecar(processes: Processes) -> None:
    port = free_port()
    line = error_line(run_client(processes, port))
    assert line.startswith("client.py: helloText: the connection to the sidecar at ")
    assert f":{port}/" in line
    assert line.endswith("Is kar still running?")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--status", "503", "--body", "Out of order"], "helloText: status 503, Out of order. "),
        (["--status", "404", "--body", '{"detail": "Not Found"}'], ": status 404, Not Found. "),
        (["--status", "302"], "helloText: status 302, with an empty body. "),
        (["--status", "422", "--body", "[1]"], "helloText: status 422, [1]. "),
        (["--exit"], "helloText: the connection to the sidecar at "),
        (["--body", "no JSON"], "helloJson: the response has no message: 'no JSON'. "),
        (["--body", '{"no": 1}'], "helloJson: the response has no message: "),
        (["--body", "[]"], "helloJson: the response has no message: '[]'. "),
    ],
)
def test_unusable_response(
    processes: Processes,
    start_fake_sidecar: StartFakeSidecar,
    options: list[str],
    reason: str,
) -> None:
    sidecar = start_fake_sidecar(*options)
    assert reason in error_line(run_client(processes, sidecar.port))


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 99])
def test_peer_without_http2(
    processes: Processes, start_raw_peer: Callable[[bytes], int], data: bytes
) -> None:
    line = error_line(run_client(processes, start_raw_peer(data)))
    assert line.startswith("client.py: helloText: the connection to the sidecar at ")


def test_proxy_in_the_environment(
    processes: Processes, start_fake_sidecar: StartFakeSidecar
) -> None:
    sidecar = start_fake_sidecar()
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    port = str(sidecar.port)
    client = processes.start("python", "client.py", KAR_RUNTIME_PORT=port, **proxies)
    assert client.wait() == 0


def test_interrupt(processes: Processes, start_fake_sidecar: StartFakeSidecar) -> None:
    sidecar = start_fake_sidecar("--after", "1", "--delay", "1000")
    client = run_client(processes, sidecar.port)
    client.wait_for_line("Hello John Doe")
    client.send_signal(signal.SIGINT)
    assert client.wait() == 130
    assert client.stderr_lines() == []


@pytest.mark.slow
def test_sidecar_killed_during_a_call(kar: Kar) -> None:
    server = kar.start_server(HELLO_DELAY="50")
    sidecar = kar.start_sidecar()
    client = run_client(kar.processes, sidecar.port)
    wait_until(lambda: server.greetings() == 1, "the call")
    sidecar.process.kill()
    assert "helloText: the connection to the sidecar at " in error_line(client)
