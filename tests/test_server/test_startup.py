"""How server.py starts: its environment variables, its port, what it prints, and its errors."""

import socket

import httpx
import psutil
import pytest
from support.http2 import http2_client
from support.processes import Processes, accepts_connections, free_port

import server

PERSON = {"name": "John", "surname": "Doe"}


def test_missing_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAR_APP_PORT", raising=False)
    message = "KAR_APP_PORT is not set: start this with kar run -h2c -app APP -service NAME"
    with pytest.raises(SystemExit, match=message):
        server.run(server.app)


def test_invalid_delay(processes: Processes) -> None:
    line = processes.start("python", "server.py", KAR_APP_PORT="1", HELLO_DELAY="x").error_line()
    assert line == "HELLO_DELAY is not a number of seconds, such as 0.1"


def test_port_in_use(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        line = processes.start("python", "server.py", KAR_APP_PORT=port).error_line()
    assert line.startswith(f"cannot listen on KAR_APP_HOST=127.0.0.1 KAR_APP_PORT={port}: ")
    assert "Address already in use" in line


# Kubernetes sets KAR_APP_PORT to the first one for a service that is called kar-app.
@pytest.mark.parametrize("port", ["tcp://10.0.0.1:80", "abc", "70000"])
def test_invalid_port(processes: Processes, port: str) -> None:
    line = processes.start("python", "server.py", KAR_APP_PORT=port).error_line()
    assert f"KAR_APP_PORT={port}: " in line


@pytest.mark.parametrize("port", ["", "tcp://10.0.0.1:80", "70000"])
def test_no_sidecar(processes: Processes, port: str) -> None:
    port = port or str(free_port())
    environment = {"KAR_APP_PORT": str(free_port()), "KAR_RUNTIME_PORT": port}
    server = processes.start("python", "server.py", **environment)
    assert server.wait() == 1
    assert server.stderr_lines()[-1].startswith(f"no sidecar at KAR_RUNTIME_PORT={port}: ")
    assert len(server.stderr_lines()) <= 2  # the other one says where it listens


@pytest.mark.parametrize(("host", "address"), [("", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")])
def test_listens_on_the_host(processes: Processes, host: str, address: str) -> None:
    started = processes.start_server(KAR_APP_HOST=host)
    connections = psutil.Process(started.process.pid).net_connections()
    assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {address}
    assert accepts_connections(started.port)


def test_each_greeting_prints_its_http_version(processes: Processes) -> None:
    started = processes.start_server(HELLO_DELAY="0")
    with http2_client(started.url) as client:
        assert client.post("helloJson", json=PERSON).http_version == "HTTP/2"
        client.get("health")
    response = httpx.post(f"{started.url}/helloText", content="John Doe", trust_env=False)
    assert response.http_version == "HTTP/1.1"
    assert started.process.stdout_lines() == ["HTTP version: 2", "HTTP version: 1.1"]
    (line,) = started.process.stderr_lines()
    assert "Running on" in line
