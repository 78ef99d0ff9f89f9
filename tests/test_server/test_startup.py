"""How server.py starts: its environment variables, its port, what it prints, and its errors."""

import socket

import httpx
import psutil
import pytest
from support.http2 import http2_client
from support.processes import Processes, accepts_connections

PERSON = {"name": "John", "surname": "Doe"}


def test_missing_port(processes: Processes) -> None:
    line = processes.start("python", "server.py").error_line()
    assert line == "KAR_APP_PORT is not set: start this program with kar run -h2c -service NAME"


def test_invalid_delay(processes: Processes) -> None:
    line = processes.start("python", "server.py", KAR_APP_PORT="1", HELLO_DELAY="x").error_line()
    assert line == "HELLO_DELAY is not a number of seconds, such as 0.1"


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_port_in_use(processes: Processes, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        environment = {"KAR_APP_PORT": port, "KAR_APP_HOST": host}
        line = processes.start("python", "server.py", **environment).error_line()
    assert line.startswith("Address already in use")
    assert port in line
    assert line.endswith(": check KAR_APP_HOST and kar run -app_port")


def test_importing_starts_nothing(processes: Processes) -> None:
    process = processes.start("python", "-c", "from server import app, run")
    assert process.wait() == 0
    assert process.stdout_lines() == []
    assert process.stderr_lines() == []


@pytest.mark.parametrize(("host", "address"), [("", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")])
def test_listens_on_the_host(processes: Processes, host: str, address: str) -> None:
    server = processes.start_server(KAR_APP_HOST=host)
    connections = psutil.Process(server.process.pid).net_connections()
    assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {address}
    assert accepts_connections(server.port)


def test_each_greeting_prints_its_http_version(processes: Processes) -> None:
    server = processes.start_server(HELLO_DELAY="0")
    with http2_client(server.url) as client:
        assert client.post("helloJson", json=PERSON).http_version == "HTTP/2"
        client.get("health")
    response = httpx.post(f"{server.url}/helloText", content="John Doe", trust_env=False)
    assert response.http_version == "HTTP/1.1"
    assert server.process.stdout_lines() == ["HTTP version: 2", "HTTP version: 1.1"]
    (line,) = server.process.stderr_lines()
    assert "Running on" in line
