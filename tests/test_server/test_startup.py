"""How server.py starts: its environment variables, its port, and messages about both."""

import socket

import httpx
import psutil
import pytest
from support.processes import Process, Processes, accepts_connections, free_port

from server import ConfigurationError, app_port, hello_delay


def error_line(process: Process) -> str:
    """Return the only line on standard error of a server that could not start."""
    assert process.wait() != 0
    lines = process.stderr_lines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "-1", "80.5", "1e4", "8080 9090"])
def test_invalid_port(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("KAR_APP_PORT", port)
    with pytest.raises(ConfigurationError, match=f"KAR_APP_PORT is '{port}'.*kar run"):
        app_port()


def test_invalid_port_is_reported_in_one_line(processes: Processes) -> None:
    line = error_line(processes.start("python", "server.py", KAR_APP_PORT="x"))
    assert "KAR_APP_PORT is 'x'" in line
    assert "kar run" in line


def test_missing_port(processes: Processes) -> None:
    assert "KAR_APP_PORT" in error_line(processes.start("python", "server.py"))


@pytest.mark.parametrize("delay", ["", "x", "-1", "nan", "inf", "1e999"])
def test_invalid_delay(monkeypatch: pytest.MonkeyPatch, delay: str) -> None:
    monkeypatch.setenv("HELLO_DELAY", delay)
    with pytest.raises(ConfigurationError, match=f"HELLO_DELAY is '{delay}'"):
        hello_delay()


def test_invalid_delay_is_reported_in_one_line(processes: Processes) -> None:
    port = str(free_port())
    server = processes.start("python", "server.py", KAR_APP_PORT=port, HELLO_DELAY="x")
    assert "HELLO_DELAY is 'x'" in error_line(server)


def test_port_in_use(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        line = error_line(processes.start("python", "server.py", KAR_APP_PORT=port))
    assert f"127.0.0.1:{port}" in line
    assert "-app_port" in line


def test_invalid_host(processes: Processes) -> None:
    port = str(free_port())
    server = processes.start("python", "server.py", KAR_APP_PORT=port, KAR_APP_HOST="no host")
    assert "KAR_APP_HOST" in error_line(server)


def test_importing_has_no_side_effects(processes: Processes) -> None:
    process = processes.start("python", "-c", "from server import app", HELLO_DELAY="x")
    assert process.wait() == 0
    assert process.stdout_lines() == []
    assert process.stderr_lines() == []


def test_default_host_is_loopback(processes: Processes) -> None:
    server = processes.start_server()
    connections = psutil.Process(server.process.pid).net_connections()
    assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {"127.0.0.1"}


def test_host_from_the_environment(processes: Processes) -> None:
    server = processes.start_server(KAR_APP_HOST="0.0.0.0")
    connections = psutil.Process(server.process.pid).net_connections()
    assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {"0.0.0.0"}
    assert accepts_connections(server.port)


def test_documentation_page(processes: Processes) -> None:
    server = processes.start_server()
    assert "/openapi.json" in httpx.get(f"{server.url}/docs", trust_env=False).text
